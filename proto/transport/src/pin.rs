//! A pin: which CA to trust, told in 64 characters.
//!
//! A join token carries one, so that a new agent knows its controller before it has any
//! certificate: no trust on first use. It names the CA's *key*; a CA certificate reissued for the
//! same key keeps its pin.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;

use crate::certificate::{self, Malformed};

/// SHA-256 of the subject public key info (DER) of a CA certificate. Its text is lowercase hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The characters in a pin's text.
    pub const TEXT_LENGTH: usize = 64;

    /// The pin of a CA. A leaf is refused: its pin would match nothing, ever.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, PinError> {
        let certificate = certificate::parse(certificate)?;
        if !certificate::is_authority(&certificate)? {
            return Err(PinError::NotAuthority);
        }
        Ok(Self(certificate::public_key_sha256(&certificate)))
    }

    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digest = [0; 32];
        match text.len() == Self::TEXT_LENGTH && HEXLOWER.decode_mut(text.as_bytes(), &mut digest).is_ok() {
            true => Ok(Self(digest)),
            false => Err(PinError::Text),
        }
    }
}

/// Why there is no pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    #[error("a pin is {} lowercase hexadecimal characters", Pin::TEXT_LENGTH)]
    Text,
    #[error("the certificate to pin does not decode")]
    Certificate(#[from] Malformed),
    #[error("the certificate to pin is not a CA's")]
    NotAuthority,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_64_lowercase_hex_characters() {
        let pin = Pin::from_bytes([0xa5; 32]);
        assert_eq!(pin.to_string(), "a5".repeat(32));
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for text in ["", "a5", &"A5".repeat(32), &"a5".repeat(33), &"g0".repeat(32), &"é".repeat(32)] {
            assert_eq!(text.parse::<Pin>(), Err(PinError::Text), "{text:?}");
        }
    }
}
