//! One-time tokens as people carry them: `vig1.<id>.<secret>.<ca pin>.<trust-list digest>` for a host, the same
//! without the last part for the first operator's login.

use std::{fmt, str::FromStr};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use zeroize::Zeroizing;

use crate::id::TokenId;

/// A token with the pins by which its holder knows the controller, and whom to take orders from.
pub struct Token {
    pub id: TokenId,
    /// 256 bits, shown once.
    pub secret: Zeroizing<[u8; 32]>,
    /// SHA-256 of the controller CA's public key (SPKI).
    pub ca_pin: [u8; 32],
    /// SHA-256 of the encoded trust list; only in a host's token, and put there by `vigiectl`.
    pub trust_list: Option<[u8; 32]>,
    /// Where to redeem it, `host:port`.
    pub address: String,
}

/// Why a string is not a token. Never repeats the string: it may be a good token with a slip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a token starts with `vig1.`")]
    Prefix,
    #[error("a token has 5 or 6 parts between dots, and this one has {0}")]
    Parts(usize),
    #[error("the token's part {0} is damaged; copy the whole token again")]
    Damaged(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| BASE32_NOPAD.encode(bytes).to_lowercase();
        write!(
            f,
            "vig1.{}.{}.{}.{}",
            self.id,
            text(&self.secret[..]),
            HEXLOWER.encode(&self.ca_pin),
            text(self.address.as_bytes())
        )?;
        self.trust_list.map_or(Ok(()), |digest| write!(f, ".{}", HEXLOWER.encode(&digest)))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).field("address", &self.address).finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.trim().strip_prefix("vig1.").ok_or(TokenError::Prefix)?;
        let parts: Vec<&str> = rest.split('.').collect();
        let (&[id, secret, pin, address], trust_list) = match parts.as_slice() {
            [a, b, c, d] => (&[*a, *b, *c, *d], None),
            [a, b, c, d, e] => (&[*a, *b, *c, *d], Some(*e)),
            _ => return Err(TokenError::Parts(parts.len() + 1)),
        };
        let base32 = |text: &str, part| {
            BASE32_NOPAD.decode(text.to_uppercase().as_bytes()).map_err(|_| TokenError::Damaged(part))
        };
        Ok(Self {
            id: id.parse().map_err(|_| TokenError::Damaged("2 (its id)"))?,
            secret: Zeroizing::new(digest(&base32(secret, "3 (its secret)")?, "3 (its secret)")?),
            ca_pin: hex(pin, "4 (the CA's pin)")?,
            address: String::from_utf8(base32(address, "5 (the address)")?)
                .map_err(|_| TokenError::Damaged("5 (the address)"))?,
            trust_list: trust_list.map(|text| hex(text, "6 (the trust list's digest)")).transpose()?,
        })
    }
}

fn hex(text: &str, part: &'static str) -> Result<[u8; 32], TokenError> {
    digest(&HEXLOWER.decode(text.as_bytes()).map_err(|_| TokenError::Damaged(part))?, part)
}

fn digest(bytes: &[u8], part: &'static str) -> Result<[u8; 32], TokenError> {
    bytes.try_into().map_err(|_| TokenError::Damaged(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for trust_list in [None, Some([3; 32])] {
            let token = Token {
                id: TokenId::new(),
                secret: Zeroizing::new([1; 32]),
                ca_pin: [2; 32],
                trust_list,
                address: "vigie.example.com:7422".to_owned(),
            };
            let read: Token = format!(" {token}\n").parse().unwrap();
            assert_eq!((read.id, *read.secret, read.ca_pin), (token.id, *token.secret, token.ca_pin));
            assert_eq!((read.trust_list, read.address), (token.trust_list, token.address));
        }
    }

    #[test]
    fn damage_is_named_and_the_secret_is_not() {
        let token = "vig1.a.b.c.d".parse::<Token>().unwrap_err();
        assert_eq!(token, TokenError::Damaged("2 (its id)"));
        assert_eq!("vig1.a".parse::<Token>().unwrap_err(), TokenError::Parts(2));
        assert_eq!("hello".parse::<Token>().unwrap_err(), TokenError::Prefix);
    }
}
