//! What the journal needs of a disk.

use std::io;

/// Numbered files of fixed length. Nothing is on disk before [`sync`](Storage::sync) says so, with the exceptions that
/// are named.
pub trait Storage: Send + 'static {
    /// The segments that there are, in ascending order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    fn segments(&mut self) -> io::Result<Vec<u64>>;

    /// Makes a segment of zeros. It is on disk, its name and its blocks included, when this returns; when it fails,
    /// there is no such segment.
    ///
    /// # Errors
    /// When there is no room.
    fn create(&mut self, segment: u64, length: usize) -> io::Result<()>;

    /// All bytes of a segment.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&mut self, segment: u64) -> io::Result<Vec<u8>>;

    /// Writes within a segment.
    ///
    /// # Errors
    /// When the write fails; any part of it may then have happened.
    fn write(&mut self, segment: u64, offset: usize, bytes: &[u8]) -> io::Result<()>;

    /// Puts on disk what was written to a segment.
    ///
    /// # Errors
    /// When that is not known to have happened.
    fn sync(&mut self, segment: u64) -> io::Result<()>;

    /// Removes a segment.
    ///
    /// # Errors
    /// When it stays.
    fn remove(&mut self, segment: u64) -> io::Result<()>;
}
