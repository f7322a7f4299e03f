//! The folder that holds a stack's backups, and the files in it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use procfs::process::all_processes;
use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;
use vigie_proto::v1::{Backup, BackupJob};

use super::{
    ledger::{Identity, Ledger},
    scan::{Scan, scan},
};
use crate::{
    host::stacks::KnownStack,
    operations::{Context, Fault},
};

/// How dumps are called. What pg_dump writes in its own formats is listed and not read.
const ENDINGS: [&str; 4] = [".sql.gz", ".sql", ".dump", ".pgdump"];

/// How files are called that are being written.
const TEMPORARY: [&str; 4] = [".partial", ".part", ".tmp", ".new"];

/// A file under a temporary name that nobody has written to for so long is a leftover.
const WRITING: Duration = Duration::from_secs(120);

/// Programs that make backups.
const PROGRAMS: [&str; 4] = ["pg_dump", "pg_dumpall", "pg_basebackup", "pgbackrest"];

/// A stack's backups: where they are, and what is remembered of them.
pub(in crate::operations) struct Folder {
    pub path: PathBuf,
    pub script: Option<PathBuf>,
    pub off_site: Option<PathBuf>,
    state: PathBuf,
}

/// A file of the folder.
#[derive(Debug, Clone)]
pub(in crate::operations) struct Dump {
    pub name: String,
    pub path: PathBuf,
    pub identity: Identity,
    /// `None` while it was not read.
    pub scan: Option<Scan>,
    pub verified_at_ms: i64,
    pub restore_ms: u32,
}

impl Folder {
    /// Where a stack keeps its backups, by its settings or by custom.
    pub(in crate::operations) fn of(cx: &Context, stack: &KnownStack) -> Self {
        let settings =
            cx.host.settings().stacks.get(&stack.name).map(|stack| stack.backups.clone()).unwrap_or_default();
        let directory = settings.directory.unwrap_or_else(|| "backups/postgres".into());
        let script =
            stack.directory.join(settings.script.unwrap_or_else(|| "scripts/backup_postgres.sh".into()));
        Self {
            path: stack.directory.join(directory),
            script: script.is_file().then_some(script),
            off_site: settings.off_site.map(|mark| stack.directory.join(mark)),
            state: cx.host.stacks().state_folder().to_owned(),
        }
    }

    /// The agent's state folder.
    pub(in crate::operations) fn state(&self) -> &Path {
        &self.state
    }

    /// All dumps, the newest first, with what is remembered of each. `None` when there is no such folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(in crate::operations) fn dumps(&self) -> io::Result<Option<Vec<Dump>>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let ledger = Ledger::read(&self.state);
        let mut dumps = Vec::new();
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') || !ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            // A link is another's file.
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            let (path, identity) = (entry.path(), identity(&meta));
            let scan = ledger.scan(&path, identity).cloned();
            dumps.push(Dump::new(name, path, identity, scan, &ledger));
        }
        dumps.sort_by(|a, b| (b.identity.modified_ns, &b.name).cmp(&(a.identity.modified_ns, &a.name)));
        Ok(Some(dumps))
    }

    /// Reads what was not read before, the first of them first, and remembers what they are. Stops at the deadline;
    /// what was not reached stays unread.
    pub(in crate::operations) async fn read(
        &self,
        dumps: &mut [Dump],
        deadline: Instant,
    ) -> Result<(), Fault> {
        for dump in dumps.iter_mut().filter(|dump| dump.scan.is_none() && dump.is_readable()) {
            if Instant::now() >= deadline {
                break;
            }
            let (path, identity) = (dump.path.clone(), dump.identity);
            let reading = tokio::task::spawn_blocking(move || read(&path, identity));
            // A reader that the deadline leaves behind ends by itself; it holds nothing but a file.
            let Ok(read) = tokio::time::timeout_at(deadline, reading).await else { break };
            let found = read.map_err(|error| Fault::failed("internal", error))?;
            let found = found.unwrap_or_else(|error| Scan {
                integrity: "unreadable".to_owned(),
                problem: error.to_string(),
                ..Scan::default()
            });
            dump.scan = Some(found);
            self.remember(dump);
        }
        Ok(())
    }

    /// Keeps what a file turned out to be. What cannot be kept is found out again next time.
    pub(in crate::operations) fn remember(&self, dump: &mut Dump) {
        let Some(scan) = dump.scan.clone().filter(|scan| scan.integrity != "unreadable") else { return };
        let learnt = Ledger::change(&self.state, |ledger| {
            if let Some(verified) = ledger.verified(&scan.digest) {
                dump.verified_at_ms = verified.at_ms;
                dump.restore_ms = verified.restore_ms;
            }
            ledger.learn(dump.path.clone(), dump.identity, scan);
        });
        if let Err(error) = learnt {
            tracing::warn!(%error, "what a backup turned out to be cannot be remembered");
        }
    }

    /// The dump of this name, read to its end; the newest when there is none.
    ///
    /// # Errors
    /// When there is none, or it cannot be read in time.
    pub(in crate::operations) async fn choose(&self, name: &str, deadline: Instant) -> Result<Dump, Fault> {
        let dumps = self.dumps().map_err(|error| self.unreadable(&error))?.unwrap_or_default();
        let known: Vec<String> = dumps.iter().take(8).map(|dump| dump.name.clone()).collect();
        let chosen = dumps.into_iter().find(|dump| name.is_empty() || dump.name == name);
        let Some(dump) = chosen else {
            let what = if name.is_empty() { "no backup".to_owned() } else { format!("no backup `{name}`") };
            let hint = match known.as_slice() {
                [] => "make one: `vigiectl do backup_create`".to_owned(),
                known => format!("the newest there are: {}", known.join(", ")),
            };
            return Err(Fault::refused(
                "backup_unknown",
                format!("there is {what} in {}", self.path.display()),
            )
            .hint(hint));
        };
        let mut one = [dump];
        self.read(&mut one, deadline).await?;
        let [dump] = one;
        if dump.scan.is_none() && dump.is_readable() {
            return Err(Fault::failed(
                "timed_out",
                format!("{} could not be read to its end in time", dump.name),
            ));
        }
        Ok(dump)
    }

    pub(in crate::operations) fn unreadable(&self, error: &io::Error) -> Fault {
        Fault::failed("file_unreadable", format!("{} cannot be read: {error}", self.path.display()))
    }

    /// What makes a backup at this moment, by its process or by the file that grows.
    pub(in crate::operations) fn jobs(&self) -> Vec<BackupJob> {
        let mut jobs: Vec<BackupJob> = Vec::new();
        let uptime = procfs::Uptime::current_seconds();
        for process in all_processes().into_iter().flatten().flatten() {
            // One that ends meanwhile makes no backup any more.
            let Ok(stat) = process.stat() else { continue };
            if !PROGRAMS.contains(&stat.comm.as_str()) || matches!(stat.state, 'Z' | 'X') {
                continue;
            }
            let started = stat.starttime / procfs::ticks_per_second().max(1);
            jobs.push(BackupJob {
                pid: stat.pid,
                program: stat.comm,
                file: String::new(),
                running_s: uptime.saturating_sub(started),
            });
        }
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Ok(meta) = entry.metadata() else { continue };
            let quiet = meta.modified().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
            if meta.is_file() && TEMPORARY.iter().any(|ending| name.ends_with(ending)) && quiet < WRITING {
                let running =
                    meta.created().ok().and_then(|at| now.duration_since(at).ok()).unwrap_or_default();
                jobs.push(BackupJob {
                    pid: 0,
                    program: "file".to_owned(),
                    file: name,
                    running_s: running.as_secs(),
                });
            }
        }
        jobs
    }
}

trait CurrentSeconds {
    fn current_seconds() -> u64;
}

impl CurrentSeconds for procfs::Uptime {
    fn current_seconds() -> u64 {
        use procfs::Current as _;
        Self::current().map(|uptime| uptime.uptime as u64).unwrap_or_default()
    }
}

impl Dump {
    fn new(name: String, path: PathBuf, identity: Identity, scan: Option<Scan>, ledger: &Ledger) -> Self {
        let verified = scan.as_ref().and_then(|scan| ledger.verified(&scan.digest));
        Self {
            verified_at_ms: verified.map_or(0, |verified| verified.at_ms),
            restore_ms: verified.map_or(0, |verified| verified.restore_ms),
            name,
            path,
            identity,
            scan,
        }
    }

    /// Whether it is SQL text, compressed or not.
    pub(in crate::operations) fn is_readable(&self) -> bool {
        self.is_compressed() || self.name.ends_with(".sql")
    }

    pub(in crate::operations) fn is_compressed(&self) -> bool {
        self.name.ends_with(".gz")
    }

    pub(in crate::operations) fn integrity(&self) -> &str {
        self.scan.as_ref().map_or("not_tested", |scan| scan.integrity.as_str())
    }

    pub(in crate::operations) fn is_usable(&self) -> bool {
        self.integrity() == "ok"
    }

    pub(in crate::operations) fn is_verified(&self) -> bool {
        self.verified_at_ms > 0
    }

    /// Known to be no whole dump.
    pub(in crate::operations) fn is_broken(&self) -> bool {
        !matches!(self.integrity(), "ok" | "not_tested" | "unreadable")
    }

    pub(in crate::operations) fn modified_at_ms(&self) -> i64 {
        self.identity.modified_ns / 1_000_000
    }

    /// Whole seconds since it was last written.
    pub(in crate::operations) fn age_s(&self) -> u64 {
        age_s(self.modified_at_ms())
    }

    /// Opens the very file that was listed.
    ///
    /// # Errors
    /// When it is gone or another one by now.
    pub(in crate::operations) fn open(&self) -> io::Result<File> {
        open(&self.path, self.identity)
    }

    /// As the catalogue shows it.
    pub(in crate::operations) fn shown(&self) -> Backup {
        let scan = self.scan.clone().unwrap_or_default();
        Backup {
            name: self.name.clone(),
            size_bytes: self.identity.size,
            modified_at_ms: self.modified_at_ms(),
            age_s: self.age_s(),
            integrity: self.integrity().to_owned(),
            problem: scan.problem,
            digest: scan.digest,
            dump_bytes: scan.dump_bytes,
            tables: scan.tables,
            rows: scan.rows,
            verified: self.is_verified(),
            verified_at_ms: self.verified_at_ms,
            restore_ms: self.restore_ms,
            inode: self.identity.inode,
            restorable: scan.restorable,
        }
    }
}

/// Whole seconds since a moment; 0 for one to come.
pub(in crate::operations) fn age_s(at_ms: i64) -> u64 {
    u64::try_from((crate::host::clock::now().timestamp_millis() - at_ms) / 1000).unwrap_or_default()
}

/// What tells this file from others.
pub(in crate::operations) fn identity(meta: &fs::Metadata) -> Identity {
    Identity {
        inode: meta.ino(),
        size: meta.len(),
        modified_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
    }
}

fn open(path: &Path, expected: Identity) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() || identity(&meta) != expected {
        return Err(io::Error::other(format!("{} is not the file any more that was listed", path.display())));
    }
    Ok(file)
}

fn read(path: &Path, identity: Identity) -> io::Result<Scan> {
    let compressed = path.extension().is_some_and(|extension| extension == "gz");
    scan(open(path, identity)?, compressed)
}

/// Free and all bytes of the filesystem on which a path is; that of the nearest folder above when it is not there.
pub(in crate::operations) fn room(path: &Path) -> io::Result<(u64, u64)> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = rustix::fs::statvfs(there)?;
    Ok((found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn folder(path: &Path) -> Folder {
        Folder { path: path.join("backups"), script: None, off_site: None, state: path.to_owned() }
    }

    #[tokio::test]
    async fn dumps_are_listed_newest_first_and_read_once() {
        let place = tempfile::tempdir().unwrap();
        let folder = folder(place.path());
        assert!(folder.dumps().unwrap().is_none());
        fs::create_dir(&folder.path).unwrap();
        let write = |name: &str, text: &str, age: u64| {
            let mut file = File::create(folder.path.join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        write("old.sql", "-- PostgreSQL database dump complete\n", 5000);
        write("new.sql", "CREATE TABLE a (b int);\n", 10);
        write("other.txt", "x", 1);
        write("now.sql.gz.partial", "x", 1);
        write("left.sql.gz.partial", "x", 4000);
        std::os::unix::fs::symlink("/etc/passwd", folder.path.join("link.sql")).unwrap();
        let mut dumps = folder.dumps().unwrap().unwrap();
        assert_eq!(dumps.iter().map(|dump| dump.name.as_str()).collect::<Vec<_>>(), ["new.sql", "old.sql"]);
        assert_eq!(dumps[0].integrity(), "not_tested");
        folder.read(&mut dumps, Instant::now() + Duration::from_secs(5)).await.unwrap();
        assert_eq!((dumps[0].integrity(), dumps[1].integrity()), ("incomplete", "ok"));
        assert!(dumps[0].is_broken() && (9..20).contains(&dumps[0].age_s()));
        let again = folder.dumps().unwrap().unwrap();
        assert_eq!(again[1].integrity(), "ok", "it is remembered");
        let files: Vec<_> =
            folder.jobs().into_iter().filter(|job| job.program == "file").map(|job| job.file).collect();
        assert_eq!(files, ["now.sql.gz.partial"]);
        let deadline = Instant::now() + Duration::from_secs(5);
        assert_eq!(folder.choose("", deadline).await.unwrap().name, "new.sql");
        let fault = folder.choose("gone.sql", deadline).await.unwrap_err();
        assert_eq!(fault.failure.code, "backup_unknown");
        assert!(fault.failure.hint.contains("old.sql"));
        write("new.sql", "CREATE TABLE a (b int, c int);\n", 3);
        assert!(dumps[0].open().is_err(), "another file by now");
    }
}
