use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, PeerIncompatible, RootCertStore,
    SignatureScheme,
};

use super::TlsConfigError;
use crate::identity::{Identity, IdentityError, Role};
use crate::pin::Pin;

/// webpki's verification of a server (issuer, dates, usage, name), and ours of its identity.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    anchor: Anchor,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Anchor {
    Roots(Arc<WebPkiServerVerifier>),
    Pin(Pin),
}

impl ServerVerifier {
    pub(super) fn with_roots(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let webpki = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(TlsConfigError::Verifier)?;
        Ok(Self { anchor: Anchor::Roots(webpki), provider })
    }

    pub(super) fn with_pin(pin: Pin, provider: Arc<CryptoProvider>) -> Self {
        Self { anchor: Anchor::Pin(pin), provider }
    }

    /// The verifier for this chain: ours, or one made for the presented CA that has the pinned key.
    ///
    /// Anyone can write a CA certificate around that public key, but only its owner can sign a leaf
    /// with it, so nothing else in the certificate needs to be believed.
    fn webpki(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let pin = match &self.anchor {
            Anchor::Roots(webpki) => return Ok(Arc::clone(webpki)),
            Anchor::Pin(pin) => *pin,
        };
        let pinned = chain.iter().find(|certificate| Pin::of(certificate) == Ok(pin));
        let mut roots = RootCertStore::empty();
        roots.add(pinned.ok_or_else(|| reject(Rejection::Pin { expected: pin }))?.clone())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.webpki(chain)?.verify_server_cert(leaf, chain, name, ocsp, now)?;
        let identity = Identity::from_certificate(leaf).map_err(|error| reject(error.into()))?;
        match identity.role() {
            Role::Controller => Ok(verified),
            _ => Err(reject(Rejection::Role { identity })),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // Never asked for: the configurations offer TLS 1.3 alone.
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What our checks, and not webpki's, hold against a server. The client finds it again in rustls' error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("no CA that the server presented has the pinned key {expected}")]
    Pin { expected: Pin },
    #[error("the server's certificate names nobody")]
    Identity(#[from] IdentityError),
    #[error("the server is {identity}, which is no controller")]
    Role { identity: Identity },
}

impl Rejection {
    /// Finds a rejection inside the error of a handshake.
    pub(crate) fn find(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }
}

fn reject(rejection: Rejection) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
}
