//! `vigie-controller backup` and `restore`: the whole state in one encrypted file, and out of it.
//!
//! A backup is made beside a controller that serves: the database is copied in one read transaction, the rest are files that
//! only people write. It is read back before it is called one. A restore makes a folder of its own, looks at everything in
//! it, and puts it in the place of the state folder in one step: a crash leaves the old state or the new one.
//!
//! What a restored controller does not know has happened all the same: agents may have seen newer epochs of its runs, and
//! tokens that it holds unused may have been used. So its open runs go on under an epoch that nobody can have seen, and its
//! tokens are void.

mod parcel;
mod restore;
mod seal;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

pub use parcel::{Entry, List};
pub use restore::{Restored, restore};
pub use seal::SealError;

use crate::{
    authority::AuthorityError,
    clock::now_ms,
    config::{Config, ConfigError},
    error::RunsError,
    store::{Sqlite, StoreError},
};
use seal::{Opening, Sealing};

/// Where the database stands within a state folder.
const DATABASE: &str = "controller.db";

/// Why there is no backup, or nothing was restored. Where nothing else is said, everything is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{0} exists; name another file, or move it away")]
    Exists(PathBuf),
    #[error("the settings cannot be used")]
    Config(#[from] ConfigError),
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    #[error("the CAs cannot be used")]
    Authority(#[from] AuthorityError),
    #[error("{path} cannot be read or written")]
    File { path: PathBuf, source: io::Error },
    #[error("the backup cannot be written")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the backup's list of files is not one; it was made by a newer version, or by another program")]
    List,
    #[error("{0} is not as the backup's list says")]
    Digest(PathBuf),
    #[error("the backup lacks {0}")]
    Lacks(&'static str),
    #[error("{0} is a controller's already; with --replace it is moved aside and kept")]
    State(PathBuf),
    #[error("{0} is not empty and no controller's; empty it, or choose another folder with --state")]
    NotEmpty(PathBuf),
    #[error("the audit log in the backup is broken")]
    Audit(#[from] crate::audit::Broken),
    #[error("an open run in the backup cannot be continued")]
    Runs(#[from] RunsError),
    #[error(
        "{path} cannot be put in place; where it is a mount point or a volume, restore beside it and change the mount"
    )]
    Place { path: PathBuf, source: io::Error },
}

impl BackupError {
    /// What a stream gave that was being opened.
    fn read(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::List,
            _ => Self::Seal(SealError::of(error)),
        }
    }
}

/// Saves a state folder into one file, mode 0600, while its controller may serve.
///
/// # Errors
/// When something cannot be read, or the file cannot be written and read back.
pub async fn backup(config: &Config, file: &Path, passphrase: &str) -> Result<List, BackupError> {
    if file.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(file.to_owned()));
    }
    let beside = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |source| BackupError::File { path: beside.to_owned(), source };
    let fresh = || tempfile::Builder::new().prefix(".vigie-backup-").tempfile_in(beside).map_err(failed);
    // The copy lies there for as long as this takes, mode 0600: the state's own disk may be full.
    let copy = fresh()?;
    Sqlite::copy(&config.database(), copy.path()).await?;
    let mut files = parcel::files(config)?;
    files.push(DATABASE.into());
    let place = |path: &Path| match path == Path::new(DATABASE) {
        true => copy.path().to_owned(),
        false => config.state.join(path),
    };
    let files = files.into_iter().map(|path| Entry::of(&place(&path), path)).collect::<Result<_, _>>()?;
    let list = List {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at_ms: now_ms(),
        id: config.settings.id.clone(),
        domain: config.settings.domain.clone(),
        files,
    };
    let sealed = fresh()?;
    let mut sealing = Sealing::new(sealed.as_file(), passphrase)?;
    parcel::write(&mut sealing, &list, place)?;
    sealing.finish()?.sync_all().map_err(BackupError::Write)?;
    // What cannot be read back is no backup, and now is the time to hear of it.
    let read = look(File::open(sealed.path()).map_err(failed)?, passphrase)?;
    if read != list {
        return Err(BackupError::List);
    }
    sealed
        .persist_noclobber(file)
        .map_err(|error| BackupError::File { path: file.to_owned(), source: error.error })?;
    File::open(beside).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(list)
}

/// Reads a backup through to its end.
fn look(file: File, passphrase: &str) -> Result<List, BackupError> {
    let mut opening = Opening::new(io::BufReader::new(file), passphrase)?;
    let list = parcel::read_list(&mut opening)?;
    for entry in &list.files {
        parcel::read(&mut opening, entry, &mut io::sink())?;
    }
    parcel::read_end(&mut opening)?;
    Ok(list)
}

/// Whether a folder holds nothing, or is not there.
fn is_empty(folder: &Path) -> io::Result<bool> {
    match fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
