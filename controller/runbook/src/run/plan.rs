//! From proposed remedies to exact orders.

use prost_reflect::{DynamicMessage, ReflectMessage as _};
use vigie_proto::{
    descriptors,
    operation::Operation,
    order::Batch,
    v1::{
        Leaf, Manifest, Outcome, OutcomeStatus, PlanEntry, Planned, ProbePurpose, Request, result,
        run_event::Event, run_spec::Kind,
    },
};

use super::{
    ProbeKey, State, Surroundings,
    decide::place,
    verdict,
    wanted::{Asked, timeout},
};

/// How long after its making a plan may be signed, and its orders may start: time to read it, and for the rollout.
const WINDOW_MS: i64 = 15 * 60 * 1000;

/// A step as it would be done on one target.
struct Step {
    request: Request,
    timeout_ms: u32,
}

/// The steps for a target; none when nothing is proposed for it.
fn steps(state: &State, target: usize) -> Vec<Step> {
    let seen = &state.targets[target];
    match (&state.runbook, &state.spec().kind) {
        (Some(runbook), _) => {
            let remedy = seen.conclusion.as_ref().map_or("", |conclusion| conclusion.remedy.as_str());
            let steps = runbook.steps(remedy, &seen.target.stack);
            steps
                .into_iter()
                .map(|step| Step { request: step.request, timeout_ms: step.timeout_ms })
                .collect()
        }
        (None, Some(Kind::Operation(request))) => vec![Step {
            request: descriptors::with_stack(request, &seen.target.stack),
            timeout_ms: timeout(request, state.spec().timeout_ms),
        }],
        (None, _) => Vec::new(),
    }
}

/// The probes that tell what the proposed steps would do.
pub(super) fn previews(state: &State) -> Vec<Asked> {
    let mut asked = Vec::new();
    for target in 0..state.targets.len() {
        for (index, step) in steps(state, target).into_iter().enumerate() {
            let Some(request) = preview_of(&step.request) else { continue };
            let probe = format!("{}/{index}", remedy_of(state, target));
            asked.push(Asked {
                key: ProbeKey { target, probe, purpose: ProbePurpose::Preview, round: 0 },
                timeout_ms: timeout(&request, 0),
                request,
                after: Vec::new(),
                not_before_ms: 0,
            });
        }
    }
    asked
}

fn remedy_of(state: &State, target: usize) -> &str {
    state.targets[target].conclusion.as_ref().map_or("", |conclusion| conclusion.remedy.as_str())
}

/// The plan, or the end of the run when there is nothing to plan.
pub(super) fn propose_or_close(state: &State, around: &mut Surroundings<'_>) -> Event {
    let nothing = (0..state.targets.len()).all(|target| steps(state, target).is_empty());
    if nothing { verdict::close(state) } else { propose(state, around) }
}

/// The plan: every order that would be given, in a window that begins now.
pub(super) fn propose(state: &State, around: &mut Surroundings<'_>) -> Event {
    let (mut leaves, mut entries) = (Vec::new(), Vec::new());
    for (index, seen) in state.targets.iter().enumerate() {
        let steps = steps(state, index);
        if steps.is_empty() {
            continue;
        }
        let remedy = remedy_of(state, index);
        let first = leaves.len();
        for (number, step) in steps.into_iter().enumerate() {
            leaves.push(Leaf {
                order: around.ids.task().to_string(),
                host: seen.target.host.clone(),
                incarnation: seen.target.incarnation,
                step: place(number),
                operation: Some(step.request),
                timeout_ms: step.timeout_ms,
            });
        }
        let title =
            state.runbook.as_ref().and_then(|runbook| runbook.remedy(remedy)).map(|remedy| &remedy.title);
        entries.push(PlanEntry {
            target: place(index),
            remedy: remedy.to_owned(),
            title: title.unwrap_or(&state.opened.title).clone(),
            leaves: (first..leaves.len()).map(place).collect(),
            preview: seen.previews.values().flat_map(preview_lines).collect(),
        });
    }
    let manifest = Manifest {
        batch: around.ids.batch().to_string(),
        run: state.run.to_string(),
        runbook_digest: state.opened.runbook_digest.clone(),
        not_before_ms: around.now_ms,
        not_after_ms: around.now_ms + WINDOW_MS,
        person: state.opened.operator.clone(),
        ..Manifest::default()
    };
    let batch = Batch::assemble(manifest, &leaves);
    Event::Planned(Planned { entries, manifest: batch.manifest().to_vec(), leaves: batch.leaves().to_vec() })
}

/// The operation that tells what this one would do, with the same fields as far as it has them.
fn preview_of(request: &Request) -> Option<Request> {
    let preview = Operation::of(request).ok()?.preview?;
    let (_, message) = descriptors::unwrap(request)?;
    let mut asked = DynamicMessage::new(descriptors::request(preview)?);
    for (field, value) in message.fields() {
        if let Some(same) = asked.descriptor().get_field_by_name(field.name()) {
            asked.set_field(&same, value.clone());
        }
    }
    descriptors::wrap(preview, asked)
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
