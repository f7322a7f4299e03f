//! The fold over a run's events.

use std::{collections::BTreeSet, sync::Arc};

use vigie_proto::{
    id::{HostId, IdError, RunId, TaskId},
    order::BatchError,
    v1::{
        Change, Leaf, Opened, Outcome, PlanEntry, ProbePurpose, RunEvent, RunMode, RunPhase, RunSpec,
        RunSummary, RunVerdict, TaskEnded, WaitEnd, run_event::Event, run_spec::Kind,
    },
};

use super::{
    act,
    decide::place,
    doubt, plan,
    planned::Plan,
    suite::Whole,
    target::{Passage, TargetState},
};
use crate::{Bound, Runbook};

/// Why events are not a run's. The log is written only by [`super::decide`]: this is damage, or another version.
#[derive(Debug, thiserror::Error)]
pub enum Corrupt {
    #[error("event {seq}: a run begins with `opened`, once")]
    Opening { seq: u64 },
    #[error("event {seq}: the sequence jumps from {last}")]
    Sequence { seq: u64, last: u64 },
    #[error("event {seq} holds nothing that this version knows")]
    Unknown { seq: u64 },
    #[error("event {seq} names target {target}, which there is not")]
    Target { seq: u64, target: u32 },
    #[error("event {seq} names order {order}, which there is not")]
    Order { seq: u64, order: String },
    #[error("event {seq} holds a bad id")]
    Id { seq: u64, source: IdError },
    #[error("the plan in event {seq} is not one")]
    Plan { seq: u64, source: BatchError },
    #[error("the runbook in the run does not read: {0}")]
    Runbook(String),
}

/// One order of a plan.
#[derive(Debug, Clone)]
pub struct Task {
    pub order: TaskId,
    pub host: HostId,
    /// The target's place among the run's targets.
    pub target: usize,
    /// The task as its host gets it.
    pub leaf: Leaf,
    pub state: TaskState,
    /// The agent's clock at its start; 0 before.
    pub started_at_ms: i64,
    /// The controller's clock when it heard of the start; 0 before.
    pub(super) heard_at_ms: i64,
    pub outcome: Option<Outcome>,
    /// The controller lost sight of its agent.
    pub(super) is_lost: bool,
    /// Who looked what became of it, where it was in doubt; empty for nobody.
    pub resolved_by: String,
}

/// How far an order has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Nobody has sent it.
    Pending,
    /// It may have reached its agent.
    Sent,
    /// Its agent says that it runs.
    Running,
    /// Its outcome is known; `InDoubt` among them.
    Ended,
}

/// A run, as its events tell it.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) run: RunId,
    pub(super) opened: Arc<Opened>,
    pub(super) opened_at_ms: i64,
    pub(super) runbook: Option<Arc<Bound>>,
    /// Every runbook at once; there is no single one then.
    pub(super) whole: Option<Arc<Whole>>,
    /// Shared with the states before and after, as far as nothing was learnt of a target between them.
    pub(super) targets: Vec<Arc<TargetState>>,
    /// The plans, one after the other; only the last one may be unsigned, and is replaced then by the next.
    pub(super) plans: Vec<Plan>,
    /// The event that brought the last plan.
    planned_seq: u64,
    /// Why a person wants the run to end.
    pub(super) cancelled: Option<String>,
    pub(super) closed: Option<(RunVerdict, String, i64)>,
    /// What was worth a line, so that nothing is told twice.
    pub(super) noted: BTreeSet<String>,
    /// When the rules last spoke on a diagnosis; 0 before.
    pub(super) concluded_at_ms: i64,
    pub(super) epoch: u64,
    pub(super) owned_at_ms: i64,
    last_seq: u64,
}

impl State {
    /// Folds a run's events from the first.
    ///
    /// # Errors
    /// When they are not a run's.
    pub fn fold<'a>(run: RunId, events: impl IntoIterator<Item = &'a RunEvent>) -> Result<Self, Corrupt> {
        let mut events = events.into_iter();
        let first = events.next().ok_or(Corrupt::Opening { seq: 0 })?;
        let mut state = Self::begin(run, first)?;
        for event in events {
            state.apply(event)?;
        }
        Ok(state)
    }

    fn begin(run: RunId, first: &RunEvent) -> Result<Self, Corrupt> {
        let seq = first.seq;
        let Some(Event::Opened(opened)) = &first.event else { return Err(Corrupt::Opening { seq }) };
        let whole = match opened.runbooks.is_empty() {
            true => None,
            false => Some(Arc::new(Whole::read(opened).map_err(Corrupt::Runbook)?)),
        };
        let runbook = match opened.spec.as_ref().and_then(|spec| spec.kind.as_ref()) {
            Some(Kind::Runbook(_)) if whole.is_some() => None,
            Some(Kind::Runbook(call)) => {
                let runbook = Runbook::parse(&opened.runbook_text, &call.id)
                    .map_err(|diagnostics| Corrupt::Runbook(diagnostics.to_string()))?;
                let bound = runbook.bind(&call.parameters).map_err(|errors| {
                    Corrupt::Runbook(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
                })?;
                Some(Arc::new(bound))
            }
            Some(Kind::Operation(_)) => None,
            None => return Err(Corrupt::Opening { seq }),
        };
        let targets = opened
            .targets
            .iter()
            .map(|target| {
                let target = TargetState::new(target, first.at_ms);
                target.map(Arc::new).map_err(|source| Corrupt::Id { seq, source })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            run,
            opened: Arc::new(opened.clone()),
            opened_at_ms: first.at_ms,
            runbook,
            whole,
            targets,
            plans: Vec::new(),
            planned_seq: 0,
            cancelled: None,
            closed: None,
            noted: BTreeSet::new(),
            concluded_at_ms: 0,
            epoch: 0,
            owned_at_ms: first.at_ms,
            last_seq: seq,
        })
    }

    /// Folds one more event.
    ///
    /// # Errors
    /// When it cannot follow those before it; the state is then as it was.
    pub fn apply(&mut self, event: &RunEvent) -> Result<(), Corrupt> {
        let seq = event.seq;
        if seq != self.last_seq + 1 {
            return Err(Corrupt::Sequence { seq, last: self.last_seq });
        }
        match event.event.as_ref().ok_or(Corrupt::Unknown { seq })? {
            Event::Opened(_) => return Err(Corrupt::Opening { seq }),
            Event::Owned(owned) => {
                self.epoch = owned.epoch;
                self.owned_at_ms = event.at_ms;
            }
            Event::Observed(observed) => {
                for observation in &observed.observations {
                    self.target_mut(seq, observation.target)?.observe(observation, event.at_ms);
                }
            }
            Event::Concluded(concluded) => {
                for conclusion in &concluded.conclusions {
                    let target = self.target_mut(seq, conclusion.target)?;
                    match conclusion.purpose() {
                        ProbePurpose::Verification => target.verified = Some(conclusion.clone()),
                        _ => {
                            target.conclusion = Some(conclusion.clone());
                            self.concluded_at_ms = event.at_ms;
                        }
                    }
                }
            }
            Event::Planned(planned) => {
                let plan = Plan::read(planned, self, seq)?;
                self.plans.retain(Plan::is_agreed);
                self.plans.push(plan);
                self.planned_seq = seq;
            }
            Event::Lapsed(_) => {
                let plan = self.plans.pop_if(|plan| !plan.is_agreed()).ok_or(Corrupt::Unknown { seq })?;
                for entry in &plan.entries {
                    let target = self.target_mut(seq, entry.target)?;
                    target.previews.clear();
                    // What is asked anew is waited for from now on.
                    target.last_seen_ms = event.at_ms;
                }
            }
            Event::Signed(signed) => {
                let plan = self.plans.last_mut().ok_or(Corrupt::Unknown { seq })?;
                plan.signatures.clone_from(&signed.signatures);
                plan.signed_at_ms = event.at_ms;
            }
            Event::Sent(sent) => {
                for order in &sent.orders {
                    let task = self.task_mut(seq, order)?;
                    task.state = TaskState::Sent;
                    let target = task.target;
                    self.target_mut(seq, place(target))?.held_by.clear();
                }
            }
            Event::Started(started) => {
                for started in &started.tasks {
                    let task = self.task_mut(seq, &started.order)?;
                    if task.state != TaskState::Ended {
                        task.state = TaskState::Running;
                    }
                    task.started_at_ms = started.at_ms;
                    task.heard_at_ms = event.at_ms;
                }
            }
            Event::Ended(ended) => {
                for ended in &ended.tasks {
                    self.end(seq, ended, "", event.at_ms)?;
                }
            }
            Event::Resolved(resolved) => {
                for ended in &resolved.tasks {
                    self.end(seq, ended, &resolved.operator, event.at_ms)?;
                }
                if let Some((verdict, reason, _)) = &mut self.closed {
                    *verdict = resolved.verdict();
                    reason.clone_from(&resolved.reason);
                }
            }
            Event::WaitsOpened(opened) => {
                for wait in &opened.waits {
                    let target = self.target_mut(seq, wait.target)?;
                    let passage = Passage::Open {
                        manual: wait.manual,
                        says: wait.says.clone(),
                        opened_at_ms: event.at_ms,
                        until_ms: wait.until_ms,
                    };
                    target.steps.insert(wait.step, passage);
                    // A late answer to an earlier wait is none to this one.
                    target.wait_round += 1;
                    target.waiting.clear();
                    target.held_by.clear();
                }
            }
            Event::WaitsClosed(closed) => {
                for wait in &closed.waits {
                    let passage = match wait.end() {
                        WaitEnd::Held => Passage::Done,
                        _ => Passage::Stopped(wait.why.clone()),
                    };
                    self.pass(seq, wait.target, wait.step, passage, event.at_ms)?;
                }
            }
            Event::ManualDone(done) => {
                for step in &done.steps {
                    self.pass(seq, step.target, step.step, Passage::Done, event.at_ms)?;
                }
            }
            Event::LeftOut(left_out) => {
                for step in &left_out.steps {
                    if !step.order.is_empty() {
                        self.task_mut(seq, &step.order)?.state = TaskState::Ended;
                    }
                    let passage = Passage::LeftOut { unknown: step.unknown.clone() };
                    self.pass(seq, step.target, step.step, passage, event.at_ms)?;
                }
            }
            Event::Held(held) => {
                for held in &held.stacks {
                    self.target_mut(seq, held.target)?.held_by.clone_from(&held.run);
                }
            }
            Event::CancelAsked(asked) => {
                self.cancelled = Some(match asked.reason.as_str() {
                    "" => format!("cancelled by {}", asked.operator),
                    reason => format!("cancelled by {}: {reason}", asked.operator),
                });
            }
            Event::Noted(noted) => {
                self.noted.insert(noted.text.clone());
            }
            Event::Closed(closed) => {
                self.closed = Some((closed.verdict(), closed.reason.clone(), event.at_ms));
            }
        }
        self.last_seq = seq;
        Ok(())
    }

    fn target_mut(&mut self, seq: u64, target: u32) -> Result<&mut TargetState, Corrupt> {
        self.targets.get_mut(target as usize).map(Arc::make_mut).ok_or(Corrupt::Target { seq, target })
    }

    /// An order has ended, as its agent, the controller or a person says.
    pub(super) fn end(
        &mut self,
        seq: u64,
        ended: &TaskEnded,
        resolved_by: &str,
        at_ms: i64,
    ) -> Result<(), Corrupt> {
        let task = self.task_mut(seq, &ended.order)?;
        task.state = TaskState::Ended;
        task.outcome.clone_from(&ended.outcome);
        task.is_lost |= doubt::is_lost(ended.outcome.as_ref());
        resolved_by.clone_into(&mut task.resolved_by);
        let target = task.target;
        let target = self.target_mut(seq, place(target))?;
        target.acted_at_ms = at_ms;
        target.last_seen_ms = at_ms;
        Ok(())
    }

    /// A step is behind its target, one way or another.
    fn pass(
        &mut self,
        seq: u64,
        target: u32,
        step: u32,
        passage: Passage,
        at_ms: i64,
    ) -> Result<(), Corrupt> {
        let target = self.target_mut(seq, target)?;
        target.steps.insert(step, passage);
        target.acted_at_ms = at_ms;
        Ok(())
    }

    fn task_mut(&mut self, seq: u64, order: &str) -> Result<&mut Task, Corrupt> {
        let tasks = self.plans.iter_mut().flat_map(|plan| &mut plan.tasks);
        tasks
            .into_iter()
            .find(|task| task.leaf.order == order)
            .ok_or_else(|| Corrupt::Order { seq, order: order.to_owned() })
    }

    /// The run's id.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The request as it was frozen.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// What was asked for.
    pub fn spec(&self) -> &RunSpec {
        // `begin` refuses an opening without one.
        self.opened.spec.as_ref().unwrap_or(
            const { &RunSpec { selector: None, timeout_ms: 0, kind: None, retry_of: String::new() } },
        )
    }

    /// The sequence number of the last event.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The fencing epoch of the present owner.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// All targets, in their order.
    pub fn targets(&self) -> &[Arc<TargetState>] {
        &self.targets
    }

    /// The orders of all plans; none before there is one.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.plans.iter().flat_map(|plan| &plan.tasks)
    }

    /// What the plans hold for each target; nothing before there is one.
    pub fn plan_entries(&self) -> impl Iterator<Item = &PlanEntry> {
        self.plans.iter().flat_map(|plan| &plan.entries)
    }

    /// The sequence number of the event that brought the latest plan; 0 before there is one.
    pub fn planned_seq(&self) -> u64 {
        self.planned_seq
    }

    /// The plan that the run waits with or carries out.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plans.last()
    }

    /// Whether the run is about to plan: the rules have spoken, and there is no plan under way.
    pub(super) fn is_planning(&self) -> bool {
        self.needs_plan() && (self.runbook.is_none() || self.is_concluded())
    }

    /// Every host and stack that this run is changing at this moment: steps of theirs have begun, and it is not yet
    /// clear how it ended.
    pub fn changing(&self) -> Vec<(HostId, String)> {
        let Some(plan) = self.plan().filter(|plan| plan.is_agreed() && self.closed.is_none()) else {
            return Vec::new();
        };
        act::changing(self, plan)
    }

    /// What changed before the diagnosis on hosts of which a target is concerned, with their names, newest first.
    pub fn changes(&self, concerns: impl Fn(&TargetState) -> bool) -> Vec<(&str, &Change)> {
        let targets = || self.targets.iter().filter(|_| self.is_diagnosis());
        let hosts: BTreeSet<HostId> =
            targets().filter(|target| concerns(target)).map(|target| target.host).collect();
        // A host's own changes are told for each of its stacks.
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for target in targets().filter(|target| hosts.contains(&target.host)) {
            let host = target.target.host_name.as_str();
            let changes = target.changes().unwrap_or_default().iter();
            found.extend(
                changes
                    .filter(|change| {
                        seen.insert((host, change.at_ms, &change.kind, &change.what, &change.says))
                    })
                    .map(|change| (host, change)),
            );
        }
        found.sort_by_key(|(_, change)| std::cmp::Reverse(change.at_ms));
        found
    }

    /// The runbook with its parameters; `None` for a run of a single operation.
    pub fn runbook(&self) -> Option<&Bound> {
        self.runbook.as_deref()
    }

    /// Whether the run is about what is wrong, and not about a single operation.
    pub fn is_diagnosis(&self) -> bool {
        self.runbook.is_some() || self.whole.is_some()
    }

    /// How far a runbook is taken; `Run` for a single operation.
    pub fn mode(&self) -> RunMode {
        match &self.spec().kind {
            Some(Kind::Runbook(call)) => call.mode(),
            _ => RunMode::Run,
        }
    }

    /// How the run ended: verdict, reason, and when.
    pub fn closed(&self) -> Option<(RunVerdict, &str, i64)> {
        self.closed.as_ref().map(|(verdict, reason, at_ms)| (*verdict, reason.as_str(), *at_ms))
    }

    /// Where the run stands.
    pub fn phase(&self) -> RunPhase {
        if self.closed.is_some() {
            return RunPhase::Closed;
        }
        match self.plan() {
            Some(plan) if !plan.is_agreed() => RunPhase::AwaitingSignature,
            Some(plan) if act::awaits_person(self, plan) => RunPhase::AwaitingPerson,
            Some(plan) if act::is_acting(self, plan) => RunPhase::Acting,
            Some(plan) if act::is_over(self, plan) && !plan::next_wave(self).is_empty() => {
                RunPhase::Previewing
            }
            Some(_) => RunPhase::Verifying,
            None if self.is_planning() => RunPhase::Previewing,
            None => RunPhase::Observing,
        }
    }

    /// Whether the rules have spoken on every target.
    pub(super) fn is_concluded(&self) -> bool {
        self.targets.iter().all(|target| target.conclusion.is_some())
    }

    /// Whether the run leads to a plan: a single operation that needs an order, or a runbook past its diagnosis.
    pub(super) fn needs_plan(&self) -> bool {
        match &self.spec().kind {
            Some(Kind::Operation(request)) => {
                vigie_proto::operation::Operation::of(request).is_ok_and(|operation| operation.needs_order())
            }
            Some(Kind::Runbook(call)) => call.mode() != RunMode::Diagnose,
            None => false,
        }
    }

    /// The run in a line, as lists show it.
    pub fn summary(&self) -> RunSummary {
        let (verdict, closed_at_ms) =
            self.closed.as_ref().map_or((RunVerdict::Unspecified, 0), |c| (c.0, c.2));
        RunSummary {
            run: self.run.to_string(),
            title: self.opened.title.clone(),
            operator: self.opened.operator.clone(),
            opened_at_ms: self.opened_at_ms,
            closed_at_ms,
            phase: self.phase().into(),
            verdict: verdict.into(),
            targets: u32::try_from(self.targets.len()).unwrap_or(u32::MAX),
            last_seq: self.last_seq,
            retry_of: self.spec().retry_of.clone(),
        }
    }
}
