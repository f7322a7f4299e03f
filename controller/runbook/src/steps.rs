//! A remedy's steps, judged for one target: which are left out, what they wait for, and when that has come.

use vigie_proto::v1::{ManualStep, PlanStep, WaitStep, plan_step};

use crate::{
    bound::{Bound, Evidence, Subject},
    guard::on_a_big_stack,
    model::{Step, StepKind},
    rules::Evaluator,
};

/// Whether a step's condition lets it run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It holds, or there is none.
    Holds,
    Fails,
    /// It could not be judged, and why.
    Unknown(String),
}

impl Bound {
    fn step(&self, remedy: &str, step: usize) -> Option<&Step> {
        self.remedy(remedy)?.steps.get(step)
    }

    /// The steps as a plan shows them, in their order. An action's `leaf` is its place among the remedy's actions.
    /// `evidence` is put into the words of steps that wait.
    pub fn outline(&self, remedy: &str, subject: &Subject<'_>, evidence: &Evidence) -> Vec<PlanStep> {
        let steps = self.remedy(remedy).map_or(&[][..], |remedy| &remedy.steps);
        let says = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            let mut evaluator = Evaluator::new(&facts);
            let said = |step: &Step| step.says().map(|says| says.render(&mut evaluator)).unwrap_or_default();
            steps.iter().map(said).collect::<Vec<_>>()
        });
        // Without the evidence's words the instruction would mislead, so that it is left open.
        let says = says.unwrap_or_else(|broken| vec![broken; steps.len()]);
        let mut leaf = 0;
        let steps = steps.iter().zip(says).map(|(step, says)| {
            let kind = match &step.kind {
                StepKind::Act { .. } => {
                    leaf += 1;
                    plan_step::Kind::Leaf(leaf - 1)
                }
                StepKind::Wait { verify, .. } => plan_step::Kind::Wait(WaitStep {
                    says,
                    until: verify.until.text.clone(),
                    within_ms: verify.within_ms,
                }),
                StepKind::Manual { within_ms, .. } => {
                    plan_step::Kind::Manual(ManualStep { says, within_ms: *within_ms })
                }
            };
            let when = step.when.as_ref().map(|rule| rule.text.clone()).unwrap_or_default();
            PlanStep { kind: Some(kind), when }
        });
        steps.collect()
    }

    /// Whether a step's condition lets it run, now that its turn has come.
    pub fn condition(
        &self,
        remedy: &str,
        step: usize,
        subject: &Subject<'_>,
        evidence: &Evidence,
    ) -> Condition {
        let Some(rule) = self.step(remedy, step).and_then(|step| step.when.as_ref()) else {
            return Condition::Holds;
        };
        let judged = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            match rule.holds(&mut Evaluator::new(&facts)).0 {
                Ok(true) => Condition::Holds,
                Ok(false) => Condition::Fails,
                Err(unknown) => Condition::Unknown(crate::judge::explain(&unknown, &facts)),
            }
        });
        judged.unwrap_or_else(Condition::Unknown)
    }

    /// Whether what a step waits for has come; `None` while its evidence is missing.
    pub fn has_come(
        &self,
        remedy: &str,
        step: usize,
        subject: &Subject<'_>,
        evidence: &Evidence,
    ) -> Option<bool> {
        let StepKind::Wait { verify, .. } = &self.step(remedy, step)?.kind else { return None };
        let holds = on_a_big_stack(|| {
            let facts = self.facts(subject, evidence);
            verify.until.holds(&mut Evaluator::new(&facts)).0.ok()
        });
        holds.ok().flatten()
    }

    /// How long all that waits in a remedy may take together, in milliseconds.
    pub fn waiting_ms(&self, remedy: &str) -> u32 {
        self.remedy(remedy).map_or(0, |remedy| remedy.steps.iter().map(Step::within_ms).sum())
    }
}
