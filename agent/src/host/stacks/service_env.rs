//! The env files that the services of a stack name with `env_file`. Compose reads them into the services' environment
//! and tells of them no more, so that the stack's own files are read.
//!
//! Variables in a path are replaced from `compose_env` and by their defaults; what `include` and `extends` bring in is
//! not followed, and known by what Compose makes of it.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use serde_json::Value;

use super::KnownStack;

/// How many variables of one path are replaced.
const VARIABLES: usize = 8;

/// The env files that the services name, absolute.
///
/// # Errors
/// When one of the stack's files cannot be read, or (`InvalidData`) not understood. One that is not there names none.
pub(super) fn files(stack: &KnownStack) -> Result<BTreeSet<PathBuf>, (PathBuf, io::Error)> {
    let mut found = BTreeSet::new();
    for file in &stack.config_files {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err((file.clone(), error)),
        };
        let tree: Value = serde_saphyr::from_str(&text)
            .map_err(|error| (file.clone(), io::Error::new(io::ErrorKind::InvalidData, error)))?;
        for service in tree["services"].as_object().into_iter().flat_map(|services| services.values()) {
            let named = match &service["env_file"] {
                Value::Array(files) => files.iter().collect(),
                one => vec![one],
            };
            let named = named.into_iter().filter_map(|file| file.as_str().or_else(|| file["path"].as_str()));
            found.extend(named.flat_map(|file| paths(stack, file)).map(|path| stack.directory.join(path)));
        }
    }
    Ok(found)
}

/// What a path may come out as.
fn paths(stack: &KnownStack, written: &str) -> Vec<String> {
    let (mut open, mut done) = (vec![written.to_owned()], Vec::new());
    for _ in 0..VARIABLES {
        for path in std::mem::take(&mut open) {
            let Some((before, inner, after)) = variable(&path) else {
                done.push(path);
                continue;
            };
            let end = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
            let (name, operator) = inner.split_at(end);
            let default = operator.strip_prefix(':').unwrap_or(operator).strip_prefix('-');
            let values = stack.compose_env.get(name).map(String::as_str).into_iter().chain(default);
            open.extend(values.map(|value| format!("{before}{value}{after}")));
        }
    }
    done
}

/// The last variable of a path, which has none within: what is before it, what it says, and what is after it.
fn variable(path: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = path.split_at(path.rfind('$')?);
    let rest = &rest[1..];
    if let Some(braced) = rest.strip_prefix('{') {
        let (inner, after) = braced.split_once('}')?;
        return Some((before, inner, after));
    }
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    Some((before, &rest[..end], &rest[end..]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_way_of_naming_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("compose.yml");
        let text = "services:\n  a: {env_file: ./a.env}\n  b:\n    env_file:\n      - /etc/b.env\n      - path: c.env\n        \
                    required: false\n  c:\n    env_file: ['${ENV_FILE:-.env.${STAGE:-dev}}', '$ENV_FILE.local']\n  d: {}\n";
        fs::write(&file, text).unwrap();
        let stack = KnownStack {
            directory: "/srv/shop".into(),
            config_files: vec![file.clone(), folder.path().join("absent.yml")],
            compose_env: BTreeMap::from([("ENV_FILE".to_owned(), ".env.prod".to_owned())]),
            ..KnownStack::default()
        };
        let expected = [
            "/etc/b.env",
            "/srv/shop/.env.dev",
            "/srv/shop/.env.prod",
            "/srv/shop/.env.prod.local",
            "/srv/shop/a.env",
            "/srv/shop/c.env",
        ]
        .map(PathBuf::from);
        assert_eq!(files(&stack).unwrap(), BTreeSet::from(expected));
        fs::write(&file, "services: [").unwrap();
        assert_eq!(files(&stack).unwrap_err().1.kind(), io::ErrorKind::InvalidData);
    }
}
