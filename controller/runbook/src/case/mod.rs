//! Cases: recorded evidence with what a runbook has to make of it.
//!
//! A case is what probes answered on one target, at one time, and the verdict that these answers must lead to. It is
//! judged by the same rules as a real run, offline, so that a runbook is tested without a fleet.
//! [`Case::read`] reads one, [`Case::check`] says what does not come out as expected, [`record`] writes one from a
//! real run.

mod check;
mod read;
mod write;

use std::collections::BTreeMap;

use vigie_proto::v1::{self, Outcome};

pub use check::Outcomes;
pub use write::{Recording, record};

use crate::{Evidence, Subject, diagnostic::Diagnostics, model::Runbook};

/// The host of a case that names none.
const HOST: &str = "vps1";
/// The stack of a case that names none, for runbooks that are about stacks.
const STACK: &str = "sylion";
/// The time of a case that names none, Unix milliseconds: rules never look at the clock of whoever tests them.
const NOW_MS: i64 = 1_765_600_000_000;

/// One target's recorded answers, and what has to come of them.
#[derive(Debug, Clone)]
pub struct Case {
    /// What state the host was in; one line, may be empty.
    pub title: String,
    pub(crate) host: String,
    pub(crate) stack: String,
    pub(crate) now_ms: i64,
    pub(crate) parameters: Vec<v1::Parameter>,
    /// What the probes of the diagnosis answered.
    pub(crate) evidence: Evidence,
    /// What the probes of the verification answered; those of the diagnosis stand in where there is none.
    pub(crate) verification: Evidence,
    pub(crate) expect: Expectation,
}

/// What a case demands; `None` where it does not say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expectation {
    /// The root causes; none for a host that is well.
    pub(crate) causes: Vec<String>,
    /// The confirmed findings that something explains.
    pub(crate) explained: Option<Vec<String>>,
    /// The findings that cannot be told.
    pub(crate) unknown: Vec<String>,
    /// The remedies that are offered, in their order.
    pub(crate) remedies: Option<Vec<String>>,
    /// never, maybe, yes.
    pub(crate) restore: Option<String>,
    /// A piece of each symptom that shows, in their order.
    pub(crate) symptoms: Option<Vec<String>>,
    /// done, not_done or open, for each line.
    pub(crate) checklist: Option<Vec<String>>,
    /// By remedy: true, false or unknown.
    pub(crate) verified: BTreeMap<String, String>,
    /// By finding: pieces of what it says.
    pub(crate) says: BTreeMap<String, Vec<String>>,
    /// By finding: pieces of what it advises.
    pub(crate) advises: BTreeMap<String, Vec<String>>,
}

impl Case {
    /// Reads a case of a runbook. `source` names it in diagnostics; `other` gives the text of another case of the
    /// same runbook by its name, for `like`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(
        text: &str,
        source: &str,
        runbook: &Runbook,
        other: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Diagnostics> {
        read::case(text, source, runbook, other)
    }

    fn subject(&self) -> Subject<'_> {
        Subject { host: &self.host, stack: &self.stack, now_ms: self.now_ms }
    }

    /// The verification's answers over the diagnosis's.
    fn afterwards(&self) -> Evidence {
        let mut evidence = self.evidence.clone();
        evidence.extend(
            self.verification.iter().map(|(id, outcome): (_, &Outcome)| (id.clone(), outcome.clone())),
        );
        evidence
    }
}

#[cfg(test)]
mod tests;
