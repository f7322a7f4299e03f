//! The policy's file: read again whenever it changed, and believed only when nobody but root could have written it.

use std::{
    fs::{File, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Policy, Rules, Unsound, parse::parse};

/// A policy of more bytes than this is a mistake.
const LONGEST: u64 = 256 * 1024;

/// What tells that a file is another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    /// Changes with owner and mode too.
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The policy that a file holds, looked up again at each use.
pub struct PolicyFile {
    path: PathBuf,
    /// True for an agent that runs as root: the file then has to be root's.
    root_owned: bool,
    /// The stamp is `None` for a file that is not there.
    known: Mutex<Option<(Option<Stamp>, Arc<Policy>)>>,
}

impl PolicyFile {
    /// Reads nothing yet.
    pub fn new(path: PathBuf, root_owned: bool) -> Self {
        Self { path, root_owned, known: Mutex::new(None) }
    }

    /// The policy as the file stands now. Asks the file system for the file's times, and reads it when they changed.
    pub fn current(&self) -> Arc<Policy> {
        let stamp = std::fs::symlink_metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        // Whoever panicked while holding the lock had not written half a value.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, policy)) = known.as_ref()
            && *read == stamp
        {
            return Arc::clone(policy);
        }
        let policy = Arc::new(self.read());
        match policy.unsound() {
            None => tracing::info!(file = %self.path.display(), "the policy is read"),
            Some(unsound) => {
                tracing::warn!(
                    reason = unsound.reason,
                    remedy = unsound.remedy,
                    "the policy denies every change"
                );
            }
        }
        *known = Some((stamp, Arc::clone(&policy)));
        policy
    }

    fn read(&self) -> Policy {
        Policy { file: self.path.clone(), rules: self.rules() }
    }

    fn rules(&self) -> Result<Rules, Unsound> {
        let path = self.path.display();
        let unsound = |reason: String, remedy: &str| Unsound { reason, remedy: remedy.to_owned() };
        let text = read(&self.path, self.root_owned).map_err(|error| match error {
            ReadError::Open(source) if source.kind() == io::ErrorKind::NotFound => unsound(
                format!("there is no policy at {path}, so that no order may change anything here"),
                &format!("write one as the host's root: `vigie-agent policy standard > {path}`"),
            ),
            ReadError::Open(source) if source.raw_os_error() == Some(libc::ELOOP) => {
                unsound(format!("the policy {path} is a symbolic link"), "put the file itself there")
            }
            ReadError::Open(source) | ReadError::Read(source) => unsound(
                format!("the policy {path} cannot be read: {source}"),
                "let the agent's user read the file",
            ),
            ReadError::NoFile => unsound(format!("the policy {path} is no regular file"), "put a file there"),
            ReadError::TooLong => {
                unsound(format!("the policy {path} is longer than {LONGEST} bytes"), "check the path")
            }
            ReadError::Owner(owner) => unsound(
                format!("the policy {path} belongs to user {owner}, not to root"),
                &format!("look at what it says, then run `chown root:root {path}`"),
            ),
            ReadError::Writable(mode) => unsound(
                format!("the policy {path} can be written by others than root (mode {mode:04o})"),
                &format!("look at what it says, then run `chmod 644 {path}`"),
            ),
        })?;
        parse(&text).map_err(|error| {
            unsound(
                format!("the policy {path} is not valid, {error}"),
                &format!("correct it; `vigie-agent policy check {path}` tells when it is"),
            )
        })
    }
}

/// Reads one policy now, whoever owns it: for a person who looks at a draft.
pub fn check(path: &Path) -> Policy {
    PolicyFile::new(path.to_owned(), false).read()
}

enum ReadError {
    Open(io::Error),
    Read(io::Error),
    NoFile,
    TooLong,
    Owner(u32),
    Writable(u32),
}

/// Looks at the open file, not at the path: between two looks at a path, it can become another file.
fn read(path: &Path, root_owned: bool) -> Result<String, ReadError> {
    // O_NONBLOCK, so that a fifo at the path holds nobody up.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(ReadError::Open)?;
    let metadata = file.metadata().map_err(ReadError::Read)?;
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        return Err(ReadError::NoFile);
    }
    if root_owned && metadata.uid() != 0 {
        return Err(ReadError::Owner(metadata.uid()));
    }
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && metadata.gid() != 0) {
        return Err(ReadError::Writable(mode));
    }
    let mut text = String::new();
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(ReadError::Read)?;
    if text.len() as u64 > LONGEST { Err(ReadError::TooLong) } else { Ok(text) }
}
