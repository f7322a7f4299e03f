//! Every stack that was ever seen here, on disk: labels vanish with the containers, and a stack whose containers are
//! gone is a finding, not a smaller host.
//!
//! Owns `stacks.json` in the agent's state folder. Holds names and places, never a variable's value but those of
//! `compose_env`; readable by the agent's user alone all the same.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::KnownStack;

/// The format's number. A file of a later one is left alone.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    stacks: BTreeMap<String, KnownStack>,
}

/// The file.
pub(super) struct Memory {
    path: PathBuf,
    /// Set when the file could not be read and must not be written over.
    sealed: bool,
}

/// Why the stacks are not remembered.
#[derive(Debug, thiserror::Error)]
pub(super) enum MemoryError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} cannot be understood and was moved aside as {}", path.display(), aside.display())]
    Damaged { path: PathBuf, aside: PathBuf, source: serde_json::Error },
    #[error("{} was written by a later agent (format {version}); it is left alone", path.display())]
    Later { path: PathBuf, version: u32 },
    #[error("{} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Memory {
    /// Reads what was remembered in this state folder. When that fails, the memory begins empty and the error says
    /// why.
    pub(super) fn open(state: &Path) -> (Self, BTreeMap<String, KnownStack>, Option<MemoryError>) {
        let path = state.join("stacks.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return (Self { path, sealed: false }, BTreeMap::new(), None);
            }
            Err(source) => {
                let error = MemoryError::Read { path: path.clone(), source };
                return (Self { path, sealed: true }, BTreeMap::new(), Some(error));
            }
        };
        match serde_json::from_slice::<File>(&text) {
            Ok(file) if file.version <= VERSION => (Self { path, sealed: false }, file.stacks, None),
            Ok(file) => {
                let error = MemoryError::Later { path: path.clone(), version: file.version };
                (Self { path, sealed: true }, BTreeMap::new(), Some(error))
            }
            Err(source) => {
                let aside = path.with_extension("json.damaged");
                let error = match fs::rename(&path, &aside) {
                    Ok(()) => MemoryError::Damaged { path: path.clone(), aside, source },
                    Err(source) => MemoryError::Write { path: aside, source },
                };
                (Self { path, sealed: false }, BTreeMap::new(), Some(error))
            }
        }
    }

    /// The folder that holds the file.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Writes all stacks, whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written; the one before it then stands.
    pub(super) fn save(&self, stacks: &BTreeMap<String, KnownStack>) -> Result<(), MemoryError> {
        if self.sealed {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            let file = File { version: VERSION, stacks: stacks.clone() };
            let text = serde_json::to_vec_pretty(&file)?;
            let fresh = self.path.with_extension("json.new");
            let mut out =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            out.write_all(&text)?;
            out.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            // The rename itself is on disk only with its folder.
            self.path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
        };
        write().map_err(|source| MemoryError::Write { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn stacks() -> BTreeMap<String, KnownStack> {
        let stack =
            KnownStack { name: "shop".to_owned(), directory: "/srv/shop".into(), ..KnownStack::default() };
        BTreeMap::from([("shop".to_owned(), stack)])
    }

    #[test]
    fn what_is_saved_is_remembered_by_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, found, error) = Memory::open(folder.path());
        assert!(found.is_empty() && error.is_none());
        memory.save(&stacks()).unwrap();
        let (_, found, error) = Memory::open(folder.path());
        assert_eq!(found, stacks());
        assert!(error.is_none());
        let mode = fs::metadata(folder.path().join("stacks.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_moved_aside_and_said() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stacks.json"), "{\"version\":1,").unwrap();
        let (memory, found, error) = Memory::open(folder.path());
        assert!(found.is_empty() && matches!(error, Some(MemoryError::Damaged { .. })));
        assert!(folder.path().join("stacks.json.damaged").exists());
        memory.save(&stacks()).unwrap();
        assert_eq!(Memory::open(folder.path()).1, stacks());
    }

    #[test]
    fn a_later_agents_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let text = "{\"version\":2,\"stacks\":{}}";
        fs::write(folder.path().join("stacks.json"), text).unwrap();
        let (memory, _, error) = Memory::open(folder.path());
        assert!(matches!(error, Some(MemoryError::Later { version: 2, .. })));
        memory.save(&stacks()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("stacks.json")).unwrap(), text);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, ..) = Memory::open(folder.path());
        memory.save(&stacks()).unwrap();
        fs::create_dir(folder.path().join("stacks.json.new")).unwrap();
        assert!(memory.save(&BTreeMap::new()).is_err());
        assert_eq!(Memory::open(folder.path()).1, stacks());
    }
}
