//! Which variables a Compose file interpolates, and which of them would come out unset.
//!
//! Compose's own warning tells the same, but only where Compose runs and the files are otherwise sound; and it tells
//! nothing about a variable that is set to nothing. Values never come here, only whether there is one.

use std::collections::BTreeSet;

/// What is known of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Unset,
    Empty,
    Set,
}

/// The variables of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Used where nothing sets them and no default stands in.
    pub missing: BTreeSet<String>,
    /// Every variable that is looked at.
    pub all: BTreeSet<String>,
}

/// How deep `${A:-${B:-…}}` is followed. People write two levels; the bound keeps a hostile file off the stack.
const DEPTH: usize = 16;

impl Uses {
    /// Adds the variables of one scalar, as Compose would expand it.
    pub fn read(&mut self, text: &str, known: &dyn Fn(&str) -> Known) {
        self.expand(text, known, DEPTH);
    }

    fn expand(&mut self, text: &str, known: &dyn Fn(&str) -> Known, depth: usize) {
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                rest = after;
            } else if let Some(after) = rest.strip_prefix('{') {
                let end = closing(after).unwrap_or(after.len());
                self.braced(&after[..end], known, depth);
                rest = after.get(end + 1..).unwrap_or_default();
            } else {
                let name = name_at(rest);
                if !name.is_empty() {
                    self.used(name, known(name), false);
                }
                rest = &rest[name.len()..];
            }
        }
    }

    /// What stands between the braces: a name, then perhaps an operator and its operand.
    fn braced(&mut self, inner: &str, known: &dyn Fn(&str) -> Known, depth: usize) {
        let name = name_at(inner);
        if name.is_empty() || depth == 0 {
            return;
        }
        let state = known(name);
        let operator = &inner[name.len()..];
        let (colon, operator) = match operator.strip_prefix(':') {
            Some(operator) => (true, operator),
            None => (false, operator),
        };
        let there = state == Known::Set || (state == Known::Empty && !colon);
        let mut operand = operator.chars();
        match operand.next() {
            // A default, needed only when there is no value.
            Some('-') => {
                self.used(name, state, true);
                if !there {
                    self.expand(operand.as_str(), known, depth - 1);
                }
            }
            // A replacement, used only when there is a value.
            Some('+') => {
                self.used(name, state, true);
                if there {
                    self.expand(operand.as_str(), known, depth - 1);
                }
            }
            // Compose stops with an error; with the colon also when the value is empty.
            Some('?') => {
                self.used(name, if there { Known::Set } else { Known::Unset }, false);
            }
            _ => self.used(name, state, false),
        }
    }

    fn used(&mut self, name: &str, state: Known, optional: bool) {
        self.all.insert(name.to_owned());
        if state == Known::Unset && !optional {
            self.missing.insert(name.to_owned());
        }
    }
}

/// The name that a text begins with; empty when it begins with none.
fn name_at(text: &str) -> &str {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    if starts { &text[..end] } else { "" }
}

/// Where the brace that was opened before this text is closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The variables of a whole Compose file, and those of its `env_file` entries apart: what names an env file is asked
/// of Compose's caller, not of that env file.
pub fn in_file(text: &str, known: &dyn Fn(&str) -> Known) -> FileUses {
    let mut uses = FileUses::default();
    match serde_saphyr::from_str::<serde_json::Value>(text) {
        Ok(tree) => uses.walk(&tree, false, known),
        // A file that this parser rejects (custom tags, say) is read as lines, its comments left out.
        Err(_) => {
            for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
                uses.values.read(line, known);
            }
        }
    }
    uses
}

/// The variables of a Compose file.
#[derive(Debug, Default)]
pub struct FileUses {
    pub values: Uses,
    pub env_file_paths: Uses,
}

impl FileUses {
    /// Adds another file's.
    pub fn merge(&mut self, other: Self) {
        for (mine, theirs) in
            [(&mut self.values, other.values), (&mut self.env_file_paths, other.env_file_paths)]
        {
            mine.missing.extend(theirs.missing);
            mine.all.extend(theirs.all);
        }
    }

    fn walk(&mut self, tree: &serde_json::Value, in_env_file: bool, known: &dyn Fn(&str) -> Known) {
        match tree {
            serde_json::Value::String(text) if in_env_file => self.env_file_paths.read(text, known),
            serde_json::Value::String(text) => self.values.read(text, known),
            serde_json::Value::Array(items) => {
                items.iter().for_each(|item| self.walk(item, in_env_file, known));
            }
            // Keys are not interpolated.
            serde_json::Value::Object(fields) => {
                fields
                    .iter()
                    .for_each(|(key, value)| self.walk(value, in_env_file || key == "env_file", known));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn missing(text: &str) -> Vec<String> {
        let mut uses = Uses::default();
        uses.read(text, &|name| match name {
            "SET" => Known::Set,
            "EMPTY" => Known::Empty,
            _ => Known::Unset,
        });
        uses.missing.into_iter().collect()
    }

    #[test]
    fn every_form_of_the_grammar() {
        assert_eq!(missing("${A} and $B, not $$C nor ${SET} $SET"), ["A", "B"]);
        assert_eq!(missing("${A:-x} ${B-} ${EMPTY}"), [""; 0]);
        assert_eq!(missing("${A:-${B}}"), ["B"]);
        assert_eq!(missing("${SET:-${B}}"), [""; 0]);
        assert_eq!(missing("${EMPTY:-${B}} ${EMPTY-${C}}"), ["B"]);
        assert_eq!(missing("${A:?must be set} ${EMPTY:?} ${EMPTY?}"), ["A", "EMPTY"]);
        assert_eq!(missing("${A:+${B}} ${SET:+${C}}"), ["C"]);
        assert_eq!(missing("redis-cli -a \"$$REDIS_PASSWORD\" $ 5 ${} ${1x}"), [""; 0]);
        assert_eq!(missing("${OPEN"), ["OPEN"]);
    }

    #[test]
    fn comments_and_keys_count_nothing_and_env_file_paths_stand_apart() {
        let file = "# needs ${COMMENTED}\nservices:\n  backend:\n    env_file: ${ENV_FILE}\n    command: [x, \"${A}\"]\n    \
                    environment:\n      B: ${B:?no}\n";
        let uses = in_file(file, &|_| Known::Unset);
        assert_eq!(uses.values.missing, BTreeSet::from(["A".to_owned(), "B".to_owned()]));
        assert_eq!(uses.env_file_paths.missing, BTreeSet::from(["ENV_FILE".to_owned()]));
        let broken = in_file("a: [${A}\n# ${B}\n", &|_| Known::Unset);
        assert_eq!(broken.values.missing, BTreeSet::from(["A".to_owned()]));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[${}A-Z:?+\\-é ]{0,60}") {
            missing(&text);
            in_file(&text, &|_| Known::Empty);
        }

        #[test]
        fn what_is_set_is_never_missing(text in "[${}A-C:?+\\- ]{0,60}") {
            let mut uses = Uses::default();
            uses.read(&text, &|_| Known::Set);
            prop_assert!(uses.missing.is_empty());
        }
    }
}
