//! Walks over folders of one filesystem, bounded in time, entries and memory: where the inodes have run out there are
//! millions of files, and nothing is kept of them but sums. They block: run them by
//! [`Mounts::ask`](crate::host::mounts::Mounts::ask).

use std::{
    cmp::Reverse,
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Instant,
};

/// More than a VPS holds; a walk over this many takes its whole time anyway.
const ENTRIES: u64 = 5_000_000;

/// Folders within folders: each that is being read keeps a file open. Paths end at 4096 bytes, and nothing that people
/// make is half as deep as this.
const DEEPEST: usize = 200;

/// Files with several names that are told apart: 4 MB of memory. Beyond, each name counts for its share of the file.
const LINKED: usize = 250_000;

/// The clock is looked at once in so many entries, which take a millisecond.
const GLANCE: u64 = 1024;

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
    /// The folders that tell most by bytes, and by entries.
    pub by_bytes: Vec<Weighed>,
    pub by_entries: Vec<Weighed>,
}

/// A folder with all below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Weighed {
    pub path: PathBuf,
    pub bytes: u64,
    pub entries: u64,
}

/// How far folders are told apart.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Detail {
    /// How deep below the top; none at all when 0.
    pub depth: usize,
    /// How many are told.
    pub count: usize,
}

/// What a file takes on disk.
pub(super) fn allocated(meta: &fs::Metadata) -> u64 {
    meta.blocks() * BLOCK
}

/// When a file was last written, in Unix milliseconds.
pub(super) fn modified_ms(meta: &fs::Metadata) -> i64 {
    meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000
}

/// A folder that is being read.
struct Open {
    path: PathBuf,
    entries: fs::ReadDir,
    bytes: u64,
    count: u64,
    /// Of the folders in it that are told apart.
    heaviest_bytes: u64,
    heaviest_entries: u64,
}

/// Walks a folder until a moment, without leaving its filesystem and without following links. `each` sees every plain
/// file, those of one folder after each other.
pub(super) fn walk(
    top: &Path,
    detail: Detail,
    until: Instant,
    mut each: impl FnMut(&Path, &fs::Metadata),
) -> Walked {
    let mut found = Walked::default();
    let (Ok(meta), Ok(entries)) = (fs::symlink_metadata(top), fs::read_dir(top)) else {
        found.unreadable = 1;
        return found;
    };
    let device = meta.dev();
    let mut linked: HashSet<u64> = HashSet::new();
    let mut open = vec![Open::new(top.to_owned(), entries)];
    while let Some(folder) = open.last_mut() {
        let Some(entry) = folder.entries.next() else {
            close(&mut open, detail, &mut found);
            continue;
        };
        // Gone since: it takes nothing any more.
        let Ok((entry, meta)) = entry.and_then(|entry| entry.metadata().map(|meta| (entry, meta))) else {
            continue;
        };
        if meta.dev() != device {
            continue;
        }
        folder.count += 1;
        found.entries += 1;
        let late = |found: &Walked| found.entries >= ENTRIES || Instant::now() >= until;
        if meta.is_dir() {
            folder.bytes += allocated(&meta);
            if late(&found) {
                found.truncated = true;
                break;
            }
            let path = entry.path();
            match fs::read_dir(&path) {
                Ok(entries) if open.len() < DEEPEST => open.push(Open::new(path, entries)),
                _ => found.unreadable += 1,
            }
            continue;
        }
        folder.bytes += match meta.nlink() {
            0 | 1 => allocated(&meta),
            names if linked.len() >= LINKED && !linked.contains(&meta.ino()) => allocated(&meta) / names,
            _ if linked.insert(meta.ino()) => allocated(&meta),
            _ => continue,
        };
        if meta.is_file() {
            found.files += 1;
            each(&entry.path(), &meta);
        }
        if found.entries.is_multiple_of(GLANCE) && late(&found) {
            found.truncated = true;
            break;
        }
    }
    // What was cut off counts for the folders above it all the same.
    while !open.is_empty() {
        close(&mut open, detail, &mut found);
    }
    found
}

impl Open {
    fn new(path: PathBuf, entries: fs::ReadDir) -> Self {
        Self { path, entries, bytes: 0, count: 0, heaviest_bytes: 0, heaviest_entries: 0 }
    }
}

/// Ends the innermost folder: all that is in it is in the folder above too.
fn close(open: &mut Vec<Open>, detail: Detail, found: &mut Walked) {
    let Some(folder) = open.pop() else { return };
    let level = open.len();
    match open.last_mut() {
        None => found.bytes = folder.bytes,
        Some(above) => {
            above.bytes += folder.bytes;
            above.count += folder.count;
            if level <= detail.depth {
                above.heaviest_bytes = above.heaviest_bytes.max(folder.bytes);
                above.heaviest_entries = above.heaviest_entries.max(folder.count);
            }
        }
    }
    if detail.depth == 0 || level > detail.depth {
        return;
    }
    // Four fifths in one folder below: that one tells where it is.
    let tells = |own: u64, below: u64| own > 0 && below * 5 < own * 4;
    let (by_bytes, by_entries) =
        (tells(folder.bytes, folder.heaviest_bytes), tells(folder.count, folder.heaviest_entries));
    let weighed = Weighed { path: folder.path, bytes: folder.bytes, entries: folder.count };
    if by_bytes {
        note(&mut found.by_bytes, &weighed, detail.count, |own| own.bytes);
    }
    if by_entries {
        note(&mut found.by_entries, &weighed, detail.count, |own| own.entries);
    }
}

/// Keeps the heaviest so many, the heaviest first.
fn note(kept: &mut Vec<Weighed>, new: &Weighed, count: usize, measure: impl Fn(&Weighed) -> u64) {
    let order = |own: &Weighed| (Reverse(measure(own)), own.path.clone());
    let place = kept.partition_point(|own| order(own) < order(new));
    if place < count {
        kept.insert(place, new.clone());
        kept.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

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
        let found = walk(top.path(), Detail { depth: 6, count: 1 }, soon(), |_, _| seen += 1);
        assert!((1 << 20..(1 << 20) + (1 << 17)).contains(&found.bytes), "{}", found.bytes);
        assert_eq!((found.files, seen, found.truncated, found.unreadable), (51, 51, false, 0));
        assert_eq!(found.by_entries[0].path, top.path().join("many"));
        assert_eq!((found.by_entries[0].entries, found.by_entries.len(), found.by_bytes.len()), (50, 1, 1));
        // The small files, four folders, the large file by both of its names, and the link.
        assert_eq!(found.entries, 50 + 4 + 2 + 1);
        let shallow = walk(top.path(), Detail { depth: 1, count: 3 }, soon(), |_, _| {});
        assert!(shallow.by_bytes.iter().all(|own| !own.path.ends_with("b")), "{:?}", shallow.by_bytes);
        assert_eq!(shallow.bytes, found.bytes);
    }

    #[test]
    fn the_heaviest_are_kept_in_their_order() {
        let own = |name: &str, bytes| Weighed { path: name.into(), bytes, entries: 1 };
        let mut kept = Vec::new();
        for new in [own("b", 3), own("c", 9), own("a", 3), own("d", 1)] {
            note(&mut kept, &new, 3, |own| own.bytes);
        }
        assert_eq!(kept, [own("c", 9), own("a", 3), own("b", 3)]);
    }

    #[test]
    fn a_walk_ends_in_its_time_and_says_so() {
        let top = tempfile::tempdir().unwrap();
        for n in 0..20 {
            fs::create_dir(top.path().join(n.to_string())).unwrap();
        }
        let detail = Detail { depth: 3, count: 5 };
        let found = walk(top.path(), detail, Instant::now(), |_, _| {});
        assert!(found.truncated);
        // What was seen until then is told.
        assert_eq!((found.entries, found.by_entries.len()), (1, 1));
        assert_eq!(walk(&top.path().join("none"), detail, soon(), |_, _| {}).unreadable, 1);
    }

    #[test]
    fn folders_too_deep_to_be_read_are_told() {
        let top = tempfile::tempdir().unwrap();
        let mut path = top.path().to_owned();
        for _ in 0..DEEPEST + 5 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        let found = walk(top.path(), Detail::default(), soon(), |_, _| {});
        assert_eq!((found.unreadable, found.truncated), (1, false));
    }
}
