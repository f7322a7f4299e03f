//! The fold over a run's events.

use std::{collections::BTreeMap, sync::Arc};

use vigie_proto::{
    id::{HostId, IdError, RunId, TaskId},
    order::{Batch, BatchError},
    v1::{
        Conclusion, Leaf, Manifest, Opened, Outcome, OutcomeStatus, PlanEntry, Planned, ProbePurpose,
        RunEvent, RunMode, RunPhase, RunSpec, RunSummary, RunVerdict, Signature, Target, run_event::Event,
        run_spec::Kind,
    },
};

use super::{ProbeKey, decide::place};
use crate::{Bound, Evidence, Runbook};

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

/// What is known of one target.
#[derive(Debug, Clone)]
pub struct TargetState {
    pub target: Target,
    pub host: HostId,
    /// The diagnosis: each probe's outcome.
    pub evidence: Evidence,
    /// Previews, by `remedy/step`.
    pub previews: BTreeMap<String, Outcome>,
    pub conclusion: Option<Conclusion>,
    /// The verification's present round, what it has, and when its last answer came.
    pub round: u32,
    pub verification: Evidence,
    pub verified: Option<Conclusion>,
    /// When something was last learnt of this target.
    pub last_seen_ms: i64,
    /// When its last order ended; 0 before.
    pub acted_at_ms: i64,
}

/// The plan that a run waits with or carries out.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) batch: Arc<Batch>,
    pub(super) manifest: Manifest,
    pub(super) entries: Vec<PlanEntry>,
    pub(super) signatures: Vec<Signature>,
    /// When it was signed; 0 before.
    pub(super) signed_at_ms: i64,
    /// In the order of the leaves.
    pub(super) tasks: Vec<Task>,
}

/// A run, as its events tell it.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) run: RunId,
    pub(super) opened: Arc<Opened>,
    pub(super) opened_at_ms: i64,
    pub(super) runbook: Option<Arc<Bound>>,
    /// Shared with the states before and after, as far as nothing was learnt of a target between them.
    pub(super) targets: Vec<Arc<TargetState>>,
    pub(super) plan: Option<Plan>,
    pub(super) closed: Option<(RunVerdict, String, i64)>,
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
        let runbook = match opened.spec.as_ref().and_then(|spec| spec.kind.as_ref()) {
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
            targets,
            plan: None,
            closed: None,
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
                    let (purpose, round) = (observation.purpose(), observation.round);
                    let outcome = observation.outcome.clone().unwrap_or_default();
                    let target = self.target_mut(seq, observation.target)?;
                    target.observe(purpose, round, &observation.probe, outcome, event.at_ms);
                }
            }
            Event::Concluded(concluded) => {
                for conclusion in &concluded.conclusions {
                    let target = self.target_mut(seq, conclusion.target)?;
                    match conclusion.purpose() {
                        ProbePurpose::Verification => target.verified = Some(conclusion.clone()),
                        _ => target.conclusion = Some(conclusion.clone()),
                    }
                }
            }
            Event::Planned(planned) => self.plan = Some(Plan::read(planned, self, seq)?),
            Event::Signed(signed) => {
                let plan = self.plan.as_mut().ok_or(Corrupt::Unknown { seq })?;
                plan.signatures.clone_from(&signed.signatures);
                plan.signed_at_ms = event.at_ms;
            }
            Event::Sent(sent) => {
                for order in &sent.orders {
                    self.task_mut(seq, order)?.state = TaskState::Sent;
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
                    let task = self.task_mut(seq, &ended.order)?;
                    task.state = TaskState::Ended;
                    task.outcome.clone_from(&ended.outcome);
                    let target = task.target;
                    let target = self.target_mut(seq, place(target))?;
                    target.acted_at_ms = event.at_ms;
                    target.last_seen_ms = event.at_ms;
                }
            }
            Event::Noted(_) => {}
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

    fn task_mut(&mut self, seq: u64, order: &str) -> Result<&mut Task, Corrupt> {
        let tasks = self.plan.iter_mut().flat_map(|plan| &mut plan.tasks);
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
        self.opened.spec.as_ref().unwrap_or(const { &RunSpec { selector: None, timeout_ms: 0, kind: None } })
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

    /// The plan's orders; empty before there is one.
    pub fn tasks(&self) -> &[Task] {
        self.plan.as_ref().map_or(&[], |plan| &plan.tasks)
    }

    /// What the plan holds for each target; empty before there is one.
    pub fn plan_entries(&self) -> &[PlanEntry] {
        self.plan.as_ref().map_or(&[], |plan| &plan.entries)
    }

    /// The runbook with its parameters; `None` for a run of a single operation.
    pub fn runbook(&self) -> Option<&Bound> {
        self.runbook.as_deref()
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
        match &self.plan {
            Some(plan) if plan.signatures.is_empty() => RunPhase::AwaitingSignature,
            Some(plan) if plan.tasks.iter().any(|task| task.state != TaskState::Ended) => RunPhase::Acting,
            Some(_) => RunPhase::Verifying,
            None if self.needs_plan() && (self.runbook.is_none() || self.is_concluded()) => {
                RunPhase::Previewing
            }
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
        }
    }
}

impl TargetState {
    fn new(target: &Target, at_ms: i64) -> Result<Self, IdError> {
        Ok(Self {
            host: target.host.parse()?,
            target: target.clone(),
            evidence: Evidence::new(),
            previews: BTreeMap::new(),
            conclusion: None,
            round: 0,
            verification: Evidence::new(),
            verified: None,
            last_seen_ms: at_ms,
            acted_at_ms: 0,
        })
    }

    fn observe(&mut self, purpose: ProbePurpose, round: u32, probe: &str, outcome: Outcome, at_ms: i64) {
        match purpose {
            ProbePurpose::Preview => {
                self.previews.insert(probe.to_owned(), outcome);
            }
            ProbePurpose::Verification => {
                if round > self.round {
                    self.round = round;
                    self.verification.clear();
                }
                self.verification.insert(probe.to_owned(), outcome);
            }
            ProbePurpose::Diagnosis | ProbePurpose::Unspecified => {
                self.evidence.insert(probe.to_owned(), outcome);
            }
        }
        self.last_seen_ms = at_ms;
    }

    /// Whether this probe has been answered.
    pub(super) fn has(&self, key: &ProbeKey) -> bool {
        match key.purpose {
            ProbePurpose::Preview => self.previews.contains_key(&key.probe),
            ProbePurpose::Verification => {
                key.round < self.round
                    || (key.round == self.round && self.verification.contains_key(&key.probe))
            }
            _ => self.evidence.contains_key(&key.probe),
        }
    }

    /// Whether none of its probes got through to the host.
    pub fn is_unreachable(&self) -> bool {
        !self.evidence.is_empty()
            && self.evidence.values().all(|outcome| outcome.status() == OutcomeStatus::Unreachable)
    }
}

impl Plan {
    fn read(planned: &Planned, state: &State, seq: u64) -> Result<Self, Corrupt> {
        let (batch, manifest, leaves) = Batch::from_parts(planned.manifest.clone(), planned.leaves.clone())
            .map_err(|source| Corrupt::Plan { seq, source })?;
        let mut owner = vec![None; leaves.len()];
        for entry in &planned.entries {
            if entry.target as usize >= state.targets.len() {
                return Err(Corrupt::Target { seq, target: entry.target });
            }
            for leaf in &entry.leaves {
                *owner.get_mut(*leaf as usize).ok_or(Corrupt::Target { seq, target: entry.target })? =
                    Some(entry.target);
            }
        }
        let tasks = leaves
            .into_iter()
            .zip(owner)
            .map(|(leaf, target)| {
                let id = |source| Corrupt::Id { seq, source };
                Ok(Task {
                    order: leaf.order.parse().map_err(id)?,
                    host: leaf.host.parse().map_err(id)?,
                    target: target.ok_or(Corrupt::Target { seq, target: u32::MAX })? as usize,
                    leaf,
                    state: TaskState::Pending,
                    started_at_ms: 0,
                    heard_at_ms: 0,
                    outcome: None,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            batch: Arc::new(batch),
            manifest,
            entries: planned.entries.clone(),
            signatures: Vec::new(),
            signed_at_ms: 0,
            tasks,
        })
    }

    /// The envelope for one of its tasks.
    pub(super) fn execute(&self, index: usize, epoch: u64) -> Option<vigie_proto::v1::Execute> {
        self.batch.execute(index, &self.signatures, epoch)
    }

    /// Whether this is the plan that a manifest stands for.
    pub(super) fn is(&self, manifest: &[u8]) -> bool {
        self.batch.manifest() == manifest
    }
}
