//! What the store keeps, as the rest of the controller sees it.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use vigie_proto::{
    id::{HostId, RunId, TokenId},
    v1::{HostState, Label, RunSummary, SignedTrustList},
};

use super::Claim;
use crate::{audit::Intent, error::TokenDenial};

/// A host as it was enrolled and last seen.
#[derive(Debug, Clone, PartialEq)]
pub struct HostRow {
    pub id: HostId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub incarnation: u64,
    pub enrolled_at_ms: i64,
    /// When the latest session opened or ended; 0 when there never was one.
    pub connected_since_ms: i64,
    pub last_seen_ms: i64,
    pub state: Option<HostState>,
}

impl HostRow {
    /// The labels as the contract writes them.
    pub fn labels(&self) -> Vec<Label> {
        self.labels.iter().map(|(name, value)| Label { name: name.clone(), value: value.clone() }).collect()
    }
}

/// What a channel has still to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingNotice {
    pub id: i64,
    /// JSON.
    pub body: String,
    pub made_at_ms: i64,
    /// Those that failed.
    pub attempts: u32,
    /// Not tried before this.
    pub next_at_ms: i64,
}

/// What was last seen of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub host: HostId,
    /// Which machine was seen; what was seen of an earlier one says nothing of the present one.
    pub incarnation: u64,
    pub connected_since_ms: i64,
    pub last_seen_ms: i64,
    pub state: Option<HostState>,
}

/// A remedy that was begun on a stack of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemedyTried {
    /// The run that tries it: all its steps are one try.
    pub run: RunId,
    pub host: HostId,
    /// Empty when the runbook is about hosts.
    pub stack: String,
    /// `RUNBOOK/REMEDY`.
    pub remedy: String,
    pub at_ms: i64,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRow {
    pub serial: String,
    pub identity: String,
    /// Of the host; 0 for an operator's.
    pub incarnation: u64,
    pub not_after_ms: i64,
}

/// What a token may be exchanged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFor {
    /// A host of this name.
    Agent {
        host_name: String,
        labels: BTreeMap<String, String>,
        /// The host exists and is enrolled anew.
        replaces: bool,
    },
    /// The first operator.
    Operator,
}

/// A one-time token, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: TokenId,
    pub secret_sha256: [u8; 32],
    pub grants: TokenFor,
    pub expires_at_ms: i64,
    /// The public key (SPKI, SHA-256) that it was used with.
    pub used_by: Option<[u8; 32]>,
}

/// What to do with somebody who shows a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is used now.
    Honour,
    /// It was used by the same key, whose answer was lost: the same answer again.
    Repeat,
}

impl Token {
    /// A fresh token for a secret.
    pub fn new(id: TokenId, secret: &[u8; 32], grants: TokenFor, expires_at_ms: i64) -> Self {
        Self { id, secret_sha256: Sha256::digest(secret).into(), grants, expires_at_ms, used_by: None }
    }

    /// Whether the token is honoured. The secret is looked at first: who does not know it learns nothing else.
    ///
    /// # Errors
    /// Says why not.
    pub fn judge(&self, secret: &[u8], key_sha256: &[u8; 32], now_ms: i64) -> Result<Verdict, TokenDenial> {
        let secret: [u8; 32] = Sha256::digest(secret).into();
        if !bool::from(secret.ct_eq(&self.secret_sha256)) {
            return Err(TokenDenial::Secret);
        }
        match &self.used_by {
            Some(key) if key != key_sha256 => Err(TokenDenial::OtherKey),
            _ if now_ms >= self.expires_at_ms => Err(TokenDenial::Expired),
            Some(_) => Ok(Verdict::Repeat),
            None => Ok(Verdict::Honour),
        }
    }
}

/// Somebody shows a token and a key.
#[derive(Debug, Clone)]
pub struct Redemption {
    pub token: TokenId,
    pub secret: zeroize::Zeroizing<Vec<u8>>,
    /// SHA-256 of the public key (SPKI) that the certificate is to be for.
    pub key_sha256: [u8; 32],
    pub now_ms: i64,
    /// Set by an operator's first login.
    pub operator: Option<NewOperator>,
    /// What the audit says of it.
    pub intent: Intent,
}

/// The first operator, as their login introduces them. The list was verified before.
#[derive(Debug, Clone)]
pub struct NewOperator {
    pub name: String,
    pub public_key: [u8; 32],
    pub version: u64,
    pub trust_list: SignedTrustList,
}

/// What a token was exchanged for.
#[derive(Debug, Clone)]
pub struct Enrolment {
    /// DER.
    pub certificate: Vec<u8>,
    pub identity: String,
    /// Set for an agent.
    pub agent: Option<AgentEnrolled>,
}

/// What an agent learns beside its certificate.
#[derive(Debug, Clone)]
pub struct AgentEnrolled {
    pub host: HostRow,
    pub trust_list: SignedTrustList,
}

/// Proof that a run stands in the store with its audit entry: what sends probes and orders takes one. Only the store
/// makes them.
#[derive(Debug, Clone)]
pub struct Mandate {
    run: RunId,
    claim: Claim,
}

impl Mandate {
    pub(super) fn new(run: RunId) -> Self {
        Self { run, claim: Claim::default() }
    }

    /// The same for a run whose events are written with this claim on the disk's room.
    #[must_use]
    pub(crate) fn claiming(self, claim: Claim) -> Self {
        Self { claim, ..self }
    }

    pub(crate) fn claim(&self) -> Claim {
        self.claim
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }
}

/// What became of opening a run.
#[derive(Debug)]
pub enum OpenedRun {
    /// It is new; whoever holds the mandate drives it.
    New(Mandate),
    /// A run of this id is there already.
    Exists(RunSummary),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_honoured_once_and_repeated_to_the_same_key() {
        let grants = TokenFor::Operator;
        let mut token = Token::new(TokenId::new(), &[7; 32], grants, 1000);
        let (mine, other) = ([1; 32], [2; 32]);
        assert_eq!(token.judge(&[7; 32], &mine, 999), Ok(Verdict::Honour));
        assert_eq!(token.judge(&[7; 32], &mine, 1000), Err(TokenDenial::Expired));
        assert_eq!(token.judge(&[8; 32], &mine, 999), Err(TokenDenial::Secret));
        assert_eq!(token.judge(&[], &mine, 999), Err(TokenDenial::Secret));
        token.used_by = Some(mine);
        assert_eq!(token.judge(&[7; 32], &mine, 999), Ok(Verdict::Repeat));
        assert_eq!(token.judge(&[7; 32], &mine, 1000), Err(TokenDenial::Expired));
        assert_eq!(token.judge(&[7; 32], &other, 999), Err(TokenDenial::OtherKey));
    }
}
