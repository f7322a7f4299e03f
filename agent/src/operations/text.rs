//! Free text on its way out: secrets redacted where it is read, control characters escaped, bounded. Output that is
//! watched while it is produced is redacted by [`crate::host::dispatch`].

use vigie_proto::{text::escape, v1::CapturedText};

use crate::host::{Host, child::Captured};

/// More of a line than this tells nobody anything.
const LINE: usize = 8 * 1024;

/// Lines, ready to leave. They are redacted as one text, so that a secret which spans lines is found.
pub(super) fn lines<S: AsRef<str>>(host: &Host, lines: &[S]) -> Vec<String> {
    if lines.is_empty() {
        return Vec::new();
    }
    let text: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
    host.redact(&text.join("\n")).lines().map(|line| escape(cut(line, LINE), true).into_owned()).collect()
}

/// The last so many of these lines, ready to leave.
pub(super) fn last_lines(host: &Host, all: &[String], count: usize) -> Vec<String> {
    lines(host, &all[all.len().saturating_sub(count)..])
}

/// One text, ready to leave, its line breaks kept.
pub(super) fn text(host: &Host, text: &str) -> String {
    escape(&host.redact(text), true).into_owned()
}

/// At most so many bytes of one text, ready to leave. Cut after it is redacted: half a secret is none that redaction
/// knows.
pub(super) fn text_up_to(host: &Host, whole: &str, bytes: usize) -> String {
    cut(&text(host, whole), bytes).to_owned()
}

/// What was captured of a stream, ready to leave. Escaping is left to where it is shown: it is a record.
pub(super) fn captured(host: &Host, captured: &Captured) -> CapturedText {
    let mut kept = captured.text();
    kept.text = host.redact(&kept.text);
    kept
}

/// At most so many bytes of a text, at a character's end.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
