//! From text to a runbook: YAML to a tree with places, the tree to checked parts, and everything that is wrong on the
//! way, each at its line and column.

mod probes;
mod reader;
mod runbook;
mod steps;
pub(crate) mod tree;

pub(crate) use reader::{Entries, MAX_ITEMS, Reader, duration_ms};
pub(crate) use runbook::{runbook, unreadable};
pub(crate) use tree::{Content, Node, Scalar, Span};

use crate::diagnostic::suggest;

/// Reports ids that name nothing.
fn unknown_ids<'a, Known: Iterator<Item = &'a String>>(
    ids: &[(String, Span)],
    known: impl Fn() -> Known,
    what: &str,
    reader: &mut Reader<'_>,
) {
    for (id, span) in ids {
        if !known().any(|known| known == id) {
            let words: Vec<_> = known().map(String::as_str).collect();
            reader.error(*span, format!("`{id}` is not the id of {what}"), &suggest(id, words));
        }
    }
}
