//! What a certificate says, and whether this machine would believe it.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::{
    CertificateError, Error as TlsError, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use vigie_proto::v1::Certificate;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Where Debian, Alpine and Red Hat keep what they trust.
const TRUSTED: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt"];

/// More names than this tell nobody anything.
const NAMES: usize = 32;

/// The first certificate of a PEM file.
///
/// # Errors
/// In words, when there is none that can be read.
pub fn from_file(path: &Path) -> Result<Certificate, String> {
    let der = CertificateDer::from_pem_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    describe(&der).ok_or_else(|| format!("{} holds no certificate that can be read", path.display()))
}

/// What a certificate says of itself.
pub fn describe(der: &CertificateDer<'_>) -> Option<Certificate> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string()),
        },
        _ => None,
    });
    let validity = parsed.validity();
    let (begins, ends) = (validity.not_before.timestamp() * 1000, validity.not_after.timestamp() * 1000);
    let left = ends.saturating_sub(now_ms());
    Some(Certificate {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        names: names.take(NAMES).collect(),
        not_before_ms: begins,
        not_after_ms: ends,
        days_left: i32::try_from(left / 86_400_000).unwrap_or(i32::MAX),
        expired: left <= 0,
        fingerprint: HEXLOWER.encode(&Sha256::digest(der.as_ref())),
    })
}

/// Whether a client on this machine would believe a chain for a name: empty when it would, else the word for why not.
pub(crate) fn trouble(chain: &[CertificateDer<'_>], name: &str) -> &'static str {
    let Some((own, others)) = chain.split_first() else { return "invalid" };
    let Ok(server) = ServerName::try_from(name) else { return "wrong_name" };
    let mut roots = RootCertStore::empty();
    if let Some(file) = TRUSTED.iter().find_map(|path| std::fs::read(path).ok()) {
        for trusted in CertificateDer::pem_slice_iter(&file).flatten() {
            if trusted == *own {
                // A self-signed one that this machine was told to trust.
                return plain_trouble(own, name);
            }
            roots.add_parsable_certificates([trusted]);
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verdict = if roots.is_empty() {
        Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer))
    } else {
        match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() {
            Ok(verifier) => {
                verifier.verify_server_cert(own, others, &server, &[], UnixTime::now()).map(|_| ())
            }
            Err(_) => Err(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    };
    let found = match verdict {
        Ok(()) => return "",
        Err(TlsError::InvalidCertificate(error)) => word(&error),
        Err(_) => "invalid",
    };
    // Who signed it is asked before anything else, and what is wrong with the certificate itself says more.
    match (found, plain_trouble(own, name)) {
        ("unknown_issuer" | "invalid", plain) if !plain.is_empty() => plain,
        ("invalid", _) if describe(own).is_some_and(|own| own.subject == own.issuer) => "unknown_issuer",
        (found, _) => found,
    }
}

/// What is wrong with a certificate whoever signed it.
fn plain_trouble(own: &CertificateDer<'_>, name: &str) -> &'static str {
    match describe(own) {
        None => "invalid",
        Some(own) if own.expired => "expired",
        Some(own) if own.not_before_ms > now_ms() => "not_yet_valid",
        Some(own) if !covers(&own.names, name) => "wrong_name",
        Some(_) => "",
    }
}

fn word(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not_yet_valid",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "wrong_name",
        CertificateError::UnknownIssuer => "unknown_issuer",
        _ => "invalid",
    }
}

/// Whether one of a certificate's names is this one; `*` stands for one label.
fn covers(names: &[String], name: &str) -> bool {
    names.iter().any(|own| match own.strip_prefix("*.") {
        Some(rest) => name.split_once('.').is_some_and(|(_, above)| above.eq_ignore_ascii_case(rest)),
        None => own.eq_ignore_ascii_case(name),
    })
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// A self-signed certificate for these names, until the end of a year.
    fn certificate(names: &[&str], until: i32) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 12, 31);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn what_it_says_and_what_is_wrong_with_it() {
        let good = certificate(&["shop.example", "*.shop.example", "192.0.2.7"], 2094);
        let said = describe(&good).unwrap();
        assert_eq!(said.names, ["shop.example", "*.shop.example", "192.0.2.7"]);
        assert!(!said.expired && said.days_left > 10_000 && said.fingerprint.len() == 64);
        assert_eq!(trouble(std::slice::from_ref(&good), "shop.example"), "unknown_issuer");
        assert_eq!(trouble(std::slice::from_ref(&good), "api.shop.example"), "unknown_issuer");
        assert_eq!(trouble(std::slice::from_ref(&good), "other.example"), "wrong_name");
        let old = certificate(&["shop.example"], 2021);
        let said = describe(&old).unwrap();
        assert!(said.expired && said.days_left < -300, "{said:?}");
        assert_eq!(trouble(&[old], "shop.example"), "expired");
        assert_eq!(trouble(&[], "shop.example"), "invalid");
    }

    #[test]
    fn what_is_no_certificate() {
        assert!(describe(&CertificateDer::from(b"nothing".as_slice())).is_none());
        assert!(from_file(Path::new("/nonexistent")).is_err());
    }
}
