//! What changed over the fleet, newest first; hosts that could not tell are named under it.

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{Change, result::Operation},
};

use super::{diagnose::failure, run::RunView};
use crate::output::{json, look::Look, table::Table};

/// Every change with its host, newest first.
fn folded(view: &RunView) -> Vec<(&str, &Change)> {
    let mut all: Vec<(&str, &Change)> = view
        .targets()
        .filter_map(|index| {
            let host = view.target(index)?.host_name.as_str();
            match view.outcome(index)?.result.as_ref()?.operation.as_ref()? {
                Operation::HostChanges(found) => Some(found.changes.iter().map(move |change| (host, change))),
                _ => None,
            }
        })
        .flatten()
        .collect();
    all.sort_by(|a, b| b.1.at_ms.cmp(&a.1.at_ms).then_with(|| a.0.cmp(b.0)));
    all
}

/// How many changes stand under a verdict.
const LATELY: usize = 3;

/// The newest changes on targets with the same verdict, where their runbook asked for them; boots and Vigie's own
/// deeds among them.
pub(crate) fn lately(view: &RunView, targets: &[u32], look: &Look) -> String {
    let mut all: Vec<(&str, &Change)> = targets
        .iter()
        .flat_map(|target| {
            let host = view.target(*target).map_or("", |target| target.host_name.as_str());
            view.probes(*target).filter_map(move |outcome| {
                match outcome.result.as_ref()?.operation.as_ref()? {
                    Operation::HostChanges(found) => {
                        Some(found.changes.iter().map(move |change| (host, change)))
                    }
                    _ => None,
                }
            })
        })
        .flatten()
        .collect();
    all.sort_by_key(|(_, change)| std::cmp::Reverse(change.at_ms));
    let mut text = String::new();
    for (host, change) in all.iter().take(LATELY) {
        let host = if targets.len() > 1 { format!("{host}: ") } else { String::new() };
        let line = format!("{host}{} {}: {}", change.kind, change.what, change.says);
        let line = escape(&line, false).into_owned();
        text.push_str(&look.dim(&format!("  changed {} ago: {line}\n", look.ago(change.at_ms))));
    }
    if all.len() > LATELY {
        let more = all.len() - LATELY;
        text.push_str(&look.dim(&format!("  and {more} more within the day: `vigiectl changes`\n")));
    }
    text
}

pub(crate) fn text(view: &RunView, look: &Look) -> String {
    let clean = |text: &str| escape(text, false).into_owned();
    let mut table = Table::new(["WHEN", "HOST", "KIND", "WHAT", "CHANGE"]);
    let all = folded(view);
    for (host, change) in &all {
        let by = if change.person.is_empty() {
            String::new()
        } else {
            format!(", signed by {}", clean(&change.person))
        };
        table.row([
            format!("{} ({} ago)", look.time(change.at_ms), look.ago(change.at_ms)),
            clean(host),
            clean(&change.kind),
            clean(&change.what),
            clean(&change.says) + &by,
        ]);
    }
    let mut text = table.text(look);
    if all.is_empty() {
        text.push_str("nothing changed\n");
    }
    for index in view.targets() {
        let (Some(target), Some(outcome)) = (view.target(index), view.outcome(index)) else { continue };
        let host = clean(&target.host_name);
        if !outcome.is_success() {
            text.push_str(&format!("{host}: {}\n", failure(outcome, view.reason(index, outcome), look)));
        }
        if let Some(Operation::HostChanges(found)) =
            outcome.result.as_ref().and_then(|result| result.operation.as_ref())
        {
            if found.watched_since_ms > found.since_ms {
                let since = look.ago(found.watched_since_ms);
                text.push_str(
                    &look.dim(&format!("{host}: files and containers are watched for {since} only\n")),
                );
            }
            if found.truncated {
                text.push_str(&look.dim(&format!("{host}: older changes are left out (--limit)\n")));
            }
            for source in &found.unread {
                text.push_str(&format!("{host}: could not be read: {}\n", clean(source)));
            }
        }
    }
    text
}

pub(crate) fn document(view: &RunView) -> Value {
    let changes: Vec<Value> = folded(view)
        .into_iter()
        .map(|(host, change)| {
            let mut entry = json::json(change, "Change");
            entry["host"] = json!(host);
            entry
        })
        .collect();
    let silent: Vec<&str> = view
        .targets()
        .filter(|index| view.outcome(*index).is_none_or(|outcome| !outcome.is_success()))
        .filter_map(|index| Some(view.target(index)?.host_name.as_str()))
        .collect();
    json!({ "run": view.run, "verdict": view.verdict().word(), "changes": changes, "unanswered": silent })
}
