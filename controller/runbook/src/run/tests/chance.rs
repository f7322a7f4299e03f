//! Whatever befalls a run.

use proptest::prelude::*;

use super::*;

/// What may befall a run between two steps.
#[derive(Debug, Clone)]
pub(super) enum Befalls {
    Step(usize),
    Crash,
    Leave(usize),
    Return(usize),
    Repeat,
    Later(i64),
}

pub(super) fn befalls() -> impl Strategy<Value = Befalls> {
    prop_oneof![
        8 => (0usize..8).prop_map(Befalls::Step),
        2 => Just(Befalls::Crash),
        1 => (0usize..3).prop_map(Befalls::Leave),
        2 => (0usize..3).prop_map(Befalls::Return),
        1 => Just(Befalls::Repeat),
        1 => (0i64..400_000).prop_map(Befalls::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever crashes, vanishes, repeats or takes long: no order takes effect twice, the fold of the log is the
    /// state, and the run ends once every host is back.
    #[test]
    fn never_twice_and_always_an_end(
        script in prop::collection::vec(befalls(), 0..60),
        ill in prop::collection::vec(any::<bool>(), 3),
    ) {
        let mut world = World::runbook(3, RunMode::Run);
        let ill_hosts: Vec<_> = ill.iter().zip(&world.hosts).filter(|(ill, _)| **ill).map(|(_, host)| *host).collect();
        world.stopped.extend(ill_hosts);
        for befalls in script {
            match befalls {
                Befalls::Step(pick) => { world.step(pick); }
                Befalls::Crash if world.state.closed().is_none() => world.crash(),
                Befalls::Leave(host) => { world.connected.remove(&world.hosts[host]); }
                Befalls::Return(host) => { world.connected.insert(world.hosts[host]); }
                Befalls::Repeat => {
                    for (order, outcome) in world.journal.clone() {
                        world.input(Input::Ended { order, outcome }).unwrap();
                    }
                }
                Befalls::Later(ms) => world.now_ms += ms,
                Befalls::Crash => {}
            }
            if world.state.phase() == RunPhase::AwaitingSignature {
                world.sign().unwrap();
            }
        }
        world.connected.extend(world.hosts.clone());
        let mut steps = 0;
        while world.state.closed().is_none() {
            world.step(steps);
            if world.state.phase() == RunPhase::AwaitingSignature {
                world.sign().unwrap();
            }
            steps += 1;
            prop_assert!(steps < 2_000, "the run does not end: {:?}", world.wanted());
        }
        prop_assert!(world.effects.values().all(|times| *times == 1));
        let folded = State::fold(world.state.run(), &world.events).unwrap();
        prop_assert_eq!(format!("{folded:?}"), format!("{:?}", world.state));
        prop_assert!(matches!(world.events.last().unwrap().event, Some(Event::Closed(_))));
        for task in world.state.tasks() {
            let outcome = task.outcome.as_ref().unwrap();
            if outcome.status() == OutcomeStatus::Succeeded {
                prop_assert!(world.journal.contains_key(&task.order), "a success that nobody had");
            }
            if world.journal.contains_key(&task.order) {
                let seen = matches!(outcome.status(), OutcomeStatus::Succeeded | OutcomeStatus::InDoubt);
                prop_assert!(seen, "an effect that is told as {:?}", outcome.status());
            }
        }
    }
}
