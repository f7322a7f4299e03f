//! The value of a variable in a stack's env files: what an operation needs to speak to the stack's own servers as the
//! stack does.
//!
//! A value never leaves this process; it is wiped when it is dropped. Files are read anew each time, since a person may
//! just have corrected one.

use std::{collections::BTreeMap, fs, path::PathBuf};

use zeroize::Zeroizing;

use super::KnownStack;

/// How many values one may be made of.
const REFERENCES: usize = 16;

/// A value, and the file that sets it.
#[derive(Clone)]
pub struct Variable {
    pub name: String,
    pub value: Zeroizing<String>,
    pub file: PathBuf,
}

impl KnownStack {
    /// The variable of the first of these names that one of the stack's env files sets to something. Where several
    /// files set it, the one that Compose reads last counts.
    pub fn variable(&self, names: &[&str]) -> Option<Variable> {
        let own = self.effective_env_files();
        let services = self.service_env_files.iter().flatten().cloned();
        // The services' own files come first here, so that Compose's win: they set what the servers are made with.
        let files: Vec<PathBuf> = services.filter(|file| !own.contains(file)).chain(own.clone()).collect();
        let texts: Vec<(PathBuf, Zeroizing<String>)> = files
            .into_iter()
            .filter_map(|file| Some((file.clone(), Zeroizing::new(fs::read_to_string(&file).ok()?))))
            .collect();
        let mut all = BTreeMap::new();
        for (file, text) in &texts {
            for (name, value) in assignments(text) {
                all.insert(name, (value, file));
            }
        }
        names.iter().find_map(|name| {
            let (value, file) = all.get(*name)?;
            let value = resolved(value, &all, REFERENCES);
            let found = Variable { name: (*name).to_owned(), value, file: (*file).clone() };
            (!found.value.is_empty()).then_some(found)
        })
    }
}

/// A value as it is written, and whether variables in it are replaced.
struct Written {
    text: Zeroizing<String>,
    literal: bool,
}

/// Every assignment of an env file, quotes taken off.
fn assignments(text: &str) -> Vec<(String, Written)> {
    let mut found = Vec::new();
    let mut lines = text.strip_prefix('\u{feff}').unwrap_or(text).lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.strip_prefix("export ").unwrap_or(line).split_once('=') else {
            continue;
        };
        let (name, value) = (name.trim().to_owned(), value.trim());
        let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let end = value.find(" #").unwrap_or(value.len());
            let value = if value.starts_with('#') { "" } else { value[..end].trim_end() };
            let text = Zeroizing::new(value.to_owned());
            found.push((name, Written { text, literal: false }));
            continue;
        };
        let mut text = Zeroizing::new(String::new());
        let mut rest = &value[1..];
        while !unquote(rest, quote, &mut text) {
            let Some(next) = lines.next() else { break };
            text.push('\n');
            rest = next;
        }
        found.push((name, Written { text, literal: quote == '\'' }));
    }
    found
}

/// Adds what stands before the closing quote; false when it is not on this line.
fn unquote(line: &str, quote: char, into: &mut String) -> bool {
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c == quote => return true,
            '\\' if quote == '"' => match chars.next() {
                Some('n') => into.push('\n'),
                Some(c @ ('"' | '\\')) => into.push(c),
                // A dollar that is no variable: said in the way that replacing knows.
                Some('$') => into.push_str("$$"),
                Some(c) => into.extend(['\\', c]),
                None => into.push('\\'),
            },
            c => into.push(c),
        }
    }
    false
}

/// The value with the variables in it replaced, as Compose does: `$NAME`, `${NAME}`, `${NAME:-default}`, `$$`.
fn resolved(
    written: &Written,
    all: &BTreeMap<String, (Written, &PathBuf)>,
    depth: usize,
) -> Zeroizing<String> {
    if written.literal || depth == 0 {
        return written.text.clone();
    }
    let mut done = Zeroizing::new(String::new());
    let mut rest = written.text.as_str();
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            done.push('$');
            rest = after;
            continue;
        }
        let (inner, after) = match rest.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(found) => found,
            None => rest.split_at(rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len())),
        };
        let (name, operator) = inner.split_at(inner.find(|c: char| !is_of_name(c)).unwrap_or(inner.len()));
        if name.is_empty() {
            // A dollar that is no variable stays.
            done.push('$');
            continue;
        }
        let default = operator.strip_prefix(":-").or_else(|| operator.strip_prefix('-')).unwrap_or_default();
        match all.get(name) {
            Some((value, _)) if !value.text.is_empty() => done.push_str(&resolved(value, all, depth - 1)),
            _ => done.push_str(default),
        }
        rest = after;
    }
    done.push_str(rest);
    done
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(folder: &tempfile::TempDir, text: &str) -> KnownStack {
        fs::write(folder.path().join(".env"), text).unwrap();
        KnownStack { directory: folder.path().to_owned(), ..KnownStack::default() }
    }

    #[test]
    fn values_as_compose_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let stack = stack(
            &folder,
            "\u{feff}A=a#b+c%d= # said\nexport B = \"x \\\"$A\\\" \\$A\"\nC='$A'\nD=redis://:${A}@h:1/0\nE=\nF=${E:-e}$$\nG=one\n\
             G=two\nH=\"first\nsecond\"\n#A=old\nI=cost $5\nJ=${J}\n",
        );
        let value = |name| stack.variable(&[name]).map(|found| found.value.to_string());
        for (name, expected) in [
            ("A", Some("a#b+c%d=")),
            ("B", Some("x \"a#b+c%d=\" $A")),
            ("C", Some("$A")),
            ("D", Some("redis://:a#b+c%d=@h:1/0")),
            ("E", None),
            ("F", Some("e$")),
            ("G", Some("two")),
            ("H", Some("first\nsecond")),
            ("Z", None),
        ] {
            assert_eq!(value(name).as_deref(), expected, "{name}");
        }
        assert!(value("J").is_some(), "one that names itself ends");
        let found = stack.variable(&["Z", "G", "A"]).unwrap();
        assert_eq!((found.name.as_str(), found.file.ends_with(".env")), ("G", true));
    }
}
