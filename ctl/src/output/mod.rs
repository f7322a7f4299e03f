//! The only place that writes: data to stdout, talk and progress to stderr.
//!
//! Owns both streams and the transient progress line. What is written here was made safe before: views escape every
//! text that comes from a host.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde_json::Value;
pub(crate) use vigie_view::{document, json, look, names, table};

use crate::{error::Error, invocation::Terminal};
use look::Look;

/// The forms that data is given in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Ndjson,
    Yaml,
}

impl Format {
    /// Whether people read it.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Table | Self::Wide)
    }
}

/// A stream of the process, or what a test reads it with.
pub type Stream = Box<dyn Write + Send>;

/// Both streams, and how to write to them.
pub(crate) struct Output {
    stdout: Stream,
    stderr: Stream,
    pub(crate) format: Format,
    /// How data looks.
    pub(crate) look: Look,
    /// How talk looks: stderr may be a terminal where stdout is none.
    pub(crate) talk: Look,
    /// Whether stderr is a terminal, where a line can be drawn over.
    live: bool,
    /// Whether data and talk go to the same screen, where what was said need not be said again.
    pub(crate) one_screen: bool,
    /// Whether a progress line stands on the screen.
    drawn: bool,
}

impl Output {
    pub(crate) fn new(
        streams: (Stream, Stream),
        format: Format,
        look: (Look, Look),
        terminal: Terminal,
    ) -> Self {
        let ((stdout, stderr), (look, talk)) = (streams, look);
        let one_screen = terminal.stdout && terminal.stderr;
        Self { stdout, stderr, format, look, talk, live: terminal.stderr, one_screen, drawn: false }
    }

    /// Writes text to stdout.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Error> {
        self.clear();
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write!(self.stdout, "{text}{newline}").and_then(|()| self.stdout.flush()).map_err(Error::Output)
    }

    /// Writes a document in the format asked for; with `ndjson`, the elements of its list `items`.
    pub(crate) fn document(&mut self, document: &Value, items: &str) -> Result<(), Error> {
        let text = match self.format {
            Format::Yaml => serde_saphyr::to_string(document).map_err(io::Error::other),
            Format::Ndjson => {
                let lines = document.get(items).and_then(Value::as_array).into_iter().flatten();
                Ok(lines.map(|line| format!("{line}\n")).collect())
            }
            _ => serde_json::to_string_pretty(document).map_err(io::Error::other),
        };
        let text = text.map_err(Error::Output)?;
        self.text(&text)
    }

    /// Writes one value in the format asked for.
    pub(crate) fn value(&mut self, value: &Value) -> Result<(), Error> {
        match self.format {
            Format::Ndjson => self.text(&value.to_string()),
            _ => self.document(value, ""),
        }
    }

    /// Says something on stderr. That nobody hears it is no reason to fail.
    pub(crate) fn say(&mut self, line: impl Display) {
        self.clear();
        writeln!(self.stderr, "{line}").and_then(|()| self.stderr.flush()).unwrap_or_default();
    }

    /// Asks on stderr, and leaves the cursor behind the question.
    pub(crate) fn ask(&mut self, question: &str) {
        self.clear();
        write!(self.stderr, "{question} ").and_then(|()| self.stderr.flush()).unwrap_or_default();
    }

    /// Draws one line over the last such line; nothing where stderr is no terminal.
    pub(crate) fn progress(&mut self, line: &str) {
        if self.live {
            let line: String = line.chars().take(self.talk.width.saturating_sub(1)).collect();
            let line = self.talk.dim(&line);
            write!(self.stderr, "\r\u{1b}[K{line}").and_then(|()| self.stderr.flush()).unwrap_or_default();
            self.drawn = true;
        }
    }

    /// Takes the progress line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            write!(self.stderr, "\r\u{1b}[K").unwrap_or_default();
        }
    }

    /// Says what went wrong, why, and what to do next.
    pub(crate) fn error(&mut self, error: &Error) {
        let Some(message) = error.chain() else { return };
        let label = self.talk.red("error:");
        self.say(format!("{label} {message}"));
        if let Some(hint) = error.hint() {
            let label = self.talk.cyan("hint:");
            self.say(format!("{label} {hint}"));
        }
    }
}
