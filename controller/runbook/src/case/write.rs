//! Writing a case from what really happened.
//!
//! Fields that have their default are left out: they come back by themselves. Texts stand as the agent sent them,
//! which redacted them before they left the host.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat};
use prost_reflect::{DynamicMessage, Kind, Value};
use vigie_proto::{
    descriptors,
    v1::{FindingState, Outcome, Parameter},
};

use super::check::state_word;
use crate::{Bound, Evidence, Subject, rules::enum_word};

/// What a run saw of one target.
#[derive(Debug, Clone, Copy)]
pub struct Recording<'a> {
    /// What state the host was in, in a line.
    pub title: &'a str,
    pub subject: Subject<'a>,
    /// As they were given; defaults are left out.
    pub parameters: &'a [Parameter],
    /// What the probes of the diagnosis answered.
    pub evidence: &'a Evidence,
    /// The remedy that was carried out, and what the probes of its last verification answered.
    pub verification: Option<(&'a str, &'a Evidence)>,
}

/// The text of a case that expects what the runbook makes of these answers now. A person reads it before it is kept:
/// a wrong verdict that is recorded would be demanded from then on.
pub fn record(bound: &Bound, recording: &Recording<'_>) -> String {
    let Recording { title, subject, parameters, evidence, verification } = *recording;
    let mut out = String::new();
    _ = writeln!(out, "title: {}", text(title));
    _ = writeln!(out, "runbook: {}", bound.runbook().id);
    _ = writeln!(out, "host: {}", text(subject.host));
    if !subject.stack.is_empty() {
        _ = writeln!(out, "stack: {}", text(subject.stack));
    }
    match DateTime::from_timestamp_millis(subject.now_ms) {
        Some(now) => _ = writeln!(out, "now: {}", now.to_rfc3339_opts(SecondsFormat::Millis, true)),
        None => _ = writeln!(out, "now: {}", subject.now_ms),
    }
    if !parameters.is_empty() {
        out.push_str("parameters:\n");
        for Parameter { name, value } in parameters {
            _ = writeln!(out, "  {name}: {}", text(value));
        }
    }
    out.push_str("evidence:\n");
    for probe in &bound.runbook().probes {
        if let Some(outcome) = evidence.get(&probe.id) {
            answer(&probe.id, outcome, &mut out);
        }
    }
    if let Some((_, evidence)) = verification {
        out.push_str("verification:\n");
        evidence.iter().for_each(|(id, outcome)| answer(id, outcome, &mut out));
    }
    expectation(bound, recording, &mut out);
    out
}

fn expectation(bound: &Bound, recording: &Recording<'_>, out: &mut String) {
    let Recording { subject, evidence, verification, .. } = *recording;
    let judgement = bound.judge(&subject, evidence);
    let of = |state: FindingState| judgement.findings.iter().filter(move |finding| finding.state() == state);
    let causes: Vec<_> =
        of(FindingState::Confirmed).filter(|f| f.explained_by.is_empty()).map(|f| &f.id).collect();
    let explained: Vec<_> =
        of(FindingState::Confirmed).filter(|f| !f.explained_by.is_empty()).map(|f| &f.id).collect();
    let unknown: Vec<_> = of(FindingState::Unknown).map(|finding| &finding.id).collect();
    let list = |items: &[&String]| {
        format!("[{}]", items.iter().map(|item| item.as_str()).collect::<Vec<_>>().join(", "))
    };
    out.push_str("expect:\n");
    _ = writeln!(out, "  causes: {}", list(&causes));
    _ = writeln!(out, "  explained: {}", list(&explained));
    if !unknown.is_empty() {
        _ = writeln!(out, "  unknown: {}", list(&unknown));
    }
    _ = writeln!(out, "  remedies: {}", list(&judgement.remedies.iter().collect::<Vec<_>>()));
    _ = writeln!(out, "  restore: {}", judgement.restore.answer);
    let showing = bound.showing(&subject, evidence);
    if showing.is_empty() {
        out.push_str("  symptoms: []\n");
    } else {
        out.push_str("  symptoms:\n");
        showing.iter().for_each(|symptom| _ = writeln!(out, "    - {}", text(symptom)));
    }
    let Some((remedy, afterwards)) = verification else { return };
    let mut all = evidence.clone();
    all.extend(afterwards.iter().map(|(id, outcome)| (id.clone(), outcome.clone())));
    let verified = match bound.verified(remedy, &subject, &all) {
        Some(verified) => verified.to_string(),
        None => "unknown".to_owned(),
    };
    _ = writeln!(out, "  verified: {{ {remedy}: {verified} }}");
    let states: Vec<_> =
        bound.checklist(&subject, &all).iter().map(|line| state_word(line.state())).collect();
    _ = writeln!(out, "  checklist: [{}]", states.join(", "));
}

/// A probe's answer: its result's fields, how it failed, or both.
fn answer(id: &str, outcome: &Outcome, out: &mut String) {
    let mut lines = String::new();
    if let Some(message) = result(outcome) {
        for (field, value) in message.fields() {
            block(field.name(), &field.kind(), value, &mut lines);
        }
    }
    if let Some(failure) = &outcome.failure {
        _ = writeln!(lines, "    fails: {}", text(&failure.code));
        if !failure.message.is_empty() {
            _ = writeln!(lines, "    says: {}", text(&failure.message));
        }
    } else if !outcome.is_success() {
        _ = writeln!(lines, "    fails: {}", outcome.status().word());
    }
    if lines.is_empty() {
        _ = writeln!(out, "  {id}: {{}}");
    } else {
        _ = write!(out, "  {id}:\n{lines}");
    }
}

fn result(outcome: &Outcome) -> Option<DynamicMessage> {
    let mut union = DynamicMessage::new(descriptors::pool().get_message_by_name("vigie.v1.Result")?);
    union.transcode_from(outcome.result.as_ref()?).ok()?;
    match union.take_fields().next()? {
        (_, Value::Message(message)) => Some(message),
        _ => None,
    }
}

fn block(name: &str, kind: &Kind, value: &Value, out: &mut String) {
    match value {
        Value::List(items) => {
            _ = writeln!(out, "    {name}:");
            for item in items {
                _ = writeln!(out, "      - {}", flow(kind, item));
            }
        }
        other => _ = writeln!(out, "    {name}: {}", flow(kind, other)),
    }
}

/// A value in one line.
fn flow(kind: &Kind, value: &Value) -> String {
    match value {
        Value::Bool(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::F32(value) => value.to_string(),
        Value::F64(value) => value.to_string(),
        Value::String(value) => text(value),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(descriptor) => enum_word(descriptor, *number),
            _ => number.to_string(),
        },
        Value::Message(message) => {
            let fields = message
                .fields()
                .map(|(field, value)| format!("{}: {}", field.name(), flow(&field.kind(), value)));
            let fields: Vec<_> = fields.collect();
            if fields.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", fields.join(", ")) }
        }
        Value::List(items) => {
            format!("[{}]", items.iter().map(|item| flow(kind, item)).collect::<Vec<_>>().join(", "))
        }
        // No result holds bytes or maps.
        Value::Bytes(_) | Value::Map(_) => "\"\"".to_owned(),
    }
}

/// A text as YAML: plain where nothing can be mistaken, else in double quotes.
fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./-@".contains(&b))
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
