//! What is known from outside: which orders were signed, sent, begun and done, and what the controller's disk says of
//! each run. Every invariant is looked at here, at the moment at which it could break: an order's in [`seen`], a run's in
//! [`model`], and what has to agree in the end in [`settled`].

mod model;
mod seen;
mod settled;

use std::collections::{BTreeMap, BTreeSet};

use vigie_controller::store::memory::Disk;
use vigie_proto::{
    id::RunId,
    order::CLOCK_ALLOWANCE_MS,
    v1::{Execute, Leaf, Manifest, Outcome, OutcomeStatus, RunPhase},
};
use vigie_runbook::run::TaskState;

use crate::link::order_of;
use model::Model;

/// The code of an outcome that the controller wrote since it lost sight of an agent.
const LOST_SIGHT: &str = "lost_sight";

/// How long the controller waits for an agent's word after an order's last possible end.
const PATIENCE_MS: i64 = 60_000;

/// Orders that are kept to come again, for each host.
const OLD_ORDERS: usize = 40;

#[derive(Default)]
pub(crate) struct Ledger {
    deeds: BTreeMap<String, Deed>,
    /// By host and order: the epochs under which it reached the agent's present process.
    delivered: BTreeMap<(usize, String), BTreeSet<u64>>,
    /// By host and run: the highest epoch that an order began under for certain.
    begun_under: BTreeMap<(usize, String), u64>,
    /// What was sent to each host.
    old: BTreeMap<usize, Vec<Execute>>,
    runs: BTreeMap<RunId, Model>,
    /// How often events were committed.
    pub(crate) commits: u64,
    /// Operators who have still to look, to resolve or to try again.
    pub(crate) at_work: u32,
    pub(crate) totals: BTreeMap<&'static str, u64>,
}

/// An order that was signed, and what became of it on its host.
struct Deed {
    host: String,
    run: String,
    not_after_ms: i64,
    timeout_ms: i64,
    begun: u32,
    effects: u32,
    returned: Option<Outcome>,
    /// What each operator saw who looked whether it was done.
    looks: BTreeSet<bool>,
}

impl Ledger {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.totals.entry(what).or_default() += 1;
    }

    /// An operator is about to sign this.
    pub(crate) fn signed(&mut self, manifest: &Manifest, leaf: &Leaf) {
        let deed = Deed {
            host: leaf.host.clone(),
            run: manifest.run.clone(),
            not_after_ms: manifest.not_after_ms,
            timeout_ms: leaf.timeout_ms.into(),
            begun: 0,
            effects: 0,
            returned: None,
            looks: BTreeSet::new(),
        };
        self.deeds.entry(leaf.order.clone()).or_insert(deed);
    }

    /// A new process of an agent has seen nothing.
    pub(crate) fn forget_deliveries(&mut self, host: usize) {
        self.delivered.retain(|(to, _), _| *to != host);
    }

    /// An order that a controller sent to a host under an epoch that is over: one that did not begin, if there is one.
    pub(crate) fn stale(&self, host: usize) -> Option<Execute> {
        let (runs, deeds) = (&self.runs, &self.deeds);
        let has_begun = |execute: &&Execute| deeds.get(&order_of(execute)).is_some_and(|deed| deed.begun > 0);
        let is_old = |execute: &&Execute| {
            let order = order_of(execute);
            let known = runs.values().find(|model| model.state.tasks().any(|task| task.leaf.order == order));
            known.is_some_and(|model| execute.epoch < model.state.epoch())
        };
        self.old.get(&host)?.iter().filter(is_old).min_by_key(has_begun).cloned()
    }

    /// After a crash of the controller: what its disk has for certain.
    pub(crate) fn read_again(&mut self, disk: &Disk) {
        self.runs.clear();
        for run in disk.runs() {
            let events = disk.events(run);
            if let Some(model) = Model::read(run, &events) {
                self.runs.insert(run, model);
            }
        }
    }

    /// When the controller loses sight of each order that is under way, and on which host.
    pub(crate) fn lost_sight(&self) -> Vec<(i64, String)> {
        let tasks = self.runs.values().flat_map(|model| model.state.tasks());
        let under_way = tasks.filter(|task| matches!(task.state, TaskState::Sent | TaskState::Running));
        let lost = under_way.filter_map(|task| {
            let deed = self.deeds.get(&task.leaf.order)?;
            let at_ms = deed.not_after_ms + CLOCK_ALLOWANCE_MS + deed.timeout_ms + PATIENCE_MS;
            Some((at_ms, deed.host.clone()))
        });
        lost.collect()
    }

    fn returned(&self, order: &str) -> bool {
        self.deeds.get(order).is_some_and(|deed| deed.returned.is_some())
    }

    /// Whether a run is over, as its committed events tell it.
    pub(crate) fn is_closed(&self, run: RunId) -> bool {
        self.runs.get(&run).is_some_and(|model| model.state.closed().is_some())
    }

    /// An operator looks where nobody knows what became of an order, and sees whether it was done.
    pub(crate) fn looks(&mut self, order: &str) -> bool {
        let Some(deed) = self.deeds.get_mut(order) else { return false };
        deed.looks.insert(deed.effects > 0);
        deed.effects > 0
    }

    /// Whether every run is closed or waits for a person, and nobody is at work, as a line about those that do not.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let open = self.runs.values().filter(|model| {
            let person = [RunPhase::Closed, RunPhase::AwaitingSignature, RunPhase::AwaitingPerson];
            !person.contains(&model.state.phase())
        });
        let open =
            open.map(|model| format!("{} in phase {}", model.state.run(), model.state.phase().as_str_name()));
        let at_work = (self.at_work > 0).then(|| format!("{} operators at work", self.at_work));
        open.chain(at_work).collect()
    }
}

fn is_guess(outcome: &Outcome) -> bool {
    outcome.failure.as_ref().is_some_and(|failure| failure.code == LOST_SIGHT)
}

/// Whether it says that an order did not begin and will not.
fn never_began(outcome: &Outcome) -> bool {
    match outcome.status() {
        OutcomeStatus::Refused | OutcomeStatus::Expired | OutcomeStatus::Unreachable => true,
        OutcomeStatus::Cancelled => outcome.started_at_ms == 0,
        _ => false,
    }
}

/// Whether it was told by a process that had not seen how the order ended.
fn looked_back(told: &Outcome) -> bool {
    !told.found.is_empty() || told.status() == OutcomeStatus::InDoubt
}
