//! A run as a Markdown report: the post-mortem that the event log already holds.

use std::fmt::{self, Write as _};

use chrono::{DateTime, Local, SecondsFormat, TimeZone as _};
use prost_reflect::Value;
use vigie_proto::{
    descriptors,
    text::escape,
    v1::{
        Change, CheckState, Conclusion, Finding, FindingState, Outcome, OutcomeStatus, ProbePurpose, Request,
        RunEvent, RunVerdict, WaitClosed, WaitEnd, run_event::Event,
    },
};

use crate::run::{State, TargetState};

/// How many changes before the run stand in its timeline.
const CHANGES: usize = 20;

/// Renders a run. `events` are those that `state` was folded from; times are shown in local time with their offset.
pub fn markdown(state: &State, events: &[RunEvent]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = render(&mut text, state, events);
    text
}

fn render(out: &mut String, state: &State, events: &[RunEvent]) -> fmt::Result {
    let opened = state.opened();
    writeln!(out, "# {}\n", md(&opened.title))?;
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| Run | `{}` |", state.run())?;
    if !state.spec().retry_of.is_empty() {
        writeln!(out, "| Retry of | {} |", md(&state.spec().retry_of))?;
    }
    writeln!(out, "| Opened | {} by {} |", time(state.summary().opened_at_ms), md(&opened.operator))?;
    match state.closed() {
        Some((verdict, reason, at)) => {
            writeln!(out, "| Closed | {}: {} ({}) |", time(at), verdict_word(verdict), md(reason))?;
        }
        None => writeln!(out, "| State | open |")?,
    }
    let names: Vec<_> = state.targets().iter().map(|target| name(target)).collect();
    writeln!(out, "| Targets | {} |\n", md(&names.join(", ")))?;

    if state.is_diagnosis() {
        writeln!(out, "## Findings\n")?;
        for target in state.targets() {
            findings(out, target)?;
        }
    }
    actions(out, state)?;
    verification(out, state)?;
    writeln!(out, "## Timeline\n")?;
    let changes = state.changes(|target| !target.is_well());
    let before = changes.len().saturating_sub(CHANGES);
    if before > 0 {
        writeln!(out, "- {} before these are left out", count(before, "change"))?;
    }
    // A timeline is read downwards: the oldest first.
    for (host, change) in changes.iter().take(CHANGES).rev() {
        writeln!(out, "- {} {}", time(change.at_ms), md(&format!("{host}: {}", change_words(change))))?;
    }
    for event in events {
        for line in timeline(state, event) {
            writeln!(out, "- {} {}", time(event.at_ms), md(&line))?;
        }
    }
    Ok(())
}

fn findings(out: &mut String, target: &TargetState) -> fmt::Result {
    writeln!(out, "### {}\n", md(&name(target)))?;
    let Some(conclusion) = &target.conclusion else {
        return writeln!(out, "Not concluded.\n");
    };
    let of = |state| conclusion.findings.iter().filter(move |finding: &&Finding| finding.state() == state);
    let mut confirmed: Vec<_> = of(FindingState::Confirmed).collect();
    // Causes first, their consequences under them.
    confirmed.sort_by_key(|finding| !finding.explained_by.is_empty());
    for finding in &confirmed {
        let indent = if finding.explained_by.is_empty() { "" } else { "  " };
        writeln!(out, "{indent}- **{}**", md(&finding.says))?;
        for evidence in &finding.evidence {
            writeln!(out, "{indent}  - `{}` = {}", evidence.reference, md(&evidence.value))?;
        }
        // A consequence goes with its cause: there is nothing to do about it.
        if !finding.advise.is_empty() && finding.explained_by.is_empty() {
            writeln!(out, "{indent}  - To do: {}", md(&finding.advise))?;
        }
    }
    if confirmed.is_empty() {
        writeln!(out, "Nothing found.")?;
    }
    let list = |state| of(state).map(|finding| finding.says.as_str()).collect::<Vec<_>>().join("; ");
    writeln!(out)?;
    let ruled_out = list(FindingState::RuledOut);
    if !ruled_out.is_empty() {
        writeln!(out, "Ruled out: {}.\n", md(&ruled_out))?;
    }
    for finding in of(FindingState::Unknown) {
        writeln!(out, "Unknown: {} ({}).\n", md(&finding.says), md(&finding.missing))?;
    }
    if let Some(restore) = &conclusion.restore {
        writeln!(out, "Restore a backup? **{}**: {}\n", md(&restore.answer), md(&restore.why))?;
    }
    Ok(())
}

fn actions(out: &mut String, state: &State) -> fmt::Result {
    if state.plan_entries().next().is_none() {
        return Ok(());
    }
    writeln!(out, "## Actions\n\n| target | action | order | outcome |\n|---|---|---|---|")?;
    for task in state.tasks() {
        let target = state.targets().get(task.target).map(|target| name(target)).unwrap_or_default();
        let outcome = task.outcome.as_ref().map_or_else(|| "not carried out".to_owned(), outcome_words);
        writeln!(
            out,
            "| {} | `{}` | `{}` | {} |",
            md(&target),
            md(&task.leaf.operation.as_ref().map(words).unwrap_or_default()),
            task.order,
            md(&outcome)
        )?;
    }
    writeln!(out)
}

fn verification(out: &mut String, state: &State) -> fmt::Result {
    let verified: Vec<_> =
        state.targets().iter().filter_map(|target| Some((target, target.verified.as_ref()?))).collect();
    if verified.is_empty() {
        return Ok(());
    }
    writeln!(out, "## Verification and checklist\n")?;
    for (target, conclusion) in verified {
        let word = if conclusion.verified { "verified" } else { "**not** verified" };
        writeln!(out, "{}: {word}\n", md(&name(target)))?;
        for line in &conclusion.checklist {
            let mark = if line.state() == CheckState::Done { 'x' } else { ' ' };
            let note = if line.state() == CheckState::NotDone { " (looked at: not so)" } else { "" };
            writeln!(out, "- [{mark}] {}{note}", md(&line.says))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// One event in words, a line for each thing that happened in it. Verification's repeated probes are left to the
/// conclusion that they lead to.
pub fn timeline(state: &State, event: &RunEvent) -> Vec<String> {
    let target = |place: u32| {
        state.targets().get(place as usize).map_or_else(|| format!("target {place}"), |target| name(target))
    };
    let order = |order: &str| {
        let task = state.tasks().find(|task| task.leaf.order == order);
        let operation = task.and_then(|task| task.leaf.operation.as_ref()).map(words);
        let host = task
            .and_then(|task| state.targets().get(task.target))
            .map(|target| name(target))
            .unwrap_or_default();
        format!("{} on {host}", operation.as_deref().unwrap_or("an order"))
    };
    match event.event.as_ref() {
        None => Vec::new(),
        Some(Event::Opened(opened)) => {
            vec![format!(
                "{} opened `{}` for {}",
                opened.operator,
                opened.title,
                count(opened.targets.len(), "target")
            )]
        }
        Some(Event::Owned(owned)) if owned.epoch <= 1 => Vec::new(),
        Some(Event::Owned(owned)) => vec![format!("controller {} took the run up again", owned.controller)],
        Some(Event::Observed(observed)) => observed
            .observations
            .iter()
            .filter(|seen| !matches!(seen.purpose(), ProbePurpose::Verification | ProbePurpose::Wait))
            .filter_map(|seen| {
                let outcome = seen.outcome.as_ref().filter(|outcome| !outcome.is_success())?;
                let probe = if seen.probe.is_empty() { "the operation" } else { &seen.probe };
                Some(format!("{}: {probe} {}", target(seen.target), outcome_words(outcome)))
            })
            .collect(),
        Some(Event::Concluded(concluded)) => concluded
            .conclusions
            .iter()
            .map(|c| format!("{}: {}", target(c.target), conclusion_words(c)))
            .collect(),
        Some(Event::Planned(planned)) => planned
            .entries
            .iter()
            .map(|entry| {
                format!(
                    "planned for {}: {} ({})",
                    target(entry.target),
                    entry.title,
                    count(entry.leaves.len(), "order")
                )
            })
            .collect(),
        Some(Event::Signed(signed)) => vec![format!("{} signed the plan", signed.operator)],
        Some(Event::Sent(_)) => Vec::new(),
        Some(Event::Started(started)) => {
            started.tasks.iter().map(|task| format!("started {}", order(&task.order))).collect()
        }
        Some(Event::Ended(ended)) => ended
            .tasks
            .iter()
            .map(|task| {
                let words = task.outcome.as_ref().map_or_else(|| "ended".to_owned(), outcome_words);
                format!("{}: {words}", order(&task.order))
            })
            .collect(),
        Some(Event::WaitsOpened(opened)) => {
            let who = |manual| if manual { "waits for a person" } else { "waits" };
            let waits = opened.waits.iter();
            waits
                .map(|wait| format!("{}: {}: {}", target(wait.target), who(wait.manual), wait.says))
                .collect()
        }
        Some(Event::WaitsClosed(closed)) => {
            let word = |wait: &WaitClosed| match wait.end() {
                WaitEnd::Held => "what was waited for came".to_owned(),
                _ => format!("stopped: {}", wait.why),
            };
            closed.waits.iter().map(|wait| format!("{}: {}", target(wait.target), word(wait))).collect()
        }
        Some(Event::ManualDone(done)) => {
            let note = if done.note.is_empty() { String::new() } else { format!(": {}", done.note) };
            let steps = done.steps.iter();
            steps
                .map(|step| format!("{}: {} says that it is done{note}", target(step.target), done.operator))
                .collect()
        }
        Some(Event::LeftOut(left_out)) => left_out
            .steps
            .iter()
            .map(|step| {
                let why = match step.unknown.as_str() {
                    "" => "its condition does not hold".to_owned(),
                    unknown => format!("its condition could not be judged ({unknown})"),
                };
                format!("{}: step {} is left out: {why}", target(step.target), step.step + 1)
            })
            .collect(),
        Some(Event::Held(held)) => {
            let stacks = held.stacks.iter();
            stacks
                .map(|held| format!("{}: waits for run {} ({})", target(held.target), held.run, held.says))
                .collect()
        }
        Some(Event::Lapsed(_)) => vec!["the plan was not signed in time; it is prepared anew".to_owned()],
        Some(Event::CancelAsked(asked)) => {
            let reason = if asked.reason.is_empty() { String::new() } else { format!(": {}", asked.reason) };
            vec![format!("{} ends the run{reason}", asked.operator)]
        }
        Some(Event::Resolved(resolved)) => {
            let by = if resolved.operator.is_empty() { "the agent" } else { resolved.operator.as_str() };
            let ended = resolved.tasks.iter();
            ended
                .map(|task| {
                    let words = task.outcome.as_ref().map_or_else(|| "ended".to_owned(), outcome_words);
                    format!("{} was in doubt; {by} says now: {words}", order(&task.order))
                })
                .collect()
        }
        Some(Event::Noted(noted)) if noted.operator.is_empty() => vec![noted.text.clone()],
        Some(Event::Noted(noted)) => vec![format!("{}: {}", noted.operator, noted.text)],
        Some(Event::Closed(closed)) => {
            vec![format!("closed: {} ({})", verdict_word(closed.verdict()), closed.reason)]
        }
    }
}

/// An operation with its arguments, as exactly as they were ordered.
fn words(request: &Request) -> String {
    let Some((operation, message)) = descriptors::unwrap(request) else { return "?".to_owned() };
    let arguments = message.fields().map(|(field, value)| match value {
        Value::String(text) => format!(" {}={text:?}", field.name()),
        Value::List(items) => {
            let items: Vec<_> = items
                .iter()
                .map(|item| item.as_str().map_or(item.to_string(), |text| format!("{text:?}")))
                .collect();
            format!(" {}=[{}]", field.name(), items.join(", "))
        }
        other => format!(" {}={other}", field.name()),
    });
    operation + &arguments.collect::<String>()
}

/// What changed, as reports and incidents tell it: `changed: env /srv/shop/.env: removed TOKEN`.
pub fn change_words(change: &Change) -> String {
    let by = if change.person.is_empty() { String::new() } else { format!(", signed by {}", change.person) };
    format!("changed: {} {}: {}{by}", change.kind, change.what, change.says)
}

fn conclusion_words(conclusion: &Conclusion) -> String {
    if conclusion.purpose() == ProbePurpose::Verification {
        return if conclusion.verified { "verified: repaired" } else { "not repaired" }.to_owned();
    }
    let causes: Vec<_> = conclusion
        .findings
        .iter()
        .filter(|finding| finding.state() == FindingState::Confirmed && finding.explained_by.is_empty())
        .map(|finding| finding.says.as_str())
        .collect();
    match (causes.is_empty(), conclusion.remedy.as_str()) {
        (true, _) => "nothing found".to_owned(),
        (false, "") => causes.join("; "),
        (false, remedy) => format!("{}; proposes {remedy}", causes.join("; ")),
    }
}

fn outcome_words(outcome: &Outcome) -> String {
    let word = outcome.status().word();
    match &outcome.failure {
        Some(failure) if outcome.status() != OutcomeStatus::Succeeded => {
            format!("{word}: {}", failure.message)
        }
        _ if !outcome.found.is_empty() => format!("{word}: {}", outcome.found),
        _ => format!("{word} in {:.1} s", f64::from(outcome.duration_ms) / 1000.0),
    }
}

fn verdict_word(verdict: RunVerdict) -> String {
    verdict.word().replace('_', " ")
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `vps1/sylion`.
fn name(target: &TargetState) -> String {
    match target.target.stack.as_str() {
        "" => target.target.host_name.clone(),
        stack => format!("{}/{stack}", target.target.host_name),
    }
}

fn time(at_ms: i64) -> String {
    let local: Option<DateTime<Local>> = Local.timestamp_millis_opt(at_ms).single();
    local.map_or_else(|| at_ms.to_string(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, false))
}

/// Text from elsewhere, safe in a Markdown line.
fn md(text: &str) -> String {
    escape(text, false).replace('|', "\\|").replace('<', "&lt;")
}
