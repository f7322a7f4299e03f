//! What a run knows of one target.

use std::collections::BTreeMap;

use vigie_proto::{
    id::{HostId, IdError},
    v1::{
        Change, Conclusion, FindingState, Observation, Outcome, OutcomeStatus, ProbePurpose, Target, result,
    },
};

use super::{CHANGES, ProbeKey};
use crate::Evidence;

/// How far a step has come that waits, or that is left out. Written by the events of waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passage {
    /// It waits: for a rule or, where `manual`, for a person.
    Open { manual: bool, says: String, opened_at_ms: i64, until_ms: i64 },
    /// What it waited for came, or a person did it.
    Done,
    /// The remedy stopped there, and why.
    Stopped(String),
    /// Its condition did not hold; `unknown` says why it could not be judged.
    LeftOut { unknown: String },
}

/// What a preview or a preparation brought.
#[derive(Debug, Clone)]
pub struct Preview {
    pub outcome: Outcome,
    /// Empty for a preview.
    pub(super) challenge: Vec<u8>,
    /// Until when the agent honours the challenge, on the controller's clock and rather too early.
    pub(super) valid_until_ms: i64,
}

/// What is known of one target.
#[derive(Debug, Clone)]
pub struct TargetState {
    pub target: Target,
    pub host: HostId,
    /// The diagnosis: each probe's outcome.
    pub evidence: Evidence,
    /// Previews and preparations, by `remedy/step`.
    pub previews: BTreeMap<String, Preview>,
    pub conclusion: Option<Conclusion>,
    /// The verification's present round, what it has, and when its last answer came.
    pub round: u32,
    pub verification: Evidence,
    pub verified: Option<Conclusion>,
    /// The steps of its remedy that wait or are left out, by their places.
    pub steps: BTreeMap<u32, Passage>,
    /// The present round of the step that waits, and what it has.
    pub wait_round: u32,
    pub waiting: Evidence,
    /// What steps that waited saw last: newer than the diagnosis.
    pub(super) waited: Evidence,
    /// The run that changes its stack, which this one waits for; empty for none.
    pub held_by: String,
    /// When something was last learnt of this target.
    pub last_seen_ms: i64,
    /// When its last order ended; 0 before.
    pub acted_at_ms: i64,
}

impl TargetState {
    pub(super) fn new(target: &Target, at_ms: i64) -> Result<Self, IdError> {
        Ok(Self {
            host: target.host.parse()?,
            target: target.clone(),
            evidence: Evidence::new(),
            previews: BTreeMap::new(),
            conclusion: None,
            round: 0,
            verification: Evidence::new(),
            verified: None,
            steps: BTreeMap::new(),
            wait_round: 0,
            waiting: Evidence::new(),
            waited: Evidence::new(),
            held_by: String::new(),
            last_seen_ms: at_ms,
            acted_at_ms: 0,
        })
    }

    pub(super) fn observe(&mut self, seen: &Observation, at_ms: i64) {
        let (probe, outcome) = (seen.probe.clone(), seen.outcome.clone().unwrap_or_default());
        match seen.purpose() {
            ProbePurpose::Preview | ProbePurpose::Preparation => {
                let challenge = seen.challenge.clone();
                // From when it was asked for: the agent's time began to run a little later.
                let valid_until_ms = seen.asked_at_ms + i64::from(seen.valid_ms);
                self.previews.insert(probe, Preview { outcome, challenge, valid_until_ms });
            }
            ProbePurpose::Verification => {
                if seen.round > self.round {
                    self.round = seen.round;
                    self.verification.clear();
                }
                self.verification.insert(probe, outcome);
            }
            ProbePurpose::Wait => {
                if seen.round > self.wait_round {
                    self.wait_round = seen.round;
                    self.waiting.clear();
                }
                self.waited.insert(probe.clone(), outcome.clone());
                self.waiting.insert(probe, outcome);
            }
            ProbePurpose::Diagnosis | ProbePurpose::Unspecified => {
                self.evidence.insert(probe, outcome);
            }
        }
        self.last_seen_ms = at_ms;
    }

    /// What changed on it before the diagnosis, newest first; `None` where that is not known.
    pub fn changes(&self) -> Option<&[Change]> {
        let answers = self.evidence.values().filter_map(|outcome| outcome.result.as_ref());
        let mut told = answers.filter_map(|result| match &result.operation {
            Some(result::Operation::HostChanges(found)) => Some(found.changes.as_slice()),
            _ => None,
        });
        told.next()
    }

    /// Whether no trouble is confirmed, and everything could be told.
    pub fn is_well(&self) -> bool {
        let findings = self.conclusion.iter().flat_map(|conclusion| &conclusion.findings);
        self.conclusion.is_some()
            && !findings
                .into_iter()
                .any(|finding| finding.is_trouble() || finding.state() == FindingState::Unknown)
    }

    /// The step that waits at this moment.
    pub fn open_wait(&self) -> Option<(u32, &Passage)> {
        let open = |(_, passage): &(&u32, &Passage)| matches!(passage, Passage::Open { .. });
        self.steps.iter().find(open).map(|(step, passage)| (*step, passage))
    }

    /// The newest that is known, for the conditions of steps.
    pub(super) fn newest(&self) -> Evidence {
        let mut newest = self.evidence.clone();
        newest.extend(self.waited.iter().map(|(probe, outcome)| (probe.clone(), outcome.clone())));
        newest
    }

    /// Whether this probe has been answered.
    pub(super) fn has(&self, key: &ProbeKey) -> bool {
        match key.purpose {
            ProbePurpose::Preview | ProbePurpose::Preparation => self.previews.contains_key(&key.probe),
            ProbePurpose::Wait => {
                key.round < self.wait_round
                    || self.open_wait().is_none()
                    || (key.round == self.wait_round && self.waiting.contains_key(&key.probe))
            }
            ProbePurpose::Verification => {
                key.round < self.round
                    || (key.round == self.round && self.verification.contains_key(&key.probe))
            }
            _ => self.evidence.contains_key(&key.probe),
        }
    }

    /// Whether none of its probes got through to the host, and none told anything from elsewhere.
    pub fn is_unreachable(&self) -> bool {
        let judged = || self.evidence.iter().filter(|(probe, _)| *probe != CHANGES);
        let any = |status| judged().any(|(_, outcome)| outcome.status() == status);
        any(OutcomeStatus::Unreachable) && !any(OutcomeStatus::Succeeded)
    }
}
