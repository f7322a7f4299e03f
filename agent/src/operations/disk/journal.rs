//! The journal on disk. Its archived files are deleted as journald's own vacuum deletes them, but exactly those that
//! the operator saw; the files that are being written stay.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use vigie_proto::v1::{
    DiskFile, JournalVacuumPreviewRequest, JournalVacuumPreviewResult, JournalVacuumRequest,
    JournalVacuumResult, LeftAlone, result,
};

use super::{
    Context, Fault, MIB,
    walk::{allocated, modified_ms},
};

/// Where the journal lies that outlives a boot.
pub(super) const FOLDER: &str = "/var/log/journal";

const PATIENCE: Duration = Duration::from_secs(5);

/// The journal's files.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub present: bool,
    /// Oldest first.
    pub archived: Vec<DiskFile>,
    /// Of all files.
    pub bytes: u64,
}

/// Reads what there is.
pub(super) fn read(folder: &Path) -> Journal {
    let mut found = Journal::default();
    // One folder a machine.
    for machine in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !machine.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for entry in fs::read_dir(machine.path()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // `system@….journal` is archived, `….journal~` is one that was not closed well.
            let archived = name.ends_with(".journal~") || (name.ends_with(".journal") && name.contains('@'));
            if !archived && !name.ends_with(".journal") {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            found.present = true;
            found.bytes += allocated(&meta);
            if archived {
                found.archived.push(DiskFile {
                    path: entry.path().to_string_lossy().into_owned(),
                    inode: meta.ino(),
                    bytes: allocated(&meta),
                    modified_at_ms: modified_ms(&meta),
                });
            }
        }
    }
    found.archived.sort_by(|a, b| (a.modified_at_ms, &a.path).cmp(&(b.modified_at_ms, &b.path)));
    found
}

/// Of the archived files, those that go: older than the days, and the oldest beyond the size.
pub(super) fn chosen(journal: &Journal, keep_days: u32, keep_mib: u32, now_ms: i64) -> Vec<DiskFile> {
    let before = now_ms - i64::from(keep_days) * 24 * 3600 * 1000;
    let bound = u64::from(keep_mib) * MIB;
    let mut left = journal.bytes;
    let mut go = Vec::new();
    for file in &journal.archived {
        let old = keep_days > 0 && file.modified_at_ms < before;
        let beyond = keep_mib > 0 && left > bound;
        if !old && !beyond {
            break;
        }
        left -= file.bytes;
        go.push(file.clone());
    }
    go
}

async fn find(cx: &Context) -> Result<Journal, Fault> {
    let place = PathBuf::from(FOLDER);
    cx.host.mounts().ask(place.clone(), PATIENCE, move || read(&place)).await.ok_or_else(|| {
        Fault::failed("timed_out", format!("{FOLDER} does not answer"))
            .hint("its filesystem hangs: `vigiectl probe disk_usage`")
    })
}

/// Tells which files would go.
pub(in crate::operations) async fn preview(
    request: JournalVacuumPreviewRequest,
    cx: &Context,
) -> Result<JournalVacuumPreviewResult, Fault> {
    bounded(request.keep_days, request.keep_mib)?;
    let journal = find(cx).await?;
    let now = crate::host::clock::now().timestamp_millis();
    let files = chosen(&journal, request.keep_days, request.keep_mib, now);
    Ok(JournalVacuumPreviewResult {
        present: journal.present,
        bytes: files.iter().map(|file| file.bytes).sum(),
        journal_bytes: journal.bytes,
        lost_before_ms: files.last().map_or(0, |file| file.modified_at_ms),
        files,
    })
}

fn bounded(keep_days: u32, keep_mib: u32) -> Result<(), Fault> {
    if keep_days == 0 && keep_mib == 0 {
        return Err(Fault::refused("argument_missing", "neither `keep_days` nor `keep_mib` is given")
            .hint("say what to keep: `--keep-days 3`, `--keep-mib 200`"));
    }
    Ok(())
}

/// Deletes those of the prepared files that are still the same.
pub(in crate::operations) async fn vacuum(
    request: JournalVacuumRequest,
    cx: &Context,
) -> Result<JournalVacuumResult, Fault> {
    bounded(request.keep_days, request.keep_mib)?;
    let Some(result::Operation::JournalVacuumPreview(prepared)) = &cx.prepared else {
        return Err(super::prune::not_prepared());
    };
    let journal = find(cx).await?;
    let mut done = JournalVacuumResult::default();
    for file in &prepared.files {
        let same = journal.archived.iter().any(|own| own.path == file.path && own.inode == file.inode);
        let deleted = if same {
            fs::remove_file(&file.path).map_err(|error| error.to_string())
        } else {
            Err("it is gone, or another file by now".to_owned())
        };
        match deleted {
            Ok(()) => {
                done.freed_bytes += file.bytes;
                done.deleted.push(file.clone());
            }
            Err(reason) => done.left.push(LeftAlone { name: file.path.clone(), reason }),
        }
    }
    done.journal_bytes = find(cx).await?.bytes;
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        let file = |n: i64| DiskFile {
            path: format!("{n}"),
            inode: 1,
            bytes: 100 * MIB,
            modified_at_ms: n * 24 * 3600 * 1000,
        };
        // 300 MiB are archived, 50 MiB are being written.
        Journal { present: true, archived: (1..=3).map(file).collect(), bytes: 350 * MIB }
    }

    fn names(keep_days: u32, keep_mib: u32, today: i64) -> Vec<String> {
        let chosen = chosen(&journal(), keep_days, keep_mib, today * 24 * 3600 * 1000);
        chosen.into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn the_oldest_go_until_the_bound_holds() {
        assert_eq!(names(0, 200, 9), ["1", "2"]);
        assert_eq!(names(0, 400, 9), Vec::<String>::new());
        assert_eq!(names(0, 1, 9), ["1", "2", "3"]);
        assert_eq!(names(3, 0, 5), ["1"]);
        assert_eq!(names(3, 200, 5), ["1", "2"]);
    }

    #[test]
    fn what_is_being_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let machine = folder.path().join("0123456789abcdef0123456789abcdef");
        fs::create_dir(&machine).unwrap();
        // Names as journald 252 gives them.
        for name in [
            "system.journal",
            "user-1000.journal",
            "system@0006452c5b1c0d3a-9c1a2b3c4d5e6f70.journal~",
            "system@f1e2d3c4b5a69788776655443322110f-0000000000000001-0006452c5b1c0d3a.journal",
            "notes.txt",
        ] {
            fs::write(machine.join(name), vec![1; 8192]).unwrap();
        }
        let found = read(folder.path());
        assert_eq!((found.present, found.archived.len(), found.bytes), (true, 2, 4 * 8192));
        assert!(!read(&folder.path().join("none")).present);
    }
}
