//! Runs in lists, and the words for their phases and verdicts.

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{RunMode, RunPhase, RunSummary, RunVerdict},
};

use crate::{
    json,
    look::{Look, duration_ms},
    table::Table,
};

/// Where a run stands, for people.
pub fn phase_word(phase: RunPhase) -> &'static str {
    match phase {
        RunPhase::Unspecified => "unknown",
        RunPhase::Observing => "observing",
        RunPhase::Previewing => "previewing",
        RunPhase::AwaitingSignature => "waits for a signature",
        RunPhase::Acting => "acting",
        RunPhase::AwaitingPerson => "waits for a person",
        RunPhase::Verifying => "verifying",
        RunPhase::Closed => "closed",
    }
}

/// How far a runbook is taken; empty for a single operation.
pub fn mode_word(mode: RunMode) -> &'static str {
    match mode {
        RunMode::Unspecified => "",
        RunMode::Diagnose => "diagnose",
        RunMode::Plan => "plan",
        RunMode::Run => "run",
    }
}

/// The verdict in its colour, underscores as people write them.
pub fn verdict(verdict: RunVerdict, look: &Look) -> String {
    let word = verdict.word().replace('_', " ");
    match verdict {
        RunVerdict::Ok | RunVerdict::Resolved => look.green(&word),
        RunVerdict::Failed | RunVerdict::Unresolved | RunVerdict::InDoubt | RunVerdict::Findings => {
            look.red(&word)
        }
        _ => look.yellow(&word),
    }
}

/// The newest runs in a table.
pub fn list(runs: &[RunSummary], look: &Look) -> String {
    if runs.is_empty() {
        return "no runs yet\n".to_owned();
    }
    let mut table = Table::new(["RUN", "OPENED", "TOOK", "BY", "TARGETS", "STATE", "WHAT"]);
    for run in runs {
        let (took, state) = match run.closed_at_ms {
            0 => (duration_ms(look.now_ms - run.opened_at_ms), look.yellow(phase_word(run.phase()))),
            closed => (duration_ms(closed - run.opened_at_ms), verdict(run.verdict(), look)),
        };
        table.row([
            escape(&run.run, false).into_owned(),
            look.time(run.opened_at_ms),
            took,
            escape(&run.operator, false).into_owned(),
            run.targets.to_string(),
            state,
            escape(&run.title, false).into_owned(),
        ]);
    }
    table.text(look)
}

/// The same as a document.
pub fn document(runs: &[RunSummary]) -> Value {
    json!({ "runs": runs.iter().map(|run| json::json(run, "RunSummary")).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn open_runs_say_where_they_stand() {
        let open = RunSummary {
            run: "0198-a".to_owned(),
            title: "run backend-502".to_owned(),
            operator: "ana".to_owned(),
            opened_at_ms: 1_700_000_500_000,
            phase: RunPhase::AwaitingSignature.into(),
            targets: 2,
            ..Default::default()
        };
        let closed = RunSummary {
            closed_at_ms: 1_700_000_501_100,
            phase: RunPhase::Closed.into(),
            verdict: RunVerdict::InDoubt.into(),
            ..open.clone()
        };
        assert_snapshot!(list(&[open, closed], &Look::plain()), @r#"
        RUN     OPENED                      TOOK        BY   TARGETS  STATE                  WHAT
        0198-a  2023-11-14 23:21:40 +01:00  1 min 40 s  ana  2        waits for a signature  run backend-502
        0198-a  2023-11-14 23:21:40 +01:00  1.1 s       ana  2        in doubt               run backend-502
        "#);
        assert_snapshot!(list(&[], &Look::plain()), @"no runs yet");
    }
}
