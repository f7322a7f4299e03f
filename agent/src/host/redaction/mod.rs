//! Keeps this host's secrets on this host: what leaves it passes here first.
//!
//! The secrets are the values of secret-looking variables in the stacks' env files, read again whenever those change,
//! and in what Compose makes of the stacks' files;
//! values that were seen once are remembered for as long as the agent runs, since logs remember them too. They are
//! looked for literally and in their usual encodings. Where the secrets cannot be known, the text is dropped: a text
//! that nobody could check is one that nobody may see.

mod forms;
mod secrets;
mod stream;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use zeroize::{Zeroize as _, Zeroizing};

pub use secrets::{Value as Secret, of_variable};
pub use stream::{Patterns, Stream};

/// An env file of more bytes than this is none.
const LONGEST: u64 = 1024 * 1024;

/// So many secrets, in so many bytes, are looked for; past it, texts are dropped.
const MOST: usize = 4096;

/// Why secrets cannot be recognised.
#[derive(Debug, thiserror::Error)]
pub enum RedactionError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} could not be read when the stacks were last looked at")]
    Unread { path: PathBuf },
    #[error("{path} is longer than {LONGEST} bytes")]
    TooLong { path: PathBuf },
    #[error("this host's stacks could not be looked at yet")]
    NotLooked,
    #[error("there are more than {MOST} secrets")]
    TooMany,
    #[error("the secrets make no search")]
    Search(#[source] aho_corasick::BuildError),
}

/// Finds secrets in what leaves the host.
#[derive(Default)]
pub struct Redaction {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// How each file was when it was read; `None` for one that was not there.
    stamps: BTreeMap<PathBuf, Option<Stamp>>,
    /// Grows only.
    secrets: BTreeSet<Vec<u8>>,
    patterns: Arc<Patterns>,
    /// Set while there are secrets that the patterns do not look for yet.
    stale: bool,
}

impl Drop for Known {
    fn drop(&mut self) {
        while let Some(mut secret) = self.secrets.pop_first() {
            secret.zeroize();
        }
    }
}

/// Inode, size, and the times of the last change of content and of owner or mode.
type Stamp = (u64, u64, (i64, i64), (i64, i64));

impl Redaction {
    /// What to look for, given the files that hold secrets at this moment, and secrets known from elsewhere.
    ///
    /// # Errors
    /// When a file cannot be read, so that its secrets are not known. A file that is not there holds none.
    pub fn patterns(&self, files: &[PathBuf], values: &[&[Secret]]) -> Result<Arc<Patterns>, RedactionError> {
        // Whoever panicked while holding the lock left a search that finds what it found before.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for path in files {
            let stamp = stamp(path)?;
            if known.stamps.get(path) == Some(&stamp) {
                continue;
            }
            if stamp.is_some() {
                known.learn(&secrets::of(&read(path)?));
            }
            // Noted last, so that a file whose reading failed is read again next time.
            known.stamps.insert(path.clone(), stamp);
        }
        for values in values {
            known.learn(values);
        }
        if known.secrets.len() > MOST {
            return Err(RedactionError::TooMany);
        }
        if known.stale {
            let forms = known.secrets.iter().flat_map(|secret| forms::of(secret));
            known.patterns = Arc::new(Patterns::new(forms).map_err(RedactionError::Search)?);
            known.stale = false;
        }
        Ok(Arc::clone(&known.patterns))
    }
}

impl Known {
    fn learn(&mut self, secrets: &[Secret]) {
        for secret in secrets {
            if !self.secrets.contains(secret.as_slice()) {
                self.secrets.insert(secret.to_vec());
                self.stale = true;
            }
        }
    }
}

/// What stands for a text that cannot be checked.
pub fn withheld(error: &RedactionError) -> String {
    format!("[withheld: this host's secrets cannot be recognised, since {error}]")
}

fn stamp(path: &Path) -> Result<Option<Stamp>, RedactionError> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some((
            file.ino(),
            file.size(),
            (file.mtime(), file.mtime_nsec()),
            (file.ctime(), file.ctime_nsec()),
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RedactionError::Read { path: path.to_owned(), source }),
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, RedactionError> {
    let failed = |source| RedactionError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.size();
    // Sized at once, so that no outgrown copy stays behind in freed memory.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size.min(LONGEST)).unwrap_or(0) + 1));
    io::Read::read_to_end(&mut io::Read::take(file, LONGEST + 1), &mut text).map_err(failed)?;
    match text.len() as u64 > LONGEST {
        true => Err(RedactionError::TooLong { path: path.to_owned() }),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests;
