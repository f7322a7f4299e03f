//! Judging a case, and saying what does not come out as it demands.

use vigie_proto::v1::{self, CheckState, Finding, FindingState};

use super::Case;
use crate::{model::Runbook, parameters::ParameterError};

/// What came of a case.
#[derive(Debug, Clone, Default)]
pub struct Outcomes {
    /// What is not as expected, a sentence each; empty for a case that passes.
    pub mismatches: Vec<String>,
    /// The findings that the case confirms, root causes and consequences alike.
    pub confirmed: Vec<String>,
    /// The remedies that are offered in it.
    pub offered: Vec<String>,
}

impl Case {
    /// Judges the case with a runbook.
    pub fn check(&self, runbook: &Runbook) -> Outcomes {
        let bound = match runbook.bind(&self.parameters) {
            Ok(bound) => bound,
            Err(errors) => {
                let mismatches = errors.iter().map(ParameterError::to_string).collect();
                return Outcomes { mismatches, ..Outcomes::default() };
            }
        };
        let (subject, expect) = (self.subject(), &self.expect);
        let judgement = bound.judge(&subject, &self.evidence);
        let mut off = Vec::new();

        let confirmed: Vec<_> =
            judgement.findings.iter().filter(|f| f.state() == FindingState::Confirmed).collect();
        let (causes, explained): (Vec<&Finding>, Vec<&Finding>) =
            confirmed.iter().partition(|finding| finding.explained_by.is_empty());
        let missing = |id: &String| judgement.findings.iter().find(|f| f.id == *id).map(why_not);
        set("causes", &expect.causes, &causes, &missing, &mut off);
        if let Some(expected) = &expect.explained {
            set("explained", expected, &explained, &missing, &mut off);
        }
        let unknown: Vec<_> =
            judgement.findings.iter().filter(|f| f.state() == FindingState::Unknown).collect();
        set("unknown", &expect.unknown, &unknown, &missing, &mut off);
        if let Some(expected) = &expect.remedies {
            list("remedies", expected, &judgement.remedies, &mut off);
        }
        if let Some(expected) = expect.restore.as_ref().filter(|answer| **answer != judgement.restore.answer)
        {
            let v1::RestoreAdvice { answer, why } = &judgement.restore;
            off.push(format!("restore: expected {expected}, and the answer is {answer}: {why}"));
        }
        if let Some(expected) = &expect.symptoms {
            let showing = bound.showing(&subject, &self.evidence);
            let fits = expected.len() == showing.len()
                && expected.iter().zip(&showing).all(|(piece, shown)| shown.contains(piece.as_str()));
            if !fits {
                off.push(format!(
                    "symptoms: expected {}, and what shows is {}",
                    words(expected),
                    words(&showing)
                ));
            }
        }
        let afterwards = self.afterwards();
        if let Some(expected) = &expect.checklist {
            let lines = bound.checklist(&subject, &afterwards);
            let states: Vec<_> = lines.iter().map(|line| state_word(line.state()).to_owned()).collect();
            list("checklist", expected, &states, &mut off);
        }
        for (remedy, expected) in &expect.verified {
            let verified = match bound.verified(remedy, &subject, &afterwards) {
                Some(verified) => verified.to_string(),
                None => "unknown".to_owned(),
            };
            if verified != *expected {
                off.push(format!("verified: expected {expected} for {remedy}, and it is {verified}"));
            }
        }
        let texts = expect.says.iter().map(|(id, pieces)| ("says", id, pieces));
        for (what, id, pieces) in
            texts.chain(expect.advises.iter().map(|(id, pieces)| ("advises", id, pieces)))
        {
            let finding = confirmed.iter().find(|finding| finding.id == *id);
            let text = finding.map_or("", |f| if what == "says" { &f.says } else { &f.advise });
            for piece in pieces.iter().filter(|piece| !text.contains(piece.as_str())) {
                off.push(format!("{id} {what} {text:?}, without {piece:?}"));
            }
        }
        let confirmed = confirmed.iter().map(|finding| finding.id.clone()).collect();
        Outcomes { mismatches: off, confirmed, offered: judgement.remedies }
    }
}

/// Why a finding is not what a case expected it to be.
fn why_not(finding: &Finding) -> String {
    match finding.state() {
        FindingState::Confirmed if finding.explained_by.is_empty() => "it is a root cause".to_owned(),
        FindingState::Confirmed => format!("{} explains it", finding.explained_by),
        FindingState::Unknown => format!("it is unknown, for want of {}", finding.missing),
        FindingState::RuledOut | FindingState::NotAsked | FindingState::Unspecified => {
            let seen = finding.evidence.iter().map(|seen| format!("{} is {}", seen.reference, seen.value));
            let seen: Vec<_> = seen.collect();
            if seen.is_empty() {
                "it is ruled out".to_owned()
            } else {
                format!("ruled out: {}", seen.join(", "))
            }
        }
    }
}

/// Findings whose order does not matter.
fn set(
    what: &str,
    expected: &[String],
    found: &[&Finding],
    missing: &dyn Fn(&String) -> Option<String>,
    off: &mut Vec<String>,
) {
    for id in expected.iter().filter(|id| !found.iter().any(|finding| finding.id == **id)) {
        let why = missing(id).unwrap_or_else(|| "the runbook has no such finding".to_owned());
        off.push(format!("{what}: {id} is expected; {why}"));
    }
    for finding in found.iter().filter(|finding| !expected.contains(&finding.id)) {
        let tells = if finding.missing.is_empty() { &finding.says } else { &finding.missing };
        off.push(format!("{what}: {} is not expected: {tells}", finding.id));
    }
}

fn list(what: &str, expected: &[String], found: &[String], off: &mut Vec<String>) {
    if expected != found {
        off.push(format!("{what}: expected {}, and it is {}", words(expected), words(found)));
    }
}

fn words(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

/// How a line of the checklist stands, as cases write it.
pub(super) fn state_word(state: CheckState) -> &'static str {
    match state {
        CheckState::Done => "done",
        CheckState::NotDone => "not_done",
        CheckState::Open | CheckState::Unspecified => "open",
    }
}
