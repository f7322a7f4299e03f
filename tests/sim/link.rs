//! The network: the agent's half of a session, what lies between, and the controller's real door at the other end.
//!
//! Messages come in order and once, as on a stream, but for faults: a message may come late, twice or behind the next
//! one, a direction may be closed for a while, and a session may end at either side first. What an old session still
//! carries arrives at the controller after a new one began.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use vigie_agent::host::{Inbox, Outbox};
use vigie_proto::v1::{Execute, FromAgent, Leaf, ToAgent, from_agent, link_client::LinkClient, to_agent};
use vigie_transport::server::{Peer, PeerCertificate};

use crate::{controller, mutants::Mutant, world::World};

/// As in the agent's link.
const GREETING: Duration = Duration::from_secs(10);
const FIRST_BACKOFF_MS: u64 = 500;
const LONGEST_BACKOFF_MS: u64 = 30_000;

/// Whom the acceptor would have seen.
pub(crate) fn peer(identity: &str, serial: String) -> Peer {
    let certificate = PeerCertificate {
        identity: identity.parse().unwrap(),
        serial,
        not_after: i64::from(u32::MAX),
        public_key_sha256: [0; 32],
    };
    Peer { address: ([192, 0, 2, 1], 4000).into(), certificate: Some(Arc::new(certificate)) }
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// The network half: keeps a session for as long as the process lives.
pub(crate) async fn keep(
    world: Arc<World>,
    host: usize,
    alive: Arc<AtomicBool>,
    inbox: mpsc::Sender<Inbox>,
    mut outbox: mpsc::Receiver<Outbox>,
) {
    let mut failures = 0_u32;
    loop {
        let began = tokio::time::Instant::now();
        if session(&world, host, &alive, &inbox, &mut outbox).await.is_none() {
            return;
        }
        if inbox.send(Inbox::Disconnected).await.is_err() {
            return;
        }
        failures = if began.elapsed() >= Duration::from_secs(10) { 0 } else { failures + 1 };
        let window = (FIRST_BACKOFF_MS << failures.min(10)).min(LONGEST_BACKOFF_MS);
        let delay = world.chance().millis(0..window);
        tokio::select! {
            biased;
            () = sleep(delay) => {}
            () = dropping(&mut outbox) => return,
        }
    }
}

async fn dropping(outbox: &mut mpsc::Receiver<Outbox>) {
    while outbox.recv().await.is_some() {}
}

/// One session as the agent sees it; `None` when the host half is gone.
async fn session(
    world: &Arc<World>,
    host: usize,
    alive: &Arc<AtomicBool>,
    inbox: &mpsc::Sender<Inbox>,
    outbox: &mut mpsc::Receiver<Outbox>,
) -> Option<()> {
    let lag = world.lag();
    sleep(lag).await;
    let process = world.at_work().filter(|_| *world.hosts[host].open.borrow() == (true, true));
    let Some(process) = process else { return Some(()) };
    inbox.send(Inbox::Connected).await.ok()?;
    let Ok(hello) = timeout(GREETING, hello(outbox)).await else { return Some(()) };
    let (up, going_up) = mpsc::unbounded_channel();
    let (coming_down, mut down) = mpsc::unbounded_channel();
    up.send(hello?).ok()?;
    let ended = CancellationToken::new();
    let wire = Wire { world: Arc::clone(world), host, process, agents_end: ended.clone() };
    tokio::spawn(wire.carry(going_up, coming_down));
    let receive = async {
        loop {
            match down.recv().await {
                Some(message) => {
                    if inbox.send(Inbox::Message(message)).await.is_err() {
                        return None;
                    }
                }
                None => return Some(()),
            }
        }
    };
    let send = async {
        while let Some(next) = outbox.recv().await {
            if let Outbox::Message(message) = next
                && alive.load(Ordering::SeqCst)
                && up.send(*message).is_err()
            {
                std::future::pending::<()>().await;
            }
        }
        None
    };
    tokio::select! {
        biased;
        () = ended.cancelled() => Some(()),
        over = receive => over,
        over = send => over,
    }
}

async fn hello(outbox: &mut mpsc::Receiver<Outbox>) -> Option<FromAgent> {
    loop {
        if let Outbox::Message(message) = outbox.recv().await?
            && matches!(message.message, Some(from_agent::Message::Hello(_)))
        {
            return Some(*message);
        }
    }
}

/// A session on the network, and its end at the controller.
struct Wire {
    world: Arc<World>,
    host: usize,
    process: Arc<controller::Process>,
    /// Set when the agent learns that the session is over.
    agents_end: CancellationToken,
}

impl Wire {
    async fn carry(
        self,
        mut going_up: mpsc::UnboundedReceiver<FromAgent>,
        coming_down: mpsc::UnboundedSender<ToAgent>,
    ) {
        let Self { world, host, process, agents_end } = self;
        let (to_controller, upstream) = mpsc::channel(64);
        let (from_controller, mut downstream) = mpsc::unbounded_channel();
        let door = {
            let world = Arc::clone(&world);
            let process = Arc::clone(&process);
            async move {
                let mut client = LinkClient::new(process.controller.agents.clone());
                let mut request = Request::new(ReceiverStream::new(upstream));
                let identity = format!("spiffe://vigie/agent/{}", world.hosts[host].id);
                request.extensions_mut().insert(peer(&identity, world.hosts[host].id.to_string()));
                let mut incoming = match client.session(request).await {
                    Ok(response) => response.into_inner(),
                    Err(status) => {
                        world.note(format_args!(
                            "{}: no session: {}",
                            world.hosts[host].name,
                            status.message()
                        ));
                        return;
                    }
                };
                while let Ok(Some(message)) = incoming.message().await {
                    world.sent(host, &message);
                    if from_controller.send(message).is_err() {
                        return;
                    }
                }
            }
        };
        let (on_the_way, place) = (&world, &world.hosts[host]);
        let up = async move {
            let world = on_the_way;
            while let Some(message) = going_up.recv().await {
                let hello = matches!(message.message, Some(from_agent::Message::Hello(_)));
                world.travel(host, Way::Up).await;
                for message in world.jumbled(message, hello, || going_up.try_recv().ok()) {
                    world.note(format_args!("{} ▲ {}", place.name, world.told(&message)));
                    if to_controller.send(message).await.is_err() {
                        return;
                    }
                }
            }
            // The agent's end is gone, and the controller hears of it.
            world.travel(host, Way::Up).await;
        };
        let down = async move {
            let world = on_the_way;
            while let Some(message) = downstream.recv().await {
                let welcome = matches!(message.message, Some(to_agent::Message::Welcome(_)));
                world.travel(host, Way::Down).await;
                for message in world.jumbled(message, welcome, || downstream.try_recv().ok()) {
                    let stale = world.stale(host, &message);
                    for message in std::iter::once(message).chain(stale) {
                        world.delivered(host, &message);
                        if coming_down.send(world.altered(message)).is_err() {
                            return;
                        }
                    }
                }
            }
            world.travel(host, Way::Down).await;
        };
        // Keepalives find out that a direction is closed, each side by itself.
        let (agent_notices, controller_notices) = {
            let mut chance = world.chance();
            (chance.millis(10_000..20_000), chance.millis(10_000..20_000))
        };
        let agents_keepalive = world.closed_for(host, agent_notices);
        let controllers_keepalive = world.closed_for(host, controller_notices);
        let breaks = async {
            let breaks = world.chance().one_in(6);
            match breaks {
                true => world.pause(0..60_000).await,
                false => std::future::pending().await,
            }
        };
        let controllers_side = async {
            tokio::select! {
                biased;
                () = process.dead.cancelled() => {}
                () = controllers_keepalive => {}
                () = door => {}
                () = up => {}
            }
        };
        let agents_side = async {
            tokio::select! {
                biased;
                () = agents_keepalive => {}
                () = breaks => {}
                () = down => {}
            }
            agents_end.cancel();
        };
        // Each end lasts as long as its own side: neither tells the other but over the network.
        tokio::join!(controllers_side, agents_side);
    }
}

impl World {
    /// The way of a message: some time, and for as long as the direction is closed.
    async fn travel(&self, host: usize, way: Way) {
        let lag = self.lag();
        sleep(lag).await;
        let mut open = self.hosts[host].open.subscribe();
        let is_open = |open: &(bool, bool)| if way == Way::Up { open.0 } else { open.1 };
        // The hosts live as long as the world.
        let _ = open.wait_for(is_open).await;
    }

    /// Completes when either direction was closed for so long.
    async fn closed_for(&self, host: usize, time: Duration) {
        let mut open = self.hosts[host].open.subscribe();
        loop {
            let _ = open.wait_for(|open| *open != (true, true)).await;
            if timeout(time, open.wait_for(|open| *open == (true, true))).await.is_err() {
                return;
            }
        }
    }

    /// What arrives when a message does: it, it again, or the next one before it. The first of a session comes as it is.
    fn jumbled<M: Clone>(&self, message: M, first: bool, next: impl FnOnce() -> Option<M>) -> Vec<M> {
        if first {
            return vec![message];
        }
        let mut chance = self.chance();
        let mut arrives = Vec::new();
        if chance.one_in(20) {
            arrives.extend(next());
        }
        let copies = if chance.one_in(30) { chance.below(4) + 1 } else { 1 };
        arrives.extend((0..copies).map(|_| message.clone()));
        arrives
    }

    /// An order that an earlier controller sent, and that comes only now.
    fn stale(&self, host: usize, beside: &ToAgent) -> Option<ToAgent> {
        if !matches!(beside.message, Some(to_agent::Message::Execute(_))) || !self.chance().one_in(3) {
            return None;
        }
        let old = self.ledger().stale(host)?;
        self.note(format_args!("{}: an old order comes again", self.hosts[host].name));
        Some(ToAgent { message: Some(to_agent::Message::Execute(old)) })
    }

    fn altered(&self, mut message: ToAgent) -> ToAgent {
        if let Some(to_agent::Message::Execute(execute)) = &mut message.message
            && self.is(Mutant::OneEpoch)
        {
            execute.epoch = 1;
        }
        message
    }

    /// A message of an agent, for the trace.
    fn told(&self, message: &FromAgent) -> String {
        use from_agent::Message as M;
        let order = |id: &str| self.name("o", id);
        match message.message.as_ref() {
            Some(M::Hello(hello)) => {
                let held: Vec<_> = hello.unacknowledged.iter().map(|id| order(id)).collect();
                format!("hello {}", held.join(" "))
            }
            Some(M::ProbeResult(result)) => format!("answer {}", self.name("p", &result.task)),
            Some(M::Prepared(prepared)) => format!("prepared {}", self.name("p", &prepared.task)),
            Some(M::Started(started)) => format!("started {}", order(&started.order)),
            Some(M::Finished(finished)) => {
                let outcome = finished.outcome.clone().unwrap_or_default();
                let code = outcome.failure.as_ref().map_or("", |failure| failure.code.as_str());
                format!("finished {} {} {code}", order(&finished.order), outcome.status().word())
            }
            Some(M::State(_)) => "state".to_owned(),
            Some(M::Symptoms(_)) => "symptoms".to_owned(),
            Some(M::AuditHead(_)) => "head".to_owned(),
            _ => "something".to_owned(),
        }
    }
}

/// The order that an envelope is for.
pub(crate) fn order_of(execute: &Execute) -> String {
    Leaf::decode(execute.leaf.as_slice()).unwrap_or_default().order
}
