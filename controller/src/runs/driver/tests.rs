use std::{
    io,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
};

use async_trait::async_trait;
use tokio::time::timeout;
use vigie_proto::v1::{
    HostLoadRequest, Owned, Request, RunSpec, Target, request, run_event::Event, run_spec::Kind,
};
use vigie_runbook::run::open;

use super::*;
use crate::{
    audit::Intent,
    runbooks::Runbooks,
    runs::Runs,
    store::memory::{Disk, Memory, Weather},
};

const NOW_MS: i64 = 1_800_000_000_000;

/// Shows what it is set to.
#[derive(Default)]
struct Shown(AtomicI64);

impl Clock for Shown {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A disk that takes nothing, once it does not, and how often it was asked to since.
#[derive(Default)]
struct ReadOnly {
    is_so: AtomicBool,
    asked: AtomicU64,
}

struct Machine(Arc<ReadOnly>);

#[async_trait]
impl Weather for Machine {
    async fn before(&self, writes: bool) -> io::Result<()> {
        if writes && self.0.is_so.load(Ordering::SeqCst) {
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        Ok(())
    }

    async fn after(&self) {}
}

/// A question to a host that is away.
fn away() -> (Vec<RunEvent>, State) {
    let request = Request { operation: Some(request::Operation::HostLoad(HostLoadRequest::default())) };
    let spec = RunSpec { kind: Some(Kind::Operation(request)), ..RunSpec::default() };
    let host = HostId::new().to_string();
    let target = Target { host, host_name: "vps1".to_owned(), incarnation: 1, ..Target::default() };
    let opened = open(spec, "ada", vec![target], None).unwrap();
    let owned = Owned { epoch: 1, controller: "one".to_owned() };
    let events: Vec<_> = (1..)
        .zip([Event::Opened(opened), Event::Owned(owned)])
        .map(|(seq, event)| RunEvent { seq, at_ms: NOW_MS, event: Some(event) })
        .collect();
    let state = State::fold(RunId::new(), &events).unwrap();
    (events, state)
}

/// Its time is over, and that cannot be written down: it is tried now and then, and not as fast as the processor goes.
#[tokio::test]
async fn what_is_due_and_cannot_be_kept_is_tried_now_and_then() {
    timeout(Duration::from_secs(20), due_and_not_kept()).await.expect("it is tried, and kept in the end");
}

async fn due_and_not_kept() {
    let (events, state) = away();
    let (run, disk, shown) = (state.run(), Arc::new(ReadOnly::default()), Arc::new(Shown::default()));
    shown.0.store(NOW_MS, Ordering::SeqCst);
    let store = Arc::new(Memory::open(Disk::default(), Arc::new(Machine(Arc::clone(&disk)))));
    store.open_run(&Intent::own("test", "", ""), run, &events, &state.summary()).await.unwrap();
    let fleet = Fleet::load(store.clone(), shown.clone()).await.unwrap();
    let runbooks = Runbooks::open(PathBuf::from("/nonexistent"));
    let runs = Runs::new(store.clone(), fleet, runbooks, "one".to_owned(), Evaluation::AtOnce);
    assert_eq!(runs.resume().await.unwrap(), 1);
    let inputs = runs.live().get(&run).unwrap().inputs();
    // What is behind the second look was behind the first one.
    for _ in 0..2 {
        assert!(inputs.send(Turn::tick()).await.is_ok());
        while inputs.capacity() < inputs.max_capacity() {
            tokio::task::yield_now().await;
        }
    }
    disk.is_so.store(true, Ordering::SeqCst);
    shown.0.store(NOW_MS + 24 * 3_600_000, Ordering::SeqCst);
    assert!(inputs.send(Turn::tick()).await.is_ok());
    let since = Instant::now();
    while disk.asked.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    assert!(since.elapsed() >= AGAIN * 2, "three tries within {:?}", since.elapsed());
    disk.is_so.store(false, Ordering::SeqCst);
    while runs.state(run).await.unwrap().closed().is_none() {
        tokio::task::yield_now().await;
    }
}
