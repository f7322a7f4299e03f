//! What enrolment leaves behind: who this host is, by what it proves it, and whom it trusts.
//!
//! One private file, `host.json` in the state folder, replaced in one rename: a crash never leaves one enrolment's key
//! beside another's certificate or incarnation. Only enrolment writes it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use data_encoding::{BASE64, HEXLOWER};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use vigie_proto::{
    id::HostId,
    order::{Digest, TrustError, TrustedKeys},
    v1::SignedTrustList,
};
use vigie_transport::{
    client::{Address, AddressError},
    credential::{
        Credential, CredentialError, FileError, KeyError, PrivateKey, certificates_from_pem,
        certificates_to_pem, read_private, write_private,
    },
    identity::{Identity, IdentityError, Role},
};
use zeroize::Zeroizing;

use crate::host::trust::Trust;

const FILE: &str = "host.json";

/// CA certificates, DER.
pub type Roots = Vec<rustls::pki_types::CertificateDer<'static>>;

/// A host that belongs to a fleet.
#[derive(Debug)]
pub struct Enrolled {
    pub host: HostId,
    /// What people call it.
    pub name: String,
    pub incarnation: u64,
    /// The agents' link.
    pub link: Address,
    pub credential: Credential,
    /// By which the controller is recognised.
    pub roots: Roots,
    /// As it came, so that its signatures stay checkable.
    pub trust_list: SignedTrustList,
    /// SHA-256 of the trust list: the pin that its join token carried.
    pub trust_pin: Digest,
}

/// How it rests on the disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    host: String,
    name: String,
    incarnation: u64,
    link: String,
    /// PEM, the leaf first.
    certificate_chain: String,
    /// PEM.
    private_key: String,
    /// PEM.
    controller_roots: String,
    /// An encoded `SignedTrustList`, Base64.
    trust_list: String,
    /// Hexadecimal.
    trust_pin: String,
}

/// Why this host is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolledError {
    #[error(
        "this host is not enrolled; make a join token with `vigiectl hosts token` and run `vigie-agent enroll`"
    )]
    Missing(#[source] FileError),
    #[error(transparent)]
    File(FileError),
    #[error(
        "{path}: {part} is damaged; restore the file, or enrol the host again with `vigie-agent enroll --replace`"
    )]
    Damaged { path: PathBuf, part: &'static str, source: Damage },
}

/// What is wrong with a part of the file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Id(#[from] vigie_proto::id::IdError),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("no certificate in PEM")]
    Pem,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the certificate is {0}'s, not this host's")]
    Other(Box<Identity>),
    #[error(transparent)]
    Base64(#[from] data_encoding::DecodeError),
    #[error(transparent)]
    Message(#[from] prost::DecodeError),
    #[error("not 32 bytes")]
    Length,
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl Enrolled {
    /// Whether a host's enrolment is in this state folder.
    pub fn exists(state: &Path) -> bool {
        state.join(FILE).symlink_metadata().is_ok()
    }

    /// Reads the enrolment and checks that its parts belong together.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(state: &Path) -> Result<Self, EnrolledError> {
        let path = state.join(FILE);
        let text = read_private(&path).map_err(|error| match error {
            FileError::Missing { .. } => EnrolledError::Missing(error),
            other => EnrolledError::File(other),
        })?;
        parse(&text).map_err(|(part, source)| EnrolledError::Damaged { path, part, source })
    }

    /// Puts the enrolment on the disk, whole or not at all.
    ///
    /// # Errors
    /// When it is not there afterwards.
    pub fn save(&self, state: &Path) -> Result<(), FileError> {
        let mut stored = Stored {
            host: self.host.to_string(),
            name: self.name.clone(),
            incarnation: self.incarnation,
            link: self.link.to_string(),
            certificate_chain: certificates_to_pem(self.credential.chain()),
            private_key: self.credential.key().to_pem().to_string(),
            controller_roots: certificates_to_pem(&self.roots),
            trust_list: BASE64.encode(&self.trust_list.encode_to_vec()),
            trust_pin: HEXLOWER.encode(&self.trust_pin),
        };
        let text = serde_json::to_vec_pretty(&stored);
        zeroize::Zeroize::zeroize(&mut stored.private_key);
        // Strings and numbers always make JSON.
        let text = Zeroizing::new(text.unwrap_or_default());
        write_private(&state.join(FILE), &text)
    }

    /// Whose orders it takes.
    ///
    /// # Errors
    /// When the trust list is not the pinned one.
    pub fn trust(&self) -> Result<Trust, TrustError> {
        let keys = TrustedKeys::pinned(&self.trust_list, &self.trust_pin)?;
        Ok(Trust { host: self.host, incarnation: self.incarnation, keys })
    }
}

impl fmt::Display for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (host {}, incarnation {})", self.name, self.host, self.incarnation)
    }
}

fn parse(text: &str) -> Result<Enrolled, (&'static str, Damage)> {
    fn in_part<E: Into<Damage>>(part: &'static str) -> impl Fn(E) -> (&'static str, Damage) {
        move |error| (part, error.into())
    }
    let mut stored: Stored = serde_json::from_str(text).map_err(in_part("the whole"))?;
    let key = Zeroizing::new(std::mem::take(&mut stored.private_key));
    let host: HostId = stored.host.parse().map_err(in_part("host"))?;
    let chain =
        certificates_from_pem(&stored.certificate_chain).map_err(|_| ("certificate_chain", Damage::Pem))?;
    let key = PrivateKey::from_pem(&key).map_err(in_part("private_key"))?;
    let credential = Credential::new(chain, key).map_err(in_part("certificate_chain"))?;
    let identity = credential.identity().map_err(in_part("certificate_chain"))?;
    if identity.role() != Role::Agent || identity.name() != stored.host {
        return Err(("certificate_chain", Damage::Other(Box::new(identity))));
    }
    let list = BASE64.decode(stored.trust_list.as_bytes()).map_err(in_part("trust_list"))?;
    let pin = HEXLOWER.decode(stored.trust_pin.as_bytes()).map_err(in_part("trust_pin"))?;
    let enrolled = Enrolled {
        host,
        name: stored.name,
        incarnation: stored.incarnation,
        link: stored.link.parse().map_err(in_part("link"))?,
        credential,
        roots: certificates_from_pem(&stored.controller_roots)
            .map_err(|_| ("controller_roots", Damage::Pem))?,
        trust_list: SignedTrustList::decode(list.as_slice()).map_err(in_part("trust_list"))?,
        trust_pin: pin.try_into().map_err(|_| ("trust_pin", Damage::Length))?,
    };
    enrolled.trust().map_err(in_part("trust_list"))?;
    Ok(enrolled)
}
