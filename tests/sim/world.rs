//! One seed's world: its clock, its chance, its hosts, what was seen to happen, and what must not.

use std::{
    collections::BTreeSet,
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use vigie_agent::host::clock::Clock;
use vigie_controller::store::memory::Disk;
use vigie_proto::{
    id::HostId,
    order::{SigningKey, TrustedKeys},
};
use vigie_tests::story::Story;

use crate::{agent, chance::Chance, controller, ledger::Ledger, mutants::Mutant, platter::Platter};

/// Where the simulated time begins, Unix milliseconds.
const BASE_MS: i64 = 1_800_000_000_000;

/// Nobody has a reason to look at the clock more often within a moment.
const TIMES_A_MOMENT: u64 = 20_000;

pub(crate) const STACKS: [&str; 2] = ["blog", "shop"];

/// Everything that a seed's tasks share. All of them run on one thread.
pub(crate) struct World {
    pub(crate) mutant: Option<Mutant>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) key: SigningKey,
    pub(crate) keys: TrustedKeys,
    /// The controller's disk.
    pub(crate) disk: Disk,
    pub(crate) controller: watch::Sender<Option<Arc<controller::Process>>>,
    /// What the controller's disk does at present.
    pub(crate) store_is: Mutex<StoreIs>,
    /// Set when something is wrong: the seed is over.
    pub(crate) wrong: CancellationToken,
    began: Instant,
    /// The moment that was asked for last, and how often.
    asked: Mutex<(i64, u64)>,
    chance: Mutex<Chance>,
    story: Mutex<Story>,
    ledger: Mutex<Ledger>,
}

/// How the controller's disk takes transactions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StoreIs {
    pub(crate) slow: bool,
    pub(crate) failing: bool,
}

/// A host: what outlives its agent's processes.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) id: HostId,
    pub(crate) platter: Platter,
    pub(crate) agent: Mutex<Option<agent::Process>>,
    /// How far its clock is off, in milliseconds.
    pub(crate) offset_ms: AtomicI64,
    /// Which directions of its network are open: to the controller, and from it.
    pub(crate) open: watch::Sender<(bool, bool)>,
    /// It is away for long: what would end another fault does not bring it back.
    pub(crate) away: AtomicBool,
    pub(crate) slow_disk: AtomicBool,
    /// The power goes in the middle of the next sync.
    pub(crate) dies_in_sync: AtomicBool,
    /// A sync has failed here: what a later power loss leaves may be no journal.
    pub(crate) sync_failed: AtomicBool,
    /// The stacks whose backend is stopped, and those that no restart helps.
    pub(crate) ill: Mutex<BTreeSet<String>>,
    pub(crate) hopeless: Mutex<BTreeSet<String>>,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        mutant: Option<Mutant>,
        hosts: Vec<Host>,
        key: SigningKey,
        keys: TrustedKeys,
        disk: Disk,
    ) -> Self {
        Self {
            mutant,
            hosts,
            key,
            keys,
            disk,
            controller: watch::Sender::new(None),
            store_is: Mutex::default(),
            wrong: CancellationToken::new(),
            began: Instant::now(),
            asked: Mutex::default(),
            chance: Mutex::new(Chance::of(seed)),
            story: Mutex::default(),
            ledger: Mutex::default(),
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Simulated milliseconds since the world began.
    pub(crate) fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    /// The true time, Unix milliseconds. Whoever asks again and again within one moment would do so for ever: simulated
    /// time goes on when everybody rests.
    pub(crate) fn now_ms(&self) -> i64 {
        let now_ms = BASE_MS + self.elapsed_ms();
        let mut asked = lock(&self.asked);
        *asked = if asked.0 == now_ms { (now_ms, asked.1 + 1) } else { (now_ms, 0) };
        let restless = asked.1 > TIMES_A_MOMENT;
        drop(asked);
        assert!(!restless, "somebody never rests");
        now_ms
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

    /// How long something takes on the network: as good as nothing, or now and then very long.
    pub(crate) fn lag(&self) -> Duration {
        let mut chance = self.chance();
        match chance.below(40) {
            0 => chance.millis(200..3_000),
            1..4 => chance.millis(20..200),
            _ => chance.millis(0..15),
        }
    }

    /// Writes something into the trace.
    pub(crate) fn note(&self, what: impl Display) {
        let at = self.began.elapsed();
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
        self.wrong.cancel();
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.story).violations.clone()
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        lock(&self.story).trace.clone()
    }

    /// The controller that is at work, if one is.
    pub(crate) fn at_work(&self) -> Option<Arc<controller::Process>> {
        self.controller.borrow().clone()
    }

    /// What a host's clock shows, Unix milliseconds.
    pub(crate) fn host_now_ms(&self, host: usize) -> i64 {
        self.now_ms() + self.hosts[host].offset_ms.load(Ordering::SeqCst)
    }
}

impl Host {
    pub(crate) fn new(name: String, id: HostId) -> Self {
        Self {
            name,
            id,
            platter: Platter::new(),
            agent: Mutex::default(),
            offset_ms: AtomicI64::new(0),
            open: watch::Sender::new((true, true)),
            away: AtomicBool::new(false),
            slow_disk: AtomicBool::new(false),
            dies_in_sync: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
            ill: Mutex::default(),
            hopeless: Mutex::default(),
        }
    }
}

/// The world is at work on one thread; what panicked there ended its seed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The controller's clock, which is right.
pub(crate) struct ControllersClock(pub(crate) Arc<World>);

impl vigie_controller::clock::Clock for ControllersClock {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }
}

/// A host's clock, which may jump.
pub(crate) struct HostsClock {
    pub(crate) world: Arc<World>,
    pub(crate) host: usize,
}

impl Clock for HostsClock {
    fn now_ms(&self) -> i64 {
        self.world.host_now_ms(self.host)
    }
}
