use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use proptest::prelude::*;

use super::*;

fn text(redaction: &Redaction, files: &[PathBuf], text: &str) -> String {
    redaction.patterns(files, &[]).map_or_else(|error| withheld(&error), |patterns| patterns.text(text))
}

fn patterns(env: &str) -> Arc<Patterns> {
    let forms = secrets::of(env.as_bytes());
    Arc::new(Patterns::new(forms.iter().flat_map(|secret| forms::of(secret))).unwrap())
}

#[test]
fn values_of_secret_variables_go_and_others_stay() {
    let env = "NODE_ENV=production\nPOSTGRES_PASSWORD=s3cr3t.*+\nREDIS_KEY_PREFIX=sylion\n\
               export API_TOKEN=\"tok en-1234\"\n# OLD_PASSWORD=hunter22\nSHORT_KEY=abc\n\
               DATABASE_URL=postgres://sylion_user:p%40ss-word@postgres:5432/sylion_prod\n\
               JWT_SECRET='quo\"ted' # comment\nAPI_KEY=with-comment # not part of it\n";
    let patterns = patterns(env);
    for secret in [
        "s3cr3t.*+",
        "tok en-1234",
        "hunter22",
        "p%40ss-word",
        "p@ss-word",
        "quo\"ted",
        "with-comment",
        "quo\\\"ted",
    ] {
        assert_eq!(patterns.text(&format!("a {secret} b")), "a [redacted] b", "{secret}");
    }
    for plain in ["production", "sylion", "abc", "sylion_user", "postgres:5432/sylion_prod", "not part of it"]
    {
        assert_eq!(patterns.text(plain), plain);
    }
}

#[test]
fn a_value_over_several_lines_goes_line_by_line() {
    let patterns = patterns("PRIVATE_KEY=\"-----BEGIN\nMIIEvQIBADAN\nBgkqhkiG9w0B\"\nHOST=example\n");
    assert_eq!(patterns.text("x MIIEvQIBADAN y"), "x [redacted] y");
    assert_eq!(patterns.text("BgkqhkiG9w0B"), "[redacted]");
    assert_eq!(patterns.text("example"), "example");
}

#[test]
fn more_names_that_look_secret() {
    for name in [
        "DB_PWD",
        "SMTP_AUTH",
        "PRIVATE_PEM",
        "SLACK_WEBHOOK_URL",
        "HASH_SALT",
        "PEPPER",
        "COOKIE",
        "SESSION",
        "SIGNING",
        "CREDENTIALS",
        "SENTRY_DSN",
        "TLS_CERT",
        "#PASSWD",
    ] {
        assert_eq!(patterns(&format!("{name}=abc-def-1\n")).text("abc-def-1"), "[redacted]", "{name}");
    }
    for name in ["PWD", "PATH", "COOKIE_DOMAIN", "AUTH_MODE"] {
        assert_eq!(patterns(&format!("{name}=abc-def-1\n")).text("abc-def-1"), "abc-def-1", "{name}");
    }
}

#[test]
fn a_quote_that_never_closes_hides_no_other_variable() {
    for opening in ["A=\"open", "A_KEY='open", "A=\"open\nB=\"x\""] {
        let patterns = patterns(&format!("{opening}\nDB_PASSWORD=hunter22\nC_TOKEN=\"tok-1234\"\n"));
        assert_eq!(patterns.text("<hunter22 tok-1234>"), "<[redacted] [redacted]>", "{opening}");
    }
}

#[test]
fn secrets_from_elsewhere_are_looked_for_too() {
    let value = of_variable(b"DB_PASSWORD", b"pa$$word-1");
    let patterns = Redaction::default().patterns(&[], &[&value]).unwrap();
    assert_eq!(patterns.text("<pa$word-1>"), "<[redacted]>");
}

#[test]
fn of_two_secrets_that_share_bytes_nothing_stays() {
    let patterns = patterns("A_PASSWORD=abcdefgh\nB_PASSWORD=efghijkl\n");
    assert_eq!(patterns.text("<abcdefghijkl>"), "<[redacted]>");
}

#[test]
fn a_changed_file_is_read_again_and_old_secrets_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env.prod");
    let files = [path.clone()];
    let redaction = Redaction::default();
    assert_eq!(text(&redaction, &files, "first-one"), "first-one");
    fs::write(&path, "DB_PASSWORD=first-one\n").unwrap();
    assert_eq!(text(&redaction, &files, "first-one"), "[redacted]");
    fs::write(&path, "DB_PASSWORD=the-second\n").unwrap();
    assert_eq!(text(&redaction, &files, "first-one the-second"), "[redacted] [redacted]");
    fs::remove_file(&path).unwrap();
    assert_eq!(text(&redaction, &files, "first-one the-second"), "[redacted] [redacted]");
}

#[test]
fn a_text_that_cannot_be_checked_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    // A folder is there and cannot be read as a file.
    let text = text(&Redaction::default(), &[folder.path().to_owned()], "the-secret");
    assert!(text.starts_with("[withheld: ") && !text.contains("the-secret"), "{text}");
}

/// Any printable secret, regular expressions' own characters among them.
fn secret() -> impl Strategy<Value = String> {
    "[!-\\[\\]-~]{6,24}"
        .prop_filter("an env file's own quoting", |s| !s.contains(['"', '\'', '$', '#', '\\', '=']))
}

proptest! {
    #[test]
    fn no_secret_comes_through_in_any_form(
        secret in secret(),
        before in prop::collection::vec(any::<u8>(), 0..4),
        after in prop::collection::vec(any::<u8>(), 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let patterns = patterns(&format!("DB_PASSWORD={secret}\n"));
        let surrounded = [&before[..], secret.as_bytes(), &after[..]].concat();
        for (form, core) in [
            (surrounded.clone(), secret.clone()),
            (HEXLOWER.encode(&surrounded).into_bytes(), HEXLOWER.encode(secret.as_bytes())),
            // The characters in the middle belong to the secret alone, whatever is around it.
            (BASE64.encode(&surrounded).into_bytes(), middle(&BASE64.encode(&surrounded), before.len(), secret.len())),
            (
                BASE64URL_NOPAD.encode(&surrounded).into_bytes(),
                middle(&BASE64URL_NOPAD.encode(&surrounded), before.len(), secret.len()),
            ),
        ] {
            let mut stream = Stream::new(Arc::clone(&patterns));
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(form.len() + 1)).chain([0, form.len()]).collect();
            cuts.sort_unstable();
            let mut clean = Vec::new();
            for piece in cuts.windows(2) {
                clean.extend(stream.push(&form[piece[0]..piece[1]]));
            }
            clean.extend(stream.finish());
            prop_assert!(!clean.windows(core.len()).any(|window| window == core.as_bytes()), "{core}");
            prop_assert!(clean.windows(10).any(|window| window == b"[redacted]"));
        }
    }

    /// However output is cut, the result is that of the whole.
    #[test]
    fn pieces_give_what_the_whole_gives(
        text in "(abcabc|bcabca|ab|c|x){0,20}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let patterns = patterns("A_KEY=abcabc\nB_KEY=bcabca\n");
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
        cuts.sort_unstable();
        let mut stream = Stream::new(Arc::clone(&patterns));
        let mut clean = Vec::new();
        for piece in cuts.windows(2) {
            clean.extend(stream.push(&text.as_bytes()[piece[0]..piece[1]]));
        }
        clean.extend(stream.finish());
        prop_assert_eq!(String::from_utf8(clean).unwrap(), patterns.text(&text));
    }

    #[test]
    fn hostile_files_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        for secret in secrets::of(&text) {
            let _ = forms::of(&secret);
        }
    }
}

fn middle(encoded: &str, before: usize, length: usize) -> String {
    encoded[(before * 8).div_ceil(6)..(before + length) * 8 / 6].to_owned()
}
