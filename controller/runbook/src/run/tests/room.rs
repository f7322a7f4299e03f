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

/// What begins may have to wait for room, and what is over must not wait with it.
#[test]
fn what_is_over_is_written_down_before_anything_begins() {
    let mut world = World::runbook(3, RunMode::Run);
    let (second, third) = (world.hosts[1], world.hosts[2]);
    world.stopped.extend(world.hosts.clone());
    world.held.insert(third, Holder { run: "another".to_owned(), says: "a restart".to_owned() });
    let acted =
        |world: &World, host| world.state.tasks().any(|task| task.host == host && task.outcome.is_some());
    while !acted(&world, second) {
        assert!(world.step(0));
        if world.state.phase() == RunPhase::AwaitingSignature {
            world.sign().unwrap();
        }
    }
    // Its verification is overdue by the time at which the third one's stack is free.
    world.connected.remove(&second);
    world.now_ms += 60_000;
    world.held.clear();
    let seen = world.events.len();
    world.input(Input::Tick).unwrap();
    let events = world.events[seen..].iter().filter_map(|event| event.event.as_ref());
    let at = |wanted: &dyn Fn(&Event) -> bool| events.clone().position(wanted);
    let over = at(&|event| matches!(event, Event::Observed(_))).expect("the verification is given up");
    let begins = at(&|event| matches!(event, Event::Sent(_))).expect("the third one is sent");
    assert!(over < begins, "{:?}", events.collect::<Vec<_>>());
}
