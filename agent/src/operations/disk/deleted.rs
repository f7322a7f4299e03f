//! Files that are deleted and still open: their room comes back when the last process lets go of them.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use vigie_proto::v1::{DeletedFile, DiskDeletedOpenRequest, DiskDeletedOpenResult};

use super::{Context, Fault, MIB, logs, shown, walk::allocated};
use crate::{
    host::mounts::{self, Table},
    operations::text,
};

/// What a person reads.
const SHOWN: usize = 50;

/// Tens of thousands of descriptors are looked at within a second.
const PATIENCE: Duration = Duration::from_secs(8);

/// All files, each once.
#[derive(Debug, Default)]
pub(super) struct Deleted {
    pub files: Vec<Held>,
    pub unreadable: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub pid: u32,
    pub process: String,
    pub fd: u32,
    pub path: PathBuf,
    pub bytes: u64,
    pub device: u64,
    pub unit: String,
    /// A container's id; empty in none.
    pub container: String,
    pub holders: u32,
}

/// Shows files that are deleted and still open.
pub(in crate::operations) async fn deleted_open(
    request: DiskDeletedOpenRequest,
    cx: &Context,
) -> Result<DiskDeletedOpenResult, Fault> {
    let table = super::table()?;
    let found = find(cx).await?;
    let over = u64::from(request.over_mib.max(1)) * MIB;
    let root = cx.host.docker().root();
    let place = root.join("containers");
    // Without them a container is told by its id.
    let owners = cx.host.mounts().ask(place, mounts::PATIENCE, move || logs::owners(&root)).await;
    let owners = owners.unwrap_or_default();
    let mut result =
        DiskDeletedOpenResult { unreadable: found.unreadable, ..DiskDeletedOpenResult::default() };
    for held in found.files {
        let Some(mount) = on_disk(&table, &held) else { continue };
        result.bytes += held.bytes;
        if held.bytes < over {
            continue;
        }
        result.total += 1;
        if result.files.len() >= SHOWN {
            continue;
        }
        let owner = owners.get(&held.container).cloned().unwrap_or_default();
        result.files.push(DeletedFile {
            pid: held.pid,
            process: text::text(&cx.host, &held.process),
            fd: held.fd,
            path: shown(cx, &held.path),
            bytes: held.bytes,
            mount_point: shown(cx, &mount),
            unit: held.unit,
            container: if owner.name.is_empty() { held.container } else { owner.name },
            stack: owner.stack,
            service: owner.service,
            holders: held.holders,
        });
    }
    Ok(result)
}

/// The filesystem whose room a file takes; `None` for one in memory.
pub(super) fn on_disk(table: &Table, held: &Held) -> Option<PathBuf> {
    table.of_device(held.device).filter(|mount| mount.kind() == "disk").map(|mount| mount.point().to_owned())
}

/// Every deleted file that a process holds, largest first.
pub(super) async fn find(cx: &Context) -> Result<Deleted, Fault> {
    let found = cx.host.mounts().ask(PathBuf::from("/proc"), PATIENCE, || look(Path::new("/proc"))).await;
    found.ok_or_else(|| {
        Fault::failed("timed_out", "the open files could not be read in time")
            .hint("a process may hang in a filesystem: `vigiectl probe disk_usage`")
    })
}

fn look(proc: &Path) -> Deleted {
    let mut found: HashMap<(u64, u64), Held> = HashMap::new();
    let mut unreadable = 0;
    // A host that is a container itself has that in every path.
    let first = fs::read_to_string(proc.join("1/cgroup")).unwrap_or_default();
    let itself = innermost(&first).map(str::to_owned);
    for process in fs::read_dir(proc).into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let folder = process.path();
        let descriptors = match fs::read_dir(folder.join("fd")) {
            Ok(descriptors) => descriptors,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                unreadable += 1;
                continue;
            }
            // It has ended.
            Err(_) => continue,
        };
        let mut who: Option<(String, String, String)> = None;
        for descriptor in descriptors.flatten() {
            let link = descriptor.path();
            let Ok(target) = fs::read_link(&link) else { continue };
            let Some(path) = target.to_str().and_then(|path| path.strip_suffix(" (deleted)")) else {
                continue;
            };
            // Files of nobody's disk: memfd, the segments of shared memory, asynchronous I/O.
            if !path.starts_with('/') || path.starts_with("/memfd:") || path.starts_with("/dev/") {
                continue;
            }
            // Asks the open file, not its name.
            let Ok(meta) = fs::metadata(&link) else { continue };
            if !meta.is_file() || meta.nlink() > 0 {
                continue;
            }
            if let Some(held) = found.get_mut(&(meta.dev(), meta.ino())) {
                held.holders += u32::from(held.pid != pid);
                continue;
            }
            let (process, unit, container) =
                who.get_or_insert_with(|| whose(&folder, itself.as_deref())).clone();
            found.insert(
                (meta.dev(), meta.ino()),
                Held {
                    pid,
                    process,
                    fd: descriptor.file_name().to_str().and_then(|fd| fd.parse().ok()).unwrap_or_default(),
                    path: PathBuf::from(path),
                    bytes: allocated(&meta),
                    device: meta.dev(),
                    unit,
                    container,
                    holders: 1,
                },
            );
        }
    }
    let mut files: Vec<Held> = found.into_values().collect();
    files.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.pid.cmp(&b.pid)));
    Deleted { files, unreadable }
}

/// A process's name, unit and container.
fn whose(folder: &Path, itself: Option<&str>) -> (String, String, String) {
    let process = fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
    let (unit, container) = placed(&fs::read_to_string(folder.join("cgroup")).unwrap_or_default(), itself);
    (process, unit, container)
}

/// The parts of all paths of a process's control groups.
fn parts(cgroups: &str) -> impl DoubleEndedIterator<Item = &str> {
    cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'))
}

/// The innermost container that control groups name. cgroupfs: `/docker/ID`; systemd: `/system.slice/docker-ID.scope`.
fn innermost(cgroups: &str) -> Option<&str> {
    let is_id = |text: &&str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts(cgroups)
        .map(|part| part.strip_prefix("docker-").and_then(|own| own.strip_suffix(".scope")).unwrap_or(part))
        .rfind(is_id)
}

/// The unit and the container that a process's control groups name, on a host that may be a container itself.
fn placed(cgroups: &str, itself: Option<&str>) -> (String, String) {
    let container = innermost(cgroups).filter(|id| Some(*id) != itself).unwrap_or_default().to_owned();
    let unit = if container.is_empty() {
        parts(cgroups).rfind(|part| part.ends_with(".service")).unwrap_or_default().to_owned()
    } else {
        String::new()
    };
    (unit, container)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn control_groups_name_units_and_containers() {
        let id = "3d215e8a21a2d785cfcdc8f9e91e3c32fb789a3f6bc7ef37f274ad5eaa662da7";
        let placed = |cgroups: &str| placed(cgroups, None);
        assert_eq!(placed("0::/system.slice/nginx.service\n"), ("nginx.service".to_owned(), String::new()));
        assert_eq!(
            placed(&format!("12:cpu:/docker/{id}\n0::/docker/{id}\n")),
            (String::new(), id.to_owned())
        );
        assert_eq!(placed(&format!("0::/system.slice/docker-{id}.scope\n")), (String::new(), id.to_owned()));
        let user = "0::/user.slice/user-0.slice/user@0.service/app.slice/x.service\n";
        assert_eq!(placed(user).0, "x.service");
        assert_eq!(placed("0::/\n"), (String::new(), String::new()));
    }

    #[test]
    fn a_host_that_is_a_container_itself_is_none_of_its_own() {
        let (host, inner) = ("a".repeat(64), "b".repeat(64));
        // As in a host of the test world, with cgroup v1.
        let nginx = format!("9:name=systemd:/docker/{host}/system.slice/nginx.service\n0::/\n");
        assert_eq!(placed(&nginx, Some(&host)), ("nginx.service".to_owned(), String::new()));
        let nested = format!("9:name=systemd:/docker/{host}/docker/{inner}\n0::/\n");
        assert_eq!(placed(&nested, Some(&host)), (String::new(), inner));
    }

    #[test]
    fn a_deleted_file_of_this_process_is_found_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("held");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(&vec![7; 3 << 20]).unwrap();
        file.sync_all().unwrap();
        let again = file.try_clone().unwrap();
        fs::remove_file(&path).unwrap();
        let own = |found: &Deleted| {
            found.files.iter().filter(|held| held.path == path).cloned().collect::<Vec<_>>()
        };
        let found = own(&look(Path::new("/proc")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].pid, found[0].holders), (std::process::id(), 1));
        assert!(found[0].bytes >= 3 << 20);
        drop((file, again));
        assert!(own(&look(Path::new("/proc"))).is_empty());
    }
}
