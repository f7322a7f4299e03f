//! What a run's driver is given, with what is owed for it.

use tokio::sync::oneshot;
use vigie_proto::{
    id::{HostId, RunId, TaskId},
    v1::{Outcome, OutcomeStatus, RunSummary},
};
use vigie_runbook::run::Input;

use super::late::Late;
use crate::error::RunsError;

/// Who is told what became of a command.
pub(super) type Reply = oneshot::Sender<Result<RunSummary, RunsError>>;

/// Something to decide, with what is owed once its events are committed.
pub(super) struct Turn {
    pub(super) input: Input,
    pub(super) owed: Owed,
}

/// What somebody waits for.
pub(super) enum Owed {
    Nothing,
    /// The agent may forget the order.
    Acknowledgement {
        host: HostId,
        order: TaskId,
    },
    Answer(Reply),
}

impl Turn {
    /// Nothing but another look.
    pub(super) fn tick() -> Self {
        Self { input: Input::Tick, owed: Owed::Nothing }
    }

    /// An agent's report, checked against its route.
    pub(super) fn report(host: HostId, task: TaskId, input: Input) -> Self {
        let owed = match &input {
            Input::Ended { outcome, .. } if is_forgotten(outcome) => Owed::Nothing,
            Input::Ended { .. } | Input::Stray { .. } => Owed::Acknowledgement { host, order: task },
            _ => Owed::Nothing,
        };
        Self { input, owed }
    }

    /// An operator's word, who waits for the answer.
    pub(super) fn word(input: Input, reply: Reply) -> Self {
        Self { input, owed: Owed::Answer(reply) }
    }

    /// An order's end that no driver took, with its host.
    pub(super) fn untaken(self, run: RunId) -> Option<Late> {
        match (self.owed, self.input) {
            (Owed::Acknowledgement { host, order }, Input::Ended { outcome, .. }) => {
                Some(Late { host, order, run: run.to_string(), outcome })
            }
            _ => None,
        }
    }

    /// An operator's word is decided and committed alone, so that it can be refused alone.
    pub(super) fn is_word(&self) -> bool {
        matches!(self.owed, Owed::Answer(_))
    }
}

/// Whether its agent had no journal to keep an outcome in, so that there is nothing for it to forget. An acknowledgement could
/// only make it forget what came of the order when it was handed over again.
fn is_forgotten(outcome: &Outcome) -> bool {
    let code = outcome.failure.as_ref().map_or("", |failure| failure.code.as_str());
    outcome.status() == OutcomeStatus::Refused && code.starts_with("journal_")
}

/// Tells somebody what became of their word.
pub(super) fn answer(reply: Reply, with: Result<RunSummary, RunsError>) {
    if reply.send(with).is_err() {
        tracing::debug!("whoever asked did not wait for the answer");
    }
}

/// Tells everyone who waits for an answer that there was a failure. Only an operator's word waits, and alone.
pub(super) fn refuse(turns: Vec<Turn>, error: impl Into<RunsError>) {
    let reply = turns.into_iter().find_map(|turn| match turn.owed {
        Owed::Answer(reply) => Some(reply),
        Owed::Nothing | Owed::Acknowledgement { .. } => None,
    });
    if let Some(reply) = reply {
        answer(reply, Err(error.into()));
    }
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::Failure;

    use super::*;

    #[test]
    fn a_refusal_that_no_journal_kept_is_not_acknowledged() {
        let order = TaskId::new();
        let owes = |outcome| {
            let turn = Turn::report(HostId::new(), order, Input::Ended { order, outcome });
            matches!(turn.owed, Owed::Acknowledgement { .. })
        };
        assert!(!owes(Outcome::refused(Failure::new("journal_failed", "the disk failed"))));
        assert!(owes(Outcome::refused(Failure::new("policy_denied", "not here"))));
        // What had begun by then is kept in the agent's memory until it is acknowledged.
        assert!(owes(Outcome::ended(
            OutcomeStatus::InDoubt,
            Failure::new("journal_failed", "the disk failed")
        )));
    }
}
