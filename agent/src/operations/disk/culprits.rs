//! What fills the disks, by kind and filesystem, with what of it nobody needs.
//!
//! Files are summed while they are walked over: where the inodes have run out there are millions of them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::time::Instant as Moment;
use vigie_proto::v1::{Culprit, DiskCulpritsRequest, DiskCulpritsResult, Filesystem};

use super::{
    Context, Fault, MIB, Places, apt, deleted, inventory, journal, logs, prune, shown,
    walk::{Detail, allocated, modified_ms, walk},
};
use crate::host::mounts::{Mounts, Table};

/// The seed of the runbook keeps the newest seven.
const BACKUPS_KEPT: usize = 7;
/// What of the journal is kept in an emergency.
const JOURNAL_KEPT: u32 = 100;
/// A log of the system that is larger than this has not been rotated.
const LARGE: u64 = 100 * MIB;
/// How long everything may take: a probe answers in half a minute.
const PATIENCE: Duration = Duration::from_secs(24);
/// A walk looks at the clock between two files; a disk that is written to death answers within this.
const LAST_FILE: Duration = Duration::from_secs(1);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Where dumps of processes that crashed are put.
const DUMPS: [&str; 3] = ["/var/lib/systemd/coredump", "/var/crash", "/var/cores"];

/// One thing that takes room.
#[derive(Debug, Clone, Default)]
struct Item {
    path: PathBuf,
    bytes: u64,
    waste: u64,
    owner: String,
    stack: String,
}

/// Things of one kind in one place.
#[derive(Debug, Clone, Default)]
struct Sum {
    bytes: u64,
    waste: u64,
    count: u32,
    /// Of what is nobody's, the largest tells where it comes from.
    largest: Item,
}

impl Sum {
    fn of(item: Item) -> Self {
        Self { bytes: item.bytes, waste: item.waste, count: 1, largest: item }
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.waste += other.waste;
        let first = self.count == 0;
        self.count = self.count.saturating_add(other.count);
        if first || other.largest.bytes > self.largest.bytes {
            self.largest = other.largest;
        }
    }

    /// One more file, whose path is copied only when it is the largest.
    fn file(&mut self, path: &Path, bytes: u64, waste: u64) {
        self.bytes += bytes;
        self.waste += waste;
        self.count = self.count.saturating_add(1);
        if self.count == 1 || bytes > self.largest.bytes {
            self.largest = Item { path: path.to_owned(), bytes, waste, ..Item::default() };
        }
    }
}

/// What was found, and what could not be read to its end.
#[derive(Debug, Default)]
struct Found {
    /// By a folder on the filesystem where it all lies, and by kind.
    sums: BTreeMap<(PathBuf, &'static str), Sum>,
    incomplete: Vec<PathBuf>,
}

impl Found {
    fn add(&mut self, place: &Path, kind: &'static str, sum: Sum) {
        if sum.count > 0 {
            self.sums.entry((place.to_owned(), kind)).or_default().add(sum);
        }
    }
}

/// A look at one part of the disks: what it has found is there even when it hangs in the middle.
struct Look {
    found: Arc<Mutex<Found>>,
    until: Instant,
}

impl Look {
    fn new(until: Moment) -> Self {
        Self { found: Arc::default(), until: until.into_std() }
    }

    /// Looks in a thread of its own, and takes what it has found at the end of the time.
    async fn at(
        mounts: &Mounts,
        place: PathBuf,
        until: Moment,
        look: impl FnOnce(&Self) + Send + 'static,
    ) -> Found {
        let own = Self::new(until);
        let shared = Arc::clone(&own.found);
        let patience = until.saturating_duration_since(Moment::now()) + LAST_FILE;
        let ended = mounts.ask(place.clone(), patience, move || look(&own)).await;
        let mut found = std::mem::take(&mut *shared.lock().unwrap_or_else(PoisonError::into_inner));
        if ended.is_none() {
            found.incomplete.push(place);
        }
        found
    }

    fn add(&self, place: &Path, kind: &'static str, sum: Sum) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).add(place, kind, sum);
    }

    /// Walks over a folder, which may take its share of the time that is left for so many.
    fn folder(&self, top: &Path, of: usize, each: impl FnMut(&Path, &fs::Metadata)) {
        let now = Instant::now();
        let share = self.until.saturating_duration_since(now) / u32::try_from(of.max(1)).unwrap_or(1);
        if !top.is_dir() {
            return;
        }
        let walked = walk(top, Detail::default(), now + share, each);
        if walked.truncated || walked.unreadable > 0 {
            self.found.lock().unwrap_or_else(PoisonError::into_inner).incomplete.push(top.to_owned());
        }
    }
}

/// Shows what fills the disks.
pub(in crate::operations) async fn culprits(
    _: DiskCulpritsRequest,
    cx: &Context,
) -> Result<DiskCulpritsResult, Fault> {
    let table = super::table()?;
    let places = Places::of(&cx.host).await;
    let filesystems = super::filesystems(&cx.host, &table).await;
    let mounts = cx.host.mounts();
    // What is left of the time is for putting together what was found.
    let until = (Moment::now() + PATIENCE)
        .min(cx.deadline.checked_sub(Duration::from_secs(3)).unwrap_or(cx.deadline));
    let root = places.docker_root.clone();
    let backups = places.backups.clone();
    let volumes: Vec<(String, PathBuf)> = cx
        .host
        .stacks()
        .all()
        .iter()
        .flat_map(|stack| {
            stack.volumes.iter().map(|name| (stack.name.clone(), root.join("volumes").join(name)))
        })
        .collect();
    let docker = async {
        // The engine may take long to count; what it does not tell in time is not known.
        tokio::time::timeout_at(until, inventory::take(cx)).await.unwrap_or_else(|_| {
            Err(Fault::failed("docker_unreachable", "the Docker engine did not count what it keeps in time"))
        })
    };
    let files = Look::at(mounts, PathBuf::from("/var/log"), until, move |look| host_files(look, &backups));
    let stacks = Look::at(mounts, root.join("volumes"), until, move |look| stack_volumes(look, &volumes));
    let owners: Arc<Mutex<HashMap<String, logs::Owner>>> = Arc::default();
    let kept_logs = Look::at(mounts, root.join("containers"), until, {
        let (root, owners) = (root.clone(), Arc::clone(&owners));
        move |look| {
            *owners.lock().unwrap_or_else(PoisonError::into_inner) = logs::owners(&root);
            container_logs(look, &root);
        }
    });
    let (docker, files, stacks, kept_logs, open) =
        tokio::join!(docker, files, stacks, kept_logs, deleted::find(cx));

    let mut groups = Groups::new(&table, &filesystems);
    let mut result = DiskCulpritsResult::default();
    for found in [files, stacks, kept_logs] {
        result.incomplete.extend(found.incomplete.iter().map(|path| shown(cx, path)));
        found.sums.into_iter().for_each(|((place, kind), sum)| groups.add(&place, kind, sum));
    }
    match open {
        Ok(open) => {
            let owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
            for held in open.files.into_iter().filter(|held| held.bytes >= MIB) {
                let Some(point) = deleted::on_disk(&table, &held) else { continue };
                let owner = owners.get(&held.container).cloned().unwrap_or_default();
                let who = [owner.name, held.unit.clone(), held.process.clone()];
                let item = Item {
                    owner: who.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
                    stack: owner.stack,
                    bytes: held.bytes,
                    waste: held.bytes,
                    path: held.path,
                };
                groups.add_at(&point, "deleted_open", Sum::of(item));
            }
        }
        Err(_) => result.incomplete.push("/proc".to_owned()),
    }
    match docker {
        Ok(inventory) => {
            result.docker_answered = true;
            docker_objects(&inventory, &root, &mut groups);
        }
        Err(fault) if fault.failure.is_absence() => {}
        Err(fault) => result.docker_error = crate::operations::text::text(&cx.host, &fault.failure.message),
    }
    result.groups = groups.finish();
    for group in &mut result.groups {
        group.largest = crate::operations::text::text(&cx.host, &group.largest);
        group.owner = crate::operations::text::text(&cx.host, &group.owner);
    }
    Ok(result)
}

fn container_logs(look: &Look, root: &Path) {
    for log in logs::all(root) {
        let goes = log.bytes >= u64::from(logs::OVER_MIB) * MIB && !logs::is_compressed(&log);
        let item = Item {
            path: PathBuf::from(log.path),
            bytes: log.bytes,
            waste: if goes { log.bytes } else { 0 },
            owner: log.container,
            stack: log.stack,
        };
        look.add(&root.join("containers"), "container_logs", Sum::of(item));
    }
}

/// The backups of one folder: the newest are kept, the others are waste.
#[derive(Default)]
struct Backups {
    folder: PathBuf,
    /// The newest so many, the oldest of them first: when they were written, what they are called, what they take.
    newest: Vec<(i64, PathBuf, u64)>,
    sum: Sum,
}

impl Backups {
    fn file(&mut self, path: &Path, meta: &fs::Metadata) {
        let beside = path.parent().unwrap_or(path);
        if beside != self.folder {
            self.settle();
            self.folder = beside.to_owned();
        }
        let new = (modified_ms(meta), path.to_owned(), allocated(meta));
        let place = self.newest.partition_point(|own| *own < new);
        self.newest.insert(place, new);
        if self.newest.len() > BACKUPS_KEPT {
            let (_, path, bytes) = self.newest.remove(0);
            self.sum.file(&path, bytes, bytes);
        }
    }

    /// What is left of a folder stays.
    fn settle(&mut self) {
        for (_, path, bytes) in self.newest.drain(..) {
            self.sum.file(&path, bytes, 0);
        }
    }
}

/// What is on every host: backups, journal, apt, dumps, logs, temporary files.
fn host_files(look: &Look, backups: &[PathBuf]) {
    // Folders that are still to be walked over.
    let mut left = backups.len() + DUMPS.len() + 3;
    let mut share = || {
        left -= 1;
        left + 1
    };
    let journal_folder = Path::new(journal::FOLDER);
    let journal = journal::read(journal_folder);
    if journal.present {
        let waste = journal::chosen(&journal, 0, JOURNAL_KEPT, 0).iter().map(|file| file.bytes).sum();
        let item = Item { path: journal_folder.to_owned(), bytes: journal.bytes, waste, ..Item::default() };
        look.add(journal_folder, "journal", Sum::of(item));
    }
    let mut sum = Sum::default();
    for file in apt::read(Path::new(apt::FOLDER)) {
        sum.file(Path::new(&file.path), file.bytes, file.bytes);
    }
    look.add(Path::new(apt::FOLDER), "apt", sum);
    for folder in backups {
        let mut found = Backups::default();
        look.folder(folder, share(), |path, meta| found.file(path, meta));
        found.settle();
        look.add(folder, "backups", found.sum);
    }
    let mut each = |top: &str, kind, waste: &dyn Fn(u64, i64) -> u64| {
        let (top, mut sum) = (Path::new(top), Sum::default());
        look.folder(top, share(), |path, meta| {
            if kind != "system_logs" || !path.starts_with(journal_folder) {
                let bytes = allocated(meta);
                sum.file(path, bytes, waste(bytes, modified_ms(meta)));
            }
        });
        look.add(top, kind, sum);
    };
    for folder in DUMPS {
        each(folder, "core_dumps", &|bytes, _| bytes);
    }
    each("/var/log", "system_logs", &|bytes, _| if bytes >= LARGE { bytes } else { 0 });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let day_ago = i64::try_from(now.as_millis()).unwrap_or(i64::MAX) - DAY_MS;
    for folder in ["/tmp", "/var/tmp"] {
        each(folder, "temporary", &|bytes, modified| {
            if bytes >= LARGE || modified < day_ago { bytes } else { 0 }
        });
    }
}

/// What the stacks keep: data, which is never waste.
fn stack_volumes(look: &Look, volumes: &[(String, PathBuf)]) {
    for (place, (stack, volume)) in volumes.iter().enumerate() {
        let data = volume.join("_data");
        let cluster = [data.clone(), data.join("pgdata"), data.join("data")]
            .into_iter()
            .find(|folder| folder.join("PG_VERSION").is_file());
        let log = cluster.as_ref().map(|folder| folder.join("pg_wal"));
        let (mut whole, mut wal) = (0, 0);
        look.folder(&data, volumes.len() - place, |path, meta| {
            whole += allocated(meta);
            if log.as_ref().is_some_and(|folder| path.starts_with(folder)) {
                wal += allocated(meta);
            }
        });
        let own =
            |path: PathBuf, bytes| Sum::of(Item { path, bytes, stack: stack.clone(), ..Item::default() });
        let kind = if cluster.is_some() { "database" } else { "stack_volumes" };
        look.add(&data, kind, own(data.clone(), whole - wal));
        if let Some(folder) = log {
            look.add(&folder, "wal", own(folder.clone(), wal));
        }
    }
}

fn docker_objects(inventory: &inventory::Inventory, root: &Path, groups: &mut Groups<'_>) {
    for object in &inventory.objects {
        let (kind, path) = match object.kind.as_str() {
            "image" => ("images", root.to_owned()),
            "container" => ("containers", root.to_owned()),
            "build_cache" => ("build_cache", root.to_owned()),
            // Those of a stack are walked above.
            "volume" if object.kept.is_empty() => {
                let place = inventory.volumes.get(&object.name).map(PathBuf::from);
                ("volumes", place.unwrap_or_else(|| root.join("volumes")))
            }
            _ => continue,
        };
        // A volume that somebody gave a name may be wanted.
        let goes = object.kept.is_empty() && (kind != "volumes" || prune::is_anonymous(&object.name));
        let Some(mount) = groups.table.of(&path) else { continue };
        let point = mount.point().to_owned();
        let item = Item {
            path: PathBuf::from(&object.name),
            bytes: object.bytes,
            waste: if goes { object.bytes } else { 0 },
            owner: String::new(),
            stack: object.stack.clone(),
        };
        groups.add_at(&point, kind, Sum::of(item));
    }
}

/// Sums by filesystem and kind.
struct Groups<'a> {
    table: &'a Table,
    filesystems: &'a [Filesystem],
    sums: BTreeMap<(String, &'static str), Sum>,
}

impl<'a> Groups<'a> {
    fn new(table: &'a Table, filesystems: &'a [Filesystem]) -> Self {
        Self { table, filesystems, sums: BTreeMap::new() }
    }

    fn add(&mut self, place: &Path, kind: &'static str, sum: Sum) {
        if let Some(mount) = self.table.of(place) {
            let point = mount.point().to_owned();
            self.add_at(&point, kind, sum);
        }
    }

    fn add_at(&mut self, point: &Path, kind: &'static str, sum: Sum) {
        self.sums.entry((point.to_string_lossy().into_owned(), kind)).or_default().add(sum);
    }

    fn finish(self) -> Vec<Culprit> {
        let told = self.sums.into_iter().map(|((mount_point, kind), sum)| Culprit {
            kind: kind.to_owned(),
            mount_point,
            bytes: sum.bytes,
            waste_bytes: sum.waste,
            count: sum.count,
            largest: sum.largest.path.to_string_lossy().into_owned(),
            largest_bytes: sum.largest.bytes,
            owner: sum.largest.owner,
            stack: sum.largest.stack,
            ..Culprit::default()
        });
        let mut groups: Vec<Culprit> = told.filter(|group| group.bytes > 0).collect();
        groups.sort_by(|a, b| {
            (b.waste_bytes, b.bytes).cmp(&(a.waste_bytes, a.bytes)).then_with(|| a.kind.cmp(&b.kind))
        });
        let mut seen: Vec<String> = Vec::new();
        for group in &mut groups {
            let Some(fs) = self.filesystems.iter().find(|fs| fs.mount_point == group.mount_point) else {
                continue;
            };
            let percent =
                (u128::from(group.bytes) * 100).checked_div(u128::from(fs.total_bytes)).unwrap_or(0);
            group.percent = u32::try_from(percent).unwrap_or(100);
            group.enough = group.waste_bytes > 0 && group.waste_bytes >= fs.wanted_bytes;
            let first = !seen.contains(&group.mount_point);
            let much =
                group.waste_bytes >= (fs.total_bytes / 20).max(1) || (fs.wanted_bytes > 0 && group.enough);
            group.main = first && much;
            seen.push(group.mount_point.clone());
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        Look::new(Moment::now() + Duration::from_secs(20))
    }

    fn taken(look: &Look) -> Found {
        std::mem::take(&mut *look.found.lock().unwrap())
    }

    #[test]
    fn the_newest_backups_of_each_folder_stay() {
        let top = tempfile::tempdir().unwrap();
        for (folder, count) in [("postgres", 10), ("redis", 3)] {
            fs::create_dir(top.path().join(folder)).unwrap();
            for n in 0..count {
                let path = top.path().join(format!("{folder}/{n}.sql.gz"));
                fs::write(&path, vec![1; 8192 * (n + 1)]).unwrap();
                let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + n as u64);
                fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
            }
        }
        let (look, mut found) = (look(), Backups::default());
        look.folder(top.path(), 1, |path, meta| found.file(path, meta));
        found.settle();
        // Of ten the three oldest, which are the three smallest.
        assert_eq!((found.sum.count, found.sum.waste), (13, 8192 * (1 + 2 + 3)));
        assert!(found.sum.largest.path.ends_with("postgres/9.sql.gz"), "{:?}", found.sum.largest);
    }

    #[test]
    fn a_stacks_volumes_are_data() {
        let top = tempfile::tempdir().unwrap();
        let data = top.path().join("pg/_data");
        fs::create_dir_all(data.join("pg_wal")).unwrap();
        fs::write(data.join("PG_VERSION"), "15\n").unwrap();
        fs::write(data.join("table"), vec![1; 16384]).unwrap();
        fs::write(data.join("pg_wal/1"), vec![1; 8192]).unwrap();
        let look = look();
        stack_volumes(&look, &[("shop".to_owned(), top.path().join("pg"))]);
        let found = taken(&look);
        let told: Vec<_> = found
            .sums
            .iter()
            .map(|((_, kind), sum)| (*kind, sum.waste, sum.largest.stack.as_str()))
            .collect();
        assert_eq!(told, [("database", 0, "shop"), ("wal", 0, "shop")]);
        let wal = &found.sums[&(data.join("pg_wal"), "wal")];
        assert_eq!(wal.bytes, 8192);
    }

    #[tokio::test]
    async fn what_was_found_before_a_look_hung_is_told() {
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let until = Moment::now();
        let found = Look::at(&Mounts::default(), PathBuf::from("/hung"), until, move |look| {
            let item = Item { path: "/x".into(), bytes: 7, ..Item::default() };
            look.add(Path::new("/"), "temporary", Sum::of(item));
            let _ = held.recv();
        })
        .await;
        drop(let_go);
        assert_eq!(found.sums[&(PathBuf::from("/"), "temporary")].bytes, 7);
        assert_eq!(found.incomplete, [PathBuf::from("/hung")]);
    }
}
