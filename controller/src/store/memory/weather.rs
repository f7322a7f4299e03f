//! What befalls the store in memory.

use std::io;

use async_trait::async_trait;
use vigie_proto::{
    id::RunId,
    v1::{RunEvent, RunSummary},
};

/// What the machine does to the store of one process.
#[async_trait]
pub trait Weather: Send + Sync + 'static {
    /// Before a transaction takes place. May take its time; does not return any more for a process that is dead.
    ///
    /// # Errors
    /// When the transaction fails; then nothing of it has happened.
    async fn before(&self, writes: bool) -> io::Result<()>;

    /// Between a transaction and its answer.
    async fn after(&self);

    /// Whether the disk says that something is on it before it is.
    fn lies(&self) -> bool {
        false
    }

    /// Whether a controller may no longer write into a run that another one took over.
    fn fences(&self) -> bool {
        true
    }

    /// What is read of a run's events, where the disk shows something else than it has.
    fn shows(&self, _run: RunId, _events: &mut [RunEvent]) {}

    /// At the moment at which events of a run are committed.
    fn appended(&self, _run: RunId, _events: &[RunEvent], _summary: &RunSummary) {}
}

/// Nothing goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Calm;

#[async_trait]
impl Weather for Calm {
    async fn before(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    async fn after(&self) {}
}
