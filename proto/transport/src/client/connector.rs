use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::AsyncBufReadExt;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Address, ConnectError, Stage};
use crate::network::{Network, Socket};
use crate::tls::HTTP2;

/// For one attempt, from the name to the server's first word.
const DEADLINE: Duration = Duration::from_secs(5);

/// One attempt to reach a controller.
pub(super) async fn dial(
    network: Arc<dyn Network>,
    address: Address,
    tls: Arc<ClientConfig>,
) -> Result<TokioIo<TlsStream<Socket>>, ConnectError> {
    let deadline = Instant::now() + DEADLINE;
    let socket = reach(&*network, &address, deadline).await?;
    let secured = timeout_at(deadline, secure(&address, tls, socket)).await;
    secured.unwrap_or_else(|_| Err(ConnectError::timeout(&address, Stage::Tls))).map(TokioIo::new)
}

/// Resolves and connects. Each address gets its share of the time that is left, so that a dead IPv6
/// route does not use up what IPv4 needs; the error is the last one's.
async fn reach(network: &dyn Network, address: &Address, deadline: Instant) -> Result<Socket, ConnectError> {
    let host = address.host();
    let candidates = timeout_at(deadline, network.resolve(&host, address.port()))
        .await
        .map_err(|_| ConnectError::timeout(address, Stage::Resolve))?
        .map_err(|source| ConnectError::resolve(address, source))?;
    let mut failure = ConnectError::NoAddress { host };
    for (tried, candidate) in candidates.iter().enumerate() {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let share = remaining / u32::try_from(candidates.len() - tried).unwrap_or(u32::MAX);
        match timeout_at(Instant::now() + share, network.connect(*candidate)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(source)) => failure = ConnectError::tcp(address, source),
            Err(_) => failure = ConnectError::timeout(address, Stage::Tcp),
        }
    }
    Err(failure)
}

/// The TLS handshake, and the wait for the server's first byte.
///
/// In TLS 1.3 the client's handshake ends before the server has looked at the client's certificate;
/// a refusal comes as an alert where the first data would be. HTTP/2 servers speak first (their
/// SETTINGS need nothing from the client; RFC 9113, section 3.4), so one read tells consent from
/// refusal here, where it can be told apart from later trouble.
async fn secure(
    address: &Address,
    tls: Arc<ClientConfig>,
    socket: Socket,
) -> Result<TlsStream<Socket>, ConnectError> {
    let name = address.server_name().map_err(ConnectError::Address)?;
    let mut stream = TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|source| ConnectError::handshake(address, source))?;
    if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
        return Err(ConnectError::NotHttp2 { address: address.clone() });
    }
    let greeting = stream.fill_buf().await.map_err(|source| ConnectError::handshake(address, source))?;
    match greeting.is_empty() {
        true => Err(ConnectError::Closed { address: address.clone() }),
        false => Ok(stream),
    }
}
