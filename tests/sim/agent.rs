//! An agent's process: the real host half over a simulated disk, network and hands.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use vigie_agent::host::{
    clock::Clock,
    dispatch::{Dispatch, Parts},
    journal::Service,
    trust::Trust,
    watch::{Line, line},
};
use vigie_proto::v1::{HostState, Stack};

use crate::{
    executor::Hands,
    link,
    mounted::Mounted,
    mutants::Mutant,
    world::{HostsClock, STACKS, World, lock},
};

/// What stands between the two halves, as in the agent's `main`.
const WAITING: usize = 64;

/// Every task of the process. Dropping it kills it.
pub(crate) struct Process {
    alive: Arc<AtomicBool>,
    _tasks: Vec<AbortOnDropHandle<()>>,
    _state: watch::Sender<Option<Arc<HostState>>>,
    _line: Line,
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::SeqCst);
    }
}

/// A clock that stood still when it was first looked at.
struct Stopped(i64);

impl Clock for Stopped {
    fn now_ms(&self) -> i64 {
        self.0
    }
}

/// Starts an agent. One that runs already is killed.
pub(crate) fn start(world: &Arc<World>, host: usize) {
    let place = &world.hosts[host];
    drop(lock(&place.agent).take());
    world.ledger().forget_deliveries(host);
    if world.is(Mutant::Amnesia) {
        place.platter.forget();
    }
    world.note(format_args!("{}: the agent starts", place.name));
    let alive = Arc::new(AtomicBool::new(true));
    let disk = Mounted { world: Arc::clone(world), host, alive: Arc::clone(&alive) };
    let turns = Arc::clone(world);
    let (serving, journal) = Service::task(disk, move || {
        let world = Arc::clone(&turns);
        async move {
            let slow = world.hosts[host].slow_disk.load(Ordering::SeqCst);
            world.pause(0..if slow { 10_000 } else { 4 }).await;
        }
    });
    let (to_host, inbox) = mpsc::channel(WAITING);
    let (outbox, from_host) = mpsc::channel(WAITING);
    let stack = |name: &&str| Stack { name: (*name).to_owned(), ..Default::default() };
    let state = HostState { stacks: STACKS.iter().map(stack).collect(), ..Default::default() };
    let (state, seen) = watch::channel(Some(Arc::new(state)));
    let (watching, line) = line();
    let clock: Arc<dyn Clock> = match world.is(Mutant::StoppedClock) {
        true => Arc::new(Stopped(world.host_now_ms(host))),
        false => Arc::new(HostsClock { world: Arc::clone(world), host }),
    };
    let dispatch = Dispatch::new(Parts {
        trust: Trust { host: place.id, incarnation: 1, keys: world.keys.clone() },
        journal,
        executor: Arc::new(Hands { world: Arc::clone(world), host, alive: Arc::clone(&alive) }),
        clock,
        outbox,
        state: seen,
        watching,
        boot_id: "boot".to_owned(),
    });
    let net = link::keep(Arc::clone(world), host, Arc::clone(&alive), to_host, from_host);
    let host_half = dispatch.run(inbox, CancellationToken::new(), Duration::ZERO);
    let tasks = vec![tokio::spawn(serving), tokio::spawn(host_half), tokio::spawn(net)];
    *lock(&place.agent) = Some(Process {
        alive,
        _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
        _state: state,
        _line: line,
    });
}

/// Kills the agent. What it wrote is in the system's cache, and there when it starts again.
pub(crate) fn kill(world: &World, host: usize) {
    if lock(&world.hosts[host].agent).take().is_some() {
        world.note(format_args!("{}: the agent is killed", world.hosts[host].name));
    }
}

/// The power of the host goes.
pub(crate) fn lose_power(world: &World, host: usize) {
    let place = &world.hosts[host];
    drop(lock(&place.agent).take());
    world.note(format_args!("{}: the power goes", place.name));
    let mut chance = world.chance();
    let share = chance.below(5);
    place.platter.lose_power(|| chance.below(4) < share);
}
