use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::mem;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The longest file that is read, in bytes: a long chain needs a tenth of it, and a mistaken path
/// (`/dev/zero`, a log) must not fill the memory.
const LONGEST: u64 = 256 * 1024;

/// Writes a file that only its owner may read, whole or not at all.
///
/// A new file (`O_EXCL`, mode 0600) in the same directory is written, synced and renamed over
/// `path`, and the directory is synced: after a crash, `path` holds the old bytes or the new ones.
/// A symbolic link at `path` is replaced, not followed. Whatever fails, the temporary file is
/// removed.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |source| FileError::Write { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new()
        .prefix(".vigie-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)
        .map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Reads a text file that only its owner may read; a wider mode is an error, for the secret in it
/// is one no more.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let file = open(path)?;
    // Of the open file, not of the path: between two looks at a path, it can become another file.
    let mode = file.metadata().map_err(|source| read_failed(path, source))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed { path: path.to_owned(), mode });
    }
    read(path, &file)
}

/// Reads a text file that anyone may read.
pub fn read_public(path: &Path) -> Result<String, FileError> {
    read(path, &open(path)?).map(|mut text| mem::take(&mut *text))
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned(), source },
        io::ErrorKind::PermissionDenied => FileError::Denied { path: path.to_owned(), source },
        _ => read_failed(path, source),
    })
}

fn read(path: &Path, file: &File) -> Result<Zeroizing<String>, FileError> {
    let length = file.metadata().map_or(0, |metadata| metadata.len().min(LONGEST));
    // Sized at once, so that no outgrown copy of a secret stays behind in freed memory.
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(|source| read_failed(path, source))?;
    match text.len() as u64 > LONGEST {
        true => Err(FileError::TooLong { path: path.to_owned() }),
        false => Ok(text),
    }
}

fn read_failed(path: &Path, source: io::Error) -> FileError {
    FileError::Read { path: path.to_owned(), source }
}

/// Why a file was not read or written. Each text names the file and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path} does not exist; check the path")]
    Missing { path: PathBuf, source: io::Error },
    #[error("{path} may not be read; run as its owner")]
    Denied { path: PathBuf, source: io::Error },
    #[error(
        "{path} holds a secret and has mode {mode:04o}; run `chmod 600 {path}`, \
         and replace the secret if others use this machine"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{path} is longer than {LONGEST} bytes, so it is not what was expected; check the path")]
    TooLong { path: PathBuf },
    #[error("{path} could not be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} could not be written; check the directory's owner and its free space")]
    Write { path: PathBuf, source: io::Error },
}
