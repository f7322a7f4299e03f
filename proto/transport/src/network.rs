//! Where connections come from: the system's sockets, or a network that a simulation makes up.
//!
//! Nothing above this line knows the difference: what comes out is bytes in order, and who is at the other end is TLS's
//! to say.

use std::{fmt, io, net::SocketAddr, time::Duration};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, lookup_host},
};
use tracing::debug;

/// When TCP begins to ask after a silent peer, how often, and how many times. HTTP/2's pings notice
/// sooner; these remain for a connection that a task forgot, which nobody pings.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;

/// A connection's bytes, both ways.
pub trait Bytes: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Bytes for S {}

/// A connection, whatever carries it.
pub type Socket = Box<dyn Bytes>;

/// What a client dials through.
#[tonic::async_trait]
pub trait Network: fmt::Debug + Send + Sync {
    /// The addresses of a host, in the order in which they are to be tried.
    ///
    /// # Errors
    /// When the host is not known, or nobody can be asked.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// A connection to one address. It takes as long as the network takes; the caller has the deadline.
    ///
    /// # Errors
    /// When there is none.
    async fn connect(&self, address: SocketAddr) -> io::Result<Socket>;
}

/// What a server accepts from.
#[tonic::async_trait]
pub trait Accept: fmt::Debug + Send + Sync {
    /// Where it listens.
    ///
    /// # Errors
    /// When the socket does not say.
    fn local_address(&self) -> io::Result<SocketAddr>;

    /// The next connection, and where it comes from. Nothing is lost when this is dropped.
    ///
    /// # Errors
    /// When nobody can be accepted at present.
    async fn accept(&self) -> io::Result<(Socket, SocketAddr)>;
}

/// The system's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct System;

#[tonic::async_trait]
impl Network for System {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<Socket> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Box::new(tcp))
    }
}

#[tonic::async_trait]
impl Accept for TcpListener {
    fn local_address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }

    async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        loop {
            let (tcp, address) = Self::accept(self).await?;
            match tune(&tcp) {
                Ok(()) => return Ok((Box::new(tcp), address)),
                Err(error) => debug!(%address, %error, "a socket took no options, and is closed"),
            }
        }
    }
}

/// tonic's socket settings do not reach a stream that we accept, so they are made here.
fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(tcp, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(tcp, PROBES)?;
    Ok(())
}
