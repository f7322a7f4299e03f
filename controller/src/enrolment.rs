//! Tokens made and exchanged: how a host and the first operator come to their certificates.
//!
//! It checks what a stranger sent and asks the store to honour their token; the token's single use, the certificate and
//! the audit entry are one transaction there. A token's secret is shown once, to whoever asked for it; here only its
//! digest is kept.

use std::{collections::BTreeMap, sync::Arc};

use prost::Message as _;
use rustls_pki_types::CertificateDer;
use vigie_proto::{
    id::{HostId, TokenId},
    order::{TrustedKeys, digest},
    selector::{is_host_name, is_label_word},
    v1::{CreateJoinTokenRequest, Label, SignedTrustList, TrustList},
};
use vigie_transport::identity::{Identity, Role};
use zeroize::Zeroizing;

use crate::{
    audit::Intent,
    authority::{Authority, Certificate, IssueError, RequestedKey},
    clock::now_ms,
    error::{EnrolError, HostsError, TokenDenial},
    fleet::Fleet,
    permit::Permit,
    store::{Enrolment, Issue, NewOperator, RedeemError, Redemption, Store, Token, TokenFor},
};

/// How long a join token may be used when its maker does not say: enough to paste it into another window.
const JOIN_TTL_S: u32 = 600;

/// The longest that one may live.
const LONGEST_JOIN_TTL_S: u32 = 24 * 3600;

/// How long the first operator has to log in.
pub const LOGIN_TTL_S: u32 = 3600;

/// More labels than this on a host are a slip.
const MAX_LABELS: usize = 64;

/// A token that was just made: the only time that its secret is seen.
pub struct FreshToken {
    pub id: TokenId,
    pub secret: Zeroizing<[u8; 32]>,
    pub expires_at_ms: i64,
}

/// Somebody who wants a certificate, as they introduce themselves.
#[derive(Debug)]
pub struct Applicant {
    pub token: TokenId,
    pub secret: Zeroizing<Vec<u8>>,
    pub key: RequestedKey,
    /// A name and a trust list: an operator's login.
    pub operator: Option<(String, SignedTrustList)>,
}

/// What an applicant gets.
#[derive(Debug)]
pub struct Enrolled {
    pub enrolment: Enrolment,
    pub role: Role,
    /// The CA that issued the certificate.
    pub issuer: Vec<CertificateDer<'static>>,
}

/// Makes tokens and honours them.
#[derive(Clone)]
pub struct Enrolments {
    store: Arc<dyn Store>,
    authority: Arc<Authority>,
    fleet: Fleet,
    domain: String,
}

impl Enrolments {
    pub fn new(store: Arc<dyn Store>, authority: Arc<Authority>, fleet: Fleet, domain: String) -> Self {
        Self { store, authority, fleet, domain }
    }

    /// The CAs by which the controller is recognised.
    pub fn controller_roots(&self) -> Vec<CertificateDer<'static>> {
        self.authority.roots(Role::Controller)
    }

    /// Makes a token for one host.
    ///
    /// # Errors
    /// When the name or a label is not one, the name is taken (or, to replace, not taken), or the store fails.
    pub async fn join_token(
        &self,
        permit: &Permit,
        wanted: CreateJoinTokenRequest,
    ) -> Result<FreshToken, HostsError> {
        let CreateJoinTokenRequest { name, labels, ttl_s, replace } = wanted;
        if !is_host_name(&name) {
            return Err(HostsError::Name(name));
        }
        let labels = check_labels(labels)?;
        let ttl_s = if ttl_s == 0 { JOIN_TTL_S } else { ttl_s };
        if ttl_s > LONGEST_JOIN_TTL_S {
            return Err(HostsError::Ttl { asked_s: ttl_s, max_s: LONGEST_JOIN_TTL_S });
        }
        match (self.fleet.knows(&name), replace) {
            (true, false) => return Err(HostsError::Taken(name)),
            (false, true) => return Err(HostsError::NothingToReplace(name)),
            _ => {}
        }
        let detail =
            format!("a join token for {ttl_s} s{}", if replace { ", replacing the host" } else { "" });
        let intent = Intent::new(permit, &name, &detail);
        let grants = TokenFor::Agent { host_name: name, labels, replaces: replace };
        fresh_token(&*self.store, &intent, grants, ttl_s).await
    }

    /// Exchanges a token for a certificate.
    ///
    /// # Errors
    /// When the applicant's introduction is not sound, the token is not honoured, or the store fails.
    pub async fn enrol(&self, permit: &Permit, applicant: Applicant) -> Result<Enrolled, EnrolError> {
        let role = if applicant.operator.is_some() { Role::Operator } else { Role::Agent };
        let operator = applicant.operator.map(|(name, list)| self.introduce(name, list)).transpose()?;
        let token = applicant.token;
        let redemption = Redemption {
            token,
            secret: applicant.secret,
            key_sha256: applicant.key.sha256(),
            now_ms: now_ms(),
            operator,
            intent: Intent::new(permit, &token.to_string(), ""),
        };
        let issuer = Issuer { authority: &self.authority, key: &applicant.key };
        let enrolment = self.store.redeem(&redemption, &issuer).await.map_err(|error| {
            let address = permit.caller().address();
            tracing::warn!(%token, %address, error = &error as &dyn std::error::Error, "a token was not honoured");
            EnrolError::from(error)
        })?;
        tracing::info!(%token, identity = enrolment.identity, "enrolled");
        if let Some(agent) = &enrolment.agent {
            self.fleet.enrolled(agent.host.clone());
        }
        Ok(Enrolled { enrolment, role, issuer: self.authority.roots(role) })
    }

    /// Checks how a first operator introduces themselves: version 1 of the trust list, which names them alone and is
    /// signed with the key that it names.
    fn introduce(&self, name: String, list: SignedTrustList) -> Result<NewOperator, EnrolError> {
        if Identity::new(&self.domain, Role::Operator, &name).is_err() {
            return Err(EnrolError::Name(name.chars().take(64).collect()));
        }
        // There is nobody yet whose word could pin it: it vouches for itself, and its digest goes from this operator's
        // hands into every join token.
        let keys = TrustedKeys::pinned(&list, &digest(&list.trust_list))?;
        let decoded =
            TrustList::decode(list.trust_list.as_slice()).map_err(|_| EnrolError::TrustListShape)?;
        let [operator] = decoded.operators.as_slice() else {
            return Err(EnrolError::TrustListShape);
        };
        if keys.version() != 1 || operator.person != name {
            return Err(EnrolError::TrustListShape);
        }
        let public_key = operator.public_key.as_slice().try_into().map_err(|_| EnrolError::TrustListShape)?;
        Ok(NewOperator { name, public_key, version: keys.version(), trust_list: list })
    }
}

/// Makes the token that the first operator logs in with.
///
/// # Errors
/// When there is no randomness, or the store fails.
pub async fn login_token(store: &dyn Store) -> Result<FreshToken, HostsError> {
    let intent = Intent::own("init", "", "the first operator's login token");
    fresh_token(store, &intent, TokenFor::Operator, LOGIN_TTL_S).await
}

async fn fresh_token(
    store: &dyn Store,
    intent: &Intent,
    grants: TokenFor,
    ttl_s: u32,
) -> Result<FreshToken, HostsError> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(HostsError::Random)?;
    let expires_at_ms = now_ms() + i64::from(ttl_s) * 1000;
    let id = TokenId::new();
    store.add_token(intent, &Token::new(id, &secret, grants, expires_at_ms)).await?;
    Ok(FreshToken { id, secret, expires_at_ms })
}

fn check_labels(labels: Vec<Label>) -> Result<BTreeMap<String, String>, HostsError> {
    let mut checked = BTreeMap::new();
    for Label { name, value } in labels {
        for word in [&name, &value] {
            if !is_label_word(word) {
                return Err(HostsError::Label(word.chars().take(64).collect()));
            }
        }
        if checked.contains_key(&name) {
            return Err(HostsError::LabelTwice(name));
        }
        checked.insert(name, value);
        if checked.len() > MAX_LABELS {
            return Err(HostsError::TooManyLabels(MAX_LABELS));
        }
    }
    Ok(checked)
}

/// Issues to one key.
pub(crate) struct Issuer<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) key: &'a RequestedKey,
}

impl Issue for Issuer<'_> {
    fn agent(&self, host: HostId) -> Result<Certificate, IssueError> {
        self.authority.agent(host, self.key)
    }

    fn operator(&self, name: &str) -> Result<Certificate, IssueError> {
        self.authority.operator(name, self.key)
    }
}

impl From<RedeemError> for EnrolError {
    fn from(error: RedeemError) -> Self {
        match error {
            RedeemError::Denied(denial) => Self::Token(denial),
            // An agent's token, shown as an operator's, says no more than a wrong one.
            RedeemError::WrongRole => Self::Token(TokenDenial::Unknown),
            RedeemError::Taken(name) => Self::Taken(name),
            RedeemError::NoTrustList => Self::NoOperator,
            RedeemError::Issue(source) => Self::Issue(source),
            RedeemError::Store(source) => Self::Store(source),
        }
    }
}
