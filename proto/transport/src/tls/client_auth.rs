use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::certificate::Validity;
use crate::identity::Identity;

/// webpki's verification of a client, and ours of its identity; expiry is forgiven for a while
/// where `grace` says so.
///
/// The identity is read here, although the listener reads it again, because here a refusal still
/// becomes a TLS alert: the client learns why, instead of seeing a closed connection.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    grace: Duration,
}

impl ClientVerifier {
    pub(super) fn new(webpki: Arc<dyn ClientCertVerifier>, grace: Duration) -> Self {
        Self { webpki, grace }
    }

    /// The time at which to verify a leaf: now, or its last valid second if that is no longer ago
    /// than the grace.
    ///
    /// Going back revives no CA: ours are trust anchors, whose dates webpki never looks at, and no
    /// intermediate stands below them.
    fn moment(&self, leaf: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
        let Ok(Validity { not_after, .. }) = Validity::of(leaf) else {
            return now;
        };
        let Ok(end) = u64::try_from(not_after).map(Duration::from_secs) else {
            return now;
        };
        match Duration::from_secs(now.as_secs()).checked_sub(end) {
            Some(late) if late <= self.grace => UnixTime::since_unix_epoch(end),
            _ => now,
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.webpki.verify_client_cert(leaf, chain, self.moment(leaf, now))?;
        match Identity::from_certificate(leaf) {
            Ok(_) => Ok(verified),
            // The variant that rustls turns into the alert `access_denied`.
            Err(_) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}
