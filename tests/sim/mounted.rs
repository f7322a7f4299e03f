//! A host's disk as one process of its agent has it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use vigie_agent::host::journal::{Storage, memory::Memory};

use crate::{mutants::Mutant, world::World};

pub(crate) struct Mounted {
    pub(crate) world: Arc<World>,
    pub(crate) host: usize,
    pub(crate) alive: Arc<AtomicBool>,
}

impl Mounted {
    fn on<T>(&self, action: impl FnOnce(&mut Memory) -> io::Result<T>) -> io::Result<T> {
        if !self.alive.load(Ordering::SeqCst) {
            return Err(io::Error::other("this process is dead"));
        }
        self.world.hosts[self.host].platter.with(action)
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
        if self.world.is(Mutant::NoSync) {
            return Ok(());
        }
        let host = &self.world.hosts[self.host];
        if host.dies_in_sync.swap(false, Ordering::SeqCst) {
            // The one who pulled the plug sees it, and clears up.
            self.alive.store(false, Ordering::SeqCst);
        }
        let synced = self.on(|memory| memory.sync(segment));
        if synced.is_err() && self.alive.load(Ordering::SeqCst) {
            self.world.note(format_args!("{}: a sync fails", host.name));
            host.sync_failed.store(true, Ordering::SeqCst);
        }
        synced
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.on(|memory| memory.remove(segment))
    }
}
