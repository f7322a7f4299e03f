use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::listener::Admits;
use super::peer::{Peer, PeerCertificate, PeerStream};
use crate::identity::{Identity, IdentityError};
use crate::network::Socket;
use crate::tls::HTTP2;

/// Makes an accepted socket into a peer, within `patience`.
pub(super) async fn handshake(
    socket: Socket,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    admits: Admits,
    patience: Duration,
) -> Result<PeerStream, HandshakeError> {
    let tls = timeout(patience, TlsAcceptor::from(config).accept(socket))
        .await
        .map_err(|_| HandshakeError::Slow { patience })?
        .map_err(HandshakeError::Tls)?;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(HTTP2) {
        return Err(HandshakeError::NotHttp2);
    }
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let certificate = leaf.map(PeerCertificate::read).transpose()?.map(Arc::new);
    admit(admits, certificate.as_deref())?;
    Ok(PeerStream::new(tls, Peer { address, certificate }))
}

/// Whether the listener takes this peer. A missing certificate is refused here too, so that a
/// configuration which forgot to require one opens nothing.
fn admit(admits: Admits, certificate: Option<&PeerCertificate>) -> Result<(), HandshakeError> {
    match (admits, certificate) {
        (Admits::Anyone, _) => Ok(()),
        (Admits::Roles(_), None) => Err(HandshakeError::Anonymous),
        (Admits::Roles(roles), Some(certificate)) => match roles.contains(&certificate.identity.role()) {
            true => Ok(()),
            false => Err(HandshakeError::Role { identity: certificate.identity.clone() }),
        },
    }
}

/// Why a connection came to nothing. Only the log sees it; the peer gets a TLS alert or a closed
/// connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("no handshake within {} s", .patience.as_secs())]
    Slow { patience: Duration },
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("the client did not agree on HTTP/2")]
    NotHttp2,
    #[error("the client showed no certificate")]
    Anonymous,
    #[error("the client's certificate names nobody")]
    Identity(#[from] IdentityError),
    #[error("{identity} has a role that this listener does not admit")]
    Role { identity: Identity },
}
