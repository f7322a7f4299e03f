//! Whom the kernel killed for want of memory, from its own log.
//!
//! `dmesg` reads it where `/dev/kmsg` is closed, too. Several hosts that share a kernel share its log: what belongs to
//! a control group of somebody else is left out.

use procfs::Current as _;
use tokio::time::Instant;
use vigie_proto::v1::OomKill;

use super::{super::Fault, owners::Owners, unreadable};
use crate::host::child::Child;

/// The kernel's ring is a few hundred kilobytes on the largest machines.
const LOG_BYTES: usize = 4 * 1024 * 1024;

/// More kills than these tell the same.
const KILLS: usize = 20;

/// The newest kills first; `None` where the log cannot be read.
pub(super) async fn kills(owners: &Owners, deadline: Instant) -> Result<Option<Vec<OomKill>>, Fault> {
    let Ok(child) = Child::new("dmesg") else { return Ok(None) };
    let Ok(exit) = child.keep(LOG_BYTES).run(deadline).await else { return Ok(None) };
    if !exit.success() {
        return Ok(None);
    }
    let uptime = procfs::Uptime::current().map_err(unreadable)?.uptime;
    let booted_ms = crate::host::clock::now().timestamp_millis() - (uptime * 1000.0) as i64;
    let mut found: Vec<OomKill> =
        exit.stdout.lines().iter().filter_map(|line| parse(line, booted_ms, owners)).collect();
    found.reverse();
    found.truncate(KILLS);
    Ok(Some(found))
}

/// `[ 1234.567890] oom-kill:constraint=CONSTRAINT_MEMCG,…,task_memcg=/docker/…,task=python3,pid=5,uid=0`
fn parse(line: &str, booted_ms: i64, owners: &Owners) -> Option<OomKill> {
    let (stamp, said) = line.strip_prefix('[')?.split_once(']')?;
    let seconds: f64 = stamp.trim().parse().ok()?;
    let fields = said.trim_start().strip_prefix("oom-kill:")?;
    let of = |name: &str| fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    let group = of("task_memcg")?;
    if !owners.is_own(group) {
        return None;
    }
    let owner = owners.judge(&format!("0::{group}"));
    let named = |kind: &str| if owner.kind == kind { owner.name.clone() } else { String::new() };
    Some(OomKill {
        at_ms: booted_ms + (seconds * 1000.0) as i64,
        pid: of("pid")?.parse().ok()?,
        process: of("task")?.to_owned(),
        container: named("container"),
        unit: named("unit"),
        limited: of("constraint")? != "CONSTRAINT_NONE",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_of_somebody_else_are_not_told() {
        // Captured from Linux 6.18.
        let line = "[ 2251.318] oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=5daf,mems_allowed=0,\
                    oom_memcg=/docker/5daf4518bd85b048c4a91eab7d06b1c7ba2a22c299735262da5b01435c301fa6,\
                    task_memcg=/docker/5daf4518bd85b048c4a91eab7d06b1c7ba2a22c299735262da5b01435c301fa6,\
                    task=python3,pid=20190,uid=0";
        assert!(parse(line, 0, &Owners::default()).is_none(), "no engine here knows that container");
        assert!(parse("[ 2251.318] eth0: link up", 0, &Owners::default()).is_none());
    }
}
