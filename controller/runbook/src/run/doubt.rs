//! Orders whose end nobody saw: whose word about them counts, and what it makes of a run that is closed.

use vigie_proto::{
    id::{HostId, TaskId},
    v1::{Failure, Noted, Outcome, OutcomeStatus, Resolved, TaskEnded, run_event::Event},
};

use super::{Rejected, State, Task, TaskState, verdict};

/// The code of outcomes that the controller wrote because it lost sight of an agent; the agent's word replaces them.
pub(super) const LOST_SIGHT: &str = "lost_sight";

/// Orders of which a log says that it does not have them: some for each host of a large fleet.
const STRAYS: usize = 1_000;

/// Whether an agent's word about an order is news although the order has ended: the controller had only lost sight of it, or
/// a person spoke for an agent that did not. Whoever looked knows more than an agent that does not. Or the agent had said that it
/// would not begin, and began all the same: it could not write its refusal down, was started again, and was handed the order
/// again before the refusal was in the log.
fn is_open_to_its_agent(task: &Task, word: &Outcome) -> bool {
    let by_a_person = task.is_lost && !task.resolved_by.is_empty();
    let knows = word.status() != OutcomeStatus::InDoubt;
    let began_after_all = task.outcome.as_ref().is_some_and(never_began) && !never_began(word);
    task.state == TaskState::Ended
        && (is_lost(task.outcome.as_ref()) || (by_a_person && knows) || began_after_all)
}

/// Whether an outcome says that its order did not begin and will not.
fn never_began(outcome: &Outcome) -> bool {
    match outcome.status() {
        OutcomeStatus::Refused | OutcomeStatus::Expired | OutcomeStatus::Unreachable => true,
        OutcomeStatus::Cancelled => outcome.started_at_ms == 0,
        _ => false,
    }
}

/// Whether the controller wrote an outcome because it lost sight of the agent.
pub(super) fn is_lost(outcome: Option<&Outcome>) -> bool {
    outcome.and_then(|outcome| outcome.failure.as_ref()).is_some_and(|failure| failure.code == LOST_SIGHT)
}

/// An agent's word about an order that nobody had heard of any more.
pub(super) fn spoken(state: &State, order: TaskId, outcome: Outcome) -> Option<Event> {
    state.tasks().find(|task| task.order == order && is_open_to_its_agent(task, &outcome))?;
    let tasks = vec![TaskEnded { order: order.to_string(), outcome: Some(outcome) }];
    Some(judged(state, Resolved { tasks, ..Resolved::default() }))
}

/// An agent's word about an order that this log does not have: it was sent by a controller that was put back to an older backup
/// since. It is told once, and nothing follows from it.
pub(super) fn stray(state: &State, host: HostId, order: TaskId, outcome: &Outcome) -> Option<Event> {
    let name = &state.targets.iter().find(|target| target.host == host)?.target.host_name;
    let operation = outcome.result.as_ref().and_then(|result| result.operation.as_ref());
    let what = operation.map_or_else(String::new, |operation| format!(" ({})", operation.name()));
    let how = outcome.status().word();
    let text =
        format!("an order that this log does not have ended so on host {name}: {how}{what}, order {order}");
    let fresh = state.noted.len() < STRAYS && !state.noted.contains(&text);
    fresh.then(|| Event::Noted(Noted { text, ..Noted::default() }))
}

/// A person's word about orders in doubt: on these hosts, or wherever one is, and on this stack where one is named.
pub(super) fn resolve(
    state: &State,
    operator: String,
    hosts: &[String],
    stack: &str,
    done: bool,
    note: String,
) -> Result<Option<Event>, Rejected> {
    let in_doubt = |task: &&Task| {
        task.outcome.as_ref().is_some_and(|outcome| outcome.status() == OutcomeStatus::InDoubt)
    };
    let name = |task: &Task| state.targets[task.target].target.host_name.clone();
    let doubtful: Vec<&Task> = state
        .tasks()
        .filter(in_doubt)
        .filter(|task| hosts.is_empty() || hosts.contains(&name(task)))
        .filter(|task| stack.is_empty() || state.targets[task.target].target.stack == stack)
        .collect();
    let of_stack = if stack.is_empty() { String::new() } else { format!(" · {stack}") };
    if let Some(other) = hosts.iter().find(|host| !doubtful.iter().any(|task| name(task) == **host)) {
        return Err(Rejected::NothingInDoubt(format!(" on {other}{of_stack}")));
    }
    if doubtful.is_empty() {
        return Err(Rejected::NothingInDoubt(of_stack));
    }
    let saw = if note.is_empty() { String::new() } else { format!(": {note}") };
    let tasks = doubtful
        .iter()
        .map(|task| TaskEnded {
            order: task.leaf.order.clone(),
            outcome: Some(outcome(&operator, done, &saw)),
        })
        .collect();
    Ok(Some(judged(state, Resolved { tasks, operator, note, ..Resolved::default() })))
}

/// With what it makes of the verdict of a closed run.
fn judged(state: &State, mut resolved: Resolved) -> Event {
    if state.closed.is_some() {
        let mut after = state.clone();
        for ended in &resolved.tasks {
            // The orders are this run's, as whoever calls has made sure.
            let fits = after.end(0, ended, &resolved.operator, 0);
            debug_assert!(fits.is_ok(), "{fits:?}");
        }
        let (verdict, reason) = verdict::judge(&after);
        resolved.verdict = verdict.into();
        resolved.reason = reason;
    }
    Event::Resolved(resolved)
}

fn outcome(operator: &str, done: bool, saw: &str) -> Outcome {
    let found = match done {
        true => format!("{operator} looked: it has happened{saw}"),
        false => format!("{operator} looked: it has not happened{saw}"),
    };
    let outcome = match done {
        true => Outcome { status: OutcomeStatus::Succeeded.into(), ..Outcome::default() },
        false => Outcome::ended(
            OutcomeStatus::Failed,
            Failure::new("interrupted", &found).hint("order it again if it is still wanted"),
        ),
    };
    Outcome { found, ..outcome }
}
