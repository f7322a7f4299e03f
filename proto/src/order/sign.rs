//! Ed25519 over domain-separated, length-prefixed bytes.

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use super::{Digest, digest};
use crate::v1::Signature;

/// What a signature is for; a signature for one is none for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    Manifest,
    TrustList,
}

impl Domain {
    fn frame(self, bytes: &[u8]) -> Vec<u8> {
        let name: &[u8] = match self {
            Self::Manifest => b"vigie/manifest/v1",
            Self::TrustList => b"vigie/trust-list/v1",
        };
        let mut framed = Vec::with_capacity(16 + name.len() + bytes.len());
        for part in [name, bytes] {
            framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            framed.extend_from_slice(part);
        }
        framed
    }
}

/// An operator's key for orders. Its secret is wiped when dropped.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// The name by which a signature points to its key: SHA-256 of the public key.
pub fn key_id(public_key: &[u8]) -> Digest {
    digest(public_key)
}

impl SigningKey {
    /// Makes a key from the system's randomness.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of this 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The 32 bytes to keep secret.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs bytes for one domain.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        Signature {
            key_id: key_id(&self.public().to_bytes()).to_vec(),
            signature: self.0.sign(&domain.frame(bytes)).to_bytes().to_vec(),
        }
    }
}

impl VerifyingKey {
    /// Takes 32 bytes; `None` when they are no point of the curve, or a weak one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes.try_into().ok()?).ok()?;
        (!key.is_weak()).then_some(Self(key))
    }

    /// The 32 bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Whether this key made that signature (strictly: no malleable form passes).
    pub fn verifies(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(&signature.signature) else { return false };
        self.0.verify_strict(&domain.frame(bytes), &signature).is_ok()
    }
}
