//! The chain of records over segments: appending to it, and finding its end again.
//!
//! Records are put on disk one at a time, so that at most the last one can be incomplete after a crash. After each, a
//! mark in the segment's first page says that it is there; it is written without a sync of its own, since it only has
//! to outlive damage, not a crash. Thus a last record that was damaged later is told from one that was never finished.

use std::{io, ops::Range};

use prost::Message as _;

use super::{
    Record, Storage,
    frame::{self, FRAME, HEAD, Hash, Head},
};

/// A segment's length: room for a few thousand small records, and small enough to keep one in reserve.
pub(super) const SEGMENT: usize = 2 * 1024 * 1024;

/// The longest payload: an outcome with both streams of a program's kept output.
pub(super) const LONGEST: usize = 256 * 1024;

/// Records begin after the first page, which holds the head and the marks, each in a sector of its own.
const FIRST: usize = 4096;
const MARKS: [usize; 2] = [512, 1024];

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub(super) segment: u64,
    pub(super) offset: usize,
    pub(super) seq: u64,
    pub(super) hash: Hash,
}

/// The chain's end, ready for more.
#[derive(Debug)]
pub(super) struct Log {
    /// Closed segments, in ascending order.
    closed: Vec<u64>,
    segment: u64,
    /// Where the next record goes.
    offset: usize,
    /// The next record's number; the first one's is 1.
    next: u64,
    hash: Hash,
    spare: Option<u64>,
}

/// Why a chain cannot be gone on with.
#[derive(Debug)]
pub(super) enum RecoverError {
    /// From this record on, what is on disk is not what was written.
    Corrupt {
        seq: u64,
    },
    Storage(io::Error),
}

impl From<io::Error> for RecoverError {
    fn from(error: io::Error) -> Self {
        Self::Storage(error)
    }
}

impl Log {
    /// Writes the head of the very first segment.
    pub(super) fn begin(storage: &mut impl Storage) -> io::Result<()> {
        storage.write(1, 0, &Head { segment: 1, first_seq: 1, before: [0; 32] }.encode())?;
        storage.sync(1)
    }

    /// Reads every segment, hands over every record in its order, and cuts off what an interrupted write left.
    pub(super) fn recover<S: Storage>(
        storage: &mut S,
        mut each: impl FnMut(Record, Position),
    ) -> Result<Self, RecoverError> {
        let segments = storage.segments()?;
        let Some((&first, _)) = segments.split_first() else {
            // A host that is enrolled had a journal; without it, it does not know what it did.
            return Err(RecoverError::Corrupt { seq: 1 });
        };
        let mut log =
            Self { closed: Vec::new(), segment: 0, offset: FIRST, next: 1, hash: [0; 32], spare: None };
        // The bytes of the segment that the chain is in, and where its last record is among them.
        let (mut present, mut last) = (Vec::new(), FIRST..FIRST);
        for (place, &segment) in segments.iter().enumerate() {
            let bytes = storage.read(segment)?;
            let Some(head) = Head::decode(&bytes) else {
                let last = place + 1 == segments.len();
                if !last || segment == first || frame::anywhere(bytes.get(FIRST..).unwrap_or_default()) {
                    return Err(RecoverError::Corrupt { seq: log.next });
                }
                // The spare, or one whose first record was never finished.
                clear(storage, segment, 0, &bytes)?;
                log.spare = Some(segment);
                break;
            };
            let follows = segment == first || (head.first_seq == log.next && head.before == log.hash);
            if head.segment != segment || !follows {
                return Err(RecoverError::Corrupt { seq: log.next });
            }
            if segment == first {
                (log.next, log.hash) = (head.first_seq, head.before);
            } else {
                log.closed.push(log.segment);
            }
            (log.segment, log.offset) = (segment, FIRST);
            last = log.walk(&bytes, &mut each)?;
            present = bytes;
        }
        log.cut(storage, &present)?;
        // A sync that failed may have left the last record, or the head, in the system's cache alone, from where it was
        // read now: written again, it is on the disk before anything is put behind it.
        storage.write(log.segment, 0, present.get(..HEAD).unwrap_or_default())?;
        let at = last.start;
        storage.write(log.segment, at, present.get(last).unwrap_or_default())?;
        storage.sync(log.segment)?;
        Ok(log)
    }

    /// Takes the records of a segment up to the first that is none, and says where the last one is.
    fn walk(
        &mut self,
        bytes: &[u8],
        each: &mut impl FnMut(Record, Position),
    ) -> Result<Range<usize>, RecoverError> {
        let mut last = self.offset..self.offset;
        while let Some(frame) = bytes.get(self.offset..).and_then(frame::decode) {
            let corrupt = RecoverError::Corrupt { seq: self.next };
            if frame.seq != self.next || frame.hash != frame::chain(&self.hash, frame.payload) {
                return Err(corrupt);
            }
            let Ok(record) = Record::decode(frame.payload) else { return Err(corrupt) };
            self.hash = frame.hash;
            each(record, self.position());
            last = self.offset..self.offset + FRAME + frame.payload.len();
            self.offset = last.end;
            self.next += 1;
        }
        Ok(last)
    }

    /// Where the record goes, or went, whose hash is the chain's.
    fn position(&self) -> Position {
        Position { segment: self.segment, offset: self.offset, seq: self.next, hash: self.hash }
    }

    /// Makes sure that what follows the last record is an interrupted write and nothing more, and removes it.
    fn cut(&self, storage: &mut impl Storage, bytes: &[u8]) -> Result<(), RecoverError> {
        let mark = MARKS.map(|at| frame::decode_mark(bytes.get(at..).unwrap_or_default())).into_iter().max();
        let rest = bytes.get(self.offset..).unwrap_or_default();
        if mark.unwrap_or(0) >= self.next || frame::anywhere(rest) || bytes.len() != SEGMENT {
            return Err(RecoverError::Corrupt { seq: self.next });
        }
        Ok(clear(storage, self.segment, self.offset, bytes)?)
    }

    /// Whether a record finds room, and after it `ends` of the greatest length.
    pub(super) fn fits(&self, payload: usize, ends: usize) -> bool {
        let longest = FRAME + LONGEST;
        let here = SEGMENT.saturating_sub(self.offset);
        let spare = if self.spare.is_some() { SEGMENT - FIRST } else { 0 };
        match here.checked_sub(FRAME + payload) {
            Some(left) => left / longest + spare / longest >= ends,
            None => spare.checked_sub(FRAME + payload).is_some_and(|left| left / longest >= ends),
        }
    }

    /// Appends a record and returns once it is on disk. The caller has asked [`fits`](Self::fits).
    pub(super) fn append(&mut self, storage: &mut impl Storage, payload: &[u8]) -> io::Result<Position> {
        if self.offset + FRAME + payload.len() > SEGMENT {
            let spare = self.spare.take().ok_or(io::ErrorKind::StorageFull)?;
            let head = Head { segment: spare, first_seq: self.next, before: self.hash };
            // On disk before the record is: a crash must not leave a record in a segment without a head.
            storage.write(spare, 0, &head.encode())?;
            storage.sync(spare)?;
            self.closed.push(self.segment);
            (self.segment, self.offset) = (spare, FIRST);
        }
        let hash = frame::chain(&self.hash, payload);
        let bytes = frame::encode(self.next, &hash, payload);
        storage.write(self.segment, self.offset, &bytes)?;
        storage.sync(self.segment)?;
        self.hash = hash;
        let position = self.position();
        // Two places in turn, so that an interrupted write of one leaves the other.
        let place = MARKS[usize::from(self.next % 2 == 1)];
        storage.write(self.segment, place, &frame::encode_mark(self.next))?;
        self.offset += bytes.len();
        self.next += 1;
        Ok(position)
    }

    /// Makes the spare segment if there is none.
    pub(super) fn reserve(&mut self, storage: &mut impl Storage) -> io::Result<()> {
        if self.spare.is_none() {
            storage.create(self.segment + 1, SEGMENT)?;
            self.spare = Some(self.segment + 1);
        }
        Ok(())
    }

    /// The oldest segment that takes no more records.
    pub(super) fn oldest_closed(&self) -> Option<u64> {
        self.closed.first().copied()
    }

    /// Removes that one.
    pub(super) fn remove(&mut self, storage: &mut impl Storage, segment: u64) -> io::Result<()> {
        storage.remove(segment)?;
        self.closed.retain(|closed| *closed != segment);
        Ok(())
    }
}

/// Reads one record again; `None` when it is not there any more.
pub(super) fn read(storage: &mut impl Storage, position: Position) -> io::Result<Option<Record>> {
    let bytes = storage.read(position.segment)?;
    let frame = bytes.get(position.offset..).and_then(frame::decode);
    Ok(frame.filter(|frame| frame.hash == position.hash).and_then(|frame| Record::decode(frame.payload).ok()))
}

/// Puts zeros over whatever stands behind `from`.
fn clear(storage: &mut impl Storage, segment: u64, from: usize, bytes: &[u8]) -> io::Result<()> {
    let rest = frame::used(bytes.get(from..).unwrap_or_default());
    if rest.is_empty() {
        return Ok(());
    }
    storage.write(segment, from, &vec![0; rest.len()])?;
    storage.sync(segment)
}
