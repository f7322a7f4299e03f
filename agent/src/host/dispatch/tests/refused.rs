//! Orders that are not carried out.

use super::{local::Command, *};

#[tokio::test]
async fn what_nobody_signed_is_refused_noted_and_proves_nothing() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(exec("true", &[]));
    let before = agent.journal.audit_head().seq;
    let forged = Execute { signatures: Vec::new(), ..order.clone() };
    agent.execute(&forged).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "signature_required"));
    // The real one is none the worse for it; its record comes after that of the forgery.
    agent.execute(&order).await;
    agent.started().await;
    assert!(agent.journal.audit_head().seq >= before + 2);
    assert!(agent.finished().await.1.is_success());
    // And a forgery under its id is not told what became of it.
    agent.execute(&forged).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "signature_required"));
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn a_refusal_of_a_signed_order_is_final() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let mut agent = world.connected().await;
    let (denied, expired) = (world.order(restart()), world.order_by(restart(), NOW - 60_001, 1));
    agent.execute(&denied).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "policy_denied"));
    agent.execute(&expired).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Expired, "expired"));
    agent.end().await;

    // The policy allows it by now, and the clock was set back.
    let lenient = World { executor: Arc::new(Scripted::default()), ..world };
    lenient.clock.0.store(NOW - 120_000, Ordering::SeqCst);
    let mut agent = lenient.connected().await;
    for order in [&denied, &expired] {
        assert_eq!(agent.finished().await.0, id(order));
    }
    for order in [&denied, &expired] {
        agent.execute(order).await;
        assert_eq!(agent.finished().await.0, id(order));
    }
    assert_eq!(lenient.ran(), 0);
    agent.end().await;
}

#[tokio::test]
async fn without_a_journal_nothing_changes_and_probes_go_on() {
    let world = World::new(Scripted::default());
    let lost = tempfile::tempdir().unwrap();
    let mut agent = world.start_over(lost.path());
    agent.hello().await;
    agent.execute(&world.order(exec("true", &[]))).await;
    let outcome = agent.finished().await.1;
    assert_eq!(code(&outcome), (OutcomeStatus::Refused, "journal_corrupt"));
    assert!(outcome.failure.unwrap().hint.contains("enroll --replace"));
    agent.settled().await;
    agent.end().await;
}

#[tokio::test]
async fn a_refusal_that_the_journal_does_not_take_is_final_all_the_same() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let lost = tempfile::tempdir().unwrap();
    let mut agent = world.start_over(lost.path());
    agent.hello().await;
    let order = world.order(exec("true", &[]));
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "policy_denied"));
    world.executor.denies.store(false, Ordering::SeqCst);
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "policy_denied"));
    // What the journal itself refuses stays refused by the same words.
    let other = world.order(exec("true", &[]));
    agent.execute(&other).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_corrupt"));
    world.executor.denies.store(true, Ordering::SeqCst);
    agent.execute(&other).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_corrupt"));
    world.clock.0.store(NOW + 3_600_000, Ordering::SeqCst);
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Expired, "expired"));
    agent.end().await;
}

#[tokio::test]
async fn an_order_that_is_too_much_is_refused_for_good() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    // One runs, and the others wait for its stack.
    for at in 0..ORDERS {
        agent.execute(&world.order(restart())).await;
        if at == 0 {
            agent.started().await;
        }
    }
    let order = world.order(exec("true", &[]));
    agent.execute(&order).await;
    let refused = agent.finished().await.1;
    assert_eq!(code(&refused), (OutcomeStatus::Refused, "busy"));
    let names = |words: &str| words.matches("compose_restart by ada").count() == ORDERS;
    assert!(names(&refused.failure.as_ref().unwrap().message), "{refused:?}");
    // The host's own root hears of it before anything is asked.
    let by = Command::waits_for(&agent.local).await.unwrap();
    assert!(names(&by), "{by}");
    let standing = agent.journal.standing(id(&order).parse().unwrap());
    assert!(matches!(standing, Some(Standing::Finished { .. })), "{standing:?}");
    world.executor.go_on.notify_one();
    assert!(agent.finished().await.1.is_success());
    agent.started().await;
    agent.execute(&order).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "busy"));
    assert_eq!(world.ran(), 2);
    agent.end().await;
}

#[test]
fn a_flood_of_forgeries_is_counted_and_not_written_down() {
    let mut denials = Denials::default();
    let recorded = (0..1000).filter(|_| denials.record(NOW).is_some()).count();
    assert_eq!(recorded, denials::DENIALS as usize);
    assert_eq!(denials.record(NOW + denials::DENIAL_EVERY_MS), Some(900));
    assert_eq!(denials.record(NOW + denials::DENIAL_EVERY_MS), None);
}
