//! What the host runs by the clock, and what of it is heavy and runs now.

pub(super) mod cron;
pub(super) mod stop;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vigie_proto::v1::{HeavyJob, HostJobsRequest, HostJobsResult, Job};

use super::{
    super::{Context, Fault, text},
    owners::{Owner, Owners},
    processes::{age_s, booted_ms, command, started_at_ms},
    sample::{self, Key, Seen},
};
use crate::host::child::Child;
use cron::Entry;

/// Notes of what is put off, beside the transient units that put it back. Gone with a boot, as those are.
pub(super) const NOTES: &str = "/run/vigie/deferred";

/// More jobs than any host runs by hand.
const JOBS: usize = 300;
const RUNNING: usize = 50;

/// What `job_defer` writes down of a job that it put off.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    pub job: String,
    pub until_ms: i64,
    /// The unit that a timer starts; the entry's command, for cron.
    pub starts: String,
}

/// Lists jobs, and what of them is heavy and runs.
pub(in super::super) async fn list(_: HostJobsRequest, cx: &Context) -> Result<HostJobsResult, Fault> {
    let (timers, owners) = tokio::join!(timers(cx.deadline), Owners::look(cx));
    let entries = cron::entries();
    let notes = notes();
    let timers_known = timers.is_some();
    let timers = timers.unwrap_or_default();
    let booted = booted_ms()?;
    let all = tokio::task::spawn_blocking(|| sample::all(false)).await.unwrap_or_default();
    let cron_runs = all.values().any(|seen| matches!(seen.name.as_str(), "cron" | "crond" | "fcron"));

    let starts: HashMap<&str, &str> =
        timers.iter().map(|timer| (timer.unit.as_str(), timer.name.as_str())).collect();
    let mut running = Vec::new();
    for (key, seen) in &all {
        if seen.kernel {
            continue;
        }
        let Some(kind) = heavy(&words(key.0)) else { continue };
        let owner = owners.of(key.0);
        let started = started_at_ms(booted, key.1);
        running.push(HeavyJob {
            kind: kind.to_owned(),
            pid: key.0,
            started_at_ms: started,
            command: command(&cx.host, key.0),
            job: started_by(*key, &owner, &all, &starts, &entries),
            owner: owner.name,
            owner_kind: owner.kind.to_owned(),
            age_s: age_s(started),
            nice: i32::try_from(seen.nice).unwrap_or_default(),
        });
    }
    running.sort_by_key(|job| (job.started_at_ms, job.pid));
    running.truncate(RUNNING);

    let now = crate::host::clock::now().with_timezone(&chrono::Local);
    let mut jobs: Vec<Job> = timers
        .iter()
        .filter(|timer| !timer.name.starts_with(super::defer::PREFIX))
        .map(|timer| Job {
            kind: "timer".to_owned(),
            name: timer.name.clone(),
            unit: timer.unit.clone(),
            next_ms: timer.next_ms,
            last_ms: timer.last_ms,
            running: all.keys().any(|key| owners_unit(&owners, key.0, &timer.unit)),
            ..Job::default()
        })
        .collect();
    jobs.extend(entries.iter().map(|entry| Job {
        kind: "cron".to_owned(),
        name: entry.name(),
        schedule: entry.schedule.clone(),
        user: entry.user.clone(),
        command: text::text_up_to(&cx.host, &entry.command, 256),
        next_ms: entry.next(now).map_or(0, |next| next.timestamp_millis()),
        running: all.keys().any(|key| runs(key.0, entry)),
        ..Job::default()
    }));
    for note in notes {
        let deferred = |job: &mut Job| {
            (job.deferred, job.deferred_until_ms, job.next_ms) = (true, note.until_ms, note.until_ms);
        };
        match jobs.iter_mut().find(|job| job.name == note.job) {
            Some(job) => deferred(job),
            // Whoever is put off is not always listed: a stopped timer may be unloaded, an entry is hidden.
            None => {
                let timer = cron::split(&note.job).is_none();
                let mut job = Job { name: note.job.clone(), ..Job::default() };
                if timer {
                    (job.kind, job.unit) = ("timer".to_owned(), note.starts.clone());
                } else {
                    job.kind = "cron".to_owned();
                    job.command = text::text_up_to(&cx.host, &note.starts, 256);
                }
                deferred(&mut job);
                jobs.push(job);
            }
        }
    }
    jobs.sort_by_key(|job| (job.next_ms == 0, job.next_ms, job.name.clone()));
    let truncated = jobs.len() > JOBS;
    jobs.truncate(JOBS);
    Ok(HostJobsResult { jobs, running, timers_known, cron_runs, truncated })
}

/// One job as it stands, for the action that puts it off.
pub(super) async fn one(name: &str, cx: &Context) -> Result<Option<Job>, Fault> {
    Ok(list(HostJobsRequest {}, cx).await?.jobs.into_iter().find(|job| job.name == name))
}

/// What is put off at this moment.
pub(super) fn notes() -> Vec<Note> {
    let entries = fs::read_dir(NOTES).into_iter().flatten().flatten();
    entries.filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()).collect()
}

/// A timer as systemd lists it.
#[derive(Debug, Default, PartialEq)]
struct Timer {
    name: String,
    unit: String,
    next_ms: i64,
    last_ms: i64,
}

/// Every timer; `None` without systemd.
async fn timers(deadline: Instant) -> Option<Vec<Timer>> {
    // In UTC, since the listing names the zone by letters that no program can read. The width keeps names whole.
    let child = Child::new("systemctl").ok()?.env("TZ", "UTC").env("COLUMNS", "500").keep(1024 * 1024);
    let exit = child
        .args(["list-timers", "--all", "--no-legend", "--no-pager", "--full"])
        .run(deadline)
        .await
        .ok()?;
    exit.success().then(|| exit.stdout.lines().iter().filter_map(|line| parse_timer(line)).collect())
}

/// `Wed 2026-11-25 03:10:00 UTC 7min left Wed 2026-11-25 03:00:00 UTC 2min ago backup.timer backup.service`
fn parse_timer(line: &str) -> Option<Timer> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let at = words.iter().rposition(|word| word.ends_with(".timer"))?;
    // A weekday stands before each date, and the zone after it.
    let dates: Vec<(usize, i64)> = words
        .windows(4)
        .enumerate()
        .filter_map(|(at, date)| {
            let [_, day, time, "UTC"] = date else { return None };
            let text = format!("{day} {time}");
            let parsed = chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f").ok()?;
            Some((at, parsed.and_utc().timestamp_millis()))
        })
        .collect();
    // A timer without a next run begins with a dash.
    let next = dates.iter().find(|(at, _)| *at == 0);
    let last = dates.iter().find(|(at, _)| *at > 0);
    Some(Timer {
        name: (*words.get(at)?).to_owned(),
        unit: words.get(at + 1).filter(|word| word.contains('.')).copied().unwrap_or_default().to_owned(),
        next_ms: next.map_or(0, |(_, ms)| *ms),
        last_ms: last.map_or(0, |(_, ms)| *ms),
    })
}

fn owners_unit(owners: &Owners, pid: u32, unit: &str) -> bool {
    !unit.is_empty() && owners.of(pid).name == unit
}

/// A process's command line in words.
fn words(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    raw.split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// Whether a process is the shell that runs a cron entry.
fn runs(pid: u32, entry: &Entry) -> bool {
    let words = words(pid);
    words.len() >= 3 && words[1].strip_prefix('-') == Some("c") && words[2].trim() == entry.command
}

/// What started a process: the timer of its unit, or the cron entry above it.
fn started_by(
    key: Key,
    owner: &Owner,
    all: &HashMap<Key, Seen>,
    timers: &HashMap<&str, &str>,
    entries: &[Entry],
) -> String {
    if let Some(timer) = timers.get(owner.name.as_str()).filter(|_| owner.kind == "unit") {
        return (*timer).to_owned();
    }
    let parents: BTreeMap<u32, u32> = all.iter().map(|((pid, _), seen)| (*pid, seen.parent)).collect();
    let mut pid = key.0;
    // A tree of processes is never so deep, unless it changes while it is climbed.
    for _ in 0..16 {
        if let Some(entry) = entries.iter().find(|entry| runs(pid, entry)) {
            return entry.name();
        }
        match parents.get(&pid) {
            Some(0) | None => break,
            Some(parent) => pid = *parent,
        }
    }
    String::new()
}

/// Programs that run another file, whose name then says what they do.
const INTERPRETERS: &str = "ash bash dash ksh sh zsh python3 perl php node";

/// Which kind of heavy work a command line is, if it is any.
fn heavy(words: &[String]) -> Option<&'static str> {
    let name = |word: &str| Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned());
    let first = name(words.first()?)?;
    let interpreted = INTERPRETERS.split(' ').any(|known| known == first);
    let script = interpreted.then(|| words.iter().skip(1).find(|word| !word.starts_with('-'))).flatten();
    if script.and_then(|script| name(script)).is_some_and(|name| name.contains("backup")) {
        return Some("backup");
    }
    match first.as_str() {
        "pg_dump" | "pg_dumpall" | "pg_basebackup" | "mysqldump" | "mariadb-dump" | "mongodump" => {
            Some("dump")
        }
        "borg" | "restic" | "duplicity" | "rdiff-backup" | "rsnapshot" | "bacula-fd" => Some("backup"),
        "apt" | "apt-get" | "dpkg" | "unattended-upgrade" | "unattended-upgr" | "dnf" | "yum" => {
            Some("packages")
        }
        "updatedb" | "updatedb.mlocate" | "updatedb.plocate" | "find" | "mandb" => Some("search"),
        "rsync" | "rclone" | "scp" | "cp" | "dd" => Some("copy"),
        "tar" | "gzip" | "pigz" | "zstd" | "xz" | "bzip2" => Some("compress"),
        "vacuumdb" | "reindexdb" => Some("vacuum"),
        "fstrim" | "e2scrub" | "fsck" | "clamscan" | "rkhunter" | "aide" => Some("scan"),
        name if name.contains("backup") => Some("backup"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captured_timers() {
        // Captured from systemd 252 with TZ=UTC.
        let both = "Wed 2026-11-25 03:10:00 UTC 7min left      Wed 2026-11-25 03:00:04 UTC 2min 33s ago \
                    sysstat-collect.timer        sysstat-collect.service";
        let found = parse_timer(both).unwrap();
        assert_eq!(
            (found.name.as_str(), found.unit.as_str()),
            ("sysstat-collect.timer", "sysstat-collect.service")
        );
        assert_eq!(found.next_ms - found.last_ms, 596_000);
        let never = "-                           -            -                           -    \
                     apt-daily.timer              apt-daily.service";
        assert_eq!(parse_timer(never).unwrap().next_ms, 0);
        let past = "n/a n/a Wed 2026-11-25 03:00:04 UTC 2min ago fstrim.timer fstrim.service";
        let past = parse_timer(past).unwrap();
        assert!(past.next_ms == 0 && past.last_ms > 0);
        assert!(parse_timer("9 timers listed.").is_none());
    }

    #[test]
    fn heavy_work_is_known_by_its_program() {
        let kind = |line: &str| heavy(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(kind("/usr/lib/postgresql/15/bin/pg_dump -U sylion_user sylion_prod"), Some("dump"));
        assert_eq!(kind("bash /srv/sylion/scripts/backup_postgres.sh"), Some("backup"));
        assert_eq!(kind("/usr/bin/find / -name core"), Some("search"));
        assert_eq!(kind("python3 -u server.py"), None);
        assert_eq!(kind("postgres: checkpointer"), None);
        assert_eq!(heavy(&[]), None);
    }
}
