use std::{fs, os::unix::fs::PermissionsExt as _};

use proptest::prelude::*;
use vigie_proto::v1::{ComposeRestartRequest, ComposeUpRequest, ExecRequest, UnitRestartRequest};

use super::{
    standard::{Exec, Found},
    *,
};

fn policy(text: &str) -> Policy {
    Policy {
        file: "/etc/vigie/policy.toml".into(),
        rules: parse::parse(text)
            .map_err(|error| Unsound { reason: error.to_string(), remedy: String::new() }),
    }
}

fn restart() -> request::Operation {
    request::Operation::ComposeRestart(ComposeRestartRequest::default())
}

fn unit(unit: &str) -> request::Operation {
    request::Operation::UnitRestart(UnitRestartRequest { unit: unit.to_owned() })
}

fn exec(program: &str) -> request::Operation {
    request::Operation::Exec(ExecRequest { program: program.to_owned(), args: Vec::new() })
}

#[test]
fn only_what_is_named_is_allowed() {
    let policy = policy(
        "version = 1\n[[allow]]\noperation = \"compose_restart\"\nstacks = [\"sylion\"]\n\
         [[allow]]\noperation = \"unit_restart\"\nunits = [\"nginx.service\"]\n",
    );
    assert_eq!(policy.permits(&restart(), Some("sylion")), Ok(()));
    assert_eq!(policy.permits(&unit("nginx.service"), None), Ok(()));
    for (operation, stack) in [
        (restart(), Some("staging")),
        (restart(), Some("")),
        (restart(), None),
        (request::Operation::ComposeUp(ComposeUpRequest::default()), Some("sylion")),
        (unit("ssh.service"), None),
        (exec("/bin/ls"), None),
        (request::Operation::HostFacts(Default::default()), Some("sylion")),
    ] {
        assert_eq!(policy.permits(&operation, stack).unwrap_err().code, "policy_denied", "{operation:?}");
    }
    assert_eq!(
        policy.summary().allows,
        ["compose_restart (stacks sylion)", "unit_restart (units nginx.service)"]
    );
}

/// What the hint of a refusal says makes the refused thing allowed.
#[test]
fn the_hint_is_the_remedy() {
    for (operation, stack) in
        [(restart(), Some("sylion")), (unit("a\u{7f}.service"), None), (exec("/bin/ls"), None)]
    {
        let before = "version = 1\n";
        let refusal = policy(before).permits(&operation, stack).unwrap_err();
        let block = &refusal.hint[refusal.hint.find("[[allow]]").unwrap()..];
        assert_eq!(policy(&format!("{before}{block}\n")).permits(&operation, stack), Ok(()), "{block}");
    }
}

#[test]
fn programs_are_compared_without_links_in_their_folders_and_with_their_own_name() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("tool"), "").unwrap();
    std::os::unix::fs::symlink(real.join("tool"), real.join("other")).unwrap();
    std::os::unix::fs::symlink(&real, folder.path().join("link")).unwrap();
    let linked = folder.path().join("link/tool");
    let policy = policy(&format!("version = 1\n[[allow]]\noperation = \"exec\"\nprograms = [{linked:?}]\n"));
    assert_eq!(policy.permits(&exec(real.join("tool").to_str().unwrap()), None), Ok(()));
    assert_eq!(policy.permits(&exec(linked.to_str().unwrap()), None), Ok(()));
    assert!(policy.permits(&exec(real.join("other").to_str().unwrap()), None).is_err());
}

#[test]
fn faults_are_named_with_their_line() {
    for (text, line, words) in [
        ("", 1, "version"),
        ("version = 2\n", 1, "version 2 is unknown"),
        ("version = 1\nalow = []\n", 2, "unknown field"),
        ("version = 1\n[[allow]]\noperation = \"compose_restrat\"\nstacks = [\"a\"]\n", 3, "is no operation"),
        ("version = 1\n[[allow]]\noperation = \"host_facts\"\n", 3, "is no operation that needs an order"),
        ("version = 1\n[[allow]]\noperation = \"compose_restart\"\n", 3, "needs `stacks"),
        ("version = 1\n[[allow]]\noperation = \"compose_restart\"\nstacks = []\n", 3, "needs `stacks"),
        ("version = 1\n[[allow]]\noperation = \"compose_up\"\nany = true\n", 3, "never for any"),
        ("version = 1\n[[allow]]\noperation = \"compose_up\"\nunits = [\"a\"]\n", 3, "says nothing about"),
        ("version = 1\n[[allow]]\noperation = \"exec\"\nprograms = [\"ls\"]\n", 3, "no absolute path"),
        ("version = 1\n[read]\nfolders = [\"/var/../etc\"]\n", 3, "no absolute path"),
        ("version = 1\n[read]\nfolders = [\"/\"]\n", 3, "below /"),
    ] {
        let error = parse::parse(text).map(drop).unwrap_err().to_string();
        assert!(error.starts_with(&format!("line {line}: ")) && error.contains(words), "{text:?}: {error}");
    }
}

#[test]
fn folders_and_urls_are_exact() {
    let policy = policy(
        "version = 1\n[read]\nfolders = [\"/var/log/nginx\"]\nurls = [\"https://api.example.com/health\"]\n",
    );
    assert_eq!(policy.may_tail(Path::new("/var/log/nginx/error.log")), Ok(()));
    for path in ["/var/log/nginx-other/a", "/var/log/nginx/../auth.log", "var/log/nginx/a", "/var/log"] {
        assert_eq!(policy.may_tail(Path::new(path)).unwrap_err().code, "policy_denied", "{path}");
    }
    assert_eq!(policy.may_fetch("https://api.example.com/health"), Ok(()));
    assert!(
        policy
            .may_fetch("https://api.example.com/health/../admin")
            .unwrap_err()
            .hint
            .contains("list `urls` under [read]")
    );
}

#[test]
fn containers_of_no_stack_are_named_one_by_one() {
    let policy = policy("version = 1\n[read]\ncontainers = [\"traefik\"]\n");
    assert_eq!(policy.may_look_into("traefik"), Ok(()));
    let denied = policy.may_look_into("traefik-2").unwrap_err();
    assert_eq!(denied.code, "policy_denied");
    assert!(denied.hint.contains("list `containers` under [read]"), "{denied:?}");
    assert_eq!(policy.reads(), ["container traefik"]);
}

#[test]
fn a_file_is_read_again_when_it_changes_and_not_believed_when_others_can_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let file = PolicyFile::new(path.clone(), rustix::process::geteuid().is_root());
    let reason = || file.current().unsound().map(|unsound| unsound.reason.clone()).unwrap_or_default();
    assert!(reason().contains("there is no policy"));
    assert_eq!(file.current().permits(&restart(), Some("sylion")).unwrap_err().code, "policy_invalid");

    fs::write(&path, "version = 1\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(reason(), "");
    let allowed = "version = 1\n[[allow]]\noperation = \"compose_restart\"\nstacks = [\"sylion\"]\n";
    fs::write(&path, allowed).unwrap();
    assert_eq!(file.current().permits(&restart(), Some("sylion")), Ok(()));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    assert!(reason().contains("can be written by others"), "{}", reason());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(reason(), "");

    fs::write(&path, "version = 1\nallow = 3\n").unwrap();
    assert!(reason().contains("line 2"), "{}", reason());

    fs::rename(&path, folder.path().join("real")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("real"), &path).unwrap();
    assert!(reason().contains("symbolic link"));
}

#[test]
#[allow(clippy::print_stderr, reason = "it says what is left out")]
fn a_policy_of_another_owner_is_not_believed() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root, which may give a file away");
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    fs::write(&path, "version = 1\n").unwrap();
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    let policy = PolicyFile::new(path, true).current();
    assert!(policy.unsound().unwrap().reason.contains("belongs to user 12345"));
}

#[test]
fn the_standard_policy_is_sound_and_pinned() {
    let found = Found { stacks: vec!["sylion".to_owned()], nginx: true, docker: false };
    let policy = policy(&standard::text(&found, &Exec::Programs(vec!["/bin/ls".into()]), &[]));
    assert_eq!(policy.unsound(), None);
    assert_eq!(policy.permits(&restart(), Some("sylion")), Ok(()));
    assert_eq!(policy.permits(&exec("/bin/ls"), None), Ok(()));
    assert_eq!(policy.permits(&exec("/bin/cat"), None).unwrap_err().code, "policy_denied");
    assert_eq!(policy.may_tail(Path::new("/var/log/nginx/error.log")), Ok(()));
    for exec in [Exec::Nothing, Exec::Anything] {
        assert!(parse::parse(&standard::text(&Found::default(), &exec, &[])).is_ok());
    }
}

proptest! {
    /// Whatever a file says, it allows nothing that it does not name.
    #[test]
    fn no_text_allows_by_accident(text in "(version = 1\n)?[\\[\\]a-z_=\" \n]{0,80}") {
        if !text.contains("sylion") {
            prop_assert!(policy(&text).permits(&restart(), Some("sylion")).is_err());
        }
    }

    #[test]
    fn names_survive_the_standard_policy(stacks in prop::collection::vec("\\PC{1,20}", 1..4)) {
        let found = Found { stacks: stacks.clone(), nginx: false, docker: false };
        let policy = policy(&standard::text(&found, &Exec::Nothing, &[]));
        for stack in &stacks {
            prop_assert_eq!(policy.permits(&restart(), Some(stack)), Ok(()));
        }
    }
}
