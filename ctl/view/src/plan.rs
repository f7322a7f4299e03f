//! What would be done, and where: rendered from the bytes that a signature covers, so that a person agrees to what
//! agents will get, and to nothing that somebody says about it.

use std::collections::BTreeMap;

use vigie_proto::{
    operation::{Effect, Operation},
    order::digest,
    text::escape,
    v1::{self, Leaf, Manifest, Outcome, Planned, Request, run_event::Event},
};

use super::{
    diagnose::failure,
    request,
    run::{RunView, TaskView},
    steps,
};
use crate::{
    document,
    look::{Look, count, duration_ms},
};

/// How much of a failed step's output stands beside it; `runs show -o json` has all.
const LAST_LINES: usize = 12;

/// How much of what would be lost stands in a plan; its totals come first.
const LOSS_LINES: usize = 200;

/// The plan, target groups with the same steps together.
pub fn text(view: &RunView, planned: &Planned, manifest: &Manifest, leaves: &[Leaf], look: &Look) -> String {
    type Key = (String, String, Vec<steps::Planned>, Vec<String>, Vec<v1::Result>, Option<Outcome>);
    let mut groups: Vec<(Key, Vec<u32>)> = Vec::new();
    for entry in &planned.entries {
        let steps = steps::planned(entry, leaves);
        let preview = entry.preview.clone();
        let prepared = entry.prepared.iter().filter_map(|prepared| prepared.result.clone()).collect();
        let (remedy, title) = (entry.remedy.clone(), entry.title.clone());
        let key = (remedy, title, steps, preview, prepared, entry.refused.clone());
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, targets)) => targets.push(entry.target),
            None => groups.push((key, vec![entry.target])),
        }
    }
    let mut text = String::new();
    for ((remedy, title, steps, preview, prepared, refused), targets) in groups {
        let what = match (remedy.as_str(), title.as_str()) {
            ("", title) => escape(title, false).into_owned(),
            (remedy, "") => escape(remedy, false).into_owned(),
            (remedy, title) => format!("{}: {}", escape(remedy, false), escape(title, false)),
        };
        text.push_str(&format!("{}  {what}\n", look.bold(&view.label(&targets))));
        if let Some(refused) = refused {
            let why = targets.first().map_or("", |target| view.reason(*target, &refused));
            text.push_str(&format!("  {}\n", failure(&refused, why, look).replace('\n', "\n  ")));
            continue;
        }
        for (number, step) in steps.iter().enumerate() {
            text.push_str(&step.text(number + 1, look));
        }
        for result in prepared {
            text.push_str(&format!("     {}\n", look.red("acts on exactly this, as far as it still holds:")));
            let lines = document::result(&result, look);
            for line in &lines[..lines.len().min(LOSS_LINES)] {
                text.push_str(&format!("       {line}\n"));
            }
            if lines.len() > LOSS_LINES {
                let more = count(lines.len() - LOSS_LINES, "more line");
                text.push_str(&format!(
                    "       {}\n",
                    look.dim(&match view.on_host {
                        true => more,
                        false => format!("{more}; `runs show -o json` has all"),
                    })
                ));
            }
        }
        for line in preview {
            text.push_str(&format!("     {} {}\n", look.dim("→"), escape(&line, false)));
        }
    }
    let hosts = leaves.iter().map(|leaf| &leaf.host).collect::<std::collections::BTreeSet<_>>().len();
    text.push_str(&format!(
        "{} on {} · may start {} to {} · plan {}\n",
        count(leaves.len(), "task"),
        count(hosts, "host"),
        look.clock(manifest.not_before_ms),
        look.time(manifest.not_after_ms),
        short_digest(&planned.manifest),
    ));
    if planned.later > 0 {
        let later = count(planned.later as usize, "target");
        text.push_str(&format!("{later} more, each shown and asked about when its turn comes\n"));
    }
    text
}

pub(super) fn step(number: usize, operation: &Request, timeout_ms: u32, look: &Look) -> String {
    let effect = match Operation::of(operation).map(|operation| operation.effect) {
        Ok(Effect::Observe) => look.dim("looks"),
        Ok(Effect::Destroy) => look.red("DESTROYS"),
        _ => look.yellow("changes"),
    };
    // Only plans whose operations are known are ever shown: the rest is refused before.
    let line = request::line(operation).unwrap_or_default();
    let limit = look.dim(&format!("at most {}", duration_ms(i64::from(timeout_ms))));
    format!("  {number}. {}  {effect}, {limit}\n", look.bold(&line))
}

/// The first twelve digits of the manifest's SHA-256: enough to compare by eye.
pub fn short_digest(manifest: &[u8]) -> String {
    let mut text = data_encoding::HEXLOWER.encode(&digest(manifest));
    text.truncate(12);
    text
}

/// What became of one task.
pub(super) fn task_result(view: &RunView, task: &TaskView, look: &Look) -> String {
    let operation = task.leaf.operation.clone().unwrap_or_default();
    let line = request::line(&operation).unwrap_or_else(|| "unknown operation".to_owned());
    match &task.outcome {
        None if task.started_at_ms > 0 => format!("{} {line}  runs", look.yellow("…")),
        None => format!("{} {line}  not started", look.dim("·")),
        Some(outcome) if outcome.is_success() => format!("{} {line}", look.green("✓")),
        Some(outcome) => format!("{} {line}  {}", look.red("✗"), ended(view, task.target, outcome, look)),
    }
}

/// What became of each step, targets with the same outcomes together.
pub fn results(view: &RunView, look: &Look) -> String {
    let signed = view.events.iter().any(|event| matches!(event.event, Some(Event::Signed(_))));
    let refused = view.entries.values().any(|entry| entry.refused.is_some());
    let shown = signed || (refused && view.closed.is_some());
    if !shown {
        return String::new();
    }
    let entries = view.entries.iter();
    let by_target: BTreeMap<u32, Vec<String>> =
        entries.map(|(target, entry)| (*target, steps::results(view, *target, entry, look))).collect();
    let mut groups: Vec<(Vec<String>, Vec<u32>)> = Vec::new();
    for (target, lines) in by_target {
        match groups.iter_mut().find(|(other, _)| *other == lines) {
            Some((_, targets)) => targets.push(target),
            None => groups.push((lines, vec![target])),
        }
    }
    let mut text = String::new();
    for (lines, targets) in groups {
        text.push_str(&format!("{}\n", look.bold(&view.label(&targets))));
        for line in lines {
            text.push_str(&format!("  {}\n", line.replace('\n', "\n    ")));
        }
    }
    text
}

/// Why a step did not succeed, with the end of what it said.
fn ended(view: &RunView, target: u32, outcome: &Outcome, look: &Look) -> String {
    let mut text = failure(outcome, view.reason(target, outcome), look);
    let said = outcome.result.as_ref().map(|result| document::result(result, look)).unwrap_or_default();
    for line in &said[said.len().saturating_sub(LAST_LINES)..] {
        text.push_str(&format!("\n  {line}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use vigie_proto::order::Batch;

    use crate::fixtures::{restart_operation, restart_runbook};

    fn show(view: &RunView) -> String {
        let planned = view.plan.clone().unwrap();
        let (_, manifest, leaves) =
            Batch::from_parts(planned.manifest.clone(), planned.leaves.clone()).unwrap();
        text(view, &planned, &manifest, &leaves, &Look::plain())
    }

    #[test]
    fn what_would_run_where_in_the_words_of_the_bytes() {
        assert_snapshot!(show(&restart_runbook().planned()), @r#"
        vps[1-2] (2) · sylion  restart: restart the backend
          1. compose-restart --stack sylion --services backend  changes, at most 3 min
             → would restart backend
        2 tasks on 2 hosts · may start 23:13:20 to 2023-11-14 23:28:20 +01:00 · plan 89270938dbeb
        "#);
        assert_snapshot!(show(&restart_operation().planned()), @r#"
        vps[1-2] (2) · sylion  compose_restart
          1. compose-restart --stack sylion --services backend  changes, at most 3 min
             → would restart backend
        2 tasks on 2 hosts · may start 23:13:20 to 2023-11-14 23:28:20 +01:00 · plan 45fbd0adb6e5
        "#);
    }
}
