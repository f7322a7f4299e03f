//! What changed is asked beside every diagnosis, and nothing waits for it.

use vigie_proto::v1::{Change, Failure, HostChangesRequest, HostChangesResult, run_spec::Kind};

use super::*;

/// The questions about changes that are wanted now: whose, and of which stack.
fn asked(world: &World) -> Vec<(usize, HostChangesRequest)> {
    let effects = world.wanted();
    let asked = effects.into_iter().filter_map(|effect| match effect {
        Effect::Probe { key, request, .. } => match request.operation {
            Some(request::Operation::HostChanges(request)) => Some((key.target, request)),
            _ => None,
        },
        _ => None,
    });
    asked.collect()
}

/// Answers all that is wanted, but nothing about changes.
fn answer_the_rest(world: &mut World) {
    world.input(Input::Tick).unwrap();
    for effect in world.wanted() {
        let Effect::Probe { key, host, request, .. } = effect else { continue };
        if matches!(request.operation, Some(request::Operation::HostChanges(_))) {
            continue;
        }
        let (outcome, asked_at_ms) = (world.answer(host, &request), world.now_ms);
        world.input(Input::Probed { key, outcome, asked_at_ms, challenge: Challenge::default() }).unwrap();
    }
}

fn key(target: usize) -> ProbeKey {
    let (probe, purpose) = (CHANGES.to_owned(), ProbePurpose::Diagnosis);
    ProbeKey { target, probe, purpose, round: 0 }
}

fn tell(world: &mut World, target: usize, outcome: Outcome) {
    let asked_at_ms = world.now_ms;
    let told = Input::Probed { key: key(target), outcome, asked_at_ms, challenge: Challenge::default() };
    world.input(told).unwrap();
}

fn changed(at_ms: i64, stack: &str, what: &str) -> Change {
    let (what, stack) = (what.to_owned(), stack.to_owned());
    Change { at_ms, kind: "env".to_owned(), what, stack, says: "added A".to_owned(), ..Change::default() }
}

fn told(changes: Vec<Change>) -> Outcome {
    let found = HostChangesResult { changes, ..HostChangesResult::default() };
    Outcome::succeeded(result::Operation::HostChanges(found))
}

fn waker(world: &World) -> i64 {
    let at = world.wanted().into_iter().find_map(|effect| match effect {
        Effect::WakeAt(at) => Some(at),
        _ => None,
    });
    at.expect("it waits for nothing")
}

#[test]
fn each_target_is_asked_once_about_its_own_stack() {
    let world = World::runbook(2, RunMode::Diagnose);
    let asked = asked(&world);
    assert_eq!(asked.iter().map(|(target, _)| *target).collect::<Vec<_>>(), [0, 1]);
    assert!(asked.iter().all(|(_, request)| request.stack == "sylion" && request.count > 0), "{asked:?}");
}

#[test]
fn a_runbook_that_asks_by_itself_is_not_asked_again() {
    let text = RUNBOOK.replace("findings:", "  - id: lately\n    host_changes: {}\nfindings:");
    let world = World::of(&text, 1, RunMode::Diagnose);
    assert_eq!(asked(&world).len(), 1);
    assert!(asked(&world).iter().all(|(_, request)| request.count == 0), "that is the runbook's own");
}

#[test]
fn the_verdict_does_not_wait_and_the_end_waits_a_moment() {
    let mut world = World::runbook(2, RunMode::Diagnose);
    world.stopped.insert(world.hosts[0]);
    answer_the_rest(&mut world);
    let concluded_at = world.now_ms;
    assert!(world.state.targets().iter().all(|target| target.conclusion.is_some()), "judged without it");
    assert!(world.state.closed().is_none(), "and what changed may still come");
    tell(&mut world, 0, told(vec![changed(5, "sylion", "/srv/.env")]));
    assert_eq!(asked(&world).len(), 1, "the other host is still asked");
    assert!(waker(&world) - concluded_at <= 1_000);
    world.now_ms = waker(&world);
    world.input(Input::Tick).unwrap();
    assert_eq!(world.state.closed().unwrap().0, RunVerdict::Findings);
    assert_eq!(world.state.targets()[0].changes().unwrap()[0].what, "/srv/.env");
    assert_eq!(world.state.targets()[1].changes(), None);
    // A word that comes after that is none.
    let events = world.events.len();
    tell(&mut world, 1, told(Vec::new()));
    assert_eq!(world.events.len(), events);
}

#[test]
fn an_agent_that_cannot_tell_leaves_nothing_unknown() {
    let mut world = World::runbook(1, RunMode::Diagnose);
    let failed = Outcome::ended(OutcomeStatus::Failed, Failure::new("unknown_operation", "what is that?"));
    tell(&mut world, 0, failed);
    answer_the_rest(&mut world);
    assert_eq!(world.finish(), (RunVerdict::Ok, "nothing found".to_owned()));
    let target = &world.state.targets()[0];
    assert!(target.is_well() && target.changes().is_none());
}

#[test]
fn only_what_rules_judge_tells_whether_a_host_is_there() {
    let mut world = World::runbook(1, RunMode::Diagnose);
    tell(&mut world, 0, told(Vec::new()));
    world.connected.clear();
    assert_eq!(world.finish().0, RunVerdict::Unreachable);
}

#[test]
fn a_remedy_is_planned_without_it() {
    let mut world = World::runbook(1, RunMode::Run);
    world.stopped.insert(world.hosts[0]);
    answer_the_rest(&mut world);
    assert_eq!(world.state.phase(), RunPhase::Previewing);
    answer_the_rest(&mut world);
    world.now_ms = waker(&world);
    world.input(Input::Tick).unwrap();
    assert_eq!(world.state.phase(), RunPhase::AwaitingSignature);
    assert!(asked(&world).is_empty());
    world.sign().unwrap();
    assert_eq!(world.finish().0, RunVerdict::Resolved);
}

#[test]
fn a_crash_asks_again_and_ends() {
    let mut world = World::runbook(1, RunMode::Diagnose);
    answer_the_rest(&mut world);
    world.crash();
    assert_eq!(asked(&world).len(), 1);
    assert_eq!(world.finish().0, RunVerdict::Ok);
}

/// A diagnosis of every runbook on one host with these stacks.
fn whole(texts: &[&str], stacks: &[&str]) -> World {
    let kind = Kind::Runbook(RunbookCall { mode: RunMode::Diagnose.into(), ..RunbookCall::default() });
    let mut world = World::runbook(1, RunMode::Diagnose);
    let host = world.hosts[0].to_string();
    let target = |stack: &&str| Target {
        host: host.clone(),
        host_name: "vps1".to_owned(),
        incarnation: 1,
        stack: (*stack).to_owned(),
    };
    let runbooks: Vec<_> = texts.iter().map(|text| Runbook::parse(text, "test").unwrap()).collect();
    let spec = RunSpec { kind: Some(kind), ..RunSpec::default() };
    let opened =
        open_all(spec, "ada", stacks.iter().map(target).collect(), &runbooks.iter().collect::<Vec<_>>());
    world.events.truncate(1);
    world.events[0].event = Some(Event::Opened(opened.unwrap()));
    world.state = State::fold(world.state.run(), &world.events).unwrap();
    world
}

const HOST: &str = r#"
id: host
title: The host
scope: host
diagnose:
  - id: load
    host_load: {}
findings:
  - { id: busy, title: Busy, when: load.load_1 > 10.0, says: busy, advise: look }
restore_backup: [{ answer: never, why: no data }]
"#;

#[test]
fn every_runbook_together_asks_each_host_once() {
    let stacks = |world: &World| -> Vec<_> {
        asked(world).into_iter().map(|(target, request)| (target, request.stack)).collect()
    };
    assert_eq!(stacks(&whole(&[HOST, RUNBOOK], &["", "sylion"])), [(0, String::new())]);
    assert_eq!(stacks(&whole(&[RUNBOOK], &["sylion"])), [(0, "sylion".to_owned())]);
    let asks = HOST.replace("findings:", "  - id: lately\n    host_changes: {}\nfindings:");
    let own = whole(&[&asks, RUNBOOK], &["", "sylion"]);
    assert_eq!(asked(&own).iter().map(|(_, request)| request.count).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_report_tells_what_changed_before_on_hosts_that_are_not_well() {
    let mut world = World::runbook(2, RunMode::Diagnose);
    world.stopped.insert(world.hosts[0]);
    let before = world.now_ms - 240_000;
    let two = vec![changed(before, "sylion", "/srv/new|er"), changed(before - 1, "", "/etc/old")];
    tell(&mut world, 0, told(two));
    tell(&mut world, 1, told(vec![changed(before, "sylion", "/srv/well")]));
    answer_the_rest(&mut world);
    world.finish();
    let report = crate::report::markdown(&world.state, &world.events);
    let timeline = report.split("## Timeline").nth(1).unwrap();
    let at = |text: &str| timeline.find(text).unwrap_or_else(|| panic!("no {text}: {timeline}"));
    assert!(at("vps1: changed: env /etc/old: added A") < at("vps1: changed: env /srv/new\\|er"));
    assert!(at("/srv/new") < at("opened"), "what came before stands before: {timeline}");
    assert!(!timeline.contains("/srv/well"), "{timeline}");
}
