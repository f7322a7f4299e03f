//! The fleet's own CAs, one per role, and the certificates that they issue.
//!
//! Owns the CAs' keys, in memory and in the state folder (`authority/<role>.pem`, mode 0600, key and certificate in one
//! file). From a peer's request it takes the public key and nothing else; every other field is decided here. It
//! decides nothing about *who* may have a certificate: that is `enrolment`'s.
//!
//! The controller's own certificate is never stored: it is made anew at each start and whenever a third of its life
//! has passed, so that it always carries the address in the settings, and no key of it lies on a disk.

mod request;

use std::{net::IpAddr, path::Path, time::Duration};

use data_encoding::HEXLOWER;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use vigie_proto::id::HostId;
use vigie_transport::{
    credential::{Credential, CredentialError, FileError, KeyError, LoadError, PrivateKey},
    identity::{Identity, IdentityError, Role},
    pin::{Pin, PinError},
};

pub use request::{RequestError, RequestedKey};

use crate::{clock::now_ms, config::private_folder};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long an issuing CA is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(5 * 365 * 24 * 3600);

/// How long an agent's and an operator's certificate is valid.
const PEER_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long the controller's own certificate is valid; it is replaced after a third of that.
pub const CONTROLLER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Certificates begin this long ago, so that a peer whose clock is a little behind can use them at once.
const BACKDATING: Duration = Duration::from_secs(300);

/// A certificate as it was issued, with the facts that are noted down about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub der: Vec<u8>,
    /// `spiffe://…`
    pub identity: String,
    /// Lower-case hex, without leading zeros.
    pub serial: String,
    pub not_after_ms: i64,
}

/// The CAs of one fleet.
pub struct Authority {
    domain: String,
    agents: Issuing,
    operators: Issuing,
    controllers: Issuing,
}

/// One CA.
struct Issuing {
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// Why the CAs are not to be had. Each says which and what to do.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the folder for the CAs cannot be made")]
    Folder(#[source] std::io::Error),
    #[error("the {role} CA cannot be read; restore its file from a backup")]
    Load { role: Role, source: LoadError },
    #[error("the {role} CA cannot be written")]
    Save { role: Role, source: FileError },
    #[error("the {role} CA's file holds no certificate")]
    Empty { role: Role },
    #[error("no key for the {role} CA could be made")]
    Key { role: Role, source: KeyError },
    #[error("the {role} CA's key and certificate do not go together")]
    Pair { role: Role, source: CredentialError },
    #[error("the {role} CA cannot be used")]
    Certificate { role: Role, source: rcgen::Error },
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the name cannot stand in a certificate")]
    Name(#[from] IdentityError),
    #[error("the system gave no randomness for a serial number")]
    Random(#[source] getrandom::Error),
    #[error("the certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    #[error("no key could be made")]
    Key(#[from] KeyError),
    #[error("the key does not fit its certificate")]
    Pair(#[from] CredentialError),
}

impl Authority {
    /// Makes the three CAs and writes them into `folder`.
    ///
    /// # Errors
    /// When a key, a certificate or a file cannot be made.
    pub fn create(folder: &Path, domain: &str) -> Result<Self, AuthorityError> {
        private_folder(folder).map_err(AuthorityError::Folder)?;
        Self::each(domain, |role| {
            let made = self_signed(role, domain)?;
            made.save(&file(folder, role)).map_err(|source| AuthorityError::Save { role, source })?;
            Ok(made)
        })
    }

    /// Reads the three CAs from `folder`.
    ///
    /// # Errors
    /// Names the CA that cannot be read.
    pub fn load(folder: &Path, domain: &str) -> Result<Self, AuthorityError> {
        Self::each(domain, |role| {
            let path = file(folder, role);
            Credential::load(&path, &path).map_err(|source| AuthorityError::Load { role, source })
        })
    }

    fn each(
        domain: &str,
        credential: impl Fn(Role) -> Result<Credential, AuthorityError>,
    ) -> Result<Self, AuthorityError> {
        let issuing = |role| Issuing::new(role, &credential(role)?);
        Ok(Self {
            agents: issuing(Role::Agent)?,
            operators: issuing(Role::Operator)?,
            controllers: issuing(Role::Controller)?,
            domain: domain.to_owned(),
        })
    }

    /// The CA certificates by which peers of a role are recognised. There is none for tools yet.
    pub fn roots(&self, role: Role) -> Vec<CertificateDer<'static>> {
        let issuing = match role {
            Role::Agent => &self.agents,
            Role::Operator => &self.operators,
            Role::Controller => &self.controllers,
            Role::Tool => return Vec::new(),
        };
        vec![issuing.root.clone()]
    }

    /// The pin by which tokens name this fleet's controllers.
    ///
    /// # Errors
    /// When the stored certificate is no CA's.
    pub fn pin(&self) -> Result<Pin, PinError> {
        Pin::of(&self.controllers.root)
    }

    /// Issues an agent's certificate. It may open connections and nothing else: a stolen one serves no fake controller.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn agent(&self, host: HostId, key: &RequestedKey) -> Result<Certificate, IssueError> {
        self.peer(&self.agents, Role::Agent, &host.to_string(), key)
    }

    /// Issues an operator's certificate.
    ///
    /// # Errors
    /// When the name cannot stand in a certificate, or it cannot be made.
    pub fn operator(&self, name: &str, key: &RequestedKey) -> Result<Certificate, IssueError> {
        self.peer(&self.operators, Role::Operator, name, key)
    }

    fn peer(
        &self,
        by: &Issuing,
        role: Role,
        name: &str,
        key: &RequestedKey,
    ) -> Result<Certificate, IssueError> {
        let identity = Identity::new(&self.domain, role, name)?;
        by.issue(&identity, Vec::new(), vec![ExtendedKeyUsagePurpose::ClientAuth], PEER_LIFE, key)
    }

    /// Makes the controller a new key and certificate. The chain ends with the CA, where agents look for their pin.
    ///
    /// # Errors
    /// When `id` or `address` cannot stand in a certificate, or it cannot be made.
    pub fn controller(&self, id: &str, address: &str) -> Result<Credential, IssueError> {
        let identity = Identity::new(&self.domain, Role::Controller, id)?;
        let name = match address.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(address.to_lowercase().try_into()?),
        };
        let key = PrivateKey::generate()?;
        let public = KeyPair::from_pem(&key.to_pem())?;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = self.controllers.issue(&identity, vec![name], usages, CONTROLLER_LIFE, &public)?;
        Ok(Credential::new(vec![certificate.der.into(), self.controllers.root.clone()], key)?)
    }
}

impl Issuing {
    fn new(role: Role, credential: &Credential) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Certificate { role, source };
        let root = credential.chain().first().ok_or(AuthorityError::Empty { role })?.clone();
        let key = KeyPair::from_pem(&credential.key().to_pem()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_der(&root, key).map_err(failed)?;
        Ok(Self { root, issuer })
    }

    fn issue(
        &self,
        identity: &Identity,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        life: Duration,
        key: &impl PublicKeyData,
    ) -> Result<Certificate, IssueError> {
        let serial = serial()?;
        let (mut params, not_after_ms) = valid_for(life);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name.push(DnType::CommonName, identity.name());
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.subject_alt_names.extend(names);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Certificate {
            der: certificate.der().to_vec(),
            identity: identity.to_string(),
            serial: HEXLOWER.encode(&serial),
            not_after_ms,
        })
    }
}

fn file(folder: &Path, role: Role) -> std::path::PathBuf {
    folder.join(format!("{role}.pem"))
}

fn self_signed(role: Role, domain: &str) -> Result<Credential, AuthorityError> {
    let failed = |source| AuthorityError::Certificate { role, source };
    let key = PrivateKey::generate().map_err(|source| AuthorityError::Key { role, source })?;
    let (mut params, _) = valid_for(AUTHORITY_LIFE);
    params.distinguished_name.push(DnType::CommonName, format!("{domain} {role} CA"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = KeyPair::from_pem(&key.to_pem()).map_err(failed)?;
    let certificate = params.self_signed(&pair).map_err(failed)?;
    Credential::new(vec![certificate.der().clone()], key)
        .map_err(|source| AuthorityError::Pair { role, source })
}

/// Parameters without a subject, valid from a little ago for `life`, and the end of that in Unix milliseconds.
/// `rcgen` would say 1975 to 4096 unless told.
fn valid_for(life: Duration) -> (CertificateParams, i64) {
    let now = std::time::SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - BACKDATING).into();
    params.not_after = (now + life).into();
    (params, now_ms().saturating_add(i64::try_from(life.as_millis()).unwrap_or(i64::MAX)))
}

/// 126 random bits. The first byte is neither 0 nor above 0x7f, so that DER neither drops nor adds a byte and the
/// serial reads the same everywhere.
fn serial() -> Result<[u8; 16], IssueError> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(IssueError::Random)?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// When a certificate of this life should be replaced.
pub const fn renew_after(life: Duration) -> Duration {
    Duration::from_secs(life.as_secs() / 3)
}

const _: () = assert!(renew_after(CONTROLLER_LIFE).as_secs() > DAY.as_secs());

#[cfg(test)]
mod tests;
