//! Files that somebody else owns: a container its volume, a service's user its logs.
//!
//! Whoever owns a folder can put a link, a pipe or an endless file where a log was. Nothing is followed here, nothing is
//! waited for, and nothing is read whole that has no bound.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// More files than a log folder holds that rotates once an hour for a year.
const ENTRIES: usize = 10_000;

/// A folder and all below it are reached step by step: without NONBLOCK a pipe would be waited for before it can be seen
/// to be one.
const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// Opens the plain file `below` a folder. The folder itself is this machine's, and may be reached over links; nothing
/// below it may.
///
/// # Errors
/// When a part of the path is a link, or what it leads to is no plain file, is not there or may not be read.
pub fn open(folder: &Path, below: &Path) -> io::Result<fs::File> {
    let (within, name) = parent(folder, below)?;
    let file = fs::File::from(openat(&within, name, FILE, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(invalid("it is no plain file")) }
}

/// Reads at most `most` bytes from a file's beginning, what is no UTF-8 replaced.
///
/// # Errors
/// As for [`open`].
pub fn read(folder: &Path, below: &Path, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(folder, below)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a file.
pub struct End {
    pub text: String,
    pub modified_ms: i64,
    /// Whether the file begins before it.
    pub cut: bool,
}

/// Reads at most `most` bytes of a file's end.
///
/// # Errors
/// As for [`open`].
pub fn read_end(folder: &Path, below: &Path, most: u64) -> io::Result<End> {
    let mut file = open(folder, below)?;
    let about = file.metadata()?;
    let from = about.len().saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let modified = about.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(End {
        text: String::from_utf8_lossy(&bytes).into_owned(),
        modified_ms: i64::try_from(modified.as_millis()).unwrap_or(i64::MAX),
        cut: from > 0,
    })
}

/// The plain file in a folder that was written to last, of those whose names end so; its path below `folder`.
///
/// # Errors
/// When the folder is reached over a link, or cannot be listed.
pub fn newest(folder: &Path, below: &Path, ending: &str) -> io::Result<Option<PathBuf>> {
    let within = descend(folder, below)?;
    let list = openat(&within, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut newest: Option<((i64, u64), PathBuf)> = None;
    for entry in Dir::read_from(&list)?.take(ENTRIES) {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if !name.as_bytes().ends_with(ending.as_bytes()) {
            continue;
        }
        let Ok(about) = statat(&within, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let written = (about.st_mtime, about.st_mtime_nsec);
        if FileType::from_raw_mode(about.st_mode) == FileType::RegularFile
            && newest.as_ref().is_none_or(|(before, _)| *before < written)
        {
            newest = Some((written, below.join(name)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// The folder that holds what a path leads to, and its name in there.
fn parent<'a>(folder: &Path, below: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let name = below.file_name().ok_or_else(|| invalid("it names no file"))?;
    Ok((descend(folder, below.parent().unwrap_or(Path::new("")))?, name))
}

fn descend(folder: &Path, below: &Path) -> io::Result<OwnedFd> {
    let mut at = openat(CWD, folder, STEP.difference(OFlags::NOFOLLOW), Mode::empty())?;
    for part in below.components() {
        match part {
            Component::Normal(name) => at = openat(&at, name, STEP, Mode::empty())?,
            Component::CurDir => {}
            _ => return Err(invalid("it leads out of its folder")),
        }
    }
    Ok(at)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_pipes_folders_and_ways_out_are_not_opened() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("data");
        fs::create_dir_all(root.join("log")).unwrap();
        fs::write(outside.path().join("secret"), "hunter22").unwrap();
        fs::write(root.join("log/a.log"), "one\ntwo\n").unwrap();
        symlink(outside.path().join("secret"), root.join("link")).unwrap();
        symlink(outside.path(), root.join("away")).unwrap();
        rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(read(&root, Path::new("log/a.log"), 100).unwrap(), "one\ntwo\n");
        assert_eq!(read(&root, Path::new("log/a.log"), 3).unwrap(), "one");
        for bad in ["link", "away/secret", "pipe", "log", "../secret", "/etc/passwd", "log/../../secret", ""]
        {
            assert!(open(&root, Path::new(bad)).is_err(), "{bad}");
        }
        let end = read_end(&root, Path::new("log/a.log"), 4).unwrap();
        assert!(end.cut && end.text == "two\n" && end.modified_ms > 0);
        // The folder itself is this machine's own.
        symlink(&root, outside.path().join("moved")).unwrap();
        assert!(open(&outside.path().join("moved"), Path::new("log/a.log")).is_ok());
    }

    #[test]
    fn the_newest_of_plain_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("log");
        fs::create_dir(&folder).unwrap();
        assert_eq!(newest(root.path(), Path::new("log"), ".log").unwrap(), None);
        for (name, age_s) in [("old.log", 100), ("new.log", 50), ("other.csv", 10)] {
            let file = fs::File::create(folder.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age_s)).unwrap();
        }
        symlink("/etc/passwd", folder.join("z.log")).unwrap();
        assert_eq!(
            newest(root.path(), Path::new("log"), ".log").unwrap().as_deref(),
            Some(Path::new("log/new.log"))
        );
        symlink(&folder, root.path().join("away")).unwrap();
        assert!(newest(root.path(), Path::new("away"), ".log").is_err());
    }
}
