//! What is remembered of backups and migrations between questions: what a file turned out to be while it stays the same
//! file, which backups a restore test brought back to life, which migrations a rehearsal passed.
//!
//! Owns `backups.json` in the agent's state folder. Changed under a lock and replaced whole, so that two operations at
//! a time lose nothing. One that cannot be read counts as empty: everything in it can be found out again.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::scan::Scan;

/// How many verified backups and rehearsals are remembered; the oldest go first.
const MOST: usize = 500;

/// The file's contents.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::operations) struct Ledger {
    /// By path.
    scans: BTreeMap<PathBuf, Remembered>,
    /// By the backup's digest.
    verified: BTreeMap<String, Verified>,
    /// By stack and the migration's digest: its last rehearsal.
    rehearsals: BTreeMap<String, Rehearsal>,
    /// By stack and the migration's name: its last run on the database.
    runs: BTreeMap<String, Ran>,
}

/// What tells a file from another one of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::operations) struct Identity {
    pub inode: u64,
    pub size: u64,
    pub modified_ns: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Remembered {
    identity: Identity,
    scan: Scan,
}

/// A restore test that was passed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::operations) struct Verified {
    pub at_ms: i64,
    pub restore_ms: u32,
}

/// A rehearsal of a migration that is over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::operations) struct Rehearsal {
    pub at_ms: i64,
    /// `passed`, or a word of `MigrationRehearsed.outcome`.
    pub outcome: String,
    /// Redacted as what leaves the host is.
    pub says: String,
    pub already_applied: bool,
}

/// A migration that was run on the database in service. Written as `begun` before its first statement, so that one
/// whose end nobody saw is known for what it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::operations) struct Ran {
    pub at_ms: i64,
    /// Of the file as it was.
    pub digest: String,
    /// `begun`, `applied`, `failed`.
    pub outcome: String,
    pub says: String,
    pub failed_line: u32,
    pub one_transaction: bool,
    pub backup: String,
}

impl Ledger {
    /// What is remembered.
    pub(in crate::operations) fn read(state: &Path) -> Self {
        let path = path(state);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "what was remembered of backups cannot be understood");
                Self::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, path = %path.display(), "what was remembered of backups cannot be read");
                }
                Self::default()
            }
        }
    }

    /// Changes what is remembered.
    ///
    /// # Errors
    /// When it cannot be written; it then stays as it was.
    pub(in crate::operations) fn change(state: &Path, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let path = path(state);
        let lock = File::create(path.with_extension("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let mut ledger = Self::read(state);
        change(&mut ledger);
        ledger.scans.retain(|file, _| file.exists());
        bound(&mut ledger.verified, |verified| verified.at_ms);
        bound(&mut ledger.rehearsals, |rehearsal| rehearsal.at_ms);
        bound(&mut ledger.runs, |ran| ran.at_ms);
        let fresh = path.with_extension("json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&ledger).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)
    }

    /// What this very file turned out to be, if it was read before.
    pub(in crate::operations) fn scan(&self, path: &Path, identity: Identity) -> Option<&Scan> {
        self.scans.get(path).filter(|known| known.identity == identity).map(|known| &known.scan)
    }

    /// Remembers what a file turned out to be.
    pub(in crate::operations) fn learn(&mut self, path: PathBuf, identity: Identity, scan: Scan) {
        self.scans.insert(path, Remembered { identity, scan });
    }

    /// The restore test that a file of this digest passed.
    pub(in crate::operations) fn verified(&self, digest: &str) -> Option<&Verified> {
        self.verified.get(digest)
    }

    /// Remembers a restore test, or that one failed.
    pub(in crate::operations) fn verify(&mut self, digest: &str, verified: Option<Verified>) {
        match verified {
            Some(verified) => self.verified.insert(digest.to_owned(), verified),
            None => self.verified.remove(digest),
        };
    }

    /// This migration's last rehearsal for this stack.
    pub(in crate::operations) fn rehearsal(&self, stack: &str, digest: &str) -> Option<&Rehearsal> {
        self.rehearsals.get(&format!("{stack}/{digest}"))
    }

    /// Remembers a rehearsal.
    pub(in crate::operations) fn rehearse(&mut self, stack: &str, digest: &str, rehearsal: Rehearsal) {
        self.rehearsals.insert(format!("{stack}/{digest}"), rehearsal);
    }

    /// The last run of the migration of this name.
    pub(in crate::operations) fn ran(&self, stack: &str, file: &str) -> Option<&Ran> {
        self.runs.get(&format!("{stack}/{file}"))
    }

    /// Remembers a run, or its beginning.
    pub(in crate::operations) fn run(&mut self, stack: &str, file: &str, ran: Ran) {
        self.runs.insert(format!("{stack}/{file}"), ran);
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("backups.json")
}

/// Forgets the oldest.
fn bound<T>(all: &mut BTreeMap<String, T>, at: impl Fn(&T) -> i64) {
    while all.len() > MOST {
        let Some(oldest) = all.iter().min_by_key(|(_, value)| at(value)).map(|(key, _)| key.clone()) else {
            return;
        };
        all.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_holds_for_the_same_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.sql.gz");
        fs::write(&file, "x").unwrap();
        let identity = Identity { inode: 1, size: 1, modified_ns: 5 };
        let scan = Scan { integrity: "ok".to_owned(), ..Scan::default() };
        Ledger::change(folder.path(), |ledger| {
            ledger.learn(file.clone(), identity, scan.clone());
            ledger.learn(folder.path().join("gone"), identity, scan.clone());
            ledger.verify("d1", Some(Verified { at_ms: 7, restore_ms: 3 }));
            ledger.rehearse("sylion", "m1", Rehearsal { at_ms: 9, ..Rehearsal::default() });
            ledger.run("sylion", "a.sql", Ran { at_ms: 4, outcome: "begun".to_owned(), ..Ran::default() });
        })
        .unwrap();
        let ledger = Ledger::read(folder.path());
        assert_eq!(ledger.scan(&file, identity), Some(&scan));
        assert_eq!(ledger.scan(&file, Identity { modified_ns: 6, ..identity }), None);
        assert_eq!(ledger.scans.len(), 1, "a file that is gone is forgotten");
        assert_eq!(ledger.verified("d1").unwrap().at_ms, 7);
        assert_eq!(ledger.rehearsal("sylion", "m1").unwrap().at_ms, 9);
        assert!(ledger.rehearsal("other", "m1").is_none());
        assert_eq!(ledger.ran("sylion", "a.sql").unwrap().outcome, "begun");
        fs::write(folder.path().join("backups.json"), "{").unwrap();
        assert!(Ledger::read(folder.path()).verified("d1").is_none());
    }
}
