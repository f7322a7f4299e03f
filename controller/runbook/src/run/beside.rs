//! What changed on a host, asked beside every diagnosis.
//!
//! No rule judges the answer and no verdict waits for it: once everything is judged it is given a moment to come, and
//! without it the changes are not known. A runbook that asks by itself is not asked again.

use std::collections::BTreeSet;

use vigie_proto::v1::{HostChangesRequest, ProbePurpose, Request, request::Operation};

use super::{ProbeKey, State, wanted::Asked};
use crate::Vantage;

/// The key of the answer among a target's evidence. No probe of a runbook can have this id, which is two words.
pub const CHANGES: &str = "what changed";

/// Two days: what is deployed on a Friday evening may break on a Sunday morning.
const SINCE_S: u32 = 2 * 86_400;

/// So many fit on a screen beside a verdict, and every one of a fleet's stands in the run's log.
const COUNT: u32 = 12;

/// How long a host may take to answer, in milliseconds.
const TIMEOUT_MS: u32 = 5_000;

/// How much longer than the verdict the answer may take, in milliseconds.
const PATIENCE_MS: i64 = 1_000;

/// The questions: one for each target of a runbook's diagnosis, one for each host of a diagnosis by every runbook.
pub(super) fn asks(state: &State) -> Vec<Asked> {
    // A plan is about what to do now: what changed before it was asked by then.
    if !state.is_diagnosis() || !state.plans.is_empty() {
        return Vec::new();
    }
    if let Some(whole) = &state.whole {
        return whole.beside().map(|(target, stack)| ask(target, stack)).collect();
    }
    let asks_itself = |runbook: &crate::Bound| {
        runbook.runbook().probes.iter().any(|probe| probe.call.operation.name == "host_changes")
    };
    if state.runbook().is_some_and(asks_itself) {
        return Vec::new();
    }
    let targets = state.targets.iter().enumerate();
    targets.map(|(place, target)| ask(place, &target.target.stack)).collect()
}

fn ask(target: usize, stack: &str) -> Asked {
    let request = HostChangesRequest { stack: stack.to_owned(), since_s: SINCE_S, count: COUNT };
    Asked {
        key: ProbeKey { target, probe: CHANGES.to_owned(), purpose: ProbePurpose::Diagnosis, round: 0 },
        from: Vantage::Host,
        request: Request { operation: Some(Operation::HostChanges(request)) },
        timeout_ms: TIMEOUT_MS,
        after: Vec::new(),
        not_before_ms: 0,
    }
}

/// The stack whose changes are a host's: its only one's with the host's own, else everything.
pub(super) fn stack_of<'a>(stacks: impl IntoIterator<Item = &'a str>) -> &'a str {
    let stacks: BTreeSet<&str> = stacks.into_iter().collect();
    match stacks.len() {
        1 => stacks.first().copied().unwrap_or_default(),
        _ => "",
    }
}

impl Asked {
    /// Whether this is what no verdict waits for.
    pub(super) fn is_beside(&self) -> bool {
        self.key.probe == CHANGES && self.key.purpose == ProbePurpose::Diagnosis
    }

    /// When an answer beside the verdict is given up: a moment after everything is judged, at once where nobody is
    /// there to give it. `otherwise` is when any other probe would be.
    pub(super) fn beside_until_ms(&self, state: &State, connected: bool, otherwise: i64) -> i64 {
        match (state.is_concluded(), connected) {
            (false, _) => otherwise,
            (true, false) => state.concluded_at_ms,
            (true, true) => otherwise.min(state.concluded_at_ms + PATIENCE_MS),
        }
    }
}
