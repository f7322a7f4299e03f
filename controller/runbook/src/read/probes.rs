//! Probes, calls and verifications: whatever asks something.

use vigie_proto::{
    descriptors,
    operation::{Effect, OPERATIONS, Operation},
};

use super::{Content, Entries, Node, Reader, Span, unknown_ids};
use crate::{
    call::Call,
    diagnostic::suggest,
    model::{Probe, Vantage, Verify},
    parameters::Values,
    rules::{Names, Rule},
};

/// The longest that an operation may be given.
pub(super) const MAX_TIMEOUT_MS: u32 = 3_600_000;
/// The one operation that can look from elsewhere: all that it needs to know of its target is the public name.
const ELSEWHERE: &str = "reachability_check";
/// The longest that a verification may take, and the longest pause in it.
const MAX_VERIFICATION_MS: u32 = 3_600_000;

/// What reading a probe or a step needs to know.
pub(super) struct Context<'a> {
    /// The parameters; probes are no part of an argument.
    pub(super) names: &'a Names,
    /// The parameters' defaults, to try calls with.
    pub(super) defaults: &'a Values,
}

/// The probes of a list. Each is also a name for rules, even when its arguments are wrong.
pub(super) fn probes(
    node: &Node,
    context: &Context<'_>,
    names: &mut Names,
    reader: &mut Reader<'_>,
) -> Vec<Probe> {
    let mut probes = Vec::new();
    for item in reader.items(node, "`diagnose`") {
        if let Some(probe) = probe(item, context, names, reader) {
            probes.push(probe);
        }
    }
    probes
}

fn probe(node: &Node, context: &Context<'_>, names: &mut Names, reader: &mut Reader<'_>) -> Option<Probe> {
    let mut entries = reader.entries(node, "a probe")?;
    let id = entries.require("id", reader);
    let id_at = id.map_or(node.span, |id| id.span);
    let id = id.and_then(|id| reader.id(id, "a probe"));
    let timeout = entries.take("timeout").and_then(|node| reader.duration(node, "`timeout`", MAX_TIMEOUT_MS));
    let from_at = entries.take("from");
    let from = from_at.and_then(|node| reader.word(node, "`from`", Vantage::WORDS)).unwrap_or_default();
    let after = entries.take("after").map(|node| reader.ids(node, "`after`")).unwrap_or_default();
    let deep = entries.take("deep").and_then(|node| reader.boolean(node, "`deep`")).unwrap_or_default();
    unknown_ids(&after, || names.probes.keys().chain(&names.unreadable), "a probe above this one", reader);
    let Some((operation, call)) = call(entries, context, reader) else {
        names.unreadable.extend(id);
        return None;
    };
    if operation.effect != Effect::Observe || operation.needs_order() {
        let hint = "a probe only reads; what changes something is a step of a remedy";
        reader.error(id_at, format!("{} is no probe", operation.name), hint);
        names.unreadable.extend(id);
        return None;
    }
    if let Some(node) = from_at.filter(|_| from != Vantage::Host && operation.name != ELSEWHERE) {
        let hint = "leave `from` out: the host itself is asked";
        reader.error(node.span, format!("{} is asked of the host alone", operation.name), hint);
    }
    let id = id?;
    let twice =
        descriptors::result(operation.name).and_then(|message| names.probes.insert(id.clone(), message));
    if twice.is_some() {
        reader.error(id_at, format!("there are two probes `{id}`"), "");
    }
    let timeout_ms = timeout.unwrap_or_else(|| default_timeout(operation));
    let after = after.into_iter().map(|(id, _)| id).collect();
    Some(Probe { id, from, call: call?, timeout_ms, after, deep })
}

pub(super) fn default_timeout(operation: &Operation) -> u32 {
    u32::try_from(operation.timeout().as_millis()).unwrap_or(MAX_TIMEOUT_MS)
}

/// The one entry that is an operation. The call is missing when its arguments are wrong.
pub(super) fn call(
    mut entries: Entries<'_>,
    context: &Context<'_>,
    reader: &mut Reader<'_>,
) -> Option<(&'static Operation, Option<Call>)> {
    let (span, fixed) = (entries.span, entries.known().to_vec());
    let mut found = None;
    for (key, arguments) in entries.rest() {
        match Operation::find(&key.text).filter(|operation| operation.name == key.text) {
            Some(operation) if found.is_none() => {
                let call = Call::read(key, arguments, context.names, reader);
                if let Some(call) = &call {
                    call.check(context.defaults, reader);
                }
                found = Some((operation, call));
            }
            Some(_) => reader.error(key.span, "a second operation", "give it an entry of its own"),
            None => {
                let known = OPERATIONS.iter().map(|operation| operation.name).chain(fixed.iter().copied());
                let hint = suggest(&key.text, known);
                reader.error(key.span, format!("there is no operation `{}`", key.text), &hint);
                // It was meant to be one, so that its absence is not an error of its own.
                return None;
            }
        }
    }
    if found.is_none() {
        reader.error(span, "an operation is missing", "`vigiectl operations list` shows what there is");
    }
    found
}

/// A verification: its probes, which may be those of the diagnosis by their ids, and when they satisfy it.
pub(super) fn verify(
    node: &Node,
    context: &Context<'_>,
    diagnosis: (&[Probe], &Names),
    reader: &mut Reader<'_>,
) -> (Option<Verify>, Names) {
    let Some(entries) = reader.entries(node, "a verification") else { return (None, Names::default()) };
    until(entries, context, diagnosis, reader)
}

/// What is asked until a rule holds.
pub(super) fn until(
    mut entries: Entries<'_>,
    context: &Context<'_>,
    diagnosis: (&[Probe], &Names),
    reader: &mut Reader<'_>,
) -> (Option<Verify>, Names) {
    let mut names = Names { parameters: context.names.parameters.clone(), ..Names::default() };
    let mut list = Vec::new();
    if let Some(node) = entries.require("probes", reader) {
        for item in reader.items(node, "`probes`") {
            match &item.content {
                Content::Scalar(scalar) => match diagnosis.0.iter().find(|probe| probe.id == scalar.text) {
                    Some(probe) => {
                        // The order of the diagnosis does not matter here.
                        list.push(Probe { after: Vec::new(), ..probe.clone() });
                        let message = diagnosis.1.probes.get(&probe.id);
                        names.probes.extend(message.map(|message| (probe.id.clone(), message.clone())));
                    }
                    None if diagnosis.1.probes.contains_key(&scalar.text)
                        || diagnosis.1.unreadable.contains(&scalar.text) =>
                    {
                        names.unreadable.insert(scalar.text.clone());
                    }
                    None => {
                        let hint = suggest(&scalar.text, diagnosis.0.iter().map(|probe| probe.id.as_str()));
                        reader.error(
                            scalar.span,
                            format!("the diagnosis has no probe `{}`", scalar.text),
                            &hint,
                        );
                    }
                },
                _ => {
                    let Some(probe) = probe(item, context, &mut names, reader) else { continue };
                    same_operation(&probe, item.span, diagnosis.0, reader);
                    list.push(probe);
                }
            }
        }
    }
    let until = entries.require("until", reader).and_then(|node| Rule::read(node, "`until`", &names, reader));
    let mut time = |key, entries: &mut Entries<'_>, default| match entries.take(key) {
        Some(node) => reader.duration(node, &format!("`{key}`"), MAX_VERIFICATION_MS),
        None => Some(default),
    };
    let (within, every) = (time("within", &mut entries, 60_000), time("every", &mut entries, 2_000));
    entries.close(reader);
    let verify = match (until, within, every) {
        (Some(until), Some(within_ms), Some(every_ms)) => {
            Some(Verify { probes: list, until, within_ms, every_ms })
        }
        _ => None,
    };
    (verify, names)
}

/// A name means one thing in a runbook: the checklist may speak of any probe.
fn same_operation(probe: &Probe, span: Span, diagnosis: &[Probe], reader: &mut Reader<'_>) {
    let same = diagnosis.iter().find(|known| known.id == probe.id);
    if let Some(known) = same.filter(|known| known.call.operation.name != probe.call.operation.name) {
        let message = format!("`{}` is {} in the diagnosis", probe.id, known.call.operation.name);
        reader.error(span, message, "take another id");
    }
}
