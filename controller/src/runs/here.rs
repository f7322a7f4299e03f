//! What a host's root did on the host itself, without a controller: no run waits for it, and it stands in the record all
//! the same.
//!
//! It is the host's word about itself, and nobody else's: no operator is named by it, and nothing follows from it.

use chrono::{DateTime, SecondsFormat};
use vigie_proto::{
    id::{HostId, RunId, TaskId},
    text::escape,
    v1::{self, Outcome},
};

use super::Runs;
use crate::{
    audit::{Intent, Kind},
    error::LinkError,
    store::RemedyTried,
};

/// The longest words that are taken, in bytes.
const LONGEST: usize = 128;

/// A deed on the host itself, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoneHere {
    pub(crate) order: TaskId,
    /// The host's own run.
    pub(crate) run: RunId,
    /// Who, as the host says.
    pub(crate) person: String,
    /// `backend-502/restart_backend`; empty where it was no remedy.
    remedy: String,
    stack: String,
    started_at_ms: i64,
    /// What was done and how it ended, in words; the same words each time that it is told.
    pub(crate) says: String,
}

impl DoneHere {
    /// Reads what a host tells.
    ///
    /// # Errors
    /// When a part of it cannot be what it is to be.
    pub(crate) fn read(order: TaskId, told: v1::DoneHere, outcome: &Outcome) -> Result<Self, LinkError> {
        let v1::DoneHere { run, person, operation, stack, remedy, started_at_ms } = told;
        let run = run.parse().map_err(|_| LinkError::Malformed("what was done on the host names no run"))?;
        let at = DateTime::from_timestamp_millis(started_at_ms)
            .ok_or(LinkError::Malformed("what was done on the host was done at no time"))?;
        if [&person, &operation, &stack, &remedy].iter().any(|text| text.len() > LONGEST) {
            return Err(LinkError::Malformed("what was done on the host is told in too many words"));
        }
        if person.is_empty() || operation.is_empty() {
            return Err(LinkError::Malformed("what was done on the host names nobody, or nothing"));
        }
        let show = |text: &str| escape(text, false).into_owned();
        let (person, stack, remedy) = (show(&person), show(&stack), show(&remedy));
        let on = if stack.is_empty() { String::new() } else { format!(" on {stack}") };
        let of = if remedy.is_empty() { String::new() } else { format!(" (of {remedy})") };
        let how = match &outcome.failure {
            Some(failure) => format!("{} ({})", outcome.status().word(), show(&failure.code)),
            None => outcome.status().word().to_owned(),
        };
        let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let says = format!("done on the host by {person}, at {at}: {}{on}{of}: {how}", show(&operation));
        Ok(Self { order, run, person, remedy, stack, started_at_ms, says })
    }
}

impl Runs {
    /// Whether a host may call this its own deed, and not an operator's order.
    pub(crate) fn is_its_own(&self, host: HostId, done: &DoneHere) -> bool {
        let own = self.0.routes.find(done.order).is_none();
        if !own {
            tracing::warn!(%host, order = %done.order, "a host calls an operator's order its own");
        }
        own
    }

    /// Writes down what was done on a host without a controller, as soon as the store takes it. It counts among the tries of
    /// its remedy. False when it is left with the agent, which tells it again in its next session.
    pub(crate) async fn done_here(&self, host: HostId, name: &str, done: &DoneHere) -> bool {
        let DoneHere { order, run, stack, remedy, started_at_ms, .. } = done;
        let intent =
            Intent::own("done-on-host", &order.to_string(), &format!("{name}: {}; host {host}", done.says));
        let write = || async { Ok(self.0.audit.write(&intent, Kind::Done).await?) };
        if self.until_kept(host, *order, write).await.is_none() {
            return false;
        }
        if !remedy.is_empty() {
            let (stack, remedy) = (stack.clone(), remedy.clone());
            self.0.stacks.tried(&[RemedyTried { run: *run, host, stack, remedy, at_ms: *started_at_ms }]);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::{Failure, OutcomeStatus};

    use super::*;

    fn told() -> v1::DoneHere {
        v1::DoneHere {
            run: RunId::new().to_string(),
            person: "ana as root on vps1".to_owned(),
            operation: "compose_restart".to_owned(),
            stack: "sylion".to_owned(),
            remedy: "backend-502/restart_backend".to_owned(),
            started_at_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_deed_is_told_in_one_line() {
        let ended = |status, failure: Option<Failure>| Outcome {
            failure,
            ..Outcome::ended(status, Failure::default())
        };
        let read = |outcome: &Outcome| DoneHere::read(TaskId::new(), told(), outcome).unwrap().says;
        assert_eq!(
            read(&ended(OutcomeStatus::Succeeded, None)),
            "done on the host by ana as root on vps1, at 2023-11-14T22:13:20Z: compose_restart on sylion (of \
             backend-502/restart_backend): succeeded"
        );
        let failure = Failure::new("agent_restarted", "the agent ended");
        assert!(
            read(&ended(OutcomeStatus::InDoubt, Some(failure))).ends_with(": in doubt (agent_restarted)")
        );
    }

    #[test]
    fn what_cannot_be_so_is_refused() {
        let changes: [fn(&mut v1::DoneHere); 6] = [
            |told| told.run = "none".to_owned(),
            |told| told.person.clear(),
            |told| told.operation.clear(),
            |told| told.stack = "s".repeat(LONGEST + 1),
            |told| told.person = "p".repeat(LONGEST + 1),
            |told| told.started_at_ms = i64::MAX,
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut bad = told();
            change(&mut bad);
            assert!(DoneHere::read(TaskId::new(), bad, &Outcome::default()).is_err(), "{at}");
        }
        let forged = v1::DoneHere { person: "root\nada: done".to_owned(), ..told() };
        let says = DoneHere::read(TaskId::new(), forged, &Outcome::default()).unwrap().says;
        assert!(!says.contains('\n'), "{says}");
    }
}
