//! The whole program in this process, without a controller: streams, exit statuses, folders.

// The helpers of a test may fail as loudly as the test itself.
#![allow(clippy::unwrap_used)]

use std::{
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex},
};

use vigie_transport::network::System;
use vigiectl::{Exit, Home, Interrupt, Surroundings, Terminal};

/// What was written, readable while the program still holds its end.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Exit status, stdout and stderr of one call.
async fn call(home: &Path, line: &str, stdin: &'static str) -> (Exit, String, String) {
    let (stdout, stderr) = (Written::default(), Written::default());
    let (_trigger, interrupt) = Interrupt::new();
    let surroundings = Surroundings {
        stdin: Box::new(stdin.as_bytes()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        terminal: Terminal::NONE,
        home: Home::under(home),
        user: "ana".to_owned(),
        interrupt,
        network: Arc::new(System),
        clock: vigiectl::now_ms,
    };
    let exit = vigiectl::run(line.split_whitespace(), surroundings).await;
    (exit, stdout.text(), stderr.text())
}

#[tokio::test]
async fn data_goes_to_stdout_and_talk_to_stderr() {
    let home = tempfile::tempdir().unwrap();
    let (exit, stdout, stderr) = call(home.path(), "vigiectl operations list -o ndjson", "").await;
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    for line in stdout.lines() {
        let operation: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(operation["name"].is_string());
    }
    let (exit, stdout, stderr) = call(home.path(), "vigiectl operations show nonsense", "").await;
    assert_eq!((exit, stdout.as_str()), (Exit::Usage, ""));
    assert!(stderr.contains("error: ") && stderr.contains("hint: "), "{stderr}");
}

#[tokio::test]
async fn wrong_usage_asks_nothing_of_anyone() {
    let home = tempfile::tempdir().unwrap();
    for (line, words) in [
        ("vigiectl frobnicate", "unrecognized subcommand"),
        ("vigiectl status", "not logged in"),
        ("vigiectl status --context nowhere", "no context named `nowhere`"),
        ("vigiectl exec -- uptime", "no hosts selected"),
        ("vigiectl run backend-502", "no hosts selected"),
        ("vigiectl diagnose backend-502 -H vps[3-1]", "runs backwards"),
        ("vigiectl do compose-restart --services backend", "no hosts selected"),
        ("vigiectl hosts add vps1 --allow-exec ./uptime", "absolute path"),
    ] {
        let (exit, stdout, stderr) = call(home.path(), line, "").await;
        assert_eq!((exit, stdout.as_str()), (Exit::Usage, ""), "{line}: {stderr}");
        assert!(stderr.contains(words), "{line}: {stderr}");
    }
}

#[tokio::test]
async fn a_bad_token_is_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let (exit, _, stderr) = call(home.path(), "vigiectl login", "vig1.secret-with-a-slip").await;
    assert_eq!(exit, Exit::Usage);
    assert!(!stderr.contains("secret-with-a-slip"), "{stderr}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_runbook_is_linted_without_a_controller() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bad.yaml");
    std::fs::write(&file, "id: bad\ntitel: a slip\n").unwrap();
    let (exit, stdout, _) =
        call(home.path(), &format!("vigiectl runbooks lint {}", file.display()), "").await;
    assert_eq!(exit, Exit::Failed);
    assert!(stdout.contains("titel") && stdout.contains(":2:1"), "{stdout}");
}

#[tokio::test]
async fn help_is_data() {
    let home = tempfile::tempdir().unwrap();
    let (exit, stdout, stderr) = call(home.path(), "vigiectl probe http-check --help", "").await;
    assert_eq!((exit, stderr.as_str()), (Exit::Ok, ""));
    assert!(stdout.contains("--wait-ms") && stdout.contains("[default: backend]"), "{stdout}");
}
