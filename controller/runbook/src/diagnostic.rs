//! What is wrong with a runbook's text, where, and what to write instead.

use std::fmt;

use vigie_proto::text::escape;

/// How many are collected before reading stops: nobody reads more at once.
pub(crate) const MAX_DIAGNOSTICS: usize = 100;

/// How much of a source line is shown on either side of the place.
const SHOWN: usize = 90;

/// Whether a runbook can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The runbook is refused.
    Error,
    /// It works, and is probably not what was meant.
    Warning,
}

impl Severity {
    /// The word that people and scripts read.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    pub severity: Severity,
    /// What is wrong and why, without a full stop.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// All that is wrong with one text, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    source: String,
    text: String,
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    pub(crate) fn new(source: &str, text: &str, mut found: Vec<Diagnostic>) -> Self {
        found.sort_by_key(|found| (found.line, found.column, found.severity));
        found.dedup();
        Self { source: source.to_owned(), text: text.to_owned(), found }
    }

    /// The file or name that the text was read from.
    pub fn source_name(&self) -> &str {
        &self.source
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether the runbook is refused.
    pub fn has_errors(&self) -> bool {
        self.found.iter().any(|found| found.severity == Severity::Error)
    }

    fn render(&self, diagnostic: &Diagnostic, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic { line, column, severity, message, hint } = diagnostic;
        writeln!(f, "{}: {}", severity.word(), escape(message, false))?;
        writeln!(f, "  --> {}:{line}:{column}", self.source)?;
        let shown = (*line as usize).checked_sub(1).and_then(|index| self.text.lines().nth(index));
        if let Some(text) = shown {
            let (excerpt, offset) = excerpt(text, (*column as usize).saturating_sub(1));
            let gutter = line.to_string();
            let blank = " ".repeat(gutter.len());
            writeln!(f, "{blank} |\n{gutter} | {excerpt}\n{blank} | {}^", " ".repeat(offset))?;
        }
        if !hint.is_empty() {
            writeln!(f, "  hint: {}", escape(hint, false))?;
        }
        Ok(())
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.found.iter()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.found.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.render(diagnostic, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The part of a line around a column, one cell a character, and where in it the column is.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let from = column.saturating_sub(SHOWN);
    let shown = line.chars().skip(from).take(2 * SHOWN);
    let cell =
        |c: char| if escape(c.encode_utf8(&mut [0; 4]), false).len() == c.len_utf8() { c } else { ' ' };
    (shown.map(cell).collect(), column - from)
}

/// The known word nearest to an unknown one, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let bound = 1 + unknown.chars().count() / 3;
    known
        .into_iter()
        .map(|word| (distance(unknown, word), word))
        .filter(|(distance, _)| *distance <= bound)
        .min()
        .map(|(_, word)| word)
}

/// `did you mean …?`, or what there is to choose from.
pub(crate) fn suggest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(word) = nearest(unknown, known.clone()) {
        return format!("did you mean `{word}`?");
    }
    let mut words: Vec<_> = known.into_iter().collect();
    words.sort_unstable();
    match words.len() {
        0 => String::new(),
        1..=40 => format!("known are {}", words.join(", ")),
        _ => String::new(),
    }
}

/// How many characters have to be added, removed or replaced to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().take(64).collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_listed() {
        assert_eq!(suggest("whenn", ["when", "says"]), "did you mean `when`?");
        assert_eq!(suggest("restart", ["when", "says"]), "known are says, when");
        assert_eq!(nearest("x", ["containers"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn a_long_line_is_shown_around_the_place() {
        let line = format!("{}HERE{}", "a".repeat(1000), "b".repeat(1000));
        let (shown, offset) = excerpt(&line, 1000);
        assert_eq!(&shown[offset..offset + 4], "HERE");
        assert_eq!(shown.len(), 2 * SHOWN);
        assert_eq!(excerpt("a\tb\u{1b}c", 4), ("a b c".to_owned(), 4));
    }
}
