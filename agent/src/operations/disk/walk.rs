//! Walks over folders of one filesystem, bounded in time and entries. They block: run them by
//! [`Mounts::ask`](crate::host::mounts::Mounts::ask).

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// More than a VPS holds; a walk over this many takes its whole time anyway.
const ENTRIES: u64 = 5_000_000;

/// What a file takes: blocks are counted in these whatever the filesystem's own are.
const BLOCK: u64 = 512;

/// What one walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// What the files take on disk, each once however many names it has.
    pub bytes: u64,
    pub entries: u64,
    /// Files alone, without folders.
    pub files: u64,
    pub truncated: bool,
    pub unreadable: u32,
    /// By folder, down to the depth: its bytes and entries with all below.
    pub folders: BTreeMap<PathBuf, (u64, u64)>,
}

/// What a file takes on disk.
pub(super) fn allocated(meta: &fs::Metadata) -> u64 {
    meta.blocks() * BLOCK
}

/// When a file was last written, in Unix milliseconds.
pub(super) fn modified_ms(meta: &fs::Metadata) -> i64 {
    meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000
}

/// Walks a folder without leaving its filesystem and without following links. Folders are told apart down to `depth`
/// below it; `each` sees every plain file.
pub(super) fn walk(
    top: &Path,
    depth: usize,
    time: Duration,
    mut each: impl FnMut(&Path, &fs::Metadata),
) -> Walked {
    let mut found = Walked::default();
    let Ok(meta) = fs::symlink_metadata(top) else {
        found.unreadable = 1;
        return found;
    };
    let (device, until) = (meta.dev(), Instant::now() + time);
    let mut linked: HashSet<u64> = HashSet::new();
    // Folders still to be read, with how deep they lie.
    let mut open = vec![(top.to_owned(), 0_usize)];
    if depth > 0 {
        found.folders.insert(top.to_owned(), (0, 0));
    }
    while let Some((folder, level)) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            found.unreadable += 1;
            continue;
        };
        let (mut bytes, mut count) = (0, 0);
        for entry in entries.flatten() {
            // Gone since: it takes nothing any more.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != device {
                continue;
            }
            count += 1;
            if meta.is_dir() {
                bytes += allocated(&meta);
                let path = entry.path();
                if level < depth {
                    found.folders.insert(path.clone(), (0, 0));
                }
                open.push((path, level + 1));
                continue;
            }
            if meta.nlink() > 1 && !linked.insert(meta.ino()) {
                continue;
            }
            bytes += allocated(&meta);
            if meta.is_file() {
                found.files += 1;
                each(&entry.path(), &meta);
            }
        }
        found.bytes += bytes;
        found.entries += count;
        // To every folder above it that is told apart.
        for above in folder.ancestors() {
            if let Some((sum, total)) = found.folders.get_mut(above) {
                *sum += bytes;
                *total += count;
            }
            if above == top {
                break;
            }
        }
        if found.entries >= ENTRIES || Instant::now() >= until {
            found.truncated = !open.is_empty();
            break;
        }
    }
    found
}

/// The folders that tell most by some measure: one that holds nearly all of its parent stands instead of it.
pub(super) fn telling(
    folders: &BTreeMap<PathBuf, (u64, u64)>,
    measure: impl Fn(&(u64, u64)) -> u64,
    count: usize,
) -> Vec<(PathBuf, u64, u64)> {
    let mut heaviest: BTreeMap<&Path, u64> = BTreeMap::new();
    for (path, found) in folders {
        if let Some(parent) = path.parent() {
            let best = heaviest.entry(parent).or_default();
            *best = (*best).max(measure(found));
        }
    }
    let mut list: Vec<(PathBuf, u64, u64)> = folders
        .iter()
        .filter(|(path, found)| {
            let own = measure(found);
            // Four fifths in one folder below: that one tells where it is.
            own > 0 && heaviest.get(path.as_path()).is_none_or(|below| below * 5 < own * 4)
        })
        .map(|(path, (bytes, entries))| (path.clone(), *bytes, *entries))
        .collect();
    list.sort_by_key(|(path, bytes, entries)| {
        (std::cmp::Reverse(measure(&(*bytes, *entries))), path.clone())
    });
    list.truncate(count);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_the_folder_that_holds_it_all_stands_for_those_above() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("big"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(deep.join("big"), top.path().join("again")).unwrap();
        std::os::unix::fs::symlink("/", top.path().join("everything")).unwrap();
        fs::create_dir(top.path().join("many")).unwrap();
        for n in 0..50 {
            fs::write(top.path().join(format!("many/{n}")), "").unwrap();
        }
        let mut seen = 0;
        let found = walk(top.path(), 6, Duration::from_secs(20), |_, _| seen += 1);
        assert!((1 << 20..(1 << 20) + (1 << 17)).contains(&found.bytes), "{}", found.bytes);
        assert_eq!((found.files, seen, found.truncated, found.unreadable), (51, 51, false, 0));
        let by_entries = telling(&found.folders, |(_, entries)| *entries, 1);
        assert_eq!(by_entries[0].0, top.path().join("many"));
        assert_eq!(by_entries[0].2, 50);
    }

    #[test]
    fn a_walk_ends_in_its_time_and_says_so() {
        let top = tempfile::tempdir().unwrap();
        for n in 0..20 {
            fs::create_dir(top.path().join(n.to_string())).unwrap();
        }
        let found = walk(top.path(), 3, Duration::ZERO, |_, _| {});
        assert!(found.truncated);
        assert_eq!(walk(&top.path().join("none"), 3, Duration::ZERO, |_, _| {}).unreadable, 1);
    }
}
