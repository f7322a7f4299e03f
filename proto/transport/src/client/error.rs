use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::AlertDescription;

use super::{Address, AddressError};
use crate::tls::Rejection;

/// Why there is no connection. The text is the fact; [`ConnectError::hint`] is what to do about it.
///
/// It can be cloned, because tonic keeps the original inside its own error, where it can only be
/// borrowed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    #[error("the address cannot be dialled")]
    Address(#[source] AddressError),
    #[error("the name `{host}` does not resolve")]
    Resolve { host: String, source: Arc<io::Error> },
    #[error("the name `{host}` has no address")]
    NoAddress { host: String },
    #[error("{address} refuses connections")]
    Refused { address: Address, source: Arc<io::Error> },
    #[error("{address} cannot be reached")]
    Unreachable { address: Address, source: Arc<io::Error> },
    #[error("{address} did not answer in time ({stage})")]
    Timeout { address: Address, stage: Stage },
    #[error("{address} is not the controller that was pinned")]
    Pin { address: Address, source: Rejection },
    #[error("{address} is no controller")]
    Impostor { address: Address, source: Rejection },
    #[error("{address} has a certificate of an unknown CA")]
    Untrusted { address: Address, source: rustls::Error },
    #[error("{address} has a certificate for another name")]
    Name { address: Address, source: rustls::Error },
    #[error("{address} has an expired certificate")]
    Expired { address: Address, source: rustls::Error },
    #[error("{address} has a certificate that is not valid yet")]
    NotYetValid { address: Address, source: rustls::Error },
    #[error("{address} refuses our certificate ({alert:?})")]
    CertificateRefused { address: Address, alert: AlertDescription },
    #[error("{address} does not speak TLS 1.3")]
    NotTls { address: Address, source: rustls::Error },
    #[error("{address} does not speak HTTP/2")]
    NotHttp2 { address: Address },
    #[error("{address} closed the connection right after the handshake")]
    Closed { address: Address },
    #[error("the TLS handshake with {address} failed")]
    Tls { address: Address, source: Arc<io::Error> },
    #[error("the connection failed")]
    Transport(#[source] Arc<tonic::transport::Error>),
}

/// How far an attempt had come when its time was up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Resolve,
    Tcp,
    Tls,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving its name",
            Self::Tcp => "opening a TCP connection",
            Self::Tls => "TLS handshake",
        })
    }
}

impl ConnectError {
    pub(super) fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
    }
}

/// Finds the failed attempt behind an rpc's error: tonic redials by itself, and then its status is
/// all there is.
pub fn explain(status: &tonic::Status) -> Option<&ConnectError> {
    ConnectError::find(status)
}
