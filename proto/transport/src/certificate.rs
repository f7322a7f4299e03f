//! Reading X.509: the few facts that the other modules need, each refused when it is ambiguous.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

/// The bytes are no certificate that we are ready to reason about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed X.509 certificate")]
pub struct Malformed;

/// When a certificate is valid, in seconds since the Unix epoch; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Malformed> {
        Ok(Self::read(&parse(certificate)?))
    }

    pub(crate) fn read(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() }
    }

    /// Whether the certificate is past its end at `now`. A clock before 1970 is past nothing.
    pub fn is_over(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(now.as_secs()).is_ok_and(|now| now > self.not_after)
    }
}

/// Decodes a certificate, whole: bytes after its end, and extensions that do not decode, are refused,
/// because `x509-parser` reports the latter as absent and absence would then mean "not a CA".
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Malformed> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Malformed)?;
    let undecoded = |extension: &ParsedExtension<'_>| {
        matches!(extension, ParsedExtension::ParseError { .. } | ParsedExtension::Unparsed)
    };
    let damaged = certificate.iter_extensions().any(|extension| undecoded(extension.parsed_extension()));
    if damaged || !rest.is_empty() {
        return Err(Malformed);
    }
    Ok(certificate)
}

/// Whether the certificate may sign others: by its basic constraints, or by its key usage alone.
pub(crate) fn is_authority(certificate: &X509Certificate<'_>) -> Result<bool, Malformed> {
    let constraints = certificate.basic_constraints().map_err(|_| Malformed)?;
    let usage = certificate.key_usage().map_err(|_| Malformed)?;
    Ok(constraints.is_some_and(|extension| extension.value.ca)
        || usage.is_some_and(|extension| extension.value.key_cert_sign()))
}

/// SHA-256 of the subject public key info, as DER.
pub(crate) fn public_key_sha256(certificate: &X509Certificate<'_>) -> [u8; 32] {
    Sha256::digest(certificate.public_key().raw).into()
}

/// The serial number in lowercase hex, whole bytes, without leading zero bytes: DER drops and adds those
/// as the sign bit requires, and a serial must compare equal to what its issuer noted down.
pub(crate) fn serial(certificate: &X509Certificate<'_>) -> String {
    let bytes = certificate.raw_serial();
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    HEXLOWER.encode(&bytes[start..])
}
