//! A log that takes less than it is to hold, and one that holds less than there was.

use super::*;

fn decision(events: Vec<RunEvent>, state: State) -> Decision {
    Decision { events, state, rejections: vec![None] }
}

#[test]
fn what_was_learnt_is_told_apart_from_what_it_begins() {
    let mut world = World::runbook(1, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    let (before, decided) = loop {
        let (before, seen) = (world.state.clone(), world.events.len());
        assert!(world.step(0));
        let decided = decision(world.events[seen..].to_vec(), world.state.clone());
        match decided.begins() {
            true => break (before, decided),
            false => assert!(decided.before_it_begins(&before).is_none()),
        }
    };
    assert!(matches!(decided.events.last().unwrap().event, Some(Event::Planned(_))));
    let learnt = decided.before_it_begins(&before).unwrap();
    assert!(matches!(learnt.events.last().unwrap().event, Some(Event::Observed(_) | Event::Concluded(_))));
    assert_eq!(learnt.events.len() + 1, decided.events.len());
    assert_eq!((learnt.begins(), learnt.state.tasks().count()), (false, 0));
    assert_eq!(learnt.state.last_seq(), learnt.events.last().unwrap().seq);
    world.sign().unwrap();
    let cancel = Input::Cancel { operator: "ada".to_owned(), reason: String::new() };
    let seen = world.events.len();
    world.input(cancel).unwrap();
    assert!(!decision(world.events[seen..].to_vec(), world.state.clone()).begins());
}

/// As after a restore of a backup that is older than a plan.
#[test]
fn an_order_that_the_log_lacks_is_noted_once() {
    let mut world = World::runbook(2, RunMode::Run);
    let (host, order): (HostId, TaskId) = (world.hosts[0], world.ids.next());
    let outcome = Outcome::succeeded(result::Operation::Exec(v1::ExecResult::default()));
    let stray = |host| Input::Stray { host, order, outcome: outcome.clone() };
    let stranger = world.ids.next();
    for told in [host, host, stranger] {
        world.input(stray(told)).unwrap();
    }
    let noted = world.events.iter().filter_map(|event| match &event.event {
        Some(Event::Noted(noted)) => Some(noted.text.clone()),
        _ => None,
    });
    let says = format!(
        "an order that this log does not have ended so on host vps1: succeeded (exec), order {order}"
    );
    assert_eq!(noted.collect::<Vec<_>>(), [says]);
    world.crash();
}
