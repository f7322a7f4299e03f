//! A run as its events tell it: the fold that all views of runs read.
//!
//! It is looser than the controller's own fold: an event that this ctl does not know changes nothing, so that an
//! older ctl can still watch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message as _;
use vigie_proto::v1::{
    Closed, Conclusion, Finding, Leaf, Observation, Opened, Outcome, OutcomeStatus, PlanEntry, Planned,
    ProbePurpose, RunEvent, RunMode, RunVerdict, StackHeld, Target, WaitEnd, run_event::Event,
    run_spec::Kind,
};

use vigie_runbook::{Runbook, run::CHANGES};

use crate::{exit::Exit, names};

/// Everything that has been heard of one run.
#[derive(Debug, Clone, Default)]
pub struct RunView {
    pub run: String,
    pub opened: Opened,
    pub opened_at_ms: i64,
    /// The runbook that the run was opened with; `None` for a single operation, or when it does not read.
    pub runbook: Option<Arc<Runbook>>,
    /// The runbooks of a run of every runbook, by their ids, as far as they read.
    pub runbooks: BTreeMap<String, Arc<Runbook>>,
    pub last_seq: u64,
    /// Every observation, in the order of the events.
    pub observations: Vec<Observation>,
    /// What the rules made of the diagnosis, by target.
    pub conclusions: BTreeMap<u32, Conclusion>,
    /// What the rules made of the latest verification, by target.
    pub verifications: BTreeMap<u32, Conclusion>,
    pub plan: Option<Planned>,
    pub signed: bool,
    /// The tasks of the plans that were signed, and of the latest one, in the order of their leaves.
    pub tasks: Vec<TaskView>,
    /// What the same plans hold, by target.
    pub entries: BTreeMap<u32, PlanEntry>,
    /// How many of the tasks belong to plans before the latest.
    earlier: usize,
    /// Steps that wait, or are left out: by target and place.
    pub steps: BTreeMap<(u32, u32), StepView>,
    /// Targets that wait for other runs, which change their stacks.
    pub held: BTreeMap<u32, StackHeld>,
    pub closed: Option<Closed>,
    pub closed_at_ms: i64,
    /// The events themselves, for timelines and reports.
    pub events: Vec<RunEvent>,
    /// Whether it is read on the very host that it is about: commands are then that host's agent's.
    pub on_host: bool,
}

/// One task of the plan.
#[derive(Debug, Clone)]
pub struct TaskView {
    pub target: u32,
    pub leaf: Leaf,
    pub started_at_ms: i64,
    pub outcome: Option<Outcome>,
}

/// A step that is no task, or whose task is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepView {
    /// It waits since then, and until then.
    Open { manual: bool, says: String, since_ms: i64, until_ms: i64 },
    /// What it waited for came, or a person did it: who, with their note.
    Done(Option<(String, String)>),
    /// The remedy stopped there, and why.
    Stopped(String),
    /// Its condition did not hold; why it could not be judged, where it could not.
    LeftOut(String),
}

/// How a target of a diagnosis fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Findings are confirmed.
    Broken,
    /// Something could not be judged, and nothing is confirmed.
    Unknown,
    /// No probe got through.
    Unreachable,
    /// What is confirmed is worth knowing, and no trouble.
    Noted,
    /// Everything is ruled out.
    Healthy,
}

impl Health {
    /// The word that people and scripts read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Unknown => "unknown",
            Self::Unreachable => "unreachable",
            Self::Noted => "noted",
            Self::Healthy => "healthy",
        }
    }

    fn exit(self) -> Exit {
        match self {
            Self::Broken => Exit::Findings,
            Self::Unknown => Exit::Failed,
            Self::Unreachable => Exit::Unreachable,
            Self::Noted | Self::Healthy => Exit::Ok,
        }
    }
}

impl RunView {
    pub fn new(run: &str) -> Self {
        Self { run: run.to_owned(), ..Self::default() }
    }

    /// A run that its own host shows.
    pub fn on_host(run: &str) -> Self {
        Self { on_host: true, ..Self::new(run) }
    }

    /// Folds one more event; one that was folded before changes nothing.
    pub fn apply(&mut self, event: RunEvent) {
        if event.seq <= self.last_seq {
            return;
        }
        self.last_seq = event.seq;
        match &event.event {
            Some(Event::Opened(opened)) => {
                self.opened = opened.clone();
                self.opened_at_ms = event.at_ms;
                let read = |opened: &vigie_proto::v1::OpenedRunbook| {
                    let runbook = Runbook::parse(&opened.text, &opened.id).ok()?;
                    Some((opened.id.clone(), Arc::new(runbook)))
                };
                self.runbooks = opened.runbooks.iter().filter_map(read).collect();
                self.runbook = self
                    .runbook_id()
                    .filter(|id| !id.is_empty())
                    .and_then(|id| Runbook::parse(&opened.runbook_text, id).ok())
                    .map(Arc::new);
            }
            Some(Event::Observed(observed)) => {
                self.observations.extend(observed.observations.iter().cloned());
            }
            Some(Event::Concluded(concluded)) => {
                for conclusion in &concluded.conclusions {
                    let of = match conclusion.purpose() {
                        ProbePurpose::Verification => &mut self.verifications,
                        _ => &mut self.conclusions,
                    };
                    of.insert(conclusion.target, conclusion.clone());
                }
            }
            Some(Event::Planned(planned)) => {
                self.drop_unsigned();
                self.earlier = self.tasks.len();
                self.tasks.extend(tasks(planned));
                self.entries.extend(planned.entries.iter().map(|entry| (entry.target, entry.clone())));
                self.plan = Some(planned.clone());
                self.signed = false;
            }
            Some(Event::Lapsed(_)) => self.drop_unsigned(),
            Some(Event::Signed(_)) => self.signed = true,
            Some(Event::Started(started)) => {
                for started in &started.tasks {
                    self.task(&started.order, |task| task.started_at_ms = started.at_ms);
                }
            }
            Some(Event::Ended(ended)) => {
                for ended in &ended.tasks {
                    self.task(&ended.order, |task| task.outcome.clone_from(&ended.outcome));
                }
            }
            Some(Event::Resolved(resolved)) => {
                for ended in &resolved.tasks {
                    self.task(&ended.order, |task| task.outcome.clone_from(&ended.outcome));
                }
                if let Some(closed) = &mut self.closed {
                    *closed = Closed { verdict: resolved.verdict, reason: resolved.reason.clone() };
                }
            }
            Some(Event::Closed(closed)) => {
                self.closed = Some(closed.clone());
                self.closed_at_ms = event.at_ms;
            }
            Some(Event::Sent(sent)) => {
                for order in &sent.orders {
                    let task = self.tasks.iter().find(|task| task.leaf.order == *order);
                    if let Some(target) = task.map(|task| task.target) {
                        self.held.remove(&target);
                    }
                }
            }
            Some(Event::WaitsOpened(opened)) => {
                for wait in &opened.waits {
                    let open = StepView::Open {
                        manual: wait.manual,
                        says: wait.says.clone(),
                        since_ms: event.at_ms,
                        until_ms: wait.until_ms,
                    };
                    self.steps.insert((wait.target, wait.step), open);
                    self.held.remove(&wait.target);
                }
            }
            Some(Event::WaitsClosed(closed)) => {
                for wait in &closed.waits {
                    let step = match wait.end() {
                        WaitEnd::Held => StepView::Done(None),
                        _ => StepView::Stopped(wait.why.clone()),
                    };
                    self.steps.insert((wait.target, wait.step), step);
                }
            }
            Some(Event::ManualDone(done)) => {
                for step in &done.steps {
                    let by = (done.operator.clone(), done.note.clone());
                    self.steps.insert((step.target, step.step), StepView::Done(Some(by)));
                }
            }
            Some(Event::LeftOut(left_out)) => {
                for step in &left_out.steps {
                    self.steps.insert((step.target, step.step), StepView::LeftOut(step.unknown.clone()));
                }
            }
            Some(Event::Held(held)) => {
                self.held.extend(held.stacks.iter().map(|held| (held.target, held.clone())));
            }
            Some(Event::Owned(_) | Event::Noted(_) | Event::CancelAsked(_)) | None => {}
        }
        self.events.push(event);
    }

    /// A plan that nobody signed is no part of the run any more.
    fn drop_unsigned(&mut self) {
        if let Some(plan) = self.plan.take_if(|_| !self.signed) {
            self.tasks.truncate(self.earlier);
            self.entries.retain(|target, _| !plan.entries.iter().any(|entry| entry.target == *target));
        }
    }

    /// When what the latest plan would lose was first asked for, by the controller's clock.
    pub fn prepared_at_ms(&self) -> Option<i64> {
        let planned: BTreeSet<u32> =
            self.plan.iter().flat_map(|plan| &plan.entries).map(|entry| entry.target).collect();
        // A target is prepared anew when the plan before lapsed: its last one counts.
        let prepared = self.observations.iter().filter(|seen| seen.purpose() == ProbePurpose::Preparation);
        let prepared = prepared.filter(|seen| planned.contains(&seen.target));
        let last: BTreeMap<(u32, &str), i64> =
            prepared.map(|seen| ((seen.target, seen.probe.as_str()), seen.asked_at_ms)).collect();
        last.into_values().min()
    }

    /// Whether a plan before the latest was signed.
    pub fn signed_before(&self) -> bool {
        self.earlier > 0
    }

    /// The tasks of the latest plan.
    pub fn present_tasks(&self) -> &[TaskView] {
        self.tasks.get(self.earlier..).unwrap_or_default()
    }

    /// Where a person is waited for: what for and until when, with the targets.
    pub fn awaited(&self) -> Vec<(&str, i64, Vec<u32>)> {
        let mut awaited: Vec<(&str, i64, Vec<u32>)> = Vec::new();
        for ((target, _), step) in &self.steps {
            let StepView::Open { manual: true, says, until_ms, .. } = step else { continue };
            match awaited.iter_mut().find(|(other, until, _)| other == says && until == until_ms) {
                Some((.., targets)) => targets.push(*target),
                None => awaited.push((says, *until_ms, vec![*target])),
            }
        }
        awaited
    }

    fn task(&mut self, order: &str, change: impl FnOnce(&mut TaskView)) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.leaf.order == order) {
            change(task);
        }
    }

    /// The runbook's id; `None` for a run of a single operation.
    pub fn runbook_id(&self) -> Option<&str> {
        match self.opened.spec.as_ref()?.kind.as_ref()? {
            Kind::Runbook(call) => Some(&call.id),
            Kind::Operation(_) => None,
        }
    }

    /// The run that this one tries again; empty for none.
    pub fn retry_of(&self) -> &str {
        self.opened.spec.as_ref().map_or("", |spec| &spec.retry_of)
    }

    /// How far the runbook is taken; `Unspecified` for a single operation.
    pub fn mode(&self) -> RunMode {
        match self.opened.spec.as_ref().and_then(|spec| spec.kind.as_ref()) {
            Some(Kind::Runbook(call)) => call.mode(),
            _ => RunMode::Unspecified,
        }
    }

    /// What the runbook calls a remedy; empty when it has none of this id.
    pub fn remedy_title(&self, id: &str) -> &str {
        let remedies = self.runbook.iter().flat_map(|runbook| &runbook.remedies);
        remedies.into_iter().find(|remedy| remedy.id == id).map_or("", |remedy| &remedy.title)
    }

    /// The same in a run of every runbook.
    pub fn remedy_of(&self, runbook: &str, id: &str) -> &str {
        let remedies = self.runbooks.get(runbook).into_iter().flat_map(|runbook| &runbook.remedies);
        remedies.into_iter().find(|remedy| remedy.id == id).map_or("", |remedy| &remedy.title)
    }

    /// Whether every runbook was run at once.
    pub fn is_whole(&self) -> bool {
        !self.opened.runbooks.is_empty()
    }

    /// Whether the run waits for a signature over its latest plan.
    pub fn awaits_signature(&self) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| plan.entries.iter().any(|entry| entry.refused.is_none()))
            && !self.signed
            && self.closed.is_none()
            && self.mode() != RunMode::Plan
    }

    /// The verdict; `Unspecified` while the run is open.
    pub fn verdict(&self) -> RunVerdict {
        self.closed.as_ref().map_or(RunVerdict::Unspecified, Closed::verdict)
    }

    pub fn target(&self, index: u32) -> Option<&Target> {
        self.opened.targets.get(index as usize)
    }

    /// Every target's place.
    pub fn targets(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.opened.targets.len()).unwrap_or(u32::MAX)
    }

    /// Targets by name, folded: `vps[1-40] (40) · sylion`. The stack is left out where none has one.
    pub fn label(&self, targets: &[u32]) -> String {
        let mut stacks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for target in targets.iter().filter_map(|index| self.target(*index)) {
            stacks.entry(&target.stack).or_default().insert(&target.host_name);
        }
        let parts: Vec<_> = stacks
            .into_iter()
            .map(|(stack, hosts)| match stack {
                "" => names::counted(hosts),
                stack => format!("{} · {stack}", names::counted(hosts)),
            })
            .collect();
        vigie_proto::text::escape(&parts.join(", "), false).into_owned()
    }

    /// The command that takes a runbook further on these targets, as one would type it here.
    pub fn command(&self, verb: &str, runbook: &str, targets: &[u32]) -> String {
        let runbook = vigie_proto::text::escape(runbook, false);
        let targets = || targets.iter().filter_map(|target| self.target(*target));
        if !self.on_host {
            let hosts = names::fold(targets().map(|target| target.host_name.as_str()));
            return format!("vigiectl {verb} {runbook} -H {}", vigie_proto::text::escape(&hosts, false));
        }
        // One of the host's own is read from its file again.
        let own = !vigie_runbook::shipped().iter().any(|(id, _)| *id == runbook);
        let runbook = if own { "--file FILE".into() } else { runbook };
        let stacks: BTreeSet<&str> =
            targets().map(|target| target.stack.as_str()).filter(|stack| !stack.is_empty()).collect();
        match Vec::from_iter(stacks)[..] {
            [only] => {
                format!("vigie-agent {verb} {runbook} --stack {}", vigie_proto::text::escape(only, false))
            }
            _ => format!("vigie-agent {verb} {runbook}"),
        }
    }

    /// What the diagnosis says of a target.
    pub fn health(&self, target: u32) -> Health {
        let mut asked = self.judged(target).peekable();
        let unreachable = |outcome: &Outcome| outcome.status() == OutcomeStatus::Unreachable;
        if asked.peek().is_some() && asked.all(unreachable) {
            return Health::Unreachable;
        }
        let Some(conclusion) = self.conclusions.get(&target) else { return Health::Unknown };
        use vigie_proto::v1::FindingState::{Confirmed, NotAsked, RuledOut};
        let told = |finding: &Finding| matches!(finding.state(), Confirmed | NotAsked | RuledOut);
        match &conclusion.findings {
            findings if findings.iter().any(Finding::is_trouble) => Health::Broken,
            findings if !findings.iter().all(told) => Health::Unknown,
            findings if findings.iter().any(|finding| finding.state() == Confirmed) => Health::Noted,
            _ => Health::Healthy,
        }
    }

    /// The outcomes of a target's probes of the diagnosis.
    pub fn probes(&self, target: u32) -> impl Iterator<Item = &Outcome> {
        self.asked(target).filter_map(|seen| seen.outcome.as_ref())
    }

    /// Those that rules judge.
    fn judged(&self, target: u32) -> impl Iterator<Item = &Outcome> {
        self.asked(target).filter(|seen| seen.probe != CHANGES).filter_map(|seen| seen.outcome.as_ref())
    }

    fn asked(&self, target: u32) -> impl Iterator<Item = &Observation> {
        let diagnosis = [ProbePurpose::Diagnosis, ProbePurpose::Unspecified];
        let asked = self.observations.iter().filter(move |seen| seen.target == target);
        asked.filter(move |seen| diagnosis.contains(&seen.purpose()))
    }

    /// For a run of a single operation: how it ended on a target, the last outcome counting; `None` while unknown.
    pub fn outcome(&self, target: u32) -> Option<&Outcome> {
        let task = self.tasks.iter().rfind(|task| task.target == target);
        let refused = self.entries.get(&target).and_then(|entry| entry.refused.as_ref());
        match task {
            Some(task) => task.outcome.as_ref(),
            None => refused.or_else(|| self.probes(target).last()),
        }
    }

    /// Why an outcome is no success, without the target's own name in front: hosts with the same trouble say the same.
    pub fn reason<'a>(&self, target: u32, outcome: &'a Outcome) -> &'a str {
        let message = outcome.failure.as_ref().map_or("", |failure| failure.message.as_str());
        let name = self.target(target).map_or("", |target| target.host_name.as_str());
        match message.strip_prefix(name).filter(|_| !name.is_empty()) {
            Some(rest) if rest.starts_with(' ') => rest.strip_prefix(" is ").unwrap_or(rest.trim_start()),
            _ => message,
        }
    }

    /// A target's host.
    pub fn host_name(&self, target: u32) -> &str {
        self.target(target).map_or("", |target| target.host_name.as_str())
    }

    /// The exit status that the run comes down to.
    pub fn exit(&self) -> Exit {
        if self.runbook_id().is_none() {
            let outcomes = self.targets().filter_map(|target| self.outcome(target));
            let worst: Exit = outcomes.map(|outcome| Exit::of_outcome(outcome.status())).collect();
            return match self.verdict() {
                // Refusing a plan leaves no outcome behind.
                RunVerdict::Cancelled | RunVerdict::InDoubt => worst.worst(Exit::of_verdict(self.verdict())),
                verdict if self.plan.is_none() && self.observations.is_empty() => Exit::of_verdict(verdict),
                _ => worst,
            };
        }
        let health = self.targets().map(|target| self.health(target));
        match self.mode() {
            RunMode::Run => {
                let lost = health.filter(|health| *health == Health::Unreachable).map(Health::exit);
                lost.collect::<Exit>().worst(Exit::of_verdict(self.verdict()))
            }
            _ => match self.verdict() {
                RunVerdict::Cancelled => Exit::Refused,
                _ => health.map(Health::exit).collect(),
            },
        }
    }
}

/// The tasks of a plan. A leaf that does not decode has none: it is refused before anything is signed.
fn tasks(planned: &Planned) -> Vec<TaskView> {
    let mut tasks = Vec::new();
    for entry in &planned.entries {
        for leaf in entry.leaves.iter().filter_map(|index| planned.leaves.get(*index as usize)) {
            if let Ok(leaf) = Leaf::decode(leaf.as_slice()) {
                tasks.push(TaskView { target: entry.target, leaf, started_at_ms: 0, outcome: None });
            }
        }
    }
    tasks
}
