//! A runbook's run as a document: one entry for each target, with all its findings.

use serde_json::{Value, json};

use super::{
    changes::Lately,
    plan::short_digest,
    ranked,
    run::{Health, RunView},
    runs::mode_word,
};
use crate::json;

/// The run as scripts read it. Fields are added over time and never change their meaning.
pub fn document(view: &RunView) -> Value {
    let lately = Lately::of(view);
    let targets: Vec<_> = view.targets().filter_map(|target| entry(view, target, &lately)).collect();
    let plan = view.plan.as_ref().map(|plan| {
        json!({ "digest": data_encoding::HEXLOWER.encode(&vigie_proto::order::digest(&plan.manifest)),
                "short": short_digest(&plan.manifest), "tasks": plan.leaves.len(), "signed": view.signed })
    });
    json!({
        "run": view.run,
        "title": view.opened.title,
        "runbook": view.runbook_id().filter(|_| !view.is_whole()),
        "left_out": view.opened.left_out,
        "mode": mode_word(view.mode()),
        "verdict": view.verdict().word(),
        "reason": view.closed.as_ref().map_or("", |closed| closed.reason.as_str()),
        "opened_at_ms": view.opened_at_ms,
        "closed_at_ms": view.closed_at_ms,
        "plan": plan,
        "causes": if view.is_whole() { Some(ranked::document(view)) } else { None },
        "targets": targets,
    })
}

fn entry(view: &RunView, index: u32, lately: &Lately<'_>) -> Option<Value> {
    let target = view.target(index)?;
    let health = view.health(index);
    let conclusion = view.conclusions.get(&index);
    let findings = conclusion.map_or(&[][..], |conclusion| &conclusion.findings);
    let findings: Vec<_> = findings.iter().map(|finding| json::json(finding, "Finding")).collect();
    let restore = conclusion.and_then(|conclusion| conclusion.restore.as_ref());
    let steps = view.plan.iter().flat_map(|plan| &plan.entries).filter(|entry| entry.target == index);
    let steps: Vec<_> = steps
        .map(|entry| json!({ "remedy": entry.remedy, "title": entry.title, "preview": entry.preview }))
        .collect();
    let tasks: Vec<_> = view
        .tasks
        .iter()
        .filter(|task| task.target == index)
        .map(|task| {
            json!({
                "order": task.leaf.order,
                "operation": task.leaf.operation.as_ref().map(|request| json::json(request, "Request")),
                "started_at_ms": task.started_at_ms,
                "outcome": task.outcome.as_ref().map(|outcome| json::json(outcome, "Outcome")),
            })
        })
        .collect();
    let verification = view.verifications.get(&index).map(|conclusion| {
        let checklist: Vec<_> =
            conclusion.checklist.iter().map(|line| json::json(line, "ChecklistLine")).collect();
        json!({ "verified": conclusion.verified, "checklist": checklist })
    });
    Some(json!({
        "host": target.host_name,
        "host_id": target.host,
        "stack": target.stack,
        "health": health.word(),
        "findings": findings,
        "changes": if health == Health::Healthy { Value::Null } else { lately.document(index) },
        "remedy": conclusion.map_or("", |conclusion| conclusion.remedy.as_str()),
        "restore_backup": restore.map(|restore| json!({ "answer": restore.answer, "why": restore.why })),
        "plan": steps,
        "tasks": tasks,
        "verification": verification,
    }))
}
