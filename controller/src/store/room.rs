//! The room that the store has on its disk, and the file that keeps some of it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{StatVfsMountFlags, statvfs};

/// What is kept in each of the two reserves, in bytes: the database's own free pages, and the file beside it. A run of
/// `disk-full` with its order takes some 200 KiB.
pub(super) const RESERVE: u64 = 4 << 20;

/// The file is longer by so much: what a start makes anew beside its log.
const BESIDE: u64 = 2 << 20;

/// Below this the disk counts as full, in bytes; for small disks it is a sixteenth of them. Never so little that a reserve which
/// was given up would count as room.
const FLOOR: u64 = 16 << 20;
const LEAST_FLOOR: u64 = 2 * (RESERVE + BESIDE);

/// A file system at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// For us, in bytes.
    pub(super) available: u64,
    pub(super) floor: u64,
    /// It is mounted so.
    pub(super) read_only: bool,
}

impl Room {
    /// Looks at the file system of a folder.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let found = statvfs(folder)?;
        // Root may take the blocks that are kept back from everyone else.
        let free = if rustix::process::geteuid().is_root() { found.f_bfree } else { found.f_bavail };
        Ok(Self {
            available: free.saturating_mul(found.f_frsize),
            floor: (found.f_blocks.saturating_mul(found.f_frsize) / 16).clamp(LEAST_FLOOR, FLOOR),
            read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }

    pub(super) fn is_short(&self) -> bool {
        self.available < self.floor
    }

    /// Whether there is room again after there was none. Well above the floor, so that it does not come and go.
    pub(super) fn is_ample(&self) -> bool {
        self.available >= self.floor.saturating_mul(2)
    }

    pub(super) fn says(&self) -> String {
        format!("{} KiB are left on the controller's disk", self.available >> 10)
    }
}

/// A file of written blocks, which is given up when the disk is full: for a start that has to make its files anew, and
/// for whatever the database's own reserve does not cover.
#[derive(Clone)]
pub(super) struct ReserveFile(PathBuf);

impl ReserveFile {
    pub(super) fn beside(database: &Path) -> Self {
        Self(database.with_extension("reserve"))
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// Gives the room up. True when there was any.
    pub(super) fn release(&self) -> bool {
        match fs::remove_file(&self.0) {
            Ok(()) => {
                tracing::warn!(path = %self.0.display(), "the disk is full: the reserve is given up");
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(path = %self.0.display(), %error, "the reserve cannot be given up");
                false
            }
        }
    }

    /// Makes it, whole or not at all. Of noise: a file system that compresses would keep no room for zeros.
    pub(super) fn make(&self) -> io::Result<()> {
        let half = self.0.with_extension("reserve.new");
        let made = Self::write(&half).and_then(|()| fs::rename(&half, &self.0));
        if made.is_err() {
            // Whatever was written of it is room that is wanted elsewhere; a file that is not there is as good.
            let _ = fs::remove_file(&half);
        }
        made
    }

    fn write(path: &Path) -> io::Result<()> {
        let mut noise = vec![0; usize::try_from(RESERVE + BESIDE).unwrap_or(0)];
        getrandom::fill(&mut noise)?;
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&noise)?;
        file.sync_all()
    }
}
