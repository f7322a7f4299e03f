//! Stands before every write: whether there is room for it, and what a failure says of the next one.
//!
//! Room is looked for before a write and not learnt from its failure: what is refused then has changed nothing, and
//! nothing was sent for it. When others fill the disk all the same, what may still be written goes into blocks that are
//! the database's already: free pages within it, and a write-ahead log that was once as long as it needs to be.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use crate::{
    clock::now_ms,
    store::{
        Claim, Health, StoreError,
        room::{ReserveFile, Room},
    },
};

/// SQLite's result codes, the primary ones in their low byte (<https://sqlite.org/rescode.html>).
const READONLY: i32 = 8;
const IOERR: i32 = 10;
pub(super) const CORRUPT: i32 = 11;
const FULL: i32 = 13;
pub(super) const NOTADB: i32 = 26;
const IOERR_FSYNC: i32 = IOERR | 4 << 8;
const IOERR_DIR_FSYNC: i32 = IOERR | 5 << 8;

/// The store's health, and what keeps it.
pub(super) struct Guard {
    folder: PathBuf,
    pub(super) reserve: ReserveFile,
    health: watch::Sender<Health>,
    /// A sync failed, or the file is damaged: the system may have thrown away what it could not write and call the next
    /// sync a success. Only a start, which reads what is there, ends this.
    for_good: AtomicBool,
}

impl Guard {
    pub(super) fn new(database: &Path) -> Self {
        Self {
            folder: database.parent().unwrap_or(Path::new(".")).to_owned(),
            reserve: ReserveFile::beside(database),
            health: watch::Sender::new(Health::Writable),
            for_good: AtomicBool::new(false),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    pub(super) fn room(&self) -> io::Result<Room> {
        Room::of(&self.folder)
    }

    pub(super) fn is_on_reserve(&self) -> bool {
        matches!(*self.health.borrow(), Health::OnReserve { .. })
    }

    /// Whether a store that cannot be written may be tried again.
    pub(super) fn may_recover(&self) -> bool {
        matches!(*self.health.borrow(), Health::ReadOnly { .. }) && !self.for_good.load(Ordering::Relaxed)
    }

    /// Lets a write through, or says why not.
    pub(super) fn admit(&self, claim: Claim) -> Result<(), StoreError> {
        self.look();
        self.health.borrow().refusal(claim).map_or(Ok(()), Err)
    }

    /// Whether the kernel lets nothing be written, whatever the mount's flags say: it may have stopped doing so by itself.
    fn is_read_only(&self) -> bool {
        let path = self.folder.join(".vigie-can-this-be-written");
        let made = fs::File::create(&path);
        if made.is_ok() {
            // Left behind it does no harm.
            let _ = fs::remove_file(&path);
        }
        made.is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
    }

    /// Takes note of what the file system says now. A store that failed is not well again by that.
    pub(super) fn look(&self) {
        let room = match self.room() {
            Ok(room) => room,
            Err(error) => {
                tracing::warn!(%error, "the room on the controller's disk is not known");
                return;
            }
        };
        let present = self.health.borrow().clone();
        match present {
            Health::ReadOnly { .. } => {}
            _ if room.read_only => self.fails("its file system is mounted read-only".to_owned()),
            Health::OnReserve { .. } if room.is_ample() => self.set(&Health::Writable),
            Health::Writable | Health::OnReserve { .. } if room.is_short() => self.is_short(room.says()),
            Health::Writable | Health::OnReserve { .. } => {}
        }
    }

    /// The store was written again.
    pub(super) fn recovered(&self) {
        self.set(&Health::Writable);
        self.look();
    }

    fn is_short(&self, why: String) {
        self.set(&Health::OnReserve { since_ms: now_ms(), why });
    }

    pub(super) fn fails(&self, why: String) {
        self.set(&Health::ReadOnly { since_ms: now_ms(), why });
    }

    fn set(&self, next: &Health) {
        let changed = self.health.send_if_modified(|present| {
            let changed = !present.is_alike(next);
            if changed {
                *present = next.clone();
            }
            changed
        });
        match (next, changed) {
            (_, false) => {}
            (Health::Writable, _) => tracing::info!("the store takes changes again"),
            (Health::OnReserve { why, .. }, _) => {
                tracing::error!(why, "the disk is full: only what looks or frees it is taken");
            }
            (Health::ReadOnly { why, .. }, _) => {
                tracing::error!(why, "the store cannot be written: every change is refused");
            }
        }
    }

    /// Learns from how a write ended, and gives its error the name that it deserves.
    pub(super) fn heed<T>(&self, written: Result<T, StoreError>) -> Result<T, StoreError> {
        written.map_err(|error| self.name(error))
    }

    pub(super) fn name(&self, error: StoreError) -> StoreError {
        let StoreError::Database(source) = &error else { return error };
        let Some(code) = code(source) else { return error };
        let room = self.room().ok();
        match code & 0xff {
            FULL => {
                self.reserve.release();
                let why = room.map_or_else(|| "no room is left".to_owned(), |room| room.says());
                self.is_short(why.clone());
                StoreError::Full { why }
            }
            IOERR if room.is_some_and(|room| room.is_short() && !room.read_only) && !is_sync(code) => {
                self.reserve.release();
                let why = room.map(|room| room.says()).unwrap_or_default();
                self.is_short(why.clone());
                StoreError::Full { why }
            }
            READONLY | IOERR | CORRUPT | NOTADB => {
                let lasting = is_sync(code) || matches!(code & 0xff, CORRUPT | NOTADB);
                let why = match code & 0xff {
                    READONLY => "it became read-only".to_owned(),
                    CORRUPT | NOTADB => "the database is damaged".to_owned(),
                    _ if lasting => "its disk did not keep what was written".to_owned(),
                    _ if self.is_read_only() => "its file system became read-only".to_owned(),
                    _ => format!("its disk fails (SQLite's code {code})"),
                };
                tracing::error!(error = &error as &dyn std::error::Error, "a write failed");
                self.for_good.fetch_or(lasting, Ordering::Relaxed);
                self.fails(why.clone());
                StoreError::ReadOnly { why }
            }
            _ => error,
        }
    }
}

fn is_sync(code: i32) -> bool {
    code == IOERR_FSYNC || code == IOERR_DIR_FSYNC
}

/// SQLite's extended result code.
pub(super) fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}
