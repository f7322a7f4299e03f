//! What fills the disks, by kind and filesystem, with what of it nobody needs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use vigie_proto::v1::{Culprit, DiskCulpritsRequest, DiskCulpritsResult, Filesystem};

use super::{
    Context, Fault, MIB, Places, apt, deleted, inventory, journal, logs, shown,
    walk::{allocated, modified_ms, walk},
};
use crate::host::mounts::Table;

/// The seed of the runbook keeps the newest seven.
const BACKUPS_KEPT: usize = 7;
/// What of the journal is kept in an emergency.
const JOURNAL_KEPT: u32 = 100;
/// A log of the system that is larger than this has not been rotated.
const LARGE: u64 = 100 * MIB;
/// How long one folder may take.
const WALK: Duration = Duration::from_secs(8);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Where dumps of processes that crashed are put.
const DUMPS: [&str; 3] = ["/var/lib/systemd/coredump", "/var/crash", "/var/cores"];

/// One thing that takes room.
struct Item {
    kind: &'static str,
    path: PathBuf,
    bytes: u64,
    waste: u64,
    owner: String,
    stack: String,
}

/// What was found, and what could not be read to its end.
#[derive(Default)]
struct Found {
    items: Vec<Item>,
    incomplete: Vec<PathBuf>,
}

impl Found {
    fn add(&mut self, kind: &'static str, path: impl Into<PathBuf>, bytes: u64, waste: u64) -> &mut Item {
        let (owner, stack) = (String::new(), String::new());
        self.items.push(Item { kind, path: path.into(), bytes, waste, owner, stack });
        let last = self.items.len() - 1;
        &mut self.items[last]
    }

    fn folder(&mut self, top: &Path, each: impl FnMut(&Path, &fs::Metadata)) {
        if top.exists() {
            let walked = walk(top, 0, WALK, each);
            if walked.truncated || walked.unreadable > 0 {
                self.incomplete.push(top.to_owned());
            }
        }
    }
}

/// Shows what fills the disks.
pub(in crate::operations) async fn culprits(
    _: DiskCulpritsRequest,
    cx: &Context,
) -> Result<DiskCulpritsResult, Fault> {
    let table = super::table()?;
    let places = Places::of(&cx.host);
    let filesystems = super::filesystems(&cx.host, &table).await;
    let mounts = cx.host.mounts();
    let patience = WALK * 3;
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
        let until = cx.deadline.checked_sub(Duration::from_secs(3)).unwrap_or(cx.deadline);
        tokio::time::timeout_at(until, inventory::take(cx)).await.unwrap_or_else(|_| {
            Err(Fault::failed("docker_unreachable", "the Docker engine did not count what it keeps in time"))
        })
    };
    let files = mounts.ask(PathBuf::from("/var/log"), patience, move || host_files(&backups));
    let stacks = mounts.ask(root.join("volumes"), patience, move || stack_volumes(&volumes));
    let kept_logs = mounts.ask(root.join("containers"), WALK, {
        let root = root.clone();
        move || container_logs(&root)
    });
    let (docker, files, stacks, kept_logs, open) =
        tokio::join!(docker, files, stacks, kept_logs, deleted::find(cx));

    let mut groups = Groups::new(&table, &filesystems);
    let mut result = DiskCulpritsResult::default();
    for (place, found) in [("/var/log", files), ("volumes", stacks), ("containers", kept_logs)] {
        match found {
            Some(found) => {
                result.incomplete.extend(found.incomplete.iter().map(|path| shown(cx, path)));
                found.items.into_iter().for_each(|item| groups.add(item));
            }
            None => result.incomplete.push(place.to_owned()),
        }
    }
    match open {
        Ok(open) => {
            let owners = logs::owners(&root);
            for held in open.files.into_iter().filter(|held| held.bytes >= MIB) {
                let Some(point) = deleted::on_disk(&table, &held) else { continue };
                let owner = owners.get(&held.container).cloned().unwrap_or_default();
                let who = [owner.name, held.unit.clone(), held.process.clone()];
                groups.add_at(
                    &point,
                    Item {
                        kind: "deleted_open",
                        owner: who.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
                        stack: owner.stack,
                        bytes: held.bytes,
                        waste: held.bytes,
                        path: held.path,
                    },
                );
            }
        }
        Err(_) => result.incomplete.push("/proc".to_owned()),
    }
    match docker {
        Ok(inventory) => {
            result.docker_answered = true;
            docker_objects(&inventory, &root, &mut groups);
        }
        Err(fault) if fault.failure.code == "docker_absent" => {}
        Err(fault) => result.docker_error = crate::operations::text::text(&cx.host, &fault.failure.message),
    }
    result.groups = groups.finish();
    for group in &mut result.groups {
        group.largest = crate::operations::text::text(&cx.host, &group.largest);
        group.owner = crate::operations::text::text(&cx.host, &group.owner);
    }
    Ok(result)
}

fn container_logs(root: &Path) -> Found {
    let mut found = Found::default();
    for log in logs::all(root) {
        let large = log.bytes >= u64::from(logs::OVER_MIB) * MIB;
        let item = found.add("container_logs", log.path, log.bytes, if large { log.bytes } else { 0 });
        (item.owner, item.stack) = (log.container, log.stack);
    }
    found
}

/// What is on every host: backups, journal, apt, dumps, logs, temporary files.
fn host_files(backups: &[PathBuf]) -> Found {
    let mut found = Found::default();
    for folder in backups {
        let mut files: BTreeMap<PathBuf, Vec<(i64, PathBuf, u64)>> = BTreeMap::new();
        found.folder(folder, |path, meta| {
            let beside = path.parent().unwrap_or(path).to_owned();
            files.entry(beside).or_default().push((modified_ms(meta), path.to_owned(), allocated(meta)));
        });
        for mut list in files.into_values() {
            list.sort_by(|a, b| b.cmp(a));
            for (rank, (_, path, bytes)) in list.into_iter().enumerate() {
                found.add("backups", path, bytes, if rank < BACKUPS_KEPT { 0 } else { bytes });
            }
        }
    }
    let journal_folder = Path::new(journal::FOLDER);
    let journal = journal::read(journal_folder);
    if journal.present {
        let waste = journal::chosen(&journal, 0, JOURNAL_KEPT, 0).iter().map(|file| file.bytes).sum();
        found.add("journal", journal_folder, journal.bytes, waste);
    }
    for file in apt::read(Path::new(apt::FOLDER)) {
        found.add("apt", file.path, file.bytes, file.bytes);
    }
    for folder in DUMPS {
        let mut dumps = Vec::new();
        found.folder(Path::new(folder), |path, meta| dumps.push((path.to_owned(), allocated(meta))));
        for (path, bytes) in dumps {
            found.add("core_dumps", path, bytes, bytes);
        }
    }
    let mut files = Vec::new();
    found.folder(Path::new("/var/log"), |path, meta| {
        if !path.starts_with(journal_folder) {
            files.push((path.to_owned(), allocated(meta)));
        }
    });
    for (path, bytes) in files {
        found.add("system_logs", path, bytes, if bytes >= LARGE { bytes } else { 0 });
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let day_ago = i64::try_from(now.as_millis()).unwrap_or(i64::MAX) - DAY_MS;
    for folder in ["/tmp", "/var/tmp"] {
        let mut files = Vec::new();
        found.folder(Path::new(folder), |path, meta| {
            files.push((path.to_owned(), allocated(meta), modified_ms(meta)));
        });
        for (path, bytes, modified) in files {
            let waste = if bytes >= LARGE || modified < day_ago { bytes } else { 0 };
            found.add("temporary", path, bytes, waste);
        }
    }
    found
}

/// What the stacks keep: data, which is never waste.
fn stack_volumes(volumes: &[(String, PathBuf)]) -> Found {
    let mut found = Found::default();
    for (stack, volume) in volumes {
        let data = volume.join("_data");
        let cluster = [data.clone(), data.join("pgdata"), data.join("data")]
            .into_iter()
            .find(|folder| folder.join("PG_VERSION").is_file());
        let (mut whole, mut wal) = (0, 0);
        found.folder(&data, |path, meta| {
            whole += allocated(meta);
            if cluster.as_ref().is_some_and(|folder| path.starts_with(folder.join("pg_wal"))) {
                wal += allocated(meta);
            }
        });
        let kind = if cluster.is_some() { "database" } else { "stack_volumes" };
        found.add(kind, data.clone(), whole - wal, 0).stack.clone_from(stack);
        if let Some(folder) = cluster {
            found.add("wal", folder.join("pg_wal"), wal, 0).stack.clone_from(stack);
        }
    }
    found
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
        let Some(mount) = groups.table.of(&path) else { continue };
        let point = mount.point().to_owned();
        groups.add_at(
            &point,
            Item {
                kind,
                path: PathBuf::from(&object.name),
                bytes: object.bytes,
                waste: if object.kept.is_empty() { object.bytes } else { 0 },
                owner: String::new(),
                stack: object.stack.clone(),
            },
        );
    }
}

/// Sums by filesystem and kind.
struct Groups<'a> {
    table: &'a Table,
    filesystems: &'a [Filesystem],
    groups: BTreeMap<(String, &'static str), Culprit>,
}

impl<'a> Groups<'a> {
    fn new(table: &'a Table, filesystems: &'a [Filesystem]) -> Self {
        Self { table, filesystems, groups: BTreeMap::new() }
    }

    fn add(&mut self, item: Item) {
        if let Some(mount) = self.table.of(&item.path) {
            let point = mount.point().to_owned();
            self.add_at(&point, item);
        }
    }

    fn add_at(&mut self, point: &Path, item: Item) {
        let point = point.to_string_lossy().into_owned();
        let group = self.groups.entry((point.clone(), item.kind)).or_insert_with(|| Culprit {
            kind: item.kind.to_owned(),
            mount_point: point,
            ..Culprit::default()
        });
        group.bytes += item.bytes;
        group.waste_bytes += item.waste;
        group.count += 1;
        // Of what is nobody's, the largest tells where it comes from.
        if group.count == 1 || item.bytes > group.largest_bytes {
            group.largest = item.path.to_string_lossy().into_owned();
            group.largest_bytes = item.bytes;
            group.owner = item.owner;
            group.stack = item.stack;
        }
    }

    fn finish(self) -> Vec<Culprit> {
        let mut groups: Vec<Culprit> = self.groups.into_values().filter(|group| group.bytes > 0).collect();
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
