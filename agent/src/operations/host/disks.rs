//! How busy the disks are, and with whose requests.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use vigie_proto::v1::{DiskIoRequest, DiskIoResult, DiskUse, DiskUser};

use super::{
    super::{Context, Fault},
    interval,
    owners::{Owner, Owners},
    sample,
};

/// What `/proc/diskstats` counts in.
const SECTOR: u64 = 512;

/// Users below this many bytes a second are not worth a line.
const LEAST: f64 = 4096.0;

/// Lines of users and disks.
const LINES: usize = 30;

/// Measures every whole disk, and who uses them.
pub(in super::super) async fn io(request: DiskIoRequest, cx: &Context) -> Result<DiskIoResult, Fault> {
    let interval = interval(request.interval_ms, Duration::from_secs(2), cx);
    let (before, begun) = (counters()?, Instant::now());
    let (owners, usage) = tokio::join!(Owners::look(cx), sample::measure(interval));
    let (after, elapsed) = (counters()?, begun.elapsed());
    let mounts = mounts();
    let mut disks: Vec<DiskUse> = after
        .iter()
        .filter(|(device, _)| is_disk(device))
        .map(|(device, now)| {
            let then = before.get(device).copied().unwrap_or(*now);
            now.since(&then, elapsed, device, mounts_of(device, &mounts))
        })
        // A disk without a place here that nobody uses is nobody's.
        .filter(|disk| !disk.mounts.is_empty() || disk.reads_per_s + disk.writes_per_s > 0.0)
        .collect();
    disks.sort_by(|a, b| b.utilisation_percent.total_cmp(&a.utilisation_percent));
    disks.truncate(LINES);
    let mut by_owner: BTreeMap<Owner, (DiskUser, f64)> = BTreeMap::new();
    for ((pid, _), used) in &usage.processes {
        let moved = used.read_per_s + used.write_per_s;
        if used.seen.kernel || (moved < LEAST && used.blocked == 0.0) {
            continue;
        }
        let (user, most) = by_owner.entry(owners.of(*pid)).or_default();
        user.read_bytes_per_s += used.read_per_s.round();
        user.write_bytes_per_s += used.write_per_s.round();
        user.blocked += used.blocked;
        if moved >= *most {
            *most = moved;
            user.busiest.clone_from(&used.seen.name);
        }
    }
    let mut users: Vec<DiskUser> = by_owner
        .into_iter()
        .map(|(owner, (user, _))| DiskUser {
            kind: owner.kind.to_owned(),
            name: owner.name,
            stack: owner.stack,
            service: owner.service,
            blocked: super::hundredth(user.blocked),
            ..user
        })
        .collect();
    let moved = |user: &DiskUser| user.read_bytes_per_s + user.write_bytes_per_s;
    users.sort_by(|a, b| moved(b).total_cmp(&moved(a)));
    users.truncate(LINES);
    let busiest = disks.iter().find(|disk| !disk.mounts.is_empty()).cloned().unwrap_or_default();
    let all = busiest.read_bytes_per_s + busiest.write_bytes_per_s;
    let own = usage.read_per_s + usage.write_per_s;
    Ok(DiskIoResult {
        interval_ms: u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX),
        disks,
        users,
        own_read_bytes_per_s: usage.read_per_s.round(),
        own_write_bytes_per_s: usage.write_per_s.round(),
        whole_machine: sample::whole_machine(),
        utilisation_percent: busiest.utilisation_percent,
        await_ms: busiest.await_ms,
        busiest_disk: busiest.device,
        blocked: super::hundredth(usage.blocked),
        own_share_percent: if all > 0.0 { super::hundredth((own * 100.0 / all).min(100.0)) } else { 0.0 },
    })
}

/// A device's line of `/proc/diskstats`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counters {
    reads: u64,
    sectors_read: u64,
    writes: u64,
    sectors_written: u64,
    /// Milliseconds that requests took, summed; that the device was busy; and weighted by what waited.
    request_ms: u64,
    busy_ms: u64,
    weighted_ms: u64,
}

impl Counters {
    fn since(&self, then: &Self, elapsed: Duration, device: &str, mounts: Vec<String>) -> DiskUse {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        let requests = self.reads.saturating_sub(then.reads) + self.writes.saturating_sub(then.writes);
        let waited = self.request_ms.saturating_sub(then.request_ms) as f64;
        DiskUse {
            device: device.to_owned(),
            reads_per_s: super::hundredth(rate(self.reads, then.reads)),
            writes_per_s: super::hundredth(rate(self.writes, then.writes)),
            read_bytes_per_s: (rate(self.sectors_read, then.sectors_read) * SECTOR as f64).round(),
            write_bytes_per_s: (rate(self.sectors_written, then.sectors_written) * SECTOR as f64).round(),
            await_ms: if requests == 0 { 0.0 } else { super::hundredth(waited / requests as f64) },
            utilisation_percent: super::hundredth((rate(self.busy_ms, then.busy_ms) / 10.0).min(100.0)),
            queue: super::hundredth(rate(self.weighted_ms, then.weighted_ms) / 1000.0),
            mounts,
        }
    }
}

fn counters() -> Result<HashMap<String, Counters>, Fault> {
    let text = fs::read_to_string("/proc/diskstats").map_err(|error| {
        Fault::failed("proc_unreadable", format!("/proc/diskstats cannot be read: {error}"))
    })?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `254 0 vda reads merged sectors ms writes merged sectors ms in_flight busy weighted …`
fn parse(line: &str) -> Option<(String, Counters)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let counters = Counters {
        reads: number(3)?,
        sectors_read: number(5)?,
        request_ms: number(6)? + number(10)?,
        writes: number(7)?,
        sectors_written: number(9)?,
        busy_ms: number(12)?,
        weighted_ms: number(13)?,
    };
    Some(((*fields.get(2)?).to_owned(), counters))
}

/// A disk, not one of its partitions; memory is none.
fn is_disk(device: &str) -> bool {
    !device.starts_with("ram")
        && !device.starts_with("zram")
        && (Path::new("/sys/block").join(device).exists() || !Path::new("/sys/block").exists())
}

/// Devices of `/dev` with the places where they are mounted.
fn mounts() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, place) = (fields.next()?, fields.next()?);
            if !device.starts_with("/dev/") {
                return None;
            }
            // A name such as /dev/mapper/data leads to the device; where it leads nowhere, its own end is the device.
            let real = fs::canonicalize(device).unwrap_or_else(|_| device.into());
            Some((real.file_name()?.to_str()?.to_owned(), place.replace("\\040", " ")))
        })
        .collect()
}

/// Where a disk, its partitions, or what is built upon them are mounted.
fn mounts_of(disk: &str, mounts: &[(String, String)]) -> Vec<String> {
    let holders = |device: &str| -> Vec<String> {
        let folder = Path::new("/sys/class/block").join(device).join("holders");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut devices = BTreeSet::from([disk.to_owned()]);
    let parts = fs::read_dir(Path::new("/sys/block").join(disk)).into_iter().flatten().flatten();
    let parts = parts.filter_map(|entry| entry.file_name().into_string().ok());
    devices.extend(parts.filter(|name| name.starts_with(disk)));
    // Volumes upon encryption upon a partition: three steps are as far as anyone builds.
    for _ in 0..3 {
        let above: Vec<String> = devices.iter().flat_map(|device| holders(device)).collect();
        devices.extend(above);
    }
    let mut found: Vec<String> = mounts
        .iter()
        .filter(|(device, _)| devices.contains(device))
        .map(|(_, place)| place.clone())
        .collect();
    found.sort_by_key(|place| (place.len(), place.clone()));
    found.dedup();
    found.truncate(8);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_diskstats() {
        let then = " 254       0 vda 281266 18002 15856386 507739 216682 326466 121090496 628279 0 74032 1166614 139973";
        let now = " 254       0 vda 281366 18002 15856586 507839 216782 326466 121290496 629179 3 75932 1169614 139973";
        let ((_, then), (device, now)) = (parse(then).unwrap(), parse(now).unwrap());
        let found = now.since(&then, Duration::from_secs(2), &device, Vec::new());
        assert_eq!((found.device.as_str(), found.reads_per_s, found.writes_per_s), ("vda", 50.0, 50.0));
        assert_eq!((found.await_ms, found.utilisation_percent, found.queue), (5.0, 95.0, 1.5));
        assert_eq!(found.write_bytes_per_s, 51_200_000.0);
        assert!(parse("").is_none());
    }

    #[test]
    fn memory_is_no_disk() {
        assert!(!is_disk("ram0") && !is_disk("zram0"));
    }
}
