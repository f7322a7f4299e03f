//! The controller's process over its disk.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use vigie_controller::{
    runbooks::Runbooks,
    sim::Controller,
    store::memory::{Memory, Weather},
};
use vigie_proto::{
    id::RunId,
    v1::{Failure, Outcome, OutcomeStatus, RunEvent, RunSummary, run_event::Event},
};

use crate::{
    mutants::Mutant,
    world::{ControllersClock, World, lock},
};

/// Read once for all seeds: what a controller reads of them at its start is no fault's to hit, and takes the longest.
static RUNBOOKS: LazyLock<Runbooks> =
    LazyLock::new(|| Runbooks::open(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/sim/runbooks"))));

/// A controller that runs, until it is dead: from then on no call of its store returns, no message of its sessions
/// arrives, and nobody gets an answer, so that whatever its tasks still do is seen by nobody.
pub(crate) struct Process {
    pub(crate) controller: Controller,
    pub(crate) dead: CancellationToken,
}

/// What the disk does to one process.
struct Machine {
    world: Arc<World>,
    dead: CancellationToken,
}

impl Machine {
    async fn while_alive(&self) {
        if self.dead.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Weather for Machine {
    async fn before(&self, writes: bool) -> io::Result<()> {
        let is = *lock(&self.world.store_is);
        let longest = match (writes, is.slow) {
            (true, true) => 10_000,
            (true, false) => 6,
            (false, _) => 2,
        };
        self.while_alive().await;
        self.world.pause(0..longest).await;
        self.while_alive().await;
        match writes && is.failing && !self.world.chance().one_in(4) {
            true => Err(io::Error::other("no room on the disk")),
            false => Ok(()),
        }
    }

    async fn after(&self) {
        self.while_alive().await;
        self.world.pause(0..3).await;
        self.while_alive().await;
    }

    fn lies(&self) -> bool {
        self.world.is(Mutant::EarlyCommit)
    }

    fn shows(&self, run: RunId, events: &mut [RunEvent]) {
        if !self.world.is(Mutant::HiddenDoubt) || !self.world.ledger().is_closed(run) {
            return;
        }
        let tasks = events.iter_mut().flat_map(|event| match &mut event.event {
            Some(Event::Ended(ended)) => &mut ended.tasks[..],
            Some(Event::Resolved(resolved)) => &mut resolved.tasks[..],
            _ => &mut [],
        });
        for outcome in tasks.filter_map(|task| task.outcome.as_mut()) {
            if outcome.status() == OutcomeStatus::InDoubt {
                let failure = Failure::new("simulated", "it could not be done");
                *outcome = Outcome::ended(OutcomeStatus::Failed, failure);
            }
        }
    }

    fn appended(&self, run: RunId, events: &[RunEvent], summary: &RunSummary) {
        self.world.committed(run, events, summary);
    }
}

/// Starts a controller. As systemd does, it tries again while that fails.
pub(crate) async fn start(world: &Arc<World>) {
    loop {
        world.note("the controller starts");
        let dead = CancellationToken::new();
        let machine = Machine { world: Arc::clone(world), dead: dead.clone() };
        let store = Arc::new(Memory::open(world.disk.clone(), Arc::new(machine)));
        let clock = Arc::new(ControllersClock(Arc::clone(world)));
        match Controller::start(store, clock, RUNBOOKS.clone(), "one").await {
            Ok(controller) => {
                world.controller.send_replace(Some(Arc::new(Process { controller, dead })));
                return;
            }
            Err(error) => {
                world.note(format_args!("the controller does not start: {error}"));
                dead.cancel();
                world.pause(500..1_500).await;
            }
        }
    }
}

/// Kills the controller.
pub(crate) fn kill(world: &World) {
    if let Some(process) = world.controller.send_replace(None) {
        world.note("the controller is killed");
        process.dead.cancel();
        process.controller.stop();
        world.disk.crash();
        world.ledger().read_again(&world.disk);
    }
}

/// Stops the controller in order, and waits until it has.
pub(crate) async fn stop(world: &World) {
    if let Some(process) = world.controller.send_replace(None) {
        world.note("the controller stops");
        process.controller.stop();
        // A store that fails holds it up, and systemd kills it in the end.
        if tokio::time::timeout(std::time::Duration::from_secs(10), process.controller.stopped())
            .await
            .is_err()
        {
            world.note("the controller did not stop in time");
        }
        process.dead.cancel();
    }
}
