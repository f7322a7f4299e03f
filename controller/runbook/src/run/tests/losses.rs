//! What loses something: prepared, planned, signed and verified wave by wave.

use vigie_proto::v1::PostgresTerminateRequest;

use proptest::prelude::*;

use super::{
    chance::{Befalls, befalls},
    *,
};

fn text() -> String {
    let text =
        RUNBOOK.replace("compose_restart: { services: [backend] }", "postgres_terminate: { state: idle }");
    text.replace("risk: low", "risk: low\n    when: backend.present")
}

fn world(hosts: usize) -> World {
    let mut world = World::of(&text(), hosts, RunMode::Run);
    world.stopped.extend(world.hosts.clone());
    world
}

fn until_asked(world: &mut World) {
    while world.state.closed().is_none() && world.state.phase() != RunPhase::AwaitingSignature {
        world.step(0);
    }
}

#[test]
fn each_wave_is_shown_and_signed_before_it_acts() {
    let mut world = world(3);
    until_asked(&mut world);
    assert_eq!(world.state.tasks().count(), 1, "the first wave is one host");
    let entry = world.state.plan_entries().next().unwrap().clone();
    assert!(entry.prepared[0].result.is_some());
    world.sign().unwrap();
    world.crash();
    until_asked(&mut world);
    assert_eq!((world.effects.len(), world.state.tasks().count()), (1, 3));
    assert!(world.state.targets()[0].verified.as_ref().unwrap().verified, "the first wave is verified");
    world.sign().unwrap();
    assert_eq!(world.finish(), (RunVerdict::Resolved, "3 repaired and verified".to_owned()));
    assert!(world.effects.len() == 3 && world.challenges.is_empty());
}

#[test]
fn a_late_signature_gets_everything_looked_at_anew() {
    let mut world = world(1);
    until_asked(&mut world);
    let first = world.state.plan().unwrap().batch.manifest().to_vec();
    let unsigned =
        || Input::Signed { manifest: first.clone(), signatures: vec![], operator: "ada".to_owned() };
    assert_eq!(world.input(unsigned()), Err(Rejected::NoSignature));
    world.now_ms += 296_000;
    world.input(unsigned()).unwrap();
    assert_eq!(world.state.phase(), RunPhase::Previewing);
    until_asked(&mut world);
    assert_ne!(world.state.plan().unwrap().batch.manifest(), first);
    assert_eq!(world.state.tasks().count(), 1);
    world.sign().unwrap();
    assert_eq!(world.finish().0, RunVerdict::Resolved);
}

#[test]
fn a_wave_that_goes_wrong_is_the_last() {
    let mut world = world(3);
    world.hopeless.extend(world.hosts.clone());
    until_asked(&mut world);
    world.sign().unwrap();
    assert_eq!(
        world.finish(),
        (RunVerdict::Unresolved, "1 of 1 not repaired; 2 targets left alone".to_owned())
    );
    assert_eq!(world.effects.len(), 1);
}

#[test]
fn a_run_can_be_ended_between_waves() {
    let mut world = world(3);
    until_asked(&mut world);
    world.sign().unwrap();
    until_asked(&mut world);
    world.input(Input::Cancel { operator: "ada".to_owned(), reason: String::new() }).unwrap();
    assert_eq!(
        world.finish(),
        (RunVerdict::Cancelled, "cancelled by ada; 2 targets left alone, 1 had ended before".to_owned())
    );
}

#[test]
fn a_host_that_cannot_be_prepared_has_no_order() {
    let terminate = PostgresTerminateRequest { stack: "sylion".to_owned(), ..Default::default() };
    let request = Request { operation: Some(request::Operation::PostgresTerminate(terminate)) };
    let mut world = World::new(2, &Kind::Operation(request));
    world.connected.remove(&world.hosts[1]);
    until_asked(&mut world);
    assert_eq!(world.state.tasks().count(), 1);
    let refused: Vec<_> = world.state.plan_entries().map(|entry| entry.refused.is_some()).collect();
    assert_eq!(refused, [false, true]);
    world.sign().unwrap();
    assert_eq!(world.finish(), (RunVerdict::Unreachable, "1 of 2 unreachable".to_owned()));
    assert_eq!(world.effects.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever crashes, leaves or takes long: no order takes effect twice or without a good challenge (the world
    /// asserts it), and the run ends.
    #[test]
    fn nothing_is_lost_that_was_not_shown(script in prop::collection::vec(befalls(), 0..60)) {
        let mut world = world(3);
        let on = |world: &mut World, pick| {
            if world.state.phase() == RunPhase::AwaitingSignature {
                world.sign().unwrap();
            }
            world.step(pick);
        };
        for befalls in script {
            match befalls {
                Befalls::Step(pick) => on(&mut world, pick),
                Befalls::Crash if world.state.closed().is_none() => world.crash(),
                Befalls::Leave(host) => { world.connected.remove(&world.hosts[host]); }
                Befalls::Return(host) => { world.connected.insert(world.hosts[host]); }
                // A signed order that waits for so long meets a refusal, which dispatch's own tests show.
                Befalls::Later(ms) if world.state.phase() == RunPhase::AwaitingSignature => world.now_ms += ms,
                Befalls::Repeat | Befalls::Later(_) | Befalls::Crash => {}
            }
        }
        world.connected.extend(world.hosts.clone());
        let mut steps = 0;
        while world.state.closed().is_none() {
            on(&mut world, steps);
            steps += 1;
            prop_assert!(steps < 2_000, "the run does not end: {:?}", world.wanted());
        }
        prop_assert!(world.effects.values().all(|times| *times == 1));
        let folded = State::fold(world.state.run(), &world.events).unwrap();
        prop_assert_eq!(format!("{folded:?}"), format!("{:?}", world.state));
    }
}
