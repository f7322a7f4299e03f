//! What the end of a run says to incidents. Pure.

use std::collections::BTreeMap;

use vigie_proto::v1::{CheckState, FindingState, IncidentCause};
use vigie_runbook::run::State;

use super::{Input, hosts_of};
use crate::runs::OWN;

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
