//! A data directory put out of the way and back, whole.
//!
//! Within one filesystem two directories change places in one call: at no moment are the data in neither place or half
//! in both, so that whoever finds them knows how far things got. Where the directory is a mount of its own, it can only
//! be copied and emptied. What is below a container's mount belongs to whoever is in the container: no link is followed
//! there.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, openat, renameat_with, statat};

const STEP: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What stands between a directory's name and the time at which it was put aside.
const BEFORE: &str = ".before-";

/// A data directory on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DataDirectory {
    /// The folder that holds it.
    parent: PathBuf,
    name: OsString,
    /// What of `parent` lies below the container's mount.
    below: PathBuf,
}

impl DataDirectory {
    /// The one `below` a mount whose source is `source`; `below` is empty where it is the mount itself.
    ///
    /// # Errors
    /// When it has no name, or is not there as a directory that is reached without links.
    pub(super) fn find(source: &Path, below: &Path) -> io::Result<Self> {
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is no folder's place", source.join(below).display()),
            )
        };
        let (parent, name, below) = match below.file_name() {
            // A volume's own path may be reached over links of this machine; it is resolved once.
            None => {
                let source = source.canonicalize()?;
                let name = source.file_name().ok_or_else(invalid)?.to_owned();
                (source.parent().ok_or_else(invalid)?.to_owned(), name, PathBuf::new())
            }
            Some(name) => {
                let within = below.parent().unwrap_or(Path::new("")).to_owned();
                (source.canonicalize()?, name.to_owned(), within)
            }
        };
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(invalid());
        }
        let found = Self { parent, name, below };
        found.inode()?;
        Ok(found)
    }

    /// Its path, for people.
    pub(super) fn path(&self) -> PathBuf {
        self.folder().join(&self.name)
    }

    fn folder(&self) -> PathBuf {
        self.parent.join(&self.below)
    }

    /// The folder that holds it, reached step by step.
    fn open(&self) -> io::Result<OwnedFd> {
        let mut at =
            openat(CWD, &self.parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for part in self.below.components() {
            at = openat(&at, part.as_os_str(), STEP, Mode::empty())?;
        }
        Ok(at)
    }

    /// What tells this directory from another one of its name.
    pub(super) fn inode(&self) -> io::Result<u64> {
        let folder = openat(self.open()?, &self.name, STEP, Mode::empty())?;
        Ok(rustix::fs::fstat(&folder)?.st_ino)
    }

    /// Whether it can change places with another: it is no mount of its own.
    pub(super) fn can_move(&self) -> io::Result<bool> {
        let path = self.path().canonicalize()?;
        let mounts =
            procfs::process::Process::myself().and_then(|own| own.mountinfo()).map_err(io::Error::other)?;
        Ok(!mounts.into_iter().any(|mount| mount.mount_point == path))
    }

    /// Old data beside it that earlier rebuildings left.
    pub(super) fn earlier(&self) -> io::Result<Vec<PathBuf>> {
        let prefix = format!("{}{BEFORE}", self.name.to_string_lossy());
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// A name beside it for what it holds now.
    pub(super) fn aside(&self) -> OsString {
        let mut name = self.name.clone();
        name.push(format!("{BEFORE}{}", crate::host::clock::now().format("%Y%m%d-%H%M%S")));
        name
    }

    /// Puts an empty directory of the same owner and mode in its place, and itself beside under the name `aside`.
    ///
    /// # Errors
    /// It is then in its place still.
    pub(super) fn exchange(&self, aside: &OsStr) -> io::Result<PathBuf> {
        let folder = self.open()?;
        let meta = statat(&folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::mkdirat(&folder, aside, Mode::RWXU)?;
        let made = openat(&folder, aside, STEP, Mode::empty())?;
        rustix::fs::fchown(&made, Some(Uid::from_raw(meta.st_uid)), Some(Gid::from_raw(meta.st_gid)))?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(meta.st_mode & 0o7777))?;
        if let Err(error) = self.swap(&folder, aside) {
            // Empty, and ours.
            rustix::fs::unlinkat(&folder, aside, AtFlags::REMOVEDIR)?;
            return Err(error);
        }
        Ok(self.folder().join(aside))
    }

    /// Puts what lies beside under the name `aside` into its place again, and deletes what was there meanwhile.
    ///
    /// # Errors
    /// When the two do not change places; the old data are then beside still. That something of what was there meanwhile
    /// cannot be deleted is told, and no error.
    pub(super) fn put_back(&self, aside: &OsStr) -> io::Result<Option<io::Error>> {
        let folder = self.open()?;
        self.swap(&folder, aside)?;
        Ok(fs::remove_dir_all(self.folder().join(aside)).err())
    }

    fn swap(&self, folder: &OwnedFd, aside: &OsStr) -> io::Result<()> {
        renameat_with(folder, &self.name, folder, aside, RenameFlags::EXCHANGE)?;
        rustix::fs::fsync(folder)?;
        Ok(())
    }

    /// Copies all that it holds into a new folder, and empties it once the copy is on the disk.
    ///
    /// # Errors
    /// When the copy does not come to its end: it is deleted, and nothing was emptied; or when not all can be deleted.
    pub(super) fn copy_to(&self, target: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(self.path())?;
        fs::DirBuilder::new().mode(0o700).create(target)?;
        let copied = fs::read_dir(self.path())?.try_for_each(|entry| {
            let entry = entry?;
            copy(&entry.path(), &target.join(entry.file_name()))
        });
        if let Err(error) = copied.and_then(|()| like(target, &meta)) {
            let _ = fs::remove_dir_all(target);
            return Err(error);
        }
        // All of it is on the disk before the first file goes.
        rustix::fs::syncfs(File::open(target)?)?;
        self.empty()
    }

    /// Puts a copy back into its place, which holds something else by now. The copy stays.
    ///
    /// # Errors
    /// When not all of it comes back; the copy is whole still.
    pub(super) fn copy_back(&self, from: &Path) -> io::Result<()> {
        self.empty()?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &self.path().join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Deletes all that it holds.
    ///
    /// # Errors
    /// At the first thing that cannot be deleted.
    pub(super) fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Bytes of all that it holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        bytes(&self.path())
    }
}

fn bytes(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => sum += bytes(&entry.path())?,
            Ok(meta) => sum += meta.blocks() * 512,
            // A server that tries to start comes and goes with its files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// Copies files, folders and links with owner and mode. What is none of them (a socket) is not data.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if meta.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    } else if meta.is_file() {
        let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let mut source = OpenOptions::new().read(true).custom_flags(nofollow).open(from)?;
        let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        io::copy(&mut source, &mut target)?;
    } else {
        return Ok(());
    }
    like(to, &meta)
}

/// Gives what was copied its owner and mode.
fn like(to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))?;
    if !meta.is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let source = place.path().join("volume/_data");
        fs::create_dir_all(source.join("base/1")).unwrap();
        fs::write(source.join("PG_VERSION"), "15\n").unwrap();
        fs::write(source.join("base/1/2"), vec![1; 9000]).unwrap();
        std::os::unix::fs::symlink("/nowhere", source.join("link")).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
        (place, source)
    }

    #[test]
    fn old_data_change_places_and_come_back() {
        let (_place, source) = volume();
        let data = DataDirectory::find(&source, Path::new("")).unwrap();
        assert!(data.can_move().unwrap() && data.bytes().unwrap() >= 9000);
        let (inode, aside) = (data.inode().unwrap(), data.aside());
        let kept = data.exchange(&aside).unwrap();
        assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
        assert_eq!(fs::metadata(&source).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_to_string(kept.join("PG_VERSION")).unwrap(), "15\n");
        assert_eq!(data.earlier().unwrap(), std::slice::from_ref(&kept));
        fs::write(source.join("PG_VERSION"), "fresh\n").unwrap();
        assert!(data.put_back(&aside).unwrap().is_none());
        assert_eq!(data.inode().unwrap(), inode);
        assert_eq!(fs::read_to_string(source.join("PG_VERSION")).unwrap(), "15\n");
        assert!(!kept.exists() && data.earlier().unwrap().is_empty());
    }

    #[test]
    fn a_folder_below_the_mount_is_reached_without_links() {
        let (place, source) = volume();
        let data = DataDirectory::find(&source, Path::new("base/1")).unwrap();
        assert_eq!(data.path(), source.canonicalize().unwrap().join("base/1"));
        let kept = data.exchange(&data.aside()).unwrap();
        assert!(kept.starts_with(source.canonicalize().unwrap().join("base")) && kept.join("2").exists());
        std::os::unix::fs::symlink(place.path(), source.join("out")).unwrap();
        assert!(DataDirectory::find(&source, Path::new("out/volume")).is_err());
        assert!(DataDirectory::find(&source, Path::new("../volume")).is_err());
    }

    #[test]
    fn what_cannot_move_is_copied_whole() {
        let (place, source) = volume();
        let (data, target) =
            (DataDirectory::find(&source, Path::new("")).unwrap(), place.path().join("copy"));
        data.copy_to(&target).unwrap();
        assert_eq!(fs::read_dir(&source).unwrap().count(), 0);
        assert_eq!(fs::read(target.join("base/1/2")).unwrap(), vec![1; 9000]);
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/nowhere"));
        fs::write(source.join("PG_VERSION"), "fresh\n").unwrap();
        data.copy_back(&target).unwrap();
        assert_eq!(fs::read_to_string(source.join("PG_VERSION")).unwrap(), "15\n");
        assert!(target.exists());
        // One that does not come to its end has emptied nothing, and takes nobody's place.
        assert!(data.copy_to(&target).is_err());
        assert!(source.join("base/1/2").exists() && target.join("base/1/2").exists());
    }
}
