//! A run from its opening to its end, every event with its time.

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{
        Conclusion, FindingState, Leaf, Outcome, OutcomeStatus, ProbePurpose, RunEvent, WaitEnd,
        run_event::Event,
    },
};

use prost::Message as _;

use super::{diagnose, outcomes, plan, request, run::RunView, runs};
use crate::{
    json,
    look::{Look, count},
};

/// Timeline first, then what came of it.
pub fn text(view: &RunView, look: &Look) -> String {
    let state = match &view.closed {
        None => look.yellow("open"),
        Some(closed) => match closed.reason.as_str() {
            "" => runs::verdict(closed.verdict(), look),
            reason => format!("{}: {}", runs::verdict(closed.verdict(), look), escape(reason, false)),
        },
    };
    let title = look.bold(&escape(&view.opened.title, false));
    let mut text = format!("{title}  {state}\n{}\n\n", look.dim(&view.run));
    let mut events = view.events.as_slice();
    while let [event, rest @ ..] = events {
        // Answers come one by one; those that follow each other are one thing that happened.
        let answers =
            events.iter().take_while(|event| matches!(event.event, Some(Event::Observed(_)))).count();
        let (lines, after) = match answers {
            0 => (lines(view, event, look), rest),
            _ => (observations(view, &events[..answers]), &events[answers..]),
        };
        events = after;
        for (number, line) in lines.into_iter().enumerate() {
            let time = look.time(event.at_ms);
            let margin = if number == 0 { look.dim(&time) } else { " ".repeat(time.len()) };
            text.push_str(&format!("{margin}  {line}\n"));
        }
    }
    text.push('\n');
    text + &outcome(view, look)
}

/// What came of the run: findings, steps, verification; or the outcomes of its operation.
pub fn outcome(view: &RunView, look: &Look) -> String {
    if view.runbook_id().is_none() {
        return outcomes::text(view, look);
    }
    let aftermath = diagnose::aftermath(view, look);
    let gap = if aftermath.is_empty() { "" } else { "\n" };
    format!("{}{aftermath}{gap}{}", diagnose::body(view, look), diagnose::footer(view, look))
}

fn lines(view: &RunView, event: &RunEvent, look: &Look) -> Vec<String> {
    match &event.event {
        Some(Event::Opened(opened)) => {
            let every: Vec<_> = (0..u32::try_from(opened.targets.len()).unwrap_or(0)).collect();
            let opens = format!("{} opens it on {}", escape(&opened.operator, false), view.label(&every));
            match view.retry_of() {
                "" => vec![opens],
                before => vec![opens, format!("to try run {} again", escape(before, false))],
            }
        }
        Some(Event::Owned(owned)) if owned.epoch <= 1 => Vec::new(),
        Some(Event::Owned(owned)) => {
            vec![format!(
                "controller {} takes it over (epoch {})",
                escape(&owned.controller, false),
                owned.epoch
            )]
        }
        Some(Event::Observed(_)) => observations(view, std::slice::from_ref(event)),
        Some(Event::Concluded(concluded)) => {
            grouped(view, concluded.conclusions.iter().map(|c| (Some(c.target), conclusion(c, look))))
        }
        Some(Event::Planned(planned)) => {
            let tasks = count(planned.leaves.len(), "task");
            let mut lines = vec![format!("plan {}: {tasks}", plan::short_digest(&planned.manifest))];
            let steps = planned.entries.iter().flat_map(|entry| {
                let leaves = entry.leaves.iter().filter_map(|index| planned.leaves.get(*index as usize));
                leaves.map(|leaf| (Some(entry.target), leaf_line(leaf)))
            });
            lines.extend(grouped(view, steps).into_iter().map(|line| format!("  {line}")));
            let refused = planned.entries.iter().filter_map(|entry| {
                let refused = entry.refused.as_ref()?;
                let why = diagnose::failure(refused, view.reason(entry.target, refused), look);
                Some((Some(entry.target), format!("nothing is planned: {}", why.replace('\n', "\n    "))))
            });
            lines.extend(grouped(view, refused).into_iter().map(|line| format!("  {line}")));
            lines
        }
        Some(Event::Signed(signed)) => {
            let by = escape(&signed.operator, false);
            vec![format!("{} signs plan {}", look.bold(&by), plan::short_digest(&signed.manifest))]
        }
        Some(Event::Sent(sent)) => vec![format!("{} sent", count(sent.orders.len(), "order"))],
        Some(Event::Started(started)) => grouped(
            view,
            started.tasks.iter().map(|started| {
                let (target, what) = task(view, &started.order);
                (target, format!("{what} starts"))
            }),
        ),
        Some(Event::Ended(ended)) => grouped(
            view,
            ended.tasks.iter().map(|ended| {
                let (target, what) = task(view, &ended.order);
                let how = ended.outcome.as_ref().map_or_else(String::new, |outcome| {
                    let reason = view.reason(target.unwrap_or(u32::MAX), outcome);
                    diagnose::failure(outcome, reason, look).replace('\n', "\n    ")
                });
                (target, format!("{what}: {how}"))
            }),
        ),
        Some(Event::WaitsOpened(opened)) => grouped(
            view,
            opened.waits.iter().map(|wait| {
                let says = escape(&wait.says, false);
                let line = match wait.manual {
                    true => format!("{} {says}", look.yellow("waits for a person:")),
                    false => format!("waits: {says}"),
                };
                (Some(wait.target), line)
            }),
        ),
        Some(Event::WaitsClosed(closed)) => grouped(
            view,
            closed.waits.iter().map(|wait| {
                let line = match wait.end() {
                    WaitEnd::Held => "what was waited for came".to_owned(),
                    _ => look.red(&format!("stopped: {}", escape(&wait.why, false))),
                };
                (Some(wait.target), line)
            }),
        ),
        Some(Event::ManualDone(done)) => {
            let (by, note) = (escape(&done.operator, false), escape(&done.note, false));
            let note = if note.is_empty() { String::new() } else { format!(": {note}") };
            let line = format!("{} says that it is done{note}", look.bold(&by));
            grouped(view, done.steps.iter().map(|step| (Some(step.target), line.clone())))
        }
        Some(Event::LeftOut(left_out)) => grouped(
            view,
            left_out.steps.iter().map(|step| {
                let why = match step.unknown.as_str() {
                    "" => "its condition does not hold".to_owned(),
                    why => format!("its condition could not be judged: {}", escape(why, false)),
                };
                let what = match step.order.as_str() {
                    "" => String::new(),
                    order => format!(" ({})", task(view, order).1),
                };
                (Some(step.target), format!("step {}{what} is left out: {why}", step.step + 1))
            }),
        ),
        Some(Event::Held(held)) => grouped(
            view,
            held.stacks.iter().map(|held| {
                let (run, says) = (escape(&held.run, false), escape(&held.says, false));
                (Some(held.target), format!("waits for run {run} ({says}), which changes the same stack"))
            }),
        ),
        Some(Event::Lapsed(_)) => {
            vec!["the plan was not signed in time; what it would lose is looked at anew".to_owned()]
        }
        Some(Event::CancelAsked(asked)) => {
            let (by, reason) = (escape(&asked.operator, false), escape(&asked.reason, false));
            let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            vec![format!("{} ends the run{reason}", look.bold(&by))]
        }
        Some(Event::Resolved(resolved)) => {
            let by = match resolved.operator.as_str() {
                "" => "its agent".to_owned(),
                by => look.bold(&escape(by, false)),
            };
            grouped(
                view,
                resolved.tasks.iter().map(|ended| {
                    let (target, what) = task(view, &ended.order);
                    let how = ended.outcome.as_ref().map_or_else(String::new, |outcome| {
                        let reason = view.reason(target.unwrap_or(u32::MAX), outcome);
                        diagnose::failure(outcome, reason, look).replace('\n', "\n    ")
                    });
                    (target, format!("{what}: was in doubt, {by} says now: {how}"))
                }),
            )
        }
        Some(Event::Noted(noted)) => {
            let by = if noted.operator.is_empty() {
                String::new()
            } else {
                format!("{}: ", escape(&noted.operator, false))
            };
            vec![format!("{by}{}", escape(&noted.text, false))]
        }
        Some(Event::Closed(closed)) => {
            let reason = if closed.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", escape(&closed.reason, false))
            };
            vec![format!("closed, {}{reason}", runs::verdict(closed.verdict(), look))]
        }
        None => vec![look.dim("something that this vigiectl does not know; upgrade it to see it")],
    }
}

/// What an order is about: its target, and its operation in words.
fn task(view: &RunView, order: &str) -> (Option<u32>, String) {
    match view.tasks.iter().find(|task| task.leaf.order == order) {
        Some(task) => (Some(task.target), operation(&task.leaf)),
        None => (None, format!("order {}", escape(order, false))),
    }
}

/// What was said of several targets in the same words, once.
fn grouped(view: &RunView, said: impl Iterator<Item = (Option<u32>, String)>) -> Vec<String> {
    let mut groups: Vec<(String, Vec<u32>)> = Vec::new();
    for (target, text) in said {
        match groups.iter_mut().find(|(other, _)| *other == text) {
            Some((_, targets)) => targets.extend(target),
            None => groups.push((text, target.into_iter().collect())),
        }
    }
    let line = |(text, targets): (String, Vec<u32>)| match targets.is_empty() {
        true => text,
        false => format!("{}  {text}", view.label(&targets)),
    };
    groups.into_iter().map(line).collect()
}

/// Probes that answered together; each that did not by itself, with the reason.
fn observations(view: &RunView, events: &[RunEvent]) -> Vec<String> {
    type Key<'a> = (ProbePurpose, u32, OutcomeStatus, &'a str);
    let mut groups: Vec<(Key<'_>, Vec<&str>, Vec<u32>)> = Vec::new();
    let seen = events.iter().filter_map(|event| match &event.event {
        Some(Event::Observed(observed)) => Some(&observed.observations),
        _ => None,
    });
    for seen in seen.flatten() {
        let status = seen.outcome.as_ref().map_or(OutcomeStatus::Unspecified, Outcome::status);
        let reason = seen.outcome.as_ref().map_or("", |outcome| view.reason(seen.target, outcome));
        let key = (seen.purpose(), seen.round, status, reason);
        let at = groups.iter().position(|(other, ..)| *other == key).unwrap_or_else(|| {
            groups.push((key, Vec::new(), Vec::new()));
            groups.len() - 1
        });
        let (_, probes, targets) = &mut groups[at];
        if !probes.contains(&seen.probe.as_str()) {
            probes.push(&seen.probe);
        }
        targets.push(seen.target);
    }
    let line = |((purpose, round, status, reason), probes, targets): (Key<'_>, Vec<&str>, Vec<u32>)| {
        let purpose = match purpose {
            ProbePurpose::Preview => "preview: ".to_owned(),
            ProbePurpose::Preparation => "preparation: ".to_owned(),
            ProbePurpose::Wait => format!("while waiting, round {round}: "),
            ProbePurpose::Verification => format!("verification, round {}: ", round + 1),
            _ => String::new(),
        };
        let probes = match probes[..] {
            [""] => "the probe".to_owned(),
            _ => escape(&probes.join(", "), false).into_owned(),
        };
        let reason = if reason.is_empty() { String::new() } else { format!(": {}", escape(reason, false)) };
        format!("{}  {purpose}{probes} {}{reason}", view.label(&targets), status.word())
    };
    groups.into_iter().map(line).collect()
}

fn conclusion(conclusion: &Conclusion, look: &Look) -> String {
    if conclusion.purpose() == ProbePurpose::Verification {
        return if conclusion.verified {
            look.green("verified: well again")
        } else {
            look.red("not well yet")
        };
    }
    let confirmed = conclusion.findings.iter().filter(|finding| finding.state() == FindingState::Confirmed);
    let causes: Vec<_> = confirmed
        .filter(|finding| finding.explained_by.is_empty())
        .map(|finding| escape(&finding.says, false).into_owned())
        .collect();
    match causes.is_empty() {
        true => "no finding confirmed".to_owned(),
        false => look.red(&causes.join("; ")),
    }
}

fn leaf_line(leaf: &[u8]) -> String {
    Leaf::decode(leaf).map_or_else(|_| "unreadable".to_owned(), |leaf| operation(&leaf))
}

fn operation(leaf: &Leaf) -> String {
    leaf.operation.as_ref().and_then(request::line).unwrap_or_else(|| "unknown operation".to_owned())
}

/// The run with all its events, as scripts read them. A plan's leaves are decoded beside their bytes.
pub fn document(view: &RunView) -> Value {
    let events = view.events.iter().map(|event| {
        let mut value = json::json(event, "RunEvent");
        if let Some(Event::Planned(planned)) = &event.event {
            let tasks = planned.leaves.iter().map(|leaf| Leaf::decode(leaf.as_slice()));
            let tasks: Vec<_> =
                tasks.map(|leaf| leaf.map_or(Value::Null, |leaf| json::json(&leaf, "Leaf"))).collect();
            value["planned"]["tasks"] = json!(tasks);
        }
        value
    });
    json!({
        "run": view.run,
        "title": view.opened.title,
        // Empty for one that tries no other again.
        "retry_of": view.retry_of(),
        "verdict": view.verdict().word(),
        "events": events.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{Outcome, RunVerdict};

    use super::*;
    use crate::fixtures::{
        closed, concluded, crash_loop, ended, observed, restart_runbook, seen, signed, verified,
    };

    #[test]
    fn every_event_has_its_line() {
        let mut run = restart_runbook();
        run.add(observed((0..2).map(|target| (target, seen()))));
        run.add(concluded((0..2).map(|target| crash_loop(target, "DB_PASSWORD", 9))));
        let plan = run.plan();
        let fine = || Outcome { status: OutcomeStatus::Succeeded.into(), ..Default::default() };
        run.add(plan)
            .add(signed())
            .add(ended([fine(), fine()]))
            .add(concluded((0..2).map(|t| verified(t, true))));
        run.add(closed(RunVerdict::Resolved, "2 repaired and verified"));
        let view = run.view();
        let whole = text(&view, &Look::plain());
        assert_snapshot!(whole.split("\n\n").take(2).collect::<Vec<_>>().join("\n\n"), @r#"
        run stopped  resolved: 2 repaired and verified
        01900000-0000-7000-8000-000000000001

        2023-11-14 23:13:20 +01:00  ana opens it on vps[1-2] (2) · sylion
        2023-11-14 23:13:20 +01:00  vps[1-2] (2) · sylion  the probe succeeded
        2023-11-14 23:13:20 +01:00  vps[1-2] (2) · sylion  the backend crash-loops: DB_PASSWORD is missing from .env.prod
        2023-11-14 23:13:20 +01:00  plan 89270938dbeb: 2 tasks
                                      vps[1-2] (2) · sylion  compose-restart --stack sylion --services backend
        2023-11-14 23:13:21 +01:00  ana signs plan e3b0c44298fc
        2023-11-14 23:13:21 +01:00  vps[1-2] (2) · sylion  compose-restart --stack sylion --services backend: succeeded
        2023-11-14 23:13:21 +01:00  vps[1-2] (2) · sylion  verified: well again
        2023-11-14 23:13:22 +01:00  closed, resolved: 2 repaired and verified
        "#);
        assert_eq!(document(&view)["events"].as_array().unwrap().len(), view.events.len());
        assert_eq!(
            document(&view)["events"][3]["planned"]["tasks"][0]["operation"]["compose_restart"]["stack"],
            "sylion"
        );
        assert_eq!(document(&view)["retry_of"], "");
    }

    #[test]
    fn a_retry_says_of_which_run_it_is_one() {
        let mut run = restart_runbook();
        run.spec.retry_of = "01900000-0000-7000-8000-000000000009".to_owned();
        let view = run.view();
        let whole = text(&view, &Look::plain());
        assert_snapshot!(whole.split("\n\n").nth(1).unwrap(), @r"
        2023-11-14 23:13:20 +01:00  ana opens it on vps[1-2] (2) · sylion
                                    to try run 01900000-0000-7000-8000-000000000009 again
        ");
        assert_eq!(document(&view)["retry_of"], run.spec.retry_of);
    }
}
