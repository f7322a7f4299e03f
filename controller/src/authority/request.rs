use rcgen::{
    CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::CertificateSigningRequestDer;
use sha2::{Digest as _, Sha256};

/// The longest request that is looked at, in bytes: ours have some 250.
const LONGEST: usize = 8 * 1024;

/// An uncompressed point of P-256.
const POINT: usize = 65;

/// The public key of a certificate request whose sender has shown that the private half is theirs.
///
/// Nothing else of the request survives: passed through whole, a hostile one came back as a CA under another's name.
#[derive(Debug, Clone)]
pub struct RequestedKey {
    key: PublicKey,
    sha256: [u8; 32],
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the certificate request is longer than {LONGEST} bytes")]
    TooLong,
    #[error("the certificate request does not decode, or is not signed with its own key")]
    Invalid(#[source] rcgen::Error),
    #[error("the certificate request is not for an ECDSA P-256 key")]
    Algorithm,
}

impl RequestedKey {
    /// Reads a PKCS#10 request (DER) and checks its proof of possession.
    ///
    /// # Errors
    /// When it is not a sound request for a P-256 key.
    pub fn read(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > LONGEST {
            return Err(RequestError::TooLong);
        }
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))
            .map_err(RequestError::Invalid)?;
        let key = request.public_key;
        // `rcgen` takes the algorithm from the signature and the point from the key; both have to be P-256's.
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != POINT {
            return Err(RequestError::Algorithm);
        }
        let sha256 = Sha256::digest(key.subject_public_key_info()).into();
        Ok(Self { key, sha256 })
    }

    /// SHA-256 of the subject public key info (DER): the same that a listener reads from a peer's certificate.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.key)
    }
}
