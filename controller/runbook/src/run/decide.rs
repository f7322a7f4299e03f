//! What an input means, and what follows from where a run stands.

use vigie_proto::{
    id::HostId,
    v1::{
        CancelAsked, Closed, Concluded, Conclusion, Failure, Observation, Observed, Outcome, OutcomeStatus,
        PlanLapsed, ProbePurpose, RunEvent, RunMode, RunVerdict, Signature, Signed, TaskEnded, TaskStarted,
        TasksEnded, TasksStarted, run_event::Event,
    },
};

use super::Challenge;
use super::{
    Holder, Ids, Input, Rejected, State, TargetState, TaskState, act, beside, doubt, plan, verdict, waits,
    wanted::{Asked, diagnosis},
};
use crate::Subject;

/// What the state machine may know of the world at this moment.
pub struct Surroundings<'a> {
    /// Unix milliseconds.
    pub now_ms: i64,
    pub ids: &'a mut dyn Ids,
    /// Whether a host has a session.
    pub connected: &'a dyn Fn(HostId) -> bool,
    /// The run that changes a stack of a host, if another one does; otherwise the stack is this run's from now on, until
    /// [`State::changing`] does not name it any more.
    pub held: &'a dyn Fn(HostId, &str) -> Option<Holder>,
    /// When a remedy was tried on a stack of a host within the last hour, Unix milliseconds.
    pub tries: &'a dyn Fn(HostId, &str, &str) -> Vec<i64>,
}

/// What inputs led to: events to commit, and the state after them.
#[derive(Debug)]
pub struct Decision {
    /// Numbered and dated; empty when the inputs change nothing.
    pub events: Vec<RunEvent>,
    pub state: State,
    /// For each input why it was not taken; `None` when it was.
    pub rejections: Vec<Option<Rejected>>,
}

/// Decides on inputs in turn, and then on all that follows from where the run stands. Deterministic in its arguments;
/// evaluates rules, so that it does not belong on an async thread. Inputs that come in a burst are worth deciding
/// together: what follows is looked for once.
pub fn decide(
    state: &State,
    inputs: impl IntoIterator<Item = Input>,
    around: &mut Surroundings<'_>,
) -> Decision {
    let mut decision = Decision { events: Vec::new(), state: state.clone(), rejections: Vec::new() };
    for input in inputs {
        let rejection = match react(&decision.state, input, around) {
            Ok(None) => None,
            Ok(Some(event)) => {
                decision.record(event, around.now_ms);
                None
            }
            Err(rejected) => Some(rejected),
        };
        decision.rejections.push(rejection);
    }
    while let Some(event) = follows(&decision.state, around) {
        if !decision.record(event, around.now_ms) {
            break;
        }
    }
    decision
}

impl Decision {
    /// Whether it begins something: a plan, its carrying out, an order, a step that waits. Whatever else happens to a run is
    /// looking, and ends.
    pub fn begins(&self) -> bool {
        self.events.iter().any(begins)
    }

    /// The same from `state` up to what begins something; `None` when nothing does. An operator's signature or plan aside, it
    /// holds what the inputs said.
    pub fn before_it_begins(&self, state: &State) -> Option<Self> {
        let events = self.events[..self.events.iter().position(begins)?].to_vec();
        let mut before = state.clone();
        events.iter().try_for_each(|event| before.apply(event)).ok()?;
        Some(Self { events, state: before, rejections: self.rejections.clone() })
    }

    /// False when the event does not fit the state, which would be a mistake in this module: the run then stands
    /// still where it can be looked at, and the rest of the controller goes on.
    fn record(&mut self, event: Event, at_ms: i64) -> bool {
        let event = RunEvent { seq: self.state.last_seq() + 1, at_ms, event: Some(event) };
        let fits = self.state.apply(&event);
        debug_assert!(fits.is_ok(), "{fits:?}");
        if fits.is_ok() {
            self.events.push(event);
        }
        fits.is_ok()
    }
}

fn begins(event: &RunEvent) -> bool {
    matches!(event.event, Some(Event::Planned(_) | Event::Signed(_) | Event::Sent(_) | Event::WaitsOpened(_)))
}

/// The event that an input is, if it is one.
fn react(state: &State, input: Input, around: &mut Surroundings<'_>) -> Result<Option<Event>, Rejected> {
    if state.closed.is_some() {
        return match input {
            Input::Signed { .. } | Input::Cancel { .. } | Input::ManualDone { .. } => Err(Rejected::Closed),
            Input::Resolve { operator, hosts, stack, done, note } => {
                doubt::resolve(state, operator, &hosts, &stack, done, note)
            }
            // What was in doubt is known now.
            Input::Ended { order, outcome } => Ok(doubt::spoken(state, order, outcome)),
            // Other late reports are harmless: the log says how the run ended.
            _ => Ok(None),
        };
    }
    match input {
        Input::Tick => Ok(None),
        Input::Probed { key, outcome, asked_at_ms, challenge } => {
            let known = state.targets.get(key.target).is_some_and(|target| !target.has(&key));
            Ok(known.then(|| {
                let Challenge { challenge, valid_ms } = challenge;
                let seen = observation(&key, outcome, asked_at_ms);
                observed(vec![Observation { challenge, valid_ms, ..seen }])
            }))
        }
        Input::Started { order, at_ms } => {
            let fresh = state.tasks().any(|task| task.order == order && task.state == TaskState::Sent);
            let started = TaskStarted { order: order.to_string(), at_ms };
            Ok(fresh.then(|| Event::Started(TasksStarted { tasks: vec![started] })))
        }
        Input::Ended { order, outcome } => {
            let task = state.tasks().find(|task| task.order == order);
            match task {
                Some(task) if task.state != TaskState::Ended => {
                    let ended = TaskEnded { order: order.to_string(), outcome: Some(outcome) };
                    Ok(Some(Event::Ended(TasksEnded { tasks: vec![ended] })))
                }
                _ => Ok(doubt::spoken(state, order, outcome)),
            }
        }
        Input::Stray { host, order, outcome } => Ok(doubt::stray(state, host, order, &outcome)),
        Input::Signed { manifest, signatures, operator } => {
            sign(state, &manifest, signatures, operator, around)
        }
        Input::ManualDone { operator, hosts, note } => {
            waits::acknowledge(state, operator, &hosts, note).map(Some)
        }
        Input::Cancel { operator, reason } => cancel(state, operator, reason),
        Input::Resolve { operator, hosts, stack, done, note } => {
            doubt::resolve(state, operator, &hosts, &stack, done, note)
        }
    }
}

fn cancel(state: &State, operator: String, reason: String) -> Result<Option<Event>, Rejected> {
    let acted = state.plans.iter().any(|plan| !plan.signatures.is_empty());
    if !acted {
        let why = match reason.as_str() {
            "" => format!("cancelled by {operator}"),
            reason => format!("cancelled by {operator}: {reason}"),
        };
        return Ok(Some(closed(RunVerdict::Cancelled, why)));
    }
    // What was not sent never will be; what was is stopped where it can be.
    let unended = state.tasks().any(|task| task.state != TaskState::Ended);
    let waits = state.plan().is_some_and(|plan| act::has_waits(state, plan));
    if state.cancelled.is_some() {
        return Ok(None);
    }
    match unended || waits || !plan::next_wave(state).is_empty() {
        true => Ok(Some(Event::CancelAsked(CancelAsked { operator, reason }))),
        false => Err(Rejected::TooLate),
    }
}

fn sign(
    state: &State,
    manifest: &[u8],
    signatures: Vec<Signature>,
    operator: String,
    around: &mut Surroundings<'_>,
) -> Result<Option<Event>, Rejected> {
    let plan = state.plan().ok_or(Rejected::NotAwaitingSignature)?;
    if !plan.is(manifest) {
        return Err(Rejected::OtherPlan);
    }
    if !plan.signatures.is_empty() {
        // The same plan signed twice is the same signature asked for twice.
        return Ok(None);
    }
    if plan.manifest.person != operator {
        return Err(Rejected::OtherPerson { signer: operator, named: plan.manifest.person.clone() });
    }
    if around.now_ms > plan.lapses_at_ms {
        // The window has passed: the same plan with a new one, to be agreed to again. What loses something is looked at
        // anew before that. Whoever sees that it is too late asks for it with no signature.
        return Ok(Some(match plan.is_challenged() {
            true => Event::Lapsed(PlanLapsed {}),
            false => plan::propose_again(state, plan, around),
        }));
    }
    if signatures.is_empty() {
        return Err(Rejected::NoSignature);
    }
    Ok(Some(Event::Signed(Signed { manifest: manifest.to_vec(), signatures, operator })))
}

/// The next event that follows by itself.
fn follows(state: &State, around: &mut Surroundings<'_>) -> Option<Event> {
    if state.closed.is_some() {
        return None;
    }
    if let Some(plan) = state.plan() {
        if state.mode() == RunMode::Plan {
            return Some(verdict::close(state));
        }
        if !plan.is_agreed() {
            // A person who ends the run ends it here, too.
            return state.cancelled.is_some().then(|| verdict::close(state));
        }
        if let Some(event) = act::follows(state, plan, around) {
            return Some(event);
        }
        if !act::is_over(state, plan) {
            return None;
        }
        if plan::next_wave(state).is_empty() {
            return Some(verdict::close(state));
        }
    }
    let previewing = state.is_planning();
    let mut asked: Vec<_> = if previewing { plan::previews(state) } else { diagnosis(state) };
    asked.extend(beside::asks(state));
    if let Some(given_up) = give_up(state, &asked, around) {
        return Some(given_up);
    }
    if previewing {
        let waiting = asked.iter().any(|asked| !asked.is_answered(state));
        return (!waiting).then(|| plan::propose_or_close(state, around));
    }
    let mut waiting = vec![false; state.targets.len()];
    let (beside, judged): (Vec<_>, Vec<_>) =
        asked.iter().filter(|asked| !asked.is_answered(state)).partition(|asked| asked.is_beside());
    for unanswered in judged {
        waiting[unanswered.key.target] = true;
    }
    if let Some(whole) = state.whole.as_ref().filter(|_| !state.is_concluded()) {
        return whole.conclude(state, &waiting, around.now_ms).map(Event::Concluded);
    }
    let ready: Vec<_> = (0..state.targets.len())
        .filter(|&target| state.targets[target].conclusion.is_none() && !waiting[target])
        .collect();
    match &state.runbook {
        // Everything is judged: what stands beside it has a moment to come.
        _ if state.is_diagnosis() && state.is_concluded() => beside.is_empty().then(|| verdict::close(state)),
        Some(_) if ready.is_empty() => None,
        Some(_) => Some(Event::Concluded(Concluded {
            conclusions: ready.into_iter().map(|target| conclude(state, target, around.now_ms)).collect(),
        })),
        None => (ready.len() == state.targets.len()).then(|| verdict::close(state)),
    }
}

/// What the rules make of a target's probes.
fn conclude(state: &State, target: usize, now_ms: i64) -> Conclusion {
    let seen = &state.targets[target];
    let Some(runbook) = &state.runbook else { return Conclusion::default() };
    let judgement = runbook.judge(&subject(seen, now_ms), &seen.evidence);
    let asked_for = match &state.spec().kind {
        Some(vigie_proto::v1::run_spec::Kind::Runbook(call)) => call.remedy.as_str(),
        _ => "",
    };
    let remedy = judgement.remedies.into_iter().find(|remedy| asked_for.is_empty() || remedy == asked_for);
    Conclusion {
        target: place(target),
        purpose: ProbePurpose::Diagnosis.into(),
        findings: judgement.findings,
        remedy: remedy.unwrap_or_default(),
        restore: Some(judgement.restore),
        ..Conclusion::default()
    }
}

/// Outcomes for probes that nobody will answer any more.
pub(super) fn give_up(state: &State, asked: &[Asked], around: &Surroundings<'_>) -> Option<Event> {
    let lost: Vec<_> = asked
        .iter()
        .filter(|asked| !asked.is_answered(state) && asked.is_due(state))
        .filter_map(|asked| {
            let target = &state.targets[asked.key.target];
            let connected = asked.gets_through((around.connected)(target.host));
            let deadline = asked.deadline_ms(state, connected);
            (around.now_ms >= deadline).then(|| {
                let outcome = if connected {
                    let message = format!("{} did not answer in time", target.target.host_name);
                    Outcome::ended(OutcomeStatus::Failed, Failure::new("no_answer", message))
                } else {
                    let message = format!("{} is not connected", target.target.host_name);
                    let hint = "is the host up, and does `systemctl status vigie-agent` say that it runs?";
                    Outcome::ended(
                        OutcomeStatus::Unreachable,
                        Failure::new("unreachable", message).hint(hint),
                    )
                };
                observation(&asked.key, outcome, asked.since_ms(state))
            })
        })
        .collect();
    (!lost.is_empty()).then(|| observed(lost))
}

fn observation(key: &super::ProbeKey, outcome: Outcome, asked_at_ms: i64) -> Observation {
    Observation {
        target: place(key.target),
        probe: key.probe.clone(),
        purpose: key.purpose.into(),
        round: key.round,
        outcome: Some(outcome),
        asked_at_ms,
        ..Observation::default()
    }
}

fn observed(observations: Vec<Observation>) -> Event {
    Event::Observed(Observed { observations })
}

pub(super) fn closed(verdict: RunVerdict, reason: impl Into<String>) -> Event {
    Event::Closed(Closed { verdict: verdict.into(), reason: reason.into() })
}

pub(super) fn ended(tasks: Vec<TaskEnded>) -> Event {
    Event::Ended(TasksEnded { tasks })
}

pub(super) fn place(target: usize) -> u32 {
    u32::try_from(target).unwrap_or(u32::MAX)
}

pub(super) fn subject(target: &TargetState, now_ms: i64) -> Subject<'_> {
    Subject { host: &target.target.host_name, stack: &target.target.stack, now_ms }
}
