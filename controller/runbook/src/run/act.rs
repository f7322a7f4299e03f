//! Carrying out a signed plan: in waves, each target acting and then verifying, stopping at the first surprise.

use std::collections::BTreeSet;

use vigie_proto::{
    descriptors,
    id::HostId,
    order::CLOCK_ALLOWANCE_MS,
    v1::{
        Concluded, Conclusion, Failure, Outcome, OutcomeStatus, PlanEntry, ProbePurpose, StackHeld,
        StacksHeld, TaskEnded, TasksSent, plan_step, run_event::Event,
    },
};

use super::{
    ProbeKey, State, Surroundings, Task, TaskState,
    decide::{ended, give_up, place, subject},
    doubt::LOST_SIGHT,
    plan,
    planned::Plan,
    target::Passage,
    waits,
    wanted::{Asked, grace_ms},
};

/// How long after an order's last possible end its agent's word is waited for.
const PATIENCE_MS: i64 = 60_000;

/// How far an entry of the plan has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Some of its steps are not behind it.
    Acting,
    /// All its steps are; whether that helped is being looked at.
    Verifying,
    /// It helped.
    Good,
    /// A step failed or stopped, it did not help, or it was refused from the first.
    Bad,
}

/// The step of an entry whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Next<'a> {
    /// An action, with its place in the remedy.
    Task(u32, &'a Task),
    /// A step that waits.
    Wait(u32),
}

impl Next<'_> {
    pub(super) fn step(&self) -> u32 {
        match self {
            Self::Task(step, _) | Self::Wait(step) => *step,
        }
    }
}

pub(super) fn progress(state: &State, plan: &Plan, entry: &PlanEntry) -> Progress {
    let target = &state.targets[entry.target as usize];
    let failed = |task: &Task| task.outcome.as_ref().is_some_and(|outcome| !outcome.is_success());
    let stopped = |passage: &Passage| matches!(passage, Passage::Stopped(_));
    if tasks(plan, entry).any(|task| matches!(task.state, TaskState::Sent | TaskState::Running)) {
        return Progress::Acting;
    }
    if entry.refused.is_some() || tasks(plan, entry).any(failed) || target.steps.values().any(stopped) {
        return Progress::Bad;
    }
    if next(state, plan, entry).is_some() {
        return Progress::Acting;
    }
    match (&state.runbook, &target.verified) {
        (None, _) => Progress::Good,
        (Some(_), None) => Progress::Verifying,
        (Some(_), Some(conclusion)) if conclusion.verified => Progress::Good,
        (Some(_), Some(_)) => Progress::Bad,
    }
}

/// The first step that is not behind the entry, which may have begun.
pub(super) fn next<'a>(state: &State, plan: &'a Plan, entry: &PlanEntry) -> Option<Next<'a>> {
    if entry.steps.is_empty() {
        let task = tasks(plan, entry).find(|task| task.state != TaskState::Ended)?;
        return Some(Next::Task(task.leaf.step, task));
    }
    let target = &state.targets[entry.target as usize];
    (0..).zip(&entry.steps).find_map(|(place, step)| match &step.kind {
        Some(plan_step::Kind::Leaf(leaf)) => {
            let task = plan.tasks.get(*leaf as usize)?;
            (task.state != TaskState::Ended).then_some(Next::Task(place, task))
        }
        Some(plan_step::Kind::Wait(_) | plan_step::Kind::Manual(_)) => match target.steps.get(&place) {
            None | Some(Passage::Open { .. }) => Some(Next::Wait(place)),
            Some(_) => None,
        },
        None => None,
    })
}

fn tasks<'a>(plan: &'a Plan, entry: &PlanEntry) -> impl Iterator<Item = &'a Task> {
    entry.leaves.iter().filter_map(|leaf| plan.tasks.get(*leaf as usize))
}

/// Whether any step of an entry has begun.
fn has_begun(state: &State, plan: &Plan, entry: &PlanEntry) -> bool {
    tasks(plan, entry).any(|task| task.state != TaskState::Pending)
        || !state.targets[entry.target as usize].steps.is_empty()
}

/// Entries that have acted and whose verification has not spoken.
pub(super) fn unverified(state: &State) -> usize {
    let of = |plan: &Plan| {
        let verifying = |entry: &&PlanEntry| progress(state, plan, entry) == Progress::Verifying;
        plan.entries.iter().filter(verifying).count()
    };
    state.plans.iter().filter(|plan| plan.is_agreed()).map(of).sum()
}

pub(super) fn is_acting(state: &State, plan: &Plan) -> bool {
    plan.entries.iter().any(|entry| progress(state, plan, entry) == Progress::Acting)
}

/// Whether a step waits, or would when its turn comes.
pub(super) fn has_waits(state: &State, plan: &Plan) -> bool {
    plan.entries.iter().filter(|entry| progress(state, plan, entry) == Progress::Acting).any(|entry| {
        let target = &state.targets[entry.target as usize];
        (0..).zip(&entry.steps).any(|(place, step)| {
            let waits = !matches!(step.kind, Some(plan_step::Kind::Leaf(_)));
            waits && matches!(target.steps.get(&place), None | Some(Passage::Open { .. }))
        })
    })
}

/// Whether a person is waited for.
pub(super) fn awaits_person(state: &State, plan: &Plan) -> bool {
    plan.entries.iter().any(|entry| {
        let open = state.targets[entry.target as usize].open_wait();
        matches!(open, Some((_, Passage::Open { manual: true, .. })))
    })
}

/// Whether it is known of every entry how it ended.
pub(super) fn is_over(state: &State, plan: &Plan) -> bool {
    let settled = |entry| matches!(progress(state, plan, entry), Progress::Good | Progress::Bad);
    plan.entries.iter().all(settled)
}

/// What an entry changes: hosts with their stacks.
fn changes(state: &State, plan: &Plan, entry: &PlanEntry) -> BTreeSet<(HostId, String)> {
    let target = &state.targets[entry.target as usize];
    let mut changes = BTreeSet::new();
    if state.runbook.is_some() || !target.target.stack.is_empty() {
        changes.insert((target.host, target.target.stack.clone()));
    }
    let named = tasks(plan, entry).filter_map(|task| descriptors::stack_of(task.leaf.operation.as_ref()?));
    changes.extend(named.filter(|stack| !stack.is_empty()).map(|stack| (target.host, stack)));
    changes
}

/// What the entries under way change.
pub(super) fn changing(state: &State, plan: &Plan) -> Vec<(HostId, String)> {
    let under_way = plan.entries.iter().filter(|entry| {
        matches!(progress(state, plan, entry), Progress::Acting | Progress::Verifying)
            && has_begun(state, plan, entry)
    });
    under_way.flat_map(|entry| changes(state, plan, entry)).collect()
}

/// The next event of a plan that was agreed to.
pub(super) fn follows(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    waits::withdrawn(state, plan)
        .or_else(|| abandoned(state, plan))
        .or_else(|| overdue(plan, around.now_ms))
        .or_else(|| waits::left_out(state, plan, around))
        .or_else(|| unsendable(state, plan, around))
        .or_else(|| held(state, plan, around))
        // What is over is written down before anything begins, which may have to wait for room.
        .or_else(|| give_up(state, &due(waits::asked(state), around.now_ms), around))
        .or_else(|| give_up(state, &due(verification(state), around.now_ms), around))
        .or_else(|| send(state, plan, around))
        .or_else(|| waits::open(state, plan, around))
        .or_else(|| waits::close(state, plan, around.now_ms))
        .or_else(|| verify(state, plan, around.now_ms))
}

fn due(asked: Vec<Asked>, now_ms: i64) -> Vec<Asked> {
    asked.into_iter().filter(|asked| asked.not_before_ms <= now_ms).collect()
}

/// The entries that may act now: a wave begins when the one before it is over and good enough.
fn open_waves<'a>(state: &State, plan: &'a Plan) -> (&'a [PlanEntry], Gate) {
    let rollout = state.runbook.as_ref().map(|runbook| runbook.runbook().rollout.clone()).unwrap_or_default();
    let sizes = match &state.runbook {
        Some(_) if !plan.is_wave => rollout.waves(plan.entries.len()),
        // Who names hosts for one operation means them all at once.
        _ => vec![plan.entries.len()],
    };
    let mut begun = 0;
    let mut bad = plan::gone_wrong(state, Some(plan));
    for size in sizes {
        let wave = &plan.entries[begun..begun + size];
        begun += size;
        let progress: Vec<_> = wave.iter().map(|entry| progress(state, plan, entry)).collect();
        bad += progress.iter().filter(|progress| **progress == Progress::Bad).count();
        if progress.iter().any(|progress| matches!(progress, Progress::Acting | Progress::Verifying)) {
            let gate = if rollout.is_spent(bad) { Gate::Shut } else { Gate::Open };
            return (&plan.entries[..begun], gate);
        }
        if rollout.is_spent(bad) && state.runbook.is_some() {
            return (&plan.entries[..begun], Gate::Shut);
        }
    }
    (&plan.entries, Gate::Open)
}

/// Whether orders that were not sent yet may still be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    Shut,
}

/// Whether too much went wrong for anything more to begin.
pub(super) fn is_shut(state: &State, plan: &Plan) -> bool {
    state.runbook.is_some() && open_waves(state, plan).1 == Gate::Shut
}

/// Why nothing of an entry begins any more that has not begun.
pub(super) fn stopped(
    state: &State,
    plan: &Plan,
    entry: &PlanEntry,
    shut: bool,
) -> Option<(&'static str, String)> {
    if let Some(why) = &state.cancelled {
        return Some(("withdrawn", format!("not sent: {why}")));
    }
    let stopped = shut || progress(state, plan, entry) == Progress::Bad;
    stopped.then(|| ("rollout_stopped", "not sent: something before it did not go well".to_owned()))
}

/// Orders that will not be sent any more: a step before them failed, a wave before them did, or a person ended the run.
fn abandoned(state: &State, plan: &Plan) -> Option<Event> {
    let mut cancelled = Vec::new();
    let shut = is_shut(state, plan);
    for entry in &plan.entries {
        let mut pending = tasks(plan, entry).filter(|task| task.state == TaskState::Pending).peekable();
        if pending.peek().is_none() {
            continue;
        }
        let Some((code, why)) = stopped(state, plan, entry, shut) else { continue };
        cancelled
            .extend(pending.map(|task| {
                ending(task, Outcome::ended(OutcomeStatus::Cancelled, Failure::new(code, &why)))
            }));
    }
    (!cancelled.is_empty()).then(|| ended(cancelled))
}

/// Orders that were sent and whose agents have had all the time there is: nobody knows what became of them.
fn overdue(plan: &Plan, now_ms: i64) -> Option<Event> {
    let lost = |task: &&Task| {
        matches!(task.state, TaskState::Sent | TaskState::Running) && now_ms > lost_sight_at_ms(plan, task)
    };
    let overdue: Vec<_> = plan
        .tasks
        .iter()
        .filter(lost)
        .map(|task| {
            let failure =
                Failure::new(LOST_SIGHT, "the order was sent and its agent has not been heard of since")
                    .hint("look at the host; the agent reports how it ended as soon as it is back");
            ending(task, Outcome::ended(OutcomeStatus::InDoubt, failure))
        })
        .collect();
    (!overdue.is_empty()).then(|| ended(overdue))
}

/// Orders whose turn it is and that cannot be sent: their hosts are away, their window is over, or the remedy was
/// tried too often. They are given up, so that nothing happens on a host that comes back when nobody thinks of it any
/// more.
fn unsendable(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let given_up: Vec<_> = turns(state, plan)
        .filter_map(|(entry, task)| {
            let target = &state.targets[task.target].target;
            let hint = "is the host up, and does `systemctl status vigie-agent` say that it runs?";
            if around.now_ms > plan.manifest.not_after_ms {
                let failure =
                    Failure::new("expired", "the order's time to start was over before it could be sent");
                return Some(ending(task, Outcome::ended(OutcomeStatus::Expired, failure)));
            }
            if !(around.connected)(task.host) && around.now_ms >= gone_at_ms(state, plan, task) {
                let message = format!("{} is not connected, and the order was not sent", target.host_name);
                let failure = Failure::new("unreachable", message).hint(hint);
                return Some(ending(task, Outcome::ended(OutcomeStatus::Unreachable, failure)));
            }
            let first = !tasks(plan, entry).any(|task| task.state != TaskState::Pending);
            let refused = first.then(|| plan::repeated(state, entry.target as usize, &entry.remedy, around));
            refused.flatten().map(|failure| ending(task, Outcome::refused(failure)))
        })
        .collect();
    (!given_up.is_empty()).then(|| ended(given_up))
}

/// When a host that is away has been waited for long enough.
pub(super) fn gone_at_ms(state: &State, plan: &Plan, task: &Task) -> i64 {
    let last_seen_ms = state.targets[task.target].last_seen_ms;
    last_seen_ms.max(plan.signed_at_ms).max(state.owned_at_ms) + grace_ms(state)
}

/// The entries of open waves whose next step has not begun, with that step.
pub(super) fn ready<'a>(state: &'a State, plan: &'a Plan) -> impl Iterator<Item = (&'a PlanEntry, Next<'a>)> {
    let (entries, gate) = open_waves(state, plan);
    let shut = (gate == Gate::Shut && state.runbook.is_some()) || state.cancelled.is_some();
    let entries = if shut { &[] } else { entries };
    let mut room = room(state, plan);
    let acting = entries.iter().filter(|entry| progress(state, plan, entry) == Progress::Acting);
    // What has begun goes on; of the rest as many begin as may go wrong.
    let mut may_go_on = move |entry: &&PlanEntry| {
        has_begun(state, plan, entry) || room.checked_sub(1).map(|left| room = left).is_some()
    };
    acting.filter(move |entry| may_go_on(entry)).filter_map(|entry| {
        let next = next(state, plan, entry)?;
        let begun = match &next {
            Next::Task(_, task) => task.state != TaskState::Pending,
            Next::Wait(step) => state.targets[entry.target as usize].steps.contains_key(step),
        };
        (!begun).then_some((entry, next))
    })
}

/// How many more entries may begin within the rollout's budget.
fn room(state: &State, plan: &Plan) -> usize {
    let Some(runbook) = &state.runbook else { return usize::MAX };
    let mut bad = plan::gone_wrong(state, Some(plan));
    let mut under_way = 0;
    for entry in &plan.entries {
        match progress(state, plan, entry) {
            Progress::Bad => bad += 1,
            Progress::Acting | Progress::Verifying => under_way += usize::from(has_begun(state, plan, entry)),
            Progress::Good => {}
        }
    }
    runbook.runbook().rollout.room(bad, under_way)
}

/// The orders whose turn it is.
pub(super) fn turns<'a>(state: &'a State, plan: &'a Plan) -> impl Iterator<Item = (&'a PlanEntry, &'a Task)> {
    ready(state, plan).filter_map(|(entry, next)| match next {
        Next::Task(_, task) => Some((entry, task)),
        Next::Wait(_) => None,
    })
}

/// The run that changes what an entry is about, if another one does; otherwise it is this run's from now on.
pub(super) fn holder(
    state: &State,
    plan: &Plan,
    entry: &PlanEntry,
    around: &Surroundings<'_>,
) -> Option<Holder> {
    changes(state, plan, entry).into_iter().find_map(|(host, stack)| (around.held)(host, &stack))
}

/// The run that changes a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub run: String,
    /// What it does, and by whom: `run backend-502 by ada`.
    pub says: String,
}

/// Entries whose turn it is while another run changes their stack.
fn held(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let stacks: Vec<_> = ready(state, plan)
        .filter_map(|(entry, _)| {
            let holder = holder(state, plan, entry, around)?;
            let news = state.targets[entry.target as usize].held_by != holder.run;
            news.then_some(StackHeld { target: entry.target, run: holder.run, says: holder.says })
        })
        .collect();
    (!stacks.is_empty()).then_some(Event::Held(StacksHeld { stacks }))
}

/// When an order's agent has had all the time there is.
pub(super) fn lost_sight_at_ms(plan: &Plan, task: &Task) -> i64 {
    let starts_by = match task.state {
        TaskState::Running => task.heard_at_ms,
        _ => plan.manifest.not_after_ms,
    };
    starts_by + CLOCK_ALLOWANCE_MS + i64::from(task.leaf.timeout_ms) + PATIENCE_MS
}

/// Writes down which orders are about to be sent: those whose turn it is, to hosts that are there, on stacks that are
/// free.
fn send(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let orders: Vec<_> = turns(state, plan)
        .filter(|(_, task)| (around.connected)(task.host))
        .filter(|(entry, _)| holder(state, plan, entry, around).is_none())
        .map(|(_, task)| task.leaf.order.clone())
        .collect();
    (!orders.is_empty()).then_some(Event::Sent(TasksSent { orders }))
}

fn ending(task: &Task, outcome: Outcome) -> TaskEnded {
    TaskEnded { order: task.leaf.order.clone(), outcome: Some(outcome) }
}

/// The present round's probes of every target that is being verified.
pub(super) fn verification(state: &State) -> Vec<Asked> {
    let Some(plan) = state.plan().filter(|plan| plan.is_agreed()) else { return Vec::new() };
    plan.entries
        .iter()
        .filter(|e| progress(state, plan, e) == Progress::Verifying)
        .flat_map(|e| round(state, e))
        .collect()
}

fn round(state: &State, entry: &PlanEntry) -> Vec<Asked> {
    let Some(runbook) = &state.runbook else { return Vec::new() };
    let place = entry.target as usize;
    let target = &state.targets[place];
    let verification = runbook.verification(&entry.remedy, &target.target.stack);
    let complete = verification.probes.iter().all(|probe| target.verification.contains_key(&probe.id));
    // A round that is complete and did not settle it is followed by another, a while later.
    let (round, not_before_ms) = match complete {
        true => (target.round + 1, target.last_seen_ms + i64::from(verification.every_ms)),
        false => (target.round, target.acted_at_ms),
    };
    let asked = verification.probes.into_iter().map(|probe| Asked {
        key: ProbeKey { target: place, probe: probe.id, purpose: ProbePurpose::Verification, round },
        from: probe.from,
        request: probe.request,
        timeout_ms: probe.timeout_ms,
        after: probe.after,
        not_before_ms,
    });
    asked.collect()
}

/// What complete rounds of verification tell.
fn verify(state: &State, plan: &Plan, now_ms: i64) -> Option<Event> {
    let runbook = state.runbook.as_ref()?;
    let conclusions: Vec<_> = plan
        .entries
        .iter()
        .filter(|entry| progress(state, plan, entry) == Progress::Verifying)
        .filter_map(|entry| {
            let target = &state.targets[entry.target as usize];
            let verification = runbook.verification(&entry.remedy, &target.target.stack);
            if !verification.probes.iter().all(|probe| target.verification.contains_key(&probe.id)) {
                return None;
            }
            let subject = subject(target, now_ms);
            let verified = runbook.verified(&entry.remedy, &subject, &target.verification) == Some(true);
            if !verified && now_ms < target.acted_at_ms + i64::from(verification.within_ms) {
                return None;
            }
            Some(Conclusion {
                target: place(entry.target as usize),
                purpose: ProbePurpose::Verification.into(),
                remedy: entry.remedy.clone(),
                checklist: runbook.checklist(&subject, &target.verification),
                verified,
                ..Conclusion::default()
            })
        })
        .collect();
    (!conclusions.is_empty()).then_some(Event::Concluded(Concluded { conclusions }))
}

/// When the first verification runs out of time.
pub(super) fn verification_ends_at_ms(state: &State) -> Option<i64> {
    let (plan, runbook) = (state.plan()?, state.runbook.as_ref()?);
    let verifying = plan.entries.iter().filter(|entry| progress(state, plan, entry) == Progress::Verifying);
    verifying
        .map(|entry| {
            let target = &state.targets[entry.target as usize];
            let verification = runbook.verification(&entry.remedy, &target.target.stack);
            target.acted_at_ms + i64::from(verification.within_ms)
        })
        .min()
}
