//! One seed, from its first moment to its last.

use std::{
    cell::RefCell,
    sync::{Arc, Once},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};
use vigie_controller::{
    sim::enrol,
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

use crate::{
    agent, controller, faults,
    mutants::Mutant,
    operator::{NAME, Operator, WISHES},
    world::{Host, STACKS, World, lock},
};

/// After the faults, everything is over within this: a plan's window, an order's longest time, and the patience with
/// which its agent's word is waited for, for each of several waves, and for each time that it is tried again.
const SETTLES: Duration = Duration::from_secs(6 * 3600);

/// What nothing was written in for so long is over, and an outcome that was still on its way has arrived.
const QUIET: Duration = Duration::from_secs(120);

thread_local! {
    /// What panicked on this thread: tasks swallow it.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

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
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let world = runtime.block_on(async {
        let world = Arc::new(make(seed, mutant).await);
        tokio::select! {
            biased;
            () = world.wrong.cancelled() => {}
            () = live(&world) => {}
        }
        world
    });
    for host in &world.hosts {
        drop(lock(&host.agent).take());
    }
    // The controller's machine knows the world that knows the controller.
    drop(world.controller.send_replace(None));
    drop(runtime);
    assert_eq!(
        Arc::strong_count(&world),
        1,
        "something outlives its seed, and a night would not fit into memory"
    );
    let mut violations = world.violations();
    PANICS.with_borrow_mut(|panics| violations.append(panics));
    let totals = std::mem::take(&mut world.ledger().totals);
    Ran { violations, trace: world.trace(), totals }
}

/// Five hosts, a controller and an operator, all enrolled.
async fn make(seed: u64, mutant: Option<Mutant>) -> World {
    let key = SigningKey::from_seed(&[7; 32]);
    let public_key = key.public().to_bytes();
    let operators = vec![TrustedOperator { person: NAME.to_owned(), public_key: public_key.to_vec() }];
    let trust_list = TrustList { version: 1, operators }.encode_to_vec();
    let signatures = vec![key.sign(Domain::TrustList, &trust_list)];
    let list = SignedTrustList { trust_list, signatures };
    let keys = TrustedKeys::pinned(&list, &digest(&list.trust_list)).unwrap();
    let disk = Disk::default();
    let store = Memory::open(disk.clone(), Arc::new(Calm));
    let first = NewOperator { name: NAME.to_owned(), public_key, version: 1, trust_list: list };
    let names: Vec<_> = (1..=5).map(|number| format!("vps{number}")).collect();
    let rows = enrol(&store, first, &names).await.unwrap();
    let hosts = rows.into_iter().map(|row| Host::new(row.name, row.id)).collect();
    World::new(seed, mutant, hosts, key, keys, disk)
}

async fn live(world: &Arc<World>) {
    {
        let mut chance = world.chance();
        for host in &world.hosts {
            for stack in STACKS {
                if chance.one_in(2) {
                    lock(&host.ill).insert(stack.to_owned());
                }
                if chance.one_in(8) {
                    lock(&host.hopeless).insert(stack.to_owned());
                }
            }
        }
    }
    controller::start(world).await;
    for host in 0..world.hosts.len() {
        agent::start(world, host);
    }
    let wishes = {
        let mut chance = world.chance();
        let count = 1 + chance.below(4);
        (0..count).map(|_| (chance.pick(&WISHES), chance.millis(0..60_000))).collect::<Vec<_>>()
    };
    for (wish, after) in wishes {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            sleep(after).await;
            Operator { world, wish }.work().await;
        });
    }
    if world.is(Mutant::EarlyCommit) {
        let world = Arc::clone(world);
        tokio::spawn(async move {
            loop {
                world.pause(0..10_000).await;
                world.disk.settle();
            }
        });
    }
    faults::befall(world).await;
    let until = Instant::now() + SETTLES;
    // Every operator has begun by now.
    let mut quiet_since = None;
    loop {
        sleep(QUIET).await;
        let (unsettled, commits) = {
            let ledger = world.ledger();
            (ledger.unsettled(), ledger.commits)
        };
        if unsettled.is_empty() && quiet_since == Some(commits) {
            break;
        }
        quiet_since = unsettled.is_empty().then_some(commits);
        if Instant::now() > until {
            world.violated(format_args!("hangs: {}", unsettled.join(", ")));
            return;
        }
    }
    world.settled();
}
