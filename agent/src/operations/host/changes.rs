//! What changed here, from everything that keeps a record of it: the agent's own memory, the engine, the package
//! manager, the boot, the journal of orders.

use std::fs;

use chrono::TimeZone as _;
use vigie_proto::v1::{Change, HostChangesRequest, HostChangesResult};

use super::{
    super::{Context, Fault, text},
    processes::{booted_ms, started_at_ms},
    sample,
};
use crate::host::{docker::container, journal};

/// A day, when the request does not say.
const SINCE_S: u32 = 86_400;
const COUNT: u32 = 100;

/// The package manager's log, and the one before it.
const DPKG: [&str; 2] = ["/var/log/dpkg.log.1", "/var/log/dpkg.log"];

/// A log larger than this is read from its end.
const LONGEST: usize = 4 * 1024 * 1024;

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
    let since_ms = chrono::Utc::now().timestamp_millis() - i64::from(seconds) * 1000;
    let stack = match request.stack.as_str() {
        "" => String::new(),
        name => cx.host.stacks().resolve(name).await?.name.clone(),
    };
    // What changed a moment ago is seen as well.
    cx.host.changes().look(&cx.host).await;
    let (mut changes, watched_since_ms) = cx.host.changes().since(since_ms).await;
    let mut unread = Vec::new();
    match cx.host.docker().containers(None).await {
        Ok(all) => {
            // Containers of the time before this was watched.
            for found in &all {
                let created = found.created.unwrap_or_default().saturating_mul(1000);
                let own = container(found);
                let told = changes
                    .iter()
                    .any(|change| change.what == own.name && (change.at_ms - created).abs() < 2000);
                if created >= since_ms && !told {
                    changes.push(Change {
                        at_ms: created,
                        kind: "deployment".to_owned(),
                        says: format!("created from {}", own.image),
                        after: found.image_id.clone().unwrap_or_default(),
                        what: own.name,
                        stack: own.stack,
                        service: own.service,
                        ..Change::default()
                    });
                }
            }
        }
        Err(crate::host::docker::EngineError::Absent(_)) => {}
        Err(error) => unread.push(error.chain()),
    }
    changes.extend(reboot(since_ms)?);
    let logs: Vec<String> = DPKG.iter().filter_map(|path| tail(path)).collect();
    changes.extend(packages(&logs.concat(), since_ms));
    if let Some(folder) = cx.host.journal().map(std::path::Path::to_owned) {
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
    let first = sample::all(false).into_keys().find(|(pid, _)| *pid == 1);
    let at_ms = first.map_or(Ok(0), |(_, ticks)| booted_ms().map(|booted| started_at_ms(booted, ticks)))?;
    Ok((at_ms >= since_ms).then(|| Change {
        at_ms,
        kind: "reboot".to_owned(),
        what: "boot".to_owned(),
        says: "the machine started".to_owned(),
        ..Change::default()
    }))
}

fn tail(path: &str) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let from = bytes.len().saturating_sub(LONGEST);
    Some(String::from_utf8_lossy(&bytes[from..]).into_owned())
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
}
