//! Whether the journal is the one that the controller has seen.

use super::*;

fn welcome(seq: u64, hash: Vec<u8>) -> to_agent::Message {
    let seen = Some(v1::AuditHead { seq, hash });
    to_agent::Message::Welcome(v1::Welcome { seen, ..Default::default() })
}

#[tokio::test]
async fn a_journal_that_was_put_back_runs_nothing() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let first = agent.journal.audit_head();
    agent.execute(&world.order(exec("true", &[]))).await;
    agent.started().await;
    agent.finished().await;
    let own = agent.journal.audit_head();
    // It ends earlier, ends otherwise, or is another one further back and has grown past that since.
    for (seq, hash) in [(own.seq + 1, vec![7; 32]), (own.seq, vec![7; 32]), (first.seq, vec![7; 32])] {
        agent.tell(welcome(seq, hash)).await;
        agent.execute(&world.order(exec("true", &[]))).await;
        assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_put_back"));
    }
    // Probes go on, and so do orders once the two agree, also when the controller is behind.
    agent.probe("p", facts()).await;
    assert_eq!(agent.result().await.1.status(), OutcomeStatus::Succeeded);
    for seen in [own, first] {
        agent.tell(welcome(seen.seq, seen.hash)).await;
        agent.execute(&world.order(exec("true", &[]))).await;
        agent.started().await;
        assert_eq!(agent.finished().await.1.status(), OutcomeStatus::Succeeded);
    }
    assert_eq!(world.ran(), 4, "the probe, and three of the six orders");
    agent.end().await;
}

#[tokio::test]
async fn a_head_is_told_only_where_the_two_agree() {
    let world = World::new(Scripted::default());
    let mut agent = world.connected().await;
    let own = agent.journal.audit_head();
    let order = || world.order(exec("true", &[]));
    agent.execute(&order()).await;
    agent.started().await;
    agent.finished().await;
    assert!(agent.heads().await.is_empty(), "nobody said what was seen");
    agent.tell(welcome(own.seq, own.hash.clone())).await;
    assert_eq!(agent.heads().await, [agent.journal.audit_head()]);
    agent.execute(&order()).await;
    agent.started().await;
    agent.finished().await;
    assert_eq!(agent.heads().await, [agent.journal.audit_head()], "it has grown");
    // An older copy never becomes what was seen, and a new session does not make it another one.
    agent.tell(welcome(own.seq, vec![7; 32])).await;
    assert!(agent.heads().await.is_empty());
    agent.hello().await;
    assert!(agent.heads().await.is_empty());
    agent.execute(&order()).await;
    assert_eq!(code(&agent.finished().await.1), (OutcomeStatus::Refused, "journal_put_back"));
    agent.tell(welcome(own.seq, own.hash)).await;
    assert_eq!(agent.heads().await, [agent.journal.audit_head()]);
    agent.hello().await;
    assert!(agent.heads().await.is_empty(), "in this session nobody said what was seen");
    agent.end().await;
}
