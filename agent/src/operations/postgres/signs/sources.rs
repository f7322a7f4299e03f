//! Where a server's log is read: its container's output and the file that its collector writes into the volume; for a
//! server of this machine its files under /var/log and what its units wrote to the journal.

use std::path::{Path, PathBuf};

use super::line::clock_of;
use crate::{
    host::{
        careful,
        child::Child,
        postgres::{Server, ServerContainer},
        stacks::compose::cannot_run,
    },
    operations::{Context, Fault, sockets},
};

/// What of a log is read at most.
const BYTES: usize = 2 * 1024 * 1024;

/// Where packages put logs: Debian's, then those of the distributions that keep them with the data.
const FOLDERS: [&str; 4] = [
    "/var/log/postgresql",
    "/var/lib/pgsql/data/log",
    "/var/lib/pgsql/data/pg_log",
    "/var/lib/postgres/data/log",
];

/// Zones are off by whole quarters of an hour.
const QUARTER_MS: i64 = 15 * 60 * 1000;
/// How far a file's time may be from its last line's for the rest to be a zone.
const NEAR_MS: i64 = 60 * 1000;

/// A line, and when it was written; 0 where nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub at: i64,
    pub text: String,
}

impl Written {
    /// A line that came at `at`, by whoever carried it. The line's own clock is nearer where its zone is known.
    pub(super) fn of(at: i64, text: &str) -> Self {
        let own = clock_of(text).filter(|(_, universal)| *universal).map(|(own, _)| own);
        Self { at: own.unwrap_or(at), text: text.to_owned() }
    }
}

/// What was read, the oldest line of each source first.
pub(super) struct Log {
    pub lines: Vec<Written>,
    /// container, file, both, journal.
    pub source: &'static str,
    pub truncated: bool,
}

/// The log of a server in a container.
pub(super) async fn of_container(
    container: &ServerContainer,
    wanted: u32,
    cx: &Context,
) -> Result<Log, Fault> {
    let (tail, error) = cx.host.docker().stamped_logs(&container.id, wanted, 0, BYTES, cx.deadline).await;
    if let Some(error) = error {
        return Err(error.into());
    }
    let count = usize::try_from(wanted).unwrap_or(usize::MAX);
    let mut log = Log {
        truncated: tail.truncated || tail.lines.len() >= count,
        lines: tail.lines.iter().map(|line| stamped(line)).collect(),
        source: "container",
    };
    if let Some((folder, below)) = collected_in(container)
        && let Some((lines, cut)) = file(&folder, &below, count)
    {
        log.source = if log.lines.is_empty() { "file" } else { "both" };
        log.truncated |= cut;
        log.lines.extend(lines);
    }
    Ok(log)
}

/// The volume, and the folder in it into which the server's own collector writes.
fn collected_in(container: &ServerContainer) -> Option<(PathBuf, PathBuf)> {
    let folder = container.configured("log_directory").unwrap_or_else(|| "log".to_owned());
    // Outside of the data it is no folder of the volume's.
    (!folder.starts_with('/'))
        .then(|| Some((container.data_source.clone()?, container.data_below.join(folder))))
        .flatten()
}

/// `2026-11-25T02:12:55.123456789Z text`
fn stamped(line: &str) -> Written {
    let (stamp, text) = line.split_once(' ').unwrap_or((line, ""));
    match chrono::DateTime::parse_from_rfc3339(stamp) {
        Ok(at) => Written::of(at.timestamp_millis(), text),
        Err(_) => Written::of(0, line),
    }
}

/// The log of a server outside of the stack, when it is this machine's.
///
/// # Errors
/// When it is another machine's, or nothing here may be read: what its log says is then not known, and not nothing.
pub(super) async fn of_host(server: &Server, wanted: u32, cx: &Context) -> Result<Log, Fault> {
    let first = server.logins.iter().find(|login| !login.host.is_empty());
    if !sockets::is_here(first.map_or("", |login| login.host.as_str())).await {
        return Err(Fault::refused(
            "postgres_log_absent",
            "PostgreSQL is another machine's, and so is its log",
        )
        .hint("read it there: what it says of corruption decides whether a backup has to be restored"));
    }
    let count = usize::try_from(wanted).unwrap_or(usize::MAX);
    let (mut lines, mut truncated) = (Vec::new(), false);
    for folder in FOLDERS.map(Path::new) {
        let Ok(Some(newest)) = careful::newest(folder, Path::new(""), ".log") else { continue };
        if let Some((found, cut)) = file(folder, &newest, count) {
            lines.extend(found);
            truncated |= cut;
        }
    }
    let in_files = !lines.is_empty();
    lines.extend(journal(wanted, cx).await?);
    if lines.is_empty() {
        return Err(Fault::refused("postgres_log_absent", "no log of PostgreSQL can be read on this host")
            .hint(format!(
                "it was looked for in {} and in the journal of postgresql*.service",
                FOLDERS.join(", ")
            )));
    }
    let source = if in_files { "file" } else { "journal" };
    Ok(Log { lines, source, truncated })
}

/// What the units of PostgreSQL wrote; nothing without systemd.
async fn journal(wanted: u32, cx: &Context) -> Result<Vec<Written>, Fault> {
    let Ok(child) = Child::new("journalctl") else { return Ok(Vec::new()) };
    let count = wanted.to_string();
    let args =
        ["--no-pager", "--quiet", "--output=short-unix", "--lines", &count, "--unit", "postgresql*.service"];
    let exit = child.args(args).keep(BYTES).run(cx.deadline).await.map_err(cannot_run)?;
    let lines = exit.stdout.lines();
    Ok(lines.iter().filter_map(|line| journalled(line)).collect())
}

/// `1795576643.655432 vps1 postgres[15]: text`
fn journalled(line: &str) -> Option<Written> {
    let (stamp, rest) = line.split_once(' ')?;
    let (seconds, micros) = stamp.split_once('.')?;
    let at = seconds.parse::<i64>().ok()? * 1000 + micros.parse::<i64>().ok()? / 1000;
    // What systemd says of the unit is none of the server's lines.
    let (who, text) = rest.split_once(": ")?;
    who.contains("postgres").then(|| Written::of(at, text))
}

/// The end of a file, and whether there is more of it.
fn file(folder: &Path, below: &Path, count: usize) -> Option<(Vec<Written>, bool)> {
    let path = if below.extension().is_some_and(|ending| ending == "log") {
        below.to_owned()
    } else {
        careful::newest(folder, below, ".log").ok()??
    };
    let end = careful::read_end(folder, &path, BYTES as u64).ok()?;
    let all: Vec<&str> = end.text.lines().collect();
    let zone = zone_of(&all, end.modified_ms);
    let kept = &all[all.len().saturating_sub(count)..];
    let of = |line: &&str| Written::of(at_of(line, zone), line);
    Some((kept.iter().map(of).collect(), end.cut || all.len() > count))
}

fn at_of(line: &str, zone: Option<i64>) -> i64 {
    clock_of(line).zip(zone).map_or(0, |((clock, _), zone)| clock - zone)
}

/// How far the clock of a file's lines is off from universal time: its last line was written when the file was. `None`
/// where the two differ by what is no zone.
fn zone_of(lines: &[&str], modified_ms: i64) -> Option<i64> {
    let (clock, _) = lines.iter().rev().find_map(|line| clock_of(line))?;
    let off = clock - modified_ms;
    let zone = (off + QUARTER_MS / 2).div_euclid(QUARTER_MS) * QUARTER_MS;
    ((off - zone).abs() <= NEAR_MS && zone.abs() <= 14 * 4 * QUARTER_MS).then_some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_zone_is_told_by_when_it_was_written() {
        let lines =
            ["2026-11-25 04:17:23.655 CET [1] LOG:  a", "2026-11-25 04:17:24.655 CET [1] LOG:  b", "\tc"];
        let written = 1_795_576_644_700;
        assert_eq!(zone_of(&lines, written), Some(3_600_000));
        assert_eq!(at_of(lines[0], Some(3_600_000)), 1_795_576_643_655);
        assert_eq!(zone_of(&lines, written + 400_000), None, "touched since, and nobody knows when");
        assert_eq!(zone_of(&["no time"], written), None);
    }

    #[test]
    fn stamps_of_engine_and_journal() {
        let line = stamped("2026-11-25T03:17:23.655123456Z 2026-11-25 04:17:23.655 CET [1] LOG:  a");
        assert_eq!(
            (line.at, line.text.as_str()),
            (1_795_576_643_655, "2026-11-25 04:17:23.655 CET [1] LOG:  a")
        );
        assert_eq!(stamped("no stamp").text, "no stamp");
        let line = journalled("1795576643.655432 vps1 postgres[15]: LOG:  a").unwrap();
        assert_eq!((line.at, line.text.as_str()), (1_795_576_643_655, "LOG:  a"));
        assert_eq!(journalled("1795576643.655432 vps1 systemd[1]: Started PostgreSQL."), None);
    }

    #[test]
    fn the_collectors_file_is_read_where_the_configuration_says() {
        let volume = tempfile::tempdir().unwrap();
        let data = volume.path().join("pgdata");
        std::fs::create_dir_all(data.join("logs")).unwrap();
        std::fs::write(data.join("postgresql.conf"), "log_directory = 'logs' # here\n").unwrap();
        std::fs::write(data.join("logs/a.log"), "LOG:  one\nLOG:  two\n").unwrap();
        let mut container = ServerContainer {
            data_source: Some(volume.path().to_owned()),
            data_below: "pgdata".into(),
            ..ServerContainer::default()
        };
        let (folder, below) = collected_in(&container).unwrap();
        let (lines, cut) = file(&folder, &below, 1).unwrap();
        assert!(cut && lines.len() == 1 && lines[0].text == "LOG:  two");
        // A container may put a link in the place of its log.
        std::fs::remove_dir_all(data.join("logs")).unwrap();
        std::os::unix::fs::symlink("/var/log", data.join("logs")).unwrap();
        assert!(file(&folder, &below, 1).is_none());
        std::fs::write(data.join("postgresql.conf"), "log_directory = '/var/log'\n").unwrap();
        assert!(collected_in(&container).is_none());
        container.data_source = None;
        assert!(collected_in(&container).is_none());
    }
}
