//! The rustls configurations of both ends: TLS 1.3, aws-lc-rs, private roots, HTTP/2, and no resumption.
//!
//! Resumption is off on both ends, because a resumed session is not verified again: with rustls'
//! defaults an expired certificate, and after a reload a revoked one, was accepted (measured).
//! There is no early data for the same reason, and because it can be replayed.
//!
//! Configurations are immutable. To reload certificates or roots, build another and hand it to
//! [`crate::server::Listener`] through its channel, or to the next [`crate::client::connect`].

mod client_auth;
mod server_trust;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::credential::Credential;
use crate::pin::Pin;
use client_auth::ClientVerifier;
pub use server_trust::Rejection;
use server_trust::ServerVerifier;

/// The only protocol that we speak over TLS; HTTP/2's name in ALPN (RFC 9113, section 3.1).
pub(crate) const HTTP2: &[u8] = b"h2";

/// What a listener asks of its clients.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Nothing: enrolment alone, where a join token speaks for the client.
    None,
    /// A valid certificate of one of these CAs, with exactly one well-formed identity.
    Required { roots: Vec<CertificateDer<'static>> },
    /// The same, but one that expired less than `grace` ago is let in, so that it can be renewed.
    ///
    /// Whoever uses this *must* refuse every other rpc to a peer whose
    /// [`PeerCertificate::is_expired`](crate::server::PeerCertificate::is_expired) says yes.
    Forgiving { roots: Vec<CertificateDer<'static>>, grace: Duration },
}

/// How a client recognises its controller. Either way the name it dialled is in the leaf, and the
/// leaf's identity has the role [`Controller`](crate::identity::Role::Controller).
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// The leaf was issued by one of these CAs.
    Roots(Vec<CertificateDer<'static>>),
    /// The leaf was issued by the CA with this key, whose certificate the server sends along: for a
    /// first contact.
    ///
    /// A pin never expires: the dates in that CA certificate count for nothing, as in any trust anchor.
    Pinned(Pin),
}

/// The configuration of a listener that shows `credential`.
pub fn server_config(credential: &Credential, auth: ClientAuth) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsConfigError::Provider)?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required { roots } => {
            builder.with_client_cert_verifier(client_verifier(roots, Duration::ZERO)?)
        }
        ClientAuth::Forgiving { roots, grace } => {
            builder.with_client_cert_verifier(client_verifier(roots, grace)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified())));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The configuration of a client, which shows `credential` where it has one.
pub fn client_config(
    trust: ServerTrust,
    credential: Option<&Credential>,
) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let verifier = match trust {
        ServerTrust::Roots(roots) => ServerVerifier::with_roots(store(roots)?, provider())?,
        ServerTrust::Pinned(pin) => ServerVerifier::with_pin(pin, provider()),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsConfigError::Provider)?
        // "Dangerous" is rustls' word for any verifier of one's own; ours adds checks to webpki's
        // and drops none.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match credential {
        Some(credential) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(credential.certified())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// The one cryptographic provider, always named: a process with two of them has no default, and
/// rustls then panics.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn client_verifier(
    roots: Vec<CertificateDer<'static>>,
    grace: Duration,
) -> Result<Arc<ClientVerifier>, TlsConfigError> {
    let webpki = WebPkiClientVerifier::builder_with_provider(store(roots)?, provider())
        .build()
        .map_err(TlsConfigError::Verifier)?;
    Ok(Arc::new(ClientVerifier::new(webpki, grace)))
}

/// Trust anchors, all or none: one that does not decode must not vanish unseen.
fn store(roots: Vec<CertificateDer<'static>>) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).map_err(TlsConfigError::Root)?;
    }
    Ok(Arc::new(store))
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    #[error("the cryptographic provider cannot do TLS 1.3")]
    Provider(#[source] rustls::Error),
    #[error("a root certificate does not decode")]
    Root(#[source] rustls::Error),
    #[error("the roots make no verifier")]
    Verifier(#[source] VerifierBuilderError),
}
