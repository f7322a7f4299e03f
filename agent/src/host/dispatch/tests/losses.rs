//! What loses something is prepared, and good once.

use super::*;

pub(super) fn terminate(stack: &str) -> request::Operation {
    request::Operation::PostgresTerminate(PostgresTerminateRequest {
        stack: stack.to_owned(),
        ..Default::default()
    })
}

/// Attack: an order that loses something runs once, in time, and for exactly what was shown.
#[tokio::test]
async fn what_loses_something_is_good_once_for_exactly_what_was_shown() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let bare = world.order(terminate("shop"));
    agent.execute(&bare).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_required"));

    let (challenge, found) = agent.prepare(world.run, terminate("shop")).await;
    let order = world.prepared(terminate("shop"), &challenge, &found);
    agent.execute(&order).await;
    agent.started().await;
    assert!(agent.finished().await.1.is_success());
    assert_eq!(world.executor.prepared.lock().unwrap().as_ref(), found.operation.as_ref());

    // The same order again is answered from the journal; another one with the same challenge is refused.
    agent.execute(&order).await;
    assert!(agent.finished().await.1.is_success());
    agent.execute(&world.prepared(terminate("shop"), &challenge, &found)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_unknown"));

    // Another target, another finding, another run.
    let (challenge, found) = agent.prepare(world.run, terminate("shop")).await;
    agent.execute(&world.prepared(terminate("other"), &challenge, &found)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_mismatch"));
    let (challenge, _) = agent.prepare(world.run, terminate("shop")).await;
    agent.execute(&world.prepared(terminate("shop"), &challenge, &v1::Result::default())).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_mismatch"));
    let (challenge, found) = agent.prepare(RunId::new(), terminate("shop")).await;
    agent.execute(&world.prepared(terminate("shop"), &challenge, &found)).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "challenge_mismatch"));

    // A restart forgets them all.
    let (challenge, found) = agent.prepare(world.run, terminate("shop")).await;
    agent.end().await;
    let mut agent = world.connected().await;
    let lost = world.prepared(terminate("shop"), &challenge, &found);
    agent.execute(&lost).await;
    loop {
        let (order, outcome) = agent.finished().await;
        if order == id(&lost) {
            assert_eq!(code(&outcome), (OutcomeStatus::Refused, "challenge_unknown"));
            break;
        }
    }
    agent.end().await;
}

#[tokio::test]
async fn what_the_policy_forbids_is_not_prepared_and_what_loses_nothing_neither() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let mut agent = world.connected().await;
    for (operation, code) in [(terminate("shop"), "policy_denied"), (restart(), "invalid_request")] {
        let prepared = agent.ask_prepare(world.run, operation).await;
        assert!(prepared.challenge.is_empty());
        assert_eq!(prepared.outcome.unwrap().failure.unwrap().code, code);
    }
    agent.end().await;
}

#[test]
fn a_challenge_is_too_old_after_five_minutes_and_the_oldest_make_way() {
    let world = World::new(Scripted::default());
    let (mut challenges, now) = (Challenges::default(), Instant::now());
    let request = Request { operation: Some(terminate("shop")) };
    let found = v1::Result { operation: Some(preview()) };
    let keep = |challenges: &mut Challenges| challenges.keep(world.run, &request, &found, now).unwrap();
    let verified = |challenge: &[u8]| {
        let order = world.prepared(terminate("shop"), challenge, &found);
        Warrant::from(world.trust.verify(&order, NOW).unwrap())
    };
    let old = keep(&mut challenges);
    let failure = challenges.take(&verified(&old), now + VALID).unwrap_err();
    assert_eq!(failure.code, "challenge_expired");
    let first = keep(&mut challenges);
    let others: Vec<_> = (0..64).map(|_| keep(&mut challenges)).collect();
    assert_eq!(challenges.take(&verified(&first), now).unwrap_err().code, "challenge_unknown");
    assert!(
        challenges.take(&verified(&others[0]), now + VALID - Duration::from_millis(1)).unwrap().is_some()
    );
}
