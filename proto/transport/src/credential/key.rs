use std::fmt;
use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use super::{FileError, LoadError, armour, read_private, write_private};

/// An ECDSA P-256 private key: what every TLS stack and every hardware key can do.
///
/// Held as PKCS#8 DER, wiped when dropped; its `Debug` says nothing. (The copies inside rustls and
/// aws-lc are theirs.)
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
        Ok(Self(Zeroizing::new(Zeroizing::new(pair).serialize_der())))
    }

    /// Reads the first PKCS#8 section of a PEM text, and refuses a key of any other kind than P-256.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let mut der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(KeyError::Pem)?;
        let key = Self(Zeroizing::new(der.secret_pkcs8_der().to_vec()));
        zeroize::Zeroize::zeroize(&mut der);
        key.pair().map_err(KeyError::Kind)?;
        Ok(key)
    }

    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(armour("PRIVATE KEY", &self.0))
    }

    /// Reads a key file, which nobody but its owner may be able to read.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::from_pem(&read_private(path)?)
            .map_err(|source| LoadError::Key { path: path.to_owned(), source })
    }

    /// Writes a key file, with [`write_private`]'s care.
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        write_private(path, self.to_pem().as_bytes())
    }

    /// A PKCS#10 request (DER): this key, signed with itself, and an empty subject. The issuer
    /// takes nothing but the key from it, so there is nothing else to put in.
    pub fn certificate_request(&self) -> Result<Vec<u8>, KeyError> {
        let mut wanted = CertificateParams::default();
        wanted.distinguished_name = DistinguishedName::new();
        let pair = self.pair().map_err(KeyError::Kind)?;
        let request = wanted.serialize_request(&*pair).map_err(KeyError::Request)?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn to_rustls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.to_vec()).into()
    }

    fn pair(&self) -> Result<Zeroizing<KeyPair>, rcgen::Error> {
        let der = PrivatePkcs8KeyDer::from(self.0.as_slice());
        KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map(Zeroizing::new)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// Why there is no key, or no request for it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the system made no key")]
    Generate(#[source] rcgen::Error),
    #[error("the text holds no PKCS#8 private key in PEM")]
    Pem(#[source] pem::Error),
    #[error("the private key is not an ECDSA P-256 key")]
    Kind(#[source] rcgen::Error),
    #[error("the certificate request could not be signed")]
    Request(#[source] rcgen::Error),
}
