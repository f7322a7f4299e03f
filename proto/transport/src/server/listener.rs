use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_stream::Stream;
use tracing::{debug, error, warn};

use super::handshake::handshake;
use super::pace::{HANDSHAKES, patience, pause};
use super::peer::PeerStream;
use crate::identity::Role;
use crate::network::{Accept, Socket};

/// Connections that the kernel may hold for us: a whole fleet's, after a restart (Linux caps it at
/// `somaxconn`, 4096).
const BACKLOG: u32 = 4096;

/// Finished handshakes that wait for tonic to take them. Small, since a waiting peer is better off
/// in the backlog.
const READY: usize = 16;

/// Whom a listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// Everyone, with or without a certificate: enrolment.
    Anyone,
    /// Peers with a certificate of one of these roles.
    Roles(&'static [Role]),
}

/// A bound socket whose connections become peers.
#[derive(Debug)]
pub struct Listener {
    sockets: Box<dyn Accept>,
    /// Written by whoever renews certificates; each connection takes the newest, older ones keep theirs.
    config: watch::Receiver<Arc<ServerConfig>>,
    admits: Admits,
}

impl Listener {
    /// Binds `address`. Must be called within a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        config: watch::Receiver<Arc<ServerConfig>>,
        admits: Admits,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restarted controller takes its port back although old connections linger in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self::new(socket.listen(BACKLOG)?, config, admits))
    }

    /// Takes over a socket that listens already, as one handed over by systemd.
    pub fn new(tcp: TcpListener, config: watch::Receiver<Arc<ServerConfig>>, admits: Admits) -> Self {
        Self::over(Box::new(tcp), config, admits)
    }

    /// Accepts from any network.
    pub fn over(
        sockets: Box<dyn Accept>,
        config: watch::Receiver<Arc<ServerConfig>>,
        admits: Admits,
    ) -> Self {
        Self { sockets, config, admits }
    }

    /// Where it listens: the port that the system chose, if it was asked to.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.sockets.local_address()
    }

    /// Starts accepting. The stream is for tonic's `serve_with_incoming_shutdown`; it neither fails
    /// nor ends. Dropping it closes the socket and every handshake under way.
    pub fn incoming(self) -> Incoming {
        let (sender, ready) = mpsc::channel(READY);
        let mut accepting = JoinSet::new();
        accepting.spawn(self.accept(sender));
        Incoming { ready, _accepting: accepting }
    }

    /// Accepts and shakes hands, each in its own task, so that a silent client delays nobody but itself.
    async fn accept(self, ready: mpsc::Sender<PeerStream>) {
        let mut handshakes = JoinSet::new();
        let mut failures = 0;
        loop {
            tokio::select! {
                Some(finished) = handshakes.join_next() => report(finished),
                accepted = self.sockets.accept(), if handshakes.len() < HANDSHAKES => match accepted {
                    Ok((socket, address)) => {
                        failures = 0;
                        let patience = patience(handshakes.len());
                        handshakes.spawn(self.welcome(socket, address, patience, ready.clone()));
                    }
                    Err(failure) => {
                        let pause = pause(&failure, failures);
                        if failures == 0 && !pause.is_zero() {
                            warn!(error = &failure as &dyn Error, "connections cannot be accepted");
                        }
                        failures = if pause.is_zero() { 0 } else { failures + 1 };
                        sleep(pause).await;
                    }
                },
            }
        }
    }

    /// One connection's way to tonic. It waits there outside its patience, which is the client's
    /// and not tonic's.
    fn welcome(
        &self,
        socket: Socket,
        address: SocketAddr,
        patience: Duration,
        ready: mpsc::Sender<PeerStream>,
    ) -> impl Future<Output = ()> + use<> {
        let config = Arc::clone(&self.config.borrow());
        let admits = self.admits;
        async move {
            match handshake(socket, address, config, admits, patience).await {
                // A closed channel is a server that stops; the connection closes with it.
                Ok(stream) => drop(ready.send(stream).await),
                Err(failure) => debug!(%address, error = &failure as &dyn Error, "a connection was refused"),
            }
        }
    }
}

/// The peers of a [`Listener`], in the order in which their handshakes end.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<PeerStream>,
    /// The accepting task, alone in its set; dropping a `JoinSet` aborts what is in it.
    _accepting: JoinSet<()>,
}

impl Stream for Incoming {
    type Item = Result<PeerStream, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

fn report(finished: Result<(), JoinError>) {
    if let Err(failure) = finished {
        error!(error = &failure as &dyn Error, "a handshake's task died");
    }
}
