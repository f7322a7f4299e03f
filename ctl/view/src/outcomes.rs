//! One operation on many targets: those with the same outcome and the same output stand together, others are shown
//! as their difference from the largest group, and no target is ever missing from the sum.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use vigie_proto::v1::{Failure, Outcome, OutcomeStatus, StackLogsResult, result::Operation};

use super::{
    diagnose::{ABSENT, failure},
    run::RunView,
};
use crate::{
    document::{self, text_lines},
    json,
    look::{Look, bytes, count, duration_ms},
};

/// Below this likeness a difference is harder to read than the whole.
const ALIKE: f32 = 0.5;

/// Targets with the same outcome and output.
struct Group {
    status: Option<OutcomeStatus>,
    /// True where the host lacks what was asked about, which is no trouble.
    absent: bool,
    /// Why it did not succeed; empty where it did.
    headline: String,
    output: Vec<String>,
    targets: Vec<u32>,
}

fn groups(view: &RunView, look: &Look) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for target in view.targets() {
        let outcome = view.outcome(target);
        let status = outcome.map(Outcome::status);
        let headline = match outcome {
            None => look.dim(&waits_for(view, target, look)),
            Some(outcome) if outcome.is_success() && outcome.found.is_empty() => String::new(),
            Some(outcome) => failure(outcome, view.reason(target, outcome), look),
        };
        let output = outcome.map(|outcome| output(outcome, look)).unwrap_or_default();
        let same = |group: &&mut Group| {
            group.status == status && group.headline == headline && group.output == output
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.targets.push(target),
            None => {
                let failure = outcome.and_then(|outcome| outcome.failure.as_ref());
                let absent = failure.is_some_and(Failure::is_absence);
                groups.push(Group { status, absent, headline, output, targets: vec![target] });
            }
        }
    }
    // What went well first and the largest first: the last lines on the screen are those to act upon.
    groups.sort_by_key(|group| (rank(group), std::cmp::Reverse(group.targets.len())));
    groups
}

/// What keeps a target without an outcome.
fn waits_for(view: &RunView, target: u32, look: &Look) -> String {
    if view.closed.is_some() {
        return "not run".to_owned();
    }
    if view.awaits_signature() {
        return format!("waits for a signature: `vigiectl runs resume {}`", view.run);
    }
    let started = view.tasks.iter().find(|task| task.target == target && task.started_at_ms > 0);
    match started {
        Some(task) => format!("running since {}", look.time(task.started_at_ms)),
        None if view.signed => "not started yet".to_owned(),
        None => "no answer yet".to_owned(),
    }
}

fn rank(group: &Group) -> u8 {
    match group.status {
        _ if group.absent => 1,
        Some(OutcomeStatus::Succeeded) => 0,
        None | Some(OutcomeStatus::Cancelled) => 2,
        Some(OutcomeStatus::Unreachable) => 3,
        Some(OutcomeStatus::Refused | OutcomeStatus::Expired) => 4,
        Some(OutcomeStatus::Failed) => 5,
        Some(OutcomeStatus::InDoubt | OutcomeStatus::Unspecified) => 6,
    }
}

/// What an operation brought, as lines. A program's output stands as it is; everything else is a document.
fn output(outcome: &Outcome, look: &Look) -> Vec<String> {
    let Some(result) = &outcome.result else { return Vec::new() };
    let exec = match &result.operation {
        Some(Operation::Exec(exec)) => exec,
        Some(Operation::StackLogs(logs)) => return stack_logs(logs, look),
        Some(Operation::ContainerLogs(logs)) if logs.present => {
            return logs.lines.iter().flat_map(|line| text_lines(line)).collect();
        }
        _ => return document::result(result, look),
    };
    let mut lines = Vec::new();
    for (captured, is_error) in [(&exec.stdout, false), (&exec.stderr, true)] {
        let Some(captured) = captured else { continue };
        let text = text_lines(&captured.text);
        lines.extend(text.into_iter().map(|line| if is_error { look.yellow(&line) } else { line }));
        if captured.truncated {
            lines
                .push(look.dim(&format!("({} in all, the middle is left out)", bytes(captured.total_bytes))));
        }
    }
    lines
}

/// Each line with its service before it, as Compose prints them.
fn stack_logs(logs: &StackLogsResult, look: &Look) -> Vec<String> {
    let width = logs.lines.iter().map(|line| line.service.chars().count()).max().unwrap_or(0);
    let lines = logs.lines.iter().map(|line| {
        let service = text_lines(&line.service).concat();
        let said = text_lines(&line.text).concat();
        format!("{}  {said}", look.dim(&format!("{} {service:<width$} |", look.clock(line.at_ms))))
    });
    let missing = logs.missing.iter().map(|service| look.yellow(&format!("{service} has no container")));
    lines.chain(missing).collect()
}

/// All groups, then the sum.
pub fn text(view: &RunView, look: &Look) -> String {
    let groups = groups(view, look);
    // A group of one is no standard to hold others against.
    let standard = groups
        .iter()
        .filter(|group| group.status == Some(OutcomeStatus::Succeeded) && group.targets.len() > 1)
        .max_by_key(|group| group.targets.len());
    let mut text = String::new();
    for group in &groups {
        let label = look.bold(&view.label(&group.targets));
        let mark = match group.status {
            _ if group.absent => look.dim("–"),
            Some(OutcomeStatus::Succeeded) => look.green("✓"),
            Some(OutcomeStatus::Failed) => look.red("✗"),
            None => look.dim("·"),
            _ => look.yellow("!"),
        };
        let headline =
            if group.headline.is_empty() { String::new() } else { format!("  {}", group.headline) };
        text.push_str(&format!("{mark} {label}{headline}\n"));
        let difference = standard.filter(|standard| !std::ptr::eq(*standard, group));
        let difference =
            difference.and_then(|standard| difference_from(&standard.output, &group.output, look));
        match difference {
            Some(lines) => {
                let than = standard.map(|standard| view.label(&standard.targets)).unwrap_or_default();
                text.push_str(&format!("  {}\n", look.dim(&format!("as {than}, but:"))));
                text.extend(lines.into_iter().map(|line| format!("  {line}\n")));
            }
            None => text.extend(group.output.iter().map(|line| format!("  {line}\n"))),
        }
    }
    text + &footer(view, &groups, look)
}

/// Only the lines that differ, where most do not.
fn difference_from(standard: &[String], output: &[String], look: &Look) -> Option<Vec<String>> {
    if standard.is_empty() || output.is_empty() {
        return None;
    }
    let (old, new): (Vec<_>, Vec<_>) =
        (standard.iter().map(String::as_str).collect(), output.iter().map(String::as_str).collect());
    let diff = TextDiff::from_slices(&old, &new);
    if diff.ratio() < ALIKE {
        return None;
    }
    let changes = diff.iter_all_changes().filter_map(|change| match change.tag() {
        ChangeTag::Delete => Some(look.red(&format!("- {}", change.value()))),
        ChangeTag::Insert => Some(look.green(&format!("+ {}", change.value()))),
        ChangeTag::Equal => None,
    });
    Some(changes.collect())
}

fn footer(view: &RunView, groups: &[Group], look: &Look) -> String {
    let mut tally: BTreeMap<u8, (&str, usize)> = BTreeMap::new();
    for group in groups {
        let without = if view.closed.is_some() { "not run" } else { "open" };
        let word = if group.absent { ABSENT } else { group.status.map_or(without, OutcomeStatus::word) };
        tally.entry(rank(group)).or_insert((word, 0)).1 += group.targets.len();
    }
    let parts: Vec<_> = tally.into_values().map(|(word, number)| format!("{number} {word}")).collect();
    let took = match view.closed_at_ms {
        0 => "still open".to_owned(),
        closed => duration_ms(closed - view.opened_at_ms),
    };
    let targets = count(view.opened.targets.len(), "target");
    let run = look.dim(&format!("{took} · run {}", view.run));
    format!("{targets}: {} · {run}\n", parts.join(", "))
}

/// A document of the outcomes, one for each target.
pub fn document(view: &RunView) -> Value {
    let targets: Vec<_> = view
        .targets()
        .filter_map(|index| {
            let target = view.target(index)?;
            let mut entry =
                json!({ "host": target.host_name, "host_id": target.host, "stack": target.stack });
            let outcome = view.outcome(index).map(|outcome| json::json(outcome, "Outcome"));
            match outcome {
                Some(Value::Object(fields)) => entry.as_object_mut()?.extend(fields),
                _ => entry["status"] = json!("not_run"),
            }
            Some(entry)
        })
        .collect();
    json!({
        "run": view.run,
        "title": view.opened.title,
        "verdict": view.verdict().word(),
        "opened_at_ms": view.opened_at_ms,
        "closed_at_ms": view.closed_at_ms,
        "targets": targets,
    })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{
        CapturedText, ExecResult, Request, RunVerdict, request, result::Operation, run_spec::Kind,
    };

    use super::*;
    use crate::{
        exit::Exit,
        fixtures::{closed, fleet, observed, unreachable},
    };

    fn said(text: &str) -> Outcome {
        let captured =
            CapturedText { text: text.to_owned(), total_bytes: text.len() as u64, truncated: false };
        Outcome::succeeded(Operation::Exec(ExecResult { stdout: Some(captured), ..Default::default() }))
    }

    fn probe(outcomes: Vec<Outcome>) -> RunView {
        let request = Request { operation: Some(request::Operation::HostFacts(Default::default())) };
        let mut run = fleet(outcomes.len() + 1, Kind::Operation(request));
        run.add(observed((0..).zip(outcomes))).add(closed(RunVerdict::InDoubt, ""));
        run.view()
    }

    #[test]
    fn the_same_is_said_once_and_the_odd_one_by_its_difference() {
        let nginx = "nginx version: 1.22.1\nbuilt with OpenSSL 3.0.15\nTLS SNI support enabled\n";
        let refused = Failure::new("policy_denied", "the policy does not allow exec")
            .hint("see /etc/vigie/policy.toml");
        let mut outcomes = vec![said(nginx), said(nginx), said(nginx)];
        outcomes.push(said(&nginx.replace("1.22.1", "1.18.0")));
        outcomes.push(said("something else\n"));
        outcomes.push(unreachable("vps6"));
        outcomes.push(unreachable("vps7"));
        outcomes.push(Outcome::refused(refused));
        outcomes
            .push(Outcome::ended(OutcomeStatus::InDoubt, Failure::new("lost_sight", "the agent restarted")));
        let view = probe(outcomes);
        assert_snapshot!(text(&view, &Look::plain()), @r#"
        ✓ vps[1-3] (3) · sylion
          nginx version: 1.22.1
          built with OpenSSL 3.0.15
          TLS SNI support enabled
        ✓ vps4 · sylion
          as vps[1-3] (3) · sylion, but:
          - nginx version: 1.22.1
          + nginx version: 1.18.0
        ✓ vps5 · sylion
          something else
        · vps10 · sylion  not run
        ! vps[6-7] (2) · sylion  unreachable: not connected
          hint: is the host up?
        ! vps8 · sylion  refused: the policy does not allow exec
          hint: see /etc/vigie/policy.toml
        ! vps9 · sylion  in doubt: the agent restarted
        10 targets: 5 succeeded, 1 not run, 2 unreachable, 1 refused, 1 in doubt · 600 ms · run 01900000-0000-7000-8000-000000000001
        "#);
        assert_eq!(view.exit(), Exit::InDoubt);
    }

    #[test]
    fn what_a_host_lacks_is_no_trouble() {
        let absent = Failure::new("nginx_absent", "there is no nginx on this host");
        let view = probe(vec![Outcome::refused(absent), said("nginx version: 1.22.1\n")]);
        assert_snapshot!(text(&view, &Look::plain()), @r#"
        ✓ vps2 · sylion
          nginx version: 1.22.1
        – vps1 · sylion  not present: there is no nginx on this host
        · vps3 · sylion  not run
        3 targets: 1 succeeded, 1 not present, 1 not run · 600 ms · run 01900000-0000-7000-8000-000000000001
        "#);
    }

    #[test]
    fn hosts_that_all_differ_are_shown_whole() {
        let view = probe(vec![said("a\nb\nc\n"), said("a\nb\nd\n")]);
        assert_snapshot!(text(&view, &Look::plain()), @r#"
        ✓ vps1 · sylion
          a
          b
          c
        ✓ vps2 · sylion
          a
          b
          d
        · vps3 · sylion  not run
        3 targets: 2 succeeded, 1 not run · 600 ms · run 01900000-0000-7000-8000-000000000001
        "#);
    }

    #[test]
    fn every_target_is_in_the_document() {
        let view = probe(vec![said("a"), unreachable("vps2")]);
        let document = document(&view);
        let statuses: Vec<_> =
            document["targets"].as_array().unwrap().iter().map(|t| t["status"].clone()).collect();
        assert_eq!(statuses, ["succeeded", "unreachable", "not_run"]);
    }
}
