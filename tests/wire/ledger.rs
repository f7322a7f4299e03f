//! What is known from outside: which orders began and were done, what reached each agent, and what the controllers' disk
//! says of each run. Every invariant is looked at here, at the moment at which it could break.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use vigie_agent::host::{Inbox, Outbox, journal::Entry};
use vigie_controller::audit;
use vigie_proto::{
    id::RunId,
    v1::{
        Leaf, Outcome, OutcomeStatus, RunEvent, RunPhase, RunSummary, from_agent, run_event::Event, to_agent,
    },
};
use vigie_runbook::run::State;
use vigie_view::run::RunView;

use crate::{
    common,
    world::{World, lock},
};

/// The code of an outcome that the controller wrote since it lost sight of an agent.
const LOST_SIGHT: &str = "lost_sight";

#[derive(Default)]
pub(crate) struct Ledger {
    deeds: BTreeMap<String, Deed>,
    /// By host and order: the run and the epochs under which it reached the agent's present process.
    delivered: BTreeMap<(usize, String), BTreeSet<u64>>,
    /// By host and run: the highest epoch that an order began under for certain.
    begun_under: BTreeMap<(usize, String), u64>,
    /// Who owns a run, by the last word in its log.
    owners: BTreeMap<RunId, String>,
    pub(crate) totals: BTreeMap<&'static str, u64>,
}

/// An order that began on its host.
#[derive(Default)]
struct Deed {
    begun: u32,
    effects: u32,
    returned: Option<Outcome>,
}

impl Ledger {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.totals.entry(what).or_default() += 1;
    }

    /// A new process of an agent has seen nothing.
    pub(crate) fn forget_deliveries(&mut self, host: usize) {
        self.delivered.retain(|(to, _), _| *to != host);
    }
}

impl World {
    /// A message reached an agent.
    pub(crate) fn arrived(&self, host: usize, what: &Inbox) {
        let name = self.hosts[host].name;
        match what {
            Inbox::Connected => self.note(format_args!("{name} is connected")),
            Inbox::Disconnected => self.note(format_args!("{name} is disconnected")),
            Inbox::Message(message) => match &message.message {
                Some(to_agent::Message::Welcome(welcome)) => {
                    self.ledger().count("sessions");
                    self.note(format_args!("{name} ▼ welcome by {}", welcome.controller));
                }
                Some(to_agent::Message::Probe(probe)) => {
                    self.note(format_args!("{name} ▼ ask {}", self.name("p", &probe.task)));
                }
                Some(to_agent::Message::Prepare(prepare)) => {
                    self.note(format_args!("{name} ▼ prepare {}", self.name("p", &prepare.task)));
                }
                Some(to_agent::Message::Execute(execute)) => {
                    let order = Leaf::decode(execute.leaf.as_slice()).unwrap_or_default().order;
                    let told = self.name("o", &order);
                    self.note(format_args!("{name} ▼ execute {told} e{}", execute.epoch));
                    self.ledger().delivered.entry((host, order)).or_default().insert(execute.epoch);
                }
                Some(to_agent::Message::Acknowledge(acknowledge)) => {
                    for order in &acknowledge.orders {
                        let told = self.name("o", order);
                        self.note(format_args!("{name} ▼ acknowledge {told}"));
                        if !self.is_kept(order) {
                            self.violated(format_args!(
                                "{told} is acknowledged, and how it ended is not on the disk"
                            ));
                        }
                    }
                }
                _ => {}
            },
        }
    }

    /// A message leaves an agent.
    pub(crate) fn told(&self, host: usize, what: &Outbox) {
        use from_agent::Message as M;
        let Outbox::Message(message) = what else { return };
        let told = match &message.message {
            Some(M::Hello(hello)) => {
                let held: Vec<_> = hello.unacknowledged.iter().map(|order| self.name("o", order)).collect();
                format!("hello {}", held.join(" "))
            }
            Some(M::ProbeResult(result)) => format!("answer {}", self.name("p", &result.task)),
            Some(M::Prepared(prepared)) => format!("prepared {}", self.name("p", &prepared.task)),
            Some(M::Started(started)) => format!("started {}", self.name("o", &started.order)),
            Some(M::Finished(finished)) => {
                let outcome = finished.outcome.clone().unwrap_or_default();
                let code = outcome.failure.as_ref().map_or("", |failure| failure.code.as_str());
                if code == "stale_epoch" {
                    self.ledger().count("orders fenced off by an agent");
                }
                format!("finished {} {} {code}", self.name("o", &finished.order), outcome.status().word())
            }
            _ => return,
        };
        self.note(format_args!("{} ▲ {told}", self.hosts[host].name));
    }

    /// An order begins on a host.
    pub(crate) fn begins(&self, host: usize, order: &str) {
        let name = self.name("o", order);
        self.note(format_args!("{}: {name} begins", self.hosts[host].name));
        let (certain, _) = self.hosts[host].platter.certain();
        let started = certain.iter().find_map(|record| match &record.entry {
            Some(Entry::Started(started)) if started.order == order => Some(started.clone()),
            _ => None,
        });
        let mut ledger = self.ledger();
        ledger.count("orders begun");
        let deed = ledger.deeds.entry(order.to_owned()).or_default();
        deed.begun += 1;
        if deed.begun > 1 {
            self.violated(format_args!("{name} begins for the {}. time", deed.begun));
        }
        let Some(started) = started else {
            return self.violated(format_args!("{name} begins, and its start is not on the disk"));
        };
        let came = ledger.delivered.get(&(host, order.to_owned())).cloned().unwrap_or_default();
        if !came.contains(&started.epoch) {
            self.violated(format_args!(
                "{name} begins under epoch {}, and never came under it",
                started.epoch
            ));
        }
        let under = ledger.begun_under.entry((host, started.run.clone())).or_default();
        if started.epoch < *under {
            self.violated(format_args!("{name} begins under epoch {}, and {under} was seen", started.epoch));
        }
        *under = (*under).max(started.epoch);
    }

    /// What an order is for is done.
    pub(crate) fn does(&self, host: usize, order: &str) {
        let name = self.name("o", order);
        self.note(format_args!("{}: {name} is done", self.hosts[host].name));
        let mut ledger = self.ledger();
        ledger.count("effects");
        let deed = ledger.deeds.entry(order.to_owned()).or_default();
        deed.effects += 1;
        if deed.effects > 1 {
            self.violated(format_args!("{name} is done for the {}. time", deed.effects));
        }
    }

    /// How an order went, as its executor tells.
    pub(crate) fn returned(&self, host: usize, order: &str, outcome: &Outcome) {
        let (name, status) = (self.name("o", order), outcome.status().word());
        self.note(format_args!("{}: {name} {status}", self.hosts[host].name));
        self.ledger().deeds.entry(order.to_owned()).or_default().returned = Some(outcome.clone());
    }

    /// Whether an order was done, for a witness to tell.
    pub(crate) fn was_done(&self, order: &str) -> bool {
        self.ledger().deeds.get(order).is_some_and(|deed| deed.effects > 0)
    }

    /// Whether the controllers' disk has an order's end as an agent told it.
    fn is_kept(&self, order: &str) -> bool {
        let told = |events: &[RunEvent]| {
            events.iter().any(|event| {
                let tasks = match &event.event {
                    Some(Event::Ended(ended)) => &ended.tasks,
                    Some(Event::Resolved(resolved)) => &resolved.tasks,
                    _ => return false,
                };
                tasks.iter().any(|task| task.order == order && !task.outcome.as_ref().is_some_and(is_guess))
            })
        };
        self.disk.runs().into_iter().any(|run| told(&self.disk.events(run))) || self.came_late(order)
    }

    fn came_late(&self, order: &str) -> bool {
        let records = self.disk.audit();
        records.iter().any(|record| record.line.action == "late-report" && record.line.subject == order)
    }

    /// A process of a controller commits events. Only the owner's word counts, and whoever owns a run says so first.
    pub(crate) fn committed(&self, process: &str, run: RunId, events: &[RunEvent], summary: &RunSummary) {
        let name = self.name("r", &run.to_string());
        for event in events {
            let what = event.event.as_ref().map_or("nothing", common::word);
            self.note(format_args!("{name} #{} {what} ({process})", event.seq));
            let mut ledger = self.ledger();
            match &event.event {
                Some(Event::Owned(_)) => {
                    let machine = |process: &str| process.split('.').next().map(str::to_owned);
                    let what = match ledger.owners.get(&run) {
                        None => "runs",
                        Some(owner) if machine(owner) == machine(process) => "runs taken up again",
                        Some(_) => "runs taken over from another controller",
                    };
                    ledger.count(what);
                    ledger.owners.insert(run, process.to_owned());
                }
                Some(Event::Opened(_)) => {}
                _ => {
                    let owner = ledger.owners.get(&run).cloned().unwrap_or_default();
                    if owner != process {
                        self.violated(format_args!("{process} writes into {name}, which is {owner}'s"));
                    }
                }
            }
        }
        if RunPhase::try_from(summary.phase) == Ok(RunPhase::Closed) {
            self.note(format_args!("{name} is closed: {}", summary.verdict().as_str_name()));
        }
    }

    /// Whether every run is closed or waits for a person, as a line about those that do not.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let person = [RunPhase::Closed, RunPhase::AwaitingSignature, RunPhase::AwaitingPerson];
        let states = self.disk.runs().into_iter().map(|run| (run, State::fold(run, &self.disk.events(run))));
        let mut open = Vec::new();
        for (run, state) in states {
            let name = self.name("r", &run.to_string());
            match state {
                Ok(state) if person.contains(&state.phase()) => {}
                Ok(state) => open.push(format!("{name} in phase {}", state.phase().as_str_name())),
                Err(corrupt) => self.violated(format_args!("{name} does not fold: {corrupt}")),
            }
        }
        open
    }

    /// Everything is over: what is known at each place agrees.
    pub(crate) fn settled(&self) {
        let mut wrong = Vec::new();
        if let Err(broken) = audit::verify(&self.disk.audit()) {
            wrong.push(format!("the audit: {broken}"));
        }
        let mut believed = BTreeMap::new();
        let runs = self.disk.runs();
        for run in &runs {
            let Ok(state) = State::fold(*run, &self.disk.events(*run)) else { continue };
            let verdict = state.closed().map_or("runs that wait", |(verdict, _, _)| verdict.as_str_name());
            self.ledger().count(verdict);
            for task in state.tasks() {
                believed.insert(task.leaf.order.clone(), task.outcome.clone());
            }
        }
        self.outcomes(&believed, &mut wrong);
        self.journals(&believed, &mut wrong);
        for (run, exit) in &lock(&self.notebook).ended {
            let name = self.name("r", &run.to_string());
            if !runs.contains(run) {
                wrong.push(format!("vigiectl told how {name} ended, and nobody knows of it"));
                continue;
            }
            let mut view = RunView::new(&run.to_string());
            for event in self.disk.events(*run) {
                view.apply(event);
            }
            // What was in doubt may have been resolved since.
            let told_more = view.events.iter().any(|event| matches!(event.event, Some(Event::Resolved(_))));
            if view.closed.is_none() || (view.exit() != *exit && !told_more) {
                wrong.push(format!("vigiectl said {exit:?} of {name}, and its log says {:?}", view.exit()));
            }
            self.ledger().count("verdicts that vigiectl told");
        }
        for what in wrong {
            self.violated(what);
        }
    }

    /// What runs say of orders was so.
    fn outcomes(&self, believed: &BTreeMap<String, Option<Outcome>>, wrong: &mut Vec<String>) {
        let mut ledger = self.ledger();
        for (order, outcome) in believed {
            let name = self.name("o", order);
            let Some(outcome) = outcome else { continue };
            ledger.count(outcome.status().word());
            let deed = ledger.deeds.get(order);
            let (effects, returned) = deed.map_or((0, None), |deed| (deed.effects, deed.returned.as_ref()));
            let status = outcome.status();
            let ended = matches!(status, OutcomeStatus::Succeeded | OutcomeStatus::Failed);
            if ended && !outcome.found.is_empty() {
                // Nobody saw it end, and a look at the host told.
                if outcome.is_success() != (effects > 0) {
                    wrong.push(format!("{name} is told as {} by a witness, and was not", status.word()));
                }
            } else if ended {
                let same = returned.is_some_and(|returned| {
                    (returned.status, &returned.result, &returned.failure)
                        == (outcome.status, &outcome.result, &outcome.failure)
                });
                if !same {
                    wrong.push(format!("{name} is told as {}, and did not return that", status.word()));
                }
            } else if status != OutcomeStatus::InDoubt && effects > 0 {
                wrong.push(format!("{name} is told as {}, and it was done", status.word()));
            }
        }
    }

    /// What journals say of orders is what their runs say.
    fn journals(&self, believed: &BTreeMap<String, Option<Outcome>>, wrong: &mut Vec<String>) {
        for host in &self.hosts {
            let (records, broken) = host.platter.certain();
            if let Some(seq) = broken {
                wrong.push(format!("{}: the journal is corrupt from record {seq} on", host.name));
            }
            for record in &records {
                let Some(Entry::Finished(finished)) = &record.entry else { continue };
                let name = self.name("o", &finished.order);
                let told = Outcome::decode(finished.outcome.as_slice()).unwrap();
                let known = believed.get(&finished.order).and_then(Option::as_ref);
                let agrees = known.is_some_and(|known| {
                    *known == told || (is_guess(known) && self.came_late(&finished.order))
                });
                if !agrees {
                    let known = known.map_or("nothing", |known| known.status().word());
                    let (told, host) = (told.status().word(), host.name);
                    wrong.push(format!("{name} ended as {told} on {host}, and is told as {known}"));
                }
            }
        }
    }
}

fn is_guess(outcome: &Outcome) -> bool {
    outcome.failure.as_ref().is_some_and(|failure| failure.code == LOST_SIGHT)
}
