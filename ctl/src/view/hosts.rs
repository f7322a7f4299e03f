//! Hosts one by one, and as documents.

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{Host, Stack},
};

use super::{liveness, status};
use crate::output::{
    document,
    json::{self, reflect},
    look::Look,
    table::Table,
};

/// Everything that is known of one host.
pub(crate) fn text(host: &Host, look: &Look) -> String {
    let session = match (host.connected, host.connected_since_ms) {
        (true, since) => look.green(&format!("connected since {}", look.time(since))),
        (false, 0) => look.red("never connected"),
        (false, since) => look.red(&format!("not connected since {}", look.time(since))),
    };
    let mut text = format!("{}  {session}\n", look.bold(&escape(&host.name, false)));
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("  {}  {value}\n", look.dim(&format!("{name:<9}"))));
        }
    };
    fact("id", escape(&host.id, false).into_owned());
    fact("labels", status::labels(host));
    fact("enrolled", format!("{} (incarnation {})", look.time(host.enrolled_at_ms), host.incarnation));
    fact("last seen", look.time(host.last_seen_ms));
    if let Some(told) = host.liveness.as_ref().filter(|_| host.connected) {
        let since = look.time(told.answering_since_ms);
        fact(
            "answers",
            match told.answering {
                true => format!("since {since}"),
                false => look.red(&format!("no; last heard of {since}")),
            },
        );
        fact("work", liveness::work(host, look));
    }
    let Some(state) = &host.state else {
        return text + "\n  no report yet\n";
    };
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            text.push_str(&format!("\n{}\n", look.bold(title)));
            text.extend(lines.into_iter().map(|line| format!("  {line}\n")));
        }
    };
    let lines = |message: Option<prost_reflect::DynamicMessage>| {
        message.map(|message| document::lines(&message, look)).unwrap_or_default()
    };
    section("Machine", lines(state.facts.as_ref().and_then(|facts| reflect(facts, "HostFactsResult"))));
    section("Load", lines(state.load.as_ref().and_then(|load| reflect(load, "HostLoadResult"))));
    if !state.docker_error.is_empty() {
        section("Docker", vec![look.red(&escape(&state.docker_error, false))]);
    }
    for stack in &state.stacks {
        section(&format!("Stack {}", escape(&stack.name, false)), stack_lines(stack, look));
    }
    if let Some(policy) = &state.policy {
        let lines = match policy.error.as_str() {
            "" => policy.allows.iter().map(|line| escape(line, false).into_owned()).collect(),
            error => vec![look.red(&format!("{}: every change is refused", escape(error, false)))],
        };
        section("Orders may", lines);
    }
    text
}

fn stack_lines(stack: &Stack, look: &Look) -> Vec<String> {
    let mut table = Table::new(["SERVICE", "STATE", "HEALTH", "STATUS", "IMAGE"]);
    for service in &stack.services {
        let state = match service.state.as_str() {
            "running" => look.green("running"),
            other => look.red(&escape(other, false)),
        };
        let cell = |text: &str| escape(text, false).into_owned();
        table.row([
            cell(&service.service),
            state,
            cell(&service.health),
            cell(&service.status),
            cell(&service.image),
        ]);
    }
    let mut rest = stack.clone();
    rest.services.clear();
    rest.name.clear();
    let mut lines = reflect(&rest, "Stack").map(|stack| document::lines(&stack, look)).unwrap_or_default();
    lines.extend(table.lines(look));
    lines
}

/// Hosts as scripts read them.
pub(crate) fn document(hosts: &[Host]) -> Value {
    json!({ "hosts": hosts.iter().map(|host| json::json(host, "Host")).collect::<Vec<_>>() })
}
