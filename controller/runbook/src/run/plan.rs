//! From proposed remedies to exact orders.

use std::collections::BTreeMap;

use chrono::{Local, TimeZone as _};
use prost::Message as _;
use vigie_proto::{
    descriptors,
    operation::{Authority, Operation},
    order::{Batch, digest},
    v1::{
        Failure, Leaf, Manifest, Outcome, OutcomeStatus, PlanEntry, PlanStep, Planned, Prepared,
        ProbePurpose, Request, RunMode, plan_step, result, run_event::Event, run_spec::Kind,
    },
};

use super::{
    ProbeKey, State, Surroundings,
    act::{Progress, progress},
    decide::{place, subject},
    planned::Plan,
    target::Preview,
    verdict,
    wanted::{Asked, timeout},
};
use crate::Vantage;

/// How long after its making a plan may be signed, and its orders may start: time to read it, and for the rollout.
const WINDOW_MS: i64 = 15 * 60 * 1000;

/// A signature takes this long to get to the agents: later than that before its challenges end, a plan is made anew.
pub(super) const LAST_MOMENT_MS: i64 = 5_000;

/// So often may a remedy be tried on a stack within [`HOUR_MS`], whoever asks: what did not help twice hides its cause.
const TRIES: usize = 2;

/// The time in which tries are counted.
pub const HOUR_MS: i64 = 60 * 60 * 1000;

/// An action as it would be done on one target.
struct Step {
    /// Its place in the remedy.
    place: u32,
    request: Request,
    timeout_ms: u32,
}

impl Step {
    fn loses(&self) -> bool {
        loses(&self.request)
    }
}

fn loses(request: &Request) -> bool {
    Operation::of(request).is_ok_and(|operation| operation.authority == Authority::OrderChallenge)
}

/// A runbook's remedy, under the name by which its tries are counted.
pub(super) fn remedy_name(runbook: &str, remedy: &str) -> String {
    format!("{runbook}/{remedy}")
}

/// The actions for a target; none when nothing is proposed for it.
fn steps(state: &State, target: usize) -> Vec<Step> {
    let seen = &state.targets[target];
    match (&state.runbook, &state.spec().kind) {
        (Some(runbook), _) => {
            let steps = runbook.steps(remedy_of(state, target), &seen.target.stack);
            let step = |step: crate::StepSpec| Step {
                place: step.step,
                request: step.request,
                timeout_ms: step.timeout_ms,
            };
            steps.into_iter().map(step).collect()
        }
        (None, Some(Kind::Operation(request))) => vec![Step {
            place: 0,
            request: descriptors::with_stack(request, &seen.target.stack),
            timeout_ms: timeout(request, state.spec().timeout_ms),
        }],
        (None, _) => Vec::new(),
    }
}

/// The targets for which something is proposed.
fn proposals(state: &State) -> Vec<usize> {
    let proposed = |target: &usize| match &state.runbook {
        Some(runbook) => runbook.remedy(remedy_of(state, *target)).is_some(),
        None => true,
    };
    (0..state.targets.len()).filter(proposed).collect()
}

/// Whether each wave has a plan of its own: something would be lost, and nobody agrees to more of that than they saw.
pub(super) fn goes_by_waves(state: &State) -> bool {
    match (&state.runbook, &state.spec().kind) {
        (Some(runbook), _) => proposals(state).into_iter().any(|target| {
            let remedy = runbook.remedy(remedy_of(state, target));
            let mut operations = remedy.into_iter().flat_map(crate::Remedy::operations);
            operations.any(|operation| operation.authority == Authority::OrderChallenge)
        }),
        (None, Some(Kind::Operation(request))) => loses(request),
        (None, _) => false,
    }
}

/// How many targets went wrong in all plans but this one.
pub(super) fn gone_wrong(state: &State, but: Option<&Plan>) -> usize {
    let plans = state.plans.iter().filter(|plan| but.is_none_or(|but| !std::ptr::eq(*plan, but)));
    let entries = plans.flat_map(|plan| plan.entries.iter().map(move |entry| (plan, entry)));
    entries.filter(|(plan, entry)| progress(state, plan, entry) == Progress::Bad).count()
}

/// The targets that the next plan is about; none when all had their turn, or when no more have one.
pub(super) fn next_wave(state: &State) -> Vec<usize> {
    let proposals = proposals(state);
    let planned: usize =
        state.plans.iter().filter(|plan| plan.is_agreed()).map(|plan| plan.entries.len()).sum();
    let left = &proposals[planned.min(proposals.len())..];
    if planned == 0 && (state.mode() == RunMode::Plan || !goes_by_waves(state) || state.runbook.is_none()) {
        return left.to_vec();
    }
    let rollout = state.runbook.as_ref().map(|runbook| runbook.runbook().rollout.clone()).unwrap_or_default();
    let bad = gone_wrong(state, None);
    if state.cancelled.is_some() || left.is_empty() || rollout.is_spent(bad) {
        return Vec::new();
    }
    let mut begun = 0;
    let size = rollout.waves(proposals.len()).into_iter().find(|size| {
        begun += size;
        begun > planned
    });
    // The waves before are over: nothing else is under way.
    left[..size.unwrap_or(left.len()).min(left.len()).min(rollout.room(bad, 0))].to_vec()
}

/// How many targets something is proposed for and nothing was planned for that a person agreed to.
pub(super) fn untouched(state: &State) -> usize {
    let agreed = state.plans.iter().filter(|plan| plan.is_agreed());
    proposals(state).len().saturating_sub(agreed.map(|plan| plan.entries.len()).sum())
}

/// How many targets have their turn after this wave.
fn later(state: &State, wave: &[usize]) -> usize {
    let proposals = proposals(state);
    let last = wave.last().and_then(|last| proposals.iter().position(|target| target == last));
    last.map_or(0, |last| proposals.len() - last - 1)
}

/// The probes that tell what the next wave's steps would do. For what loses something the agent is asked to remember
/// what it told, unless nothing is to be done.
pub(super) fn previews(state: &State) -> Vec<Asked> {
    let mut asked = Vec::new();
    for target in next_wave(state) {
        for step in steps(state, target) {
            let Some(preview) = descriptors::preview_of(&step.request) else { continue };
            let prepares = step.loses() && state.mode() != RunMode::Plan;
            let timeout_ms = timeout(&preview, 0);
            let (purpose, request) = match prepares {
                true => (ProbePurpose::Preparation, step.request),
                false => (ProbePurpose::Preview, preview),
            };
            let probe = preview_name(state, target, step.place);
            asked.push(Asked {
                key: ProbeKey { target, probe, purpose, round: 0 },
                from: Vantage::Host,
                timeout_ms,
                request,
                after: Vec::new(),
                not_before_ms: 0,
            });
        }
    }
    asked
}

fn preview_name(state: &State, target: usize, place: u32) -> String {
    format!("{}/{place}", remedy_of(state, target))
}

fn remedy_of(state: &State, target: usize) -> &str {
    state.targets[target].conclusion.as_ref().map_or("", |conclusion| conclusion.remedy.as_str())
}

/// The plan, or the end of the run when there is nothing to plan.
pub(super) fn propose_or_close(state: &State, around: &mut Surroundings<'_>) -> Event {
    let wave = next_wave(state);
    if wave.is_empty() { verdict::close(state) } else { propose(state, &wave, around) }
}

/// The same plan in a new window.
pub(super) fn propose_again(state: &State, plan: &Plan, around: &mut Surroundings<'_>) -> Event {
    let wave: Vec<_> = plan.entries.iter().map(|entry| entry.target as usize).collect();
    propose(state, &wave, around)
}

/// Why a remedy is not tried again on a target: it was, twice within the hour.
pub(super) fn repeated(
    state: &State,
    target: usize,
    remedy: &str,
    around: &Surroundings<'_>,
) -> Option<Failure> {
    let Some(Kind::Runbook(call)) = &state.spec().kind else { return None };
    let seen = &state.targets[target];
    let name = remedy_name(&call.id, remedy);
    let mut tries = (around.tries)(seen.host, &seen.target.stack, &name);
    tries.retain(|at_ms| around.now_ms - at_ms < HOUR_MS);
    if tries.len() < TRIES {
        return None;
    }
    tries.sort_unstable();
    let times: Vec<_> = tries
        .iter()
        .map(|at_ms| match Local.timestamp_millis_opt(*at_ms).single() {
            Some(at) => at.format("%H:%M:%S").to_string(),
            None => at_ms.to_string(),
        })
        .collect();
    let again = tries[tries.len() - TRIES] + HOUR_MS - around.now_ms;
    let message = format!("{remedy} was tried at {} already, and did not last", times.join(" and "));
    let hint = format!("look for what brings it back; it may be tried again in {} min", again / 60_000 + 1);
    Some(Failure::new("remedy_repeated", message).hint(hint))
}

/// The plan: every order that would be given, in a window that begins now.
fn propose(state: &State, wave: &[usize], around: &mut Surroundings<'_>) -> Event {
    let (mut leaves, mut entries) = (Vec::new(), Vec::new());
    let mut waiting_ms = 0;
    for &target in wave {
        let entry = entry(state, target, &mut leaves, around);
        if let Some(runbook) = &state.runbook {
            waiting_ms = waiting_ms.max(i64::from(runbook.waiting_ms(&entry.remedy)));
        }
        entries.push(entry);
    }
    let manifest = Manifest {
        batch: around.ids.batch().to_string(),
        run: state.run.to_string(),
        runbook_digest: state.opened.runbook_digest.clone(),
        not_before_ms: around.now_ms,
        not_after_ms: around.now_ms + WINDOW_MS + waiting_ms,
        person: state.opened.operator.clone(),
        ..Manifest::default()
    };
    let batch = Batch::assemble(manifest, &leaves);
    Event::Planned(Planned {
        entries,
        manifest: batch.manifest().to_vec(),
        leaves: batch.leaves().to_vec(),
        later: place(later(state, wave)),
    })
}

/// What is planned for one target; its leaves are put behind those that there are.
fn entry(state: &State, target: usize, leaves: &mut Vec<Leaf>, around: &mut Surroundings<'_>) -> PlanEntry {
    let seen = &state.targets[target];
    let remedy = remedy_of(state, target);
    let title = state.runbook.as_ref().and_then(|runbook| runbook.remedy(remedy)).map(|remedy| &remedy.title);
    let mut entry = PlanEntry {
        target: place(target),
        remedy: remedy.to_owned(),
        title: title.unwrap_or(&state.opened.title).clone(),
        ..PlanEntry::default()
    };
    if let Some(failure) = repeated(state, target, remedy, around) {
        entry.refused = Some(Outcome::refused(failure));
        return entry;
    }
    let first = leaves.len();
    let steps = steps(state, target);
    let previews: BTreeMap<u32, &Preview> = steps
        .iter()
        .filter_map(|s| Some((s.place, seen.previews.get(&preview_name(state, target, s.place))?)))
        .collect();
    let lost = steps.iter().filter(|step| step.loses());
    if let Some(unprepared) = lost.filter_map(|step| unprepared(previews.get(&step.place).copied())).next() {
        entry.refused = Some(unprepared);
        return entry;
    }
    for step in steps {
        let preview = previews.get(&step.place).copied();
        let result = preview.filter(|_| step.loses()).and_then(|preview| preview.outcome.result.clone());
        let challenge = preview.map(|preview| preview.challenge.clone()).unwrap_or_default();
        let number = place(leaves.len());
        entry.leaves.push(number);
        leaves.push(Leaf {
            order: around.ids.task().to_string(),
            host: seen.target.host.clone(),
            incarnation: seen.target.incarnation,
            step: step.place,
            operation: Some(step.request),
            timeout_ms: step.timeout_ms,
            prepared: match (&result, challenge.is_empty()) {
                (Some(result), false) => digest(&result.encode_to_vec()).to_vec(),
                _ => Vec::new(),
            },
            challenge,
        });
        match result {
            Some(result) => entry.prepared.push(Prepared { leaf: number, result: Some(result) }),
            None => entry.preview.extend(preview.iter().flat_map(|preview| preview_lines(&preview.outcome))),
        }
    }
    if let Some(runbook) = &state.runbook {
        let outline = runbook.outline(remedy, &subject(seen, around.now_ms), &seen.evidence);
        entry.steps = outline.into_iter().map(|step| behind(step, first)).collect();
    }
    entry
}

/// A step of an outline with its leaf's place among all leaves.
fn behind(step: PlanStep, first: usize) -> PlanStep {
    let kind = match step.kind {
        Some(plan_step::Kind::Leaf(leaf)) => Some(plan_step::Kind::Leaf(leaf + place(first))),
        kind => kind,
    };
    PlanStep { kind, ..step }
}

/// Why an order cannot be made for what loses something: its preview did not succeed.
fn unprepared(preview: Option<&Preview>) -> Option<Outcome> {
    let Some(preview) = preview else {
        let failure = Failure::new("not_prepared", "this vigie knows no preview of the operation")
            .hint("the controller may be older than the catalogue: install a newer one");
        return Some(Outcome::refused(failure));
    };
    let fine = preview.outcome.is_success() && preview.outcome.result.is_some();
    (!fine).then(|| preview.outcome.clone())
}

/// A preview's answer, for people.
fn preview_lines(outcome: &Outcome) -> Vec<String> {
    let operation = outcome.result.as_ref().and_then(|result| result.operation.as_ref());
    match (outcome.status(), operation) {
        (OutcomeStatus::Succeeded, Some(result::Operation::ComposePreview(preview))) => {
            let mut lines = Vec::new();
            if !preview.unset_variables.is_empty() {
                lines.push(format!("would be refused: {} not set", preview.unset_variables.join(", ")));
            }
            if !preview.predicted {
                lines.push("cannot predict: this Compose has no dry run".to_owned());
            }
            lines.extend(preview.changes.iter().filter(|change| change.change != "none").map(|change| {
                let reason =
                    if change.reason.is_empty() { String::new() } else { format!(": {}", change.reason) };
                format!("would {} {}{reason}", change.change, change.service)
            }));
            if lines.is_empty() {
                lines.push("would change nothing".to_owned());
            }
            lines
        }
        (_, _) => {
            let why = outcome.failure.as_ref().map_or("no answer", |failure| failure.message.as_str());
            vec![format!("cannot predict: {why}")]
        }
    }
}
