//! Orders: assembling, signing and believing them.
//!
//! The controller assembles a [`Batch`] from leaves, ctl checks and signs it, the agent believes nothing but what
//! [`verify`] returns. What is signed and what is believed are bytes: they are decoded only after they were verified,
//! and must encode to the same bytes again, so that no program acts on a part of an order that it cannot read.

mod merkle;
mod sign;
mod verify;

pub use merkle::{leaf_hash, path, root};
pub use sign::{Domain, SigningKey, VerifyingKey, key_id};
pub use verify::{
    CLOCK_ALLOWANCE_MS, Challenge, MAX_WINDOW_MS, Refusal, TrustError, TrustedKeys, Verified, verify,
};

use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::v1::{Execute, Leaf, Manifest, Signature};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// A manifest with the leaves that it stands for, all as the bytes that are signed and sent.
#[derive(Debug, Clone)]
pub struct Batch {
    manifest: Vec<u8>,
    leaves: Vec<Vec<u8>>,
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("the {0} is not what it says: it does not decode, or does not encode to the same bytes again")]
    Malformed(&'static str),
    #[error("the manifest speaks of {expected} tasks, and there are {got}")]
    Count { expected: u32, got: usize },
    #[error("the manifest's root or plan digest does not belong to these tasks")]
    Digest,
}

impl Batch {
    /// Fills in a manifest's count, root and plan digest from its leaves.
    pub fn assemble(mut manifest: Manifest, leaves: &[Leaf]) -> Self {
        let leaves: Vec<_> = leaves.iter().map(Message::encode_to_vec).collect();
        manifest.count = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
        manifest.root = root(&leaves).to_vec();
        manifest.plan_digest = plan_digest(&leaves).to_vec();
        Self { manifest: manifest.encode_to_vec(), leaves }
    }

    /// Takes a batch from elsewhere, checking that the manifest and the leaves belong together.
    ///
    /// # Errors
    /// When something does not decode to itself, or the digests differ.
    pub fn from_parts(
        manifest: Vec<u8>,
        leaves: Vec<Vec<u8>>,
    ) -> Result<(Self, Manifest, Vec<Leaf>), BatchError> {
        let decoded: Manifest = exact(&manifest).ok_or(BatchError::Malformed("manifest"))?;
        if decoded.count as usize != leaves.len() {
            return Err(BatchError::Count { expected: decoded.count, got: leaves.len() });
        }
        if decoded.root != root(&leaves) || decoded.plan_digest != plan_digest(&leaves) {
            return Err(BatchError::Digest);
        }
        let tasks = leaves
            .iter()
            .map(|leaf| exact(leaf))
            .collect::<Option<Vec<Leaf>>>()
            .ok_or(BatchError::Malformed("task"))?;
        Ok((Self { manifest, leaves }, decoded, tasks))
    }

    /// The manifest's bytes, which are what is signed.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The encoded leaves.
    pub fn leaves(&self) -> &[Vec<u8>] {
        &self.leaves
    }

    /// The envelope for one leaf; `None` when there is no such leaf.
    pub fn execute(&self, index: usize, signatures: &[Signature], epoch: u64) -> Option<Execute> {
        Some(Execute {
            leaf: self.leaves.get(index)?.clone(),
            index: u32::try_from(index).ok()?,
            path: path(&self.leaves, index)?.into_iter().map(Into::into).collect(),
            manifest: self.manifest.clone(),
            signatures: signatures.to_vec(),
            epoch,
        })
    }
}

/// Decodes bytes that must encode to themselves again.
fn exact<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    (message.encode_to_vec() == bytes).then_some(message)
}

fn plan_digest(leaves: &[Vec<u8>]) -> Digest {
    let mut hash = Sha256::new();
    for leaf in leaves {
        hash.update((leaf.len() as u64).to_be_bytes());
        hash.update(leaf);
    }
    hash.finalize().into()
}
