//! Orders whose end nobody saw, or of which there are two words.

use super::*;

fn in_doubt() -> World {
    let exec = ExecRequest { program: "uptime".to_owned(), args: vec![] };
    let exec = Request { operation: Some(request::Operation::Exec(exec)) };
    let mut world = World::new(2, &Kind::Operation(exec));
    world.input(Input::Tick).unwrap();
    world.sign().unwrap();
    world.connected.clear();
    assert_eq!(world.finish(), (RunVerdict::InDoubt, "2 of 2 in doubt".to_owned()));
    world
}

fn resolve(hosts: &[&str], done: bool) -> Input {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    let (operator, note) = ("bob".to_owned(), "uptime says so".to_owned());
    Input::Resolve { operator, hosts, stack: String::new(), done, note }
}

#[test]
fn a_person_says_what_became_of_an_order_in_doubt() {
    let mut world = in_doubt();
    let verdict = |world: &World| {
        world.state.closed().map(|(verdict, reason, _)| (verdict, reason.to_owned())).unwrap()
    };
    assert_eq!(world.input(resolve(&["vps3"], true)), Err(Rejected::NothingInDoubt(" on vps3".to_owned())));
    world.input(resolve(&["vps1"], true)).unwrap();
    assert_eq!(verdict(&world), (RunVerdict::InDoubt, "1 of 2 in doubt".to_owned()));
    assert_eq!(world.input(resolve(&["vps1"], false)), Err(Rejected::NothingInDoubt(" on vps1".to_owned())));
    world.input(resolve(&[], false)).unwrap();
    assert_eq!(verdict(&world), (RunVerdict::Failed, "1 of 2 failed".to_owned()));
    assert_eq!(world.input(resolve(&[], false)), Err(Rejected::NothingInDoubt(String::new())));
    let found: Vec<_> = world.state.tasks().map(|task| task.outcome.clone().unwrap().found).collect();
    assert_eq!(
        found,
        ["bob looked: it has happened: uptime says so", "bob looked: it has not happened: uptime says so"]
    );
    world.crash_closed();
}

#[test]
fn an_agent_that_is_back_knows_better() {
    let mut world = in_doubt();
    let orders: Vec<_> = world.state.tasks().map(|task| task.order).collect();
    world.input(resolve(&["vps1"], false)).unwrap();
    for order in &orders {
        let outcome = Outcome::succeeded(result::Operation::Exec(v1::ExecResult::default()));
        world.input(Input::Ended { order: *order, outcome }).unwrap();
    }
    assert_eq!(
        world.state.closed().map(|(verdict, reason, _)| (verdict, reason)),
        Some((RunVerdict::Ok, "2 of 2 succeeded"))
    );
    let events = world.events.len();
    let outcome = Outcome::refused(v1::Failure::new("late", "and wrong"));
    world.input(Input::Ended { order: orders[0], outcome }).unwrap();
    assert_eq!(world.events.len(), events, "an agent speaks once");
    world.crash_closed();
}

/// A journal that failed could not keep the refusal, and the order was handed over again before the refusal was in the log.
#[test]
fn what_an_agent_refused_and_did_all_the_same_is_told_as_done() {
    let mut world = in_doubt();
    let orders: Vec<_> = world.state.tasks().map(|task| task.order).collect();
    let said = |outcome: &Outcome| Input::Ended { order: orders[0], outcome: outcome.clone() };
    let refused = Outcome::refused(v1::Failure::new("journal_failed", "the disk failed"));
    world.input(said(&refused)).unwrap();
    let events = world.events.len();
    world.input(said(&Outcome::ended(OutcomeStatus::Expired, v1::Failure::new("expired", "late")))).unwrap();
    assert_eq!(world.events.len(), events, "it did not begin, and that is known");
    let done = Outcome::succeeded(result::Operation::Exec(v1::ExecResult::default()));
    world.input(said(&done)).unwrap();
    assert_eq!(world.state.tasks().next().unwrap().outcome.as_ref(), Some(&done));
    let events = world.events.len();
    world.input(said(&refused)).unwrap();
    assert_eq!(world.events.len(), events, "what was done is not undone by a word");
    world.crash_closed();
}
