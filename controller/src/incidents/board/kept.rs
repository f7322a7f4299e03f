//! An incident as the board keeps it: what people are to be told of it, and how bad it is now.

use vigie_proto::{
    id::RunId,
    v1::{CheckState, Incident, IncidentState},
};

use super::{
    DIAGNOSED_BY_MS, WORSE_MS,
    record::{CRITICAL, rank, worst},
};
use crate::incidents::{checklist, notice::Kind};

/// An incident with what need not outlive the process.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) incident: Incident,
    pub(super) diagnose_at_ms: Option<i64>,
    pub(super) diagnosing: Option<RunId>,
    /// Nothing is told before: the diagnosis is to come first.
    pub(super) tell_from_ms: i64,
    /// Since when nothing shows.
    pub(super) calm_since_ms: Option<i64>,
    /// Since when it is less bad than was told.
    pub(super) eased_since_ms: Option<i64>,
    /// Its notice waits, and the timeline says so.
    pub(super) held: bool,
}

impl Kept {
    pub(super) fn new(incident: Incident, now_ms: i64) -> Self {
        Self {
            incident,
            diagnose_at_ms: None,
            diagnosing: None,
            tell_from_ms: now_ms + DIAGNOSED_BY_MS,
            calm_since_ms: None,
            eased_since_ms: None,
            held: false,
        }
    }

    /// What people are to be told, and from when on: what parts how it stands from what they believe. Who never heard of
    /// it is not told of its end.
    pub(super) fn owed(&self) -> Option<(Kind, i64)> {
        let incident = &self.incident;
        let spaced = incident.notified_at_ms + WORSE_MS;
        let rises = rank(&incident.severity) > rank(&incident.told_severity);
        match (incident.state(), incident.notified_at_ms > 0, incident.told_open) {
            (IncidentState::Open, false, _) => Some((Kind::Opened, self.tell_from_ms)),
            (IncidentState::Open, true, false) => Some((Kind::Again, self.tell_from_ms.max(spaced))),
            // An outage does not wait because a warning was told a moment ago.
            (IncidentState::Open, true, true) if rises => Some((Kind::Worsened, self.tell_from_ms)),
            (IncidentState::Open, true, true) if incident.wider_than_told => {
                Some((Kind::Worsened, self.tell_from_ms.max(spaced)))
            }
            (IncidentState::Open, true, true) => {
                self.eased_since_ms.map(|since| (Kind::Eased, (since + WORSE_MS).max(spaced)))
            }
            (IncidentState::Resolved, true, true) => Some((Kind::Resolved, incident.resolved_at_ms)),
            _ => None,
        }
    }

    /// How bad what is owed is for those who are told: an end is as bad as what it ends.
    pub(super) fn is_critical(&self, kind: Kind) -> bool {
        let severity = if kind.is_relief() { &self.incident.told_severity } else { &self.incident.severity };
        rank(severity) >= CRITICAL
    }

    /// Takes the worst of what shows for the incident's severity; nothing showing leaves it. True when it changed.
    pub(super) fn weigh(&mut self, now_ms: i64) -> bool {
        let incident = &mut self.incident;
        let Some(worst) = worst(incident, |symptom| symptom.until_ms == 0) else {
            self.eased_since_ms = None;
            return false;
        };
        let changed = incident.severity != worst;
        incident.severity = worst;
        let eased = incident.told_open && rank(&incident.severity) < rank(&incident.told_severity);
        self.eased_since_ms = eased.then(|| self.eased_since_ms.unwrap_or(now_ms));
        changed
    }

    /// Whether the monitoring's word would say anything to it.
    pub(super) fn wants_monitoring(&self) -> bool {
        match self.incident.state() {
            IncidentState::Open => true,
            IncidentState::Resolved => {
                checklist::state(&self.incident.checklist, checklist::MONITORING) != CheckState::Done
            }
            IncidentState::Closed | IncidentState::Unspecified => false,
        }
    }
}
