//! What changed here, from everything that keeps a record of it: the agent's own memory, the engine, the package
//! manager, the boot, the journal of orders.

use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use chrono::TimeZone as _;
use tokio::time::timeout;
use vigie_proto::v1::{Change, HostChangesRequest, HostChangesResult};

use super::{
    super::{Context, Fault, text},
    processes::{booted_ms, started_at_ms},
};
use crate::host::{docker::EngineError, journal};

/// A day, when the request does not say.
const SINCE_S: u32 = 86_400;
const COUNT: u32 = 100;

/// The package manager's log, and the one before it.
const DPKG: [&str; 2] = ["/var/log/dpkg.log.1", "/var/log/dpkg.log"];

/// A log larger than this is read from its end.
const LONGEST: u64 = 4 * 1024 * 1024;

/// How long the present may be looked at before only the past is told: a diagnosis asks this beside its verdict.
const LOOK: Duration = Duration::from_secs(2);

/// Packages of one run that are named each; of more, the first ones.
const NAMED: usize = 5;

/// What the package manager did within so many milliseconds is one run.
const ONE_RUN_MS: i64 = 120_000;

/// Tells what changed, newest first.
pub(in super::super) async fn list(
    request: HostChangesRequest,
    cx: &Context,
) -> Result<HostChangesResult, Fault> {
    let seconds = if request.since_s == 0 { SINCE_S } else { request.since_s };
    let since_ms = crate::host::clock::now().timestamp_millis() - i64::from(seconds) * 1000;
    let stack = match request.stack.as_str() {
        "" => String::new(),
        name => cx.host.stacks().resolve(name).await?.name.clone(),
    };
    let mut unread = Vec::new();
    // What changed a moment ago is seen as well; what the agent saw before is told even while the engine hangs.
    match timeout(LOOK, cx.host.changes().look(&cx.host)).await {
        Ok(Ok(()) | Err(EngineError::Absent(_))) => {}
        Ok(Err(error)) => unread.push(error.chain()),
        Err(_) => unread.push("files and containers as they are now: looking took too long".to_owned()),
    }
    let (mut changes, watched_since_ms) = cx.host.changes().since(since_ms).await;
    // Containers of the time before this was watched.
    for created in cx.host.changes().created().await {
        let told = changes
            .iter()
            .any(|change| change.what == created.what && (change.at_ms - created.at_ms).abs() < 2000);
        if created.at_ms >= since_ms && !told {
            changes.push(created);
        }
    }
    changes.extend(reboot(since_ms)?);
    let logs = move || {
        let logs: Vec<String> = DPKG.iter().filter_map(|path| tail(Path::new(path), since_ms)).collect();
        packages(&logs.concat(), since_ms)
    };
    match tokio::task::spawn_blocking(logs).await {
        Ok(found) => changes.extend(found),
        Err(_) => unread.push("the package manager's log".to_owned()),
    }
    if let Some(folder) = cx.host.journal().map(Path::to_owned) {
        match tokio::task::spawn_blocking(move || journal::actions(&folder, since_ms)).await {
            Ok(Ok(actions)) => changes.extend(actions.into_iter().map(|action| Change {
                at_ms: action.at_ms,
                kind: "action".to_owned(),
                what: action.operation.to_owned(),
                says: if action.outcome.is_empty() {
                    "its end is not known".to_owned()
                } else {
                    action.outcome
                },
                stack: action.stack,
                person: action.person,
                ..Change::default()
            })),
            Ok(Err(error)) => unread.push(format!("the journal of orders: {error}")),
            Err(_) => unread.push("the journal of orders".to_owned()),
        }
    }
    if !stack.is_empty() {
        changes.retain(|change| change.stack.is_empty() || change.stack == stack);
    }
    changes.sort_by(|a, b| b.at_ms.cmp(&a.at_ms).then_with(|| a.what.cmp(&b.what)));
    let count = if request.count == 0 { COUNT } else { request.count } as usize;
    let truncated = changes.len() > count;
    changes.truncate(count);
    for change in &mut changes {
        change.what = text::text_up_to(&cx.host, &change.what, 512);
        change.says = text::text_up_to(&cx.host, &change.says, 1024);
    }
    Ok(HostChangesResult {
        changes,
        truncated,
        since_ms,
        watched_since_ms,
        unread: text::lines(&cx.host, &unread),
    })
}

/// The boot, which is the first process's start: a host that is a container boots without its kernel.
fn reboot(since_ms: i64) -> Result<Option<Change>, Fault> {
    let first = procfs::process::Process::new(1).and_then(|process| process.stat());
    let at_ms = started_at_ms(booted_ms()?, first.map_err(super::unreadable)?.starttime);
    Ok((at_ms >= since_ms).then(|| Change {
        at_ms,
        kind: "reboot".to_owned(),
        what: "boot".to_owned(),
        says: "the machine started".to_owned(),
        ..Change::default()
    }))
}

/// A log's end; nothing of one that was not written to since a moment.
fn tail(path: &Path, since_ms: i64) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let data = file.metadata().ok()?;
    if data.mtime().saturating_mul(1000) < since_ms {
        return None;
    }
    file.seek(SeekFrom::Start(data.len().saturating_sub(LONGEST))).ok()?;
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `2026-11-25 02:40:00 upgrade nginx:amd64 1.22.1-9 1.22.1-9+deb12u1`, in the machine's own zone.
fn packages(log: &str, since_ms: i64) -> Vec<Change> {
    let mut runs: Vec<(i64, i64, &'static str, Vec<String>)> = Vec::new();
    for line in log.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [day, time, verb, package, before, after, ..] = fields.as_slice() else { continue };
        let verb = match *verb {
            // Configured again, and the same.
            "upgrade" if before == after => continue,
            "install" => "installed",
            "upgrade" => "upgraded",
            "remove" | "purge" => "removed",
            _ => continue,
        };
        let Ok(at) = chrono::NaiveDateTime::parse_from_str(&format!("{day} {time}"), "%Y-%m-%d %H:%M:%S")
        else {
            continue;
        };
        // An hour that occurs twice is its first one.
        let Some(at_ms) = chrono::Local.from_local_datetime(&at).earliest().map(|at| at.timestamp_millis())
        else {
            continue;
        };
        if at_ms < since_ms {
            continue;
        }
        let name = package.split(':').next().unwrap_or(package);
        let said = match verb {
            "upgraded" => format!("{name} {after} (was {before})"),
            "installed" => format!("{name} {after}"),
            _ => name.to_owned(),
        };
        match runs.iter_mut().rev().find(|run| run.2 == verb && at_ms - run.1 <= ONE_RUN_MS) {
            Some(run) => {
                run.1 = at_ms;
                if !run.3.contains(&said) {
                    run.3.push(said);
                }
            }
            None => runs.push((at_ms, at_ms, verb, vec![said])),
        }
    }
    runs.into_iter()
        .map(|(_, at_ms, verb, packages)| {
            let more = packages.len().saturating_sub(NAMED);
            let mut says = format!("{verb} {}", packages[..packages.len().min(NAMED)].join(", "));
            if more > 0 {
                says = format!("{says} and {more} more");
            }
            Change {
                at_ms,
                kind: "package".to_owned(),
                what: match packages.as_slice() {
                    [only] => only.split(' ').next().unwrap_or_default().to_owned(),
                    all => format!("{} packages", all.len()),
                },
                says,
                ..Change::default()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_one_run_are_told_together() {
        let log = "2026-11-25 02:40:00 startup archives unpack\n\
                   2026-11-25 02:40:00 upgrade nginx:amd64 1.22.1-9 1.22.1-9+deb12u1\n\
                   2026-11-25 02:40:01 status half-configured nginx:amd64 1.22.1-9\n\
                   2026-11-25 02:40:05 upgrade nginx-common:all 1.22.1-9 1.22.1-9+deb12u1\n\
                   2026-11-25 03:10:00 install jq:amd64 <none> 1.6-2.1\n\
                   2026-11-25 03:20:00 remove jq:amd64 1.6-2.1 <none>\n";
        let found = packages(log, 0);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0].what, "2 packages");
        assert!(found[0].says.starts_with("upgraded nginx 1.22.1-9+deb12u1 (was 1.22.1-9), nginx-common"));
        assert_eq!((found[1].what.as_str(), found[1].says.as_str()), ("jq", "installed jq 1.6-2.1"));
        assert_eq!(found[2].says, "removed jq");
        assert!(packages(log, i64::MAX).is_empty());
    }

    #[test]
    fn only_the_end_of_a_log_that_grew_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dpkg.log");
        let line = "2026-11-25 03:10:00 install jq:amd64 <none> 1.6-2.1\n";
        fs::write(&path, "x".repeat(usize::try_from(LONGEST).unwrap()) + "\n" + line).unwrap();
        let read = tail(&path, 0).unwrap();
        assert!(read.ends_with(line) && read.len() as u64 == LONGEST);
        assert_eq!(tail(&path, i64::MAX), None);
        assert_eq!(tail(&folder.path().join("none"), 0), None);
    }

    #[test]
    fn this_machine_started_once() {
        assert!(reboot(0).unwrap().unwrap().at_ms > 0);
        assert_eq!(reboot(i64::MAX).unwrap(), None);
    }
}
