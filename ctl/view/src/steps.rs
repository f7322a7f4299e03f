//! A remedy's steps: before they are signed, and how far they have come.

use vigie_proto::{
    text::escape,
    v1::{Leaf, PlanEntry, PlanStep, Request, plan_step},
};

use super::{
    plan, request,
    run::{RunView, StepView, TaskView},
};
use crate::look::{Look, duration_ms};

/// A step of a plan, as what is signed and what the runbook says make it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Planned {
    Task { operation: Request, timeout_ms: u32, when: String },
    Wait { says: String, until: String, within_ms: u32, when: String },
    Manual { says: String, within_ms: u32, when: String },
}

/// The steps of an entry, in their order.
pub(super) fn planned(entry: &PlanEntry, leaves: &[Leaf]) -> Vec<Planned> {
    let task = |index: u32, when: &str| {
        let leaf = leaves.get(index as usize)?;
        let operation = leaf.operation.clone().unwrap_or_default();
        Some(Planned::Task { operation, timeout_ms: leaf.timeout_ms, when: when.to_owned() })
    };
    if entry.steps.is_empty() {
        return entry.leaves.iter().filter_map(|index| task(*index, "")).collect();
    }
    let step = |PlanStep { kind, when }: &PlanStep| match kind.as_ref()? {
        plan_step::Kind::Leaf(index) => task(*index, when),
        plan_step::Kind::Wait(wait) => Some(Planned::Wait {
            says: wait.says.clone(),
            until: wait.until.clone(),
            within_ms: wait.within_ms,
            when: when.clone(),
        }),
        plan_step::Kind::Manual(manual) => Some(Planned::Manual {
            says: manual.says.clone(),
            within_ms: manual.within_ms,
            when: when.clone(),
        }),
    };
    entry.steps.iter().filter_map(step).collect()
}

impl Planned {
    /// The step in a line, with its condition under it.
    pub(super) fn text(&self, number: usize, look: &Look) -> String {
        let limit = |ms: u32| look.dim(&format!("at most {}", duration_ms(i64::from(ms))));
        let (line, when) = match self {
            Self::Task { operation, timeout_ms, when } => {
                (plan::step(number, operation, *timeout_ms, look), when)
            }
            Self::Wait { says, until, within_ms, when } => {
                let until = look.dim(&format!("[{}]", escape(until, false)));
                let says = look.bold(&escape(says, false));
                (format!("  {number}. waits: {says}  {until}, {}\n", limit(*within_ms)), when)
            }
            Self::Manual { says, within_ms, when } => {
                let says = look.bold(&escape(says, false));
                let who = look.yellow("a person:");
                (format!("  {number}. {who} {says}  {}\n", limit(*within_ms)), when)
            }
        };
        match when.as_str() {
            "" => line,
            when => format!("{line}     {} {}\n", look.dim("only if"), escape(when, false)),
        }
    }
}

/// What became of each step of a target's plan.
pub(super) fn results(view: &RunView, target: u32, entry: &PlanEntry, look: &Look) -> Vec<String> {
    if let Some(refused) = &entry.refused {
        let why = super::diagnose::failure(refused, view.reason(target, refused), look);
        return vec![format!("{} nothing was planned  {why}", look.red("✗"))];
    }
    let tasks: Vec<&TaskView> = view.tasks.iter().filter(|task| task.target == target).collect();
    if entry.steps.is_empty() {
        return tasks.into_iter().map(|task| plan::task_result(view, task, look)).collect();
    }
    let stopped = tasks.iter().any(|task| task.outcome.as_ref().is_some_and(|outcome| !outcome.is_success()))
        || view.steps.iter().any(|((of, _), step)| *of == target && matches!(step, StepView::Stopped(_)));
    let step = |(place, step): (u32, &PlanStep)| {
        let task = tasks.iter().find(|task| task.leaf.step == place);
        let state = view.steps.get(&(target, place));
        match (&step.kind, task) {
            (Some(plan_step::Kind::Leaf(_)), Some(task)) => Some(match state {
                Some(StepView::LeftOut(why)) => {
                    let line = request::line(&task.leaf.operation.clone().unwrap_or_default());
                    left_out(&line.unwrap_or_default(), why, &step.when, look)
                }
                _ => plan::task_result(view, task, look),
            }),
            (Some(plan_step::Kind::Wait(wait)), _) => {
                Some(waited(&escape(&wait.says, false), state, stopped, &step.when, look))
            }
            (Some(plan_step::Kind::Manual(manual)), _) => {
                let says = format!("a person: {}", escape(&manual.says, false));
                Some(waited(&says, state, stopped, &step.when, look))
            }
            _ => None,
        }
    };
    (0..).zip(&entry.steps).filter_map(step).collect()
}

fn waited(says: &str, state: Option<&StepView>, stopped: bool, when: &str, look: &Look) -> String {
    match state {
        None if stopped => format!("{} {says}  not begun", look.dim("·")),
        None => format!("{} {says}  not yet", look.dim("·")),
        Some(StepView::Open { until_ms, .. }) => {
            format!("{} {says}  waits until {}", look.yellow("…"), look.clock(*until_ms))
        }
        Some(StepView::Done(None)) => format!("{} {says}", look.green("✓")),
        Some(StepView::Done(Some((by, note)))) => {
            let note = if note.is_empty() { String::new() } else { format!(": {}", escape(note, false)) };
            format!("{} {says}  {}{note}", look.green("✓"), look.dim(&escape(by, false)))
        }
        Some(StepView::Stopped(why)) => format!("{} {says}  {}", look.red("✗"), escape(why, false)),
        Some(StepView::LeftOut(why)) => left_out(says, why, when, look),
    }
}

fn left_out(what: &str, unknown: &str, when: &str, look: &Look) -> String {
    let when = escape(when, false);
    match unknown {
        "" => format!("{} {what}  {}", look.dim("−"), look.dim(&format!("left out: not ({when})"))),
        why => {
            let why = escape(why, false);
            format!("{} {what}  left out: ({when}) could not be judged: {why}", look.yellow("−"))
        }
    }
}
