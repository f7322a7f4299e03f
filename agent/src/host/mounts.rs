//! The filesystems of this host: where they are mounted, and how much room they have.
//!
//! A mount may hang (a network filesystem whose server is gone) and nothing can end a call that waits for it. So every
//! question goes to a thread of its own, which is left behind when it does not answer, and a mount is not asked again
//! while an earlier question is still out: the next one waits its turn, as long as it has patience. Owns that list of
//! questions, and what was seen of each filesystem's growth.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use procfs::process::{MountInfo, MountInfos};
use tokio::time::Instant;

/// A local filesystem answers within microseconds, one that is being written to death within a second.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How often a question looks whether its turn has come: a filesystem that is well answers sooner than that.
const TURN: Duration = Duration::from_millis(5);

/// Growth is told from two looks at least this far apart: less is noise.
const WATCHED: Duration = Duration::from_secs(600);

/// A look is kept when the one before it is this old, for a day.
const EVERY: Duration = Duration::from_secs(60);
const LOOKS: usize = 24 * 60;

/// One filesystem, however often it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number for it, `254:0`.
    pub device: String,
    pub source: String,
    pub fs_type: String,
    /// The one that stands for it first; never empty.
    pub points: Vec<PathBuf>,
    pub read_only: bool,
    /// The kernel made it read-only after an error.
    pub read_only_by_error: bool,
}

/// How much room a filesystem has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    pub total: u64,
    pub free: u64,
    /// What others than root may take.
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    /// Tells the filesystem from another one that takes its place on the same device; 0 where it has no number.
    pub id: u64,
}

impl Room {
    /// As `df` counts it: of what is used and what may be used, rounded up.
    pub fn used_percent(&self) -> u32 {
        let used = self.total.saturating_sub(self.free);
        percent(used, used + self.available)
    }

    /// 0 where inodes are made as they are needed.
    pub fn inodes_percent(&self) -> u32 {
        percent(self.inodes.saturating_sub(self.inodes_free), self.inodes)
    }
}

fn percent(part: u64, whole: u64) -> u32 {
    if whole == 0 {
        return 0;
    }
    u32::try_from((u128::from(part) * 100).div_ceil(u128::from(whole))).unwrap_or(100)
}

/// How fast a filesystem fills.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    pub bytes_per_hour: i64,
    /// 0 when it does not grow.
    pub full_in_s: u64,
}

/// All mounts at one moment.
#[derive(Debug, Default)]
pub struct Table {
    pub mounts: Vec<Mount>,
    /// By mount point, the newest mount on it: its filesystem.
    points: BTreeMap<PathBuf, String>,
    /// By device: the folder on whose filesystem an overlay keeps what is written into it.
    overlays: HashMap<String, PathBuf>,
}

/// Filesystems of the kernel's own, which hold no files of anybody's.
const NONE: [&str; 21] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "devtmpfs",
    "mqueue",
    "hugetlbfs",
    "fusectl",
    "nsfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "pstore",
    "bpf",
    "configfs",
    "autofs",
    "binfmt_misc",
    "rpc_pipefs",
    "efivarfs",
    "fuse.lxcfs",
];

impl Table {
    /// The mounts of process 1: the agent's own may lie elsewhere.
    ///
    /// # Errors
    /// When the kernel's list cannot be read.
    pub fn read() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/1/mountinfo")
            .or_else(|_| std::fs::read_to_string("/proc/self/mountinfo"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        use procfs::FromRead as _;
        // A line that is not understood is none of a filesystem that holds files.
        let all: Vec<MountInfo> = text
            .lines()
            .filter_map(|line| MountInfos::from_read(line.as_bytes()).ok())
            .flat_map(|infos| infos.0)
            .collect();
        let mut table = Self::default();
        let mut groups: BTreeMap<String, Vec<&MountInfo>> = BTreeMap::new();
        for info in &all {
            if NONE.contains(&info.fs_type.as_str()) {
                continue;
            }
            let root = info.mount_point == Path::new("/");
            if info.fs_type == "overlay" && !root {
                // A container's own: its files lie beside the mount point.
                if let Some(beside) = info.mount_point.parent() {
                    table.overlays.insert(info.majmin.clone(), beside.to_owned());
                }
                continue;
            }
            table.points.insert(info.mount_point.clone(), info.majmin.clone());
            groups.entry(info.majmin.clone()).or_default().push(info);
        }
        for (device, mut infos) in groups {
            // What another mount covers is not reachable at that point.
            infos.retain(|info| table.points.get(&info.mount_point) == Some(&device));
            let single = |info: &MountInfo| info.mount_point.components().count();
            // The whole tree before a part of it; a file that is mounted over another is a part.
            infos.sort_by_key(|info| {
                (info.root != "/", is_file(info), single(info), info.mount_point.clone())
            });
            let Some(first) = infos.first() else { continue };
            let superblock = |name: &str| first.super_options.contains_key(name);
            let mounted_ro = infos.iter().all(|info| info.mount_options.contains_key("ro"));
            let refused = superblock("ro") || superblock("emergency_ro") || superblock("shutdown");
            table.mounts.push(Mount {
                device,
                source: first.mount_source.clone().unwrap_or_default(),
                fs_type: first.fs_type.clone(),
                points: infos.iter().map(|info| info.mount_point.clone()).collect(),
                read_only: mounted_ro || refused,
                read_only_by_error: refused && !mounted_ro,
            });
        }
        table
    }

    /// The filesystem that a path lies on, by its mount point. Asks nobody.
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let device = path.ancestors().find_map(|folder| self.points.get(folder))?;
        self.mounts.iter().find(|mount| mount.device == *device)
    }

    /// The filesystem of a device number, as files tell it; an overlay's is the one that it writes to.
    pub fn of_device(&self, device: u64) -> Option<&Mount> {
        let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        if let Some(mount) = self.mounts.iter().find(|mount| mount.device == number) {
            return Some(mount);
        }
        self.of(self.overlays.get(&number)?)
    }
}

/// Docker mounts single files into containers, and a host that is one sees them. The name tells as much as a look at
/// the file, which could hang.
fn is_file(info: &MountInfo) -> bool {
    ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].iter().any(|file| info.mount_point == Path::new(file))
}

impl Mount {
    /// Where it is mounted, for people.
    pub fn point(&self) -> &Path {
        self.points.first().map_or(Path::new("/"), PathBuf::as_path)
    }

    /// disk, memory, image or network.
    pub fn kind(&self) -> &'static str {
        match self.fs_type.as_str() {
            "tmpfs" | "ramfs" => "memory",
            "squashfs" | "iso9660" | "erofs" | "cramfs" | "romfs" | "udf" => "image",
            "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "ceph" | "glusterfs" | "lustre" | "afs" => "network",
            "fuse.sshfs" | "fuse.s3fs" | "fuse.rclone" | "fuse.glusterfs" | "fuse.gcsfuse" => "network",
            _ => "disk",
        }
    }
}

/// When a filesystem was looked at, and how much of it was used then.
type Looks = VecDeque<(Instant, u64)>;

/// Asks filesystems.
#[derive(Debug, Default)]
pub struct Mounts {
    /// Mount points that were asked and have not answered yet.
    asked: Arc<Mutex<HashSet<PathBuf>>>,
    /// By device and filesystem: when, and how much was used.
    looks: Mutex<HashMap<(String, u64), Looks>>,
}

impl Mounts {
    /// How much room there is; `None` when the filesystem does not answer in time, or refuses to say.
    pub async fn room(&self, mount: &Mount) -> Option<Room> {
        let point = mount.point().to_owned();
        let found = self.ask(point.clone(), PATIENCE, move || rustix::fs::statvfs(&point)).await?.ok()?;
        Some(Room {
            total: found.f_blocks * found.f_frsize,
            free: found.f_bfree * found.f_frsize,
            available: found.f_bavail * found.f_frsize,
            inodes: found.f_files,
            inodes_free: found.f_ffree,
            id: found.f_fsid,
        })
    }

    /// Asks a filesystem something in a thread that is left behind when it takes longer than this. `None` then, and
    /// when an earlier question to the same place is out for as long: two that ask at once are both answered.
    pub async fn ask<T: Send + 'static>(
        &self,
        place: PathBuf,
        patience: Duration,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let until = Instant::now() + patience;
        let out = self.turn(place, until).await?;
        let (answer, answered) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("filesystem".to_owned())
            .spawn(move || {
                let found = question();
                drop(out);
                // Nobody waits any more when it took too long.
                let _ = answer.send(found);
            })
            .ok()?;
        tokio::time::timeout_at(until, answered).await.ok()?.ok()
    }

    /// Waits until nobody else asks this place.
    async fn turn(&self, place: PathBuf, until: Instant) -> Option<Out> {
        loop {
            if let Some(out) = Out::new(&self.asked, place.clone()) {
                return Some(out);
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(TURN.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Notes how much is used now, and tells how fast that has grown.
    pub fn growth(&self, mount: &Mount, room: &Room, now: Instant) -> Option<Growth> {
        let used = room.total.saturating_sub(room.free);
        let mut all = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = all.entry((mount.device.clone(), room.id)).or_default();
        if looks.back().is_none_or(|(at, _)| now.duration_since(*at) >= EVERY) {
            looks.push_back((now, used));
        }
        while looks.len() > LOOKS {
            looks.pop_front();
        }
        let (since, before) = *looks.front()?;
        let watched = now.duration_since(since);
        if watched < WATCHED {
            return None;
        }
        let grown = i128::from(used) - i128::from(before);
        let per_hour = grown * 3600 / i128::from(watched.as_secs().max(1));
        let full_in = if per_hour > 0 { i128::from(room.available) * 3600 / per_hour } else { 0 };
        Some(Growth {
            bytes_per_hour: i64::try_from(per_hour).unwrap_or(i64::MAX),
            full_in_s: u64::try_from(full_in).unwrap_or(0),
        })
    }
}

/// A question that is out; gone when it is answered.
struct Out {
    asked: Arc<Mutex<HashSet<PathBuf>>>,
    place: PathBuf,
}

impl Out {
    fn new(asked: &Arc<Mutex<HashSet<PathBuf>>>, place: PathBuf) -> Option<Self> {
        let fresh = asked.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
        fresh.then(|| Self { asked: Arc::clone(asked), place })
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Composed in the kernel's format: a host of the test world with a small disk under Docker's volumes, a snap, and a
    /// disk that the kernel gave up.
    const SMALL_DISK: &str = "\
782 649 0:175 / / rw,nodev,noatime master:126 - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0,group_id=0\n\
783 782 0:177 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
789 782 0:182 / /run rw,nosuid,nodev,relatime - tmpfs tmpfs rw,mode=755\n\
792 782 254:0 /var/lib/docker/containers/3d/hosts /etc/hosts rw,relatime - ext4 /dev/vda rw,discard\n\
805 782 254:0 /var/lib/docker/volumes/w/_data /var/lib/docker rw,relatime master:1 - ext4 /dev/vda rw,discard\n\
685 805 0:186 / /var/lib/docker/overlay2/3f41/merged rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b\n\
820 782 7:3 / /mnt/disk rw,relatime - ext4 /dev/loop3 rw\n\
821 805 7:3 /var/lib/docker/volumes /var/lib/docker/volumes rw,relatime - ext4 /dev/loop3 rw\n\
830 782 7:9 / /snap/core/1 ro,nodev,relatime - squashfs /dev/loop9 ro\n\
831 782 8:16 / /data rw,relatime - ext4 /dev/sdb ro,errors=remount-ro\n";

    #[test]
    fn mounts_of_a_small_disk() {
        let table = Table::parse(SMALL_DISK);
        let at = |path: &str| {
            table.of(Path::new(path)).map(|mount| mount.point().to_str().unwrap()).unwrap_or("none")
        };
        assert_eq!(at("/srv/sylion/backups"), "/");
        assert_eq!(at("/var/lib/docker/containers/x"), "/var/lib/docker");
        assert_eq!(at("/var/lib/docker/volumes/pg/_data"), "/mnt/disk");
        assert_eq!(
            table.of(Path::new("/data/x")).map(|m| (m.read_only, m.read_only_by_error)),
            Some((true, true))
        );
        let snap = table.of(Path::new("/snap/core/1/bin")).unwrap();
        assert_eq!((snap.kind(), snap.read_only, snap.read_only_by_error), ("image", true, false));
        assert_eq!(table.mounts.iter().filter(|mount| mount.fs_type == "overlay").count(), 0);
        let inside = table.of_device(rustix::fs::makedev(0, 186)).unwrap();
        assert_eq!(inside.point(), Path::new("/var/lib/docker"));
    }

    #[test]
    fn percentages_are_those_of_df() {
        // 0.001 % used is 1 %, and what root keeps for itself is not there for others.
        let room = Room { total: 1000, free: 50, available: 0, inodes: 10, inodes_free: 10, id: 1 };
        assert_eq!((room.used_percent(), room.inodes_percent()), (100, 0));
        let room = Room { total: 100_000, free: 99_999, available: 99_999, ..Room::default() };
        assert_eq!((room.used_percent(), room.inodes_percent()), (1, 0));
    }

    #[test]
    fn growth_needs_time_to_be_told() {
        let mounts = Mounts::default();
        let mount = Table::parse(SMALL_DISK).mounts.remove(0);
        let room = |used: u64| Room {
            total: 10_000,
            free: 10_000 - used,
            available: 10_000 - used,
            ..Room::default()
        };
        let begun = Instant::now();
        assert_eq!(mounts.growth(&mount, &room(1000), begun), None);
        let grown = mounts.growth(&mount, &room(4000), begun + Duration::from_secs(1800)).unwrap();
        assert_eq!(grown, Growth { bytes_per_hour: 6000, full_in_s: 3600 });
        // Another filesystem on the same device has not grown by what that one held.
        let anew = Room { id: 7, ..room(9000) };
        assert_eq!(mounts.growth(&mount, &anew, begun + Duration::from_secs(1800)), None);
    }

    #[tokio::test]
    async fn two_that_ask_at_once_are_both_answered() {
        let mounts = Mounts::default();
        let place = PathBuf::from("/busy");
        let slow = |answer: u32| {
            move || {
                std::thread::sleep(Duration::from_millis(60));
                answer
            }
        };
        let asked =
            futures_util::future::join_all((0..3).map(|n| mounts.ask(place.clone(), PATIENCE, slow(n))));
        assert_eq!(asked.await, [Some(0), Some(1), Some(2)]);
    }

    #[tokio::test]
    async fn what_hangs_is_left_and_not_asked_again() {
        let mounts = Mounts::default();
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let place = PathBuf::from("/hung");
        let short = Duration::from_millis(50);
        assert_eq!(mounts.ask(place.clone(), short, move || held.recv().is_ok()).await, None);
        let asked_again = Arc::new(Mutex::new(false));
        let seen = Arc::clone(&asked_again);
        assert_eq!(mounts.ask(place.clone(), short, move || *seen.lock().unwrap() = true).await, None);
        assert!(!*asked_again.lock().unwrap());
        drop(let_go);
        // It answers at last, and may be asked again.
        tokio::time::timeout(Duration::from_secs(10), async {
            while mounts.ask(place.clone(), PATIENCE, || ()).await.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}
