//! What agents report, on its way to the run that it is about.
//!
//! An agent's word counts for its own tasks alone, and only in the shape that was asked for.

use vigie_proto::{
    id::{HostId, TaskId},
    v1::{Failure, Outcome, OutcomeStatus, OutputChunk, ProbePurpose},
};
use vigie_runbook::run::{Challenge, Input, ProbeKey};

use super::{Runs, driver::Live, late::Late, routes::Route, turn::Turn};
use crate::error::LinkError;

/// What an agent says of a task.
#[derive(Debug, Clone)]
pub enum Report {
    /// A probe's outcome.
    Probed { task: TaskId, outcome: Outcome },
    /// What an order would act on, and what it has to carry.
    Prepared { task: TaskId, outcome: Outcome, challenge: Challenge },
    /// An order's start is on its disk.
    Started { order: TaskId, at_ms: i64 },
    /// How an order ended, and the run that it was for, as far as the agent knows.
    Finished { order: TaskId, run: String, outcome: Outcome },
}

impl Report {
    fn task(&self) -> TaskId {
        match self {
            Self::Probed { task, .. } | Self::Prepared { task, .. } => *task,
            Self::Started { order, .. } | Self::Finished { order, .. } => *order,
        }
    }

    /// The input that it is for the run; `None` when it does not speak of the kind of task that was sent.
    fn into_input(self, route: &Route) -> Option<Input> {
        let prepares = |key: &ProbeKey| key.purpose == ProbePurpose::Preparation;
        match (self, route.probe.clone()) {
            (Self::Probed { outcome, .. }, Some((key, asked_at_ms))) if !prepares(&key) => {
                let outcome = fitting(outcome, route.operation);
                Some(Input::Probed { key, outcome, asked_at_ms, challenge: Challenge::default() })
            }
            (Self::Prepared { outcome, challenge, .. }, Some((key, asked_at_ms))) if prepares(&key) => {
                let outcome = fitting(outcome, route.operation);
                Some(Input::Probed { key, outcome, asked_at_ms, challenge })
            }
            (Self::Started { order, at_ms }, None) => Some(Input::Started { order, at_ms }),
            (Self::Finished { order, outcome, .. }, None) => {
                Some(Input::Ended { order, outcome: fitting(outcome, route.operation) })
            }
            _ => None,
        }
    }
}

impl Runs {
    /// Takes an agent's report to its run. Completes when the run's driver has it, which holds a flooding agent back; what no
    /// driver waits for is written down beside the session.
    pub(crate) async fn report(&self, host: HostId, report: Report) -> Taken {
        let task = report.task();
        let Some(route) = self.0.routes.find(task) else {
            // Of a run that is closed, or of a probe that was asked again since.
            if let Report::Finished { outcome, run, .. } = report {
                self.take_late(Late { host, order: task, run, outcome });
                return Taken::Late;
            }
            tracing::debug!(%host, %task, "a report about no open run");
            return Taken::Run;
        };
        if route.host != host {
            tracing::warn!(%host, %task, sent_to = %route.host, "a host reports on another's task");
            return Taken::Foreign;
        }
        let Some(input) = report.into_input(&route) else {
            tracing::debug!(%host, %task, "a report that fits no task");
            return Taken::Foreign;
        };
        let inputs = self.live().get(&route.run).map(Live::inputs);
        let turn = Turn::report(host, task, input);
        let untaken = match inputs {
            Some(inputs) => inputs.send(turn).await.err().map(|unsent| unsent.0),
            None => Some(turn),
        };
        // Its driver has ended since.
        if let Some(late) = untaken.and_then(|turn| turn.untaken(route.run)) {
            self.take_after(route.run, late);
            return Taken::Late;
        }
        Taken::Run
    }

    /// Shows a piece of a task's output to those who watch its run. They may be too slow for it, or nobody.
    ///
    /// # Errors
    /// When the host runs no such task.
    pub(crate) fn output(&self, host: HostId, task: TaskId, chunk: OutputChunk) -> Result<(), LinkError> {
        let route =
            self.0.routes.find(task).filter(|route| route.host == host).ok_or(LinkError::UnknownTask)?;
        if let Some(live) = self.live().get(&route.run) {
            live.show(chunk);
        }
        Ok(())
    }
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Its run has it, or nobody needs it.
    Run,
    /// No driver waits for it: it is written into the audit.
    Late,
    /// It is about something that this host was not asked.
    Foreign,
}

/// An outcome that answers what was asked, or a failure that says that it does not.
pub(super) fn fitting(outcome: Outcome, operation: &str) -> Outcome {
    let answers = |outcome: &Outcome| {
        let result = outcome.result.as_ref().map(|result| &result.operation);
        match (outcome.status(), result) {
            (OutcomeStatus::Unspecified, _) => false,
            (_, Some(Some(result))) => result.name() == operation,
            (_, Some(None)) => false,
            // What was only seen afterwards to have happened has nothing to show.
            (status, None) => status != OutcomeStatus::Succeeded || !outcome.found.is_empty(),
        }
    };
    if answers(&outcome) {
        return outcome;
    }
    let failure = Failure::new("bad_result", "the agent's answer is not one to what it was asked")
        .hint("is the agent of another version than the controller?");
    Outcome {
        started_at_ms: outcome.started_at_ms,
        duration_ms: outcome.duration_ms,
        ..Outcome::ended(OutcomeStatus::Failed, failure)
    }
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::{HostLoadResult, NginxTestResult, result};

    use super::*;

    #[test]
    fn an_answer_to_something_else_is_a_failure() {
        let load = Outcome::succeeded(result::Operation::HostLoad(HostLoadResult::default()));
        assert_eq!(fitting(load.clone(), "host_load"), load);
        let other = Outcome::succeeded(result::Operation::NginxTest(NginxTestResult::default()));
        for bad in [other, Outcome::default(), Outcome { result: None, ..load }] {
            let judged = fitting(bad, "host_load");
            assert_eq!(judged.status(), OutcomeStatus::Failed);
            assert_eq!(judged.failure.unwrap().code, "bad_result");
        }
        let refused = Outcome::refused(Failure::new("policy_denied", "no"));
        assert_eq!(fitting(refused.clone(), "host_load"), refused);
    }
}
