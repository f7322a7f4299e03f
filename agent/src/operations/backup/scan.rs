//! A dump read to its end: whether it is whole, what it holds, its digest. Streamed, so that its size does not matter.
//! Blocking: for threads that may.

use std::{
    fs::File,
    io::{self, Read},
};

use data_encoding::HEXLOWER;
use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What one file turned out to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::operations) struct Scan {
    /// As in the catalogue's Backup.
    pub integrity: String,
    pub problem: String,
    pub digest: String,
    pub dump_bytes: u64,
    pub tables: u32,
    pub rows: u64,
    /// False when it says itself into which database it goes, or bids psql do more than to restore.
    pub restorable: bool,
}

/// Hashes what passes.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Reads a dump, compressed or plain.
pub(in crate::operations) fn scan(file: File, compressed: bool) -> io::Result<Scan> {
    let size = file.metadata()?.len();
    let mut source = Hashed { inner: file, hash: Sha256::new() };
    let mut lines = Lines::default();
    let read = if compressed {
        take(&mut MultiGzDecoder::new(&mut source), &mut lines)
    } else {
        take(&mut source, &mut lines)
    };
    // What a damaged file still holds belongs to its digest.
    io::copy(&mut source, &mut io::sink())?;
    lines.finish();
    let (integrity, problem) = match read {
        _ if size == 0 => ("empty", "the file is empty".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            ("truncated", "the compressed data ends too early".to_owned())
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            ("corrupt", format!("the compressed data is damaged: {error}"))
        }
        Err(error) => return Err(error),
        Ok(()) if lines.total == 0 => ("empty", "there is nothing in it".to_owned()),
        Ok(()) if lines.in_copy => ("incomplete", "the dump ends within a table's rows".to_owned()),
        Ok(()) if !lines.complete => {
            ("incomplete", "pg_dump's last line is not there: it did not come to its end".to_owned())
        }
        Ok(()) => ("ok", String::new()),
    };
    Ok(Scan {
        integrity: integrity.to_owned(),
        problem,
        digest: HEXLOWER.encode(&source.hash.finalize()),
        dump_bytes: lines.total,
        tables: lines.tables,
        rows: lines.rows,
        restorable: integrity == "ok" && !lines.elsewhere,
    })
}

fn take(source: &mut impl Read, lines: &mut Lines) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => lines.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What the lines of a dump say, as they pass.
#[derive(Default)]
struct Lines {
    total: u64,
    tables: u32,
    rows: u64,
    complete: bool,
    in_copy: bool,
    elsewhere: bool,
    /// The line that is not over yet; within rows, no more of it than can be the end of them.
    open: Vec<u8>,
}

/// No statement of pg_dump that matters here is longer on its line.
const LINE: usize = 256 * 1024;

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.total += data.len() as u64;
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let most = if self.in_copy { 4 } else { LINE };
            let room = most.saturating_sub(self.open.len()).min(text.len());
            self.open.extend_from_slice(&text[..room]);
            if ends {
                self.close();
            }
        }
    }

    fn finish(&mut self) {
        if !self.open.is_empty() {
            self.close();
        }
    }

    fn close(&mut self) {
        let line = std::mem::take(&mut self.open);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if self.in_copy {
            if line == b"\\." {
                self.in_copy = false;
            } else {
                self.rows += 1;
            }
            return;
        }
        let starts = |with: &str| line.starts_with(with.as_bytes());
        if starts("COPY ") && line.ends_with(b"FROM stdin;") {
            self.in_copy = true;
        } else if starts("CREATE TABLE ") || starts("CREATE UNLOGGED TABLE ") {
            self.tables += 1;
        } else if starts("INSERT INTO ") {
            self.rows += 1;
        } else if starts("-- PostgreSQL database dump complete") {
            self.complete = true;
        } else if starts("-- PostgreSQL database cluster dump complete") {
            self.complete = true;
            self.elsewhere = true;
        } else if starts("CREATE DATABASE ")
            || starts("DROP DATABASE ")
            || (starts("\\") && !starts("\\restrict ") && !starts("\\unrestrict "))
        {
            self.elsewhere = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nCREATE TABLE public.plans (\n    code text\n);\n\n\
                        COPY public.plans (code) FROM stdin;\nfree\nCREATE TABLE x\n\\\\.\n\\.\n\n\
                        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n";

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn zipped(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_whole_dump_is_counted() {
        let bytes = zipped(DUMP);
        let found = scan(file(&bytes), true).unwrap();
        assert_eq!((found.integrity.as_str(), found.tables, found.rows), ("ok", 1, 3), "{found:?}");
        assert!(found.restorable);
        assert_eq!(found.dump_bytes, DUMP.len() as u64);
        assert_eq!(found.digest, HEXLOWER.encode(&Sha256::digest(&bytes)));
        assert_eq!(scan(file(DUMP.as_bytes()), false).unwrap().integrity, "ok");
    }

    #[test]
    fn every_way_of_being_broken_has_its_word() {
        // Long enough that its middle is neither header nor trailer.
        let rows: String = (0..20_000).map(|n| format!("{n}\t{}\n", n * 7919)).collect();
        let dump = DUMP.replace("free\n", &rows);
        let bytes = zipped(&dump);
        let word = |bytes: &[u8]| scan(file(bytes), true).unwrap().integrity;
        assert_eq!(word(&bytes), "ok");
        assert_eq!(word(&bytes[..bytes.len() / 2]), "truncated");
        assert_eq!(word(&bytes[..bytes.len() - 3]), "truncated");
        let middle = bytes.len() / 2;
        let mut flipped = bytes;
        flipped[middle..middle + 64].fill(0xff);
        assert_eq!(word(&flipped), "corrupt");
        assert_eq!(word(b"not gzip at all"), "corrupt");
        assert_eq!(word(b""), "empty");
        assert_eq!(word(&zipped("")), "empty");
        let half = dump.len() / 2;
        assert_eq!(word(&zipped(&dump[..half])), "incomplete");
        assert_eq!(word(&zipped("-- PostgreSQL database dump\nCREATE TABLE a (b int);\n")), "incomplete");
        // The digest covers a damaged file to its end.
        assert_eq!(scan(file(&flipped), true).unwrap().digest, HEXLOWER.encode(&Sha256::digest(&flipped)));
    }

    #[test]
    fn a_dump_that_goes_elsewhere_is_not_restored_here() {
        for line in ["\\connect sylion_prod", "CREATE DATABASE x;", "\\! rm -r /"] {
            let found =
                scan(file(DUMP.replace("--\n\n\\restrict abc", &format!("--\n{line}")).as_bytes()), false);
            let found = found.unwrap();
            assert!(found.integrity == "ok" && !found.restorable, "{line}: {found:?}");
        }
    }
}
