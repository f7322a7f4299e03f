//! What happens on hosts, between them and the controller, and on its disk, looked at as it does.

use vigie_agent::host::journal::Entry;
use vigie_proto::{
    id::RunId,
    order::CLOCK_ALLOWANCE_MS,
    v1::{Outcome, RunEvent, RunSummary, ToAgent, run_event::Event, to_agent},
};
use vigie_runbook::run::TaskState;

use super::{OLD_ORDERS, is_guess, model::Model};
use crate::{common, link::order_of, world::World};

impl World {
    /// An order begins on a host.
    pub(crate) fn begins(&self, host: usize, order: &str) {
        let name = self.name("o", order);
        self.note(format_args!("{}: {name} begins", self.hosts[host].name));
        let (certain, _) = self.hosts[host].platter.certain();
        let started = certain.iter().find_map(|record| match &record.entry {
            Some(Entry::Started(started)) if started.order == order => Some(started),
            _ => None,
        });
        if started.is_none() {
            self.violated(format_args!("{name} begins, and its start is not on the disk"));
        }
        let now_ms = self.host_now_ms(host);
        let mut ledger = self.ledger();
        let ledger = &mut *ledger;
        ledger.count("begun");
        let Some(deed) = ledger.deeds.get_mut(order) else {
            return self.violated(format_args!("{name} begins, and nobody signed it"));
        };
        if deed.host != self.hosts[host].id.to_string() {
            self.violated(format_args!("{name} is another host's"));
        }
        deed.begun += 1;
        if deed.begun > 1 {
            self.violated(format_args!("{name} begins for the {}. time", deed.begun));
        }
        let late_ms = now_ms - deed.not_after_ms - CLOCK_ALLOWANCE_MS;
        if late_ms > 0 {
            self.violated(format_args!("{name} begins {late_ms} ms too late"));
        }
        let key = (host, deed.run.clone());
        let epochs = ledger.delivered.get(&(host, order.to_owned()));
        if let Some(started) = started
            && !epochs.is_some_and(|epochs| epochs.contains(&started.epoch))
        {
            self.violated(format_args!(
                "{name} begins under epoch {}, and never came under it",
                started.epoch
            ));
        }
        let (lowest, highest) = epochs.map_or((0, 0), |epochs| {
            (epochs.first().copied().unwrap_or_default(), epochs.last().copied().unwrap_or_default())
        });
        let under = ledger.begun_under.entry(key).or_default();
        if highest < *under {
            self.violated(format_args!("{name} begins under epoch {highest}, and {under} was seen"));
        }
        *under = (*under).max(lowest);
    }

    /// What an order is for is done.
    pub(crate) fn does(&self, host: usize, order: &str) {
        let name = self.name("o", order);
        self.note(format_args!("{}: {name} is done", self.hosts[host].name));
        let mut ledger = self.ledger();
        ledger.count("effects");
        if let Some(deed) = ledger.deeds.get_mut(order) {
            deed.effects += 1;
            if deed.effects > 1 {
                self.violated(format_args!("{name} is done for the {}. time", deed.effects));
            }
        }
    }

    /// How an order went, as its executor tells.
    pub(crate) fn returned(&self, host: usize, order: &str, outcome: &Outcome) {
        let (name, status) = (self.name("o", order), outcome.status().word());
        self.note(format_args!("{}: {name} {status}", self.hosts[host].name));
        if let Some(deed) = self.ledger().deeds.get_mut(order) {
            deed.returned = Some(outcome.clone());
        }
    }

    /// Whether an order was done, for a witness to tell.
    pub(crate) fn was_done(&self, order: &str) -> bool {
        self.ledger().deeds.get(order).is_some_and(|deed| deed.effects > 0)
    }

    /// A message leaves the controller.
    pub(crate) fn sent(&self, host: usize, message: &ToAgent) {
        let place = &self.hosts[host];
        match &message.message {
            Some(to_agent::Message::Execute(execute)) => {
                let order = order_of(execute);
                self.note(format_args!(
                    "{} ▼ execute {} e{}",
                    place.name,
                    self.name("o", &order),
                    execute.epoch
                ));
                let mut ledger = self.ledger();
                let owner = ledger
                    .runs
                    .values()
                    .find(|model| model.state.tasks().any(|task| task.leaf.order == order));
                match owner {
                    None => {
                        self.violated(format_args!("{} is sent, and no plan has it", self.name("o", &order)));
                    }
                    Some(model) => {
                        let task = model.state.tasks().find(|task| task.leaf.order == order);
                        if task.is_none_or(|task| task.state == TaskState::Pending) {
                            self.violated(format_args!(
                                "{} is sent before that is on the disk",
                                self.name("o", &order)
                            ));
                        }
                        if execute.epoch != model.state.epoch() {
                            self.violated(format_args!(
                                "{} is sent under epoch {}",
                                self.name("o", &order),
                                execute.epoch
                            ));
                        }
                    }
                }
                let old = ledger.old.entry(host).or_default();
                if old.len() < OLD_ORDERS {
                    old.push(execute.clone());
                }
            }
            Some(to_agent::Message::Acknowledge(acknowledge)) => {
                for order in &acknowledge.orders {
                    let name = self.name("o", order);
                    self.note(format_args!("{} ▼ acknowledge {name}", place.name));
                    if !self.is_kept(order) {
                        self.violated(format_args!(
                            "{name} is acknowledged, and how it ended is not on the disk"
                        ));
                    }
                }
            }
            Some(to_agent::Message::Probe(probe)) => {
                self.note(format_args!("{} ▼ ask {}", place.name, self.name("p", &probe.task)));
            }
            Some(to_agent::Message::Prepare(prepare)) => {
                self.note(format_args!("{} ▼ prepare {}", place.name, self.name("p", &prepare.task)));
            }
            Some(to_agent::Message::Welcome(_)) => self.note(format_args!("{} ▼ welcome", place.name)),
            _ => {}
        }
    }

    /// Whether the controller's disk has an order's end as an agent told it.
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
        let disk = &self.disk;
        disk.runs().into_iter().any(|run| told(&disk.events(run))) || self.came_late(order)
    }

    pub(super) fn came_late(&self, order: &str) -> bool {
        let records = self.disk.audit();
        records.iter().any(|record| record.line.action == "late-report" && record.line.subject == order)
    }

    /// A message is on its way to a process of a host's agent.
    pub(crate) fn delivered(&self, host: usize, message: &ToAgent) {
        if let Some(to_agent::Message::Execute(execute)) = &message.message {
            let key = (host, order_of(execute));
            self.ledger().delivered.entry(key).or_default().insert(execute.epoch);
        }
    }

    /// Events are committed.
    pub(crate) fn committed(&self, run: RunId, events: &[RunEvent], summary: &RunSummary) {
        let name = self.name("r", &run.to_string());
        for event in events {
            let what = event.event.as_ref().map_or("nothing", common::word);
            self.note(format_args!("{name} #{} {what}", event.seq));
        }
        let mut ledger = self.ledger();
        ledger.commits += 1;
        let mut broken = Vec::new();
        match ledger.runs.get_mut(&run) {
            Some(model) => broken.extend(events.iter().filter_map(|event| model.follow(event).err())),
            None => match Model::read(run, events) {
                Some(model) => {
                    ledger.count("runs");
                    broken.extend(ledger.tries_again(&model).err());
                    ledger.runs.insert(run, model);
                }
                None => broken.push("its beginning does not fold".to_owned()),
            },
        }
        for event in events {
            match &event.event {
                Some(Event::Planned(_)) => broken.extend(ledger.are_new(run).err()),
                Some(Event::Resolved(resolved)) if !resolved.operator.is_empty() => {
                    ledger.count("resolved by a person");
                }
                Some(Event::ManualDone(_)) => ledger.count("done by hand"),
                _ => {}
            }
        }
        if let Some(model) = ledger.runs.get(&run) {
            if model.state.summary() != *summary {
                broken.push("what its driver holds is not what its events tell".to_owned());
            }
            if let Some((verdict, reason, _)) = model.state.closed() {
                self.note(format_args!("{name} is closed: {} ({reason})", verdict.as_str_name()));
            }
        }
        drop(ledger);
        for what in broken {
            self.violated(format_args!("{name}: {what}"));
        }
    }
}
