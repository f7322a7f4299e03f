//! The state folder, and whose turn it is to work with it: one process at a time, which the kernel sees to. A process
//! that dies lets go of it, however it dies.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use vigie_proto::text::escape;

/// What a command writes into the lock while it works, so that an agent waits for it instead of giving up. What it does
/// follows on the next line.
const COMMAND: &str = "a command on this host\n";

/// The folder is this process's alone, until this is dropped.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    #[error("another agent runs with the state folder {}; stop it first", .0.display())]
    Taken(PathBuf),
    #[error("{} cannot be locked", path.display())]
    Lock { path: PathBuf, source: io::Error },
}

impl Alone {
    /// Takes the folder for an agent. Two agents on one journal would each undo the other's promises. A command that
    /// works there without an agent is waited for: it ends by itself.
    ///
    /// # Errors
    /// When another agent has it.
    pub fn agent(state: &Path) -> Result<Self, AloneError> {
        let (path, mut lock) = open(state)?;
        let failed = |source| AloneError::Lock { path: path.clone(), source };
        if !try_lock(&lock) {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(failed)?;
            if !holder.starts_with(COMMAND) {
                return Err(AloneError::Taken(state.to_owned()));
            }
            tracing::warn!("a `vigie-agent run RUNBOOK` works on this host: waiting for its end");
            flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        }
        lock.set_len(0).map_err(failed)?;
        Ok(Self { _lock: lock })
    }

    /// Takes the folder for a command, `does` being what it was called with; `None` where an agent, or another command, has it.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn command(state: &Path, does: &str) -> Result<Option<Self>, AloneError> {
        let (path, mut lock) = open(state)?;
        if !try_lock(&lock) {
            return Ok(None);
        }
        let text = format!("{COMMAND}`vigie-agent {does}` (process {}) is under way", std::process::id());
        let said =
            lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(text.as_bytes()));
        match said {
            Ok(()) => {}
            // Then an agent that starts meanwhile gives up, and is started again.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
            Err(source) => return Err(AloneError::Lock { path, source }),
        }
        Ok(Some(Self { _lock: lock }))
    }

    /// The command that has the folder, in words; `None` where an agent has it, or nobody.
    pub fn holder(state: &Path) -> Option<String> {
        let (_, mut lock) = open(state).ok()?;
        let mut text = String::new();
        if try_lock(&lock) || lock.read_to_string(&mut text).is_err() {
            return None;
        }
        text.strip_prefix(COMMAND).map(|does| escape(does, false).into_owned())
    }
}

fn open(state: &Path) -> Result<(PathBuf, File), AloneError> {
    let path = state.join("lock");
    match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
        Ok(lock) => Ok((path, lock)),
        Err(source) => Err(AloneError::Lock { path, source }),
    }
}

fn try_lock(lock: &File) -> bool {
    flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let agent = Alone::agent(folder.path()).unwrap();
        assert!(Alone::command(folder.path(), "run x").unwrap().is_none());
        assert!(matches!(Alone::agent(folder.path()).unwrap_err(), AloneError::Taken(_)));
        assert_eq!(Alone::holder(folder.path()), None, "an agent is no command");
        drop(agent);
        let command = Alone::command(folder.path(), "run x").unwrap().unwrap();
        assert!(
            Alone::command(folder.path(), "run x").unwrap().is_none(),
            "a second command waits for nobody"
        );
        let holder = Alone::holder(folder.path()).unwrap();
        assert!(
            holder.contains("vigie-agent run x") && holder.contains(&std::process::id().to_string()),
            "{holder}"
        );
        // An agent that starts now waits until the command has ended.
        let (begun, path) = (mpsc::channel(), folder.path().to_owned());
        let waits = thread::spawn(move || {
            let agent = Alone::agent(&path).unwrap();
            begun.0.send(()).unwrap();
            drop(agent);
        });
        assert!(begun.1.recv_timeout(std::time::Duration::from_millis(200)).is_err());
        drop(command);
        begun.1.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
        waits.join().unwrap();
        drop(Alone::command(folder.path(), "run x").unwrap().unwrap());
        // What a command that died left in the lock keeps no agent waiting.
        drop(Alone::agent(folder.path()).unwrap());
    }
}
