//! Orders of the host's own root.

use super::{losses::terminate, *};

/// What an agent says through its door.
pub(super) struct Command {
    stream: tokio::net::UnixStream,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Command {
    async fn open(local: &Local) -> Self {
        let (command, answer) = Self::greet(local, "").await;
        assert!(matches!(answer, wire::Answer::Welcome(_)), "{answer:?}");
        command
    }

    /// Says hello, with what the command was called with where it is to change the host.
    async fn greet(local: &Local, run: &str) -> (Self, wire::Answer) {
        let (stream, theirs) = tokio::net::UnixStream::pair().unwrap();
        let state = watch::channel(Some(Arc::new(HostState::default()))).1;
        let about = door::About { name: "vps1".to_owned(), state };
        let serving = tokio::spawn(door::serve(theirs, local.clone(), about));
        let mut command = Self { stream, serving };
        command.say(wire::Said::Hello(wire::Hello { run: run.to_owned(), ..Default::default() })).await;
        let answer = command.next().await;
        (command, answer)
    }

    /// What a command has to wait for that is to change the host; nothing where it has its turn, which it gives back.
    pub(super) async fn waits_for(local: &Local) -> Option<String> {
        let (command, answer) = Self::greet(local, "run x").await;
        command.leave().await;
        match answer {
            wire::Answer::Busy(busy) => Some(busy.by),
            _ => None,
        }
    }

    async fn say(&mut self, said: wire::Said) {
        wire::write(&mut self.stream, &wire::ToHost { said: Some(said) }).await.unwrap();
    }

    async fn next(&mut self) -> wire::Answer {
        let read = timeout(SOON, wire::read::<wire::FromHost>(&mut self.stream)).await.expect("an answer");
        read.unwrap().expect("an agent").answer.unwrap()
    }

    async fn order(&mut self, world: &World, operation: request::Operation) -> String {
        let execute = world.order(operation);
        let order = Leaf::decode(execute.leaf.as_slice()).unwrap().order;
        let spoken = wire::Order {
            order: order.clone(),
            leaf: execute.leaf,
            run: RunId::new().to_string(),
            person: "root on vps1".to_owned(),
            remedy: "a/b".to_owned(),
            not_after_ms: NOW + 60_000,
        };
        self.say(wire::Said::Order(spoken)).await;
        order
    }

    async fn ended(&mut self) -> (String, Outcome) {
        loop {
            if let wire::Answer::Finished(finished) = self.next().await {
                return (finished.order, finished.outcome.unwrap());
            }
        }
    }

    async fn leave(self) {
        drop(self.stream);
        self.serving.await.unwrap().unwrap();
    }
}

/// Operators and the host's own root never change a stack at once, and a run on the host keeps it until it ends.
#[tokio::test]
async fn a_stack_is_changed_by_an_operator_or_by_root_and_never_by_both() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let order = world.order(restart());
    agent.execute(&order).await;
    assert!(matches!(agent.next().await, from_agent::Message::Started(_)));
    world.executor.began.notified().await;
    let here = command.order(&world, restart()).await;
    assert!(timeout(Duration::from_millis(100), world.executor.began.notified()).await.is_err(), "it waits");
    world.executor.go_on.notify_one();
    assert!(matches!(agent.next().await, from_agent::Message::Finished(_)));
    world.executor.began.notified().await;
    assert!(matches!(command.next().await, wire::Answer::Started(started) if started.order == here));
    world.executor.go_on.notify_one();
    assert_eq!(command.ended().await.0, here);
    let from_agent::Message::Finished(told) = agent.next().await else { panic!("no end") };
    assert_eq!(told.here.unwrap().person, "root on vps1");

    // Its order has ended, and its run has not.
    agent.execute(&world.order(restart())).await;
    assert!(timeout(Duration::from_millis(100), world.executor.began.notified()).await.is_err(), "it waits");
    command.leave().await;
    world.executor.began.notified().await;
    world.executor.go_on.notify_one();
    assert_eq!(world.ran(), 3);
    agent.end().await;
}

#[tokio::test]
async fn an_unsound_order_is_refused_at_the_door_and_a_refused_one_is_told_to_nobody_else() {
    let world = World::new(Scripted { denies: true.into(), ..Default::default() });
    let mut agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let other = Leaf { host: HostId::new().to_string(), ..Default::default() }.encode_to_vec();
    let order = wire::Order { order: "o".to_owned(), leaf: other, ..Default::default() };
    command.say(wire::Said::Order(order)).await;
    let (order, outcome) = command.ended().await;
    assert_eq!((order.as_str(), outcome.failure.unwrap().code.as_str()), ("o", "order_malformed"));
    // What loses something carries what it was prepared with, here too.
    let bare = command.order(&world, terminate("shop")).await;
    let (order, outcome) = command.ended().await;
    assert_eq!((&order, outcome.failure.unwrap().code.as_str()), (&bare, "order_malformed"));
    command.order(&world, restart()).await;
    assert_eq!(command.ended().await.1.failure.unwrap().code, "policy_denied");
    command.leave().await;
    agent.inbox.send(Inbox::Disconnected).await.unwrap();
    assert!(agent.hello().await.unacknowledged.is_empty());
    assert_eq!(world.ran(), 0);
    agent.end().await;
}

/// Its command dies while it waits for its stack: nobody is there any more who looks at what it does.
#[tokio::test]
async fn an_order_that_its_command_deserted_never_begins() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let order = world.order(restart());
    agent.execute(&order).await;
    agent.started().await;
    world.executor.began.notified().await;
    let here = command.order(&world, restart()).await;
    assert!(timeout(Duration::from_millis(100), world.executor.began.notified()).await.is_err(), "it waits");
    command.leave().await;
    // The stack is free, and another order of an operator's is the next one there.
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&order));
    let next = world.order(restart());
    agent.execute(&next).await;
    assert_eq!(agent.started().await, id(&next));
    world.executor.go_on.notify_one();
    assert_eq!(agent.finished().await.0, id(&next));
    assert_eq!(world.ran(), 2);
    assert_eq!(agent.journal.standing(here.parse().unwrap()), None);
    agent.end().await;
}

#[tokio::test]
async fn one_run_of_root_at_a_time_changes_the_host_and_the_next_one_hears_which() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let (mut first, answer) = Command::greet(&agent.local, "run backend-502").await;
    assert!(matches!(answer, wire::Answer::Welcome(_)), "{answer:?}");
    let by = Command::waits_for(&agent.local).await.unwrap();
    let own = format!("`vigie-agent run backend-502` (process {})", std::process::id());
    assert!(by.contains(&own), "{by}");
    // Whoever only looks disturbs nobody.
    Command::open(&agent.local).await.leave().await;
    // It goes away, and what it began goes on.
    first.order(&world, restart()).await;
    assert!(matches!(first.next().await, wire::Answer::Started(_)));
    first.leave().await;
    assert!(Command::waits_for(&agent.local).await.unwrap().contains(&own));
    world.executor.go_on.notify_one();
    agent.finished().await;
    let free = async {
        while Command::waits_for(&agent.local).await.is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, free).await.unwrap();
    agent.end().await;
}

/// Nothing on the host knows a run, or `vigiectl`.
#[tokio::test]
async fn what_root_left_in_doubt_is_looked_at_on_the_host() {
    let world = World::new(Scripted::default());
    let agent = world.connected().await;
    let mut command = Command::open(&agent.local).await;
    let hint = |outcome: Outcome| {
        assert_eq!(outcome.status(), OutcomeStatus::InDoubt);
        outcome.failure.unwrap().hint
    };
    command.order(&world, exec("panic", &[])).await;
    let died = hint(command.ended().await.1);
    let hangs = command.order(&world, exec("hang", &[])).await;
    assert!(matches!(command.next().await, wire::Answer::Started(_)));
    command.leave().await;
    agent.end().await;
    let mut agent = world.start();
    agent.inbox.send(Inbox::Connected).await.unwrap();
    let found = loop {
        if let from_agent::Message::Finished(told) = agent.next().await
            && told.order == hangs
        {
            break hint(told.outcome.unwrap());
        }
    };
    for hint in [died, found] {
        assert!(hint.contains("vigie-agent journal") && !hint.contains("vigiectl"), "{hint}");
    }
    agent.end().await;
}
