//! The lines to go through after every incident, and who answered them. Pure.

use vigie_proto::v1::{CheckState, ChecklistLine, Incident};

/// As the shipped runbooks write them, so that what a run's verification answers counts here.
const LINES: [&str; 6] = [
    "Services are up and healthy",
    "/health answers 200",
    "Logs without critical errors",
    MONITORING,
    DOCUMENTED,
    TICKET,
];
/// Answered by the team's own monitoring where the settings name it, else by a person.
pub(super) const MONITORING: &str = "Monitoring is green";
const DOCUMENTED: &str = "The incident is documented (timeline, cause, fix)";
const TICKET: &str = "A ticket is open if a permanent fix is needed";

/// An unanswered list.
pub(super) fn fresh() -> Vec<ChecklistLine> {
    LINES.map(|says| ChecklistLine { says: says.to_owned(), state: CheckState::Open.into() }).to_vec()
}

/// Takes what a run found; the latest counts.
pub(super) fn answer(lines: &mut Vec<ChecklistLine>, found: &[(String, bool)]) {
    if lines.is_empty() {
        *lines = fresh();
    }
    for line in lines {
        if let Some((_, done)) = found.iter().find(|(says, _)| *says == line.says) {
            line.set_state(if *done { CheckState::Done } else { CheckState::NotDone });
        }
    }
}

/// How a line stands.
pub(super) fn state(lines: &[ChecklistLine], says: &str) -> CheckState {
    lines.iter().find(|line| line.says == says).map_or(CheckState::Open, ChecklistLine::state)
}

/// Takes a person's ticks, counted from 1.
///
/// # Errors
/// Names a line that there is not.
pub(super) fn tick(lines: &mut Vec<ChecklistLine>, done: &[u32]) -> Result<(), u32> {
    if lines.is_empty() {
        *lines = fresh();
    }
    let missing = done.iter().find(|line| lines.get((**line as usize).wrapping_sub(1)).is_none());
    if let Some(line) = missing {
        return Err(*line);
    }
    for line in done {
        lines[*line as usize - 1].set_state(CheckState::Done);
    }
    Ok(())
}

/// Answers what the incident itself tells: whether it is written up, and followed up.
pub(super) fn settle(incident: &mut Incident) {
    if incident.checklist.is_empty() {
        incident.checklist = fresh();
    }
    let documented = !incident.cause.is_empty() && !incident.fix.is_empty();
    let followed = !incident.ticket.is_empty();
    for line in &mut incident.checklist {
        let done = (line.says == DOCUMENTED && documented) || (line.says == TICKET && followed);
        if done {
            line.set_state(CheckState::Done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(lines: &[ChecklistLine]) -> Vec<CheckState> {
        lines.iter().map(ChecklistLine::state).collect()
    }

    #[test]
    fn runs_persons_and_the_incident_itself_answer() {
        use CheckState::{Done, NotDone, Open};
        let mut incident = Incident::default();
        answer(&mut incident.checklist, &[(LINES[0].to_owned(), true), (LINES[2].to_owned(), false)]);
        assert_eq!(states(&incident.checklist), [Done, Open, NotDone, Open, Open, Open]);
        assert_eq!(tick(&mut incident.checklist, &[4, 7]), Err(7));
        assert_eq!(states(&incident.checklist)[3], Open, "all of them or none");
        tick(&mut incident.checklist, &[4]).unwrap();
        incident.cause = "the disk".to_owned();
        settle(&mut incident);
        assert_eq!(states(&incident.checklist)[3..], [Done, Open, Open]);
        incident.fix = "made room".to_owned();
        incident.ticket = "none".to_owned();
        settle(&mut incident);
        assert_eq!(states(&incident.checklist)[3..], [Done, Done, Done]);
    }

    /// The shipped runbooks write the lines as they stand here.
    #[test]
    fn runbooks_and_incidents_speak_of_the_same_lines() {
        for (id, text) in vigie_runbook::shipped() {
            let runbook = vigie_runbook::Runbook::parse(text, id).unwrap();
            let lines: Vec<_> = runbook.checklist.iter().map(|check| check.says.as_str()).collect();
            assert_eq!(lines, LINES, "{id}");
        }
    }
}
