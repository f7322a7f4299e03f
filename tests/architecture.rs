//! The architecture's invariants, as far as the sources can show them. ARCHITECTURE.md says why each holds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The Rust files below a folder, with their text up to their tests: tests may do what programs may not.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "no sources in {folder}");
    found
}

fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !["tests", "target"].contains(&name) {
            walk(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
            found.push((path, code));
        }
    }
}

fn assert_absent(folder: &str, pattern: &str, why: &str) {
    let pattern = Regex::new(pattern).unwrap();
    let offenders: Vec<_> = sources(folder)
        .into_iter()
        .flat_map(|(path, text)| {
            let lines: Vec<_> = text
                .lines()
                .enumerate()
                .filter(|(_, line)| !line.trim_start().starts_with("//") && pattern.is_match(line))
                .map(|(number, line)| format!("{}:{}: {}", path.display(), number + 1, line.trim()))
                .collect();
            lines
        })
        .collect();
    assert!(offenders.is_empty(), "{why}\n{}", offenders.join("\n"));
}

#[test]
fn the_agent_listens_on_no_network() {
    assert_absent("agent/src", r"TcpListener|UdpSocket::bind", "an agent dials out, always");
    // What listens is a file for the host's own root, and is no network.
    for (path, text) in sources("agent/src") {
        let is_door = path.ends_with("host/door/mod.rs");
        assert!(is_door || !text.contains("UnixListener"), "{} listens", path.display());
    }
}

#[test]
fn no_program_starts_a_shell() {
    for folder in ["agent/src", "controller/src", "controller/runbook/src", "ctl/src"] {
        assert_absent(
            folder,
            r#""(/bin/)?(ba|da|z)?sh"|"-c""#,
            "an absolute program and its arguments, never a shell",
        );
    }
}

#[test]
fn sql_lives_in_the_store() {
    for (path, text) in sources("controller/src") {
        let in_store = path.components().any(|part| part.as_os_str() == "store");
        assert!(in_store || !text.contains("sqlx::"), "{} speaks SQL outside the store", path.display());
    }
}

#[test]
fn the_words_and_the_rules_do_no_io() {
    for folder in ["proto/src", "controller/runbook/src", "ctl/view/src"] {
        assert_absent(folder, r"std::(fs|net|process)\b|tokio::|reqwest|hyper::", "this crate does no I/O");
    }
}

#[test]
fn the_agents_halves_share_only_messages() {
    assert_absent(
        "agent/src/host",
        r"vigie_transport|tonic::|crate::net\b",
        "the host half speaks to no network",
    );
    assert_absent(
        "agent/src/operations",
        r"vigie_transport|tonic::|crate::net\b",
        "operations know no controller",
    );
    assert_absent(
        "agent/src/local",
        r"vigie_transport|tonic::|net::(link|backoff|output)\b",
        "the local mode needs no network",
    );
    assert_absent(
        "agent/src/net",
        r"crate::(operations|host::(journal|policy|dispatch|stacks|redaction|docker|child))\b",
        "the network half reaches nothing that guards the host",
    );
}

#[test]
fn files_stay_readable() {
    for folder in [
        "proto/src",
        "proto/transport/src",
        "agent/src",
        "controller/src",
        "controller/runbook/src",
        "ctl/src",
        "ctl/view/src",
    ] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 600, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn one_tls_provider_and_stable_releases() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = std::process::Command::new(cargo)
        .args(["tree", "--workspace", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let packages: Vec<_> = tree.lines().filter_map(|line| line.split_once(" v")).collect();
    assert!(packages.len() > 100, "{tree}");
    for (name, version) in packages {
        assert!(
            !["openssl", "openssl-sys", "native-tls", "serde_yaml", "ring"].contains(&name),
            "{name} is banned"
        );
        // bollard's generated stubs carry the Docker API's number, and `-rc` for ever.
        let version = version.split([' ', '+']).next().unwrap_or_default();
        assert!(!version.contains('-') || name == "bollard-stubs", "{name} {version} is a pre-release");
    }
}

/// docs/errors.md has a line for every failure code that a program can give.
#[test]
fn every_failure_code_is_explained() {
    let page = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let code =
        Regex::new(r#"(?:Failure::new|(?:Fault|Self)::failed|(?:Fault|Self)::refused)\(\s*"([a-z0-9_]+)""#)
            .unwrap();
    let answer = Regex::new(r#"Answer::(?:new\(Code::\w+,|invalid\()\s*"([a-z0-9_]+)""#).unwrap();
    for folder in ["agent/src", "controller/src", "controller/runbook/src", "proto/src"] {
        for (path, text) in sources(folder) {
            for found in code.captures_iter(&text).chain(answer.captures_iter(&text)) {
                assert!(page.contains(&format!("`{}`", &found[1])), "{}: `{}`", path.display(), &found[1]);
            }
        }
    }
}
