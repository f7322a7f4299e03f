//! Orders that an earlier process began.

use super::*;

#[tokio::test]
async fn what_was_cut_off_is_in_doubt_and_never_runs_again() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(exec("hang", &[]));
    agent.execute(&order).await;
    agent.started().await;
    agent.end().await;

    let mut agent = world.start();
    let hello = agent.hello().await;
    assert_eq!([hello.unacknowledged, hello.running].concat(), [id(&order)]);
    let (finished, outcome) = agent.finished().await;
    assert_eq!((finished, code(&outcome)), (id(&order), (OutcomeStatus::InDoubt, "agent_restarted")));
    assert!(world.executor.forgotten.lock().unwrap().contains(&id(&order).parse().unwrap()));
    agent.execute(&order).await;
    assert_eq!(agent.finished().await.1.status(), OutcomeStatus::InDoubt);
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn what_the_host_shows_of_an_interrupted_order_is_its_outcome() {
    let silent = || Witness::Silent("Docker does not answer".to_owned());
    let done = || Witness::Done("it is there".to_owned());
    let not = Witness::NotDone("it is not there".to_owned());
    for (seen, status) in [
        (vec![done()], OutcomeStatus::Succeeded),
        (vec![not], OutcomeStatus::Failed),
        // It is asked again while it does not answer.
        (vec![silent(), done()], OutcomeStatus::Succeeded),
    ] {
        let world = World::new(Scripted::default());
        let mut agent = world.connected().await;
        let order = world.order(exec("hang", &[]));
        agent.execute(&order).await;
        agent.started().await;
        agent.end().await;
        *world.executor.seen.lock().unwrap() = seen;
        let mut agent = world.start();
        agent.hello().await;
        let (_, outcome) = agent.finished().await;
        assert_eq!(outcome.status(), status, "{outcome:?}");
        // It is written down: another start has nothing to find out.
        agent.end().await;
        let mut agent = world.start();
        let hello = agent.hello().await;
        assert_eq!((hello.unacknowledged, hello.running), (vec![id(&order)], Vec::new()));
        assert_eq!(agent.finished().await.1.status(), status);
        assert_eq!(world.ran(), 1);
        agent.end().await;
    }
}

/// The agent died with a program of an order under way. The next one is asked to stop it before it has seen its end.
#[tokio::test]
async fn what_is_found_again_is_stopped_when_its_run_is_ended() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let order = world.order(exec("hang", &[]));
    agent.execute(&order).await;
    agent.started().await;
    agent.end().await;
    world.executor.goes_on.store(true, Ordering::SeqCst);
    let mut agent = world.connected().await;
    agent.tell(to_agent::Message::Cancel(v1::Cancel { order: id(&order) })).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Cancelled, "stopped"));
    agent.end().await;
}

#[tokio::test]
async fn what_is_left_of_orders_that_ended_goes_when_the_agent_starts() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (ended, hangs, strange) =
        (world.order(exec("true", &[])), world.order(exec("hang", &[])), TaskId::new());
    agent.execute(&ended).await;
    agent.started().await;
    agent.finished().await;
    agent.execute(&hangs).await;
    agent.started().await;
    agent.end().await;
    let [ended, hangs] = [&ended, &hangs].map(|order| id(order).parse().unwrap());
    let executor = Scripted { kept: vec![ended, hangs, strange], goes_on: true.into(), ..Default::default() };
    let world = World { executor: Arc::new(executor), ..world };
    let mut agent = world.connected().await;
    agent.finished().await;
    agent.settled().await;
    // Of one that may still run, and of one that the journal does not know, all is kept.
    assert_eq!(*world.executor.forgotten.lock().unwrap(), [ended]);
    agent.end().await;
}

#[tokio::test]
async fn an_order_that_dies_is_in_doubt() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    agent.execute(&world.order(exec("panic", &[]))).await;
    agent.started().await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::InDoubt, "internal"));
    agent.end().await;
}
