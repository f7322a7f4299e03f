//! One seed's world: what outlives the processes, what was seen to happen, and what must not.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio_rustls::rustls::ClientConfig;
use vigie_controller::{authority::Authority, store::memory::Disk};
use vigie_proto::{id::HostId, order::TrustedKeys};
use vigie_tests::story::Story;

use crate::{chance::Chance, ctl::Notebook, ledger::Ledger, mutants::Mutant, platter::Platter};

/// The machines on the network.
pub(crate) const CONTROLLERS: [&str; 2] = ["controller1", "controller2"];
pub(crate) const AGENTS: [&str; 5] = ["vps1", "vps2", "vps3", "vps4", "vps5"];
pub(crate) const LAPTOP: &str = "laptop";

/// The name that everybody dials, and that the controllers' certificates carry.
pub(crate) const ADDRESS: &str = "controller";
pub(crate) const OPERATORS_PORT: u16 = 7420;
pub(crate) const AGENTS_PORT: u16 = 7421;

pub(crate) const STACKS: [&str; 2] = ["blog", "shop"];

/// Everything that a seed's programs share. All of them run on one thread.
pub(crate) struct World {
    pub(crate) mutant: Option<Mutant>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) keys: TrustedKeys,
    /// Where `vigiectl` keeps its keys and what it asked for.
    pub(crate) laptop: TempDir,
    pub(crate) notebook: Mutex<Notebook>,
    /// The controllers' disk.
    pub(crate) disk: Disk,
    /// Who the name stands for.
    pub(crate) leader: AtomicUsize,
    /// How often each controller was started, so that one that is back is told from the one before.
    pub(crate) starts: [AtomicUsize; 2],
    pub(crate) store_is_slow: AtomicBool,
    chance: Mutex<Chance>,
    /// Since the world began; what is seen from outside of any host goes by it.
    elapsed: Mutex<Duration>,
    story: Mutex<Story>,
    ledger: Mutex<Ledger>,
}

/// A host: what outlives its agent's processes.
pub(crate) struct Host {
    pub(crate) name: &'static str,
    pub(crate) id: HostId,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) platter: Platter,
    /// The stacks whose backend is stopped.
    pub(crate) ill: Mutex<BTreeSet<String>>,
}

/// What a world is made of.
pub(crate) struct Made {
    pub(crate) authority: Arc<Authority>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) keys: TrustedKeys,
    pub(crate) laptop: TempDir,
    pub(crate) disk: Disk,
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, made: Made) -> Self {
        let Made { authority, hosts, keys, laptop, disk } = made;
        Self {
            mutant,
            authority,
            hosts,
            keys,
            laptop,
            notebook: Mutex::default(),
            disk,
            leader: AtomicUsize::new(0),
            starts: Default::default(),
            store_is_slow: AtomicBool::new(false),
            chance: Mutex::new(Chance::of(seed)),
            elapsed: Mutex::default(),
            story: Mutex::default(),
            ledger: Mutex::default(),
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(crate) fn leader(&self) -> usize {
        self.leader.load(Ordering::SeqCst)
    }

    pub(crate) fn chance(&self) -> MutexGuard<'_, Chance> {
        lock(&self.chance)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Takes some time out of a range of milliseconds.
    pub(crate) async fn pause(&self, millis: std::ops::Range<u64>) {
        let time = self.chance().millis(millis);
        tokio::time::sleep(time).await;
    }

    /// So much simulated time is over, for whoever is on no host.
    pub(crate) fn passed(&self, elapsed: Duration) {
        *lock(&self.elapsed) = elapsed;
    }

    /// Writes something into the trace.
    pub(crate) fn note(&self, what: impl Display) {
        let at = turmoil::sim_elapsed().unwrap_or_else(|| *lock(&self.elapsed));
        lock(&self.story).note(at, what);
    }

    /// An id's short name.
    pub(crate) fn name(&self, kind: &'static str, id: &str) -> String {
        lock(&self.story).name(kind, id)
    }

    /// Something happened that must not.
    pub(crate) fn violated(&self, what: impl Display) {
        self.note(format_args!("VIOLATION: {what}"));
        lock(&self.story).violations.push(what.to_string());
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.story).violations.clone()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        lock(&self.story).trace.clone()
    }
}

/// The world is at work on one thread; what panicked there ended its seed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time on every machine: the simulation's, Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    let since = turmoil::since_epoch().expect("a program runs on a host");
    i64::try_from(since.as_millis()).unwrap()
}

/// The clock of a controller and of an agent.
pub(crate) struct OneClock;

impl vigie_controller::clock::Clock for OneClock {
    fn now_ms(&self) -> i64 {
        now_ms()
    }
}

impl vigie_agent::host::clock::Clock for OneClock {
    fn now_ms(&self) -> i64 {
        now_ms()
    }
}
