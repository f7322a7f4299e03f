//! Remedies whose steps wait: for a rule, for a person, for another run.

use super::*;

const STEPS: &str = r#"
id: steps
title: steps that wait
scope: stack
diagnose:
  - id: backend
    container_inspect: { service: backend }
  - id: redis
    container_inspect: { service: redis }
findings:
  - id: stopped
    title: the backend is stopped
    when: backend.state == "exited" || redis.state == "gone"
    says: "the backend exited"
remedies:
  - id: restart
    title: restart what is needed
    for: [stopped]
    risk: low
    steps:
      - compose_restart: { services: [redis] }
      - wait: { probes: [backend], until: backend.state == "running", within: 20s, every: 1s, says: "{{ stack }} runs" }
      - compose_restart: { services: [worker] }
        when: backend.state != "running"
      - manual: { says: "reboot {{ host }} in the panel", within: 15m }
      - compose_restart: { services: [proxy] }
        when: size(redis.image) > 0 && redis.restart_count >= 0
verify:
  probes:
    - id: health
      http_check: { target: proxy }
  until: health.status == 200
  within: 10s
  every: 1s
restore_backup:
  - answer: never
    why: no data is touched
"#;

fn world(hosts: usize) -> World {
    let mut world = World::of(STEPS, hosts, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    world
}

fn until_signed(world: &mut World) {
    while world.step(0) {}
    world.sign().unwrap();
}

fn until_person(world: &mut World) {
    while world.state.closed().is_none() && world.state.phase() != RunPhase::AwaitingPerson {
        world.step(0);
    }
}

fn done() -> Input {
    Input::ManualDone { operator: "bob".to_owned(), hosts: Vec::new(), note: "in the panel".to_owned() }
}

#[test]
fn steps_follow_each_other_and_wait_for_rules_and_people() {
    let mut world = world(1);
    until_signed(&mut world);
    let entry = world.state.plan_entries().next().unwrap();
    assert_eq!((entry.leaves.len(), entry.steps.len()), (3, 5));
    let Some(v1::plan_step::Kind::Manual(manual)) = &entry.steps[3].kind else { panic!("{entry:?}") };
    assert_eq!(manual.says, "reboot vps1 in the panel");
    assert_eq!(world.input(done()), Err(Rejected::NobodyWaitedFor("at this moment".to_owned())));
    until_person(&mut world);
    assert_eq!(world.effects.len(), 1, "the wait held, and the backend ran: the worker is left out");
    assert_eq!(world.state.targets()[0].steps[&1], Passage::Done);
    assert_eq!(world.state.targets()[0].steps[&2], Passage::LeftOut { unknown: String::new() });
    world.crash();
    let wrong =
        Input::ManualDone { operator: "bob".to_owned(), hosts: vec!["vps9".to_owned()], note: String::new() };
    assert_eq!(world.input(wrong), Err(Rejected::NobodyWaitedFor("on vps9".to_owned())));
    world.input(done()).unwrap();
    // `redis.image` is empty, so that the last step is left out as well.
    assert_eq!(world.finish(), (RunVerdict::Resolved, "1 repaired and verified".to_owned()));
    assert_eq!(world.effects.len(), 1);
}

#[test]
fn a_wait_that_does_not_end_stops_the_remedy_there() {
    let mut world = world(1);
    world.hopeless.insert(world.hosts[0]);
    until_signed(&mut world);
    let signed = world.now_ms;
    assert_eq!(world.finish().0, RunVerdict::Unresolved);
    assert!((20_000..25_000).contains(&(world.now_ms - signed)), "{}", world.now_ms - signed);
    let target = &world.state.targets()[0];
    assert_eq!(target.steps[&1], Passage::Stopped("this did not come in time: sylion runs".to_owned()));
    let outcomes: Vec<_> = world.state.tasks().map(|task| task.outcome.as_ref().unwrap().status()).collect();
    assert_eq!(outcomes, [OutcomeStatus::Succeeded, OutcomeStatus::Cancelled, OutcomeStatus::Cancelled]);
}

#[test]
fn a_person_who_says_nothing_stops_the_remedy_there() {
    let mut world = world(1);
    until_signed(&mut world);
    until_person(&mut world);
    assert_eq!(world.finish().0, RunVerdict::Unresolved);
    let Passage::Stopped(why) = &world.state.targets()[0].steps[&3] else { panic!() };
    assert_eq!(why, "nobody said in time that this was done: reboot vps1 in the panel");
}

#[test]
fn a_run_that_waits_can_be_ended() {
    let mut world = world(2);
    until_signed(&mut world);
    until_person(&mut world);
    world.input(Input::Cancel { operator: "ada".to_owned(), reason: "enough".to_owned() }).unwrap();
    assert_eq!(
        world.finish(),
        (
            RunVerdict::Cancelled,
            "cancelled by ada: enough; 1 target left alone, 1 had ended before".to_owned()
        )
    );
    let Passage::Stopped(why) = &world.state.targets()[0].steps[&3] else { panic!() };
    assert_eq!(why, "not sent: cancelled by ada: enough");
    assert_eq!(world.effects.len(), 1, "the second host was never touched");
}

#[test]
fn a_remedy_may_be_a_persons_alone() {
    let text = STEPS.replace("- compose_restart: { services: [redis] }\n      - wait", "- wait");
    let (before, after) = text.split_once("      - wait").unwrap();
    let rest = after.split_once("verify:").unwrap().1;
    let manual = "      - manual: { says: \"reboot it\", within: 15m }\nverify:";
    let mut world = World::of(&format!("{before}{manual}{rest}"), 2, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    until_signed(&mut world);
    assert_eq!(world.state.tasks().count(), 0);
    for _ in 0..2 {
        until_person(&mut world);
        world.stopped.clear();
        world.input(done()).unwrap();
    }
    assert_eq!(world.finish(), (RunVerdict::Resolved, "2 repaired and verified".to_owned()));
}

#[test]
fn one_run_at_a_time_changes_a_stack() {
    let mut world = World::runbook(1, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    while world.step(0) {}
    let other = Holder { run: "0198".to_owned(), says: "run other by bob".to_owned() };
    world.held.insert(world.hosts[0], other);
    world.sign().unwrap();
    assert!(world.effects.is_empty());
    assert_eq!(world.state.targets()[0].held_by, "0198");
    assert!(world.state.changing().is_empty());
    let held = world.events.iter().filter(|event| matches!(event.event, Some(Event::Held(_)))).count();
    world.input(Input::Tick).unwrap();
    assert_eq!((held, world.events.last().unwrap().seq), (1, world.state.last_seq()), "it is said once");
    world.held.clear();
    world.input(Input::Tick).unwrap();
    assert_eq!(world.state.changing(), [(world.hosts[0], "sylion".to_owned())]);
    assert_eq!(world.finish().0, RunVerdict::Resolved);
    assert!(world.state.changing().is_empty());
}

#[test]
fn a_stack_that_stays_taken_is_given_up_with_the_window() {
    let mut world = World::runbook(1, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    while world.step(0) {}
    world.held.insert(world.hosts[0], Holder { run: "0198".to_owned(), says: "run other by bob".to_owned() });
    world.sign().unwrap();
    assert_eq!(world.finish().0, RunVerdict::Unresolved);
    assert_eq!(
        world.state.tasks().next().unwrap().outcome.as_ref().unwrap().status(),
        OutcomeStatus::Expired
    );
    assert!(world.effects.is_empty());
}

#[test]
fn a_remedy_is_tried_twice_within_an_hour_and_not_three_times() {
    let mut world = World::runbook(1, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    world.tries = vec![world.now_ms - 3_700_000, world.now_ms - 60_000];
    while world.step(0) {}
    // Somebody else tries it between the plan and its signature.
    world.tries.push(world.now_ms - 1);
    world.sign().unwrap();
    assert_eq!(world.finish().0, RunVerdict::Unresolved);
    let outcome = world.state.tasks().next().unwrap().outcome.clone().unwrap();
    assert_eq!(outcome.failure.as_ref().unwrap().code, "remedy_repeated");

    let mut planned = World::runbook(1, RunMode::Run);
    planned.stopped.extend(planned.hosts.clone());
    planned.tries = world.tries.clone();
    let (verdict, reason) = planned.finish();
    assert_eq!(verdict, RunVerdict::Refused, "{reason}");
    assert!(reason.starts_with("restart was tried at ") && reason.contains(" and "), "{reason}");
    assert!(world.effects.is_empty() && planned.effects.is_empty());
}

const AWAY: &str = r#"
id: away
title: the host is away
scope: stack
diagnose:
  - id: outside
    from: controller
    reachability_check: {}
  - id: backend
    container_inspect: { service: backend }
findings:
  - id: host_down
    title: the host does not answer
    when: failure(backend) == "unreachable" && !outside.ping_answered
    says: "{{ host }} is away"
remedies:
  - id: reboot_host
    title: reboot it
    for: [host_down]
    risk: medium
    steps:
      - manual: { says: "reboot {{ host }} ({{ outside.address }}) in the panel", within: 15m }
    verify:
      probes: [outside, backend]
      until: outside.status == 200 && backend.state == "running"
      within: 5m
      every: 5s
restore_backup:
  - answer: never
    why: no data is touched
"#;

/// Nobody on an away host could take an order: a person's step needs none, and what follows is looked at from outside
/// until the agent is back.
#[test]
fn a_host_whose_agent_is_away_can_be_a_persons_to_mend() {
    let mut world = World::of(AWAY, 2, RunMode::Run);
    let away = world.hosts[0];
    world.stopped.insert(away);
    world.connected.remove(&away);
    until_signed(&mut world);
    let entry = world.state.plan_entries().next().unwrap();
    assert_eq!((entry.target, entry.leaves.len(), entry.steps.len()), (0, 0, 1));
    until_person(&mut world);
    assert!(
        world.state.changing().contains(&(away, "sylion".to_owned())),
        "nobody else changes it meanwhile"
    );
    world.crash();
    world.input(done()).unwrap();
    let rebooting = world.now_ms;
    while world.now_ms - rebooting < 60_000 {
        world.step(0);
    }
    assert!(world.state.closed().is_none(), "it is waited for while it boots: {:?}", world.state.closed());
    world.stopped.clear();
    world.connected.insert(away);
    assert_eq!(world.finish(), (RunVerdict::Resolved, "1 repaired and verified".to_owned()));
    assert_eq!(world.state.tasks().count(), 0, "no order was given");
}

#[test]
fn a_host_that_stays_away_is_not_repaired() {
    let mut world = World::of(AWAY, 1, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    world.connected.clear();
    until_signed(&mut world);
    until_person(&mut world);
    world.input(done()).unwrap();
    let rebooting = world.now_ms;
    assert_eq!(world.finish(), (RunVerdict::Unresolved, "1 of 1 not repaired".to_owned()));
    assert!((300_000..320_000).contains(&(world.now_ms - rebooting)), "{}", world.now_ms - rebooting);
}

#[test]
fn a_verification_reads_the_logs_of_after_the_last_action() {
    let health = "    - id: health\n";
    let fresh = "    - id: fresh\n      stack_logs: { since_s: 600 }\n";
    let mut world = World::of(&RUNBOOK.replacen(health, &format!("{fresh}{health}"), 1), 1, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    until_signed(&mut world);
    assert_eq!(world.finish().0, RunVerdict::Resolved);
}
