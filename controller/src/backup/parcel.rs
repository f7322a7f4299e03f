//! What a backup holds: a list of files with their digests, then the files.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::BackupError;
use crate::config::Config;

/// The list's longest form, in bytes: a few hundred for each file.
const LONGEST_LIST: u32 = 1024 * 1024;

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Of the program that wrote it.
    pub version: String,
    pub made_at_ms: i64,
    /// The controller's name, and its fleet's trust domain.
    pub id: String,
    pub domain: String,
    pub files: Vec<Entry>,
}

/// One file of the state folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its path within the state folder.
    pub path: PathBuf,
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

impl Entry {
    /// A file as it stands now, to be known by this path.
    pub(super) fn of(file: &Path, path: PathBuf) -> Result<Self, BackupError> {
        let failed = |source| BackupError::File { path: file.to_owned(), source };
        let (mut hash, mut from) = (Sha256::new(), File::open(file).map_err(failed)?);
        let bytes = io::copy(&mut from, &mut Hashing { hash: &mut hash, onward: &mut io::sink() });
        Ok(Self { path, bytes: bytes.map_err(failed)?, sha256: HEXLOWER.encode(&hash.finalize()) })
    }
}

/// The files of a state folder beside its database, which has to be copied first: the path within the folder each.
pub(super) fn files(config: &Config) -> Result<Vec<PathBuf>, BackupError> {
    let mut files = vec![PathBuf::from("controller.toml")];
    for folder in [config.authority(), config.runbooks()] {
        let failed = |source| BackupError::File { path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if let (true, Ok(within)) = (path.is_file(), path.strip_prefix(&config.state)) {
                files.push(within.to_owned());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Writes the list and the files; `place` says where each lies.
pub(super) fn write(
    out: &mut impl Write,
    list: &List,
    place: impl Fn(&Path) -> PathBuf,
) -> Result<(), BackupError> {
    let text = serde_json::to_vec(list).map_err(|error| BackupError::Write(error.into()))?;
    let length = u32::try_from(text.len()).map_err(|_| BackupError::List)?;
    out.write_all(&length.to_be_bytes()).and_then(|()| out.write_all(&text)).map_err(BackupError::Write)?;
    for entry in &list.files {
        let file = place(&entry.path);
        let failed = |source| BackupError::File { path: file.clone(), source };
        // What grew since stays behind, what shrank is found when it is read back.
        let mut from = File::open(&file).map_err(failed)?.take(entry.bytes);
        io::copy(&mut from, out).map_err(failed)?;
    }
    Ok(())
}

/// Reads the list.
pub(super) fn read_list(from: &mut impl Read) -> Result<List, BackupError> {
    let mut length = [0; 4];
    from.read_exact(&mut length).map_err(BackupError::read)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST_LIST {
        return Err(BackupError::List);
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text).map_err(BackupError::read)?;
    let list: List = serde_json::from_slice(&text).map_err(|_| BackupError::List)?;
    let sound = |entry: &Entry| {
        let mut parts = entry.path.components();
        let plain = parts.all(|part| matches!(part, Component::Normal(_)));
        plain && (1..=2).contains(&entry.path.components().count())
    };
    if list.files.iter().all(sound) { Ok(list) } else { Err(BackupError::List) }
}

/// Reads one file, which has to be as the list says, into `out`.
pub(super) fn read(from: &mut impl Read, entry: &Entry, out: &mut impl Write) -> Result<(), BackupError> {
    let mut hash = Sha256::new();
    let copied = io::copy(&mut from.take(entry.bytes), &mut Hashing { hash: &mut hash, onward: out });
    let copied = copied.map_err(BackupError::read)?;
    if copied != entry.bytes || HEXLOWER.encode(&hash.finalize()) != entry.sha256 {
        return Err(BackupError::Digest(entry.path.clone()));
    }
    Ok(())
}

/// After the last file there is nothing.
pub(super) fn read_end(from: &mut impl Read) -> Result<(), BackupError> {
    match io::copy(from, &mut io::sink()).map_err(BackupError::read)? {
        0 => Ok(()),
        _ => Err(BackupError::List),
    }
}

struct Hashing<'a, W> {
    hash: &'a mut Sha256,
    onward: &'a mut W,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.onward.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.onward.flush()
    }
}
