//! Making and reading outcomes.

use std::fmt;

use crate::v1::{
    Failure, Finding, FindingState, Outcome, OutcomeStatus, Result as OperationResult, RunVerdict, result,
};

impl Failure {
    /// A failure without a hint.
    pub fn new(code: &str, message: impl fmt::Display) -> Self {
        Self { code: code.to_owned(), message: message.to_string(), hint: String::new() }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = hint.to_string();
        self
    }

    /// Whether the host lacks what was asked about: there is no Docker, no nginx, no such stack. Nothing went wrong
    /// then, and there is nothing to mend.
    pub fn is_absence(&self) -> bool {
        self.code.ends_with("_absent")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Finding {
    /// Whether something is wrong, and not merely worth knowing.
    pub fn is_trouble(&self) -> bool {
        self.state() == FindingState::Confirmed && self.severity != "notice"
    }
}

impl Outcome {
    /// The operation did what it is for.
    pub fn succeeded(result: result::Operation) -> Self {
        Self {
            status: OutcomeStatus::Succeeded.into(),
            result: Some(OperationResult { operation: Some(result) }),
            ..Self::default()
        }
    }

    /// It ended otherwise.
    pub fn ended(status: OutcomeStatus, failure: Failure) -> Self {
        Self { status: status.into(), failure: Some(failure), ..Self::default() }
    }

    /// The agent would not run it.
    pub fn refused(failure: Failure) -> Self {
        Self::ended(OutcomeStatus::Refused, failure)
    }

    /// Adds what was had before it ended.
    #[must_use]
    pub fn with_result(mut self, result: Option<result::Operation>) -> Self {
        self.result = result.map(|operation| OperationResult { operation: Some(operation) });
        self
    }

    /// Whether the operation did what it is for.
    pub fn is_success(&self) -> bool {
        self.status() == OutcomeStatus::Succeeded
    }
}

impl OutcomeStatus {
    /// The word that people and scripts read: `in doubt`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::InDoubt => "in doubt",
            Self::Unreachable => "unreachable",
        }
    }
}

impl RunVerdict {
    /// The word that scripts read, and people with a space for the underscore: `in_doubt`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "open",
            Self::Ok => "ok",
            Self::Findings => "findings",
            Self::Resolved => "resolved",
            Self::Unresolved => "unresolved",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::InDoubt => "in_doubt",
            Self::Cancelled => "cancelled",
        }
    }
}
