//! Segments as files in a folder that only the agent's user can look into.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::Storage;

/// The journal's folder.
pub struct FileStorage {
    folder: PathBuf,
    /// The segment that was last written to, kept open.
    open: Option<(u64, File)>,
}

impl FileStorage {
    /// Takes a folder, which is made where it is missing.
    ///
    /// # Errors
    /// When it can be neither found nor made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self { folder: folder.to_owned(), open: None })
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{segment:016}"))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn file(&mut self, segment: u64) -> io::Result<&File> {
        let file = match self.open.take() {
            Some((open, file)) if open == segment => file,
            _ => File::options().read(true).write(true).open(self.path(segment))?,
        };
        Ok(&self.open.insert((segment, file)).1)
    }
}

impl Storage for FileStorage {
    fn segments(&mut self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let (16, Ok(segment)) = (name.len(), name.parse()) {
                segments.push(segment);
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn create(&mut self, segment: u64, length: usize) -> io::Result<()> {
        let unfinished = self.folder.join("unfinished");
        let made = (|| {
            let mut file =
                File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            // Zeros that are written take blocks; a file that was merely made longer would not, and a full disk would
            // then be noticed in the middle of an order.
            let zeros = [0; 64 * 1024];
            let mut left = length;
            while left > 0 {
                let part = left.min(zeros.len());
                file.write_all(&zeros[..part])?;
                left -= part;
            }
            file.sync_all()?;
            fs::rename(&unfinished, self.path(segment))?;
            self.sync_folder()
        })();
        if made.is_err() {
            // On a full disk the beginning of a segment must not take the last room. It may not be there.
            let _ = fs::remove_file(&unfinished);
        }
        made
    }

    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>> {
        fs::read(self.path(segment))
    }

    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.file(segment)?.write_all_at(bytes, offset as u64)
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.file(segment)?.sync_data()
    }

    fn remove(&mut self, segment: u64) -> io::Result<()> {
        self.open.take_if(|(open, _)| *open == segment);
        fs::remove_file(self.path(segment))?;
        self.sync_folder()
    }
}
