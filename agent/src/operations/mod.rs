//! What the agent can do, one file a family.
//!
//! An operation is a function of its request and a [`Context`]. It has checked nothing before and checks everything
//! itself that only the host can know; grammar, order and policy were checked by [`crate::host`] before it is called.

use std::sync::Arc;

use tokio::time::Instant;
use vigie_proto::v1::{Failure, Outcome, OutcomeStatus, request, result};

use crate::host::child::OutputSink;

/// What an operation may use.
pub struct Context {
    /// What the agent knows of this host: stacks, policy, the Docker engine, redaction.
    pub host: Arc<crate::host::Host>,
    /// When it has to be over.
    pub deadline: Instant,
    /// Takes output while it is produced.
    pub output: Arc<dyn OutputSink>,
    /// True when an operator signed for this request: targets that neither a stack nor the policy names are then
    /// allowed.
    pub ordered: bool,
}

/// Why an operation did not do what it is for.
#[derive(Debug)]
pub struct Fault {
    pub status: OutcomeStatus,
    pub failure: Failure,
    /// What was had until then.
    pub partial: Option<result::Operation>,
}

impl Fault {
    /// It was tried and failed.
    pub fn failed(code: &str, message: impl std::fmt::Display) -> Self {
        Self { status: OutcomeStatus::Failed, failure: Failure::new(code, message), partial: None }
    }

    /// A precondition does not hold, so that nothing was tried.
    pub fn refused(code: &str, message: impl std::fmt::Display) -> Self {
        Self { status: OutcomeStatus::Refused, failure: Failure::new(code, message), partial: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl std::fmt::Display) -> Self {
        self.failure = self.failure.hint(hint);
        self
    }

    /// Adds what was had until then.
    #[must_use]
    pub fn partial(mut self, partial: result::Operation) -> Self {
        self.partial = Some(partial);
        self
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        Self::ended(fault.status, fault.failure).with_result(fault.partial)
    }
}
