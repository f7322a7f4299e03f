//! Taking a tree apart, collecting what is wrong with it on the way.

use super::tree::{Content, Node, Scalar, Span};
use crate::{
    diagnostic::{Diagnostic, MAX_DIAGNOSTICS, Severity, suggest},
    model::Others,
};

/// The most probes, findings, remedies and so on that one list may hold.
pub(crate) const MAX_ITEMS: usize = 200;

/// Words that no id may be, since rules give them a meaning of their own.
const RESERVED: &[&str] = &[
    "params",
    "stack",
    "host",
    "now_ms",
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The text being read, and what was found wrong with it.
pub(crate) struct Reader<'t> {
    pub(crate) text: &'t str,
    /// What other runbooks find, where that is known.
    pub(crate) others: Option<&'t Others>,
    pub(super) found: Vec<Diagnostic>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self { text, others: None, found: Vec::new() }
    }

    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        self.found
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.found.iter().any(|found| found.severity == Severity::Error)
    }

    pub(crate) fn at(
        &mut self,
        place: (u32, u32),
        severity: Severity,
        message: impl Into<String>,
        hint: &str,
    ) {
        if self.found.len() < MAX_DIAGNOSTICS {
            let (line, column) = place;
            self.found.push(Diagnostic {
                line,
                column,
                severity,
                message: message.into(),
                hint: hint.to_owned(),
            });
        }
    }

    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>, hint: &str) {
        self.at((span.line, span.column), Severity::Error, message, hint);
    }

    pub(crate) fn warn(&mut self, span: Span, message: impl Into<String>, hint: &str) {
        self.at((span.line, span.column), Severity::Warning, message, hint);
    }

    /// The entries of a mapping; `what` names it in errors: `a finding`.
    pub(crate) fn entries<'n>(&mut self, node: &'n Node, what: &'static str) -> Option<Entries<'n>> {
        match &node.content {
            Content::Map(entries) => {
                Some(Entries { what, span: node.span, entries: entries.iter().collect(), known: Vec::new() })
            }
            _ => {
                self.error(node.span, format!("{what} is a mapping, not {}", node.kind()), "");
                None
            }
        }
    }

    /// The items of a list.
    pub(crate) fn items<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.content {
            Content::List(items) if items.len() > MAX_ITEMS => {
                let message = format!("{what} holds {} items; at most {MAX_ITEMS} are read", items.len());
                self.error(node.span, message, "");
                &items[..MAX_ITEMS]
            }
            Content::List(items) => items,
            _ => {
                self.error(
                    node.span,
                    format!("{what} is a list, not {}", node.kind()),
                    "begin each item with `- `",
                );
                &[]
            }
        }
    }

    /// A text; numbers are texts too where a text is wanted.
    pub(crate) fn scalar<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n Scalar> {
        match node.scalar().filter(|scalar| !scalar.is_null()) {
            Some(scalar) => Some(scalar),
            None => {
                self.error(node.span, format!("{what} is a text, not {}", node.kind()), "");
                None
            }
        }
    }

    /// A text that is kept.
    pub(crate) fn string(&mut self, node: &Node, what: &str) -> Option<String> {
        self.scalar(node, what).map(|scalar| scalar.text.clone())
    }

    /// The name of a probe, finding, remedy or parameter: a word that rules can use.
    pub(crate) fn id(&mut self, node: &Node, what: &str) -> Option<String> {
        let scalar = self.scalar(node, what)?;
        self.is_id(scalar, what).then(|| scalar.text.clone())
    }

    pub(crate) fn is_id(&mut self, scalar: &Scalar, what: &str) -> bool {
        let id = scalar.text.as_str();
        let formed = id.starts_with(|c: char| c.is_ascii_lowercase())
            && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && id.len() <= 48;
        if !formed {
            let hint = "lower-case letters, digits and `_`, beginning with a letter, at most 48";
            self.error(scalar.span, format!("{what} `{id}` is not a name"), hint);
        } else if RESERVED.contains(&id) {
            self.error(scalar.span, format!("{what} cannot be `{id}`: rules use that word"), "");
            return false;
        }
        formed
    }

    /// A list of ids, or one.
    pub(crate) fn ids(&mut self, node: &Node, what: &str) -> Vec<(String, Span)> {
        if node.scalar().is_some() {
            return self
                .scalar(node, what)
                .map(|scalar| (scalar.text.clone(), scalar.span))
                .into_iter()
                .collect();
        }
        let items = self.items(node, what);
        items.iter().filter_map(|item| self.scalar(item, what).map(|s| (s.text.clone(), s.span))).collect()
    }

    pub(crate) fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.scalar().filter(|scalar| scalar.is_plain()).map(|scalar| scalar.text.as_str()) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => {
                self.error(node.span, format!("{what} is `true` or `false`"), "");
                None
            }
        }
    }

    /// A length of time in milliseconds, between one and `max_ms`.
    pub(crate) fn duration(&mut self, node: &Node, what: &str, max_ms: u32) -> Option<u32> {
        let scalar = self.scalar(node, what)?;
        match duration_ms(&scalar.text).and_then(|ms| u32::try_from(ms).ok()) {
            Some(ms) if (1..=max_ms).contains(&ms) => Some(ms),
            Some(_) => {
                self.error(
                    scalar.span,
                    format!("{what} is more than nothing and at most {}s", max_ms / 1000),
                    "",
                );
                None
            }
            None => {
                let message = format!("{what} is a length of time, not `{}`", scalar.text);
                self.error(scalar.span, message, "a number with its unit: 500ms, 90s, 2m, 1h");
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let scalar = self.scalar(node, what)?;
        let found = words.iter().find(|(word, _)| *word == scalar.text);
        if found.is_none() {
            let hint = suggest(&scalar.text, words.iter().map(|(word, _)| *word));
            self.error(scalar.span, format!("{what} cannot be `{}`", scalar.text), &hint);
        }
        found.map(|(_, meaning)| *meaning)
    }
}

/// `90s` in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(scale)
}

/// A mapping's entries, taken one by one; those that nobody takes are unknown keys.
pub(crate) struct Entries<'n> {
    what: &'static str,
    pub(crate) span: Span,
    entries: Vec<&'n (Scalar, Node)>,
    known: Vec<&'static str>,
}

impl<'n> Entries<'n> {
    /// The value under a key. A key without a value counts as absent.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        let place = self.entries.iter().position(|(name, _)| name.text == key)?;
        let (_, node) = self.entries.remove(place);
        (!node.is_null()).then_some(node)
    }

    /// The value under a key that has to be there.
    pub(crate) fn require(&mut self, key: &'static str, reader: &mut Reader<'_>) -> Option<&'n Node> {
        let found = self.take(key);
        if found.is_none() {
            reader.error(self.span, format!("{} needs `{key}`", self.what), "");
        }
        found
    }

    /// What nobody has taken yet.
    pub(crate) fn rest(&mut self) -> Vec<&'n (Scalar, Node)> {
        std::mem::take(&mut self.entries)
    }

    /// The keys that were asked for.
    pub(crate) fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// Whatever is left is an unknown key.
    pub(crate) fn close(mut self, reader: &mut Reader<'_>) {
        for (key, _) in self.rest() {
            let hint = suggest(&key.text, self.known.iter().copied());
            reader.error(key.span, format!("unknown key `{}` in {}", key.text, self.what), &hint);
        }
    }
}
