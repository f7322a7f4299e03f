//! The files that are watched: a stack's own and nginx's, by their digests. No value of an env file is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use super::{FILES, Host, Kind, LONGEST, NGINX, Noted, SeenFile};
use crate::host::stacks::env_file::EnvNames;

/// Every file that is watched, with what it is and whose.
pub(super) fn places(host: &Host) -> BTreeMap<PathBuf, (Kind, String)> {
    let mut places = BTreeMap::new();
    for stack in host.stacks().all() {
        let mut env: BTreeSet<PathBuf> = stack.effective_env_files().into_iter().collect();
        env.extend(stack.service_env_files.iter().flatten().cloned());
        env.extend(
            stack.compose_env.values().map(|value| stack.directory.join(value)).filter(|path| path.is_file()),
        );
        places.extend(env.into_iter().map(|path| (path, (Kind::Env, stack.name.clone()))));
        places.extend(
            stack.config_files.iter().map(|path| (path.clone(), (Kind::Compose, stack.name.clone()))),
        );
    }
    let mut folders = vec![PathBuf::from(NGINX)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            // A link to a folder may lead round; a link to a file is how sites are enabled.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if path.is_file() {
                places.insert(path, (Kind::Nginx, String::new()));
            }
            if places.len() > FILES {
                return places;
            }
        }
    }
    places
}

/// What the files hold now; what has not changed since is not read again.
pub(super) fn files(
    places: &BTreeMap<PathBuf, (Kind, String)>,
    before: &BTreeMap<PathBuf, SeenFile>,
    salt: &str,
) -> BTreeMap<PathBuf, SeenFile> {
    let mut present = BTreeMap::new();
    for (path, (kind, stack)) in places {
        let Ok(data) = fs::metadata(path) else { continue };
        let touched = data.ctime().saturating_mul(1_000_000_000).saturating_add(data.ctime_nsec());
        let stamp = (data.mtime(), touched, data.size(), data.ino());
        if let Some(same) = before.get(path).filter(|then| then.stamp == stamp) {
            present.insert(path.clone(), same.clone());
            continue;
        }
        if data.len() > LONGEST {
            continue;
        }
        match fs::read(path) {
            Ok(bytes) => {
                let names = if *kind == Kind::Env { variables(&bytes, salt) } else { BTreeMap::new() };
                // A digest of a file of secrets is theirs too.
                let digest = if *kind == Kind::Env {
                    keyed(salt, &bytes)
                } else {
                    HEXLOWER.encode(&Sha256::digest(&bytes))
                };
                present.insert(
                    path.clone(),
                    SeenFile { kind: *kind, stack: stack.clone(), stamp, digest, names },
                );
            }
            // What cannot be read at this moment has not changed.
            Err(_) => drop(before.get(path).map(|then| present.insert(path.clone(), then.clone()))),
        }
    }
    present
}

/// The names that an env file sets, each with a keyed digest of what it is set to.
fn variables(bytes: &[u8], salt: &str) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let names = EnvNames::parse(&text).set();
    let begins = |line: &str| -> Option<String> {
        let line = line.trim_start();
        let (name, _) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        names.get(name.trim()).cloned()
    };
    let mut found = BTreeMap::new();
    let mut open: Option<(String, String)> = None;
    for line in lines {
        if let Some(name) = begins(line) {
            found.extend(open.take().map(|(name, value)| (name, keyed(salt, value.as_bytes()))));
            open = Some((name, line.trim().to_owned()));
        } else if let Some((_, value)) =
            open.as_mut().filter(|_| !line.trim_start().starts_with('#') && !line.trim().is_empty())
        {
            value.push_str(line);
        }
    }
    found.extend(open.map(|(name, value)| (name, keyed(salt, value.as_bytes()))));
    found
}

fn keyed(salt: &str, bytes: &[u8]) -> String {
    let mut digest = Sha256::new();
    digest.update(salt.as_bytes());
    digest.update(bytes);
    HEXLOWER.encode(&digest.finalize()[..12])
}

/// What is other than it was.
pub(super) fn compare(
    before: &BTreeMap<PathBuf, SeenFile>,
    present: &BTreeMap<PathBuf, SeenFile>,
    looked_ms: i64,
    now: i64,
) -> Vec<Noted> {
    let noted = |path: &Path, seen: &SeenFile, at_ms: i64, says: String| Noted {
        at_ms,
        kind: seen.kind.word().to_owned(),
        what: path.display().to_string(),
        says,
        stack: seen.stack.clone(),
        ..Noted::default()
    };
    let mut found = Vec::new();
    for (path, seen) in present {
        // A file that was copied with its time bears one from long before.
        let written = seen.stamp.0.saturating_mul(1000);
        let at_ms = if (looked_ms..=now).contains(&written) { written } else { now };
        let Some(then) = before.get(path) else {
            found.push(Noted { after: short(seen), ..noted(path, seen, at_ms, "appeared".to_owned()) });
            continue;
        };
        if then.digest == seen.digest {
            continue;
        }
        let names = |a: &SeenFile, b: &SeenFile| -> Vec<String> {
            a.names.keys().filter(|name| !b.names.contains_key(*name)).cloned().collect()
        };
        let (added, removed) = (names(seen, then), names(then, seen));
        let changed: Vec<String> = seen
            .names
            .iter()
            .filter(|(name, value)| then.names.get(*name).is_some_and(|old| old != *value))
            .map(|(name, _)| name.clone())
            .collect();
        let mut parts = Vec::new();
        for (word, names) in [("added", &added), ("removed", &removed), ("changed", &changed)] {
            if !names.is_empty() {
                parts.push(format!("{word} {}", names.join(", ")));
            }
        }
        let says = if parts.is_empty() { "changed".to_owned() } else { parts.join("; ") };
        found.push(Noted {
            before: short(then),
            after: short(seen),
            added,
            removed,
            changed,
            ..noted(path, seen, at_ms, says)
        });
    }
    let gone = before.iter().filter(|(path, _)| !present.contains_key(*path) && !path.exists());
    found.extend(
        gone.map(|(path, seen)| Noted {
            before: short(seen),
            ..noted(path, seen, now, "removed".to_owned())
        }),
    );
    found
}

/// Twelve digits tell files apart; those of env files are keyed and tell nothing else.
fn short(seen: &SeenFile) -> String {
    seen.digest.get(..12).unwrap_or(&seen.digest).to_owned()
}
