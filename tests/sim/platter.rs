//! A host's disk under its agent's journal.

use std::{
    io,
    sync::{Arc, Mutex},
};

use vigie_agent::host::journal::{Journal, Record, Storage, memory::Memory, records};

use crate::world::lock;

/// What outlives the agent's process.
#[derive(Clone)]
pub(crate) struct Platter(Arc<Mutex<Memory>>);

impl Platter {
    /// A disk with an empty journal, as enrolment leaves it.
    pub(crate) fn new() -> Self {
        let mut memory = Memory::default();
        Journal::create(&mut memory).unwrap();
        Self(Arc::new(Mutex::new(memory)))
    }

    /// The power goes, and each sector that was under way is there or not.
    pub(crate) fn lose_power(&self, kept: impl FnMut() -> bool) {
        let mut memory = lock(&self.0);
        *memory = memory.crash(kept);
    }

    /// All of it is gone.
    pub(crate) fn forget(&self) {
        *lock(&self.0) = lock(&Self::new().0).clone();
    }

    /// What would be there if the power went now and took everything with it that it can.
    pub(crate) fn certain(&self) -> (Vec<Record>, Option<u64>) {
        records(self.with(|memory| memory.certain())).unwrap()
    }

    pub(crate) fn with<T>(&self, action: impl FnOnce(&mut Memory) -> T) -> T {
        action(&mut lock(&self.0))
    }
}

impl Storage for Platter {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        self.with(Storage::segments)
    }

    fn create(&mut self, segment: u64, length: usize) -> io::Result<()> {
        self.with(|memory| memory.create(segment, length))
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        self.with(|memory| memory.read(segment))
    }

    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.with(|memory| memory.write(segment, offset, bytes))
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.with(|memory| memory.sync(segment))
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.with(|memory| memory.remove(segment))
    }
}
