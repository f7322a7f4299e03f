use std::{
    fs::{self, File},
    io::BufReader,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{BackupError, DATABASE, List, is_empty, parcel, seal::Opening};
use crate::{
    audit::{Audit, Intent},
    authority::Authority,
    clock::now_ms,
    config::{Config, alone, private_folder},
    runs,
    store::{Sqlite, Store as _},
};

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    pub list: List,
    pub config: Config,
    /// Runs that go on, under an epoch that no agent has seen.
    pub runs: usize,
    /// Tokens that nobody can use any more.
    pub tokens: u64,
    /// Where the state is that was there before.
    pub before: Option<PathBuf>,
}

/// Makes a controller's state of a backup, whole or not at all.
///
/// # Errors
/// When the backup is not whole, does not open, or holds what makes no controller; when the folder holds a state and
/// `replace` is not set, or its controller runs. Until the last step everything is as it was.
pub async fn restore(
    file: &Path,
    state: &Path,
    passphrase: &str,
    replace: bool,
) -> Result<Restored, BackupError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { path, source }
    };
    // The folder itself and not a link to it, which is what systemd makes of a service's state.
    let real = fs::canonicalize(state);
    let state = real.as_deref().unwrap_or(state);
    // Held until the state that was there is out of the way: a controller that serves it would go on writing into it.
    let _alone = match Config::file_in(state).exists() {
        true if !replace => return Err(BackupError::State(state.to_owned())),
        true => Some(alone(state)?),
        false if !is_empty(state).map_err(failed(state))? => {
            return Err(BackupError::NotEmpty(state.to_owned()));
        }
        false => None,
    };
    let parent = match state.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(failed(parent))?;
    // Beside the state folder, so that one rename puts it in place. Mode 0700, and gone when anything fails.
    let made =
        tempfile::Builder::new().prefix(".vigie-restore-").tempdir_in(parent).map_err(failed(parent))?;
    let list = unpack(file, made.path(), passphrase)?;
    let (config, runs, tokens) = settle(made.path(), &list).await?;
    sync(made.path())?;
    let before = place(made.keep(), state, parent)?;
    Ok(Restored { list, config: Config { state: state.to_owned(), ..config }, runs, tokens, before })
}

/// Every file of the backup, as its list says.
fn unpack(file: &Path, into: &Path, passphrase: &str) -> Result<List, BackupError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::File { path, source }
    };
    let sealed = File::open(file).map_err(failed(file))?;
    let mut opening = Opening::new(BufReader::new(sealed), passphrase)?;
    let list = parcel::read_list(&mut opening)?;
    for entry in &list.files {
        let path = into.join(&entry.path);
        if let Some(folder) = path.parent() {
            private_folder(folder).map_err(failed(folder))?;
        }
        let mut out =
            File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed(&path))?;
        parcel::read(&mut opening, entry, &mut out)?;
        out.sync_all().map_err(failed(&path))?;
    }
    parcel::read_end(&mut opening)?;
    for needed in ["controller.toml", DATABASE] {
        if !list.files.iter().any(|entry| entry.path == Path::new(needed)) {
            return Err(BackupError::Lacks(needed));
        }
    }
    Ok(list)
}

/// Looks at everything that a controller needs, and makes it ready for a world that went on without it.
async fn settle(folder: &Path, list: &List) -> Result<(Config, usize, u64), BackupError> {
    let config = Config::load(folder)?;
    Authority::load(&config.authority(), &config.settings.domain)?;
    let runbooks = config.runbooks();
    private_folder(&runbooks).map_err(|source| BackupError::File { path: runbooks, source })?;
    let store = std::sync::Arc::new(Sqlite::open(&config.database()).await?);
    store.look_over().await?;
    let audit = Audit::new(store.clone());
    audit.verify().await??;
    let runs = runs::leap(&*store, &config.settings.id).await?;
    let said = format!(
        "restored from a backup of {} ms, made by version {}; open runs: {runs}",
        list.made_at_ms, list.version
    );
    let tokens = store.void_tokens(&Intent::own("restore", &config.settings.id, &said), now_ms()).await?;
    drop(audit);
    store.close().await;
    Ok((config, runs, tokens))
}

/// What is renamed next is on the disk.
fn sync(folder: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::File { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// The one step: the folder changes places with the state that was there, which is kept.
fn place(made: PathBuf, state: &Path, parent: &Path) -> Result<Option<PathBuf>, BackupError> {
    let there = state.symlink_metadata().is_ok();
    let flags = if there { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    // The parent is opened first: after the rename nothing may fail.
    let placed = File::open(parent).and_then(|parent| {
        renameat_with(CWD, &made, CWD, state, flags)?;
        Ok(parent)
    });
    let parent = match placed {
        Ok(parent) => parent,
        Err(source) => {
            // Of no use to anyone, and full of keys.
            if let Err(error) = fs::remove_dir_all(&made) {
                tracing::warn!(path = %made.display(), %error, "what was unpacked could not be removed");
            }
            return Err(BackupError::Place { path: state.to_owned(), source });
        }
    };
    let kept = if there { keep_aside(made, state) } else { None };
    if let Err(error) = parent.sync_all() {
        tracing::warn!(
            path = %state.display(), %error,
            "the state is in place, and may not be any more after a power loss: look at the disk, then restore once more"
        );
    }
    Ok(kept)
}

/// Where the state is kept that was there before, and that has the unpacked folder's name now. An empty folder is nothing to
/// keep.
fn keep_aside(old: PathBuf, state: &Path) -> Option<PathBuf> {
    if fs::remove_dir(&old).is_ok() {
        return None;
    }
    let mut kept = state.as_os_str().to_owned();
    kept.push(format!(".before-{}", now_ms()));
    let kept = PathBuf::from(kept);
    match fs::rename(&old, &kept) {
        Ok(()) => Some(kept),
        Err(error) => {
            tracing::warn!(path = %old.display(), %error, "the state that was there before keeps this name");
            Some(old)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever fails, one of the two is the state, and the state that was there is somewhere.
    #[test]
    fn a_step_that_fails_takes_nothing_away() {
        let folder = tempfile::tempdir().unwrap();
        let (state, missing) = (folder.path().join("state"), folder.path().join("missing"));
        fs::create_dir(&state).unwrap();
        fs::write(state.join("mark"), "of the old one").unwrap();
        let unpacked = || {
            let made = folder.path().join("made");
            fs::create_dir(&made).unwrap();
            fs::write(made.join("mark"), "of the new one").unwrap();
            made
        };
        let mark = |at: &Path| fs::read_to_string(at.join("mark")).unwrap();
        let made = unpacked();
        assert!(matches!(place(made.clone(), &state, &missing), Err(BackupError::Place { .. })));
        assert_eq!((mark(&state).as_str(), made.exists()), ("of the old one", false));
        let made = unpacked();
        let nowhere = missing.join("state");
        assert!(matches!(place(made.clone(), &nowhere, folder.path()), Err(BackupError::Place { .. })));
        assert!(!made.exists());
        let kept = place(unpacked(), &state, folder.path()).unwrap().unwrap();
        assert_eq!((mark(&state).as_str(), mark(&kept).as_str()), ("of the new one", "of the old one"));
    }
}
