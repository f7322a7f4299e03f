//! A passphrase from a file, from stdin, or from a person: never from the command line or the environment, which other
//! processes can read.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use vigie_transport::credential::{FileError, read_private};
use zeroize::Zeroizing;

/// Whether a person types it twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twice {
    /// What is encrypted with a slip of the finger is lost.
    Yes,
    No,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum PassphraseError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the passphrase cannot be read")]
    Input(#[source] io::Error),
    #[error("there is no passphrase; write it into a file for --passphrase-file, or give it on stdin")]
    Empty,
    #[error("the two are not the same")]
    Different,
}

/// Reads a passphrase: the first line of a file or of stdin. On a terminal it is asked for and not shown.
///
/// # Errors
/// When there is none, or others may read the file.
pub fn read(file: Option<&Path>, twice: Twice) -> Result<Zeroizing<String>, PassphraseError> {
    let word = match file {
        Some(file) => first_line(&read_private(file)?),
        None if io::stdin().is_terminal() => {
            let word = ask("passphrase: ")?;
            if twice == Twice::Yes && *ask("once more: ")? != *word {
                return Err(PassphraseError::Different);
            }
            word
        }
        None => line()?,
    };
    if word.is_empty() { Err(PassphraseError::Empty) } else { Ok(word) }
}

fn first_line(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
}

fn line() -> Result<Zeroizing<String>, PassphraseError> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    io::stdin().lock().read_line(&mut text).map_err(PassphraseError::Input)?;
    Ok(first_line(&text))
}

fn ask(question: &str) -> Result<Zeroizing<String>, PassphraseError> {
    let _silent = Silent::new().map_err(PassphraseError::Input)?;
    let mut out = io::stderr();
    write!(out, "{question}").and_then(|()| out.flush()).map_err(PassphraseError::Input)?;
    let word = line();
    writeln!(out).map_err(PassphraseError::Input)?;
    word
}

/// The terminal shows nothing of what is typed until this is dropped.
struct Silent(Termios);

impl Silent {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // A terminal that has gone has nothing to show any more.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
