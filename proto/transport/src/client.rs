//! The dialling end: one address, one attempt with a deadline, and an error that says what to do.
//!
//! Owns nothing beyond the channel that it returns; tonic redials behind that when a connection is
//! lost, with the same configuration. Whoever renews certificates connects anew. Backing off
//! between attempts is the caller's too.

mod address;
mod classify;
mod connector;
mod error;
mod hint;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::network::{Network, System};
pub use address::{Address, AddressError};
pub use error::{ConnectError, Stage, explain};

/// The controller's windows, seen from the other side: a result that streams in over a long link
/// needs more than HTTP/2's 64 KiB, which would hold 100 ms of latency to 640 KB/s.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Headers of one response, decoded; the same as the server takes.
const HEADERS: u32 = 16 * 1024;

/// When a silent connection is given up. Pings go out while no call is open too: an agent has to
/// notice a controller that vanished, and NAT forgets idle connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Between two pings.
    pub interval: Duration,
    /// For the answer to one.
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// 10 s and 5 s: a half-open connection is noticed within 15 s.
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), timeout: Duration::from_secs(5) }
    }
}

/// Connects, within 5 s for everything: resolution, TCP, TLS, and the server's consent to our
/// certificate.
pub async fn connect(
    address: Address,
    tls: Arc<ClientConfig>,
    keepalive: Keepalive,
) -> Result<Channel, ConnectError> {
    connect_over(Arc::new(System), address, tls, keepalive).await
}

/// The same over any network.
pub async fn connect_over(
    network: Arc<dyn Network>,
    address: Address,
    tls: Arc<ClientConfig>,
    keepalive: Keepalive,
) -> Result<Channel, ConnectError> {
    let endpoint = endpoint(&address, keepalive)?;
    let dial = service_fn(move |_| connector::dial(Arc::clone(&network), address.clone(), Arc::clone(&tls)));
    endpoint.connect_with_connector(dial).await.map_err(ConnectError::from_transport)
}

/// The connector is ours, so tonic must not add TLS of its own: it dials `http`, and requests say
/// `https`.
fn endpoint(address: &Address, keepalive: Keepalive) -> Result<Endpoint, ConnectError> {
    let uri =
        |scheme| Endpoint::from_shared(format!("{scheme}://{address}")).map_err(ConnectError::from_transport);
    let origin = uri("https")?.uri().clone();
    Ok(uri("http")?
        .origin(origin)
        .http2_keep_alive_interval(keepalive.interval)
        .keep_alive_timeout(keepalive.timeout)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADERS))
}
