//! The encodings in which a secret may leave: itself, JSON, percent, hexadecimal, Base64.

use std::fmt::Write as _;

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use zeroize::Zeroizing;

/// A part of an encoding that is shorter than this proves nothing.
const SHORTEST: usize = 6;

/// Every form of a secret, without repetition.
pub(super) fn of(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms: Vec<Vec<u8>> = vec![secret.to_vec()];
    let text = String::from_utf8_lossy(secret);
    forms.push(text.as_bytes().to_vec());
    if let Ok(json) = serde_json::to_string(&text) {
        forms.push(json.as_bytes()[1..json.len() - 1].to_vec());
    }
    for (upper, plus) in [(true, false), (false, false), (true, true), (false, true)] {
        forms.push(percent(secret, upper, plus, b"-._~"));
        // JavaScript's encodeURIComponent leaves these as they are.
        forms.push(percent(secret, upper, plus, b"-._~!*'()"));
    }
    forms.push(HEXLOWER.encode(secret).into_bytes());
    forms.push(HEXUPPER.encode(secret).into_bytes());
    for encoding in [&BASE64, &BASE64URL] {
        for before in 0..3 {
            forms.push(base64(&encoding.encode(&[&[0; 2][..before], secret].concat()), before, secret.len()));
        }
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms.sort_unstable();
    forms.dedup();
    forms.into_iter().map(Zeroizing::new).collect()
}

/// The characters that depend on nothing but the secret: in a longer text, those at its ends hold bits of its
/// neighbours.
fn base64(encoded: &str, before: usize, length: usize) -> Vec<u8> {
    let first = (before * 8).div_ceil(6);
    let last = (before + length) * 8 / 6;
    encoded.as_bytes().get(first..last).unwrap_or_default().to_vec()
}

fn percent(secret: &[u8], upper: bool, plus: bool, plain: &[u8]) -> Vec<u8> {
    let mut text = String::with_capacity(secret.len() * 3);
    for &byte in secret {
        // Writing to a String cannot fail.
        let _ = match byte {
            _ if byte.is_ascii_alphanumeric() || plain.contains(&byte) => text.write_char(char::from(byte)),
            b' ' if plus => text.write_char('+'),
            _ if upper => write!(text, "%{byte:02X}"),
            _ => write!(text, "%{byte:02x}"),
        };
    }
    text.into_bytes()
}
