//! What goes wrong: a task that breaks things while it may, and mends all of them at the end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    agent, controller,
    world::{StoreIs, World, lock},
};

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillAgent,
    LosePower,
    LosePowerInSync,
    KillController,
    StopController,
    Partition,
    OneWay,
    JumpClock,
    SlowDisk,
    SyncFails,
    FullDisk,
    SlowStore,
    StoreFails,
}

const ALL: [Fault; 13] = [
    Fault::KillAgent,
    Fault::LosePower,
    Fault::LosePowerInSync,
    Fault::KillController,
    Fault::StopController,
    Fault::Partition,
    Fault::OneWay,
    Fault::JumpClock,
    Fault::SlowDisk,
    Fault::SyncFails,
    Fault::FullDisk,
    Fault::SlowStore,
    Fault::StoreFails,
];

/// Breaks things for a while, then mends them. Each seed has some kinds of faults: all at once hide each other.
pub(crate) async fn befall(world: &Arc<World>) {
    let (kinds, until, gap_ms) = {
        let mut chance = world.chance();
        let kinds: Vec<_> = ALL.into_iter().filter(|_| chance.one_in(3)).collect();
        let until = Instant::now() + chance.millis(20_000..180_000);
        (kinds, until, chance.pick(&[1_500, 6_000, 20_000]))
    };
    world.note(format_args!("faults: {kinds:?}"));
    while Instant::now() < until {
        world.pause(0..gap_ms).await;
        if kinds.is_empty() {
            continue;
        }
        let (kind, host) = {
            let mut chance = world.chance();
            (chance.pick(&kinds), usize::try_from(chance.below(5)).unwrap())
        };
        strike(world, kind, host).await;
    }
    if world.chance().one_in(3) {
        absence(world).await;
    }
    mend(world).await;
}

/// A host is away for so long that the controller loses sight of it, and comes back at about that moment, when the
/// controller's disk may be slow.
async fn absence(world: &Arc<World>) {
    let lost = world.ledger().lost_sight();
    if lost.is_empty() {
        return;
    }
    let ((lost_at_ms, id), around_ms, restarted, store_is) = {
        let mut chance = world.chance();
        let place = chance.below(lost.len() as u64);
        let around_ms = i64::try_from(chance.below(16_000)).unwrap() - 8_000;
        let store_is = StoreIs { slow: chance.one_in(2), failing: chance.one_in(4) };
        (lost[usize::try_from(place).unwrap()].clone(), around_ms, chance.one_in(2), store_is)
    };
    let host = world.hosts.iter().position(|host| host.id.to_string() == id).unwrap();
    let place = &world.hosts[host];
    world.note(format_args!("{}: is away for long", place.name));
    world.ledger().count("long absences");
    place.away.store(true, Ordering::SeqCst);
    place.open.send_replace((false, false));
    let left_ms = u64::try_from(lost_at_ms + around_ms - world.now_ms()).unwrap_or_default();
    sleep(Duration::from_millis(left_ms)).await;
    world.note(format_args!("{}: comes back; the controller's disk: {store_is:?}", place.name));
    *lock(&world.store_is) = store_is;
    place.away.store(false, Ordering::SeqCst);
    place.open.send_replace((true, true));
    if restarted {
        // Which does not wait before it dials.
        agent::start(world, host);
    }
    world.pause(0..60_000).await;
}

async fn strike(world: &Arc<World>, kind: Fault, host: usize) {
    let place = &world.hosts[host];
    let name = &place.name;
    match kind {
        Fault::KillAgent => {
            world.ledger().count("agents killed");
            agent::kill(world, host);
            back(world, host);
        }
        Fault::LosePower => {
            world.ledger().count("power losses");
            agent::lose_power(world, host);
            back(world, host);
        }
        Fault::LosePowerInSync => {
            place.dies_in_sync.store(true, Ordering::SeqCst);
            // The next sync may not come.
            let given_up = Instant::now() + Duration::from_secs(20);
            while Instant::now() < given_up {
                sleep(Duration::from_millis(2)).await;
                if lock(&place.agent).as_ref().is_some_and(|agent| !agent.is_alive()) {
                    world.ledger().count("power losses in a sync");
                    agent::lose_power(world, host);
                    back(world, host);
                    return;
                }
            }
            place.dies_in_sync.store(false, Ordering::SeqCst);
        }
        Fault::KillController => {
            if world.at_work().is_some() {
                world.ledger().count("controllers killed");
                controller::kill(world);
                let world = Arc::clone(world);
                tokio::spawn(async move {
                    world.pause(0..30_000).await;
                    controller::start(&world).await;
                });
            }
        }
        Fault::StopController => {
            if world.at_work().is_some() {
                world.ledger().count("controllers stopped");
                controller::stop(world).await;
                world.pause(0..5_000).await;
                controller::start(world).await;
            }
        }
        Fault::Partition | Fault::OneWay => {
            let open = match kind {
                Fault::OneWay => {
                    let up = world.chance().one_in(2);
                    (up, !up)
                }
                _ => (false, false),
            };
            world.note(format_args!("{name}: the network is {open:?}"));
            world.ledger().count("partitions");
            place.open.send_replace(open);
            let longest = if world.chance().one_in(10) { 1_200_000 } else { 40_000 };
            let world = Arc::clone(world);
            tokio::spawn(async move {
                world.pause(0..longest).await;
                let place = &world.hosts[host];
                if !place.away.load(Ordering::SeqCst) {
                    world.note(format_args!("{}: the network is back", place.name));
                    place.open.send_replace((true, true));
                }
            });
        }
        Fault::JumpClock => {
            let ms = {
                let mut chance = world.chance();
                let longest = chance.pick(&[30_000, 900_000, 7_200_000_u64]);
                i64::try_from(chance.below(2 * longest)).unwrap() - i64::try_from(longest).unwrap()
            };
            world.note(format_args!("{name}: the clock is off by {ms} ms"));
            world.ledger().count("clock jumps");
            place.offset_ms.store(ms, Ordering::SeqCst);
        }
        Fault::SlowDisk => {
            let slow = !place.slow_disk.fetch_xor(true, Ordering::SeqCst);
            world.note(format_args!("{name}: the disk is {}", if slow { "slow" } else { "well" }));
        }
        Fault::SyncFails => {
            place.platter.with(|disk| disk.sync_fails = true);
            world.ledger().count("failed syncs");
        }
        Fault::FullDisk => {
            world.note(format_args!("{name}: the disk is full"));
            world.ledger().count("full disks");
            place.platter.with(|disk| disk.room = Some(0));
        }
        Fault::SlowStore => store(world, StoreIs { slow: true, failing: false }),
        Fault::StoreFails => store(world, StoreIs { slow: false, failing: true }),
    }
}

/// The agent is started again after a while: by systemd, or when the machine is up again.
fn back(world: &Arc<World>, host: usize) {
    let world = Arc::clone(world);
    tokio::spawn(async move {
        world.pause(0..20_000).await;
        agent::start(&world, host);
    });
}

fn store(world: &Arc<World>, is: StoreIs) {
    world.note(format_args!("the controller's disk: {is:?}"));
    world.ledger().count("bad times of the store");
    *lock(&world.store_is) = is;
    let world = Arc::clone(world);
    tokio::spawn(async move {
        world.pause(0..20_000).await;
        *lock(&world.store_is) = StoreIs::default();
    });
}

/// Everything is well again, and stays so.
async fn mend(world: &Arc<World>) {
    // What was to be started is, and what was to end has.
    sleep(Duration::from_secs(31)).await;
    world.note("the faults are over");
    *lock(&world.store_is) = StoreIs::default();
    for (number, host) in world.hosts.iter().enumerate() {
        host.open.send_replace((true, true));
        host.offset_ms.store(0, Ordering::SeqCst);
        host.slow_disk.store(false, Ordering::SeqCst);
        host.dies_in_sync.store(false, Ordering::SeqCst);
        host.platter.with(|disk| disk.room = None);
        // Whose disk failed takes nothing more before it is started again, as its hint says.
        if host.sync_failed.load(Ordering::SeqCst)
            || !lock(&host.agent).as_ref().is_some_and(agent::Process::is_alive)
        {
            agent::kill(world, number);
            agent::start(world, number);
        }
    }
}
