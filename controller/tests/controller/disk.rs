//! The controller's own disk is full, or cannot be written: on a real file system, small and of the test's own.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tonic::{Code, Status};
use vigie_proto::{
    STALE_SINCE, STALE_WHY,
    order::Domain,
    v1::{
        self, AptCleanPreviewResult, AptCleanRequest, AptCleanResult, ComposeBuildRequest,
        ComposeBuildResult, DiskFile, ExecRequest, Finished, HostLoadRequest, HostLoadResult, Outcome,
        PreparedOrder, RunVerdict, from_agent, request::Operation, result, run_event::Event, to_agent,
    },
};

use crate::support::{Controller, Host, Operator, Session, all, new_run, operation};

/// A file system of the test's own, which only root can mount.
struct Mounted {
    at: tempfile::TempDir,
    _image: Option<tempfile::TempDir>,
}

impl Mounted {
    /// Memory that is full at `mib`. `None` where this process may not mount.
    fn tmpfs(mib: u32) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={mib}m"), "none"], at.path())
            .then_some(Self { at, _image: None })
    }

    /// A disk in a file. `None` where this process may not mount.
    fn ext4(mib: u64) -> Option<Self> {
        let (at, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = image.path().join("disk");
        File::create(&file).unwrap().set_len(mib << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&file).status();
        let mounted = made.is_ok_and(|status| status.success())
            && mount(&["-o", "loop", file.to_str().unwrap()], at.path());
        mounted.then_some(Self { at, _image: Some(image) })
    }

    fn path(&self) -> &Path {
        self.at.path()
    }

    /// Leaves no byte.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::options().create(true).append(true).open(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let piece = vec![1_u8; size];
            loop {
                match file.write(&piece) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        path
    }

    /// What the kernel does with a file system that it cannot trust any more: nothing is written, whoever has it open.
    fn abort(&self) {
        let done = Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()).status().unwrap();
        assert!(done.success());
    }
}

fn mount(how: &[&str], at: &Path) -> bool {
    Command::new("mount").args(how).arg(at).status().is_ok_and(|status| status.success())
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: what a failed test left open must not keep it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Says why a test shows nothing here.
macro_rules! or_skip {
    ($mounted:expr) => {
        match $mounted {
            Some(mounted) => mounted,
            None => {
                assert!(std::env::var_os("CI").is_none(), "CI runs as root, and may mount");
                writeln!(io::stderr(), "skipped: only root can mount a file system").unwrap();
                return;
            }
        }
    };
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to this: {what}");
}

fn exec() -> v1::RunSpec {
    operation(all(), Operation::Exec(ExecRequest { program: "uptime".to_owned(), args: Vec::new() }))
}

fn clean() -> v1::RunSpec {
    operation(all(), Operation::AptClean(AptCleanRequest::default()))
}

fn code(status: &Status) -> &str {
    status.metadata().get("vigie-code").unwrap().to_str().unwrap()
}

fn build() -> v1::RunSpec {
    let services = vec!["backend".to_owned()];
    operation(all(), Operation::ComposeBuild(ComposeBuildRequest { stack: "sylion".to_owned(), services }))
}

async fn planned(operator: &mut Operator, run: &str) -> Vec<u8> {
    let plan = |event: &Event| match event {
        Event::Planned(planned) => Some(planned.manifest.clone()),
        _ => None,
    };
    operator.watch(run, 0, true).await.until(plan).await
}

/// Opens a run and signs its plan.
async fn signed(operator: &mut Operator, spec: v1::RunSpec) -> String {
    let run = new_run();
    operator.submit(&run, spec).await.unwrap();
    let manifest = planned(operator, &run).await;
    let signatures = vec![operator.signing.sign(Domain::Manifest, &manifest)];
    let request = v1::SignRunRequest { run: run.clone(), manifest, signatures };
    operator.runs.sign_run(request).await.unwrap();
    run
}

async fn cancelled(operator: &mut Operator, run: &str) -> RunVerdict {
    let request = v1::CancelRunRequest { run: run.to_owned(), reason: "not now".to_owned() };
    operator.runs.cancel_run(request).await.unwrap();
    operator.watch(run, 0, true).await.closed().await.verdict()
}

fn order_of(execute: &v1::Execute) -> String {
    let leaf: v1::Leaf = prost::Message::decode(execute.leaf.as_slice()).unwrap();
    leaf.order
}

async fn looks(operator: &mut Operator, session: &mut Session) -> RunVerdict {
    let run = new_run();
    let spec = operation(all(), Operation::HostLoad(HostLoadRequest::default()));
    operator.submit(&run, spec).await.unwrap();
    let probe = session.probe().await;
    let load = HostLoadResult { cpus: 2, ..Default::default() };
    session.answer(&probe, Outcome::succeeded(result::Operation::HostLoad(load))).await;
    operator.watch(&run, 0, true).await.closed().await.verdict()
}

/// Looks again and again, until the reserve has no more room for that: how often it went well, and the refusal.
async fn looks_until_full(operator: &mut Operator, session: &mut Session) -> (u32, Status) {
    // Each answer is as long as an answer may well be.
    let mut taken = 0;
    loop {
        let run = new_run();
        let spec = operation(all(), Operation::HostLoad(HostLoadRequest::default()));
        if let Err(refused) = operator.submit(&run, spec).await {
            return (taken, refused);
        }
        taken += 1;
        assert!(taken < 200, "the reserve has an end");
        let probe = session.probe().await;
        let load = HostLoadResult { cpus: 2, ..Default::default() };
        let mut outcome = Outcome::succeeded(result::Operation::HostLoad(load));
        let failure = v1::Failure::new("long", "x".repeat(100_000));
        outcome.failure = Some(failure);
        session.answer(&probe, outcome).await;
        let kept = tokio::time::timeout(Duration::from_secs(3), async {
            operator.watch(&run, 0, true).await.closed().await
        });
        if kept.await.is_err() {
            // It waits for room with its answer, and so will the next.
            return (taken, operator.submit(&new_run(), exec()).await.unwrap_err());
        }
    }
}

/// An order that loses something, from its preparation to its end.
async fn frees(operator: &mut Operator, session: &mut Session) -> RunVerdict {
    let run = new_run();
    operator.submit(&run, clean()).await.unwrap();
    let Some(to_agent::Message::Prepare(prepare)) = session.next().await else { panic!("a preparation") };
    let found = AptCleanPreviewResult {
        present: true,
        files: vec![DiskFile { path: "/var/cache/apt/archives/a.deb".to_owned(), ..Default::default() }],
        bytes: 1 << 30,
        files_total: 1,
        ..Default::default()
    };
    let prepared = PreparedOrder {
        task: prepare.task,
        outcome: Some(Outcome::succeeded(result::Operation::AptCleanPreview(found))),
        challenge: vec![7; 32],
        valid_ms: 300_000,
    };
    session.say(from_agent::Message::Prepared(prepared)).await;
    let manifest = planned(operator, &run).await;
    let signatures = vec![operator.signing.sign(Domain::Manifest, &manifest)];
    let request = v1::SignRunRequest { run: run.clone(), manifest, signatures };
    operator.runs.sign_run(request).await.unwrap();
    let execute = session.execute().await;
    let order = order_of(&execute);
    let outcome = Outcome::succeeded(result::Operation::AptClean(AptCleanResult::default()));
    let finished = Finished { order: order.clone(), outcome: Some(outcome), run: run.clone(), here: None };
    session.say(from_agent::Message::Finished(finished)).await;
    assert_eq!(session.acknowledged().await, [order]);
    operator.watch(&run, 0, true).await.closed().await.verdict()
}

/// Every change but those that free the disk is refused, with its name, before anything is sent; what is read is marked.
async fn assert_full(operator: &mut Operator) {
    let refused = operator.submit(&new_run(), exec()).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::ResourceExhausted, "store_full"));
    let token = v1::CreateJoinTokenRequest { name: "vps2".to_owned(), ..Default::default() };
    let refused = operator.hosts.create_join_token(token).await.unwrap_err();
    assert_eq!(code(&refused), "store_full");
    let listed = operator.hosts.list_hosts(v1::ListHostsRequest::default()).await.unwrap();
    assert!(listed.metadata().contains_key(STALE_SINCE), "{:?}", listed.metadata());
    assert_eq!(listed.get_ref().hosts.len(), 1);
}

/// A controller on a disk, its operator, and a host in session.
async fn on(disk: &Mounted) -> (Controller, Operator, Host, Session) {
    let controller = Controller::within(disk.path()).await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let session = host.session(&controller).await.unwrap();
    (controller, operator, host, session)
}

/// Leaves no room but the controller's reserve.
async fn fill(disk: &Mounted, controller: &Controller) {
    let reserve = controller.config.state.join("controller.reserve");
    until("the reserve is there", async || reserve.exists()).await;
    disk.fill();
}

#[tokio::test]
async fn a_full_disk_takes_what_frees_it_and_nothing_else() {
    let disk = or_skip!(Mounted::tmpfs(64));
    let (controller, mut operator, host, mut session) = on(&disk).await;
    let reserve = controller.config.state.join("controller.reserve");
    until("the reserve is there", async || reserve.exists()).await;
    // One that waits for its signature when the disk fills up.
    let waiting = new_run();
    operator.submit(&waiting, exec()).await.unwrap();
    let manifest = planned(&mut operator, &waiting).await;

    disk.fill();
    assert_full(&mut operator).await;
    let signatures = vec![operator.signing.sign(Domain::Manifest, &manifest)];
    let sign = v1::SignRunRequest { run: waiting.clone(), manifest, signatures };
    let refused = operator.runs.sign_run(sign.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "store_full");
    let runs = operator.runs.list_runs(v1::ListRunsRequest::default()).await.unwrap();
    assert!(runs.metadata().get(STALE_WHY).unwrap().to_str().unwrap().contains("KiB are left"));
    // The session would show an order: what comes next is what the freeing run asks.
    assert_eq!(looks(&mut operator, &mut session).await, RunVerdict::Ok);
    assert_eq!(frees(&mut operator, &mut session).await, RunVerdict::Ok);

    // A stop gives the write-ahead log away; the start finds the disk full all the same.
    let controller = controller.restart_after(|| drop(disk.fill())).await;
    assert!(!reserve.exists(), "the start needed it");
    let mut operator = operator.again(&controller).await;
    let mut session = host.session(&controller).await.unwrap();
    assert_full(&mut operator).await;
    assert_eq!(looks(&mut operator, &mut session).await, RunVerdict::Ok);
    assert_eq!(frees(&mut operator, &mut session).await, RunVerdict::Ok);

    fs::remove_file(disk.path().join("filler")).unwrap();
    until("what waited is signed", async || operator.runs.sign_run(sign.clone()).await.is_ok()).await;
    let execute = session.execute().await;
    assert!(!execute.signatures.is_empty());
    until("the reserve is made again", async || reserve.exists()).await;
    let listed = operator.hosts.list_hosts(v1::ListHostsRequest::default()).await.unwrap();
    assert!(!listed.metadata().contains_key(STALE_SINCE));
}

/// What was begun when there was room ends on what is kept for that, and what waits for room can be ended.
#[tokio::test]
async fn what_runs_on_a_full_disk_can_be_stopped_and_ends() {
    let disk = or_skip!(Mounted::tmpfs(64));
    let (controller, mut operator, _host, mut session) = on(&disk).await;
    let reserve = controller.config.state.join("controller.reserve");
    until("the reserve is there", async || reserve.exists()).await;
    let first = signed(&mut operator, build()).await;
    let order = order_of(&session.execute().await);
    // They wait for the first one's stack.
    let (second, third) = (signed(&mut operator, build()).await, signed(&mut operator, build()).await);
    for waits in [&second, &third] {
        let held = |event: &Event| matches!(event, Event::Held(_)).then_some(());
        operator.watch(waits, 0, true).await.until(held).await;
    }
    let unsigned = new_run();
    operator.submit(&unsigned, exec()).await.unwrap();
    planned(&mut operator, &unsigned).await;

    disk.fill();
    assert_full(&mut operator).await;
    let outcome = Outcome::succeeded(result::Operation::ComposeBuild(ComposeBuildResult::default()));
    let finished = Finished { order: order.clone(), outcome: Some(outcome), run: first.clone(), here: None };
    session.say(from_agent::Message::Finished(finished)).await;
    assert_eq!(session.acknowledged().await, [order]);
    assert_eq!(operator.watch(&first, 0, true).await.closed().await.verdict(), RunVerdict::Ok);
    assert_eq!(cancelled(&mut operator, &unsigned).await, RunVerdict::Cancelled);
    // The turn of both has come, and there is no room to begin either.
    let sent = tokio::time::timeout(Duration::from_secs(2), session.next()).await;
    assert!(sent.is_err(), "{sent:?}");
    assert_eq!(cancelled(&mut operator, &second).await, RunVerdict::Cancelled);
    // The session would show an order: what comes next is what is asked.
    assert_eq!(looks(&mut operator, &mut session).await, RunVerdict::Ok);

    fs::remove_file(disk.path().join("filler")).unwrap();
    session.execute().await;
    assert_eq!(operator.watch(&third, 0, false).await.event().await.unwrap().seq, 1);
}

/// What comes too late to be any run's waits for room, and nothing else that its host says waits with it.
#[tokio::test]
async fn a_late_end_that_cannot_be_kept_holds_up_nobody() {
    let disk = or_skip!(Mounted::tmpfs(64));
    let (controller, mut operator, _host, mut session) = on(&disk).await;
    fill(&disk, &controller).await;
    looks_until_full(&mut operator, &mut session).await;

    let (late, deed) = (new_run(), new_run());
    let ended = |order: &str, here: Option<v1::DoneHere>| {
        let outcome = Outcome::succeeded(result::Operation::AptClean(AptCleanResult::default()));
        let run = new_run();
        from_agent::Message::Finished(Finished { order: order.to_owned(), outcome: Some(outcome), run, here })
    };
    let here = v1::DoneHere {
        run: new_run(),
        person: "root on vps1".to_owned(),
        operation: "apt_clean".to_owned(),
        started_at_ms: 1_700_000_000_000,
        ..Default::default()
    };
    // As an agent does whose session ended in between.
    for _ in 0..2 {
        session.say(ended(&late, None)).await;
        session.say(ended(&deed, Some(here.clone()))).await;
    }
    let stacks = vec![v1::Stack { name: "other".to_owned(), ..Default::default() }];
    session.say(from_agent::Message::State(v1::HostState { stacks, ..Default::default() })).await;
    until("what the host says next is heard", async || {
        let listed = operator.hosts.list_hosts(v1::ListHostsRequest::default()).await.unwrap();
        listed.get_ref().hosts[0].state.as_ref().unwrap().stacks[0].name == "other"
    })
    .await;

    fs::remove_file(disk.path().join("filler")).unwrap();
    let mut kept = [session.acknowledged().await, session.acknowledged().await].concat();
    kept.sort();
    let mut told = vec![late, deed];
    told.sort();
    assert_eq!(kept, told);
}

/// Looking leaves half of the reserve to what frees the disk.
#[tokio::test]
async fn looking_does_not_use_up_what_freeing_needs() {
    let disk = or_skip!(Mounted::tmpfs(64));
    let (controller, mut operator, _host, mut session) = on(&disk).await;
    fill(&disk, &controller).await;
    let (taken, refused) = looks_until_full(&mut operator, &mut session).await;
    assert_eq!(code(&refused), "store_full");
    assert!(taken > 5, "{taken} were taken");
    assert_eq!(frees(&mut operator, &mut session).await, RunVerdict::Ok);
}

#[tokio::test]
async fn a_disk_that_became_read_only_is_read_and_nothing_is_sent() {
    let disk = or_skip!(Mounted::ext4(96));
    let (_controller, mut operator, _host, mut session) = on(&disk).await;
    assert_eq!(looks(&mut operator, &mut session).await, RunVerdict::Ok);
    disk.abort();
    let refused = operator.submit(&new_run(), exec()).await.unwrap_err();
    assert_eq!((refused.code(), code(&refused)), (Code::Internal, "store_read_only"));
    let refused = operator.submit(&new_run(), clean()).await.unwrap_err();
    assert_eq!(code(&refused), "store_read_only");
    let runs = operator.runs.list_runs(v1::ListRunsRequest::default()).await.unwrap();
    assert!(runs.metadata().contains_key(STALE_SINCE));
    assert_eq!(runs.get_ref().runs.len(), 1);
    let listed = operator.hosts.list_hosts(v1::ListHostsRequest::default()).await.unwrap();
    assert!(listed.get_ref().hosts[0].connected);
}
