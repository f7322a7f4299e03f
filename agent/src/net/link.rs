//! The link to the controller: dials for ever, and carries messages between it and the host half.
//!
//! Owns the connection and the decision when to dial again. It reads of the messages only what concerns the session
//! itself (Welcome, Drain, which output ends with which task). While there is no session, whatever the host half says
//! is dropped: it says again what matters after the next [`Inbox::Connected`].

use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use vigie_proto::v1::{FromAgent, ToAgent, from_agent, link_client::LinkClient, to_agent};
use vigie_transport::{
    client::{Address, ConnectError, Keepalive, connect_over, explain},
    network::{Network, System},
};

use super::{
    backoff::{Backoff, chance, scaled},
    output::Outputs,
};
use crate::host::{Inbox, Outbox};

/// For the host half's Hello, and for the controller's Welcome.
const GREETING: Duration = Duration::from_secs(10);

/// The longest delay that a controller can ask for.
const LONGEST_DRAIN: Duration = Duration::from_secs(300);

/// An error that stays the same is told again this often.
const REMIND: Duration = Duration::from_secs(600);

/// Clocks that differ by more than this are worth a line in the log, in milliseconds.
const SKEW_MS: u64 = 5_000;

/// Messages that wait for the network.
const WAITING: usize = 64;

/// Numbers that nobody can foresee, drawn evenly.
pub type Chance = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The network half of a running agent.
pub struct Link {
    network: Arc<dyn Network>,
    chance: Chance,
    address: Address,
    tls: Arc<ClientConfig>,
    keepalive: Keepalive,
    inbox: mpsc::Sender<Inbox>,
    outbox: mpsc::Receiver<Outbox>,
}

/// Why there is no session, or none any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Connect(ConnectError),
    #[error("the controller says {code:?}: {message}", code = .0.code(), message = .0.message())]
    Status(Box<Status>),
    #[error("the controller closed the session")]
    Closed,
    #[error("the controller did not answer the Hello within {} s", GREETING.as_secs())]
    Silent,
    #[error("the controller is going away")]
    Drain(Duration),
    #[error("the host half is gone")]
    HostGone,
}

impl Ended {
    /// Whether a person has to do something first.
    fn is_permanent(&self) -> bool {
        match self {
            Self::Connect(error) => !error.is_transient(),
            Self::Status(status) => match explain(status) {
                Some(error) => !error.is_transient(),
                None => matches!(
                    status.code(),
                    Code::Unauthenticated
                        | Code::PermissionDenied
                        | Code::NotFound
                        | Code::Unimplemented
                        | Code::InvalidArgument
                        | Code::FailedPrecondition
                ),
            },
            Self::Closed | Self::Silent | Self::Drain(_) | Self::HostGone => false,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Connect(error) => error.hint(),
            Self::Status(status) => match (explain(status), status.code()) {
                (Some(error), _) => error.hint(),
                (None, Code::Unauthenticated | Code::PermissionDenied | Code::NotFound) => {
                    "the controller does not know this host, or no longer: ask with `vigiectl hosts show`, then enrol \
                     it again with `vigie-agent enroll --replace`"
                }
                (None, Code::Unimplemented) => {
                    "the controller is older than this agent, or no controller: check the address"
                }
                (None, _) => "look into the controller's log",
            },
            Self::Closed | Self::Silent | Self::Drain(_) => "the agent connects again by itself",
            Self::HostGone => "look further up in this log",
        }
    }

    fn cause(&self) -> String {
        let source = match self {
            Self::Connect(error) => error.source(),
            Self::Status(status) => status.source(),
            _ => None,
        };
        let mut words = Vec::new();
        let mut next = source;
        while let Some(error) = next {
            words.push(error.to_string());
            next = error.source();
        }
        words.join(": ")
    }
}

impl Link {
    pub fn new(
        address: Address,
        tls: Arc<ClientConfig>,
        keepalive: Keepalive,
        inbox: mpsc::Sender<Inbox>,
        outbox: mpsc::Receiver<Outbox>,
    ) -> Self {
        let (network, chance) = (Arc::new(System), Arc::new(chance));
        Self { network, chance, address, tls, keepalive, inbox, outbox }
    }

    /// Over another network than the system's, and with other chance: what a simulation decides.
    #[must_use]
    pub fn over(self, network: Arc<dyn Network>, chance: Chance) -> Self {
        Self { network, chance, ..self }
    }

    /// Keeps a session until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        let mut log = Log::default();
        loop {
            let mut since = None;
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.session(&mut since) => ended,
            };
            if self.inbox.send(Inbox::Disconnected).await.is_err() {
                return;
            }
            // However it ended: a controller that is restarted now and then is no reason to come back ever later.
            backoff.lasted(since.map_or(Duration::ZERO, |since: Instant| since.elapsed()));
            let delay = match &ended {
                Ended::HostGone => return,
                Ended::Drain(after) => *after + scaled(Duration::from_millis(500), (self.chance)()),
                _ => backoff.next(ended.is_permanent(), (self.chance)()),
            };
            log.say(&self.address, &ended, delay);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(delay) => {}
                () = dropping(&mut self.outbox) => return,
            }
        }
    }

    /// One session, from dialling to its end; `since` when the controller welcomed it.
    async fn session(&mut self, since: &mut Option<Instant>) -> Ended {
        let network = Arc::clone(&self.network);
        let dial = connect_over(network, self.address.clone(), Arc::clone(&self.tls), self.keepalive);
        let channel = tokio::select! {
            channel = dial => match channel {
                Ok(channel) => channel,
                Err(error) => return Ended::Connect(error),
            },
            () = dropping(&mut self.outbox) => return Ended::HostGone,
        };
        if self.inbox.send(Inbox::Connected).await.is_err() {
            return Ended::HostGone;
        }
        let Ok(Some(hello)) = timeout(GREETING, hello(&mut self.outbox)).await else {
            return Ended::HostGone;
        };
        let (sender, messages) = mpsc::channel(WAITING);
        if sender.send(hello).await.is_err() {
            return Ended::Closed;
        }
        let mut client = LinkClient::new(channel);
        let incoming = match timeout(GREETING, client.session(ReceiverStream::new(messages))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Ended::Status(Box::new(status)),
            Err(_) => return Ended::Silent,
        };
        let outputs = Outputs::new(client);
        // Each goes on while the other waits: neither direction can hold up the other one, whichever is asked first.
        tokio::select! {
            biased;
            ended = receive(incoming, &self.inbox, &self.address, since) => ended,
            ended = send(&mut self.outbox, &sender, outputs) => ended,
        }
    }
}

/// From the controller to the host half.
async fn receive(
    mut incoming: Streaming<ToAgent>,
    inbox: &mpsc::Sender<Inbox>,
    address: &Address,
    since: &mut Option<Instant>,
) -> Ended {
    loop {
        let next = incoming.message();
        let message = match since {
            Some(_) => next.await,
            None => match timeout(GREETING, next).await {
                Ok(message) => message,
                Err(_) => return Ended::Silent,
            },
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ended::Closed,
            Err(status) => return Ended::Status(Box::new(status)),
        };
        match &message.message {
            Some(to_agent::Message::Welcome(welcome)) => {
                *since = Some(Instant::now());
                let skew_ms = welcome.now_ms.saturating_sub(now_ms());
                tracing::info!(%address, controller = welcome.controller, "connected");
                if skew_ms.unsigned_abs() > SKEW_MS {
                    tracing::warn!(
                        skew_ms,
                        "this host's clock and the controller's differ; orders may be refused for it"
                    );
                }
            }
            Some(to_agent::Message::Drain(drain)) => {
                return Ended::Drain(Duration::from_millis(u64::from(drain.after_ms)).min(LONGEST_DRAIN));
            }
            _ => {}
        }
        if inbox.send(Inbox::Message(message)).await.is_err() {
            return Ended::HostGone;
        }
    }
}

/// From the host half to the controller. Output never waits here, so that a result behind it does not either.
async fn send(
    outbox: &mut mpsc::Receiver<Outbox>,
    session: &mpsc::Sender<FromAgent>,
    mut outputs: Outputs,
) -> Ended {
    while let Some(next) = outbox.recv().await {
        match next {
            Outbox::Output(chunk) => outputs.push(chunk),
            Outbox::Message(message) => {
                if let Some(from_agent::Message::Finished(finished)) = &message.message {
                    outputs.close(&finished.order);
                }
                if session.send(*message).await.is_err() {
                    // The receiving side learns why the session ended, and tells it.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
    Ended::HostGone
}

/// The host half's next Hello; what it said before was for an earlier session.
async fn hello(outbox: &mut mpsc::Receiver<Outbox>) -> Option<FromAgent> {
    loop {
        if let Outbox::Message(message) = outbox.recv().await?
            && matches!(message.message, Some(from_agent::Message::Hello(_)))
        {
            return Some(*message);
        }
    }
}

/// Drops what the host half says; ends when it is gone.
async fn dropping(outbox: &mut mpsc::Receiver<Outbox>) {
    while outbox.recv().await.is_some() {}
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Says each reason once, and again from time to time while it lasts.
#[derive(Default)]
struct Log {
    last: Option<(String, Instant)>,
}

impl Log {
    fn say(&mut self, address: &Address, ended: &Ended, delay: Duration) {
        let (reason, cause, hint) = (ended.to_string(), ended.cause(), ended.hint());
        let again_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let told = self.last.as_ref().is_some_and(|(last, at)| *last == reason && at.elapsed() < REMIND);
        if told {
            tracing::debug!(%address, reason, cause, again_in_ms, "no session");
            return;
        }
        if ended.is_permanent() {
            tracing::error!(%address, reason, cause, hint, again_in_ms, "no session, and none to be expected");
        } else {
            tracing::warn!(%address, reason, cause, hint, again_in_ms, "no session");
        }
        self.last = Some((reason, Instant::now()));
    }
}

#[cfg(test)]
mod tests;
