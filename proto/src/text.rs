//! Text from elsewhere, made safe to show.

use std::borrow::Cow;

/// Replaces control characters and direction overrides by their escapes, so that text from a host cannot move the
/// cursor, colour the screen or forge a line. Tabs and newlines stay only where `multiline` says so.
pub fn escape(text: &str, multiline: bool) -> Cow<'_, str> {
    let plain = |c: char| multiline && (c == '\n' || c == '\t');
    if !text.chars().any(|c| is_unsafe(c) && !plain(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) && !plain(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(escape("\u{1b}[2Jok\r\n", false), "\\u{1b}[2Jok\\r\\n");
        assert_eq!(escape("a\tb\n", true), "a\tb\n");
        assert_eq!(escape("a\u{202e}b", true), "a\\u{202e}b");
        assert!(matches!(escape("plain é", false), Cow::Borrowed(_)));
    }
}
