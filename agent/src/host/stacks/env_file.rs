//! Env files: which names they set. Values are looked at only to tell whether they are empty, and never kept.

use std::collections::{BTreeMap, BTreeSet};

/// The names of an env file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct EnvNames {
    /// Every name that is set, with whether its value is empty.
    pub names: BTreeMap<String, Emptiness>,
    /// Lines that are no assignment, from 1.
    pub bad_lines: Vec<u32>,
}

/// Whether a variable has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emptiness {
    Empty,
    Full,
}

impl EnvNames {
    /// Reads an env file: `NAME=value`, `export NAME=value`, comments, blank lines, values in quotes over several
    /// lines.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut lines = (1_u32..).zip(text.strip_prefix('\u{feff}').unwrap_or(text).lines());
        while let Some((number, line)) = lines.next() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let line = line.strip_prefix("export ").map_or(line, str::trim_start);
            let Some((name, value)) = line.split_once('=') else {
                // A bare name takes its value from Compose's own environment: legal, and not set here.
                if !is_name(line) {
                    found.bad_lines.push(number);
                }
                continue;
            };
            let (name, value) = (name.trim_end(), value.trim());
            if !is_name(name) {
                found.bad_lines.push(number);
                continue;
            }
            let mut empty = value.is_empty() || value.starts_with('#');
            if let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\'')) {
                let mut rest = &value[1..];
                empty = rest.starts_with(quote);
                while !closes(rest, quote) {
                    let Some((_, next)) = lines.next() else {
                        found.bad_lines.push(number);
                        break;
                    };
                    rest = next;
                }
            }
            found.names.insert(name.to_owned(), if empty { Emptiness::Empty } else { Emptiness::Full });
        }
        found
    }

    /// The names, without what they hold.
    pub fn set(&self) -> BTreeSet<String> {
        self.names.keys().cloned().collect()
    }

    /// The names that are set to nothing.
    pub fn empty(&self) -> impl Iterator<Item = &String> {
        self.names.iter().filter(|(_, emptiness)| **emptiness == Emptiness::Empty).map(|(name, _)| name)
    }
}

fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Whether the quote that is open at the beginning of a line is closed on it.
fn closes(line: &str, quote: char) -> bool {
    let mut escaped = false;
    for c in line.chars() {
        if c == quote && !escaped {
            return true;
        }
        escaped = quote == '"' && c == '\\' && !escaped;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_real_file() {
        let found = EnvNames::parse(
            "\u{feff}NODE_ENV=production\r\n# comment\n\nexport PORT = 8000\nPASSWORD=a#b+c%d=\nEMPTY=\nQUOTED=\"\"\n\
             KEY=\"-----BEGIN\nnot=a line\nEND-----\"\nAFTER='x'\nBARE\nbad line\n=x\n1A=b\n",
        );
        let names: Vec<_> = found.set().into_iter().collect();
        assert_eq!(names, ["AFTER", "EMPTY", "KEY", "NODE_ENV", "PASSWORD", "PORT", "QUOTED"]);
        assert_eq!(found.empty().collect::<Vec<_>>(), ["EMPTY", "QUOTED"]);
        assert_eq!(found.bad_lines, [13, 14, 15]);
    }

    #[test]
    fn an_open_quote_is_a_bad_line() {
        assert_eq!(EnvNames::parse("A=1\nB=\"open\nC=3\n").bad_lines, [2]);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,80}|[A-C=\"'#\\n\\\\ ]{0,80}") {
            EnvNames::parse(&text);
        }

        #[test]
        fn plain_assignments_are_all_found(names in proptest::collection::btree_set("[A-Z_][A-Z0-9_]{0,8}", 0..8)) {
            let text: String = names.iter().map(|name| format!("{name}=v\n")).collect();
            let found = EnvNames::parse(&text);
            prop_assert_eq!(found.set(), names);
            prop_assert!(found.bad_lines.is_empty());
        }
    }
}
