//! A host's disk under its agent's journal.

use std::{
    io,
    sync::{Arc, Mutex},
};

use vigie_agent::host::journal::{Journal, Record, Storage, memory::Memory, records};

use crate::world::{World, lock};

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
        records(lock(&self.0).certain()).unwrap()
    }
}

/// The disk as a process has it.
pub(crate) struct Mounted {
    pub(crate) world: Arc<World>,
    pub(crate) host: usize,
}

impl Mounted {
    fn on<T>(&self, action: impl FnOnce(&mut Memory) -> io::Result<T>) -> io::Result<T> {
        action(&mut lock(&self.world.hosts[self.host].platter.0))
    }
}

impl Storage for Mounted {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        self.on(Storage::segments)
    }

    fn create(&mut self, segment: u64, length: usize) -> io::Result<()> {
        self.on(|memory| memory.create(segment, length))
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        self.on(|memory| memory.read(segment))
    }

    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.on(|memory| memory.write(segment, offset, bytes))
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.on(|memory| memory.sync(segment))
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.on(|memory| memory.remove(segment))
    }
}
