//! What is known from outside: which orders were signed, sent, begun and done, and what the controller's disk says of
//! each run. Every invariant is looked at here, at the moment at which it could break.

use std::collections::{BTreeMap, BTreeSet};

use vigie_agent::host::journal::Entry;
use vigie_controller::{audit, store::memory::Disk};
use vigie_proto::{
    id::RunId,
    order::CLOCK_ALLOWANCE_MS,
    v1::{
        Execute, Leaf, Manifest, Outcome, OutcomeStatus, PlanEntry, ProbePurpose, RunEvent, RunPhase,
        RunSummary, ToAgent, run_event::Event, to_agent,
    },
};
use vigie_runbook::run::{State, TaskState};

use crate::{link::order_of, world::World};

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
    /// Orders that came again from an earlier controller.
    replayed: BTreeSet<String>,
    runs: BTreeMap<RunId, Model>,
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
}

/// A run as its committed events tell it.
struct Model {
    state: State,
    plans: Vec<PlanSeen>,
    ended: BTreeMap<String, Outcome>,
    verified: BTreeMap<u32, bool>,
}

/// A plan, and whether it was agreed to.
struct PlanSeen {
    agreed: bool,
    entries: Vec<PlanEntry>,
    orders: Vec<String>,
}

/// How an entry of a plan stands.
#[derive(Debug, PartialEq, Eq)]
enum Stands {
    Good,
    Bad,
    /// Begun, or to begin.
    Open,
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
        };
        self.deeds.entry(leaf.order.clone()).or_insert(deed);
    }

    /// A new process of an agent has seen nothing.
    pub(crate) fn forget_deliveries(&mut self, host: usize) {
        self.delivered.retain(|(to, _), _| *to != host);
    }

    /// An order that a controller sent to a host under an epoch that is over: one that did not begin, if there is one.
    pub(crate) fn stale(&mut self, host: usize) -> Option<Execute> {
        let (runs, deeds) = (&self.runs, &self.deeds);
        let has_begun = |execute: &&Execute| deeds.get(&order_of(execute)).is_some_and(|deed| deed.begun > 0);
        let is_old = |execute: &&Execute| {
            let order = order_of(execute);
            let known = runs.values().find(|model| model.state.tasks().any(|task| task.leaf.order == order));
            known.is_some_and(|model| execute.epoch < model.state.epoch())
        };
        let old = self.old.get(&host)?.iter().filter(is_old).min_by_key(has_begun)?.clone();
        self.replayed.insert(order_of(&old));
        Some(old)
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

    /// Whether every run is closed or waits for a person, as a line about those that do not.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let open = self.runs.values().filter(|model| {
            let person = [RunPhase::Closed, RunPhase::AwaitingSignature, RunPhase::AwaitingPerson];
            !person.contains(&model.state.phase())
        });
        open.map(|model| format!("{} in phase {}", model.state.run(), model.state.phase().as_str_name()))
            .collect()
    }
}

impl Model {
    fn read(run: RunId, events: &[RunEvent]) -> Option<Self> {
        let (first, rest) = events.split_first()?;
        let state = State::fold(run, [first]).ok()?;
        let mut model = Self { state, plans: Vec::new(), ended: BTreeMap::new(), verified: BTreeMap::new() };
        for event in rest {
            model.follow(event).ok()?;
        }
        Some(model)
    }

    /// Folds an event, and says what it breaks.
    fn follow(&mut self, event: &RunEvent) -> Result<(), String> {
        // What was in doubt may be resolved behind it.
        if self.state.closed().is_some() && !matches!(event.event, Some(Event::Resolved(_))) {
            return Err("an event follows the run's end".to_owned());
        }
        match &event.event {
            Some(Event::Planned(planned)) => {
                self.plans.retain(|plan| plan.agreed);
                self.plans.push(PlanSeen {
                    agreed: planned.entries.iter().all(|entry| entry.refused.is_some()),
                    entries: planned.entries.clone(),
                    orders: Vec::new(),
                });
            }
            Some(Event::Lapsed(_)) => self.plans.retain(|plan| plan.agreed),
            Some(Event::Signed(_)) => {
                if let Some(plan) = self.plans.last_mut() {
                    plan.agreed = true;
                }
            }
            Some(Event::Ended(ended)) => {
                for task in &ended.tasks {
                    self.ended.insert(task.order.clone(), task.outcome.clone().unwrap_or_default());
                }
            }
            Some(Event::Resolved(resolved)) => {
                for task in &resolved.tasks {
                    self.ended.insert(task.order.clone(), task.outcome.clone().unwrap_or_default());
                }
            }
            Some(Event::Concluded(concluded)) => {
                let verified =
                    concluded.conclusions.iter().filter(|c| c.purpose() == ProbePurpose::Verification);
                self.verified.extend(verified.map(|conclusion| (conclusion.target, conclusion.verified)));
            }
            Some(Event::Sent(sent)) => self.budget(&sent.orders)?,
            _ => {}
        }
        self.state.apply(event).map_err(|corrupt| format!("the log does not fold: {corrupt}"))?;
        if let Some(Event::Planned(_)) = &event.event
            && let Some(plan) = self.plans.last_mut()
        {
            let orders: Vec<_> = self.state.tasks().map(|task| task.leaf.order.clone()).collect();
            let own = plan.entries.iter().map(|entry| entry.leaves.len()).sum::<usize>();
            plan.orders = orders[orders.len() - own..].to_vec();
        }
        Ok(())
    }

    fn stands(&self, plan: &PlanSeen, entry: &PlanEntry) -> Stands {
        let outcomes: Vec<_> =
            entry.leaves.iter().map(|leaf| self.ended.get(&plan.orders[*leaf as usize])).collect();
        if outcomes.iter().any(Option::is_none) {
            return if entry.refused.is_some() { Stands::Bad } else { Stands::Open };
        }
        let succeeded =
            entry.refused.is_none() && outcomes.iter().flatten().all(|outcome| outcome.is_success());
        match (succeeded, self.verified.get(&entry.target)) {
            (false, _) | (_, Some(false)) => Stands::Bad,
            (true, Some(true)) => Stands::Good,
            (true, None) => Stands::Open,
        }
    }

    /// A rollout's next orders: everything before their wave is settled, and no more of it went wrong than may.
    fn budget(&self, orders: &[String]) -> Result<(), String> {
        let Some(runbook) = self.state.runbook() else { return Ok(()) };
        let rollout = &runbook.runbook().rollout;
        let Some(plan) = self.plans.last() else { return Err("orders are sent without a plan".to_owned()) };
        // What loses something has a plan for each wave.
        let by_waves = plan.entries.iter().any(|entry| !entry.prepared.is_empty());
        let sizes = match by_waves {
            true => vec![plan.entries.len()],
            false => rollout.waves(plan.entries.len()),
        };
        let mut begins = 0;
        let mut earlier = 0;
        for size in sizes {
            let wave = &plan.entries[begins..begins + size];
            let sends = wave.iter().flat_map(|entry| &entry.leaves);
            if sends.into_iter().any(|leaf| orders.contains(&plan.orders[*leaf as usize])) {
                earlier = begins;
            }
            begins += size;
        }
        let before = self.plans[..self.plans.len() - 1]
            .iter()
            .flat_map(|plan| plan.entries.iter().map(move |e| (plan, e)));
        let own = plan.entries.iter().map(|entry| (plan, entry));
        let (mut bad, mut open) = (0, 0);
        for (plan, entry) in before.chain(own.clone().take(earlier)) {
            match self.stands(plan, entry) {
                Stands::Good => {}
                Stands::Bad => bad += 1,
                Stands::Open => open += 1,
            }
        }
        if open > 0 {
            return Err(format!("a wave begins while {open} targets before it are under way"));
        }
        bad += own.skip(earlier).filter(|(plan, entry)| self.stands(plan, entry) == Stands::Bad).count();
        if bad > rollout.max_failures {
            return Err(format!("{bad} targets went wrong, {} may, and more is sent", rollout.max_failures));
        }
        Ok(())
    }
}

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

    fn came_late(&self, order: &str) -> bool {
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
            let what = event.event.as_ref().map_or("nothing", word);
            self.note(format_args!("{name} #{} {what}", event.seq));
        }
        let mut ledger = self.ledger();
        let mut broken = Vec::new();
        match ledger.runs.get_mut(&run) {
            Some(model) => broken.extend(events.iter().filter_map(|event| model.follow(event).err())),
            None => match Model::read(run, events) {
                Some(model) => {
                    ledger.count("runs");
                    ledger.runs.insert(run, model);
                }
                None => broken.push("its beginning does not fold".to_owned()),
            },
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

    /// Everything is over: what is known at each place agrees.
    pub(crate) fn settled(&self) {
        let mut wrong = Vec::new();
        if let Err(broken) = audit::verify(&self.disk.audit()) {
            wrong.push(format!("the audit: {broken}"));
        }
        let mut counts = Vec::new();
        let mut ledger = self.ledger();
        let mut believed = BTreeMap::new();
        for run in self.disk.runs() {
            let events = self.disk.events(run);
            let state = State::fold(run, &events).unwrap();
            if let Some(model) = ledger.runs.get(&run)
                && format!("{state:?}") != format!("{:?}", model.state)
            {
                wrong.push(format!("{}: its log folds to something else", self.name("r", &run.to_string())));
            }
            counts.push(state.closed().map_or("waiting", |(verdict, _, _)| verdict.as_str_name()));
            for task in state.tasks() {
                believed.insert(task.leaf.order.clone(), task.outcome.clone());
            }
        }
        for (order, outcome) in &believed {
            let name = self.name("o", order);
            let Some(outcome) = outcome else { continue };
            let deed = ledger.deeds.get(order);
            let (effects, returned) = deed.map_or((0, None), |deed| (deed.effects, deed.returned.as_ref()));
            counts.push(outcome.status().word());
            match outcome.status() {
                // Nobody saw it end, and a look at the host told.
                OutcomeStatus::Succeeded | OutcomeStatus::Failed
                    if !outcome.found.is_empty() && outcome.is_success() != (effects > 0) =>
                {
                    wrong.push(format!(
                        "{name} is told as {} by a witness, and was not",
                        outcome.status().word()
                    ));
                }
                OutcomeStatus::Succeeded | OutcomeStatus::Failed if !outcome.found.is_empty() => {}
                OutcomeStatus::Succeeded | OutcomeStatus::Failed => {
                    let same = returned.is_some_and(|returned| {
                        (returned.status, &returned.result, &returned.failure)
                            == (outcome.status, &outcome.result, &outcome.failure)
                    });
                    if !same {
                        wrong.push(format!(
                            "{name} is told as {}, and that is not what it returned",
                            outcome.status().word()
                        ));
                    }
                }
                OutcomeStatus::InDoubt => {}
                // A late message of an earlier controller may do what a failing journal refused and forgot.
                _ if effects > 0 && !(self.forgot(outcome) && ledger.replayed.contains(order)) => {
                    wrong.push(format!("{name} is told as {}, and it was done", outcome.status().word()));
                }
                _ => {}
            }
        }
        for host in &self.hosts {
            let (records, broken) = host.platter.certain();
            if let Some(seq) = broken
                && !host.sync_failed.load(std::sync::atomic::Ordering::SeqCst)
            {
                wrong.push(format!("{}: the journal is corrupt from record {seq} on", host.name));
            }
            for record in &records {
                let Some(Entry::Finished(finished)) = &record.entry else { continue };
                let name = self.name("o", &finished.order);
                let told: Outcome = prost::Message::decode(finished.outcome.as_slice()).unwrap();
                match believed.get(&finished.order) {
                    Some(Some(outcome)) if *outcome == told => {}
                    Some(Some(outcome)) if is_guess(outcome) && self.came_late(&finished.order) => {}
                    // Its end was told, and the journal could not have it any more: a look at the host is all that a
                    // later process had.
                    Some(Some(outcome))
                        if looked_back(&told)
                            && (looked_back(outcome) || ledger.returned(&finished.order)) => {}
                    // Its start could not be synced, so that it was refused; what the failed write left is looked at later.
                    Some(Some(outcome))
                        if self.forgot(outcome) && looked_back(&told) && !told.is_success() => {}
                    other => {
                        let other = other
                            .and_then(Option::as_ref)
                            .map_or("nothing", |outcome| outcome.status().word());
                        wrong.push(format!(
                            "{name} ended as {} on {}, and is told as {other}",
                            told.status().word(),
                            host.name
                        ));
                    }
                }
            }
        }
        for what in counts {
            ledger.count(what);
        }
        drop(ledger);
        for what in wrong {
            self.violated(what);
        }
    }

    /// Whether a journal refused an order without keeping that.
    fn forgot(&self, outcome: &Outcome) -> bool {
        let code = outcome.failure.as_ref().map_or("", |failure| failure.code.as_str());
        code.starts_with("journal_")
    }
}

fn is_guess(outcome: &Outcome) -> bool {
    outcome.failure.as_ref().is_some_and(|failure| failure.code == LOST_SIGHT)
}

/// Whether it was told by a process that had not seen how the order ended.
fn looked_back(told: &Outcome) -> bool {
    !told.found.is_empty() || told.status() == OutcomeStatus::InDoubt
}

fn word(event: &Event) -> &'static str {
    match event {
        Event::Opened(_) => "opened",
        Event::Owned(_) => "owned",
        Event::Observed(_) => "observed",
        Event::Concluded(_) => "concluded",
        Event::Planned(_) => "planned",
        Event::Signed(_) => "signed",
        Event::Sent(_) => "sent",
        Event::Started(_) => "started",
        Event::Ended(_) => "ended",
        Event::Noted(_) => "noted",
        Event::Closed(_) => "closed",
        Event::WaitsOpened(_) => "waits",
        Event::WaitsClosed(_) => "waits no more",
        Event::ManualDone(_) => "done by hand",
        Event::LeftOut(_) => "left out",
        Event::Held(_) => "held",
        Event::Lapsed(_) => "lapsed",
        Event::CancelAsked(_) => "cancel asked",
        Event::Resolved(_) => "resolved",
    }
}
