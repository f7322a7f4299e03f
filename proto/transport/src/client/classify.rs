//! From the errors of the layers below to ours.

use std::io;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError};

use super::{Address, ConnectError, Stage};
use crate::tls::Rejection;

impl ConnectError {
    pub(super) fn timeout(address: &Address, stage: Stage) -> Self {
        Self::Timeout { address: address.clone(), stage }
    }

    pub(super) fn resolve(address: &Address, source: io::Error) -> Self {
        Self::Resolve { host: address.host(), source: Arc::new(source) }
    }

    pub(super) fn tcp(address: &Address, source: io::Error) -> Self {
        let (address, source) = (address.clone(), Arc::new(source));
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address, source },
            io::ErrorKind::TimedOut => Self::Timeout { address, stage: Stage::Tcp },
            _ => Self::Unreachable { address, source },
        }
    }

    /// tokio-rustls puts rustls' error inside an `io::Error`, whose `source` skips it; `get_ref`
    /// does not.
    pub(super) fn handshake(address: &Address, source: io::Error) -> Self {
        match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => Self::rustls(address.clone(), error.clone())
                .unwrap_or_else(|address| Self::Tls { address, source: Arc::new(source) }),
            None if is_close(source.kind()) => Self::Closed { address: address.clone() },
            None => Self::Tls { address: address.clone(), source: Arc::new(source) },
        }
    }

    /// The cases that a person can do something about; gives the address back for any other.
    fn rustls(address: Address, source: rustls::Error) -> Result<Self, Address> {
        use CertificateError as C;
        if let Some(rejection) = Rejection::find(&source).cloned() {
            return Ok(match rejection {
                Rejection::Pin { .. } => Self::Pin { address, source: rejection },
                Rejection::Identity(_) | Rejection::Role { .. } => {
                    Self::Impostor { address, source: rejection }
                }
            });
        }
        match &source {
            rustls::Error::InvalidCertificate(fault) => match fault {
                C::Expired | C::ExpiredContext { .. } => Ok(Self::Expired { address, source }),
                C::NotValidYet | C::NotValidYetContext { .. } => Ok(Self::NotYetValid { address, source }),
                C::NotValidForName | C::NotValidForNameContext { .. } => Ok(Self::Name { address, source }),
                _ => Ok(Self::Untrusted { address, source }),
            },
            rustls::Error::AlertReceived(alert) if is_refusal(*alert) => {
                Ok(Self::CertificateRefused { address, alert: *alert })
            }
            rustls::Error::InvalidMessage(_)
            | rustls::Error::PeerIncompatible(_)
            | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
                Ok(Self::NotTls { address, source })
            }
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
                Ok(Self::NotHttp2 { address })
            }
            _ => Err(address),
        }
    }

    pub(super) fn from_transport(error: tonic::transport::Error) -> Self {
        match Self::find(&error) {
            Some(found) => found.clone(),
            None => Self::Transport(Arc::new(error)),
        }
    }
}

/// How the end of a connection looks, depending on what was under way.
fn is_close(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// The alerts by which a server says that it does not like a client's certificate (RFC 8446,
/// section 6.2).
fn is_refusal(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}
