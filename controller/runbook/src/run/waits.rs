//! The steps between the orders of a remedy: those that are left out, and those that wait, for a rule or for a person.

use vigie_proto::v1::{
    ManualDone, PlanEntry, ProbePurpose, StepLeftOut, StepPlace, StepsLeftOut, WaitClosed, WaitEnd,
    WaitOpened, WaitsClosed, WaitsOpened, plan_step, run_event::Event,
};

use super::{
    ProbeKey, Rejected, State, Surroundings,
    act::{Next, Progress, holder, is_shut, next, progress, ready, stopped},
    decide::subject,
    planned::Plan,
    target::Passage,
    wanted::Asked,
};
use crate::Condition;

/// Steps whose turn has come, and whose conditions do not let them run.
pub(super) fn left_out(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let runbook = state.runbook.as_ref()?;
    let steps: Vec<_> = ready(state, plan)
        .filter(|(entry, next)| {
            let step = entry.steps.get(next.step() as usize);
            step.is_some_and(|step| !step.when.is_empty())
        })
        .filter_map(|(entry, next)| {
            let target = &state.targets[entry.target as usize];
            let subject = subject(target, around.now_ms);
            let step = next.step();
            let unknown = match runbook.condition(&entry.remedy, step as usize, &subject, &target.newest()) {
                Condition::Holds => return None,
                Condition::Fails => String::new(),
                // Never empty, since that would say that it was judged.
                Condition::Unknown(why) if why.is_empty() => "its evidence is missing".to_owned(),
                Condition::Unknown(why) => why,
            };
            let order = match next {
                Next::Task(_, task) => task.leaf.order.clone(),
                Next::Wait(_) => String::new(),
            };
            Some(StepLeftOut { target: entry.target, step, order, unknown })
        })
        .collect();
    (!steps.is_empty()).then_some(Event::LeftOut(StepsLeftOut { steps }))
}

/// Steps whose turn to wait has come.
pub(super) fn open(state: &State, plan: &Plan, around: &Surroundings<'_>) -> Option<Event> {
    let waits: Vec<_> = ready(state, plan)
        .filter_map(|(entry, next)| {
            let Next::Wait(step) = next else { return None };
            let (says, manual, within_ms) = match entry.steps.get(step as usize)?.kind.as_ref()? {
                plan_step::Kind::Wait(wait) => (&wait.says, false, wait.within_ms),
                plan_step::Kind::Manual(manual) => (&manual.says, true, manual.within_ms),
                plan_step::Kind::Leaf(_) => return None,
            };
            if holder(state, plan, entry, around).is_some() {
                return None;
            }
            Some(WaitOpened {
                target: entry.target,
                step,
                says: says.clone(),
                manual,
                until_ms: around.now_ms + i64::from(within_ms),
            })
        })
        .collect();
    (!waits.is_empty()).then_some(Event::WaitsOpened(WaitsOpened { waits }))
}

/// The probes of the present round of every step that waits for a rule.
pub(super) fn asked(state: &State) -> Vec<Asked> {
    waiting(state).flat_map(|(_, entry, step)| round(state, entry, step)).collect()
}

/// The entries whose step waits, for a rule or a person.
fn waiting(state: &State) -> impl Iterator<Item = (&Plan, &PlanEntry, u32)> {
    let plans = state.plan().filter(|plan| plan.is_agreed()).into_iter();
    plans.flat_map(move |plan| {
        plan.entries.iter().filter_map(move |entry| {
            let (step, _) = state.targets[entry.target as usize].open_wait()?;
            (progress(state, plan, entry) == Progress::Acting).then_some((plan, entry, step))
        })
    })
}

fn round(state: &State, entry: &PlanEntry, step: u32) -> Vec<Asked> {
    let place = entry.target as usize;
    let target = &state.targets[place];
    let (Some(runbook), Some((_, Passage::Open { opened_at_ms, .. }))) = (&state.runbook, target.open_wait())
    else {
        return Vec::new();
    };
    let wait = runbook.wait(&entry.remedy, step as usize, &target.target.stack);
    let complete =
        !wait.probes.is_empty() && wait.probes.iter().all(|probe| target.waiting.contains_key(&probe.id));
    let (round, not_before_ms) = match complete {
        true => (target.wait_round + 1, target.last_seen_ms + i64::from(wait.every_ms)),
        false => (target.wait_round, *opened_at_ms),
    };
    let asked = wait.probes.into_iter().map(|probe| Asked {
        key: ProbeKey { target: place, probe: probe.id, purpose: ProbePurpose::Wait, round },
        from: probe.from,
        request: probe.request,
        timeout_ms: probe.timeout_ms,
        after: probe.after,
        not_before_ms,
    });
    asked.collect()
}

/// Waits that are over: what was waited for has come, or the time for it is up.
pub(super) fn close(state: &State, plan: &Plan, now_ms: i64) -> Option<Event> {
    let waits: Vec<_> = waiting(state)
        .filter_map(|(_, entry, step)| {
            let target = &state.targets[entry.target as usize];
            let Some((_, Passage::Open { manual, says, until_ms, .. })) = target.open_wait() else {
                return None;
            };
            let came = !manual && {
                let runbook = state.runbook.as_ref()?;
                let wait = runbook.wait(&entry.remedy, step as usize, &target.target.stack);
                let complete = wait.probes.iter().all(|probe| target.waiting.contains_key(&probe.id));
                let subject = subject(target, now_ms);
                complete
                    && runbook.has_come(&entry.remedy, step as usize, &subject, &target.waiting) == Some(true)
            };
            let (end, why) = match (came, now_ms >= *until_ms) {
                (true, _) => (WaitEnd::Held, String::new()),
                (false, true) if *manual => {
                    (WaitEnd::TimedOut, format!("nobody said in time that this was done: {says}"))
                }
                (false, true) => (WaitEnd::TimedOut, format!("this did not come in time: {says}")),
                (false, false) => return None,
            };
            Some(WaitClosed { target: entry.target, step, end: end.into(), why })
        })
        .collect();
    debug_assert!(plan.is_agreed(), "only what was agreed to waits");
    (!waits.is_empty()).then_some(Event::WaitsClosed(WaitsClosed { waits }))
}

/// Steps that will not wait any more, or not begin to: a person ended the run, or something else went wrong.
pub(super) fn withdrawn(state: &State, plan: &Plan) -> Option<Event> {
    let shut = is_shut(state, plan);
    let waits: Vec<_> = plan
        .entries
        .iter()
        .filter(|entry| progress(state, plan, entry) == Progress::Acting)
        .filter_map(|entry| {
            let Next::Wait(step) = next(state, plan, entry)? else { return None };
            let open = state.targets[entry.target as usize].steps.contains_key(&step);
            // A wave that acts is let go on where only another target of it failed.
            if open && state.cancelled.is_none() {
                return None;
            }
            let (_, why) = stopped(state, plan, entry, shut)?;
            Some(WaitClosed { target: entry.target, step, end: WaitEnd::Withdrawn.into(), why })
        })
        .collect();
    (!waits.is_empty()).then_some(Event::WaitsClosed(WaitsClosed { waits }))
}

/// A person says that steps of theirs are done: on these hosts, or on all that wait for it.
pub(super) fn acknowledge(
    state: &State,
    operator: String,
    hosts: &[String],
    note: String,
) -> Result<Event, Rejected> {
    let waits = |target: &super::TargetState| match target.open_wait() {
        Some((step, Passage::Open { manual: true, .. })) => Some(step),
        _ => None,
    };
    let named = |target: &super::TargetState| hosts.is_empty() || hosts.contains(&target.target.host_name);
    let steps: Vec<_> = (0..)
        .zip(&state.targets)
        .filter(|(_, target)| named(target))
        .filter_map(|(place, target)| Some(StepPlace { target: place, step: waits(target)? }))
        .collect();
    if let Some(other) = hosts.iter().find(|host| {
        !state.targets.iter().any(|target| target.target.host_name == **host && waits(target).is_some())
    }) {
        return Err(Rejected::NobodyWaitedFor(format!("on {other}")));
    }
    match steps.is_empty() {
        true => Err(Rejected::NobodyWaitedFor("at this moment".to_owned())),
        false => Ok(Event::ManualDone(ManualDone { steps, operator, note })),
    }
}

/// When the first open wait runs out of time.
pub(super) fn ends_at_ms(state: &State) -> Option<i64> {
    let open = state.targets.iter().filter_map(|target| match target.open_wait() {
        Some((_, Passage::Open { until_ms, .. })) => Some(*until_ms),
        _ => None,
    });
    open.min()
}
