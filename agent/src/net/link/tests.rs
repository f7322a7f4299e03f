use tokio::net::{TcpListener, TcpStream};
use vigie_proto::v1::{Drain, Finished, Hello, OutputChunk, ProbeResult};
use vigie_transport::{
    credential::PrivateKey,
    tls::{ServerTrust, client_config},
};

use super::*;
use crate::net::tests::{Authority, Session, Sessions, loopback, serve_link};

const SOON: Duration = Duration::from_secs(20);

/// A controller, a link that dials it, and the test in the place of the host half.
struct World {
    controllers: Authority,
    agents: Authority,
    opened: mpsc::Receiver<Session>,
    outputs: mpsc::Receiver<Vec<OutputChunk>>,
    refuse: tokio::sync::watch::Sender<Option<Status>>,
    services: (mpsc::Sender<Session>, mpsc::Sender<Vec<OutputChunk>>),
}

struct Host {
    inbox: mpsc::Receiver<Inbox>,
    outbox: mpsc::Sender<Outbox>,
    stop: CancellationToken,
}

impl World {
    fn new() -> Self {
        let (opener, opened) = mpsc::channel(4);
        let (giver, outputs) = mpsc::channel(4);
        let (refuse, _) = tokio::sync::watch::channel(None);
        let services = (opener, giver);
        Self { controllers: Authority::new(), agents: Authority::new(), opened, outputs, refuse, services }
    }

    fn serve(&self, address: std::net::SocketAddr, stop: CancellationToken) -> std::net::SocketAddr {
        let sessions = Sessions {
            opened: self.services.0.clone(),
            outputs: self.services.1.clone(),
            refuse: self.refuse.subscribe(),
        };
        serve_link(address, &self.controllers.controller(), &self.agents, sessions, stop)
    }

    fn dial(&self, port: u16) -> Host {
        let credential = self.agents.issue("spiffe://fleet.test/agent/vps1", PrivateKey::generate().unwrap());
        let tls =
            client_config(ServerTrust::Roots(vec![self.controllers.root()]), Some(&credential)).unwrap();
        let (to_host, inbox) = mpsc::channel(16);
        let (outbox, from_host) = mpsc::channel(16);
        let keepalive =
            Keepalive { interval: Duration::from_millis(200), timeout: Duration::from_millis(200) };
        let address = format!("localhost:{port}").parse().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(Link::new(address, tls, keepalive, to_host, from_host).run(stop.clone()));
        Host { inbox, outbox, stop }
    }

    async fn session(&mut self, host: &mut Host) -> Session {
        host.greet().await;
        let mut session = timeout(SOON, self.opened.recv()).await.unwrap().unwrap();
        let first = session.next().await;
        assert!(matches!(first.message, Some(from_agent::Message::Hello(_))), "{first:?}");
        session.welcome().await;
        assert!(matches!(
            host.next().await,
            Inbox::Message(ToAgent { message: Some(to_agent::Message::Welcome(_)) })
        ));
        session
    }
}

impl Host {
    async fn next(&mut self) -> Inbox {
        timeout(SOON, self.inbox.recv()).await.expect("something from the link").expect("a link")
    }

    /// Says Hello as soon as there is a connection.
    async fn greet(&mut self) {
        while !matches!(self.next().await, Inbox::Connected) {}
        self.say(from_agent::Message::Hello(Hello::default())).await;
    }

    async fn say(&self, message: from_agent::Message) {
        self.outbox.send(Outbox::message(message)).await.unwrap();
    }
}

fn result(task: &str) -> from_agent::Message {
    from_agent::Message::ProbeResult(ProbeResult { task: task.to_owned(), outcome: None })
}

#[tokio::test]
async fn hello_comes_first_and_what_was_said_before_it_is_dropped() {
    let mut world = World::new();
    let mut host = world.dial(world.serve(loopback(), CancellationToken::new()).port());
    host.say(result("stale")).await;
    let mut session = world.session(&mut host).await;
    host.say(result("fresh")).await;
    assert_eq!(session.next().await.message, Some(result("fresh")));
    host.stop.cancel();
}

#[tokio::test]
async fn a_lost_session_is_followed_by_another() {
    let mut world = World::new();
    let stop = CancellationToken::new();
    let bound = world.serve(loopback(), stop.clone());
    let mut host = world.dial(bound.port());
    let session = world.session(&mut host).await;
    // The controller ends the session's stream, and comes back with another one.
    drop(session);
    assert!(matches!(host.next().await, Inbox::Disconnected));
    world.session(&mut host).await;
    host.stop.cancel();
}

#[tokio::test]
async fn a_drain_is_obeyed_with_its_delay() {
    let mut world = World::new();
    let mut host = world.dial(world.serve(loopback(), CancellationToken::new()).port());
    let session = world.session(&mut host).await;
    session.say(to_agent::Message::Drain(Drain { after_ms: 300 })).await;
    assert!(matches!(host.next().await, Inbox::Disconnected));
    let began = Instant::now();
    world.session(&mut host).await;
    assert!(began.elapsed() >= Duration::from_millis(290), "{:?}", began.elapsed());
    host.stop.cancel();
}

#[tokio::test]
async fn output_has_its_own_stream_which_ends_with_its_task() {
    let mut world = World::new();
    let mut host = world.dial(world.serve(loopback(), CancellationToken::new()).port());
    let mut session = world.session(&mut host).await;
    let chunk =
        |offset, data: &[u8]| OutputChunk { task: "t".to_owned(), source: 1, offset, data: data.to_vec() };
    host.outbox.send(Outbox::Output(chunk(0, b"one "))).await.unwrap();
    host.outbox.send(Outbox::Output(chunk(4, b"two"))).await.unwrap();
    let finished = from_agent::Message::Finished(Finished { order: "t".to_owned(), ..Finished::default() });
    host.say(finished.clone()).await;
    assert_eq!(session.next().await.message, Some(finished));
    let chunks = timeout(SOON, world.outputs.recv()).await.unwrap().unwrap();
    assert_eq!(chunks, [chunk(0, b"one "), chunk(4, b"two")]);
    host.stop.cancel();
}

#[tokio::test]
async fn a_flood_of_output_nobody_reads_does_not_delay_a_result() {
    let mut world = World::new();
    let mut host = world.dial(world.serve(loopback(), CancellationToken::new()).port());
    let mut session = world.session(&mut host).await;
    for at in 0..2000u64 {
        let chunk =
            OutputChunk { task: "t".to_owned(), source: 1, offset: at * 16384, data: vec![b'x'; 16384] };
        host.outbox.send(Outbox::Output(chunk)).await.unwrap();
    }
    host.say(result("quick")).await;
    assert_eq!(session.next().await.message, Some(result("quick")));
    host.stop.cancel();
}

/// The connection stays open and nothing comes through it any more, as after a cable was pulled.
#[tokio::test]
async fn a_half_open_connection_is_found() {
    let mut world = World::new();
    let bound = world.serve(loopback(), CancellationToken::new());
    let relay = TcpListener::bind(loopback()).await.unwrap();
    let mut host = world.dial(relay.local_addr().unwrap().port());
    let (mut near, _) = relay.accept().await.unwrap();
    let mut far = TcpStream::connect(bound).await.unwrap();
    let cut = CancellationToken::new();
    let until = cut.clone();
    let held = tokio::spawn(async move {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = until.cancelled() => {}
        }
        (near, far)
    });
    let session = world.session(&mut host).await;
    cut.cancel();
    let sockets = held.await.unwrap();
    let began = Instant::now();
    assert!(matches!(host.next().await, Inbox::Disconnected));
    // The test pings every 200 ms and waits 200 ms for the answer; the agent every 10 s and 5 s.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    drop((session, sockets));
    host.stop.cancel();
}

#[tokio::test]
async fn a_refused_host_keeps_asking() {
    let mut world = World::new();
    world.refuse.send_replace(Some(Status::permission_denied("unknown host")));
    let mut host = world.dial(world.serve(loopback(), CancellationToken::new()).port());
    host.greet().await;
    assert!(matches!(host.next().await, Inbox::Disconnected));
    world.refuse.send_replace(None);
    world.session(&mut host).await;
    host.stop.cancel();
}

#[test]
fn what_a_person_has_to_mend_is_told_from_what_passes() {
    let status = |code| Ended::Status(Box::new(Status::new(code, "")));
    for code in [Code::Unauthenticated, Code::PermissionDenied, Code::NotFound, Code::Unimplemented] {
        assert!(status(code).is_permanent(), "{code:?}");
    }
    for code in [Code::Unavailable, Code::Internal, Code::Unknown, Code::Cancelled, Code::ResourceExhausted] {
        assert!(!status(code).is_permanent(), "{code:?}");
    }
    assert!(!Ended::Closed.is_permanent());
}
