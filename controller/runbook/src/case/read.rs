//! From a case's text to a [`Case`], with everything that is wrong at its line and column.

use std::collections::BTreeMap;

use chrono::DateTime;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use vigie_proto::{
    descriptors,
    v1::{self, Failure, Outcome, OutcomeStatus},
};

use super::{Case, Expectation, HOST, NOW_MS, STACK};
use crate::{
    Evidence,
    diagnostic::{Diagnostic, Diagnostics, suggest},
    guard::on_a_big_stack,
    model::{Runbook, Scope},
    read::{Content, Entries, Node, Reader, Scalar, tree, unreadable},
    rules::enum_words,
};

/// How many cases may stand on each other's shoulders.
const MAX_LIKE: usize = 8;

/// A probe's answer before it is an outcome: a case that is like another one changes single fields of it.
#[derive(Debug, Clone)]
struct Answer {
    /// The operation's name.
    operation: &'static str,
    result: Option<DynamicMessage>,
    failure: Option<Failure>,
}

/// A case before it is finished.
#[derive(Debug, Clone)]
struct Draft {
    title: String,
    host: String,
    stack: String,
    now_ms: i64,
    parameters: Vec<v1::Parameter>,
    evidence: BTreeMap<String, Answer>,
    verification: BTreeMap<String, Answer>,
    expect: Expectation,
}

pub(super) fn case(
    text: &str,
    source: &str,
    runbook: &Runbook,
    other: &dyn Fn(&str) -> Option<String>,
) -> Result<Case, Diagnostics> {
    let mut bases = Vec::new();
    let chain = match on_a_big_stack(|| tree::parse(text)) {
        Ok(parsed) => parsed.map(|root| bases_of(&root)),
        Err(broken) => Err(unreadable(broken)),
    };
    let mut found = Vec::new();
    match chain {
        Ok(like) => {
            let mut next = like;
            while let Some(name) = next.take() {
                let Some(text) = other(&name).filter(|_| bases.len() < MAX_LIKE) else { break };
                next = tree::parse(&text).ok().and_then(|root| bases_of(&root));
                bases.push((name, text));
            }
        }
        Err(diagnostic) => found.push(diagnostic),
    }
    let mut draft = Draft {
        title: String::new(),
        host: HOST.to_owned(),
        stack: if runbook.scope == Scope::Stack { STACK.to_owned() } else { String::new() },
        now_ms: NOW_MS,
        parameters: Vec::new(),
        evidence: BTreeMap::new(),
        verification: BTreeMap::new(),
        expect: Expectation::default(),
    };
    if found.is_empty() {
        // The one that all others stand on comes first.
        for (name, text) in bases.iter().rev() {
            let wrong = read(text, runbook, &mut draft, &bases);
            if let Some(first) = wrong.first() {
                let message =
                    format!("the case `{name}` does not read, line {}: {}", first.line, first.message);
                found.push(unreadable(message));
                break;
            }
        }
    }
    if found.is_empty() {
        draft.title = String::new();
        found = read(text, runbook, &mut draft, &bases);
    }
    if !found.is_empty() {
        return Err(Diagnostics::new(source, text, found));
    }
    Ok(Case {
        title: draft.title,
        host: draft.host,
        stack: draft.stack,
        now_ms: draft.now_ms,
        parameters: draft.parameters,
        evidence: outcomes(draft.evidence),
        verification: outcomes(draft.verification),
        expect: draft.expect,
    })
}

/// The name of the case that this one is like.
fn bases_of(root: &Node) -> Option<String> {
    let Content::Map(entries) = &root.content else { return None };
    entries.iter().find(|(key, _)| key.text == "like")?.1.scalar().map(|scalar| scalar.text.clone())
}

/// Reads one text over what is there already.
fn read(text: &str, runbook: &Runbook, draft: &mut Draft, bases: &[(String, String)]) -> Vec<Diagnostic> {
    let root = match tree::parse(text) {
        Ok(root) => root,
        Err(diagnostic) => return vec![diagnostic],
    };
    let mut reader = Reader::new(text);
    parts(&root, runbook, draft, bases, &mut reader);
    reader.finish()
}

fn parts(
    root: &Node,
    runbook: &Runbook,
    draft: &mut Draft,
    bases: &[(String, String)],
    reader: &mut Reader<'_>,
) -> Option<()> {
    let mut entries = reader.entries(root, "a case")?;
    if let Some(scalar) = entries.take("runbook").and_then(|node| reader.scalar(node, "`runbook`"))
        && scalar.text != runbook.id
    {
        let message = format!("this case belongs to `{}`, and the runbook is `{}`", scalar.text, runbook.id);
        reader.error(scalar.span, message, "");
    }
    if let Some(scalar) = entries.take("like").and_then(|node| reader.scalar(node, "`like`"))
        && !bases.iter().any(|(name, _)| *name == scalar.text)
    {
        reader.error(scalar.span, format!("there is no case `{}` of this runbook", scalar.text), "");
    }
    let mut text = |key, entries: &mut Entries<'_>, into: &mut String| {
        if let Some(text) = entries.take(key).and_then(|node| reader.string(node, &format!("`{key}`"))) {
            *into = text;
        }
    };
    text("title", &mut entries, &mut draft.title);
    text("host", &mut entries, &mut draft.host);
    text("stack", &mut entries, &mut draft.stack);
    if let Some(scalar) = entries.take("now").and_then(|node| reader.scalar(node, "`now`")) {
        let time = DateTime::parse_from_rfc3339(&scalar.text).map(|time| time.timestamp_millis());
        match scalar.text.parse().or(time) {
            Ok(now_ms) => draft.now_ms = now_ms,
            Err(_) => reader.error(
                scalar.span,
                format!("`now` is a time, not `{}`", scalar.text),
                "2025-12-13T04:00:00Z, or Unix milliseconds",
            ),
        }
    }
    if let Some(node) = entries.take("parameters") {
        for (name, node) in pairs(node, "`parameters`", reader) {
            if let Some(value) = reader.string(node, "a parameter") {
                draft.parameters.retain(|given| given.name != name.text);
                draft.parameters.push(v1::Parameter { name: name.text.clone(), value });
            }
        }
    }
    if let Some(node) = entries.take("evidence") {
        answers(node, "`evidence`", runbook, &mut draft.evidence, reader);
    }
    if let Some(node) = entries.take("verification") {
        answers(node, "`verification`", runbook, &mut draft.verification, reader);
    }
    if let Some(node) = entries.require("expect", reader) {
        draft.expect = expectation(node, runbook, reader)?;
    }
    entries.close(reader);
    Some(())
}

fn pairs<'n>(node: &'n Node, what: &str, reader: &mut Reader<'_>) -> &'n [(Scalar, Node)] {
    match &node.content {
        Content::Map(entries) => entries,
        _ => {
            reader.error(node.span, format!("{what} is a mapping, not {}", node.kind()), "");
            &[]
        }
    }
}

/// What each probe answered.
fn answers(
    node: &Node,
    what: &str,
    runbook: &Runbook,
    into: &mut BTreeMap<String, Answer>,
    reader: &mut Reader<'_>,
) {
    for (id, node) in pairs(node, what, reader) {
        let probes =
            || runbook.probes.iter().chain(runbook.verifications().flat_map(|verify| &verify.probes));
        let Some(probe) = probes().find(|probe| probe.id == id.text) else {
            let known: Vec<_> = probes().map(|probe| probe.id.as_str()).collect();
            reader.error(
                id.span,
                format!("the runbook has no probe `{}`", id.text),
                &suggest(&id.text, known),
            );
            continue;
        };
        let operation = probe.call.operation.name;
        let Some(message) = descriptors::result(operation) else { continue };
        if node.is_null() {
            // It was not asked, although the case that this one is like has an answer.
            into.remove(&id.text);
        } else if let Some(scalar) = node.scalar() {
            let failure = Failure::new(&scalar.text, said(&scalar.text));
            into.insert(id.text.clone(), Answer { operation, result: None, failure: Some(failure) });
        } else {
            let before = into.remove(&id.text).filter(|answer| answer.failure.is_none());
            let before = before.and_then(|answer| answer.result);
            let (result, failure) = answer(node, message, before, reader);
            into.insert(id.text.clone(), Answer { operation, result, failure });
        }
    }
}

/// A failure's code as a sentence, for cases that give no other.
fn said(code: &str) -> String {
    format!("it failed: {}", code.replace('_', " "))
}

/// A result's fields over those that are there already, and how the probe failed.
fn answer(
    node: &Node,
    descriptor: MessageDescriptor,
    before: Option<DynamicMessage>,
    reader: &mut Reader<'_>,
) -> (Option<DynamicMessage>, Option<Failure>) {
    let (mut code, mut says) = (None, None);
    let mut fields = Vec::new();
    for (key, value) in pairs(node, "an answer", reader) {
        let field = descriptor.get_field_by_name(&key.text);
        match (field, key.text.as_str()) {
            (Some(field), _) => fields.push((field, value)),
            (None, "fails") => code = reader.string(value, "`fails`"),
            (None, "says") => says = reader.string(value, "`says`"),
            (None, _) => unknown_field(key, &descriptor, reader),
        }
    }
    let failure = code.map(|code| {
        let message = says.unwrap_or_else(|| said(&code));
        Failure::new(&code, message)
    });
    if fields.is_empty() && failure.is_some() {
        return (None, failure);
    }
    let mut result = before.unwrap_or_else(|| DynamicMessage::new(descriptor));
    for (field, node) in fields {
        set(&mut result, &field, node, reader);
    }
    (Some(result), failure)
}

fn unknown_field(key: &Scalar, descriptor: &MessageDescriptor, reader: &mut Reader<'_>) {
    let fields: Vec<_> = descriptor.fields().map(|field| field.name().to_owned()).collect();
    let hint = suggest(&key.text, fields.iter().map(String::as_str));
    reader.error(key.span, format!("{} has no field `{}`", descriptor.name(), key.text), &hint);
}

fn set(message: &mut DynamicMessage, field: &FieldDescriptor, node: &Node, reader: &mut Reader<'_>) {
    if node.is_null() {
        message.clear_field(field);
        return;
    }
    let value = if field.is_list() {
        let items = reader.items(node, &format!("`{}`", field.name()));
        let items: Option<Vec<_>> = items.iter().map(|item| single(field, item, reader)).collect();
        items.map(Value::List)
    } else {
        single(field, node, reader)
    };
    if let Some(value) = value {
        message.set_field(field, value);
    }
}

fn single(field: &FieldDescriptor, node: &Node, reader: &mut Reader<'_>) -> Option<Value> {
    let name = field.name();
    if let Kind::Message(descriptor) = field.kind() {
        let mut message = DynamicMessage::new(descriptor);
        for (key, value) in pairs(node, &format!("`{name}`"), reader) {
            match message.descriptor().get_field_by_name(&key.text) {
                Some(field) => set(&mut message, &field, value, reader),
                None => unknown_field(key, &message.descriptor(), reader),
            }
        }
        return Some(Value::Message(message));
    }
    // An empty text is a value too, unlike in a runbook's own fields.
    let Some(scalar) = node.scalar().filter(|scalar| !scalar.is_null()) else {
        reader.error(node.span, format!("`{name}` is a text or a number, not {}", node.kind()), "");
        return None;
    };
    let text = scalar.text.as_str();
    let value = match field.kind() {
        Kind::String => Some(Value::String(text.to_owned())),
        Kind::Bool => text.parse().ok().map(Value::Bool),
        Kind::Uint32 | Kind::Fixed32 => text.parse().ok().map(Value::U32),
        Kind::Uint64 | Kind::Fixed64 => text.parse().ok().map(Value::U64),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => text.parse().ok().map(Value::I32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => text.parse().ok().map(Value::I64),
        Kind::Float => text.parse().ok().map(Value::F32),
        Kind::Double => text.parse().ok().map(Value::F64),
        Kind::Enum(descriptor) => {
            let words = enum_words(&descriptor);
            words.into_iter().find(|(word, _)| word == text).map(|(_, number)| Value::EnumNumber(number))
        }
        // No result holds bytes.
        Kind::Message(_) | Kind::Bytes => None,
    };
    if value.is_none() {
        let hint = match field.kind() {
            Kind::Enum(descriptor) => {
                let words = enum_words(&descriptor);
                suggest(text, words.iter().map(|(word, _)| word.as_str()))
            }
            _ => String::new(),
        };
        reader.error(scalar.span, format!("`{name}` cannot be `{text}`"), &hint);
    }
    value
}

fn outcomes(answers: BTreeMap<String, Answer>) -> Evidence {
    answers.into_iter().map(|(id, answer)| (id, outcome(answer))).collect()
}

fn outcome(Answer { operation, result, failure }: Answer) -> Outcome {
    let result = result.and_then(|message| union(operation, message));
    let status = match failure.as_ref().map(|failure| failure.code.as_str()) {
        None => OutcomeStatus::Succeeded,
        Some("unreachable") => OutcomeStatus::Unreachable,
        Some(_) => OutcomeStatus::Failed,
    };
    Outcome { status: status.into(), result, failure, ..Outcome::default() }
}

/// A result's message within the union of all results.
fn union(operation: &str, message: DynamicMessage) -> Option<v1::Result> {
    let union = descriptors::pool().get_message_by_name("vigie.v1.Result")?;
    let field = union.get_field_by_name(operation)?;
    let mut outer = DynamicMessage::new(union);
    outer.try_set_field(&field, Value::Message(message)).ok()?;
    outer.transcode_to().ok()
}

fn expectation(node: &Node, runbook: &Runbook, reader: &mut Reader<'_>) -> Option<Expectation> {
    let mut entries = reader.entries(node, "`expect`")?;
    let findings: Vec<_> = runbook.findings.iter().map(|finding| finding.id.as_str()).collect();
    let remedies: Vec<_> = runbook.remedies.iter().map(|remedy| remedy.id.as_str()).collect();
    let causes = entries.require("causes", reader);
    let mut of = |node: Option<&Node>, what: &str, known: &[&str], name: &str| {
        let ids = reader.ids(node?, &format!("`{what}`"));
        for (id, span) in ids.iter().filter(|(id, _)| !known.is_empty() && !known.contains(&id.as_str())) {
            let hint = suggest(id, known.iter().copied());
            reader.error(*span, format!("the runbook has no {name} `{id}`"), &hint);
        }
        Some(ids.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
    };
    let causes = of(causes, "causes", &findings, "finding").unwrap_or_default();
    let explained = of(entries.take("explained"), "explained", &findings, "finding");
    let unknown = of(entries.take("unknown"), "unknown", &findings, "finding").unwrap_or_default();
    let remedy_list = of(entries.take("remedies"), "remedies", &remedies, "remedy");
    let symptoms = of(entries.take("symptoms"), "symptoms", &[], "");
    let checklist = of(entries.take("checklist"), "checklist", &["done", "not_done", "open"], "state");
    let words = [("never", "never"), ("maybe", "maybe"), ("yes", "yes")];
    let restore = entries.take("restore").and_then(|node| reader.word(node, "`restore`", &words));
    let mut verified = BTreeMap::new();
    if let Some(node) = entries.take("verified") {
        for (remedy, node) in pairs(node, "`verified`", reader) {
            let words = [("true", "true"), ("false", "false"), ("unknown", "unknown")];
            if !remedies.contains(&remedy.text.as_str()) {
                let hint = suggest(&remedy.text, remedies.iter().copied());
                reader.error(remedy.span, format!("the runbook has no remedy `{}`", remedy.text), &hint);
            } else if let Some(word) = reader.word(node, "what is verified", &words) {
                verified.insert(remedy.text.clone(), word.to_owned());
            }
        }
    }
    let mut pieces = |key: &'static str| {
        let mut texts = BTreeMap::new();
        for (id, node) in entries.take(key).map(|node| pairs(node, key, reader)).unwrap_or_default() {
            if findings.contains(&id.text.as_str()) {
                let pieces = reader.ids(node, key).into_iter().map(|(piece, _)| piece).collect();
                texts.insert(id.text.clone(), pieces);
            } else {
                let hint = suggest(&id.text, findings.iter().copied());
                reader.error(id.span, format!("the runbook has no finding `{}`", id.text), &hint);
            }
        }
        texts
    };
    let (says, advises) = (pieces("says"), pieces("advises"));
    entries.close(reader);
    Some(Expectation {
        causes,
        explained,
        unknown,
        remedies: remedy_list,
        restore: restore.map(str::to_owned),
        symptoms,
        checklist,
        verified,
        says,
        advises,
    })
}
