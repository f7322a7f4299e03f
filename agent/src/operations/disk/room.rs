//! How much room is enough. One judgement for probes, runbooks, and for the database that must not be started without.

use std::path::{Path, PathBuf};

use super::MIB;
use crate::{
    host::{
        Host,
        mounts::{Room, Table},
    },
    operations::Fault,
};

const GIB: u64 = 1024 * MIB;

/// A database needs this much to start: a segment of PostgreSQL's write-ahead log is 16 MiB, and it recovers into a few.
const DATABASE: u64 = 64 * MIB;

/// Fewer than this is none: a start makes some hundred files.
const INODES: u64 = 200;

/// How full a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Ok,
    NearlyFull,
    Full,
}

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NearlyFull => "nearly_full",
            Self::Full => "full",
        }
    }

    /// Full is what leaves services nothing: under 64 MiB, or under a hundredth where that is less than a gigabyte.
    /// Nearly full is beyond nine tenths with less than 20 GiB left, or full within a day. That forecast is believed beyond
    /// three quarters only: a backup or a deployment fills an emptier disk as fast, and ends. On a filesystem of a few
    /// megabytes only what is left of it counts.
    pub(super) fn of_bytes(room: &Room, full_in_s: u64) -> Self {
        let usable = room.total.saturating_sub(room.free) + room.available;
        let percent = room.used_percent();
        let small = DATABASE.min(usable / 20);
        if room.available <= small || (percent >= 100 && room.available < GIB) {
            Self::Full
        } else if (percent > 90 && room.available < 20 * GIB)
            || (percent > 75 && full_in_s > 0 && full_in_s < 24 * 3600)
        {
            Self::NearlyFull
        } else {
            Self::Ok
        }
    }

    pub(super) fn of_inodes(room: &Room) -> Self {
        if room.inodes == 0 {
            Self::Ok
        } else if room.inodes_free < INODES.min(room.inodes / 50 + 1) {
            Self::Full
        } else if room.inodes_percent() > 90 {
            Self::NearlyFull
        } else {
            Self::Ok
        }
    }
}

/// How much has to go until there is room again: a tenth of it, or 5 GiB where that is less.
pub(super) fn wanted(room: &Room) -> u64 {
    let usable = room.total.saturating_sub(room.free) + room.available;
    (usable / 10).min(5 * GIB).saturating_sub(room.available)
}

/// Whether something holds data that a start on a full disk can damage, by the name of its image or unit.
pub(in crate::operations) fn is_database(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "postgres",
        "postgis",
        "pgvector",
        "timescale",
        "mysql",
        "mariadb",
        "percona",
        "mongo",
        "redis",
        "valkey",
        "clickhouse",
        "elasticsearch",
    ];
    let name = name.to_lowercase();
    NAMES.iter().any(|own| name.contains(own))
}

/// Precondition of everything that starts a database: there is room where it writes. A filesystem that does not answer
/// is no room.
///
/// # Errors
/// `disk_full`, with the filesystem and what to do first.
pub(in crate::operations) async fn for_database(
    host: &Host,
    what: &str,
    places: &[PathBuf],
) -> Result<(), Fault> {
    let table = super::table()?;
    let mut seen: Vec<&str> = Vec::new();
    for place in places {
        let Some(mount) = table.of(place) else { continue };
        if seen.contains(&mount.device.as_str()) {
            continue;
        }
        seen.push(&mount.device);
        let point = mount.point().display();
        let room = host.mounts().room(mount).await;
        let wrong = match room {
            None => format!("{point} does not answer"),
            Some(_) if mount.read_only => format!("{point} is read-only"),
            Some(room) if Level::of_bytes(&room, 0) == Level::Full => {
                format!("{point} has {} MiB left", room.available / MIB)
            }
            Some(room) if Level::of_inodes(&room) == Level::Full => {
                format!("{point} has {} inodes left", room.inodes_free)
            }
            Some(_) => continue,
        };
        return Err(Fault::refused("disk_full", format!("{what} must not be started now: {wrong}"))
            .hint("make room first: `vigiectl diagnose disk-full`; a database that is started on a full disk can lose data"));
    }
    Ok(())
}

/// Where the containers of a stack's databases write.
pub(in crate::operations) fn of_volumes(
    host: &Host,
    volumes: impl IntoIterator<Item = String>,
) -> Vec<PathBuf> {
    let root = host.docker().root();
    let volumes = volumes.into_iter().map(|name| root.join("volumes").join(name).join("_data"));
    volumes.chain([root.clone(), root.join("containers")]).collect()
}

/// Where a database that is a unit of the host writes.
pub(in crate::operations) fn of_unit(unit: &str) -> Vec<PathBuf> {
    let name = unit.split(['@', '.']).next().unwrap_or(unit).trim_end_matches("-server");
    [Path::new("/var/lib").join(name), PathBuf::from("/var/lib")]
        .into_iter()
        .filter(|path| path.is_dir())
        .collect()
}

/// How much others than root may still take where this path lies; 0 when that cannot be told.
pub(super) async fn available(host: &Host, table: &Table, path: &Path) -> u64 {
    match table.of(path) {
        Some(mount) => host.mounts().room(mount).await.unwrap_or_default().available,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(total: u64, available: u64) -> Room {
        Room { total, free: available, available, ..Room::default() }
    }

    #[test]
    fn full_is_what_leaves_services_nothing() {
        let level = |total, available| Level::of_bytes(&room(total, available), 0).word();
        assert_eq!(level(80 * GIB, 30 * MIB), "full");
        assert_eq!(level(80 * GIB, 500 * MIB), "full");
        assert_eq!(level(80 * GIB, 7 * GIB), "nearly_full");
        assert_eq!(level(80 * GIB, 9 * GIB), "ok");
        // A hundredth of a large disk is plenty, and a small one may be small.
        assert_eq!(level(4096 * GIB, 30 * GIB), "ok");
        assert_eq!(level(100 * MIB, 50 * MIB), "ok");
        assert_eq!(level(100 * MIB, MIB), "full");
        assert_eq!(Level::of_bytes(&room(80 * GIB, 16 * GIB), 3600), Level::NearlyFull);
        // A backup that is being written is no trouble on a disk that is half empty.
        assert_eq!(Level::of_bytes(&room(80 * GIB, 40 * GIB), 3600), Level::Ok);
    }

    #[test]
    fn inodes_run_out_too() {
        let level = |total, free| {
            Level::of_inodes(&Room { inodes: total, inodes_free: free, ..Room::default() }).word()
        };
        assert_eq!(
            (level(0, 0), level(1_000_000, 12), level(1_000_000, 50_000)),
            ("ok", "full", "nearly_full")
        );
        assert_eq!(level(1_000_000, 500_000), "ok");
    }

    #[test]
    fn a_tenth_or_five_gigabytes_are_wanted() {
        assert_eq!(wanted(&room(1000, 0)), 100);
        assert_eq!(wanted(&room(1000, 400)), 0);
        assert_eq!(wanted(&room(1000 * GIB, GIB)), 4 * GIB);
    }

    #[test]
    fn databases_by_name() {
        for name in [
            "sylion-postgres:15",
            "docker.io/pgvector/pgvector:pg16",
            "redis:7",
            "postgresql@15-main.service",
        ] {
            assert!(is_database(name), "{name}");
        }
        for name in ["sylion-backend", "nginx.service", "grafana/grafana"] {
            assert!(!is_database(name), "{name}");
        }
        assert_eq!(of_unit("absent@15-main.service"), [PathBuf::from("/var/lib")]);
    }
}
