//! Carrying out a signed plan: in waves, each target acting and then verifying, stopping at the first surprise.

use vigie_proto::{
    order::CLOCK_ALLOWANCE_MS,
    v1::{
        Concluded, Conclusion, Failure, Outcome, OutcomeStatus, PlanEntry, ProbePurpose, TaskEnded,
        TasksSent, run_event::Event,
    },
};

use super::{
    ProbeKey, State, Surroundings, Task, TaskState,
    decide::{LOST_SIGHT, ended, give_up, place, subject},
    state::Plan,
    verdict,
    wanted::{Asked, grace_ms},
};

/// How long after an order's last possible end its agent's word is waited for.
const PATIENCE_MS: i64 = 60_000;

/// How far an entry of the plan has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Some of its orders have not ended.
    Acting,
    /// All its orders succeeded; whether that helped is being looked at.
    Verifying,
    /// It helped.
    Good,
    /// It failed, or did not help.
    Bad,
}

pub(super) fn progress(state: &State, entry: &PlanEntry) -> Progress {
    let tasks = tasks(state, entry);
    if tasks.iter().any(|(_, task)| task.outcome.as_ref().is_some_and(|outcome| !outcome.is_success())) {
        return Progress::Bad;
    }
    if tasks.iter().any(|(_, task)| task.state != TaskState::Ended) {
        return Progress::Acting;
    }
    match (&state.runbook, &state.targets[entry.target as usize].verified) {
        (None, _) => Progress::Good,
        (Some(_), None) => Progress::Verifying,
        (Some(_), Some(conclusion)) if conclusion.verified => Progress::Good,
        (Some(_), Some(_)) => Progress::Bad,
    }
}

fn tasks<'a>(state: &'a State, entry: &PlanEntry) -> Vec<(usize, &'a Task)> {
    let all = state.tasks();
    entry.leaves.iter().filter_map(|leaf| Some((*leaf as usize, all.get(*leaf as usize)?))).collect()
}

/// The next event of a signed plan.
pub(super) fn follows(state: &State, around: &Surroundings<'_>) -> Option<Event> {
    let plan = state.plan.as_ref()?;
    abandoned(state, plan)
        .or_else(|| overdue(plan, around.now_ms))
        .or_else(|| unsendable(state, plan, around))
        .or_else(|| send(state, plan, around))
        .or_else(|| give_up(state, &due(verification(state), around.now_ms), around))
        .or_else(|| verify(state, plan, around.now_ms))
        .or_else(|| {
            let over =
                plan.entries.iter().all(|e| matches!(progress(state, e), Progress::Good | Progress::Bad));
            over.then(|| verdict::close(state))
        })
}

fn due(asked: Vec<Asked>, now_ms: i64) -> Vec<Asked> {
    asked.into_iter().filter(|asked| asked.not_before_ms <= now_ms).collect()
}

/// The entries that may act now: a wave begins when the one before it is over and good enough.
fn open_waves<'a>(state: &State, plan: &'a Plan) -> (&'a [PlanEntry], Gate) {
    let rollout = state.runbook.as_ref().map(|runbook| runbook.runbook().rollout.clone()).unwrap_or_default();
    let sizes = match &state.runbook {
        Some(_) => rollout.waves(plan.entries.len()),
        // Who names hosts for one operation means them all at once.
        None => vec![plan.entries.len()],
    };
    let (mut begun, mut bad) = (0, 0);
    for size in sizes {
        let wave = &plan.entries[begun..begun + size];
        begun += size;
        let progress: Vec<_> = wave.iter().map(|entry| progress(state, entry)).collect();
        bad += progress.iter().filter(|progress| **progress == Progress::Bad).count();
        if progress.iter().any(|progress| matches!(progress, Progress::Acting | Progress::Verifying)) {
            let gate = if bad > rollout.max_failures { Gate::Shut } else { Gate::Open };
            return (&plan.entries[..begun], gate);
        }
        if bad > rollout.max_failures && state.runbook.is_some() {
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

/// Orders that will not be sent any more: a step before them failed, or a wave before them did.
fn abandoned(state: &State, plan: &Plan) -> Option<Event> {
    let (_, gate) = open_waves(state, plan);
    let cancelled: Vec<_> = plan
        .entries
        .iter()
        .flat_map(|entry| {
            let failed = progress(state, entry) == Progress::Bad;
            tasks(state, entry).into_iter().filter(move |(_, task)| {
                task.state == TaskState::Pending
                    && (failed || (gate == Gate::Shut && state.runbook.is_some()))
            })
        })
        .map(|(_, task)| {
            let failure = Failure::new("rollout_stopped", "not sent: something before it did not go well");
            ending(task, Outcome::ended(OutcomeStatus::Cancelled, failure))
        })
        .collect();
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

/// Orders whose turn it is and that cannot be sent: their hosts are away, or their window is over. They are given up,
/// so that nothing happens on a host that comes back when nobody thinks of it any more.
fn unsendable(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let given_up: Vec<_> = turns(state, plan)
        .filter_map(|task| {
            let target = &state.targets[task.target].target;
            let failure = if around.now_ms > plan.manifest.not_after_ms {
                Failure::new("expired", "the order's time to start was over before it could be sent")
            } else if !(around.connected)(task.host) && around.now_ms >= gone_at_ms(state, plan, task) {
                let message = format!("{} is not connected, and the order was not sent", target.host_name);
                Failure::new("unreachable", message)
                    .hint("is the host up, and does `systemctl status vigie-agent` say that it runs?")
            } else {
                return None;
            };
            let status = match failure.code.as_str() {
                "expired" => OutcomeStatus::Expired,
                _ => OutcomeStatus::Unreachable,
            };
            Some(ending(task, Outcome::ended(status, failure)))
        })
        .collect();
    (!given_up.is_empty()).then(|| ended(given_up))
}

/// When a host that is away has been waited for long enough.
pub(super) fn gone_at_ms(state: &State, plan: &Plan, task: &Task) -> i64 {
    let last_seen_ms = state.targets[task.target].last_seen_ms;
    last_seen_ms.max(plan.signed_at_ms).max(state.owned_at_ms) + grace_ms(state)
}

/// The orders whose turn it is: those of open waves, each after the step before it.
pub(super) fn turns<'a>(state: &'a State, plan: &'a Plan) -> impl Iterator<Item = &'a Task> {
    let (entries, gate) = open_waves(state, plan);
    let entries = if gate == Gate::Shut && state.runbook.is_some() { &[] } else { entries };
    entries.iter().filter(|entry| progress(state, entry) == Progress::Acting).filter_map(|entry| {
        let (_, next) = tasks(state, entry).into_iter().find(|(_, task)| task.state != TaskState::Ended)?;
        (next.state == TaskState::Pending).then_some(next)
    })
}

/// When an order's agent has had all the time there is.
pub(super) fn lost_sight_at_ms(plan: &Plan, task: &Task) -> i64 {
    let starts_by = match task.state {
        TaskState::Running => task.heard_at_ms,
        _ => plan.manifest.not_after_ms,
    };
    starts_by + CLOCK_ALLOWANCE_MS + i64::from(task.leaf.timeout_ms) + PATIENCE_MS
}

/// Writes down which orders are about to be sent: those whose turn it is, to hosts that are there.
fn send(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let sendable = turns(state, plan).filter(|task| (around.connected)(task.host));
    let orders: Vec<_> = sendable.map(|task| task.leaf.order.clone()).collect();
    (!orders.is_empty()).then_some(Event::Sent(TasksSent { orders }))
}

fn ending(task: &Task, outcome: Outcome) -> TaskEnded {
    TaskEnded { order: task.leaf.order.clone(), outcome: Some(outcome) }
}

/// The present round's probes of every target that is being verified.
pub(super) fn verification(state: &State) -> Vec<Asked> {
    let Some(plan) = &state.plan else { return Vec::new() };
    plan.entries
        .iter()
        .filter(|e| progress(state, e) == Progress::Verifying)
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
        .filter(|entry| progress(state, entry) == Progress::Verifying)
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
    let (plan, runbook) = (state.plan.as_ref()?, state.runbook.as_ref()?);
    let verifying = plan.entries.iter().filter(|entry| progress(state, entry) == Progress::Verifying);
    verifying
        .map(|entry| {
            let target = &state.targets[entry.target as usize];
            let verification = runbook.verification(&entry.remedy, &target.target.stack);
            target.acted_at_ms + i64::from(verification.within_ms)
        })
        .min()
}
