//! The steps of a remedy: actions, waits, and what a person does.

use super::{
    Entries, Node, Reader, Span,
    probes::{self, Context, MAX_TIMEOUT_MS},
};
use crate::{
    call::Call,
    model::{Probe, Step, StepKind},
    rules::{Names, Rule, Template},
};
use vigie_proto::operation::Authority;

/// How long all that waits in a remedy may take together: its orders, which are signed at once, start within an hour.
pub(crate) const MAX_WAITING_MS: u32 = 45 * 60 * 1000;

/// How long the steps before one that loses something may wait: its agent honours what it was prepared with for five
/// minutes.
const MAX_BEFORE_LOSS_MS: u32 = 4 * 60 * 1000;

/// The steps of a remedy. `names` are those of the diagnosis; what an earlier step waits with is known to later ones.
pub(super) fn steps(
    node: &Node,
    context: &Context<'_>,
    (diagnosis, names): (&[Probe], &Names),
    reader: &mut Reader<'_>,
) -> Vec<Step> {
    let mut known = names.clone();
    let mut steps = Vec::new();
    let mut waiting_ms = 0_u32;
    for item in reader.items(node, "`steps`") {
        let Some(mut entries) = reader.entries(item, "a step") else { continue };
        let when = entries.take("when").map(|node| Rule::read(node, "`when`", &known, reader));
        let kind = if let Some(node) = entries.take("wait") {
            entries.close(reader);
            wait(node, context, (diagnosis, names), &mut known, reader)
        } else if let Some(node) = entries.take("manual") {
            entries.close(reader);
            manual(node, &known, reader)
        } else {
            act(entries, item.span, context, reader)
        };
        let when = match when {
            Some(None) => continue,
            Some(when) => when,
            None => None,
        };
        let Some(step) = kind.map(|kind| Step { kind, when }) else { continue };
        let loses = matches!(&step.kind, StepKind::Act { call, .. }
            if call.operation.authority == Authority::OrderChallenge);
        if loses && waiting_ms > MAX_BEFORE_LOSS_MS {
            let hint =
                "what it would lose is shown before the first step, and agents honour that for five minutes";
            reader.warn(item.span, "this comes after steps that may wait for longer than four minutes", hint);
        }
        waiting_ms = waiting_ms.saturating_add(step.within_ms());
        if waiting_ms > MAX_WAITING_MS && waiting_ms - step.within_ms() <= MAX_WAITING_MS {
            let hint = "all orders of a remedy are signed together, and start within an hour";
            reader.error(item.span, "the steps of a remedy wait for at most 45m together", hint);
        }
        steps.push(step);
    }
    steps
}

fn act(
    mut entries: Entries<'_>,
    span: Span,
    context: &Context<'_>,
    reader: &mut Reader<'_>,
) -> Option<StepKind> {
    let timeout = entries.take("timeout").and_then(|node| reader.duration(node, "`timeout`", MAX_TIMEOUT_MS));
    let (operation, call): (_, Option<Call>) = probes::call(entries, context, reader)?;
    if !operation.needs_order() {
        let hint = "what only reads belongs into `verify`, or into a `wait`";
        reader.error(span, format!("{} changes nothing", operation.name), hint);
    }
    Some(StepKind::Act {
        call: call?,
        timeout_ms: timeout.unwrap_or_else(|| probes::default_timeout(operation)),
    })
}

fn wait(
    node: &Node,
    context: &Context<'_>,
    diagnosis: (&[Probe], &Names),
    known: &mut Names,
    reader: &mut Reader<'_>,
) -> Option<StepKind> {
    let mut entries = reader.entries(node, "a wait")?;
    let says = entries.require("says", reader);
    let says = says.and_then(|node| Template::read(node, "`says`", known, reader));
    let (verify, found) = probes::until(entries, context, diagnosis, reader);
    known.probes.extend(found.probes);
    known.unreadable.extend(found.unreadable);
    Some(StepKind::Wait { says: says?, verify: verify? })
}

fn manual(node: &Node, known: &Names, reader: &mut Reader<'_>) -> Option<StepKind> {
    let mut entries = reader.entries(node, "a manual step")?;
    let says = entries.require("says", reader);
    let says = says.and_then(|node| Template::read(node, "`says`", known, reader));
    let within = entries.require("within", reader);
    let within = within.and_then(|node| reader.duration(node, "`within`", MAX_WAITING_MS));
    entries.close(reader);
    Some(StepKind::Manual { says: says?, within_ms: within? })
}
