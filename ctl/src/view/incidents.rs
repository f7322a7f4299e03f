//! Incidents: in a list, one by one, as a post-mortem and as the text of a ticket.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{CheckState, Incident, IncidentContact, IncidentState},
};

use crate::output::{
    json,
    look::{Look, duration_ms},
    names,
    table::Table,
};

fn word(text: &str) -> String {
    escape(text, false).into_owned()
}

/// The state in its colour.
fn state(incident: &Incident, look: &Look) -> String {
    match incident.state() {
        IncidentState::Open => look.red("open"),
        IncidentState::Resolved => look.yellow("resolved"),
        IncidentState::Closed => look.green("closed"),
        IncidentState::Unspecified => "unknown".to_owned(),
    }
}

/// How bad it is, in its colour.
fn severity(incident: &Incident, look: &Look) -> String {
    match incident.severity.as_str() {
        "critical" => look.red("critical"),
        "warning" => look.yellow("warning"),
        other => word(other),
    }
}

/// Its hosts, each once.
fn hosts(incident: &Incident) -> BTreeSet<&str> {
    incident.places.iter().map(|place| place.host_name.as_str()).collect()
}

/// How long something showed, or has shown.
fn lasted(incident: &Incident, look: &Look) -> String {
    let end = if incident.resolved_at_ms > 0 { incident.resolved_at_ms } else { look.now_ms };
    duration_ms((end - incident.opened_at_ms).max(0))
}

/// The newest first.
pub(crate) fn list(incidents: &[Incident], look: &Look) -> String {
    if incidents.is_empty() {
        return "no incidents\n".to_owned();
    }
    let mut table = Table::new(["INCIDENT", "OPENED", "LASTED", "STATE", "SEVERITY", "HOSTS", "WHAT"]);
    for incident in incidents {
        table.row([
            word(&incident.id),
            look.time(incident.opened_at_ms),
            lasted(incident, look),
            state(incident, look),
            severity(incident, look),
            names::counted(hosts(incident)),
            word(&incident.title),
        ]);
    }
    table.text(look)
}

/// An incident that is open for so long wants more people than the one who looks at it.
const ESCALATE_MS: i64 = 30 * 60_000;

/// A line for each open incident, for whoever looks at the fleet, and whom to call where one is severe or stays open.
pub(crate) fn banner(incidents: &[Incident], contacts: &[IncidentContact], look: &Look) -> String {
    let open = incidents.iter().filter(|incident| incident.state() == IncidentState::Open);
    let escalate = open.clone().any(|incident| {
        incident.severity == "critical" || look.now_ms - incident.opened_at_ms >= ESCALATE_MS
    });
    let lines = open.map(|incident| {
        format!(
            "{} {}  {} (since {}; vigiectl incidents show {})\n",
            look.red("!"),
            look.bold(&names::counted(hosts(incident))),
            word(&incident.title),
            look.time(incident.opened_at_ms),
            word(&incident.id),
        )
    });
    let mut text: String = lines.collect();
    if escalate && !contacts.is_empty() {
        let known: Vec<_> =
            contacts.iter().map(|one| format!("{} {}", word(&one.role), word(&one.contact))).collect();
        text += &format!("  call: {}\n", known.join(" · "));
    }
    text
}

/// What is said while nobody knows whom to call.
pub(crate) fn nobody_to_call(contacts: &[IncidentContact], look: &Look) -> String {
    if !contacts.is_empty() {
        return String::new();
    }
    look.dim("escalation contacts are undefined: add [[contacts]] with `role` and `contact` to the controller's controller.toml")
        + "\n"
}

/// One incident, whole.
pub(crate) fn one(incident: &Incident, look: &Look) -> String {
    let mut text = format!("{}\n", look.bold(&word(&incident.title)));
    text += &format!(
        "{} {} on {}, {}\n",
        severity(incident, look),
        state(incident, look),
        names::counted(hosts(incident)),
        lasted(incident, look),
    );
    text += &format!("{}\n", look.dim(&word(&incident.id)));
    text += "\nShows\n";
    for place in &incident.places {
        let stack = if place.stack.is_empty() { String::new() } else { format!("/{}", word(&place.stack)) };
        for symptom in &place.symptoms {
            let since = look.clock(symptom.since_ms);
            let until = match symptom.until_ms {
                0 => format!("since {since}"),
                end => format!("{since} to {}", look.clock(end)),
            };
            let line = format!("  {}{stack}  {} ({until})\n", word(&place.host_name), word(&symptom.says));
            text += &if symptom.until_ms == 0 { line } else { look.dim(&line) };
        }
    }
    if !incident.causes.is_empty() {
        text += "\nCauses\n";
    }
    for cause in &incident.causes {
        let on = names::counted(cause.host_names.iter().map(String::as_str));
        text += &format!("  {} {on}: {}\n", look.red("✗"), word(&cause.says));
        if !cause.advise.is_empty() {
            text += &format!("    {}\n", word(&cause.advise));
        }
        if incident.state() == IncidentState::Open && !cause.runbook.is_empty() {
            let hosts = cause.host_names.join(",");
            text += &format!("    vigiectl run {} -H {}\n", word(&cause.runbook), word(&hosts));
        }
    }
    text += &written(incident);
    if !incident.checklist.is_empty() {
        text += "\nChecklist\n";
        for (number, line) in incident.checklist.iter().enumerate() {
            text += &format!("  {} {}. {}\n", mark(line.state()), number + 1, word(&line.says));
        }
    }
    if !incident.contacts.is_empty() && incident.state() == IncidentState::Open {
        text += "\nContacts\n";
        for known in &incident.contacts {
            text += &format!("  {}: {}\n", word(&known.role), word(&known.contact));
        }
    }
    text += "\nTimeline\n";
    for line in timeline(incident, look) {
        text += &format!("  {line}\n");
    }
    text
}

fn mark(state: CheckState) -> &'static str {
    match state {
        CheckState::Done => "[x]",
        CheckState::NotDone => "[!]",
        CheckState::Open | CheckState::Unspecified => "[ ]",
    }
}

/// What persons wrote.
fn written(incident: &Incident) -> String {
    let written = [("Cause", &incident.cause), ("Fix", &incident.fix), ("Ticket", &incident.ticket)];
    let written = written.iter().filter(|(_, text)| !text.is_empty());
    let written: String = written
        .map(|(what, text)| format!("  {what}: {}\n", escape(text, true).replace('\n', "\n    ")))
        .collect();
    if written.is_empty() { written } else { format!("\nWritten up\n{written}") }
}

fn timeline(incident: &Incident, look: &Look) -> Vec<String> {
    let line = |entry: &vigie_proto::v1::IncidentEntry| {
        let by =
            if entry.operator.is_empty() { String::new() } else { format!("{}: ", word(&entry.operator)) };
        let run = if entry.run.is_empty() { String::new() } else { format!(" (run {})", word(&entry.run)) };
        format!("{}  {by}{}{run}", look.time(entry.at_ms), word(&entry.text))
    };
    incident.timeline.iter().map(line).collect()
}

/// The post-mortem in Markdown: what a person has not written yet is left to be filled in.
pub(crate) fn report(incident: &Incident, look: &Look) -> String {
    let or = |text: &str, missing: &str| match text {
        "" => format!("*{missing}*"),
        text => escape(text, true).into_owned(),
    };
    let mut text = format!("# {}\n\n", word(&incident.title));
    text += "| | |\n|---|---|\n";
    text += &format!("| Incident | `{}` |\n", word(&incident.id));
    text += &format!("| Severity | {} |\n", word(&incident.severity));
    text += &format!("| Hosts | {} |\n", names::counted(hosts(incident)));
    text += &format!("| Opened | {} |\n", look.time(incident.opened_at_ms));
    let resolved =
        if incident.resolved_at_ms == 0 { "not yet".to_owned() } else { look.time(incident.resolved_at_ms) };
    text += &format!("| Resolved | {resolved} |\n| Lasted | {} |\n", lasted(incident, look));
    text += "\n## Cause\n\n";
    text +=
        &or(&incident.cause, &format!("to be written: vigiectl incidents note {} --cause …", incident.id));
    text.push('\n');
    for cause in &incident.causes {
        let on = names::counted(cause.host_names.iter().map(String::as_str));
        text += &format!("- diagnosed on {on}: {}\n", word(&cause.says));
    }
    text += "\n## Fix\n\n";
    text += &or(&incident.fix, &format!("to be written: vigiectl incidents note {} --fix …", incident.id));
    text += "\n\n## Follow-up\n\n";
    text += &or(&incident.ticket, "no ticket yet; `none` where no permanent fix is needed");
    text += "\n\n## Checklist\n\n";
    for line in &incident.checklist {
        text += &format!("- {} {}\n", mark(line.state()), word(&line.says));
    }
    text += "\n## Timeline\n\n";
    for line in timeline(incident, look) {
        text += &format!("- {line}\n");
    }
    text
}

/// What a ticket for the permanent fix would say.
pub(crate) fn ticket(incident: &Incident, look: &Look) -> String {
    let on = names::counted(hosts(incident));
    let mut text = format!("Permanent fix: {} ({on})\n\n", word(&incident.title));
    text += &format!(
        "Incident {} opened {} and lasted {}.\n\n",
        word(&incident.id),
        look.time(incident.opened_at_ms),
        lasted(incident, look)
    );
    for cause in &incident.causes {
        let on = names::counted(cause.host_names.iter().map(String::as_str));
        text += &format!("- {on}: {}\n", word(&cause.says));
        if !cause.advise.is_empty() {
            text += &format!("  {}\n", word(&cause.advise));
        }
    }
    for (what, said) in [("Cause", &incident.cause), ("Done so far", &incident.fix)] {
        if !said.is_empty() {
            text += &format!("\n{what}: {}\n", escape(said, true));
        }
    }
    text + "\nDone when: the cause cannot come back, or is noticed before it hurts.\n"
}

/// One incident as a document.
pub(crate) fn value(incident: &Incident) -> Value {
    json::json(incident, "Incident")
}

/// Whom to call, as `status` has it beside the hosts.
pub(crate) fn contacts(contacts: &[IncidentContact]) -> Value {
    contacts.iter().map(|known| json!({ "role": known.role, "contact": known.contact })).collect()
}

/// The list as a document.
pub(crate) fn document(incidents: &[Incident]) -> Value {
    json!({ "incidents": incidents.iter().map(value).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{
        ChecklistLine, IncidentCause, IncidentContact, IncidentEntry, IncidentPlace, IncidentSymptom,
    };

    use super::*;

    fn incident() -> Incident {
        let at = 1_700_000_500_000;
        Incident {
            id: "0198-a".to_owned(),
            state: IncidentState::Open.into(),
            severity: "critical".to_owned(),
            title: "Redis is stopped".to_owned(),
            opened_at_ms: at,
            places: vec![IncidentPlace {
                host_name: "vps1".to_owned(),
                stack: "sylion".to_owned(),
                symptoms: vec![IncidentSymptom {
                    runbook: "redis-down".to_owned(),
                    says: "/health says redisConnected: false\u{1b}[31m".to_owned(),
                    since_ms: at,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            causes: vec![IncidentCause {
                runbook: "redis-down".to_owned(),
                finding: "stopped".to_owned(),
                says: "Redis is stopped".to_owned(),
                host_names: vec!["vps1".to_owned()],
                ..Default::default()
            }],
            timeline: vec![IncidentEntry {
                at_ms: at,
                text: "run redis-down ended: resolved".to_owned(),
                operator: "ada".to_owned(),
                run: "0198-b".to_owned(),
            }],
            checklist: vec![ChecklistLine {
                says: "Monitoring is green".to_owned(),
                state: CheckState::Open.into(),
            }],
            contacts: vec![IncidentContact { role: "On-call".to_owned(), contact: "+33 1".to_owned() }],
            ..Default::default()
        }
    }

    #[test]
    fn an_open_incident_says_what_goes_on_and_what_to_do() {
        assert_snapshot!(one(&incident(), &Look::plain()), @r"
        Redis is stopped
        critical open on vps1, 1 min 40 s
        0198-a

        Shows
          vps1/sylion  /health says redisConnected: false\u{1b}[31m (since 23:21:40)

        Causes
          ✗ vps1: Redis is stopped
            vigiectl run redis-down -H vps1

        Checklist
          [ ] 1. Monitoring is green

        Contacts
          On-call: +33 1

        Timeline
          2023-11-14 23:21:40 +01:00  ada: run redis-down ended: resolved (run 0198-b)
        ");
    }

    #[test]
    fn whom_to_call_stands_by_what_is_severe_or_stays() {
        let known = incident().contacts;
        let call = "  call: On-call +33 1\n";
        let opened = incident().opened_at_ms;
        let at = |now_ms, severity: &str| {
            let incident = Incident { severity: severity.to_owned(), ..incident() };
            banner(&[incident], &known, &Look { now_ms, ..Look::plain() })
        };
        assert!(at(opened, "critical").ends_with(call));
        assert!(!at(opened, "warning").contains("call"));
        assert!(at(opened + ESCALATE_MS, "warning").ends_with(call));
        assert_eq!(nobody_to_call(&known, &Look::plain()), "");
        assert!(nobody_to_call(&[], &Look::plain()).contains("[[contacts]]"));
    }

    #[test]
    fn a_report_says_what_is_left_to_write() {
        let text = report(&Incident { cause: "a deploy".to_owned(), ..incident() }, &Look::plain());
        assert!(text.contains("## Cause\n\na deploy\n- diagnosed on vps1: Redis is stopped"), "{text}");
        assert!(text.contains("*to be written: vigiectl incidents note 0198-a --fix …*"), "{text}");
        assert!(ticket(&incident(), &Look::plain()).starts_with("Permanent fix: Redis is stopped (vps1)"));
    }

    #[test]
    fn lists_and_banners_are_for_what_there_is() {
        assert_snapshot!(list(&[incident()], &Look::plain()), @r"
        INCIDENT  OPENED                      LASTED      STATE  SEVERITY  HOSTS  WHAT
        0198-a    2023-11-14 23:21:40 +01:00  1 min 40 s  open   critical  vps1   Redis is stopped
        ");
        assert_eq!(list(&[], &Look::plain()), "no incidents\n");
        let over = Incident { state: IncidentState::Resolved.into(), ..incident() };
        assert_eq!(banner(&[over], &[], &Look::plain()), "");
        assert!(
            banner(&[incident()], &[], &Look::plain()).starts_with("! vps1  Redis is stopped (since 2023")
        );
    }
}
