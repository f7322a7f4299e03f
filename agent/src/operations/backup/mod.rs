//! Backups of a stack's PostgreSQL: dumps in a folder, made by the stack's own script or by `pg_dump`.
//!
//! What a file is worth is found by reading it, once, and by restoring it beside, when an operator orders that. Nothing
//! here deletes a whole dump but `backup_prune`, and a restore leaves the replaced database in the server.

mod create;
pub(super) mod folder;
pub(super) mod ledger;
mod prune;
mod rebuild;
mod restore;
pub(super) mod scan;
mod services;
mod set_aside;
pub(super) mod tools;
mod verify;

use std::time::Duration;

use tokio::time::Instant;
use vigie_proto::v1::{BackupListRequest, BackupListResult};

use super::{Context, Fault};
use folder::{Dump, Folder, age_s, room};

pub(super) use create::create;
pub(super) use prune::{preview as prune_preview, prune};
pub(super) use rebuild::{preview as rebuild_preview, rebuild};
pub(super) use restore::{preview as restore_preview, restore};
pub(super) use verify::verify;

/// How many of the newest are read when the request does not say.
const TEST: u32 = 3;

/// More backups than these are counted and not listed.
const LISTED: usize = 100;

/// Reading is given up so long before the deadline, so that the answer with what there is still gets away.
const SPARE: Duration = Duration::from_secs(2);

/// Lists a stack's backups.
pub(super) async fn list(request: BackupListRequest, cx: &Context) -> Result<BackupListResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let jobs = folder.jobs();
    let off_site_at_ms = folder.off_site.as_deref().map_or(0, modified_at_ms);
    let mut result = BackupListResult {
        stack: stack.name.clone(),
        directory: folder.path.to_string_lossy().into_owned(),
        running: !jobs.is_empty(),
        jobs,
        off_site_configured: folder.off_site.is_some(),
        off_site_at_ms,
        off_site_age_s: if off_site_at_ms == 0 { 0 } else { age_s(off_site_at_ms) },
        script: folder
            .script
            .as_deref()
            .map(|script| script.to_string_lossy().into_owned())
            .unwrap_or_default(),
        ..BackupListResult::default()
    };
    if let Ok((free, all)) = room(&folder.path) {
        (result.free_bytes, result.filesystem_bytes) = (free, all);
    }
    let Some(mut dumps) = folder.dumps().map_err(|error| folder.unreadable(&error))? else {
        return Ok(result);
    };
    let test = if request.test == 0 { TEST } else { request.test };
    let newest = dumps.len().min(test as usize);
    let deadline = cx.deadline.checked_sub(SPARE).unwrap_or(cx.deadline).max(Instant::now());
    folder.read(&mut dumps[..newest], deadline).await?;
    summarize(&mut result, &dumps);
    Ok(result)
}

fn summarize(result: &mut BackupListResult, dumps: &[Dump]) {
    let count = |what: fn(&Dump) -> bool| {
        u32::try_from(dumps.iter().filter(|dump| what(dump)).count()).unwrap_or(u32::MAX)
    };
    result.present = true;
    result.count = count(|_| true);
    result.usable_count = count(Dump::is_usable);
    result.verified_count = count(Dump::is_verified);
    result.total_bytes = dumps.iter().map(|dump| dump.identity.size).sum();
    result.broken = dumps.iter().filter(|dump| dump.is_broken()).map(|dump| dump.name.clone()).collect();
    if let Some(newest) = dumps.first() {
        result.newest.clone_from(&newest.name);
        result.newest_age_s = newest.age_s();
        newest.integrity().clone_into(&mut result.newest_integrity);
    }
    if let Some(usable) = dumps.iter().find(|dump| dump.is_usable()) {
        result.newest_usable.clone_from(&usable.name);
        result.newest_usable_age_s = usable.age_s();
    }
    if let Some(verified) = dumps.iter().find(|dump| dump.is_verified()) {
        result.newest_verified.clone_from(&verified.name);
        result.newest_verified_age_s = verified.age_s();
    }
    result.backups = dumps.iter().take(LISTED).map(Dump::shown).collect();
    result.truncated = dumps.len() > LISTED;
}

/// When a file was last written; 0 for one that is not there.
fn modified_at_ms(path: &std::path::Path) -> i64 {
    std::fs::metadata(path).map(|meta| folder::identity(&meta).modified_ns / 1_000_000).unwrap_or_default()
}
