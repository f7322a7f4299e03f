//! A controller's process: its real parts behind real listeners, over the store in memory.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, LazyLock, atomic::Ordering},
};

use async_trait::async_trait;
use vigie_controller::{
    runbooks::Runbooks,
    sim::Controller,
    store::{
        Store,
        memory::{Memory, Weather},
    },
};
use vigie_proto::{
    id::RunId,
    v1::{RunEvent, RunSummary},
};

use crate::{
    mutants::Mutant,
    network::listen,
    world::{ADDRESS, AGENTS_PORT, CONTROLLERS, OPERATORS_PORT, OneClock, World},
};

/// Read once for all seeds; the same as the other simulation's.
static RUNBOOKS: LazyLock<Runbooks> =
    LazyLock::new(|| Runbooks::open(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sim/runbooks"))));

/// What the store does for one process.
struct Machine {
    world: Arc<World>,
    /// The process's name: its controller's, and how often that was started.
    process: String,
}

#[async_trait]
impl Weather for Machine {
    async fn before(&self, writes: bool) -> io::Result<()> {
        let slow = self.world.store_is_slow.load(Ordering::SeqCst);
        let longest = match (writes, slow) {
            (true, true) => 5_000,
            (true, false) => 6,
            (false, _) => 2,
        };
        self.world.pause(0..longest).await;
        Ok(())
    }

    async fn after(&self) {
        self.world.pause(0..3).await;
    }

    fn lies(&self) -> bool {
        self.world.is(Mutant::EarlyCommit)
    }

    fn fences(&self) -> bool {
        !self.world.is(Mutant::Unfenced)
    }

    fn appended(&self, run: RunId, events: &[RunEvent], summary: &RunSummary) {
        self.world.committed(&self.process, run, events, summary);
    }
}

/// Runs a controller until its machine takes it away.
pub(crate) async fn live(world: Arc<World>, which: usize) -> turmoil::Result {
    let name = CONTROLLERS[which];
    let start = world.starts[which].fetch_add(1, Ordering::SeqCst) + 1;
    let process = format!("{name}.{start}");
    world.note(format_args!("{process} starts"));
    // Before it can be reached, as `serve` does it.
    let (operators, agents) = (listen(OPERATORS_PORT).await?, listen(AGENTS_PORT).await?);
    let machine = Machine { world: Arc::clone(&world), process: process.clone() };
    let store: Arc<dyn Store> = Arc::new(Memory::open(world.disk.clone(), Arc::new(machine)));
    // As systemd does, it is tried again while that fails: the one that it takes over from may still be writing.
    let controller = loop {
        let store = Arc::clone(&store);
        match Controller::start(store, Arc::new(OneClock), RUNBOOKS.clone(), &process).await {
            Ok(controller) => break controller,
            Err(error) => world.note(format_args!("{process} does not start: {error}")),
        }
        world.pause(500..1_500).await;
    };
    controller.listen(&world.authority, ADDRESS, operators, agents)?;
    world.note(format_args!("{process} serves"));
    std::future::pending().await
}
