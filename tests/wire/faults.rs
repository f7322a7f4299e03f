//! What goes wrong, as the network's and the machines' owner does it: from outside, between two steps.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use turmoil::Sim;

use crate::world::{AGENTS, CONTROLLERS, LAPTOP, World};

/// Between two machines.
pub(crate) const SHORTEST_LATENCY: Duration = Duration::from_millis(1);
pub(crate) const LONGEST_LATENCY: Duration = Duration::from_millis(120);

/// How many messages a bad link loses. One is the end of its connection: nothing sends it again.
const LOSS: f64 = 0.02;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillAgent,
    LosePower,
    KillController,
    KillCtl,
    Partition,
    OneWay,
    Hold,
    Latency,
    Loss,
    SlowStore,
    TakeOver,
}

const ALL: [Fault; 11] = [
    Fault::KillAgent,
    Fault::LosePower,
    Fault::KillController,
    Fault::KillCtl,
    Fault::Partition,
    Fault::OneWay,
    Fault::Hold,
    Fault::Latency,
    Fault::Loss,
    Fault::SlowStore,
    Fault::TakeOver,
];

/// What a link is like.
#[derive(Debug, Clone, Copy)]
enum Condition {
    Slow(Duration),
    Lossy,
    /// Cut, in one direction or both, or held up.
    Closed,
}

/// A machine and a controller's.
type Link = (&'static str, &'static str);

/// What is done later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Bounce(&'static str),
    Repair(&'static str, &'static str),
    Release(&'static str, &'static str),
    /// The name goes back to the controller that was cut off, which still believes that it leads.
    GoBack(usize),
    /// The controller that was taken over from is stopped by somebody at last.
    PutDown(usize),
}

/// A seed's faults.
pub(crate) struct Faults {
    kinds: Vec<Fault>,
    until: Duration,
    gap_ms: u64,
    next: Duration,
    later: Vec<(Duration, Then)>,
    /// Links that something was done to: one thing at a time.
    touched: Vec<(Link, Condition)>,
    mended: Option<Duration>,
}

impl Faults {
    /// Each seed has some kinds of faults: all at once hide each other.
    pub(crate) fn of(world: &World) -> Self {
        let mut chance = world.chance();
        let kinds: Vec<_> = ALL.into_iter().filter(|_| chance.one_in(3)).collect();
        let until = chance.millis(15_000..90_000);
        let gap_ms = chance.pick(&[1_500, 5_000, 15_000]);
        drop(chance);
        world.note(format_args!("faults: {kinds:?}"));
        let (next, later, touched) = (Duration::ZERO, Vec::new(), Vec::new());
        Self { kinds, until, gap_ms, next, later, touched, mended: None }
    }

    /// When everything was put right, which is after the last fault.
    pub(crate) fn mended(&self) -> Option<Duration> {
        self.mended
    }

    /// Does what is due.
    pub(crate) fn befall(&mut self, world: &Arc<World>, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        while let Some(place) = self.later.iter().position(|(at, _)| *at <= now) {
            let (_, then) = self.later.remove(place);
            self.follow_up(world, sim, then);
        }
        if self.mended.is_some() {
            return;
        }
        if now >= self.until {
            self.mend(world, sim);
            return;
        }
        if now < self.next || self.kinds.is_empty() {
            return;
        }
        let kind = {
            let mut chance = world.chance();
            self.next = now + chance.millis(0..self.gap_ms);
            chance.pick(&self.kinds)
        };
        self.strike(world, sim, kind);
    }

    fn after(&mut self, world: &World, sim: &Sim<'_>, millis: std::ops::Range<u64>, then: Then) {
        let at = sim.elapsed() + world.chance().millis(millis);
        self.later.push((at, then));
    }

    fn strike(&mut self, world: &Arc<World>, sim: &mut Sim<'_>, kind: Fault) {
        let host = usize::try_from(world.chance().below(AGENTS.len() as u64)).unwrap();
        match kind {
            Fault::KillAgent => self.kill(world, sim, AGENTS[host], "agents killed"),
            Fault::LosePower => {
                self.kill(world, sim, AGENTS[host], "power losses");
                let mut chance = world.chance();
                let share = chance.below(5);
                world.hosts[host].platter.lose_power(|| chance.below(4) < share);
            }
            Fault::KillController => {
                let leader = CONTROLLERS[world.leader()];
                self.kill(world, sim, leader, "controllers killed");
                if !CONTROLLERS.into_iter().any(|other| sim.is_host_running(other)) {
                    world.disk.crash();
                }
            }
            Fault::KillCtl => self.kill(world, sim, LAPTOP, "vigiectl killed"),
            Fault::SlowStore => {
                let slow = !world.store_is_slow.fetch_xor(true, Ordering::SeqCst);
                world.note(format_args!("the store is {}", if slow { "slow" } else { "well" }));
            }
            Fault::TakeOver => self.take_over(world, sim),
            Fault::Partition | Fault::OneWay | Fault::Hold | Fault::Latency | Fault::Loss => {
                let far = if world.chance().one_in(3) { LAPTOP } else { AGENTS[host] };
                self.network(world, sim, kind, (far, CONTROLLERS[world.leader()]));
            }
        }
    }

    fn kill(&mut self, world: &Arc<World>, sim: &mut Sim<'_>, who: &'static str, counted: &'static str) {
        if !sim.is_host_running(who) {
            return;
        }
        world.note(format_args!("{who} is killed"));
        world.ledger().count(counted);
        self.crash(sim, who);
        self.after(world, sim, 0..20_000, Then::Bounce(who));
    }

    fn network(&mut self, world: &Arc<World>, sim: &mut Sim<'_>, kind: Fault, link: Link) {
        if self.is_touched(link) {
            return;
        }
        let (far, near) = link;
        world.note(format_args!("{kind:?} between {far} and {near}"));
        let longest = if world.chance().one_in(6) { 120_000 } else { 30_000 };
        match kind {
            Fault::Partition => {
                self.touched.push((link, Condition::Closed));
                world.ledger().count("partitions");
                sim.partition(far, near);
            }
            Fault::OneWay => {
                self.touched.push((link, Condition::Closed));
                world.ledger().count("one-way partitions");
                let (from, to) = if world.chance().one_in(2) { (far, near) } else { (near, far) };
                sim.partition_oneway(from, to);
            }
            Fault::Hold => {
                self.touched.push((link, Condition::Closed));
                world.ledger().count("links held");
                sim.hold(far, near);
                return self.after(world, sim, 0..longest, Then::Release(far, near));
            }
            Fault::Latency => {
                world.ledger().count("slow links");
                let latency = world.chance().millis(200..3_000);
                self.touched.push((link, Condition::Slow(latency)));
                sim.set_link_max_message_latency(far, near, latency);
            }
            _ => {
                world.ledger().count("lossy links");
                self.touched.push((link, Condition::Lossy));
                sim.set_link_fail_rate(far, near, LOSS);
            }
        }
        self.after(world, sim, 0..longest, Then::Repair(far, near));
    }

    fn is_touched(&self, link: Link) -> bool {
        self.touched.iter().any(|(touched, _)| *touched == link)
    }

    /// Ends a machine's program. Its connections end in an order that tokio does not promise, so that what the network says
    /// of that must not hang on it: each says so at once.
    fn crash(&self, sim: &mut Sim<'_>, who: &'static str) {
        let links = CONTROLLERS
            .into_iter()
            .flat_map(|near| AGENTS.into_iter().chain([LAPTOP]).map(move |far| (far, near)));
        let links: Vec<Link> = links.filter(|(far, near)| *far == who || *near == who).collect();
        for (far, near) in &links {
            sim.set_link_latency(*far, *near, SHORTEST_LATENCY);
            sim.set_link_fail_rate(*far, *near, 0.0);
        }
        sim.crash(who);
        for (far, near) in links {
            let condition = self.touched.iter().find(|(link, _)| *link == (far, near));
            let latency = match condition {
                Some((_, Condition::Slow(latency))) => *latency,
                _ => LONGEST_LATENCY,
            };
            sim.set_link_max_message_latency(far, near, latency);
            if let Some((_, Condition::Lossy)) = condition {
                sim.set_link_fail_rate(far, near, LOSS);
            }
        }
    }

    /// The controller that leads is cut off from everybody, and another one takes its runs over from the store, which both
    /// can reach. The first one knows nothing of it.
    fn take_over(&mut self, world: &Arc<World>, sim: &mut Sim<'_>) {
        let (old, new) = (world.leader(), 1 - world.leader());
        if sim.is_host_running(CONTROLLERS[new]) || !sim.is_host_running(CONTROLLERS[old]) {
            return;
        }
        let held = world.chance().one_in(2);
        world.note(format_args!(
            "{} is {}, and {} takes over",
            CONTROLLERS[old],
            if held { "held up" } else { "cut off" },
            CONTROLLERS[new]
        ));
        world.ledger().count("controllers taken over from");
        let longest = world.chance().pick(&[8_000, 40_000]);
        for far in AGENTS.into_iter().chain([LAPTOP]) {
            let link = (far, CONTROLLERS[old]);
            if self.is_touched(link) {
                continue;
            }
            self.touched.push((link, Condition::Closed));
            if held {
                sim.hold(far, CONTROLLERS[old]);
                self.after(world, sim, 0..longest, Then::Release(far, CONTROLLERS[old]));
            } else {
                sim.partition(far, CONTROLLERS[old]);
                self.after(world, sim, 0..longest, Then::Repair(far, CONTROLLERS[old]));
            }
        }
        sim.bounce(CONTROLLERS[new]);
        world.leader.store(new, Ordering::SeqCst);
        if world.chance().one_in(2) {
            self.after(world, sim, 3_000..40_000, Then::GoBack(old));
        }
        self.after(world, sim, 20_000..80_000, Then::PutDown(old));
    }

    fn follow_up(&mut self, world: &Arc<World>, sim: &mut Sim<'_>, then: Then) {
        match then {
            Then::Bounce(who) if sim.is_host_running(who) => {}
            Then::Bounce(who) => sim.bounce(who),
            Then::Repair(far, near) => {
                world.note(format_args!("{far} and {near} reach each other again"));
                repair(sim, far, near);
                self.touched.retain(|(link, _)| *link != (far, near));
            }
            Then::Release(far, near) => {
                world.note(format_args!("what {far} and {near} said arrives"));
                sim.release(far, near);
                self.touched.retain(|(link, _)| *link != (far, near));
            }
            Then::GoBack(old) if sim.is_host_running(CONTROLLERS[old]) => {
                world.note(format_args!("the name goes back to {}", CONTROLLERS[old]));
                world.leader.store(old, Ordering::SeqCst);
            }
            Then::GoBack(_) => {}
            Then::PutDown(old) => {
                if sim.is_host_running(CONTROLLERS[old]) {
                    world.note(format_args!("{} is put down", CONTROLLERS[old]));
                    self.crash(sim, CONTROLLERS[old]);
                }
                // It comes back when it is asked to take over.
                self.later.retain(|(_, then)| *then != Then::Bounce(CONTROLLERS[old]));
                let new = 1 - old;
                world.leader.store(new, Ordering::SeqCst);
                if !sim.is_host_running(CONTROLLERS[new]) {
                    sim.bounce(CONTROLLERS[new]);
                }
            }
        }
    }

    /// Everything is put right: one controller, and a network without faults. It is started anew, since a controller takes up
    /// what another one opened when it starts, and only then.
    fn mend(&mut self, world: &Arc<World>, sim: &mut Sim<'_>) {
        world.note("everything is mended");
        self.mended = Some(sim.elapsed());
        self.later.clear();
        for ((far, near), _) in std::mem::take(&mut self.touched) {
            sim.release(far, near);
            repair(sim, far, near);
        }
        world.store_is_slow.store(false, Ordering::SeqCst);
        let leader = world.leader();
        for which in [1 - leader, leader] {
            if sim.is_host_running(CONTROLLERS[which]) {
                self.crash(sim, CONTROLLERS[which]);
            }
        }
        sim.bounce(CONTROLLERS[leader]);
        for who in AGENTS.into_iter().chain([LAPTOP]) {
            if !sim.is_host_running(who) {
                sim.bounce(who);
            }
        }
    }
}

fn repair(sim: &mut Sim<'_>, far: &str, near: &str) {
    sim.repair(far, near);
    sim.set_link_fail_rate(far, near, 0.0);
    sim.set_link_max_message_latency(far, near, LONGEST_LATENCY);
}
