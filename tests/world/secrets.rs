//! What a host keeps secret is nowhere but on that host, however its logs spell it.

use std::{fmt::Write as _, fs, path::Path};

use regex::bytes::Regex;

use super::{ctl, state, world};

const HOST: &str = "vps1";

/// What a search by patterns stumbles over.
const PATTERN: &str = r"a+++(b|c)*[x]$^\\d?";

/// In a URL it stands percent-encoded, and programs say it decoded.
const IN_URL: &str = "p%40ssw0rd%2Fplanted";
const OF_URL: &str = "p@ssw0rd/planted";

const LONG: &str = "Zq7-planted-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/// Where a long line is cut: by the agent when it is shown, and by the engine when it is written.
const CUTS: [usize; 2] = [8 * 1024, 16 * 1024];

fn on_host(script: &str, arguments: &[&str]) {
    let _ = world(&[&["exec", HOST, "--", "sh", "-ec", script, "sh"], arguments].concat());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let three = [0, 1, 2].map(|at| u32::from(chunk.get(at).copied().unwrap_or(0)));
        let bits = three[0] << 16 | three[1] << 8 | three[2];
        for at in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    text.extend(std::iter::repeat_n('=', (3 - bytes.len() % 3) % 3));
    text
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            true => text.push(char::from(*byte)),
            false => _ = write!(text, "%{byte:02X}"),
        }
        text
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// How a value may be spelt in a log.
fn spellings(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let json = serde_json::to_string(value).unwrap();
    let json = json[1..json.len() - 1].to_owned();
    vec![value.to_owned(), json, base64(bytes), percent(bytes), hex(bytes), hex(bytes).to_uppercase()]
}

/// What is looked for. Of a spelling its middle: at its ends a letter of an encoding may be left, which tells nothing.
fn pattern(needles: &[String]) -> Regex {
    let core = |needle: &String| {
        regex::escape(match needle.len() {
            17.. => &needle[3..needle.len() - 3],
            _ => needle,
        })
    };
    Regex::new(&needles.iter().map(core).collect::<Vec<_>>().join("|")).unwrap()
}

/// Insists that a text holds nothing that is looked for.
fn assert_clean(of: &str, text: &[u8], secret: &Regex) {
    let found = secret.find(text);
    let around = found.map(|at| &text[at.start().saturating_sub(80)..(at.end() + 40).min(text.len())]);
    assert!(
        found.is_none(),
        "{of} holds a secret: …{}…",
        String::from_utf8_lossy(around.unwrap_or_default())
    );
}

/// Every file under a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}

/// Says a value in a container's log and in nginx's, in every spelling, in the middle of what else is said there.
fn say(value: &str) {
    for spelling in spellings(value) {
        let line = format!("planted error: token={spelling} was refused");
        on_host(
            r#"docker exec sylion-backend sh -c 'printf "%s\n" "$1" >/proc/1/fd/1' sh "$1"
               printf '2026/11/28 10:00:00 [error] 1#1: *1 %s, client: 127.0.0.1\n' "$1" >>/var/log/nginx/error.log"#,
            &[&line],
        );
    }
    // A long line is cut within the value; a program may write one in two goes.
    let (head, tail) = value.split_at(value.len() / 2);
    for cut in CUTS {
        on_host(
            r#"docker exec sylion-backend sh -c '
                   { head -c "$1" /dev/zero | tr "\0" x; printf "%s\n" "$2"; } >/tmp/planted
                   cat /tmp/planted >/proc/1/fd/1
                   rm /tmp/planted
                   printf "planted in two: %s" "$3" >/proc/1/fd/1
                   sleep 0.3
                   printf "%s\n" "$4" >/proc/1/fd/1' sh "$1" "$2" "$3" "$4"
               { head -c "$1" /dev/zero | tr "\0" x; printf '%s\n' "$2"; } >>/var/log/nginx/error.log"#,
            &[&(cut - head.len()).to_string(), value, head, tail],
        );
    }
}

/// Half of each value where a line is cut: it says as much as a short secret does.
fn halves(values: &[&str]) -> Vec<String> {
    let halves = values.iter().map(|value| value.split_at(value.len() / 2).0);
    // Of the shorter ones a half stands in other texts by chance.
    halves.filter(|half| half.len() >= 8).map(|half| format!("xxxx{half}")).collect()
}

#[test]
fn planted_secrets_are_nowhere() {
    let _ = world(&["reset", HOST]);
    let lines = format!(
        "\nPLANTED_SECRET='{PATTERN}'\nPLANTED_URL=postgres://planted:{IN_URL}@db.invalid/db\nPLANTED_API_KEY={LONG}\n"
    );
    on_host(r#"printf '%s' "$1" >>/srv/sylion/.env.prod"#, &[&lines]);
    let values = [PATTERN, IN_URL, OF_URL, LONG];
    values.iter().for_each(|value| say(value));

    let mut needles: Vec<String> = values.iter().flat_map(|value| spellings(value)).collect();
    needles.extend(halves(&values));
    let secret = pattern(&needles);
    let asked: [&[&str]; 12] = [
        &["logs", "-H", HOST],
        &["logs", "-H", HOST, "--service", "backend"],
        &["logs", "-H", HOST, "--file", "/var/log/nginx/error.log"],
        &["probe", "container-logs", "-H", HOST, "--service", "backend"],
        &["probe", "file-tail", "-H", HOST, "--path", "/var/log/nginx/error.log"],
        &["probe", "env-check", "-H", HOST],
        &["changes", "-H", HOST],
        &["diagnose", "backend-502", "-H", HOST],
        &["diagnose", "--all"],
        &["status"],
        &["runs", "list"],
        &["incidents", "list", "--closed"],
    ];
    let mut said = 0;
    let mut ask = |words: &[&str]| {
        for form in [&[][..], &["-o", "json"]] {
            let words = [words, form].concat();
            let answer = ctl(&words);
            said += answer.stdout.matches("planted").count();
            assert_clean(&format!("{words:?} on stdout"), answer.stdout.as_bytes(), &secret);
            assert_clean(&format!("{words:?} on stderr"), answer.stderr.as_bytes(), &secret);
        }
    };
    asked.into_iter().for_each(&mut ask);
    let runs = ctl(&["runs", "list", "-o", "json"]).exits(0).json();
    for run in runs["runs"].as_array().unwrap().iter().take(30) {
        let run = run["run"].as_str().unwrap();
        ask(&["runs", "show", run]);
        ask(&["runs", "show", run, "--report"]);
    }
    assert!(said > 0, "the logs were read, and what surrounds the values is shown");

    // What the controller keeps, its log, and what the host's agent keeps and says.
    let mut kept = Vec::new();
    files(&state(), &mut kept);
    assert!(kept.iter().any(|path| path.ends_with("controller.log")), "{kept:?}");
    assert!(kept.iter().any(|path| path.ends_with("controller.db")), "{kept:?}");
    for path in kept {
        assert_clean(&path.display().to_string(), &fs::read(&path).unwrap_or_default(), &secret);
    }
    let agent = "cat /var/lib/vigie/* /var/lib/vigie/*/* 2>/dev/null || true; journalctl -u vigie-agent --no-pager -o cat";
    let agent = world(&["exec", HOST, "--", "sh", "-c", agent]);
    assert!(!agent.stdout.is_empty(), "the agent keeps something");
    assert_clean("the agent's state and journal", agent.stdout.as_bytes(), &secret);

    // The container goes with its log: an agent that starts anew knows these values no more.
    on_host("docker rm -f sylion-backend; : >/var/log/nginx/error.log", &[]);
    let _ = world(&["reset", HOST]);
    on_host("if grep -q PLANTED_ /srv/sylion/.env.prod; then exit 1; fi", &[]);
}
