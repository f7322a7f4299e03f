//! Files that a host's policy or a stack names.

use std::{
    collections::BTreeSet,
    fs, io,
    io::{Read as _, Seek as _, SeekFrom},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use vigie_proto::v1::{EnvCheckRequest, EnvCheckResult, FileTailRequest, FileTailResult, OutcomeStatus};

use super::{Context, Fault, text};
use crate::host::stacks::{
    KnownStack,
    env_file::{Emptiness, EnvNames},
    expansion::{self, FileUses, Known},
};

/// Lines when the request does not say.
const LINES: u32 = 50;

/// What is read from a file's end at most.
const TAIL_BYTES: u64 = 1024 * 1024;

/// Folders whose files are no files: reading one may tell a secret, change something or never end.
const NEVER: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Reads the end of a file in a folder that the policy allows.
pub(super) async fn tail(request: FileTailRequest, cx: &Context) -> Result<FileTailResult, Fault> {
    let path = PathBuf::from(&request.path);
    if path.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)) {
        return Err(Fault::refused("path_invalid", format!("{} is not in its plain form", path.display()))
            .hint("give the path without `.` and `..`"));
    }
    may_read(cx, &path)?;
    let real = match fs::canonicalize(&path) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(FileTailResult { path: request.path, ..FileTailResult::default() });
        }
        Err(error) => return Err(unreadable(&path, &error)),
    };
    // A link inside an allowed folder may lead out of it.
    may_read(cx, &real)?;
    let lines = if request.lines == 0 { LINES } else { request.lines };
    let read = tokio::task::spawn_blocking(move || {
        let found = open(&real).and_then(|file| read_end(file, lines as usize));
        found.map_err(|error| unreadable(&real, &error))
    });
    let end = read.await.map_err(|error| Fault::failed("file_unreadable", error))??;
    Ok(FileTailResult {
        path: request.path,
        present: true,
        size_bytes: end.size,
        modified_at_ms: end.modified_at_ms,
        lines: text::lines(&cx.host, &end.lines),
        truncated: end.truncated,
    })
}

fn may_read(cx: &Context, path: &Path) -> Result<(), Fault> {
    if NEVER.iter().any(|folder| path.starts_with(folder)) {
        return Err(Fault::refused("path_forbidden", format!("{} is no plain file", path.display())));
    }
    if cx.ordered {
        return Ok(());
    }
    cx.host.policy().may_tail(path).map_err(|failure| Fault {
        status: OutcomeStatus::Refused,
        failure,
        partial: None,
    })
}

/// Opens a file whose path holds no link any more: one that is put there in between is an error.
fn open(path: &Path) -> io::Result<fs::File> {
    // Without NONBLOCK a pipe would be waited for before it can be seen to be one.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened: OwnedFd =
        match rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                rustix::fs::open(path, flags, Mode::empty())?
            }
            opened => opened?,
        };
    let file = fs::File::from(opened);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
    }
    Ok(file)
}

struct End {
    lines: Vec<String>,
    size: u64,
    modified_at_ms: i64,
    truncated: bool,
}

fn read_end(mut file: fs::File, lines: usize) -> io::Result<End> {
    const BLOCK: u64 = 64 * 1024;
    let meta = file.metadata()?;
    let size = meta.len();
    let (mut begin, mut bytes) = (size, Vec::new());
    // Backwards, block by block, until there are enough line breaks: a log of gigabytes costs one block.
    while begin > 0
        && size - begin < TAIL_BYTES
        && bytes.iter().filter(|byte| **byte == b'\n').count() <= lines
    {
        let length = BLOCK.min(begin);
        begin -= length;
        file.seek(SeekFrom::Start(begin))?;
        let mut block = Vec::new();
        (&mut file).take(length).read_to_end(&mut block)?;
        block.append(&mut bytes);
        bytes = block;
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut all: Vec<&str> = text.lines().collect();
    let whole = begin == 0;
    if !whole && !all.is_empty() {
        // The first line's beginning was not read.
        all.remove(0);
    }
    let enough = all.len() >= lines;
    let kept = &all[all.len().saturating_sub(lines)..];
    Ok(End {
        lines: kept.iter().map(|line| (*line).to_owned()).collect(),
        size,
        modified_at_ms: meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000,
        truncated: !whole && !enough,
    })
}

/// Tells which variables a stack needs and its env file lacks.
pub(super) async fn env_check(request: EnvCheckRequest, cx: &Context) -> Result<EnvCheckResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    check(&stack)
}

fn check(stack: &KnownStack) -> Result<EnvCheckResult, Fault> {
    let files = stack.effective_env_files();
    let mut read: Vec<(PathBuf, Option<EnvNames>)> = Vec::new();
    for file in files {
        let names = match fs::read(&file) {
            Ok(bytes) => Some(EnvNames::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unreadable(&file, &error)),
        };
        read.push((file, names));
    }
    // Of several files the last one counts, as for Compose; what it says is shown as that of the first.
    let known = |name: &str| {
        let value = read.iter().rev().find_map(|(_, names)| names.as_ref()?.names.get(name));
        match (stack.compose_env.get(name), value) {
            (Some(value), _) => {
                if value.is_empty() {
                    Known::Empty
                } else {
                    Known::Set
                }
            }
            (None, Some(Emptiness::Full)) => Known::Set,
            (None, Some(Emptiness::Empty)) => Known::Empty,
            // What the agent itself hands to Compose.
            (None, None) if matches!(name, "HOME" | "PATH" | "LC_ALL" | "COMPOSE_PROJECT_NAME") => Known::Set,
            (None, None) => Known::Unset,
        }
    };
    let mut uses = FileUses::default();
    for file in &stack.config_files {
        let text = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        uses.merge(expansion::in_file(&text, &known));
    }
    let mut missing: BTreeSet<String> = uses.values.missing;
    let (mut removed, mut empty) = (BTreeSet::new(), BTreeSet::new());
    let (mut count, mut bad_lines) = (0, Vec::new());
    for (at, (file, names)) in read.iter().enumerate() {
        let example = example_of(file).map(|text| EnvNames::parse(&text)).unwrap_or_default();
        missing.extend(example.set().into_iter().filter(|name| known(name) == Known::Unset));
        let remembered = stack.env_names.get(file).into_iter().flatten();
        removed.extend(remembered.filter(|name| known(name) == Known::Unset).cloned());
        let Some(names) = names else { continue };
        // An example may leave a value out on purpose.
        empty.extend(
            names.empty().filter(|name| example.names.get(*name) != Some(&Emptiness::Empty)).cloned(),
        );
        count += u32::try_from(names.names.len()).unwrap_or(u32::MAX);
        if at == 0 {
            bad_lines.clone_from(&names.bad_lines);
        }
    }
    let first = read.first();
    Ok(EnvCheckResult {
        env_file: first.map(|(file, _)| file.to_string_lossy().into_owned()).unwrap_or_default(),
        present: first.is_some_and(|(_, names)| names.is_some()),
        modified_at_ms: first
            .and_then(|(file, _)| fs::metadata(file).ok())
            .map_or(0, |meta| meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000),
        missing: missing.into_iter().collect(),
        empty: empty.into_iter().collect(),
        removed: removed.into_iter().collect(),
        count,
        bad_lines,
    })
}

/// The example beside an env file: `.env.prod.example`, else `.env.example`.
fn example_of(file: &Path) -> Option<String> {
    let own = PathBuf::from(format!("{}.example", file.display()));
    fs::read_to_string(own).or_else(|_| fs::read_to_string(file.with_file_name(".env.example"))).ok()
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let fault = Fault::failed("file_unreadable", format!("{} cannot be read: {error}", path.display()));
    match error.kind() {
        io::ErrorKind::PermissionDenied => fault.hint("the agent does not run as root"),
        _ => fault,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Write as _};

    use super::*;

    fn end(content: &[u8], lines: usize) -> End {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        read_end(file.reopen().unwrap(), lines).unwrap()
    }

    #[test]
    fn the_end_of_small_large_and_strange_files() {
        let found = end(b"one\ntwo\nthree", 2);
        assert_eq!(
            (found.lines, found.size, found.truncated),
            (vec!["two".to_owned(), "three".to_owned()], 13, false)
        );
        assert!(end(b"", 5).lines.is_empty());
        let large: Vec<u8> = (0..200_000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let found = end(&large, 3);
        assert_eq!(found.lines, ["line 199997", "line 199998", "line 199999"]);
        assert!(!found.truncated);
        let one = end(&vec![b'x'; 3 << 20], 2);
        assert!(one.truncated && one.lines.is_empty());
        assert_eq!(end(b"\xff\xfe\n", 1).lines, ["\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn links_pipes_and_folders_are_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        // The folder's own path may hold a link; the checks before give the canonical one.
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("log"), "x\n").unwrap();
        assert!(open(&root.join("log")).is_ok());
        std::os::unix::fs::symlink(root.join("log"), root.join("link")).unwrap();
        assert!(open(&root.join("link")).is_err());
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/log"), "x\n").unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("folder")).unwrap();
        assert!(open(&root.join("folder/log")).is_err());
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        assert!(open(&root.join("pipe")).is_err());
        assert!(open(&root).is_err());
    }

    fn project(compose: &str, env: &str) -> (tempfile::TempDir, KnownStack) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("compose.yml"), compose).unwrap();
        fs::write(folder.path().join(".env.prod"), env).unwrap();
        let stack = KnownStack {
            name: "shop".to_owned(),
            directory: folder.path().to_owned(),
            config_files: vec![folder.path().join("compose.yml")],
            env_files: vec![folder.path().join(".env.prod")],
            ..KnownStack::default()
        };
        (folder, stack)
    }

    #[test]
    fn missing_empty_removed_and_bad() {
        let (folder, mut stack) = project(
            "services:\n  a:\n    env_file: ${ENV_FILE}\n    command: \"${A} ${B:-x} ${E} ${SHELLED} $$C\"\n",
            "E=\nKEPT=1\nbad line\n",
        );
        let file = folder.path().join(".env.prod");
        let names = ["KEPT", "GONE"].map(str::to_owned);
        stack.env_names = BTreeMap::from([(file, BTreeSet::from(names))]);
        stack.compose_env = BTreeMap::from([("SHELLED".to_owned(), "x".to_owned())]);
        fs::write(folder.path().join(".env.example"), "KEPT=\nWANTED=\n").unwrap();
        let found = check(&stack).unwrap();
        assert!(found.present && found.env_file.ends_with("/.env.prod") && found.modified_at_ms > 0);
        assert_eq!(found.missing, ["A", "WANTED"], "ENV_FILE is asked of Compose's caller, not of the file");
        assert_eq!(found.empty, ["E"]);
        assert_eq!(found.removed, ["GONE"]);
        assert_eq!((found.count, found.bad_lines), (2, vec![3]));
    }

    #[test]
    fn an_env_file_that_is_gone_lacks_everything() {
        let (folder, stack) = project("services:\n  a:\n    image: ${IMAGE}\n", "");
        fs::remove_file(folder.path().join(".env.prod")).unwrap();
        let found = check(&stack).unwrap();
        assert!(!found.present);
        assert_eq!(found.missing, ["IMAGE"]);
    }
}
