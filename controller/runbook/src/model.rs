//! A runbook as it was read: checked, and still without parameters and evidence.

use std::{collections::BTreeMap, sync::LazyLock};

use sha2::{Digest as _, Sha256};
use vigie_proto::{operation::Operation, v1};

use crate::{
    bound::Bound,
    call::Call,
    diagnostic::Diagnostics,
    guard::on_a_big_stack,
    parameters::{Parameter, ParameterError},
    read,
    rollout::Rollout,
    rules::{Rule, Template},
};

/// What a runbook is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each host once.
    Host,
    /// Each stack of each host once.
    Stack,
}

/// A checked runbook.
#[derive(Debug, Clone)]
pub struct Runbook {
    pub id: String,
    pub title: String,
    pub scope: Scope,
    pub parameters: Vec<Parameter>,
    pub symptoms: Vec<Symptom>,
    /// The probes of the diagnosis.
    pub probes: Vec<Probe>,
    pub findings: Vec<Finding>,
    pub remedies: Vec<Remedy>,
    /// The verification of remedies that have none of their own.
    pub(crate) verify: Option<Verify>,
    /// Whether to restore a backup; the first entry that applies answers, and the last always does.
    pub restore: Vec<Restore>,
    pub checklist: Vec<Check>,
    pub rollout: Rollout,
    /// The text that it was read from, and its SHA-256.
    pub text: String,
    pub digest: [u8; 32],
}

/// What a person or a monitor notices first. Agents watch for it by themselves.
#[derive(Debug, Clone)]
pub struct Symptom {
    pub severity: FindingSeverity,
    pub(crate) when: Rule,
    pub(crate) says: Template,
}

/// From where a probe looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Vantage {
    /// The host itself.
    #[default]
    Host,
    /// The controller, from outside.
    Controller,
    /// Another host of the fleet, whose policy lets it.
    Peer,
}

impl Vantage {
    pub(crate) const WORDS: &[(&str, Self)] =
        &[("host", Self::Host), ("controller", Self::Controller), ("peer", Self::Peer)];
}

/// A question to a host, under the name that rules know its answer by.
#[derive(Debug, Clone)]
pub struct Probe {
    pub id: String,
    /// Who is asked.
    pub from: Vantage,
    pub(crate) call: Call,
    pub timeout_ms: u32,
    /// Probes that are answered first.
    pub after: Vec<String>,
    /// It is slow or a burden: not asked where every runbook is run at once.
    pub deep: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingSeverity {
    /// Worth knowing.
    Notice,
    /// It will break, or is slow.
    Warning,
    /// It is down.
    Critical,
}

impl FindingSeverity {
    pub(crate) const WORDS: &[(&str, Self)] =
        &[("notice", Self::Notice), ("warning", Self::Warning), ("critical", Self::Critical)];

    /// As runbooks write it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, severity)| *severity == self).map_or("", |(word, _)| word)
    }
}

/// Something that may be wrong.
#[derive(Debug, Clone)]
pub struct Finding {
    pub id: String,
    pub title: String,
    pub severity: FindingSeverity,
    pub(crate) when: Rule,
    pub(crate) says: Template,
    pub(crate) advise: Option<Template>,
    /// Findings that are consequences of this one; those of other runbooks as `runbook.id` or `runbook.*`.
    pub explains: Vec<String>,
    /// Shown beside what the rule looks at.
    pub(crate) evidence: Vec<Rule>,
}

/// How much a remedy can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    Low,
    Medium,
    High,
}

impl Risk {
    pub(crate) const WORDS: &[(&str, Self)] =
        &[("low", Self::Low), ("medium", Self::Medium), ("high", Self::High)];

    /// As runbooks write it.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, risk)| *risk == self).map_or("", |(word, _)| word)
    }
}

/// What can be done about findings.
#[derive(Debug, Clone)]
pub struct Remedy {
    pub id: String,
    pub title: String,
    pub risk: Risk,
    /// The findings that it cures.
    pub cures: Vec<String>,
    pub(crate) when: Option<Rule>,
    pub(crate) steps: Vec<Step>,
    pub(crate) verify: Option<Verify>,
}

impl Remedy {
    /// Its operations, in their order.
    pub fn operations(&self) -> impl Iterator<Item = &'static Operation> {
        self.calls().map(|call| call.operation)
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.steps.iter().filter_map(|step| match &step.kind {
            StepKind::Act { call, .. } => Some(call),
            StepKind::Wait { .. } | StepKind::Manual { .. } => None,
        })
    }
}

/// One step of a remedy.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) kind: StepKind,
    /// Left out where this does not hold when its turn comes, or cannot be judged.
    pub(crate) when: Option<Rule>,
}

/// What a step is.
#[derive(Debug, Clone)]
pub(crate) enum StepKind {
    /// An operation that needs an order.
    Act { call: Call, timeout_ms: u32 },
    /// The target's probes are asked until a rule holds.
    Wait { says: Template, verify: Verify },
    /// A person does it, and says so.
    Manual { says: Template, within_ms: u32 },
}

impl Step {
    /// How long it may wait; nothing for an action.
    pub(crate) fn within_ms(&self) -> u32 {
        match &self.kind {
            StepKind::Act { .. } => 0,
            StepKind::Wait { verify, .. } => verify.within_ms,
            StepKind::Manual { within_ms, .. } => *within_ms,
        }
    }

    /// What it waits for, where it does.
    pub(crate) fn says(&self) -> Option<&Template> {
        match &self.kind {
            StepKind::Act { .. } => None,
            StepKind::Wait { says, .. } | StepKind::Manual { says, .. } => Some(says),
        }
    }
}

/// How to see that a remedy worked.
#[derive(Debug, Clone)]
pub(crate) struct Verify {
    pub(crate) probes: Vec<Probe>,
    pub(crate) until: Rule,
    pub(crate) within_ms: u32,
    pub(crate) every_ms: u32,
}

/// An answer to "restore a backup?".
#[derive(Debug, Clone)]
pub struct Restore {
    /// never, maybe, yes.
    pub answer: &'static str,
    pub(crate) when: Option<Rule>,
    pub(crate) why: Template,
}

/// A line of the checklist after an incident.
#[derive(Debug, Clone)]
pub struct Check {
    pub says: String,
    /// `None` for what only a person can tell.
    pub(crate) when: Option<Rule>,
}

impl Runbook {
    /// Reads a runbook. `source` names it in diagnostics.
    ///
    /// # Errors
    /// Everything that is wrong with it, warnings included, as far as it could be read.
    pub fn parse(text: &str, source: &str) -> Result<Self, Diagnostics> {
        match read(text, source, None) {
            (Some(runbook), diagnostics) if !diagnostics.has_errors() => Ok(runbook),
            (_, diagnostics) => Err(diagnostics),
        }
    }

    /// Gives the parameters their values.
    ///
    /// # Errors
    /// One for each parameter that is unknown, missing or wrong.
    pub fn bind(&self, parameters: &[v1::Parameter]) -> Result<Bound, Vec<ParameterError>> {
        Bound::new(self, parameters)
    }

    /// Every set of probes beside the diagnosis: those of the verifications, and of steps that wait.
    pub(crate) fn verifications(&self) -> impl Iterator<Item = &Verify> {
        let waits =
            self.remedies.iter().flat_map(|remedy| &remedy.steps).filter_map(|step| match &step.kind {
                StepKind::Wait { verify, .. } => Some(verify),
                StepKind::Act { .. } | StepKind::Manual { .. } => None,
            });
        let own = self.remedies.iter().filter_map(|remedy| remedy.verify.as_ref());
        self.verify.iter().chain(own).chain(waits)
    }
}

/// The findings of runbooks, by the runbooks' ids: what `explains` may speak of.
pub type Others = BTreeMap<String, Vec<String>>;

/// All that is wrong with a runbook, warnings included; empty for a sound one. It stands among the shipped ones.
pub fn lint(text: &str, source: &str) -> Diagnostics {
    static SHIPPED: LazyLock<Others> = LazyLock::new(|| findings_of([]));
    lint_among(text, source, &SHIPPED)
}

/// The same for a runbook that stands among others, whose findings these are.
pub fn lint_among(text: &str, source: &str, others: &Others) -> Diagnostics {
    read(text, source, Some(others)).1
}

/// The findings of the shipped runbooks and of these texts, which take the place of shipped ones of the same id. Those
/// that do not read have none.
pub fn findings_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Others {
    let shipped = crate::shipped().iter().map(|(_, text)| *text);
    let runbooks = shipped.chain(texts).filter_map(|text| read(text, "", None).0);
    let ids = |runbook: &Runbook| runbook.findings.iter().map(|finding| finding.id.clone()).collect();
    runbooks.map(|runbook| (runbook.id.clone(), ids(&runbook))).collect()
}

fn read(text: &str, source: &str, others: Option<&Others>) -> (Option<Runbook>, Diagnostics) {
    let (runbook, found) = match on_a_big_stack(|| read::runbook(text, others)) {
        Ok(read) => read,
        Err(broken) => (None, vec![read::unreadable(broken)]),
    };
    let runbook = runbook.map(|mut runbook| {
        runbook.digest = Sha256::digest(text.as_bytes()).into();
        text.clone_into(&mut runbook.text);
        runbook
    });
    (runbook, Diagnostics::new(source, text, found))
}
