//! The checks that make bytes into an order. Everything fails closed, each check with its own reason.

use prost::Message as _;

use super::{Digest, Domain, VerifyingKey, digest, exact, key_id, leaf_hash, merkle::root_by_path};
use crate::{
    id::{HostId, IdError, RunId, TaskId},
    operation::{self, Authority, FieldError, Operation},
    v1::{Execute, Leaf, Manifest, Request, SignedTrustList, TrustList},
};

/// An envelope past this size is refused unread.
const MAX_BYTES: usize = 256 * 1024;

/// Host and controller may differ by this much before an order's window is missed, in milliseconds.
pub const CLOCK_ALLOWANCE_MS: i64 = 60_000;

/// The widest window that an order may have, in milliseconds: an order that is kept back cannot come to life later.
pub const MAX_WINDOW_MS: i64 = 60 * 60 * 1000;

/// The keys of a trust list.
#[derive(Debug, Clone)]
pub struct TrustedKeys {
    version: u64,
    digest: Digest,
    keys: Vec<(Digest, String, VerifyingKey)>,
}

impl TrustedKeys {
    /// Reads a first trust list: the one whose digest the host was given when it joined, signed by a key of its own.
    ///
    /// # Errors
    /// When it is not the pinned one, malformed, empty, or not signed by one of its keys.
    pub fn pinned(list: &SignedTrustList, pin: &Digest) -> Result<Self, TrustError> {
        if digest(&list.trust_list) != *pin {
            return Err(TrustError::NotPinned);
        }
        let decoded: TrustList = exact(&list.trust_list).ok_or(TrustError::Malformed)?;
        let keys = decoded
            .operators
            .into_iter()
            .map(|operator| {
                let key = VerifyingKey::from_bytes(&operator.public_key).ok_or(TrustError::Malformed)?;
                Ok((key_id(&operator.public_key), operator.person, key))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let signed = list.signatures.iter().any(|signature| {
            keys.iter().any(|(id, _, key)| {
                id[..] == signature.key_id && key.verifies(Domain::TrustList, &list.trust_list, signature)
            })
        });
        if !signed {
            return Err(TrustError::Unsigned);
        }
        Ok(Self { version: decoded.version, digest: *pin, keys })
    }

    /// Which version of the list this is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// SHA-256 of the encoded list.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    fn find(&self, id: &[u8]) -> Option<&(Digest, String, VerifyingKey)> {
        self.keys.iter().find(|(key, ..)| key[..] == *id)
    }
}

/// Why a trust list is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("the trust list is not the one that was pinned")]
    NotPinned,
    #[error("the trust list does not decode to itself, or holds a bad key")]
    Malformed,
    #[error("the trust list is signed by none of its keys")]
    Unsigned,
}

/// An order that an operator signed for exactly this host. Only [`verify`] makes one.
#[derive(Debug, Clone)]
pub struct Verified {
    order: TaskId,
    run: RunId,
    person: String,
    request: Request,
    operation: &'static Operation,
    timeout_ms: u32,
    not_after_ms: i64,
    epoch: u64,
    digest: Digest,
    challenge: Option<Challenge>,
}

/// What an order for an operation that loses something carries. The agent that gave it out knows whether it is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    /// The random bytes with which the agent answered when the order was prepared.
    pub bytes: [u8; 32],
    /// SHA-256 of the encoded Result that its preview found then.
    pub prepared: Digest,
}

impl Verified {
    /// The order's id, which is the task's.
    pub fn order(&self) -> TaskId {
        self.order
    }

    /// The run that it is part of.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Who signed.
    pub fn person(&self) -> &str {
        &self.person
    }

    /// What to do.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// What the catalogue says of it.
    pub fn operation(&self) -> &'static Operation {
        self.operation
    }

    /// How long it may run.
    pub fn timeout(&self) -> std::time::Duration {
        match self.timeout_ms {
            0 => self.operation.timeout(),
            ms => std::time::Duration::from_millis(u64::from(ms)),
        }
    }

    /// The last moment at which it may start, as Unix milliseconds, the clocks' allowance included.
    pub fn start_by_ms(&self) -> i64 {
        self.not_after_ms.saturating_add(CLOCK_ALLOWANCE_MS)
    }

    /// The fencing epoch that came with it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// SHA-256 of the leaf's bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it carries; there for exactly the operations that lose something.
    pub fn challenge(&self) -> Option<&Challenge> {
        self.challenge.as_ref()
    }
}

/// Why an agent does not believe an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the envelope is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the {0} does not decode, or does not encode to the same bytes again")]
    Malformed(&'static str),
    #[error("the order carries no signature")]
    SignatureRequired,
    #[error("the order is signed by a key that this host does not trust")]
    UnknownKey,
    #[error("the key is {holder}'s, and the manifest names {named}")]
    WrongPerson { holder: String, named: String },
    #[error("the signature does not belong to these bytes")]
    BadSignature,
    #[error("the task is not part of what was signed")]
    NotInBatch,
    #[error("the order is for host {0}, not for this one")]
    WrongTarget(String),
    #[error("the order is for this host's enrolment {ordered}, and the present one is {present}")]
    WrongIncarnation { ordered: u64, present: u64 },
    #[error("the order may not start before {not_before_ms} and it is {now_ms} (Unix ms): the clocks differ")]
    TooEarly { not_before_ms: i64, now_ms: i64 },
    #[error("the order had to start by {not_after_ms} and it is {now_ms} (Unix ms)")]
    Expired { not_after_ms: i64, now_ms: i64 },
    #[error("the operation loses something, and the order carries no challenge of this host")]
    ChallengeRequired,
    #[error("an id in the order is none: {0}")]
    Id(IdError),
    #[error("the order asks for something that is not valid: {0}")]
    Operation(FieldError),
}

impl Refusal {
    /// The stable name of the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "order_too_large",
            Self::Malformed(_) => "order_malformed",
            Self::SignatureRequired => "signature_required",
            Self::UnknownKey => "unknown_key",
            Self::WrongPerson { .. } => "wrong_person",
            Self::BadSignature => "bad_signature",
            Self::NotInBatch => "not_in_batch",
            Self::WrongTarget(_) => "wrong_target",
            Self::WrongIncarnation { .. } => "wrong_incarnation",
            Self::TooEarly { .. } => "clock_skew",
            Self::Expired { .. } => "expired",
            Self::ChallengeRequired => "challenge_required",
            Self::Id(_) => "order_malformed",
            Self::Operation(_) => "invalid_request",
        }
    }
}

/// Believes an order or says why not. Reads nothing but its arguments: the caller still has to look the order up in
/// the journal, and to ask the host's policy.
///
/// # Errors
/// The first check that fails, in the order of docs/orders.md.
pub fn verify(
    execute: &Execute,
    trusted: &TrustedKeys,
    host: HostId,
    incarnation: u64,
    now_ms: i64,
) -> Result<Verified, Refusal> {
    if execute.encoded_len() > MAX_BYTES {
        return Err(Refusal::TooLarge);
    }
    let holder = signer(execute, trusted)?;
    let manifest: Manifest = exact(&execute.manifest).ok_or(Refusal::Malformed("manifest"))?;
    if manifest.person != *holder {
        return Err(Refusal::WrongPerson { holder: holder.clone(), named: manifest.person });
    }
    let path = execute
        .path
        .iter()
        .map(|hash| Digest::try_from(hash.as_slice()).ok())
        .collect::<Option<Vec<_>>>()
        .ok_or(Refusal::Malformed("path"))?;
    let led_to =
        root_by_path(leaf_hash(&execute.leaf), execute.index as usize, manifest.count as usize, &path);
    if led_to.is_none_or(|root| root[..] != manifest.root) {
        return Err(Refusal::NotInBatch);
    }
    let leaf: Leaf = exact(&execute.leaf).ok_or(Refusal::Malformed("task"))?;
    if leaf.host != host.to_string() {
        return Err(Refusal::WrongTarget(leaf.host));
    }
    if leaf.incarnation != incarnation {
        return Err(Refusal::WrongIncarnation { ordered: leaf.incarnation, present: incarnation });
    }
    let (not_before_ms, not_after_ms) = (manifest.not_before_ms, manifest.not_after_ms);
    if not_after_ms.saturating_sub(not_before_ms) > MAX_WINDOW_MS {
        return Err(Refusal::Malformed("window"));
    }
    if now_ms < not_before_ms.saturating_sub(CLOCK_ALLOWANCE_MS) {
        return Err(Refusal::TooEarly { not_before_ms, now_ms });
    }
    if now_ms > not_after_ms.saturating_add(CLOCK_ALLOWANCE_MS) {
        return Err(Refusal::Expired { not_after_ms, now_ms });
    }
    let request = leaf.operation.ok_or(Refusal::Operation(FieldError::Unknown))?;
    operation::check(&request).map_err(Refusal::Operation)?;
    let operation = Operation::of(&request).map_err(Refusal::Operation)?;
    let challenge = match (operation.authority, leaf.challenge.as_slice(), leaf.prepared.as_slice()) {
        (Authority::OrderChallenge, challenge, prepared) => Some(Challenge {
            bytes: challenge.try_into().map_err(|_| Refusal::ChallengeRequired)?,
            prepared: prepared.try_into().map_err(|_| Refusal::ChallengeRequired)?,
        }),
        (_, [], []) => None,
        _ => return Err(Refusal::Malformed("challenge")),
    };
    Ok(Verified {
        order: leaf.order.parse().map_err(Refusal::Id)?,
        run: manifest.run.parse().map_err(Refusal::Id)?,
        person: manifest.person,
        operation,
        request,
        timeout_ms: leaf.timeout_ms,
        not_after_ms,
        epoch: execute.epoch,
        digest: digest(&execute.leaf),
        challenge,
    })
}

/// The person whose trusted key signed the manifest's bytes.
fn signer<'a>(execute: &Execute, trusted: &'a TrustedKeys) -> Result<&'a String, Refusal> {
    if execute.signatures.is_empty() {
        return Err(Refusal::SignatureRequired);
    }
    let mut refusal = Refusal::UnknownKey;
    for signature in &execute.signatures {
        let Some((_, person, key)) = trusted.find(&signature.key_id) else { continue };
        if key.verifies(Domain::Manifest, &execute.manifest, signature) {
            return Ok(person);
        }
        refusal = Refusal::BadSignature;
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::BatchId,
        order::{Batch, SigningKey},
        v1::{ComposeRestartRequest, PostgresTerminateRequest, TrustedOperator, request},
    };

    const NOW: i64 = 1_800_000_000_000;

    struct Fixture {
        key: SigningKey,
        trusted: TrustedKeys,
        host: HostId,
    }

    impl Fixture {
        fn new() -> Self {
            let key = SigningKey::from_seed(&[7; 32]);
            let list = TrustList {
                version: 1,
                operators: vec![TrustedOperator {
                    person: "ada".to_owned(),
                    public_key: key.public().to_bytes().to_vec(),
                }],
            }
            .encode_to_vec();
            let signed = SignedTrustList {
                signatures: vec![key.sign(Domain::TrustList, &list)],
                trust_list: list.clone(),
            };
            let trusted = TrustedKeys::pinned(&signed, &digest(&list)).unwrap();
            assert_eq!(TrustedKeys::pinned(&signed, &[0; 32]).unwrap_err(), TrustError::NotPinned);
            let unsigned = SignedTrustList { signatures: Vec::new(), ..signed };
            assert_eq!(TrustedKeys::pinned(&unsigned, &digest(&list)).unwrap_err(), TrustError::Unsigned);
            Self { key, trusted, host: HostId::new() }
        }

        fn leaf(&self) -> Leaf {
            Leaf {
                order: TaskId::new().to_string(),
                host: self.host.to_string(),
                incarnation: 2,
                operation: Some(Request {
                    operation: Some(request::Operation::ComposeRestart(ComposeRestartRequest {
                        stack: "sylion".to_owned(),
                        services: vec!["backend".to_owned()],
                    })),
                }),
                ..Default::default()
            }
        }

        fn manifest() -> Manifest {
            Manifest {
                batch: BatchId::new().to_string(),
                run: RunId::new().to_string(),
                not_before_ms: NOW,
                not_after_ms: NOW + 600_000,
                person: "ada".to_owned(),
                ..Default::default()
            }
        }

        fn signed(&self, leaves: &[Leaf]) -> Execute {
            let batch = Batch::assemble(Self::manifest(), leaves);
            batch.execute(0, &[self.key.sign(Domain::Manifest, batch.manifest())], 1).unwrap()
        }

        fn verify(&self, execute: &Execute) -> Result<Verified, Refusal> {
            verify(execute, &self.trusted, self.host, 2, NOW)
        }
    }

    #[test]
    fn a_signed_order_is_believed() {
        let fixture = Fixture::new();
        let leaf = fixture.leaf();
        let verified =
            fixture.verify(&fixture.signed(&[leaf.clone(), fixture.leaf(), fixture.leaf()])).unwrap();
        assert_eq!(verified.order().to_string(), leaf.order);
        assert_eq!((verified.person(), verified.operation().name), ("ada", "compose_restart"));
    }

    /// Attack 3: each byte of a valid order, each bit of it.
    #[test]
    fn no_bit_of_a_signed_order_can_be_changed() {
        let fixture = Fixture::new();
        let good = fixture.signed(&[fixture.leaf(), fixture.leaf()]);
        for part in 0..4 {
            let len = bytes(&mut good.clone(), part).len();
            for bit in 0..len * 8 {
                let mut bad = good.clone();
                bytes(&mut bad, part)[bit / 8] ^= 1 << (bit % 8);
                assert!(fixture.verify(&bad).is_err(), "part {part}, bit {bit}");
            }
        }
        assert!(fixture.verify(&good).is_ok());
    }

    fn bytes(execute: &mut Execute, part: usize) -> &mut Vec<u8> {
        match part {
            0 => &mut execute.leaf,
            1 => &mut execute.manifest,
            2 => &mut execute.path[0],
            _ => &mut execute.signatures[0].signature,
        }
    }

    #[test]
    fn each_check_has_its_reason() {
        let fixture = Fixture::new();
        let good = fixture.signed(&[fixture.leaf()]);
        let unsigned = Execute { signatures: Vec::new(), ..good.clone() };
        assert_eq!(fixture.verify(&unsigned).unwrap_err(), Refusal::SignatureRequired);

        let stranger = SigningKey::from_seed(&[9; 32]);
        let forged =
            Execute { signatures: vec![stranger.sign(Domain::Manifest, &good.manifest)], ..good.clone() };
        assert_eq!(fixture.verify(&forged).unwrap_err(), Refusal::UnknownKey);

        let other_domain =
            Execute { signatures: vec![fixture.key.sign(Domain::TrustList, &good.manifest)], ..good.clone() };
        assert_eq!(fixture.verify(&other_domain).unwrap_err(), Refusal::BadSignature);

        let elsewhere = Leaf { host: HostId::new().to_string(), ..fixture.leaf() };
        assert_eq!(fixture.verify(&fixture.signed(&[elsewhere])).unwrap_err().code(), "wrong_target");
        let earlier = Leaf { incarnation: 1, ..fixture.leaf() };
        assert_eq!(fixture.verify(&fixture.signed(&[earlier])).unwrap_err().code(), "wrong_incarnation");

        let at =
            |now| verify(&good, &fixture.trusted, fixture.host, 2, now).map_err(|refusal| refusal.code());
        assert_eq!(at(NOW - 60_001).unwrap_err(), "clock_skew");
        assert_eq!(at(NOW + 660_001).unwrap_err(), "expired");
        assert!(at(NOW + 660_000).is_ok());

        let mut unknown_field = fixture.leaf().encode_to_vec();
        unknown_field.extend_from_slice(&[0xf8, 0x07, 1]);
        let manifest = Manifest {
            count: 1,
            root: super::super::root(&[unknown_field.clone()]).to_vec(),
            ..Fixture::manifest()
        }
        .encode_to_vec();
        let newer = Execute {
            signatures: vec![fixture.key.sign(Domain::Manifest, &manifest)],
            leaf: unknown_field,
            manifest,
            ..good.clone()
        };
        assert_eq!(fixture.verify(&newer).unwrap_err(), Refusal::Malformed("task"));

        let manifest = Manifest { not_after_ms: i64::MAX, ..Fixture::manifest() };
        let batch = Batch::assemble(manifest, &[fixture.leaf()]);
        let endless = batch.execute(0, &[fixture.key.sign(Domain::Manifest, batch.manifest())], 1).unwrap();
        assert_eq!(fixture.verify(&endless).unwrap_err(), Refusal::Malformed("window"));

        let stray = Leaf { challenge: vec![1; 32], prepared: vec![2; 32], ..fixture.leaf() };
        assert_eq!(fixture.verify(&fixture.signed(&[stray])).unwrap_err(), Refusal::Malformed("challenge"));
        let loses = Request {
            operation: Some(request::Operation::PostgresTerminate(PostgresTerminateRequest::default())),
        };
        let bare = Leaf { operation: Some(loses), ..fixture.leaf() };
        let short = Leaf { challenge: vec![1; 31], prepared: vec![2; 32], ..bare.clone() };
        for leaf in [bare.clone(), short] {
            assert_eq!(fixture.verify(&fixture.signed(&[leaf])).unwrap_err(), Refusal::ChallengeRequired);
        }
        let whole = Leaf { challenge: vec![1; 32], prepared: vec![2; 32], ..bare };
        let challenge = Challenge { bytes: [1; 32], prepared: [2; 32] };
        assert_eq!(fixture.verify(&fixture.signed(&[whole])).unwrap().challenge(), Some(&challenge));

        let invalid = Leaf { operation: Some(Request { operation: None }), ..fixture.leaf() };
        assert_eq!(fixture.verify(&fixture.signed(&[invalid])).unwrap_err().code(), "invalid_request");
    }
}
