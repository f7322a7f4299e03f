//! What apt has downloaded, and packages that nothing needs.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use vigie_proto::v1::{
    AptCleanPreviewRequest, AptCleanPreviewResult, AptCleanRequest, AptCleanResult, DiskFile, LeftAlone,
    result,
};

use super::{
    Context, Fault,
    walk::{allocated, modified_ms},
};
use crate::host::{
    child::{Child, Exit, resolve},
    stacks::compose::{cannot_run, last_words, timed_out},
};

/// Where apt keeps what it can fetch and make anew.
pub(super) const FOLDER: &str = "/var/cache/apt";
const LOCK: &str = "/var/cache/apt/archives/lock";

const PATIENCE: Duration = Duration::from_secs(5);

/// More downloaded packages than this are one line for a person.
const SHOWN: usize = 500;

/// What may go: downloaded packages, whole or in part, and the caches that apt makes from its lists.
pub(super) fn read(folder: &Path) -> Vec<DiskFile> {
    let mut found = Vec::new();
    let mut take = |folder: &Path, wanted: fn(&str) -> bool| {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() || !name.to_str().is_some_and(wanted) {
                continue;
            }
            found.push(DiskFile {
                path: entry.path().to_string_lossy().into_owned(),
                inode: meta.ino(),
                bytes: allocated(&meta),
                modified_at_ms: modified_ms(&meta),
            });
        }
    };
    take(&folder.join("archives"), |name| Path::new(name).extension().is_some_and(|end| end == "deb"));
    take(&folder.join("archives/partial"), |_| true);
    take(folder, |name| matches!(name, "pkgcache.bin" | "srcpkgcache.bin"));
    found.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    found
}

async fn find(cx: &Context) -> Result<Vec<DiskFile>, Fault> {
    let place = PathBuf::from(FOLDER);
    cx.host.mounts().ask(place.clone(), PATIENCE, move || read(&place)).await.ok_or_else(|| {
        Fault::failed("timed_out", format!("{FOLDER} does not answer"))
            .hint("its filesystem hangs: `vigiectl probe disk_usage`")
    })
}

/// Tells what would go.
pub(in crate::operations) async fn preview(
    request: AptCleanPreviewRequest,
    cx: &Context,
) -> Result<AptCleanPreviewResult, Fault> {
    if resolve("apt-get").is_err() {
        return Ok(AptCleanPreviewResult::default());
    }
    let mut files = find(cx).await?;
    let packages = if request.autoremove { removable(cx).await? } else { Vec::new() };
    let (bytes, files_total) = (files.iter().map(|file| file.bytes).sum(), files.len());
    files.truncate(SHOWN);
    Ok(AptCleanPreviewResult {
        present: true,
        files,
        bytes,
        files_total: u32::try_from(files_total).unwrap_or(u32::MAX),
        packages,
    })
}

/// Deletes what was prepared, then removes the packages that were.
pub(in crate::operations) async fn clean(
    request: AptCleanRequest,
    cx: &Context,
) -> Result<AptCleanResult, Fault> {
    let Some(result::Operation::AptCleanPreview(prepared)) = &cx.prepared else {
        return Err(super::prune::not_prepared());
    };
    if resolve("apt-get").is_err() {
        return Err(Fault::absent("apt", "there is no apt on this host"));
    }
    let mut done = AptCleanResult::default();
    {
        // As apt itself: who holds this lock is downloading.
        let _lock = lock(Path::new(LOCK))?;
        let present = find(cx).await?;
        for file in &prepared.files {
            let same = present.iter().any(|own| own.path == file.path && own.inode == file.inode);
            let deleted = if same {
                fs::remove_file(&file.path).map_err(|error| error.to_string())
            } else {
                Err("it is gone, or another file by now".to_owned())
            };
            match deleted {
                Ok(()) => {
                    done.freed_bytes += file.bytes;
                    done.files_deleted += 1;
                }
                Err(reason) => done.left.push(LeftAlone { name: file.path.clone(), reason }),
            }
        }
    }
    if !request.autoremove || prepared.packages.is_empty() {
        return Ok(done);
    }
    let fault = match remove(&prepared.packages, cx).await {
        Ok(removed) => {
            done.packages_removed = removed;
            return Ok(done);
        }
        Err(fault) => fault,
    };
    Err(fault.partial(result::Operation::AptClean(done)))
}

/// Removes exactly these packages, and looks afterwards that they are gone.
async fn remove(prepared: &[String], cx: &Context) -> Result<Vec<String>, Fault> {
    let now = removable(cx).await?;
    if let Some(other) = prepared.iter().find(|package| !now.contains(*package)) {
        return Err(Fault::refused(
            "prepared_changed",
            format!("{other} is needed, gone or another version by now"),
        )
        .hint("ask again what would go: `vigiectl probe apt_clean_preview --autoremove`"));
    }
    let names: Vec<&str> = prepared
        .iter()
        .map(|package| package.split_once('=').map_or(package.as_str(), |(name, _)| name))
        .collect();
    // What the removal of these alone would take: nothing else may go with them.
    let would = packages(&apt(cx, &["--simulate", "remove", "--"], &names).await?.stdout.text().text);
    if let Some(more) = would.iter().find(|package| !prepared.contains(package)) {
        return Err(Fault::refused(
            "prepared_changed",
            format!("{more} would go too, which nobody agreed to"),
        )
        .hint("ask again what would go: `vigiectl probe apt_clean_preview --autoremove`"));
    }
    apt(cx, &["--yes", "remove", "--"], &names).await?;
    let after = removable(cx).await?;
    let (left, gone): (Vec<String>, Vec<String>) =
        prepared.iter().cloned().partition(|package| after.contains(package));
    if !left.is_empty() {
        return Err(Fault::failed("nothing_freed", format!("{} is still installed", left.join(", "))));
    }
    Ok(gone)
}

/// What nothing needs any more, as apt's own simulation says.
async fn removable(cx: &Context) -> Result<Vec<String>, Fault> {
    let exit = apt(cx, &["--simulate", "autoremove"], &[]).await?;
    Ok(packages(&exit.stdout.text().text))
}

async fn apt(cx: &Context, words: &[&str], packages: &[&str]) -> Result<Exit, Fault> {
    let child = Child::new("apt-get")
        .map_err(cannot_run)?
        .args(words.iter().chain(packages).copied())
        .env("DEBIAN_FRONTEND", "noninteractive")
        .keep(1024 * 1024)
        .sink(&*cx.output);
    let simulates = words.contains(&"--simulate");
    let exit = if simulates { child.run(cx.deadline).await } else { cx.act(child).await };
    let exit = exit.map_err(cannot_run)?;
    if exit.timed_out {
        return Err(timed_out("apt-get"));
    }
    if exit.stopped {
        return Err(Fault::stopped("apt-get"));
    }
    if exit.success() {
        return Ok(exit);
    }
    let said = last_words(&exit);
    Err(if said.contains("Could not get lock") {
        busy()
    } else {
        Fault::failed("apt_failed", format!("apt-get failed: {said}"))
    }
    .hint("on the host: `dpkg --audit`, then `apt-get check`"))
}

/// The packages that a simulation would remove: `Remv linux-image-6.1.0-9-amd64 [6.1.27-1]`.
fn packages(simulation: &str) -> Vec<String> {
    let lines =
        simulation.lines().filter_map(|line| line.strip_prefix("Remv ").or(line.strip_prefix("Purg ")));
    lines
        .filter_map(|line| {
            let (name, rest) = line.split_once(" [")?;
            Some(format!("{name}={}", rest.split_once(']')?.0))
        })
        .collect()
}

fn lock(path: &Path) -> Result<Option<fs::File>, Fault> {
    // Without the file nobody holds it.
    let Ok(file) = fs::OpenOptions::new().write(true).open(path) else { return Ok(None) };
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| busy())?;
    Ok(Some(file))
}

fn busy() -> Fault {
    Fault::refused("apt_busy", "another apt runs on this host")
        .hint("wait for it to end: `vigiectl exec -- ps -C apt-get`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_simulation_would_remove() {
        // As apt 2.6 words it.
        let text = "Reading package lists...\nThe following packages will be REMOVED:\n  libjq1 libonig5\n\
                    0 upgraded, 0 newly installed, 2 to remove and 0 not upgraded.\nRemv libjq1 [1.6-2.1+deb12u1]\n\
                    Remv libonig5 [6.9.8-1]\n";
        assert_eq!(packages(text), ["libjq1=1.6-2.1+deb12u1", "libonig5=6.9.8-1"]);
        assert!(packages("0 upgraded, 0 newly installed, 0 to remove and 0 not upgraded.\n").is_empty());
    }

    #[test]
    fn only_what_apt_makes_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("archives/partial")).unwrap();
        for name in
            ["archives/a_1_amd64.deb", "archives/partial/b.deb", "archives/lock", "pkgcache.bin", "other"]
        {
            fs::write(folder.path().join(name), vec![1; 10_000]).unwrap();
        }
        let mut names: Vec<_> = read(folder.path())
            .into_iter()
            .map(|file| file.path.rsplit('/').next().unwrap().to_owned())
            .collect();
        names.sort();
        assert_eq!(names, ["a_1_amd64.deb", "b.deb", "pkgcache.bin"]);
    }
}
