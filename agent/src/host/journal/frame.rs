//! How a record, and the head of a segment, look as bytes.
//!
//! All numbers are little-endian. A frame is `"VREC" | length: u32 | seq: u64 | crc: u32 | hash: 32 | payload`; its hash
//! is SHA-256 over the hash before it and the payload, its CRC-32 is over everything but itself. A segment's head is
//! `"VIGIEJ1\n" | segment: u64 | first seq: u64 | hash before: 32 | crc: u32`. A mark is `seq: u64 | crc: u32`.

use sha2::{Digest as _, Sha256};

pub(super) type Hash = [u8; 32];

const MAGIC: &[u8; 4] = b"VREC";
const HEAD_MAGIC: &[u8; 8] = b"VIGIEJ1\n";

/// A frame without its payload.
pub(super) const FRAME: usize = 4 + 4 + 8 + 4 + 32;

/// A segment's head.
pub(super) const HEAD: usize = 8 + 8 + 8 + 32 + 4;

/// A record's bytes, whose CRC is right.
pub(super) struct Frame<'a> {
    pub(super) seq: u64,
    pub(super) hash: Hash,
    pub(super) payload: &'a [u8],
}

/// The hash that a payload has after another record.
pub(super) fn chain(before: &Hash, payload: &[u8]) -> Hash {
    Sha256::new().chain_update(before).chain_update(payload).finalize().into()
}

pub(super) fn encode(seq: u64, hash: &Hash, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    let mut bytes = Vec::with_capacity(FRAME + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&seq.to_le_bytes());
    bytes.extend_from_slice(&crc(&[MAGIC, &length, &seq.to_le_bytes(), hash, payload]).to_le_bytes());
    bytes.extend_from_slice(hash);
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads the frame at the beginning of some bytes; `None` when there is none that is whole.
pub(super) fn decode(bytes: &[u8]) -> Option<Frame<'_>> {
    let magic: &[u8; 4] = bytes.first_chunk()?;
    let length: &[u8; 4] = bytes.get(4..)?.first_chunk()?;
    let seq: &[u8; 8] = bytes.get(8..)?.first_chunk()?;
    let sum: &[u8; 4] = bytes.get(16..)?.first_chunk()?;
    let hash: &Hash = bytes.get(20..)?.first_chunk()?;
    let payload = bytes.get(FRAME..)?.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let whole = magic == MAGIC && crc(&[magic, length, seq, hash, payload]) == u32::from_le_bytes(*sum);
    whole.then(|| Frame { seq: u64::from_le_bytes(*seq), hash: *hash, payload })
}

/// The bytes without the zeros at their end, to within a page. Compared page by page, since most of a segment is zeros.
pub(super) fn used(bytes: &[u8]) -> &[u8] {
    const ZEROS: [u8; 4096] = [0; 4096];
    let pages =
        bytes.chunks(ZEROS.len()).rposition(|page| *page != ZEROS[..page.len()]).map_or(0, |last| last + 1);
    &bytes[..bytes.len().min(pages * ZEROS.len())]
}

/// Whether there is a whole frame anywhere in some bytes.
pub(super) fn anywhere(bytes: &[u8]) -> bool {
    let bytes = used(bytes);
    bytes
        .windows(MAGIC.len())
        .enumerate()
        .any(|(at, window)| window == MAGIC && decode(&bytes[at..]).is_some())
}

/// What a segment says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) segment: u64,
    pub(super) first_seq: u64,
    pub(super) before: Hash,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(HEAD_MAGIC);
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        bytes.extend_from_slice(&self.before);
        let sum = crc(&[&bytes]);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let segment: &[u8; 8] = bytes.get(8..)?.first_chunk()?;
        let first_seq: &[u8; 8] = bytes.get(16..)?.first_chunk()?;
        let before: &Hash = bytes.get(24..)?.first_chunk()?;
        let head = Self {
            segment: u64::from_le_bytes(*segment),
            first_seq: u64::from_le_bytes(*first_seq),
            before: *before,
        };
        (bytes.get(..HEAD)? == head.encode()).then_some(head)
    }
}

/// A record that is known to be on disk, by its number.
pub(super) fn encode_mark(seq: u64) -> Vec<u8> {
    let seq = seq.to_le_bytes();
    [&seq[..], &crc(&[&seq]).to_le_bytes()].concat()
}

/// 0 when there is no mark.
pub(super) fn decode_mark(bytes: &[u8]) -> u64 {
    let seq = bytes.first_chunk().map_or(0, |seq| u64::from_le_bytes(*seq));
    if bytes.get(..12).is_some_and(|bytes| bytes == encode_mark(seq)) { seq } else { 0 }
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}
