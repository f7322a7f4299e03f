//! Storage in memory that loses, tears and refuses as a real disk does: for this module's tests and the simulation.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::Storage;

/// The unit in which a disk writes: a crash leaves each one old or new.
const SECTOR: usize = 512;

/// A disk with its cache.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// What a reader sees.
    seen: BTreeMap<u64, Vec<u8>>,
    /// What is on disk for certain.
    durable: BTreeMap<u64, Vec<u8>>,
    /// The sectors that the next sync puts on the disk.
    dirty: BTreeSet<(u64, usize)>,
    /// How many more segments there is room for; `None` for no limit.
    pub room: Option<usize>,
    /// Set from outside: the next sync fails, and as Linux does, forgets what it should have written: a later one does
    /// not write it either.
    pub sync_fails: bool,
}

impl Memory {
    /// The power goes: of what was not synced, each sector is there or not as `kept` says.
    #[must_use]
    pub fn crash(&self, mut kept: impl FnMut() -> bool) -> Self {
        let mut after = self.durable.clone();
        for (segment, bytes) in &mut after {
            let Some(seen) = self.seen.get(segment) else { continue };
            for (old, new) in bytes.chunks_mut(SECTOR).zip(seen.chunks(SECTOR)) {
                if old != new && kept() {
                    old.copy_from_slice(new);
                }
            }
        }
        Self { seen: after.clone(), durable: after, room: self.room, ..Self::default() }
    }

    /// What would be there if the power went now and took everything with it that it can.
    #[must_use]
    pub fn certain(&self) -> Self {
        Self { seen: self.durable.clone(), ..Self::default() }
    }

    /// One bit on the disk turns.
    pub fn flip(&mut self, segment: u64, bit: usize) {
        for bytes in [&mut self.seen, &mut self.durable] {
            if let Some(bytes) = bytes.get_mut(&segment) {
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    /// A segment as a reader sees it; empty when there is none.
    pub fn bytes(&self, segment: u64) -> &[u8] {
        self.seen.get(&segment).map_or(&[], Vec::as_slice)
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
        if !bytes.is_empty() {
            let sectors = offset / SECTOR..=(offset + bytes.len() - 1) / SECTOR;
            self.dirty.extend(sectors.map(|sector| (segment, sector)));
        }
        Ok(())
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        let sectors: Vec<_> = self.dirty.range((segment, 0)..=(segment, usize::MAX)).copied().collect();
        self.dirty.retain(|(dirty, _)| *dirty != segment);
        if std::mem::take(&mut self.sync_fails) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let (Some(seen), Some(durable)) = (self.seen.get(&segment), self.durable.get_mut(&segment)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        for (_, sector) in sectors {
            let bytes = sector * SECTOR..((sector + 1) * SECTOR).min(seen.len());
            durable[bytes.clone()].copy_from_slice(&seen[bytes]);
        }
        Ok(())
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.seen.remove(&segment);
        self.durable.remove(&segment);
        self.dirty.retain(|(dirty, _)| *dirty != segment);
        Ok(())
    }
}
