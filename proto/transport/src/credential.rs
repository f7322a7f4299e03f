//! What proves an identity: a private key and the certificate chain that names it.
//!
//! Owns how both rest on a disk: private files have mode 0600, are replaced whole, and are refused
//! when anyone else can read them. It asks for certificates ([`PrivateKey::certificate_request`])
//! and never issues one.

mod file;
mod key;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::certificate::{Malformed, Validity};
use crate::identity::{Identity, IdentityError};
use crate::tls;
pub use file::{FileError, read_private, read_public, write_private};
pub use key::{KeyError, PrivateKey};

/// A certificate chain, leaf first, and the private key of the leaf. The two match: nothing else
/// can be built.
#[derive(Clone, Debug)]
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    /// The same, as rustls wants it; made once, since that is also how we learn that the two match.
    certified: Arc<CertifiedKey>,
}

impl Credential {
    /// Joins a chain and its key. A controller's chain ends with its CA, so that agents can find
    /// their pin in it.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, CredentialError> {
        if chain.is_empty() {
            return Err(CredentialError::NoCertificate);
        }
        let certified = CertifiedKey::from_der(chain.clone(), key.to_rustls(), &tls::provider())
            .map_err(CredentialError::Mismatch)?;
        Ok(Self { chain, key, certified: Arc::new(certified) })
    }

    /// Reads a chain and a key from PEM files. Both paths may be the same: see [`Credential::save`].
    pub fn load(chain: &Path, key: &Path) -> Result<Self, LoadError> {
        let key = PrivateKey::load(key)?;
        let certificates = certificates_from_pem(&read_public(chain)?)
            .map_err(|source| LoadError::Pem { path: chain.to_owned(), source })?;
        Self::new(certificates, key)
            .map_err(|source| LoadError::Credential { path: chain.to_owned(), source })
    }

    /// Writes key and chain into *one* private file, replaced in one rename: a crash during a
    /// renewal never leaves a key beside another key's certificate. [`Credential::load`] reads it
    /// back, given its path twice.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let mut text = self.key.to_pem();
        text.push_str(&certificates_to_pem(&self.chain));
        write_private(path, text.as_bytes())
    }

    /// The chain, leaf first; never empty.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Whom the leaf names.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        self.chain.first().ok_or(Malformed.into()).and_then(Identity::from_certificate)
    }

    /// When the leaf is valid: what a renewal loop plans by.
    pub fn validity(&self) -> Result<Validity, Malformed> {
        self.chain.first().ok_or(Malformed).and_then(Validity::of)
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// Every certificate in a PEM text, in order; at least one. Sections of other kinds are passed over.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>()?;
    match certificates.is_empty() {
        true => Err(pem::Error::NoItemsFound),
        false => Ok(certificates),
    }
}

/// Certificates as PEM, in order.
pub fn certificates_to_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| armour("CERTIFICATE", certificate)).collect()
}

/// One PEM section, in lines of 64 characters as RFC 7468 asks.
fn armour(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(BASE64.encode(der));
    // Sized at once: a `String` that grows would leave copies of a key behind in freed memory.
    let mut text = String::with_capacity(body.len() + body.len() / 64 + 2 * (label.len() + 20));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (at, character) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// Why a chain and a key are no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("the chain holds no certificate")]
    NoCertificate,
    #[error("the private key is not the certificate's, or cannot be used")]
    Mismatch(#[source] rustls::Error),
}

/// Why no credential could be read from files. Each text names the file and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path} holds no usable private key; make a new one by enrolling again, or restore the file")]
    Key { path: PathBuf, source: KeyError },
    #[error("{path} holds no readable PEM certificate; enrol again, or restore the file")]
    Pem { path: PathBuf, source: pem::Error },
    #[error("the certificate in {path} cannot be used with its key; restore the pair, or enrol again")]
    Credential { path: PathBuf, source: CredentialError },
}

#[cfg(test)]
mod tests;
