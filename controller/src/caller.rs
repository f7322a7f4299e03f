//! Who is calling: the authenticated peer of one rpc.
//!
//! Read from the connection's certificate and from nowhere else; no message field ever says who somebody is.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use vigie_proto::id::HostId;
use vigie_transport::{
    identity::{Identity, Role},
    server::{Peer, PeerCertificate},
};

/// The peer of one rpc. Only a connection's [`Peer`] becomes one.
#[derive(Debug, Clone)]
pub struct Caller {
    address: SocketAddr,
    /// `None` on the enrolment's listener, where a token speaks for the peer.
    certificate: Option<Arc<PeerCertificate>>,
}

/// Why a peer is no caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallerError {
    #[error("the connection says nothing of its peer")]
    NoPeer,
    #[error("the certificate has expired since the connection was opened")]
    Expired,
    #[error("the certificate does not name a host")]
    NotAHost,
}

impl Caller {
    /// Reads the caller of a request. A connection outlives its certificate, so the end of it is looked at each time.
    ///
    /// # Errors
    /// When the connection did not come through our listener, or its certificate is past its end.
    pub(crate) fn of(extensions: &http::Extensions, now: SystemTime) -> Result<Self, CallerError> {
        let peer = extensions.get::<Peer>().ok_or(CallerError::NoPeer)?;
        if peer.certificate.as_ref().is_some_and(|certificate| certificate.is_expired(now)) {
            return Err(CallerError::Expired);
        }
        Ok(Self { address: peer.address, certificate: peer.certificate.clone() })
    }

    /// `None` for a peer without a certificate.
    pub fn identity(&self) -> Option<&Identity> {
        self.certificate.as_ref().map(|certificate| &certificate.identity)
    }

    /// `None` for a peer without a certificate.
    pub fn role(&self) -> Option<Role> {
        self.identity().map(Identity::role)
    }

    /// The certificate by which the peer is known.
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        self.certificate.as_deref()
    }

    /// The name within the role: an operator's. Empty for a peer without a certificate.
    pub fn name(&self) -> &str {
        self.identity().map_or("", Identity::name)
    }

    /// How logs and the audit name the caller.
    pub fn actor(&self) -> String {
        self.identity().map_or_else(|| "anonymous".to_owned(), ToString::to_string)
    }

    /// Where the connection comes from: for the record, never for rights.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The host whose agent this is.
    ///
    /// # Errors
    /// When the caller is no agent.
    pub fn host(&self) -> Result<HostId, CallerError> {
        match self.identity() {
            Some(identity) if identity.role() == Role::Agent => {
                identity.name().parse().map_err(|_| CallerError::NotAHost)
            }
            _ => Err(CallerError::NotAHost),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A peer as the listener would have made it.
    pub(crate) fn peer(identity: Option<&str>, not_after: i64) -> Peer {
        Peer {
            address: SocketAddr::from(([192, 0, 2, 1], 4000)),
            certificate: identity.map(|identity| {
                Arc::new(PeerCertificate {
                    identity: identity.parse().unwrap(),
                    serial: "40".to_owned(),
                    not_after,
                    public_key_sha256: [0; 32],
                })
            }),
        }
    }

    fn caller(peer: Option<Peer>) -> Result<Caller, CallerError> {
        let mut extensions = http::Extensions::new();
        peer.map(|peer| extensions.insert(peer));
        Caller::of(&extensions, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000))
    }

    #[test]
    fn a_certificate_that_ended_on_an_open_connection_is_refused() {
        let operator = Some("spiffe://vigie/operator/ada");
        assert_eq!(caller(Some(peer(operator, 1000))).unwrap().name(), "ada");
        assert_eq!(caller(Some(peer(operator, 999))).unwrap_err(), CallerError::Expired);
        assert_eq!(caller(None).unwrap_err(), CallerError::NoPeer);
    }

    #[test]
    fn only_an_agent_is_a_host() {
        let host = HostId::new();
        let agent = caller(Some(peer(Some(&format!("spiffe://vigie/agent/{host}")), 2000))).unwrap();
        assert_eq!(agent.host(), Ok(host));
        for other in ["spiffe://vigie/agent/vps1".to_owned(), format!("spiffe://vigie/operator/{host}")] {
            let caller = caller(Some(peer(Some(&other), 2000))).unwrap();
            assert_eq!(caller.host(), Err(CallerError::NotAHost), "{other}");
        }
        assert_eq!(caller(Some(peer(None, 0))).unwrap().host(), Err(CallerError::NotAHost));
    }
}
