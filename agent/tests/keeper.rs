//! Programs that outlive the agent, kept by the real `vigie-agent keep`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use vigie_agent::host::child::{
    Child, ChildError, OutputSink,
    keeper::{self, Found, Keeping},
};
use vigie_proto::{id::TaskId, v1::OutputSource};

fn keeping(state: &Path, order: TaskId) -> Keeping {
    Keeping::new(state, order).unwrap().by(PathBuf::from(env!("CARGO_BIN_EXE_vigie-agent")))
}

async fn programs(state: &Path, order: TaskId) -> std::io::Result<Vec<Found>> {
    keeper::programs(state, order, &CancellationToken::new()).await
}

/// Whether a program of an order was asked to stop.
fn is_marked(state: &Path, order: TaskId) -> bool {
    let mark = state.join("children").join(order.to_string()).join("1").join("stop");
    fs::read(mark).is_ok_and(|mark| mark == b"1")
}

fn script(text: &str) -> Child<'static> {
    Child::new("sh").unwrap().args(["-c", text])
}

fn ample() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Collects what is shown while it runs.
#[derive(Default)]
struct Shown(Mutex<String>);

impl OutputSink for Shown {
    fn write(&self, source: OutputSource, data: &[u8]) {
        let mut shown = self.0.lock().unwrap();
        shown.push_str(if source == OutputSource::Stdout { "1:" } else { "2:" });
        shown.push_str(&String::from_utf8_lossy(data));
    }
}

#[tokio::test]
async fn a_kept_program_is_as_any_other() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let keeping = keeping(state.path(), order);
    let shown = Shown::default();
    let child = script("echo out; echo err >&2; pwd; env | sort; exit 3")
        .env("ENV_FILE", ".env.prod")
        .directory("/tmp");
    let exit = child.sink(&shown).run_kept(&keeping, ample()).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.timed_out, exit.stopped), (3, 0, false, false));
    assert_eq!(exit.stderr.lines(), ["err"]);
    let lines = exit.stdout.lines();
    assert_eq!(lines[..2], ["out", "/tmp"]);
    assert!(lines.contains(&"ENV_FILE=.env.prod".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("HOME=") || line.starts_with("CARGO")), "{lines:?}");
    let shown = shown.0.into_inner().unwrap();
    assert!(shown.contains("1:out") && shown.contains("2:err"), "{shown}");
    // It is found again, as often as somebody looks, until it is let go of.
    for _ in 0..2 {
        let found = programs(state.path(), order).await.unwrap();
        assert!(matches!(&found[..], [Found::Ended(exit)] if exit.code == 3), "{found:?}");
    }
    keeper::forget(state.path(), order);
    assert!(programs(state.path(), order).await.unwrap().is_empty());
    assert!(!state.path().join("children").join(order.to_string()).exists());
}

#[tokio::test]
async fn it_goes_on_when_nobody_waits_any_more_and_is_found_again() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let gate = state.path().join("gate");
    let text =
        format!("echo begin; while [ ! -e {g} ]; do sleep 0.02; done; echo end; exit 7", g = gate.display());
    let shown = Arc::new(Shown::default());
    {
        let keeping = keeping(state.path(), order);
        let run = script(&text).sink(&*shown).run_kept(&keeping, ample());
        tokio::pin!(run);
        // As an agent that is killed: whoever waited is gone.
        let begun = async {
            while !shown.0.lock().unwrap().contains("begin") {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { _ = &mut run => panic!("it ended"), () = begun => {} }
    }
    let found = programs(state.path(), order);
    tokio::pin!(found);
    assert!(
        timeout(Duration::from_millis(200), &mut found).await.is_err(),
        "it still runs, and is waited for"
    );
    fs::write(&gate, "").unwrap();
    let ended = found.await.unwrap();
    let [Found::Ended(exit)] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!((exit.code, exit.stdout.lines()), (7, vec!["begin".to_owned(), "end".to_owned()]));
}

#[tokio::test]
async fn its_deadline_and_its_bounds_hold_without_an_agent() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let keeping = keeping(state.path(), order);
    // It ignores SIGTERM and floods both streams.
    let flood = "trap '' TERM; while :; do echo 0123456789abcdef0123456789abcdef; echo and so on >&2; done";
    let exit = script(flood)
        .keep(64 * 1024)
        .run_kept(&keeping, Instant::now() + Duration::from_millis(500))
        .await
        .unwrap();
    assert!(exit.timed_out && !exit.success());
    assert!(exit.stdout.truncated(), "a flood is cut");
    assert!(exit.stdout.text().text.len() < 70 * 1024);
}

#[tokio::test]
async fn one_that_is_asked_to_stop_stops() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let keeping = keeping(state.path(), order);
    let stop = CancellationToken::new();
    let shown = Shown::default();
    let run =
        script("echo begin; sleep 300 & wait").sink(&shown).stop(stop.clone()).run_kept(&keeping, ample());
    tokio::pin!(run);
    let begun = async {
        while !shown.0.lock().unwrap().contains("begin") {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { _ = &mut run => panic!("it ended"), () = begun => {} }
    stop.cancel();
    let exit = timeout(Duration::from_secs(20), run).await.unwrap().unwrap();
    assert!(exit.stopped && !exit.success());
    assert_eq!(exit.stdout.lines(), ["begin"]);
}

#[tokio::test]
async fn one_that_is_asked_to_stop_before_its_keeper_is_there_never_begins() {
    let state = tempfile::tempdir().unwrap();
    let (order, gate, mark) = (TaskId::new(), state.path().join("gate"), state.path().join("mark"));
    // A keeper that comes late.
    let late = state.path().join("late");
    let text = format!(
        "#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.02; done\nexec {} \"$@\"\n",
        gate.display(),
        env!("CARGO_BIN_EXE_vigie-agent")
    );
    fs::write(&late, text).unwrap();
    fs::set_permissions(&late, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let keeping = keeping(state.path(), order).by(late);
    let stop = CancellationToken::new();
    stop.cancel();
    let run = script(&format!("echo x >>{}", mark.display())).stop(stop).run_kept(&keeping, ample());
    tokio::pin!(run);
    let asked = async {
        while !is_marked(state.path(), order) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { _ = &mut run => panic!("it ended"), () = asked => {} }
    fs::write(&gate, "").unwrap();
    let exit = timeout(Duration::from_secs(20), run).await.unwrap().unwrap();
    assert!(exit.stopped && !exit.success() && !mark.exists());
    let found = programs(state.path(), order).await.unwrap();
    assert!(matches!(found[..], [Found::NeverBegan]), "{found:?}");
}

/// Whenever it is asked, it is heard: also while the keeper starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_asked_to_stop_at_any_moment_stops() {
    let state = tempfile::tempdir().unwrap();
    for delay in 0..40 {
        let order = TaskId::new();
        let keeping = keeping(state.path(), order);
        let stop = CancellationToken::new();
        let asks = stop.clone();
        let asking = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            asks.cancel();
        });
        let run = script("sleep 300").stop(stop).run_kept(&keeping, ample());
        let exit = timeout(Duration::from_secs(30), run).await.unwrap().unwrap();
        assert!(exit.stopped, "after {delay} ms: {exit:?}");
        asking.await.unwrap();
    }
}

#[tokio::test]
async fn one_that_is_found_again_can_be_stopped_and_asking_leaves_nothing_behind() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let shown = Shown::default();
    {
        let keeping = keeping(state.path(), order);
        let run = script("echo begin; sleep 300").sink(&shown).run_kept(&keeping, ample());
        tokio::pin!(run);
        let begun = async {
            while !shown.0.lock().unwrap().contains("begin") {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { _ = &mut run => panic!("it ended"), () = begun => {} }
    }
    let stop = CancellationToken::new();
    stop.cancel();
    // The second time it has ended, and the third time nothing is left of it.
    for _ in 0..2 {
        let found = keeper::programs(state.path(), order, &stop);
        let found = timeout(Duration::from_secs(20), found).await.unwrap().unwrap();
        assert!(matches!(&found[..], [Found::Ended(exit)] if exit.stopped), "{found:?}");
    }
    assert_eq!(keeper::orders(state.path()), [order]);
    keeper::forget(state.path(), order);
    assert!(keeper::programs(state.path(), order, &stop).await.unwrap().is_empty());
    assert!(keeper::orders(state.path()).is_empty());
}

#[tokio::test]
async fn what_nobody_saw_is_lost_and_what_never_began_never_will() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let mark = state.path().join("mark");
    let text = format!("kill -9 $PPID; echo x >>{}; sleep 300", mark.display());
    let lost = script(&text).run_kept(&keeping(state.path(), order), ample()).await.unwrap_err();
    assert!(matches!(lost, ChildError::Lost { .. }), "{lost:?}");
    let found = programs(state.path(), order).await.unwrap();
    assert!(matches!(found[..], [Found::Lost]), "{found:?}");

    // The agent died between the folder and the keeper; a keeper that comes all the same runs nothing.
    let order = TaskId::new();
    let never =
        script("echo x").run_kept(&keeping(state.path(), order).by("/bin/true".into()), ample()).await;
    assert!(matches!(never, Err(ChildError::Start { .. })), "{never:?}");
    let found = programs(state.path(), order).await.unwrap();
    assert!(matches!(found[..], [Found::NeverBegan]), "{found:?}");
    let folder = state.path().join("children").join(order.to_string()).join("1");
    let late = std::process::Command::new(env!("CARGO_BIN_EXE_vigie-agent"))
        .arg("keep")
        .arg(&folder)
        .output()
        .unwrap();
    assert!(!late.status.success());
    assert!(!folder.join("begun").exists());
}

#[tokio::test]
async fn a_program_that_cannot_be_run_says_so() {
    let state = tempfile::tempdir().unwrap();
    let order = TaskId::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    let child = Child::new(file.path().to_str().unwrap()).unwrap();
    let failed = child.run_kept(&keeping(state.path(), order), ample()).await;
    assert!(matches!(failed, Err(ChildError::Start { .. })), "{failed:?}");
    let found = programs(state.path(), order).await.unwrap();
    assert!(matches!(&found[..], [Found::Failed(why)] if why.contains("cannot be started")), "{found:?}");
}
