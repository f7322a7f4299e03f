//! An agent that is connected is not yet one that answers.

use std::time::{Duration, Instant};

use vigie_proto::v1::{self, AuditHead, from_agent};

use crate::support::{Controller, Operator};

async fn told(operator: &mut Operator) -> v1::Host {
    operator.hosts.get_host(v1::GetHostRequest { host: "vps1".to_owned() }).await.unwrap().into_inner()
}

/// The connection is well and answers its own pings; the half behind it says nothing.
#[tokio::test]
async fn an_agent_whose_host_half_hangs_is_connected_and_does_not_answer() {
    let controller = Controller::new().await;
    let mut operator = controller.operator().await;
    let host = controller.host(&mut operator, "vps1").await;
    let session = host.session(&controller).await.unwrap();
    let before = told(&mut operator).await.liveness.unwrap();
    assert!(before.answering && before.answering_since_ms > 0);
    let since = Instant::now();
    let hung = loop {
        let host = told(&mut operator).await;
        assert!(host.connected, "it is: only its host half hangs");
        let liveness = host.liveness.unwrap();
        if !liveness.answering {
            break liveness;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "not noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    // Since it was last heard of, and not since somebody noticed.
    assert!(hung.answering_since_ms <= before.answering_since_ms + 1_000, "{hung:?} {before:?}");
    // Whatever it says, it lives.
    session.say(from_agent::Message::AuditHead(AuditHead::default())).await;
    while !told(&mut operator).await.liveness.unwrap().answering {
        assert!(since.elapsed() < Duration::from_secs(30), "not heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
