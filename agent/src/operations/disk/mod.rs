//! Room on the host's filesystems: how much there is, what takes it, and how it is made again.
//!
//! Nothing here deletes what its preview did not name: each action reads again what is there, and takes of it what the
//! operator saw, by inode or by id.

mod apt;
mod culprits;
mod deleted;
mod inventory;
mod journal;
mod logs;
mod prune;
pub(super) mod room;
mod walk;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::Instant;
use vigie_proto::v1::{
    Directory, DiskDirectoriesRequest, DiskDirectoriesResult, DiskUsageRequest, DiskUsageResult, Filesystem,
    OutcomeStatus,
};

pub(super) use apt::{clean as apt_clean, preview as apt_preview};
pub(super) use culprits::culprits;
pub(super) use deleted::deleted_open;
pub(super) use inventory::docker_usage;
pub(super) use journal::{preview as journal_preview, vacuum as journal_vacuum};
pub(super) use logs::{preview as logs_preview, truncate as logs_truncate};
pub(super) use prune::{
    preview as prune_preview, prune, volume_preview as volume_prune_preview, volumes as volume_prune,
};

use super::{Context, Fault, text};
use crate::{
    config::StackSettings,
    host::{
        Host,
        mounts::{self, Mount, Table},
        stacks::KnownStack,
    },
};
use room::Level;
use walk::Detail;

/// What a person looks at when a disk has many mounts.
const POINTS: usize = 20;

pub(super) const MIB: u64 = 1024 * 1024;

/// Shows each filesystem's bytes and inodes, and what lives on it.
pub(super) async fn usage(_: DiskUsageRequest, cx: &Context) -> Result<DiskUsageResult, Fault> {
    Ok(DiskUsageResult { filesystems: filesystems(&cx.host, &table()?).await })
}

pub(super) fn table() -> Result<Table, Fault> {
    Table::read()
        .map_err(|error| Fault::failed("proc_unreadable", format!("the mounts cannot be read: {error}")))
}

/// All filesystems: those that services need first, then the fullest.
pub(super) async fn filesystems(host: &Host, table: &Table) -> Vec<Filesystem> {
    let places = Places::of(host).await;
    let asked = table.mounts.iter().map(|mount| filesystem(host, table, mount, &places));
    let mut all: Vec<Filesystem> = join_all(asked).await.into_iter().flatten().collect();
    let fullness = |fs: &Filesystem| fs.used_percent.max(fs.inodes_percent);
    all.sort_by_key(|fs| (!fs.vital, std::cmp::Reverse(fullness(fs)), fs.mount_point.clone()));
    all
}

async fn filesystem(host: &Host, table: &Table, mount: &Mount, places: &Places) -> Option<Filesystem> {
    let asked = host.mounts().room(mount).await;
    if asked.is_some_and(|room| room.total == 0) {
        // A filesystem of the kernel's or of a desktop's own, which holds no files.
        return None;
    }
    let room = asked.unwrap_or_default();
    let (holds, stacks) = places.on(table, mount);
    let kind = mount.kind();
    let vital = kind == "disk"
        && holds
            .iter()
            .any(|held| matches!(*held, "system" | "docker" | "volumes" | "container_logs" | "stacks"));
    let growth =
        asked.and_then(|room| host.mounts().growth(mount, &room, Instant::now())).unwrap_or_default();
    let level = |level: Level| if asked.is_some() { level.word().to_owned() } else { String::new() };
    Some(Filesystem {
        mount_point: mount.point().to_string_lossy().into_owned(),
        mount_points: if mount.points.len() > 1 {
            mount.points.iter().take(POINTS).map(|point| point.to_string_lossy().into_owned()).collect()
        } else {
            Vec::new()
        },
        device: text::text(host, &mount.source),
        fs_type: mount.fs_type.clone(),
        kind: kind.to_owned(),
        answered: asked.is_some(),
        read_only: mount.read_only,
        read_only_by_error: mount.read_only_by_error,
        total_bytes: room.total,
        used_bytes: room.total.saturating_sub(room.free),
        available_bytes: room.available,
        used_percent: room.used_percent(),
        inodes_total: room.inodes,
        inodes_used: room.inodes.saturating_sub(room.inodes_free),
        inodes_free: room.inodes_free,
        inodes_percent: room.inodes_percent(),
        level: level(Level::of_bytes(&room, growth.full_in_s)),
        inode_level: level(Level::of_inodes(&room)),
        vital,
        holds: holds.into_iter().map(str::to_owned).collect(),
        stacks,
        wanted_bytes: room::wanted(&room),
        growth_bytes_per_hour: growth.bytes_per_hour,
        full_in_s: growth.full_in_s,
    })
}

/// Where the stacks keep their backups, by custom and by their settings; none within another.
fn backups(known: &[Arc<KnownStack>], settings: &BTreeMap<String, StackSettings>) -> Vec<PathBuf> {
    let set = |stack: &KnownStack| settings.get(&stack.name).and_then(|own| own.backups.directory.clone());
    let all = known.iter().flat_map(|stack| {
        let own = set(stack).map(|folder| stack.directory.join(folder));
        own.into_iter().chain([stack.directory.join("backups")])
    });
    let mut folders: Vec<PathBuf> = all.collect();
    // Those above come before those within.
    folders.sort();
    let mut outer: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if !outer.last().is_some_and(|above| folder.starts_with(above)) {
            outer.push(folder);
        }
    }
    outer
}

/// Places that tell what a filesystem is for.
pub(super) struct Places {
    pub docker_root: PathBuf,
    has_docker: bool,
    /// Folders that are there; none lies in another.
    pub backups: Vec<PathBuf>,
    /// By stack: its folder and its volumes.
    stacks: Vec<(String, PathBuf, Vec<PathBuf>)>,
}

impl Places {
    async fn of(host: &Host) -> Self {
        let docker_root = host.docker().root();
        let known = host.stacks().all();
        let volume = |name: &String| docker_root.join("volumes").join(name);
        // A folder that hangs is there.
        let is_there = async |path: &PathBuf| {
            let own = path.clone();
            host.mounts().ask(path.clone(), mounts::PATIENCE, move || own.is_dir()).await.unwrap_or(true)
        };
        let folders = backups(&known, &host.settings().stacks);
        let (has_docker, there) =
            tokio::join!(is_there(&docker_root), join_all(folders.iter().map(is_there)));
        Self {
            has_docker,
            backups: folders
                .into_iter()
                .zip(there)
                .filter(|(_, there)| *there)
                .map(|(path, _)| path)
                .collect(),
            stacks: known
                .iter()
                .map(|stack| {
                    (stack.name.clone(), stack.directory.clone(), stack.volumes.iter().map(volume).collect())
                })
                .collect(),
            docker_root,
        }
    }

    /// What lives on a filesystem, and whose.
    fn on(&self, table: &Table, mount: &Mount) -> (Vec<&'static str>, Vec<String>) {
        let here = |path: &Path| table.of(path).is_some_and(|own| own.device == mount.device);
        let docker = |name: &str| here(&self.docker_root.join(name));
        let (root, has_docker) = (here(Path::new("/")), self.has_docker);
        let on: [(&'static str, bool); 10] = [
            ("system", root || here(Path::new("/var")) || here(Path::new("/usr"))),
            ("boot", here(Path::new("/boot")) && !root),
            ("docker", has_docker && here(&self.docker_root)),
            ("volumes", has_docker && docker("volumes")),
            ("container_logs", has_docker && docker("containers")),
            ("stacks", self.stacks.iter().any(|(_, folder, _)| here(folder))),
            ("backups", self.backups.iter().any(|folder| here(folder))),
            ("journal", here(Path::new(journal::FOLDER))),
            ("apt", here(Path::new(apt::FOLDER))),
            ("temporary", ["/tmp", "/var/tmp"].iter().any(|folder| here(Path::new(folder))) && !root),
        ];
        let stacks = self
            .stacks
            .iter()
            .filter(|(_, folder, volumes)| here(folder) || volumes.iter().any(|volume| here(volume)))
            .map(|(name, ..)| name.clone())
            .collect();
        (on.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect(), stacks)
    }
}

/// Shows the folders that take most bytes and most inodes.
pub(super) async fn directories(
    request: DiskDirectoriesRequest,
    cx: &Context,
) -> Result<DiskDirectoriesResult, Fault> {
    let table = table()?;
    let path = if request.path.is_empty() {
        // The list begins with those that services need, the fullest first.
        let fullest =
            filesystems(&cx.host, &table).await.into_iter().find(|fs| fs.answered && fs.kind == "disk");
        PathBuf::from(fullest.map_or_else(|| "/".to_owned(), |fs| fs.mount_point))
    } else {
        PathBuf::from(&request.path)
    };
    if path.components().any(|part| matches!(part, std::path::Component::ParentDir)) {
        return Err(Fault::refused("path_invalid", format!("{} is not in its plain form", path.display()))
            .hint("give the path without `..`"));
    }
    // A link inside an allowed folder may lead out of it, and nothing is asked of a place before it may be.
    may_walk(cx, &table, &path)?;
    let asked = path.clone();
    let real = cx.host.mounts().ask(path.clone(), mounts::PATIENCE, move || fs::canonicalize(&asked)).await;
    let path = match real {
        None => return Err(hangs(&path)),
        Some(Err(error)) => {
            let message = format!("{} cannot be read: {error}", path.display());
            return Err(Fault::failed("file_unreadable", message));
        }
        Some(Ok(real)) => real,
    };
    may_walk(cx, &table, &path)?;
    let detail = Detail {
        depth: if request.depth == 0 { 6 } else { request.depth as usize },
        count: if request.count == 0 { 15 } else { request.count as usize },
    };
    // Something is told even when the folder is too large for the time.
    let until = cx.deadline.checked_sub(Duration::from_secs(2)).unwrap_or(cx.deadline);
    let patience = until.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
    let (top, until) = (path.clone(), until.into_std());
    let walked = cx
        .host
        .mounts()
        .ask(path.clone(), patience, move || walk::walk(&top, detail, until, |_, _| {}))
        .await
        .ok_or_else(|| hangs(&path))?;
    if walked.entries == 0 && walked.unreadable > 0 {
        return Err(Fault::failed("file_unreadable", format!("{} cannot be read", path.display())));
    }
    let list = |folders: Vec<walk::Weighed>| {
        folders
            .into_iter()
            .map(|own| Directory { path: shown(cx, &own.path), bytes: own.bytes, entries: own.entries })
            .collect()
    };
    Ok(DiskDirectoriesResult {
        mount_point: table.of(&path).map(|mount| shown(cx, mount.point())).unwrap_or_default(),
        by_bytes: list(walked.by_bytes),
        by_entries: list(walked.by_entries),
        path: shown(cx, &path),
        entries: walked.entries,
        bytes: walked.bytes,
        truncated: walked.truncated,
        unreadable: walked.unreadable,
    })
}

fn hangs(path: &Path) -> Fault {
    Fault::failed("timed_out", format!("{} does not answer", path.display()))
        .hint("its filesystem hangs: `vigiectl probe disk_usage`")
}

/// Folders of every host that fill up, whoever asks.
const OPEN: [&str; 4] = ["/tmp", "/var/tmp", "/var/log", apt::FOLDER];

/// Without an order, only what the host itself names is walked over: filesystems as a whole, the stacks' folders,
/// Docker's, those that fill up everywhere, and those that the policy lets probes read.
fn may_walk(cx: &Context, table: &Table, path: &Path) -> Result<(), Fault> {
    let whole = |mount: &Mount| mount.points.iter().any(|point| point == path);
    if cx.ordered || path == Path::new("/") || table.mounts.iter().any(whole) {
        return Ok(());
    }
    let known = cx.host.stacks().all();
    let mut folders = known.iter().map(|stack| stack.directory.clone()).collect::<Vec<_>>();
    folders.extend(backups(&known, &cx.host.settings().stacks));
    folders.push(cx.host.docker().root());
    folders.extend(OPEN.map(PathBuf::from));
    // A stack without a folder names none.
    if folders.iter().any(|folder| folder.parent().is_some() && path.starts_with(folder)) {
        return Ok(());
    }
    cx.host.policy().may_tail(path).map_err(|failure| Fault {
        status: OutcomeStatus::Refused,
        failure,
        partial: None,
    })
}

/// A path, ready to leave.
pub(super) fn shown(cx: &Context, path: &Path) -> String {
    text::text(&cx.host, &path.to_string_lossy())
}
