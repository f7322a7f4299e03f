//! Storage in memory that loses, tears and refuses as a real disk does.

use std::{collections::BTreeMap, io};

use super::Storage;

/// The unit in which a disk writes: a crash leaves each one old or new.
const SECTOR: usize = 512;

#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// What a reader sees.
    seen: BTreeMap<u64, Vec<u8>>,
    /// What is on disk for certain.
    durable: BTreeMap<u64, Vec<u8>>,
    /// How many more segments there is room for; `None` for no limit.
    pub(super) room: Option<usize>,
    /// Set by a test: the next sync fails.
    pub(super) sync_fails: bool,
}

impl Memory {
    /// The power goes: of what was not synced, each sector is there or not as `kept` says.
    pub(super) fn crash(&self, mut kept: impl FnMut() -> bool) -> Self {
        let mut after = self.durable.clone();
        for (segment, bytes) in &mut after {
            let Some(seen) = self.seen.get(segment) else { continue };
            for (old, new) in bytes.chunks_mut(SECTOR).zip(seen.chunks(SECTOR)) {
                if old != new && kept() {
                    old.copy_from_slice(new);
                }
            }
        }
        Self { seen: after.clone(), durable: after, ..Self::default() }
    }

    /// One bit on the disk turns.
    pub(super) fn flip(&mut self, segment: u64, bit: usize) {
        for bytes in [&mut self.seen, &mut self.durable] {
            if let Some(bytes) = bytes.get_mut(&segment) {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    pub(super) fn bytes(&self, segment: u64) -> &[u8] {
        &self.seen[&segment]
    }

    fn segment(&mut self, segment: u64) -> io::Result<&mut Vec<u8>> {
        self.seen.get_mut(&segment).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Storage for Memory {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.seen.keys().copied().collect())
    }

    fn create(&mut self, segment: u64, length: usize) -> io::Result<()> {
        if let Some(room) = &mut self.room {
            *room = room.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        for bytes in [&mut self.seen, &mut self.durable] {
            bytes.insert(segment, vec![0; length]);
        }
        Ok(())
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        self.segment(segment).cloned()
    }

    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.segment(segment)?[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        if std::mem::take(&mut self.sync_fails) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let bytes = self.segment(segment)?.clone();
        self.durable.insert(segment, bytes);
        Ok(())
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.seen.remove(&segment);
        self.durable.remove(&segment);
        Ok(())
    }
}
