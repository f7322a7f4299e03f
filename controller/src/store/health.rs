//! Whether the store takes changes, and for what it does when there is little room.

use super::StoreError;

/// What somebody wants to write for. The later ones go on when the disk is full, on room that is kept for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Claim {
    /// Everything else: it waits for room, or is refused before anything is sent.
    #[default]
    Ordinary,
    /// What only looks, and what tells people of it. It leaves half of the reserve untouched.
    Observing,
    /// What frees the disk, which may be the controller's own.
    Freeing,
}

/// Whether the store takes changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Writable,
    /// The disk is full, or nearly: what [`Claim::Ordinary`] stands for is refused.
    OnReserve {
        since_ms: i64,
        why: String,
    },
    /// Nothing can be written. What is read is true, and may be behind.
    ReadOnly {
        since_ms: i64,
        why: String,
    },
}

impl Health {
    /// Since when what is read may be behind, and why; nothing while it is not.
    pub fn stale(&self) -> Option<(i64, &str)> {
        match self {
            Self::Writable => None,
            Self::OnReserve { since_ms, why } | Self::ReadOnly { since_ms, why } => Some((*since_ms, why)),
        }
    }

    /// Why it takes no change for this; nothing when it does.
    pub fn refusal(&self, claim: Claim) -> Option<StoreError> {
        match self {
            Self::OnReserve { why, .. } if claim == Claim::Ordinary => {
                Some(StoreError::Full { why: why.clone() })
            }
            Self::ReadOnly { why, .. } => Some(StoreError::ReadOnly { why: why.clone() }),
            Self::Writable | Self::OnReserve { .. } => None,
        }
    }

    pub(super) fn is_alike(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}
