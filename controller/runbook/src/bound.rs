//! A runbook with its parameters: what it asks, and what it would do, as exact requests.

use std::collections::{BTreeMap, BTreeSet};

use vigie_proto::v1::{self, Outcome, Request};

use crate::{
    call::{Call, Prepared},
    model::{Finding, Probe, Remedy, Runbook, StepKind, Vantage, Verify},
    parameters::{self, ParameterError, Values},
    rules::Value,
};

/// What the probes of one target answered, by their ids.
pub type Evidence = BTreeMap<String, Outcome>;

/// The target that is judged.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The host's name.
    pub host: &'a str,
    /// Empty when the runbook is about hosts.
    pub stack: &'a str,
    /// Unix milliseconds.
    pub now_ms: i64,
}

/// A probe to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeSpec {
    pub id: String,
    pub from: Vantage,
    pub request: Request,
    pub timeout_ms: u32,
    /// Probes that are answered first.
    pub after: Vec<String>,
}

/// An action to take.
#[derive(Debug, Clone, PartialEq)]
pub struct StepSpec {
    /// Its place among the remedy's steps, those that wait included.
    pub step: u32,
    pub request: Request,
    pub timeout_ms: u32,
}

/// How to see that a remedy worked: ask, judge with [`Bound::verified`], and ask again until it did.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    pub probes: Vec<ProbeSpec>,
    /// After so long without it, it did not work.
    pub within_ms: u32,
    /// The pause between two rounds.
    pub every_ms: u32,
}

/// A runbook with its parameters bound.
#[derive(Debug, Clone)]
pub struct Bound {
    runbook: Runbook,
    pub(crate) parameters: BTreeMap<String, Value>,
    diagnosis: Vec<Prepared>,
    /// By the remedy's id; its own verification, or the runbook's.
    remedies: BTreeMap<String, BoundRemedy>,
}

#[derive(Debug, Clone)]
struct BoundRemedy {
    /// Of each step: its one call, or its probes, or nothing for a person's.
    steps: Vec<Vec<Prepared>>,
    verification: Vec<Prepared>,
}

impl Bound {
    pub(crate) fn new(runbook: &Runbook, given: &[v1::Parameter]) -> Result<Self, Vec<ParameterError>> {
        let values = parameters::bind(&runbook.parameters, given)?;
        let mut errors = Vec::new();
        let diagnosis = prepare(runbook.probes.iter().map(|probe| &probe.call), &values, &mut errors);
        let mut remedies = BTreeMap::new();
        for remedy in &runbook.remedies {
            let steps = remedy.steps.iter().map(|step| match &step.kind {
                StepKind::Act { call, .. } => prepare([call].into_iter(), &values, &mut errors),
                StepKind::Wait { verify, .. } => {
                    prepare(verify.probes.iter().map(|probe| &probe.call), &values, &mut errors)
                }
                StepKind::Manual { .. } => Vec::new(),
            });
            let steps = steps.collect();
            let probes = verify(runbook, remedy).map_or(&[][..], |verify| &verify.probes);
            let verification = prepare(probes.iter().map(|probe| &probe.call), &values, &mut errors);
            remedies.insert(remedy.id.clone(), BoundRemedy { steps, verification });
        }
        if !errors.is_empty() {
            errors.dedup();
            return Err(errors);
        }
        let parameters = values.iter().map(|(name, value)| (name.clone(), value.in_rules())).collect();
        Ok(Self { runbook: runbook.clone(), parameters, diagnosis, remedies })
    }

    /// The runbook as it was read.
    pub fn runbook(&self) -> &Runbook {
        &self.runbook
    }

    /// The probes of the diagnosis.
    pub fn probes(&self, stack: &str) -> Vec<ProbeSpec> {
        ask(&self.runbook.probes, &self.diagnosis, stack)
    }

    /// The probes that tell whether a symptom shows, as far as they look from here.
    pub fn watched(&self, stack: &str, from: Vantage) -> Vec<ProbeSpec> {
        let mentioned =
            self.runbook.symptoms.iter().flat_map(|symptom| {
                std::iter::once(symptom.when.mentioned()).chain(symptom.says.mentioned())
            });
        let wanted: BTreeSet<&String> = mentioned.flat_map(|mentioned| &mentioned.probes).collect();
        let watches = |probe: &ProbeSpec| probe.from == from && wanted.contains(&probe.id);
        self.probes(stack).into_iter().filter(watches).collect()
    }

    /// Whether each symptom rests on a probe that looks from here, in the runbook's order.
    pub fn rest_on(&self, from: Vantage) -> Vec<bool> {
        let here =
            |id: &String| self.runbook.probes.iter().any(|probe| probe.id == *id && probe.from == from);
        let symptoms = self.runbook.symptoms.iter();
        symptoms.map(|symptom| symptom.when.mentioned().probes.iter().any(here)).collect()
    }

    /// Whether a finding rests on a probe that is asked only where its runbook is run alone.
    pub(crate) fn is_deep(&self, finding: &Finding) -> bool {
        let deep = self.runbook.probes.iter().filter(|probe| probe.deep);
        let mentioned = finding.when.mentioned();
        deep.into_iter().any(|probe| mentioned.probes.contains(&probe.id))
    }

    pub fn remedy(&self, id: &str) -> Option<&Remedy> {
        self.runbook.remedies.iter().find(|remedy| remedy.id == id)
    }

    /// What a remedy does, action by action; nothing for an unknown remedy.
    pub fn steps(&self, remedy: &str, stack: &str) -> Vec<StepSpec> {
        let (Some(steps), Some(bound)) = (self.remedy(remedy), self.remedies.get(remedy)) else {
            return Vec::new();
        };
        let steps = (0..).zip(steps.steps.iter().zip(&bound.steps));
        steps
            .filter_map(|(place, (step, calls))| match (&step.kind, calls.first()) {
                (StepKind::Act { timeout_ms, .. }, Some(call)) => {
                    Some(StepSpec { step: place, request: call.request(stack), timeout_ms: *timeout_ms })
                }
                _ => None,
            })
            .collect()
    }

    /// What a step that waits asks, and for how long. Nothing for any other step.
    pub fn wait(&self, remedy: &str, step: usize, stack: &str) -> Verification {
        let kind = self.remedy(remedy).and_then(|remedy| remedy.steps.get(step)).map(|step| &step.kind);
        let calls = self.remedies.get(remedy).and_then(|bound| bound.steps.get(step));
        match (kind, calls) {
            (Some(StepKind::Wait { verify, .. }), Some(calls)) => Verification {
                probes: ask(&verify.probes, calls, stack),
                within_ms: verify.within_ms,
                every_ms: verify.every_ms,
            },
            _ => Verification { probes: Vec::new(), within_ms: 0, every_ms: 0 },
        }
    }

    /// How to see that a remedy worked. Nothing is asked, and no time given, for an unknown remedy.
    pub fn verification(&self, remedy: &str, stack: &str) -> Verification {
        match (self.verify(remedy), self.remedies.get(remedy)) {
            (Some(verify), Some(bound)) => Verification {
                probes: ask(&verify.probes, &bound.verification, stack),
                within_ms: verify.within_ms,
                every_ms: verify.every_ms,
            },
            _ => Verification { probes: Vec::new(), within_ms: 0, every_ms: 0 },
        }
    }

    pub(crate) fn verify(&self, remedy: &str) -> Option<&Verify> {
        self.remedy(remedy).and_then(|remedy| verify(&self.runbook, remedy))
    }
}

fn verify<'a>(runbook: &'a Runbook, remedy: &'a Remedy) -> Option<&'a Verify> {
    remedy.verify.as_ref().or(runbook.verify.as_ref())
}

fn ask(probes: &[Probe], calls: &[Prepared], stack: &str) -> Vec<ProbeSpec> {
    let probes = probes.iter().zip(calls).map(|(probe, call)| ProbeSpec {
        id: probe.id.clone(),
        from: probe.from,
        request: call.request(stack),
        timeout_ms: probe.timeout_ms,
        after: probe.after.clone(),
    });
    probes.collect()
}

/// The calls' messages. What the catalogue refuses is the parameter's fault: without it the call was checked already.
fn prepare<'a>(
    calls: impl Iterator<Item = &'a Call>,
    values: &Values,
    errors: &mut Vec<ParameterError>,
) -> Vec<Prepared> {
    let mut prepared = Vec::new();
    for call in calls {
        match call.prepare(values) {
            Ok(call) => prepared.push(call),
            Err(error) => {
                let name = call.culprit(&error).unwrap_or_default().to_owned();
                errors.push(ParameterError { name, reason: error.reason });
            }
        }
    }
    prepared
}
