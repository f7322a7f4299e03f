//! How a run ends.

use std::collections::BTreeMap;

use vigie_proto::v1::{Outcome, OutcomeStatus, RunMode, RunVerdict, run_event::Event};

use super::{State, Task, act, decide::closed, plan};

/// The end of a run, judged by the worst that it holds: in doubt, failed, refused, unreachable, findings, well.
pub(super) fn close(state: &State) -> Event {
    let (verdict, reason) = judge(state);
    closed(verdict, reason)
}

/// The verdict of a run that is over, and its reason. Judged anew when what was in doubt is known later.
pub(super) fn judge(state: &State) -> (RunVerdict, String) {
    let statuses: Vec<_> = outcomes(state).collect();
    let count = |status| statuses.iter().filter(|seen| **seen == status).count();
    let of = |number: usize, word: &str| format!("{number} of {} {word}", statuses.len());
    if count(OutcomeStatus::InDoubt) > 0 {
        return (RunVerdict::InDoubt, of(count(OutcomeStatus::InDoubt), "in doubt"));
    }
    let acted = state.plans.iter().any(|plan| !plan.signatures.is_empty());
    let untouched = plan::untouched(state);
    if let Some(why) = &state.cancelled
        && acted
    {
        // Told apart: what never began, what was stopped in the middle, and what the word came too late for.
        let (stopped, never_begun) = withdrawn(state);
        let left = untouched + never_begun;
        let left = (left > 0).then(|| format!("{} left alone", targets(left)));
        let cut = (stopped > 0).then(|| format!("{stopped} stopped while running"));
        if left.is_some() || cut.is_some() {
            let late = count(OutcomeStatus::Succeeded);
            let late = (late > 0).then(|| format!("{late} had ended before"));
            let parts: Vec<_> = [left, cut, late].into_iter().flatten().collect();
            return (RunVerdict::Cancelled, format!("{why}; {}", parts.join(", ")));
        }
    }
    if state.is_diagnosis() {
        let unreachable = state.targets.iter().filter(|target| target.is_unreachable()).count();
        let confirmed = state.targets.iter().filter(|target| is_ill(target)).count();
        let entries = state.plan_entries().count();
        if let Some(refusal) = refusals(state).next().filter(|_| !acted && refusals(state).count() == entries)
        {
            let reason = refusal.failure.as_ref().map_or("", |failure| failure.message.as_str());
            return (RunVerdict::Refused, reason.to_owned());
        }
        if acted {
            let bad = plan::gone_wrong(state, None);
            let unverified = act::unverified(state);
            if bad == 0 && unverified > 0 {
                let reason = format!(
                    "{} seen afterwards to be done, not verified: diagnose again",
                    targets(unverified)
                );
                return (RunVerdict::Unresolved, reason);
            }
            let left = confirmed.saturating_sub(entries);
            return match (bad, left, unreachable) {
                (1.., ..) if untouched > 0 => {
                    let rest = format!("{} left alone", targets(untouched));
                    (RunVerdict::Unresolved, format!("{bad} of {entries} not repaired; {rest}"))
                }
                (1.., ..) => (RunVerdict::Unresolved, format!("{bad} of {entries} not repaired")),
                (0, _, 1..) => {
                    (RunVerdict::Unreachable, format!("{} could not be asked", targets(unreachable)))
                }
                (0, 1.., 0) => (RunVerdict::Findings, format!("{} for a person to mend", targets(left))),
                (0, 0, 0) => (RunVerdict::Resolved, format!("{entries} repaired and verified")),
            };
        }
        return match (unreachable, confirmed) {
            (1.., _) => (RunVerdict::Unreachable, format!("{} could not be asked", targets(unreachable))),
            (0, 1..) => {
                let rest = match state.mode() {
                    RunMode::Diagnose => "",
                    _ if state.plan().is_some() => "; planned, nothing was changed",
                    _ => "; no remedy can help, a person has to",
                };
                (RunVerdict::Findings, format!("{confirmed} of {} not well{rest}", state.targets.len()))
            }
            (0, 0) => (RunVerdict::Ok, "nothing found".to_owned()),
        };
    }
    for (status, verdict) in [
        (OutcomeStatus::Failed, RunVerdict::Failed),
        (OutcomeStatus::Refused, RunVerdict::Refused),
        (OutcomeStatus::Expired, RunVerdict::Unreachable),
        (OutcomeStatus::Unreachable, RunVerdict::Unreachable),
        (OutcomeStatus::Cancelled, RunVerdict::Cancelled),
    ] {
        if count(status) > 0 {
            return (verdict, of(count(status), status.word()));
        }
    }
    (RunVerdict::Ok, of(statuses.len(), "succeeded"))
}

/// The outcomes that the run is about: its orders where it acted, else its probes.
fn outcomes(state: &State) -> impl Iterator<Item = OutcomeStatus> {
    let tasks = state.tasks().filter_map(|task| task.outcome.as_ref());
    let acted = state.tasks().any(|task| task.outcome.is_some()) || refusals(state).next().is_some();
    let probes = state.targets.iter().flat_map(|target| target.evidence.values()).filter(move |_| !acted);
    tasks.chain(refusals(state)).chain(probes).map(Outcome::status)
}

/// The orders that were stopped while they ran, and the targets of plans that a person agreed to on which nothing began.
fn withdrawn(state: &State) -> (usize, usize) {
    let cancelled = |task: &&Task| {
        task.outcome.as_ref().is_some_and(|outcome| outcome.status() == OutcomeStatus::Cancelled)
    };
    let stopped = state.tasks().filter(cancelled).filter(|task| task.started_at_ms > 0).count();
    let mut begun: BTreeMap<usize, bool> = BTreeMap::new();
    for task in state.tasks() {
        *begun.entry(task.target).or_default() |= !cancelled(&task) || task.started_at_ms > 0;
    }
    (stopped, begun.into_values().filter(|begun| !begun).count())
}

/// Why nothing was planned where something should have been.
fn refusals(state: &State) -> impl Iterator<Item = &Outcome> {
    state.plan_entries().filter_map(|entry| entry.refused.as_ref())
}

fn targets(number: usize) -> String {
    if number == 1 { "1 target".to_owned() } else { format!("{number} targets") }
}

fn is_ill(target: &super::TargetState) -> bool {
    let findings = target.conclusion.iter().flat_map(|conclusion| &conclusion.findings);
    findings.into_iter().any(vigie_proto::v1::Finding::is_trouble)
}
