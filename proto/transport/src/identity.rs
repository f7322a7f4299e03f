//! Who a certificate names: `spiffe://<domain>/<role>/<name>`, and nothing else.
//!
//! The grammar is narrower than SPIFFE's, so that a name is also safe as a file name, as an
//! argument and in a log: lowercase ASCII letters, digits, `.`, `_` and `-`, beginning with a
//! letter or a digit. That alone rules out `.`, `..`, options, percent-encoding and look-alike
//! letters.

mod role;

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::certificate::{self, Malformed};
pub use role::{Role, UnknownRole};

const SCHEME: &str = "spiffe://";

/// The longest identity, in bytes: what SPIFFE keeps of its 2,048 for names that people read.
pub const MAX_LENGTH: usize = 255;

/// The longest name, in bytes: a DNS label's limit, so that a host's short name always fits.
pub const MAX_NAME: usize = 63;

/// One peer: a member of a fleet (`domain`), in a role, by name. Every value of this type obeys the
/// grammar.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    domain: String,
    role: Role,
    name: String,
}

impl Identity {
    pub fn new(domain: &str, role: Role, name: &str) -> Result<Self, IdentityError> {
        let length = SCHEME.len() + domain.len() + 1 + role.as_str().len() + 1 + name.len();
        if length > MAX_LENGTH {
            return Err(IdentityError::TooLong { length });
        }
        if !is_segment(domain) {
            return Err(IdentityError::Domain);
        }
        if name.len() > MAX_NAME || !is_segment(name) {
            return Err(IdentityError::Name);
        }
        Ok(Self { domain: domain.to_owned(), role, name: name.to_owned() })
    }

    /// The identity in a leaf certificate's only URI name.
    ///
    /// This reads; it verifies no signature and no date. Names of other kinds (a controller's DNS
    /// name) may stand beside the URI, but one that does not decode condemns the certificate.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        Self::read(&certificate::parse(certificate)?)
    }

    pub(crate) fn read(certificate: &X509Certificate<'_>) -> Result<Self, IdentityError> {
        if certificate::is_authority(certificate)? {
            return Err(IdentityError::Authority);
        }
        let names = certificate.subject_alternative_name().map_err(|_| Malformed)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = Vec::new();
        for name in names {
            match name {
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::Invalid(..) => return Err(IdentityError::InvalidName),
                _ => {}
            }
        }
        match uris[..] {
            [uri] => uri.parse(),
            [] => Err(IdentityError::NoUri),
            _ => Err(IdentityError::ManyUris { count: uris.len() }),
        }
    }

    /// The fleet's trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// A host's id, an operator's or a tool's name, a controller's replica.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LENGTH {
            return Err(IdentityError::TooLong { length: text.len() });
        }
        let path = text.strip_prefix(SCHEME).ok_or(IdentityError::Scheme)?;
        let mut segments = path.split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some(domain), Some(role), Some(name), None) => Self::new(domain, role.parse()?, name),
            _ => Err(IdentityError::Shape),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.domain, self.role, self.name)
    }
}

fn is_segment(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// Why a text or a certificate names nobody. None of these repeats what a stranger wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate does not decode")]
    Certificate(#[from] Malformed),
    #[error("a CA certificate names no peer")]
    Authority,
    #[error("the certificate has a subject alternative name that does not decode")]
    InvalidName,
    #[error("the certificate has no URI name")]
    NoUri,
    #[error("the certificate has {count} URI names, not one")]
    ManyUris { count: usize },
    #[error("the identity has {length} bytes, more than {MAX_LENGTH}")]
    TooLong { length: usize },
    #[error("the identity does not begin with `{SCHEME}`")]
    Scheme,
    #[error("the identity is not of the form `{SCHEME}<domain>/<role>/<name>`")]
    Shape,
    #[error("the identity's domain is not of `[a-z0-9][a-z0-9._-]*`")]
    Domain,
    #[error("the identity's role is none that exists")]
    Role(#[from] UnknownRole),
    #[error("the identity's name is not of `[a-z0-9][a-z0-9._-]*`, or longer than {MAX_NAME} bytes")]
    Name,
}

#[cfg(test)]
mod tests;
