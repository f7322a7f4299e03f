//! A line of PostgreSQL's log taken apart: when, from which process, at which severity, and what it says.
//!
//! What a client sends ends up in messages: names, values, whole errors that a function raises. A severity counts only
//! where PostgreSQL puts it, behind the prefix, and what quotes hold is taken out before a message is looked at.

/// At which severity, or as which part of an entry, a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Log,
    Warning,
    Error,
    Fatal,
    Panic,
    Detail,
    Context,
    /// Written before the server knows how it is to log: `postgres: could not find the database system`.
    Raw,
    /// What says nothing of the server itself: a client's statement, a hint, a notice to a client.
    Other,
}

const LEVELS: [(&str, Level); 18] = [
    ("LOG", Level::Log),
    ("WARNING", Level::Warning),
    ("ERROR", Level::Error),
    ("FATAL", Level::Fatal),
    ("PANIC", Level::Panic),
    ("DETAIL", Level::Detail),
    ("CONTEXT", Level::Context),
    ("STATEMENT", Level::Other),
    ("QUERY", Level::Other),
    ("HINT", Level::Other),
    ("LOCATION", Level::Other),
    ("BACKTRACE", Level::Other),
    ("NOTICE", Level::Other),
    ("INFO", Level::Other),
    ("DEBUG", Level::Other),
    ("DEBUG1", Level::Other),
    ("DEBUG2", Level::Other),
    ("DEBUG5", Level::Other),
];

impl Level {
    /// Whether it begins an entry, to which the lines after it may belong.
    pub(super) fn begins(self) -> bool {
        matches!(self, Self::Log | Self::Warning | Self::Error | Self::Fatal | Self::Panic | Self::Raw)
    }
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub level: Level,
    /// What `[%p]` says; empty where the prefix has none.
    pub process: &'a str,
    pub message: &'a str,
    /// Whether something between the usual prefix and the message may be a client's: its application's name can look
    /// like a severity.
    pub doubtful: bool,
}

impl<'a> Line<'a> {
    /// Takes a line apart. `None` for what is no line of PostgreSQL's, and for one that continues the line before it,
    /// which begins with a tab.
    pub(super) fn of(line: &'a str) -> Option<Self> {
        if line.starts_with('\t') {
            return None;
        }
        if let Some(message) = line.strip_prefix("postgres: ") {
            return Some(Self { level: Level::Raw, process: "", message, doubtful: false });
        }
        let (process, rest) = stem(line).unwrap_or(("", line));
        if let Some((level, message)) = severity(rest) {
            return Some(Self { level, process, message, doubtful: false });
        }
        let (at, (level, message)) = severities(rest).next()?;
        let process = if process.is_empty() { bracketed(&rest[..at]) } else { process };
        let doubtful = severities(&without_quoted(message)).next().is_some();
        Some(Self { level, process, message, doubtful })
    }
}

/// The process and what follows the usual prefix, `2026-11-25 02:33:10.742 UTC [15] `.
fn stem(line: &str) -> Option<(&str, &str)> {
    let (date, rest) = line.split_once(' ')?;
    let (time, rest) = rest.split_once(' ')?;
    let (_zone, rest) = rest.split_once(' ')?;
    let plain = |text: &str, marks: &[char]| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || marks.contains(&c))
    };
    if !plain(date, &['-']) || !plain(time, &[':', '.']) {
        return None;
    }
    let (process, rest) = rest.strip_prefix('[')?.split_once(']')?;
    plain(process, &[]).then(|| (process, rest.trim_start_matches(':').trim_start()))
}

/// The severity at a text's beginning, and what follows its two blanks.
fn severity(text: &str) -> Option<(Level, &str)> {
    let (word, message) = text.split_once(":  ")?;
    LEVELS.iter().find(|(name, _)| *name == word).map(|(_, level)| (*level, message))
}

/// Every place at which a severity may stand.
fn severities(text: &str) -> impl Iterator<Item = (usize, (Level, &str))> {
    text.match_indices(":  ").filter_map(|(end, _)| {
        let word = text[..end]
            .rfind(|c: char| !c.is_ascii_alphanumeric())
            .map_or(0, |at| at + text[at..].chars().next().map_or(0, char::len_utf8));
        severity(&text[word..]).map(|found| (word, found))
    })
}

/// The first number in brackets.
fn bracketed(prefix: &str) -> &str {
    let inner = prefix.split('[').skip(1).filter_map(|part| part.split_once(']')).map(|(inner, _)| inner);
    let mut numbers = inner.filter(|inner| !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_digit()));
    numbers.next().unwrap_or_default()
}

/// A message without what its quotes hold and without the values of a key: `Key (a)=(b)`. A quote within a value is not
/// escaped, so that all from the first to the last goes.
pub(super) fn without_quoted(message: &str) -> String {
    let between = |text: &str, open: char, close: char| {
        let (first, last) = (text.find(open)?, text.rfind(close)?);
        (first < last).then(|| format!("{}{}", &text[..=first], &text[last..]))
    };
    let text = between(message, '"', '"').unwrap_or_else(|| message.to_owned());
    if text.contains(")=(") { between(&text, '(', ')').unwrap_or(text) } else { text }
}

/// The time at a line's beginning, `2026-11-25 02:33:10.742 UTC`, which is PostgreSQL's default prefix: as its clock shows
/// it, and whether that is universal time. Nobody can tell from its letters how far another zone is off.
pub(super) fn clock_of(line: &str) -> Option<(i64, bool)> {
    let stamp = line.get(..23)?;
    let zone = line.get(23..)?.trim_start();
    let time = chrono::NaiveDateTime::parse_from_str(stamp, "%Y-%m-%d %H:%M:%S%.3f").ok()?;
    Some((time.and_utc().timestamp_millis(), zone.starts_with("UTC") || zone.starts_with("GMT")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(line: &str) -> Option<(Level, &str, &str, bool)> {
        Line::of(line).map(|line| (line.level, line.process, line.message, line.doubtful))
    }

    #[test]
    fn a_severity_stands_behind_the_prefix() {
        let usual = "2026-11-25 03:14:10.268 UTC [32] ERROR:  PANIC:  x";
        assert_eq!(of(usual), Some((Level::Error, "32", "PANIC:  x", false)));
        let debian = "2026-11-25 03:14:10.268 CET [32] app@shop FATAL:  role \"app\" does not exist";
        assert_eq!(of(debian), Some((Level::Fatal, "32", "role \"app\" does not exist", false)));
        let named = "2026-11-25 03:14:10.268 CET [32] app=PANIC:  corrupt ERROR:  x";
        assert_eq!(of(named), Some((Level::Panic, "32", "corrupt ERROR:  x", true)));
        let quoted = "2026-11-25 03:14:10.268 CET [32] app@shop ERROR:  invalid input syntax: \"PANIC:  x\"";
        assert!(matches!(of(quoted), Some((Level::Error, "32", _, false))));
        let bare = "user=app,db=shop [4711] LOG:  checkpoint starting";
        assert_eq!(of(bare), Some((Level::Log, "4711", "checkpoint starting", false)));
        assert_eq!(of("\tPANIC:  in the middle of a statement"), None);
        assert_eq!(of("PostgreSQL init process complete; ready for start up."), None);
    }

    #[test]
    fn what_quotes_hold_is_taken_out() {
        assert_eq!(without_quoted("relation \"corrupt\" does not exist"), "relation \"\" does not exist");
        assert_eq!(without_quoted("syntax: \"a\" PANIC:  x\""), "syntax: \"\"");
        assert_eq!(without_quoted("Key (a)=(corrupt) already exists."), "Key () already exists.");
        assert_eq!(without_quoted("invalid page in block 3"), "invalid page in block 3");
    }

    #[test]
    fn clocks() {
        assert_eq!(clock_of("2026-11-25 03:17:23.655 UTC [1] LOG:  x"), Some((1_795_576_643_655, true)));
        assert_eq!(clock_of("2026-11-25 03:17:23.655 CET [1] LOG:  x").map(|(_, utc)| utc), Some(false));
        assert_eq!(clock_of("LOG:  x"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(LOG:  |PANIC:  |\\[1\\] |\"|é|\\(a\\)=\\(|\\)|2026-11-25 |03:14:10.268 |UTC | |\\t|x){0,20}") {
            let _ = Line::of(&text);
            without_quoted(&text);
            clock_of(&text);
        }
    }
}
