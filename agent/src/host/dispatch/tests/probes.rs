//! What is asked without an order, and what is told besides.

use super::*;

#[tokio::test]
async fn probes_observe_and_nothing_else() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    agent.probe("a", facts()).await;
    let (task, outcome) = agent.result().await;
    assert_eq!((task.as_str(), outcome.is_success(), outcome.started_at_ms), ("a", true, NOW));
    agent.probe("b", exec("true", &[])).await;
    assert_eq!(code(&agent.result().await.1), (OutcomeStatus::Refused, "order_required"));
    agent.tell(to_agent::Message::Probe(Probe { task: "c".to_owned(), ..Default::default() })).await;
    assert_eq!(code(&agent.result().await.1), (OutcomeStatus::Refused, "invalid_request"));
    assert_eq!(world.ran(), 1);
    agent.end().await;
}

#[tokio::test]
async fn a_hung_or_dead_probe_is_nobody_elses() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    for at in 0..PROBES - 1 {
        agent.probe(&format!("hung{at}"), request::Operation::HostLoad(Default::default())).await;
    }
    agent.probe("dead", request::Operation::SocketList(Default::default())).await;
    let (task, outcome) = agent.result().await;
    assert_eq!((task.as_str(), code(&outcome)), ("dead", (OutcomeStatus::Failed, "internal")));
    agent.settled().await;
    agent.end().await;
}

#[tokio::test]
async fn a_probe_whose_turn_does_not_come_says_so() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    for at in 0..PROBES {
        agent.probe(&format!("hung{at}"), request::Operation::HostLoad(Default::default())).await;
    }
    let operation = Some(Request { operation: Some(facts()) });
    agent
        .tell(to_agent::Message::Probe(Probe {
            task: "late".to_owned(),
            operation,
            timeout_ms: 20,
            ..Default::default()
        }))
        .await;
    let (task, outcome) = agent.result().await;
    assert_eq!((task.as_str(), code(&outcome)), ("late", (OutcomeStatus::Failed, "busy")));
    agent.end().await;
}

/// Whoever asks whether the loop goes round learns what it has at hand, and for how long nothing of it has ended.
#[tokio::test]
async fn what_is_at_hand_is_told_and_for_how_long_none_has_ended() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let ask = async |agent: &mut Agent, seq| {
        agent.tell(to_agent::Message::Ping(v1::Ping { seq })).await;
        loop {
            match agent.next().await {
                from_agent::Message::Pong(pong) => return pong,
                from_agent::Message::ProbeResult(_) | from_agent::Message::Started(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(ask(&mut agent, 1).await, v1::Pong { seq: 1, ..Default::default() });
    agent.probe("hung", request::Operation::HostLoad(Default::default())).await;
    agent.execute(&world.order(exec("hang", &[]))).await;
    world.executor.began.notified().await;
    let first = ask(&mut agent, 2).await;
    assert_eq!((first.probes, first.orders), (1, 1));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let second = ask(&mut agent, 3).await;
    assert!(second.quiet_ms >= 30, "{first:?} {second:?}");
    // One that ends is progress, whatever the others do.
    agent.probe("quick", facts()).await;
    let third = loop {
        let pong = ask(&mut agent, 4).await;
        if pong.quiet_ms < second.quiet_ms {
            break pong;
        }
    };
    assert_eq!((third.probes, third.orders), (1, 1));
}

#[tokio::test]
async fn output_is_live_and_redacted_over_its_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join(".env");
    std::fs::write(&env_file, "DB_PASSWORD=s3cr3t-word\n").unwrap();
    let world = World::new(Scripted { env_file: Some(env_file), ..Default::default() });
    let mut agent = world.connected().await;
    let order = world.order(exec("say", &["password: s3c", "r3t-word, then more", " and more"]));
    agent.execute(&order).await;
    let mut said = Vec::new();
    loop {
        match timeout(SOON, agent.outbox.recv()).await.unwrap().unwrap() {
            Outbox::Output(chunk) => {
                assert_eq!((chunk.task.clone(), chunk.offset), (id(&order), said.len() as u64));
                said.extend(chunk.data);
            }
            Outbox::Message(message) if matches!(message.message, Some(from_agent::Message::Finished(_))) => {
                break;
            }
            Outbox::Message(_) => {}
        }
    }
    assert_eq!(String::from_utf8(said).unwrap(), "password: [redacted], then more and more");
    agent.end().await;
}

#[tokio::test]
async fn a_changed_state_is_told() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let state = HostState { docker_error: "no engine".to_owned(), ..Default::default() };
    agent._state.send_replace(Some(Arc::new(state.clone())));
    match agent.next().await {
        from_agent::Message::State(told) => assert_eq!(told, state),
        other => panic!("{other:?}"),
    }
    agent.end().await;
}
