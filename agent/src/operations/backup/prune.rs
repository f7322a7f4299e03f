//! Deleting old backups. A backup may go when enough *verified* ones are newer, or when it is known to be no whole dump
//! and a verified one stays.

use std::{collections::BTreeSet, fs};

use vigie_proto::v1::{
    BackupPrunePreviewRequest, BackupPrunePreviewResult, BackupPruneRequest, BackupPruneResult, result,
};

use super::folder::{Dump, Folder, room};
use crate::operations::{Context, Fault};

/// How many verified ones stay when the request does not say: the runbook's week.
const KEEP: u32 = 7;

/// Lists what pruning would delete.
pub(in crate::operations) async fn preview(
    request: BackupPrunePreviewRequest,
    cx: &Context,
) -> Result<BackupPrunePreviewResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let mut dumps = folder.dumps().map_err(|error| folder.unreadable(&error))?.unwrap_or_default();
    folder.read(&mut dumps, cx.deadline).await?;
    let keep = if request.keep == 0 { KEEP } else { request.keep };
    let plan = plan(&dumps, keep as usize);
    Ok(BackupPrunePreviewResult {
        stack: stack.name.clone(),
        directory: folder.path.to_string_lossy().into_owned(),
        remove_bytes: plan.remove.iter().map(|dump| dump.identity.size).sum(),
        remove: plan.remove.iter().map(|dump| dump.shown()).collect(),
        kept: plan.kept.iter().map(|dump| dump.name.clone()).collect(),
        verified_count: u32::try_from(dumps.iter().filter(|dump| dump.is_verified()).count())
            .unwrap_or(u32::MAX),
        reason: plan.reason,
    })
}

struct Plan<'a> {
    remove: Vec<&'a Dump>,
    kept: Vec<&'a Dump>,
    reason: String,
}

/// What goes and what stays; the dumps are the newest first.
fn plan(dumps: &[Dump], keep: usize) -> Plan<'_> {
    let verified = dumps.iter().filter(|dump| dump.is_verified()).count();
    let mut newer = 0;
    let (mut remove, mut kept) = (Vec::new(), Vec::new());
    for dump in dumps {
        // The newest of all stays whatever it is: it may be being looked into.
        let newest = std::ptr::eq(dump, &raw const dumps[0]);
        let broken = dump.is_broken() && verified > 0 && !newest;
        if newer >= keep || broken {
            remove.push(dump);
        } else {
            kept.push(dump);
        }
        newer += usize::from(dump.is_verified());
    }
    let reason = if verified < keep {
        format!(
            "{verified} of {} backups were verified by a restore test, and {keep} verified ones are to stay: verify more with `vigiectl do backup_verify --backup NAME`, or keep fewer",
            dumps.len()
        )
    } else if remove.is_empty() {
        "there is nothing beyond those that are to stay".to_owned()
    } else {
        String::new()
    };
    Plan { remove, kept, reason }
}

/// Deletes what its preview listed and what still is as it was.
pub(in crate::operations) async fn prune(
    request: BackupPruneRequest,
    cx: &Context,
) -> Result<BackupPruneResult, Fault> {
    let Some(result::Operation::BackupPrunePreview(prepared)) = &cx.prepared else {
        return Err(Fault::refused("not_prepared", "nothing says which files were shown to the operator")
            .hint("order it again: `vigiectl do backup_prune` shows them first"));
    };
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let again = BackupPrunePreviewRequest { stack: request.stack.clone(), keep: request.keep };
    // What would not be deleted by now is not deleted, whoever signed for it: a verified one may have gone since.
    let now = preview(again, cx).await?;
    let allowed: BTreeSet<_> =
        now.remove.iter().map(|own| (&own.name, own.inode, own.size_bytes, own.modified_at_ms)).collect();
    let (before, _) = room(&folder.path).map_err(|error| folder.unreadable(&error))?;
    let mut pruned = BackupPruneResult {
        stack: stack.name.clone(),
        directory: folder.path.to_string_lossy().into_owned(),
        free_before_bytes: before,
        ..BackupPruneResult::default()
    };
    let mut failed = None;
    for signed in &prepared.remove {
        if !allowed.contains(&(&signed.name, signed.inode, signed.size_bytes, signed.modified_at_ms)) {
            pruned.left.push(signed.name.clone());
            continue;
        }
        match fs::remove_file(folder.path.join(&signed.name)) {
            Ok(()) => {
                pruned.removed.push(signed.name.clone());
                pruned.removed_bytes += signed.size_bytes;
            }
            Err(error) => {
                failed = Some(format!("{} cannot be deleted: {error}", signed.name));
                break;
            }
        }
    }
    pruned.free_after_bytes = room(&folder.path).map_or(before, |(free, _)| free);
    match failed {
        None => Ok(pruned),
        Some(message) => {
            Err(Fault::failed("file_unwritable", message).partial(result::Operation::BackupPrune(pruned)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ledger::Identity, scan::Scan},
        *,
    };

    /// `v` verified, `u` usable, `b` broken, `?` not read; the newest first.
    fn dumps(kinds: &str) -> Vec<Dump> {
        kinds
            .chars()
            .enumerate()
            .map(|(at, kind)| Dump {
                name: format!("{at}{kind}"),
                path: format!("/b/{at}").into(),
                identity: Identity { inode: at as u64, size: 10, modified_ns: 0 },
                scan: match kind {
                    '?' => None,
                    'b' => Some(Scan { integrity: "truncated".to_owned(), ..Scan::default() }),
                    _ => Some(Scan { integrity: "ok".to_owned(), ..Scan::default() }),
                },
                verified_at_ms: i64::from(kind == 'v'),
                restore_ms: 0,
            })
            .collect()
    }

    fn removed(kinds: &str, keep: usize) -> String {
        plan(&dumps(kinds), keep).remove.iter().map(|dump| dump.name.clone()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_what_is_older_than_enough_verified_ones_goes() {
        assert_eq!(removed("vvvv", 2), "2v 3v");
        assert_eq!(removed("uvuvu?", 2), "4u 5?");
        assert_eq!(removed("uuuuuuuuu", 1), "", "nothing is verified, so that everything stays");
        assert_eq!(removed("vu", 7), "");
        assert!(plan(&dumps("vu"), 7).reason.contains("backup_verify"));
        assert_eq!(removed("", 1), "");
    }

    #[test]
    fn what_is_no_dump_goes_where_a_verified_one_stays() {
        assert_eq!(removed("ubvb", 5), "1b 3b");
        assert_eq!(removed("bv", 5), "", "the newest stays: somebody may be looking into it");
        assert_eq!(removed("ubb", 1), "", "without a verified one even a broken one may be all there is");
    }
}
