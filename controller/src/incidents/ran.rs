//! What the end of a run says to incidents. Pure.

use std::collections::BTreeMap;

use vigie_proto::{
    text::escape,
    v1::{CheckState, FindingState, Incident, IncidentCause},
};
use vigie_runbook::{report::change_words, run::State};

use super::{Input, board::entry, hosts_of};
use crate::runs::OWN;

/// Changes that an incident names: what was done last is the first suspect.
const CHANGES: usize = 3;

/// A change's words, in characters.
const LONGEST: usize = 300;

/// Causes that are kept of one diagnosis.
const CAUSES: usize = 20;

/// The root causes that a diagnosis confirmed, over all its targets, those of most hosts first.
pub(super) fn causes(state: &State) -> Vec<IncidentCause> {
    let mut causes: BTreeMap<(String, String), IncidentCause> = BTreeMap::new();
    for target in state.targets() {
        let Some(conclusion) = &target.conclusion else { continue };
        let roots = conclusion
            .findings
            .iter()
            .filter(|finding| finding.state() == FindingState::Confirmed && finding.explained_by.is_empty());
        for finding in roots {
            let (runbook, id) = finding.id.split_once('.').unwrap_or(("", &finding.id));
            let cause =
                causes.entry((finding.id.clone(), finding.says.clone())).or_insert_with(|| IncidentCause {
                    runbook: runbook.to_owned(),
                    finding: id.to_owned(),
                    says: finding.says.clone(),
                    advise: finding.advise.clone(),
                    host_names: Vec::new(),
                });
            if !cause.host_names.contains(&target.target.host_name) {
                cause.host_names.push(target.target.host_name.clone());
            }
        }
    }
    let mut causes: Vec<_> = causes.into_values().collect();
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.host_names.len()));
    causes.truncate(CAUSES);
    causes
}

/// Writes down what changed shortly before on an incident's hosts, as its diagnosis saw it. What is written already is
/// not written again.
pub(super) fn remember_changes(incident: &mut Incident, state: &State, now_ms: i64) {
    let changes = state.changes(|_| true);
    let words = changes.into_iter().take(CHANGES).map(|(host, change)| {
        let before = before(incident.opened_at_ms - change.at_ms);
        let words = escape(&change_words(change), false).chars().take(LONGEST).collect::<String>();
        format!("{host} {words} ({before})")
    });
    let words: Vec<_> = words.collect();
    let known = std::mem::take(&mut incident.changed_before);
    for text in words.iter().filter(|text| !known.contains(text)) {
        entry(incident, now_ms, text, &state.run().to_string());
    }
    incident.changed_before = if words.is_empty() { known } else { words };
}

/// How long before the incident opened; its own clock, so that it reads the same for ever.
fn before(ms: i64) -> String {
    match ms / 60_000 {
        ..0 => "since it opened".to_owned(),
        0 => "within the minute before".to_owned(),
        minutes @ 1..120 => format!("{minutes} min before"),
        minutes => format!("{} h before", minutes / 60),
    }
}

/// What a person's run did; nothing for one that changed nothing and was not to.
pub(super) fn deed(state: &State) -> Option<Input> {
    let summary = state.summary();
    if state.opened().operator == OWN || state.tasks().next().is_none() {
        return None;
    }
    let (verdict, reason, _) = state.closed()?;
    let verdict = verdict.word().replace('_', " ");
    let text = match reason.is_empty() {
        true => format!("{} ended: {verdict}", summary.title),
        false => format!("{} ended: {verdict} ({reason})", summary.title),
    };
    let lines = state.targets().iter().filter_map(|target| target.verified.as_ref());
    let mut checklist: BTreeMap<String, bool> = BTreeMap::new();
    for line in lines.flat_map(|conclusion| &conclusion.checklist) {
        // It is done when it is done everywhere.
        match line.state() {
            CheckState::Done => _ = checklist.entry(line.says.clone()).or_insert(true),
            CheckState::NotDone => _ = checklist.insert(line.says.clone(), false),
            CheckState::Open | CheckState::Unspecified => {}
        }
    }
    Some(Input::Ran {
        run: state.run(),
        hosts: hosts_of(state),
        operator: state.opened().operator.clone(),
        text,
        checklist: checklist.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use vigie_proto::{
        id::RunId,
        v1::{
            Change, HostChangesResult, Observation, Observed, Opened, Outcome, ProbePurpose, RunEvent,
            RunMode, RunSpec, RunbookCall, Target, result, run_event::Event, run_spec::Kind,
        },
    };
    use vigie_runbook::run::CHANGES as BESIDE;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;
    const RUNBOOK: &str = "id: web\ntitle: The web\ndiagnose:\n  - id: backend\n    container_inspect: { service: backend }\n\
        findings:\n  - { id: down, title: Down, when: backend.present, says: down, advise: look }\n\
        restore_backup: [{ answer: never, why: no data }]\n";

    /// A diagnosis of one host, on which these changes were seen.
    fn diagnosed(changes: Vec<Change>) -> State {
        let target = Target {
            host: "01900000-0000-7000-8000-000000000101".to_owned(),
            host_name: "vps1".to_owned(),
            stack: "shop".to_owned(),
            ..Target::default()
        };
        let call = RunbookCall { id: "web".to_owned(), mode: RunMode::Diagnose.into(), ..Default::default() };
        let opened = Opened {
            spec: Some(RunSpec { kind: Some(Kind::Runbook(call)), ..RunSpec::default() }),
            targets: vec![target],
            runbook_text: RUNBOOK.to_owned(),
            ..Opened::default()
        };
        let found = HostChangesResult { changes, ..HostChangesResult::default() };
        let seen = Observation {
            probe: BESIDE.to_owned(),
            purpose: ProbePurpose::Diagnosis.into(),
            outcome: Some(Outcome::succeeded(result::Operation::HostChanges(found))),
            ..Observation::default()
        };
        let events = [Event::Opened(opened), Event::Observed(Observed { observations: vec![seen] })];
        let events =
            (1..).zip(events).map(|(seq, event)| RunEvent { seq, at_ms: NOW_MS, event: Some(event) });
        State::fold(RunId::new(), &events.collect::<Vec<_>>()).unwrap()
    }

    fn change(minutes: i64, what: &str) -> Change {
        Change {
            at_ms: NOW_MS - minutes * 60_000,
            kind: "env".to_owned(),
            what: what.to_owned(),
            says: "removed TOKEN\u{1b}".to_owned(),
            ..Change::default()
        }
    }

    #[test]
    fn the_newest_changes_stand_in_the_incident_once() {
        let state = diagnosed((0..5).map(|at| change(4 + at * 100, &format!("/srv/{at}/.env"))).collect());
        let mut incident = Incident { opened_at_ms: NOW_MS, ..Incident::default() };
        remember_changes(&mut incident, &state, NOW_MS + 1);
        let said: Vec<_> = incident.timeline.iter().map(|entry| entry.text.as_str()).collect();
        assert_eq!(said.len(), CHANGES);
        assert_eq!(said[0], "vps1 changed: env /srv/0/.env: removed TOKEN\\u{1b} (4 min before)");
        assert!(said[1].ends_with("(104 min before)") && said[2].ends_with("(3 h before)"), "{said:?}");
        assert_eq!(incident.changed_before, said);
        assert_eq!(incident.timeline[0].run, state.run().to_string());
        remember_changes(&mut incident, &state, NOW_MS + 2);
        assert_eq!(incident.timeline.len(), CHANGES, "what is written is not written again");
        remember_changes(&mut incident, &diagnosed(Vec::new()), NOW_MS + 3);
        assert_eq!(incident.changed_before.len(), CHANGES, "no answer is no other answer");
    }
}
