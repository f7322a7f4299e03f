//! The newest file of a build context.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::host::glob::matches;

/// More files than this are not looked at: stat is cheap, but not free on a slow disk.
const FILES: usize = 20_000;

/// Folders that are large, change by themselves and hardly ever are sources.
const SKIPPED: [&str; 3] = [".git", "node_modules", "target"];

/// What a walk found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Newest {
    /// Relative to the context.
    pub path: String,
    pub modified_at_ms: i64,
    pub truncated: bool,
}

/// Walks a build context, what `.dockerignore` leaves out left out.
pub(super) fn newest(context: &Path) -> io::Result<Newest> {
    let ignored = Ignored::parse(&fs::read_to_string(context.join(".dockerignore")).unwrap_or_default());
    let (mut found, mut seen) = (Newest::default(), 0);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(context.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if folder.as_os_str().is_empty() => return Err(error),
            // A folder that went away, or that is not ours to read.
            Err(_) => continue,
        };
        for entry in entries.flatten() {
            let relative = folder.join(entry.file_name());
            // Links are not followed: Docker sends them as links.
            let Ok(meta) = entry.metadata() else { continue };
            let name = relative.to_string_lossy().into_owned();
            if meta.is_dir() {
                if !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped)
                    && !ignored.whole_folder(&name)
                {
                    folders.push(relative);
                }
                continue;
            }
            seen += 1;
            if seen > FILES {
                found.truncated = true;
                return Ok(found);
            }
            let modified_at_ms = meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000;
            if modified_at_ms > found.modified_at_ms && !ignored.file(&name) {
                (found.path, found.modified_at_ms) = (name, modified_at_ms);
            }
        }
    }
    Ok(found)
}

/// `.dockerignore`: the last pattern that matches a path or one of its folders decides.
struct Ignored(Vec<(String, bool)>);

impl Ignored {
    fn parse(text: &str) -> Self {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| match line.strip_prefix('!') {
                    Some(pattern) => (pattern, false),
                    None => (line, true),
                })
                .map(|(pattern, ignores)| {
                    let plain = pattern.trim().trim_start_matches("./").trim_matches('/');
                    (plain.to_owned(), ignores)
                })
                .collect(),
        )
    }

    fn file(&self, path: &str) -> bool {
        let decides = self.0.iter().rev().find(|(pattern, _)| covers(pattern, path));
        decides.is_some_and(|(_, ignores)| *ignores)
    }

    /// A folder is left out whole only where no exception could bring a file of it back.
    fn whole_folder(&self, path: &str) -> bool {
        self.0.iter().all(|(_, ignores)| *ignores) && self.file(path)
    }
}

/// Whether a pattern matches a path or one of the folders above it.
fn covers(pattern: &str, path: &str) -> bool {
    let anywhere = pattern.strip_prefix("**/");
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).any(|part| match anywhere {
        Some(rest) => {
            let starts = part.match_indices('/').map(|(at, _)| at + 1).chain([0]);
            starts.into_iter().any(|start| matches(rest, &part[start..]))
        }
        None => matches(pattern, part),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn put(root: &Path, path: &str, age_s: u64) {
        let file = root.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "x").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - age_s);
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn the_newest_source_counts_and_what_is_ignored_does_not() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "src/deep/main.py", 50);
        put(folder.path(), "Dockerfile", 100);
        for ignored in ["node_modules/x.js", ".git/HEAD", "logs/today.log", "src/a.tmp", "data/x"] {
            put(folder.path(), ignored, 10);
        }
        fs::write(folder.path().join(".dockerignore"), "# no\n/logs\n**/*.tmp\ndata\n.dockerignore\n")
            .unwrap();
        let found = newest(folder.path()).unwrap();
        assert_eq!(found.path, "src/deep/main.py");
        assert_eq!(found.modified_at_ms, (1_700_000_000 - 50) * 1000);
        assert!(!found.truncated);
    }

    #[test]
    fn an_exception_brings_a_file_back() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "data/keep", 10);
        put(folder.path(), "data/drop", 5);
        put(folder.path(), "a", 50);
        fs::write(folder.path().join(".dockerignore"), "data\n!data/keep\n.dockerignore\n").unwrap();
        assert_eq!(newest(folder.path()).unwrap().path, "data/keep");
    }

    #[test]
    fn a_context_that_is_gone_is_an_error() {
        assert!(newest(Path::new("/nonexistent/context")).is_err());
    }
}
