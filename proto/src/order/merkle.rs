//! The Merkle tree of RFC 6962, section 2.1: leaves and nodes are hashed under different prefixes, and a tree of any
//! size splits at the greatest power of two below it.

use sha2::{Digest as _, Sha256};

use super::Digest;

/// The hash of a leaf's bytes.
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    Sha256::new().chain_update([0]).chain_update(leaf).finalize().into()
}

fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root over encoded leaves; the hash of nothing when there are none.
pub fn root(leaves: &[Vec<u8>]) -> Digest {
    let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    subtree(&hashes)
}

fn subtree(hashes: &[Digest]) -> Digest {
    match hashes {
        [] => Sha256::digest([]).into(),
        [only] => *only,
        _ => {
            let (left, right) = hashes.split_at(split(hashes.len()));
            node_hash(&subtree(left), &subtree(right))
        }
    }
}

/// The sibling hashes from a leaf up to the root; `None` when there is no such leaf.
pub fn path(leaves: &[Vec<u8>], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let mut siblings = Vec::new();
    climb(&hashes, index, &mut siblings);
    Some(siblings)
}

fn climb(hashes: &[Digest], index: usize, siblings: &mut Vec<Digest>) {
    if hashes.len() <= 1 {
        return;
    }
    let at = split(hashes.len());
    let (left, right) = hashes.split_at(at);
    if index < at {
        climb(left, index, siblings);
        siblings.push(subtree(right));
    } else {
        climb(right, index - at, siblings);
        siblings.push(subtree(left));
    }
}

/// The root that a leaf leads to by its path; `None` when the path's length does not fit the leaf's place.
pub(super) fn root_by_path(leaf: Digest, index: usize, count: usize, path: &[Digest]) -> Option<Digest> {
    match (count, path) {
        (1, []) if index == 0 => Some(leaf),
        (2.., [rest @ .., sibling]) if index < count => {
            let at = split(count);
            Some(if index < at {
                node_hash(&root_by_path(leaf, index, at, rest)?, sibling)
            } else {
                node_hash(sibling, &root_by_path(leaf, index - at, count - at, rest)?)
            })
        }
        _ => None,
    }
}

/// The greatest power of two below `count`, which is at least 2.
fn split(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    /// Test vectors of the Certificate Transparency implementation (merkletree tests), also in RFC 6962's successor.
    #[test]
    fn known_roots() {
        assert_eq!(
            HEXLOWER.encode(&root(&[])),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            HEXLOWER.encode(&root(&[vec![]])),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
    }

    proptest! {
        #[test]
        fn every_leaf_leads_to_the_root_and_no_other_does(
            leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 1..40),
            pick in any::<prop::sample::Index>(),
        ) {
            let index = pick.index(leaves.len());
            let path = path(&leaves, index).unwrap();
            let hash = leaf_hash(&leaves[index]);
            prop_assert_eq!(root_by_path(hash, index, leaves.len(), &path), Some(root(&leaves)));
            prop_assert_ne!(root_by_path(leaf_hash(b"another one"), index, leaves.len(), &path), Some(root(&leaves)));
            let mut longer = path;
            longer.push([0; 32]);
            prop_assert_ne!(root_by_path(hash, index, leaves.len(), &longer), Some(root(&leaves)));
        }
    }
}
