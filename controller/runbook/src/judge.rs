//! What the rules make of the evidence.

use std::collections::BTreeMap;

use prost_reflect::DynamicMessage;
use vigie_proto::{
    descriptors,
    operation::Effect,
    text::escape,
    v1::{self, CheckState, ChecklistLine, FindingState, Outcome, RestoreAdvice},
};

use crate::{
    bound::{Bound, Evidence, Subject},
    guard::on_a_big_stack,
    model::{Finding, FindingSeverity, Probe, Remedy},
    rules::{Evaluator, Fact, Facts, Rule, Unknown, Used, Value},
};

/// The most values shown for a confirmed finding, and for one that is ruled out: a fleet has many of those.
const MAX_EVIDENCE: usize = 12;
const MAX_COUNTER_EVIDENCE: usize = 4;

/// The answer of a runbook that has none.
const UNDECIDED: &str = "the runbook does not say";

/// What is wrong with a target, and what can be done about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// One for each finding of the runbook, in its order.
    pub findings: Vec<v1::Finding>,
    /// The remedies that apply, the mildest first.
    pub remedies: Vec<String>,
    pub restore: RestoreAdvice,
}

/// What the evidence says of one symptom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Showing {
    pub severity: FindingSeverity,
    /// `None` while its evidence is missing.
    pub shows: Option<bool>,
    /// Empty when it does not show.
    pub says: String,
}

impl Bound {
    /// Judges one target. Blocks for as long as the rules take, which is bounded, so that it does not belong on an
    /// async thread. The same evidence always gives the same judgement.
    pub fn judge(&self, subject: &Subject<'_>, evidence: &Evidence) -> Judgement {
        let judged = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            let mut evaluator = Evaluator::new(&facts);
            let mut findings = self.findings(&facts, &mut evaluator);
            let remedies = self.applicable(&findings, &mut evaluator);
            self.name_remedies(&mut findings, &remedies);
            let restore = self.restore(&mut evaluator);
            Judgement { findings, remedies, restore }
        });
        judged.unwrap_or_else(|broken| Judgement {
            findings: self
                .runbook()
                .findings
                .iter()
                .map(|finding| unknown(finding, broken.clone()))
                .collect(),
            remedies: Vec::new(),
            restore: RestoreAdvice { answer: "maybe".to_owned(), why: broken },
        })
    }

    /// Whether a remedy worked; `None` while its evidence is missing.
    pub fn verified(&self, remedy: &str, subject: &Subject<'_>, evidence: &Evidence) -> Option<bool> {
        let verify = self.verify(remedy)?;
        let holds = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            verify.until.holds(&mut Evaluator::new(&facts)).0.ok()
        });
        holds.ok().flatten()
    }

    /// The checklist, as far as the evidence fills it in.
    pub fn checklist(&self, subject: &Subject<'_>, evidence: &Evidence) -> Vec<ChecklistLine> {
        let states = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            let mut evaluator = Evaluator::new(&facts);
            let state = |rule: &Rule, evaluator: &mut Evaluator<'_>| match rule.holds(evaluator).0 {
                Ok(true) => CheckState::Done,
                Ok(false) => CheckState::NotDone,
                Err(_) => CheckState::Open,
            };
            let checks = self.runbook().checklist.iter();
            checks
                .map(|c| c.when.as_ref().map_or(CheckState::Open, |rule| state(rule, &mut evaluator)))
                .collect()
        });
        let states: Vec<_> = states.unwrap_or_default();
        let states = states.into_iter().chain(std::iter::repeat(CheckState::Open));
        let lines = self.runbook().checklist.iter().zip(states);
        lines.map(|(check, state)| ChecklistLine { says: check.says.clone(), state: state.into() }).collect()
    }

    /// Whether each symptom shows, in the runbook's order.
    pub fn symptoms(&self, subject: &Subject<'_>, evidence: &Evidence) -> Vec<Showing> {
        let showing = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            let mut evaluator = Evaluator::new(&facts);
            let symptoms = self.runbook().symptoms.iter();
            symptoms
                .map(|symptom| {
                    let shows = symptom.when.holds(&mut evaluator).0.ok();
                    let says = match shows {
                        Some(true) => symptom.says.render(&mut evaluator),
                        _ => String::new(),
                    };
                    Showing { severity: symptom.severity, shows, says }
                })
                .collect()
        });
        showing.unwrap_or_default()
    }

    /// The symptoms that show, in words.
    pub(crate) fn showing(&self, subject: &Subject<'_>, evidence: &Evidence) -> Vec<String> {
        let shown =
            self.symptoms(subject, evidence).into_iter().filter(|symptom| symptom.shows == Some(true));
        shown.map(|symptom| symptom.says).collect()
    }

    pub(crate) fn facts(&self, subject: &Subject<'_>, evidence: &Evidence) -> Facts {
        let runbook = self.runbook();
        let verification = runbook.verifications().flat_map(|verify| &verify.probes);
        let mut probes = BTreeMap::new();
        for probe in runbook.probes.iter().chain(verification) {
            probes.entry(probe.id.clone()).or_insert_with(|| fact(probe, evidence.get(&probe.id)));
        }
        Facts {
            probes,
            parameters: self.parameters.clone(),
            stack: subject.stack.to_owned(),
            host: subject.host.to_owned(),
            now_ms: subject.now_ms,
        }
    }

    fn findings(&self, facts: &Facts, evaluator: &mut Evaluator<'_>) -> Vec<v1::Finding> {
        let rules = &self.runbook().findings;
        let mut findings: Vec<_> = rules.iter().map(|finding| judge(finding, facts, evaluator)).collect();
        let causes: Vec<_> = rules
            .iter()
            .map(|consequence| {
                let causes = rules.iter().zip(&findings).filter(|(rule, finding)| {
                    finding.state() == FindingState::Confirmed && rule.explains.contains(&consequence.id)
                });
                causes.map(|(rule, _)| rule.id.clone()).collect::<Vec<_>>()
            })
            .collect();
        for place in 0..findings.len() {
            if findings[place].state() != FindingState::Confirmed {
                continue;
            }
            // A root cause is the better explanation where there are several.
            let is_root =
                |id: &&String| rules.iter().zip(&causes).any(|(rule, of)| rule.id == **id && of.is_empty());
            let cause = causes[place].iter().find(is_root).or(causes[place].first());
            findings[place].explained_by = cause.cloned().unwrap_or_default();
        }
        findings
    }

    /// The remedies that cure a root cause, the mildest first. What is explained by something else is not cured by
    /// treating it.
    fn applicable(&self, findings: &[v1::Finding], evaluator: &mut Evaluator<'_>) -> Vec<String> {
        let roots: Vec<_> = findings
            .iter()
            .filter(|finding| finding.state() == FindingState::Confirmed && finding.explained_by.is_empty())
            .map(|finding| &finding.id)
            .collect();
        let mut remedies: Vec<_> = self
            .runbook()
            .remedies
            .iter()
            .filter(|remedy| remedy.cures.iter().any(|cured| roots.contains(&cured)))
            .filter(|remedy| remedy.when.as_ref().is_none_or(|rule| rule.holds(evaluator).0 == Ok(true)))
            .collect();
        remedies.sort_by_key(|remedy| (destroys(remedy), remedy.risk));
        remedies.into_iter().map(|remedy| remedy.id.clone()).collect()
    }

    /// Names the mildest remedy for each root cause.
    fn name_remedies(&self, findings: &mut [v1::Finding], remedies: &[String]) {
        for finding in findings.iter_mut() {
            if finding.state() == FindingState::Confirmed && finding.explained_by.is_empty() {
                let cures =
                    |id: &&String| self.remedy(id).is_some_and(|remedy| remedy.cures.contains(&finding.id));
                finding.remedy = remedies.iter().find(cures).cloned().unwrap_or_default();
            }
        }
    }

    fn restore(&self, evaluator: &mut Evaluator<'_>) -> RestoreAdvice {
        let answers = self.runbook().restore.iter();
        let mut applies =
            answers.filter(|a| a.when.as_ref().is_none_or(|rule| rule.holds(evaluator).0 == Ok(true)));
        let Some(restore) = applies.next() else {
            return RestoreAdvice { answer: "maybe".to_owned(), why: UNDECIDED.to_owned() };
        };
        drop(applies);
        RestoreAdvice { answer: restore.answer.to_owned(), why: restore.why.render(evaluator) }
    }
}

fn destroys(remedy: &Remedy) -> bool {
    remedy.operations().any(|operation| operation.effect == Effect::Destroy)
}

fn judge(finding: &Finding, facts: &Facts, evaluator: &mut Evaluator<'_>) -> v1::Finding {
    let (holds, used) = finding.when.holds(evaluator);
    match holds {
        Ok(true) => {
            let mut evidence: Vec<_> = used.into_iter().map(shown).collect();
            for extra in &finding.evidence {
                let value = extra.value(evaluator).map_or_else(|_| "?".to_owned(), |value| value.shown());
                evidence.push(v1::Evidence { reference: extra.text.clone(), value });
            }
            evidence.dedup();
            evidence.truncate(MAX_EVIDENCE);
            v1::Finding {
                id: finding.id.clone(),
                state: FindingState::Confirmed.into(),
                severity: finding.severity.word().to_owned(),
                says: finding.says.render(evaluator),
                advise: finding.advise.as_ref().map(|advise| advise.render(evaluator)).unwrap_or_default(),
                evidence,
                ..v1::Finding::default()
            }
        }
        Ok(false) => v1::Finding {
            id: finding.id.clone(),
            state: FindingState::RuledOut.into(),
            severity: finding.severity.word().to_owned(),
            says: finding.title.clone(),
            evidence: used.into_iter().take(MAX_COUNTER_EVIDENCE).map(shown).collect(),
            ..v1::Finding::default()
        },
        Err(reason) => unknown(finding, explain(&reason, facts)),
    }
}

fn unknown(finding: &Finding, missing: String) -> v1::Finding {
    v1::Finding {
        id: finding.id.clone(),
        state: FindingState::Unknown.into(),
        severity: finding.severity.word().to_owned(),
        says: finding.title.clone(),
        missing,
        ..v1::Finding::default()
    }
}

pub(crate) fn explain(unknown: &Unknown, facts: &Facts) -> String {
    escape(&unknown.explain(facts), false).chars().take(1000).collect()
}

/// A value as evidence. A long list in which nothing stood out is told by its length.
fn shown(used: Used) -> v1::Evidence {
    let value = match &used.value {
        Value::List(items) if items.is_empty() => "none".to_owned(),
        Value::List(items) if used.value.shown().ends_with('…') => format!("{} values", items.len()),
        Value::Text(text) if text.is_empty() => "\"\"".to_owned(),
        other => other.shown(),
    };
    v1::Evidence { reference: used.reference, value }
}

/// What a probe's outcome is to the rules: evidence only when there is a result, and of the kind that was asked for.
fn fact(probe: &Probe, outcome: Option<&Outcome>) -> Fact {
    let missing = |why: String, code: &str| Fact::Missing { why, code: code.to_owned() };
    let Some(outcome) = outcome else { return missing("it was not asked".to_owned(), "") };
    let failure = outcome.failure.as_ref();
    let code = failure.map_or("", |failure| failure.code.as_str());
    match outcome.result.as_ref().and_then(|result| result.operation.as_ref()) {
        Some(result) if result.name() == probe.call.operation.name => match message(outcome, probe) {
            Some(result) => Fact::Here { result, failure: code.to_owned() },
            None => missing("its answer could not be read".to_owned(), "unreadable"),
        },
        Some(result) => missing(format!("it answered with {}", result.name()), "other_operation"),
        None => missing(
            failure
                .map_or_else(|| format!("it {}", outcome.status().word()), |failure| failure.message.clone()),
            code,
        ),
    }
}

/// The result's own message as a value.
fn message(outcome: &Outcome, probe: &Probe) -> Option<Value> {
    let mut union = DynamicMessage::new(descriptors::pool().get_message_by_name("vigie.v1.Result")?);
    union.transcode_from(outcome.result.as_ref()?).ok()?;
    let result = union.get_field_by_name(probe.call.operation.name)?;
    result.as_message().map(Value::message)
}
