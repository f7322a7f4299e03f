//! The runbooks that runs can be opened with: the shipped ones, and the team's own from a folder.
//!
//! The folder is looked at again whenever somebody asks and something in it changed, so that a team edits its runbooks
//! without a restart. A file that does not read is said so in the log and passed over: the others are needed. A team's
//! runbook takes the place of a shipped one of the same id. Runs keep the text that they were opened with.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use vigie_proto::v1;
use vigie_runbook::Runbook;

use crate::{error::RunbooksError, permit::Permit};

/// The largest file that is read, in bytes; the parser has a bound of its own.
const LARGEST: u64 = 1024 * 1024;

/// Where a runbook comes from that every program carries.
const SHIPPED: &str = "shipped";

/// A cheap handle to the runbooks.
#[derive(Clone)]
pub struct Runbooks(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    shelf: Mutex<Shelf>,
}

/// What was read, and of which files.
#[derive(Default)]
struct Shelf {
    seen: Option<Vec<Seen>>,
    runbooks: BTreeMap<String, Shelved>,
}

#[derive(Clone)]
struct Shelved {
    runbook: Arc<Runbook>,
    /// `shipped`, or the file.
    source: String,
}

/// A file as it lay in the folder: another name, size or time is another file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Runbooks {
    /// Reads the shipped runbooks and those in `folder`, which need not exist.
    pub fn open(folder: PathBuf) -> Self {
        let runbooks = Self(Arc::new(Inner { folder, shelf: Mutex::default() }));
        drop(runbooks.shelf());
        runbooks
    }

    /// A runbook by its id.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Runbook>> {
        self.shelf().runbooks.get(id).map(|shelved| Arc::clone(&shelved.runbook))
    }

    /// The texts of the team's own, which agents do not carry.
    pub(crate) fn of_the_team(&self) -> Vec<String> {
        let shelf = self.shelf();
        let own = shelf.runbooks.values().filter(|shelved| shelved.source != SHIPPED);
        own.map(|shelved| shelved.runbook.text.clone()).collect()
    }

    /// Every runbook: the shipped ones in their order, then the team's.
    pub(crate) fn all(&self) -> Vec<Arc<Runbook>> {
        let shelf = self.shelf();
        let place = |id: &str| vigie_runbook::shipped().iter().position(|(shipped, _)| *shipped == id);
        let mut all: Vec<_> = shelf.runbooks.values().map(|shelved| Arc::clone(&shelved.runbook)).collect();
        all.sort_by_key(|runbook| place(&runbook.id).unwrap_or(usize::MAX));
        all
    }

    /// Every runbook, by id, without its text.
    pub fn list(&self, _: &Permit) -> Vec<v1::Runbook> {
        self.shelf().runbooks.values().map(|shelved| shelved.to_proto(false)).collect()
    }

    /// One runbook with its text.
    ///
    /// # Errors
    /// When there is none of this id.
    pub fn get(&self, _: &Permit, id: &str) -> Result<v1::Runbook, RunbooksError> {
        let shelf = self.shelf();
        let shelved =
            shelf.runbooks.get(id).ok_or_else(|| RunbooksError::Unknown(id.chars().take(64).collect()))?;
        Ok(shelved.to_proto(true))
    }

    /// The shelf, as the folder is now.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        let mut shelf = self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = look(&self.0.folder);
        if shelf.seen.as_ref() != Some(&seen) {
            shelf.runbooks = read(&seen);
            shelf.seen = Some(seen);
        }
        shelf
    }
}

impl Shelved {
    fn to_proto(&self, with_text: bool) -> v1::Runbook {
        v1::Runbook {
            id: self.runbook.id.clone(),
            title: self.runbook.title.clone(),
            digest: self.runbook.digest.to_vec(),
            text: if with_text { self.runbook.text.clone() } else { String::new() },
            source: self.source.clone(),
        }
    }
}

/// The runbook files of a folder, in the order of their names.
fn look(folder: &Path) -> Vec<Seen> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "the team's runbooks cannot be listed");
            return Vec::new();
        }
    };
    let mut seen: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"))
        .filter_map(|path| {
            let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
            Some(Seen { path, bytes: metadata.len(), modified: metadata.modified().ok() })
        })
        .collect();
    seen.sort();
    seen
}

fn read(files: &[Seen]) -> BTreeMap<String, Shelved> {
    let mut runbooks = BTreeMap::new();
    for (id, text) in vigie_runbook::shipped() {
        match Runbook::parse(text, id) {
            Ok(runbook) => {
                let shelved = Shelved { runbook: Arc::new(runbook), source: SHIPPED.to_owned() };
                runbooks.insert(shelved.runbook.id.clone(), shelved);
            }
            Err(reason) => tracing::error!(runbook = id, %reason, "a shipped runbook does not read"),
        }
    }
    for file in files {
        let path = file.path.display();
        match read_one(file) {
            Ok(runbook) => {
                let shelved = Shelved { runbook: Arc::new(runbook), source: path.to_string() };
                if let Some(before) = runbooks.insert(shelved.runbook.id.clone(), shelved) {
                    tracing::info!(runbook = before.runbook.id, %path, before = before.source, "a runbook is replaced");
                }
            }
            Err(reason) => tracing::warn!(%path, %reason, "a runbook is passed over"),
        }
    }
    runbooks
}

fn read_one(file: &Seen) -> Result<Runbook, String> {
    if file.bytes > LARGEST {
        return Err(format!("it has {} bytes, more than {LARGEST}", file.bytes));
    }
    let text = fs::read_to_string(&file.path).map_err(|error| error.to_string())?;
    Runbook::parse(&text, &file.path.display().to_string()).map_err(|diagnostics| diagnostics.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit() -> Permit {
        Permit::for_test("spiffe://vigie/operator/ada", "/vigie.v1.Runbooks/ListRunbooks")
    }

    #[test]
    fn shipped_runbooks_are_there_without_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let runbooks = Runbooks::open(folder.path().join("none"));
        let listed = runbooks.list(&permit());
        assert_eq!(listed.len(), vigie_runbook::shipped().len());
        assert!(listed.iter().all(|runbook| runbook.text.is_empty() && runbook.source == "shipped"));
        let one = runbooks.get(&permit(), &listed[0].id).unwrap();
        assert_eq!(one.digest, vigie_proto::order::digest(one.text.as_bytes()));
        assert!(runbooks.get(&permit(), "nonsense").is_err());
    }

    #[test]
    fn a_teams_file_counts_as_soon_as_it_is_there_and_a_bad_one_harms_none() {
        let folder = tempfile::tempdir().unwrap();
        let runbooks = Runbooks::open(folder.path().to_owned());
        let before = runbooks.list(&permit()).len();
        fs::write(folder.path().join("bad.yaml"), "id: [").unwrap();
        let (id, text) = vigie_runbook::shipped()[0];
        let ours = text.replacen(&format!("id: {id}"), "id: ours", 1);
        fs::write(folder.path().join("ours.yaml"), &ours).unwrap();
        assert_eq!(runbooks.list(&permit()).len(), before + 1);
        assert!(runbooks.get(&permit(), "ours").unwrap().source.ends_with("ours.yaml"));
        fs::write(folder.path().join("ours.yaml"), format!("{text}\n")).unwrap();
        assert!(runbooks.get(&permit(), "ours").is_err());
        assert!(
            runbooks.get(&permit(), id).unwrap().source.ends_with("ours.yaml"),
            "it takes the shipped one's place"
        );
    }
}
