//! One seed, from its first moment to its last.

use std::{
    cell::RefCell,
    sync::{Arc, LazyLock, Once},
    time::{Duration, SystemTime},
};

use prost::Message as _;
use vigie_controller::{
    authority::Authority,
    sim::enrol_with,
    store::{
        NewOperator,
        memory::{Calm, Disk, Memory},
    },
};
use vigie_proto::{
    order::{Domain, SigningKey, TrustedKeys, digest},
    v1::{SignedTrustList, TrustList, TrustedOperator},
};
use vigie_tests::seeds::Ran;
use vigie_transport::{
    identity::Role,
    tls::{ServerTrust, client_config},
};

use crate::{
    agent, controller, ctl,
    ctl::WISHES,
    faults::{Faults, LONGEST_LATENCY, SHORTEST_LATENCY},
    mutants::Mutant,
    platter::Platter,
    world::{AGENTS, CONTROLLERS, Host, LAPTOP, Made, STACKS, World, lock},
};

pub(crate) const PERSON: &str = "ada";

/// How far the simulation goes at once. A message takes some of these.
const TICK: Duration = Duration::from_millis(20);

/// After the faults, everything is over within this: a plan's window, an order's longest time, and the patience with
/// which its agent's word is waited for, for each of several waves.
const SETTLES: Duration = Duration::from_secs(3 * 3600);

/// How often it is looked whether all is over, and how long after that the last words may take.
const LOOKS: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_secs(60);

thread_local! {
    /// What panicked on this thread: tasks swallow it.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Where simulated time begins: now, so that certificates which are issued now are valid. All seeds of a process begin at
/// the same moment.
static EPOCH: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// One fleet's CAs, for all seeds.
static AUTHORITY: LazyLock<Arc<Authority>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(Authority::create(&folder.path().join("authority"), "wire.test").unwrap())
});

/// Runs one seed on this thread.
pub(crate) fn run(seed: u64, mutant: Option<Mutant>) -> Ran {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with_borrow_mut(|panics| panics.push(panic.to_string()));
            before(panic);
        }));
    });
    PANICS.with_borrow_mut(Vec::clear);
    let world = Arc::new(make(seed, mutant));
    live(&world, seed);
    let mut violations = world.violations();
    PANICS.with_borrow_mut(|panics| violations.append(panics));
    let totals = std::mem::take(&mut world.ledger().totals);
    Ran { violations, trace: world.trace(), totals }
}

/// The operator's key, and the trust list that names it.
pub(crate) fn trust() -> (SigningKey, SignedTrustList, TrustedKeys) {
    let key = SigningKey::from_seed(&[7; 32]);
    let public_key = key.public().to_bytes().to_vec();
    let operators = vec![TrustedOperator { person: PERSON.to_owned(), public_key }];
    let trust_list = TrustList { version: 1, operators }.encode_to_vec();
    let signatures = vec![key.sign(Domain::TrustList, &trust_list)];
    let list = SignedTrustList { trust_list, signatures };
    let keys = TrustedKeys::pinned(&list, &digest(&list.trust_list)).unwrap();
    (key, list, keys)
}

/// Five hosts, an operator and a store that knows them.
fn make(seed: u64, mutant: Option<Mutant>) -> World {
    let authority = Arc::clone(&AUTHORITY);
    let (key, list, keys) = trust();
    let public_key = key.public().to_bytes();
    let first = NewOperator { name: PERSON.to_owned(), public_key, version: 1, trust_list: list };
    let disk = Disk::default();
    let store = Memory::open(disk.clone(), Arc::new(Calm));
    let names: Vec<_> = AGENTS.map(str::to_owned).into();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (own, rows) = runtime.block_on(enrol_with(&store, &authority, first, &names)).unwrap();
    let hosts = AGENTS.iter().zip(rows).map(|(name, (row, credential))| {
        let roots = ServerTrust::Roots(authority.roots(Role::Controller));
        let tls = client_config(roots, Some(&credential)).unwrap();
        Host { name, id: row.id, tls, platter: Platter::new(), ill: Default::default() }
    });
    let hosts = hosts.collect();
    let laptop = tempfile::Builder::new().prefix("vigie-wire-").tempdir_in(scratch()).unwrap();
    ctl::log_in(laptop.path(), &authority, PERSON, &own, &key);
    World::new(seed, mutant, Made { authority, hosts, keys, laptop, disk })
}

/// In memory where there is such a place: a laptop's disk is no fault of a simulation.
fn scratch() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

fn live(world: &Arc<World>, seed: u64) {
    let wishes = {
        let mut chance = world.chance();
        for host in &world.hosts {
            for stack in STACKS {
                if chance.one_in(2) {
                    lock(&host.ill).insert(stack.to_owned());
                }
            }
        }
        let count = 1 + chance.below(3);
        (0..count).map(|_| (chance.pick(&WISHES), 500 + chance.below(20_000))).collect()
    };
    lock(&world.notebook).wishes = wishes;
    let mut sim = turmoil::Builder::new()
        .epoch(*EPOCH)
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::from_secs(24 * 3600))
        .min_message_latency(SHORTEST_LATENCY)
        .max_message_latency(LONGEST_LATENCY)
        .tcp_capacity(1024)
        .build();
    for (which, name) in CONTROLLERS.into_iter().enumerate() {
        let world = Arc::clone(world);
        sim.host(name, move || controller::live(Arc::clone(&world), which));
    }
    for (host, name) in AGENTS.into_iter().enumerate() {
        let world = Arc::clone(world);
        sim.host(name, move || agent::live(Arc::clone(&world), host));
    }
    {
        let world = Arc::clone(world);
        sim.host(LAPTOP, move || ctl::live(Arc::clone(&world)));
    }
    sim.crash(CONTROLLERS[1]);
    play(world, &mut sim);
    // While there is a simulation still: what ends looks at the clock.
    for name in CONTROLLERS.into_iter().chain(AGENTS).chain([LAPTOP]) {
        sim.crash(name);
    }
}

/// Lets time pass until everything is over, or something is wrong.
fn play(world: &Arc<World>, sim: &mut turmoil::Sim<'_>) {
    let mut faults = Faults::of(world);
    let mut looks = Duration::ZERO;
    let mut settled = None;
    loop {
        if let Err(error) = sim.step() {
            world.violated(format_args!("the simulation ends: {error}"));
        }
        let now = sim.elapsed();
        world.passed(now);
        if !world.violations().is_empty() {
            return;
        }
        faults.befall(world, sim);
        let Some(mended) = faults.mended() else { continue };
        if now < looks {
            continue;
        }
        looks = now + LOOKS;
        let unsettled = world.unsettled();
        let all_over = unsettled.is_empty() && lock(&world.notebook).done;
        match settled {
            Some(since) if all_over && now >= since + LAST_WORDS => break,
            Some(_) if all_over => {}
            _ if all_over => settled = Some(now),
            _ if now > mended + SETTLES => {
                world.violated(format_args!("hangs: {}", unsettled.join(", ")));
                return;
            }
            _ => settled = None,
        }
    }
    world.settled();
    let seconds = sim.elapsed().as_secs();
    *world.ledger().totals.entry("simulated seconds").or_default() += seconds;
}
