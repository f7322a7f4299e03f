use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::certificate::{self, Validity};
use crate::identity::{Identity, IdentityError};
use crate::network::Socket;

/// The far end of a connection, as every request on it finds it in its extensions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where the connection comes from: for logs and rate limits, never for rights.
    pub address: SocketAddr,
    /// `None` only on a listener that admits [`Anyone`](super::Admits::Anyone).
    pub certificate: Option<Arc<PeerCertificate>>,
}

impl Peer {
    /// Who is calling, where the connection says so.
    pub fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref().map(|certificate| &certificate.identity)
    }
}

/// A verified client certificate, read once per connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub identity: Identity,
    /// Lowercase hex of whole bytes, without leading zero bytes: what a deny-list compares.
    pub serial: String,
    /// The last second in which the certificate is valid, since the Unix epoch. Streams end at it.
    pub not_after: i64,
    /// SHA-256 of the subject public key info (DER): says whether a renewal keeps the key.
    pub public_key_sha256: [u8; 32],
}

impl PeerCertificate {
    /// Reads the facts; verifies nothing.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let certificate = certificate::parse(certificate)?;
        Ok(Self {
            identity: Identity::read(&certificate)?,
            serial: certificate::serial(&certificate),
            not_after: Validity::read(&certificate).not_after,
            public_key_sha256: certificate::public_key_sha256(&certificate),
        })
    }

    /// Whether the certificate's time is over at `now`: on a
    /// [`Forgiving`](crate::tls::ClientAuth::Forgiving) listener, and for a stream that outlives
    /// its certificate.
    pub fn is_expired(&self, now: SystemTime) -> bool {
        let Self { not_after, .. } = *self;
        Validity { not_before: i64::MIN, not_after }.is_over(now)
    }
}

/// An accepted connection: bytes for hyper, and a [`Peer`] for every request.
#[derive(Debug)]
pub struct PeerStream {
    tls: TlsStream<Socket>,
    peer: Peer,
}

impl PeerStream {
    pub(super) fn new(tls: TlsStream<Socket>, peer: Peer) -> Self {
        Self { tls, peer }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
