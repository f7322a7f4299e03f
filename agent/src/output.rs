//! The few lines that the agent says to a person. Everything else is the log's, on standard error.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

/// Prints to standard output.
///
/// # Errors
/// When nobody reads it.
pub fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints an error with its causes, and what to do about it.
pub fn complain(error: &anyhow::Error) {
    let mut text = format!("error: {error:#}\n");
    if let Some(hint) = error.downcast_ref::<crate::net::enrol::EnrolError>().and_then(|error| error.hint()) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    // Where standard error is closed, nobody is there to be told.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
