//! The contract and the words of all three programs.
//!
//! [`v1`] is generated from `vigie/v1/*.proto`. The rest gives the contract's strings and bytes their types: ids,
//! selectors, orders, tokens, and the table of operations read from the descriptors. Nothing here does I/O.

pub mod id;
pub mod operation;
pub mod order;
pub mod outcome;
pub mod selector;
pub mod text;
pub mod token;

#[cfg(feature = "descriptors")]
pub mod descriptors;

/// The generated messages, clients and servers.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used
)]
pub mod v1 {
    tonic::include_proto!("vigie.v1");
}

/// The contract as an encoded `FileDescriptorSet`, options and comments included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Header of a controller's answer: since when what it holds may be behind, in Unix milliseconds. Absent while it is not.
pub const STALE_SINCE: &str = "vigie-stale-since";

/// And why, in words.
pub const STALE_WHY: &str = "vigie-stale-why";
