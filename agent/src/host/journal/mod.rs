//! The journal: what this host was ordered to do, began, and ended. It is the memory by which an order runs at most
//! once, and the host's audit chain.
//!
//! Owns the files below `journal/` in the state folder. A record counts once it is on disk: `started` is there before
//! the effect, `finished` before the report. Records are chained by their hashes and numbered; what an interrupted
//! write left at the end is cut off, and anything else that is not as it was written makes the journal corrupt, which
//! refuses changes and leaves probes alone. The logic has no I/O of its own: that is behind [`Storage`].

mod file;
mod frame;
mod index;
mod log;
mod look;
mod record;
mod service;
mod storage;

#[cfg(any(test, feature = "sim"))]
pub mod memory;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prost::Message as _;
use vigie_proto::{
    id::TaskId,
    v1::{AuditHead, Outcome},
};

pub use file::FileStorage;
pub use index::{Index, Standing};
#[cfg(feature = "sim")]
pub use look::records;
pub use look::{Action, Line, actions, look};
pub use record::{Denied, Entry, Finished, Here, Opened, Record, Started};
pub use service::{Handle, Service};
pub use storage::Storage;

use log::{Log, Position};

/// An order is forgotten this long after the last moment at which it could have started: by then no clock is wrong
/// enough to make it new again. In milliseconds.
const REMEMBERED_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Why something is not on disk.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal is corrupt from record {seq} on")]
    Corrupt { seq: u64 },
    #[error("the journal is full, and there is no room on the disk for another segment")]
    Full,
    #[error("order {0} is in the journal already")]
    Known(TaskId),
    #[error("a controller with epoch {highest} has spoken for this run, and this order comes with {epoch}")]
    Fenced { epoch: u64, highest: u64 },
    #[error("the journal failed earlier and takes nothing more until the agent is started again")]
    Failed,
    #[error("the journal cannot be written")]
    Storage(#[source] std::io::Error),
    #[error("a record of {0} bytes is too long")]
    TooLong(usize),
    #[error("the journal's thread is gone")]
    Gone,
}

impl JournalError {
    /// The stable name under which a refusal for this reason is reported.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "journal_corrupt",
            Self::Full => "journal_full",
            Self::Known(_) => "duplicate_order",
            Self::Fenced { .. } => "stale_epoch",
            Self::Failed | Self::Storage(_) | Self::TooLong(_) | Self::Gone => "journal_failed",
        }
    }

    /// What the host's root, or whoever sent the order, can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => {
                "this host remembers no longer what it did: look at it, then move the journal folder out of the \
                 agent's state folder and enrol the host again with `vigie-agent enroll --replace`"
            }
            Self::Full => "free space on the disk that holds the agent's state folder",
            Self::Known(_) => "nothing has to be done: the first one counts",
            Self::Fenced { .. } => "nothing has to be done: another controller drives the run",
            Self::Failed | Self::Storage(_) | Self::TooLong(_) | Self::Gone => {
                "look at the disk that holds the agent's state folder, then restart the agent"
            }
        }
    }
}

/// The journal over some storage.
pub struct Journal<S> {
    storage: S,
    /// `Err` when the journal takes no more records.
    log: Result<Log, Broken>,
    /// Shared with whoever only wants to know; never held during I/O.
    index: Arc<Mutex<Index>>,
}

#[derive(Debug, Clone, Copy)]
enum Broken {
    Corrupt { seq: u64 },
    Failed,
}

impl<S: Storage> Journal<S> {
    /// Makes an empty journal where there is none; leaves one that is there as it is.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn create(storage: &mut S) -> std::io::Result<()> {
        if storage.segments()?.is_empty() {
            storage.create(1, log::SEGMENT)?;
            Log::begin(storage)?;
        }
        Ok(())
    }

    /// Reads the whole journal. One that is damaged opens too: with what comes before the damage, and shut for more.
    pub fn open(mut storage: S) -> Self {
        let mut index = Index::default();
        let log = match Log::recover(&mut storage, |record, position| index.apply(record, position)) {
            Ok(log) => Ok(log),
            Err(log::RecoverError::Corrupt { seq }) => {
                tracing::error!(
                    seq,
                    "the journal is corrupt: this host refuses changes until it is enrolled again"
                );
                index.broken = Some(Some(seq));
                Err(Broken::Corrupt { seq })
            }
            Err(log::RecoverError::Storage(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the journal cannot be read: this host refuses changes"
                );
                index.broken = Some(None);
                Err(Broken::Failed)
            }
        };
        let mut journal = Self { storage, log, index: Arc::new(Mutex::new(index)) };
        journal.reserve();
        journal
    }

    /// What the journal knows at this moment.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        // Whoever panicked while holding the lock only read.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the agent runs.
    ///
    /// # Errors
    /// When it is not on disk.
    pub fn opened(&mut self, opened: Opened, at_ms: i64) -> Result<(), JournalError> {
        let ends = self.index().started().count();
        self.append(Record { at_ms, entry: Some(Entry::Opened(opened)) }, ends)
    }

    /// Notes that an order begins, after which it can never begin again.
    ///
    /// # Errors
    /// When the order is known, fenced off, or not on disk; then it must not be run. There has to be room for the end
    /// of every order that has begun, too.
    pub fn started(&mut self, order: TaskId, started: Started, at_ms: i64) -> Result<(), JournalError> {
        let ends = {
            let index = self.index();
            if index.standing(order).is_some() {
                return Err(JournalError::Known(order));
            }
            let highest = started.run.parse().map_or(0, |run| index.epoch(run));
            if started.epoch < highest {
                return Err(JournalError::Fenced { epoch: started.epoch, highest });
            }
            index.started().count() + 1
        };
        self.append(Record { at_ms, entry: Some(Entry::Started(started)) }, ends)
    }

    /// Notes how an order ended, or that it was refused before it began.
    ///
    /// # Errors
    /// When it has ended already, or is not on disk.
    pub fn finished(
        &mut self,
        order: TaskId,
        mut finished: Finished,
        at_ms: i64,
    ) -> Result<(), JournalError> {
        if !matches!(self.index().standing(order), None | Some(Standing::Started { .. })) {
            return Err(JournalError::Known(order));
        }
        if finished.encoded_len() > log::LONGEST - 64 {
            // The bounds of the operations' results rule this out; should one be wrong, its end is kept all the same.
            let mut outcome = Outcome::decode(finished.outcome.as_slice()).unwrap_or_default();
            tracing::error!(%order, bytes = finished.outcome.len(), "the result is too long for the journal and is left out");
            outcome.result = None;
            finished.outcome = outcome.encode_to_vec();
        }
        self.append(Record { at_ms, entry: Some(Entry::Finished(finished)) }, 0)
    }

    /// Notes that the controller has committed these outcomes, and lets go of what nobody needs any more.
    ///
    /// # Errors
    /// When it is not on disk; the outcomes are then sent again.
    pub fn acknowledged(&mut self, orders: &[TaskId], at_ms: i64) -> Result<(), JournalError> {
        let (orders, ends): (Vec<_>, _) = {
            let index = self.index();
            let finished =
                |order: &&TaskId| matches!(index.standing(**order), Some(Standing::Finished { .. }));
            (orders.iter().filter(finished).map(ToString::to_string).collect(), index.started().count())
        };
        if orders.is_empty() {
            return Ok(());
        }
        self.append(
            Record { at_ms, entry: Some(Entry::Acknowledged(record::Acknowledged { orders })) },
            ends,
        )?;
        self.forget(at_ms);
        Ok(())
    }

    /// Notes an order that was not even believed. It is in the chain, and nowhere else: its id proves nothing.
    ///
    /// # Errors
    /// When it is not on disk.
    pub fn denied(&mut self, denied: Denied, at_ms: i64) -> Result<(), JournalError> {
        let ends = self.index().started().count();
        self.append(Record { at_ms, entry: Some(Entry::Denied(denied)) }, ends)
    }

    /// How an order ended, as the journal has it on disk; `None` when it is not known to have ended.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn outcome(&mut self, order: TaskId) -> Result<Option<Outcome>, JournalError> {
        let position = match self.index().standing(order) {
            Some(Standing::Finished { outcome, .. }) => return Ok(Outcome::decode(&outcome[..]).ok()),
            Some(Standing::Acknowledged { position }) => *position,
            _ => return Ok(None),
        };
        let record = log::read(&mut self.storage, position).map_err(JournalError::Storage)?;
        Ok(match record.and_then(|record| record.entry) {
            Some(Entry::Finished(finished)) => Outcome::decode(finished.outcome.as_slice()).ok(),
            _ => None,
        })
    }

    /// How an order began; `None` when it is not one that has begun and is not known to have ended.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn begun(&mut self, order: TaskId) -> Result<Option<Started>, JournalError> {
        let position = match self.index().standing(order) {
            Some(Standing::Started { position, .. }) => *position,
            _ => return Ok(None),
        };
        let record = log::read(&mut self.storage, position).map_err(JournalError::Storage)?;
        Ok(match record.and_then(|record| record.entry) {
            Some(Entry::Started(started)) => Some(started),
            _ => None,
        })
    }

    /// Puts a record on disk, then into the index. `ends` records of the greatest length must find room after it.
    fn append(&mut self, record: Record, ends: usize) -> Result<(), JournalError> {
        let log = match &mut self.log {
            Ok(log) => log,
            Err(Broken::Corrupt { seq }) => return Err(JournalError::Corrupt { seq: *seq }),
            Err(Broken::Failed) => return Err(JournalError::Failed),
        };
        let payload = record.encode_to_vec();
        if payload.len() > log::LONGEST {
            return Err(JournalError::TooLong(payload.len()));
        }
        if !log.fits(payload.len(), ends) {
            // The disk may have been full when the spare segment was due.
            if log.reserve(&mut self.storage).is_err() || !log.fits(payload.len(), ends) {
                return Err(JournalError::Full);
            }
        }
        match log.append(&mut self.storage, &payload) {
            Ok(position) => {
                self.index().apply(record, position);
                self.reserve();
                Ok(())
            }
            Err(error) => {
                // What a failed write or sync left behind is not known, and asking again would not tell.
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the journal failed: this host refuses changes"
                );
                self.log = Err(Broken::Failed);
                self.index().broken = Some(None);
                Err(JournalError::Storage(error))
            }
        }
    }

    /// Keeps a spare segment ready, so that a full disk can still be worked on.
    fn reserve(&mut self) {
        if let Ok(log) = &mut self.log
            && let Err(error) = log.reserve(&mut self.storage)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the journal has no spare segment");
        }
    }

    /// Removes the oldest segments while all of their orders are acknowledged and long past.
    fn forget(&mut self, now_ms: i64) {
        let Ok(log) = &mut self.log else { return };
        while let Some(segment) = log.oldest_closed() {
            let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
            if !index.settled(segment, now_ms.saturating_sub(REMEMBERED_MS)) {
                return;
            }
            index.forget(segment);
            drop(index);
            if let Err(error) = log.remove(&mut self.storage, segment) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    segment,
                    "an old segment of the journal stays"
                );
                return;
            }
        }
    }
}

impl Index {
    /// The chain's head, for the fleet's state.
    pub fn audit_head(&self) -> AuditHead {
        let (seq, hash) = self.head();
        AuditHead { seq, hash: hash.to_vec() }
    }
}
