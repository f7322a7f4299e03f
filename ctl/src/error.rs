//! Everything that can keep `vigiectl` from doing what it was asked, with its exit status and a hint each.

use std::{error::Error as StdError, io, path::PathBuf};

use tonic::{Code, Status};
use vigie_proto::{
    id::IdError, operation::FieldError, selector::SelectorError, text::escape, token::TokenError,
};
use vigie_transport::{
    client::{AddressError, ConnectError, explain},
    credential::{CredentialError, FileError, KeyError, LoadError},
    tls::TlsConfigError,
};

use crate::{exit::Exit, runs::consent::Distrust};

/// Why a command ends without an answer from hosts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error(transparent)]
    Selector(#[from] SelectorError),
    #[error("the arguments are not valid: {0}")]
    Arguments(FieldError),
    #[error("{0}")]
    Id(IdError),
    #[error("no context named `{0}`")]
    NoContext(String),
    #[error("you are not logged in")]
    NotLoggedIn,
    #[error("{path} cannot be read as a context")]
    ContextFile { path: PathBuf, source: toml::de::Error },
    #[error("{path}, which tells what was signed of a run, cannot be read")]
    Signed { path: PathBuf, source: io::Error },
    #[error("{path} cannot be written")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Credential(#[from] LoadError),
    #[error("{0} does not hold an order key")]
    OrderKey(PathBuf),
    #[error("the token cannot be used: {0}")]
    Token(TokenError),
    #[error("the address in the {place} is not one: {source}")]
    Address { place: &'static str, source: AddressError },
    #[error("no key could be made: {0}")]
    Key(#[from] KeyError),
    #[error("the system gave no randomness for a key")]
    Randomness,
    #[error("the controller's answer to the login does not hold: {0}")]
    Enrolment(String),
    #[error("the certificate from the controller does not belong to our key")]
    Certificate(#[source] CredentialError),
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsConfigError),
    #[error("the controller cannot be reached: {0}")]
    Connect(ConnectError),
    /// The controller answered with an error, or the connection broke under a call.
    #[error("{doing}: {}", escape(status.message(), false))]
    Rpc { doing: String, status: Box<Status> },
    #[error("the plan was not signed: {0}")]
    Distrust(#[from] Distrust),
    /// The plan needs a person's yes, and there is nobody to ask.
    #[error(
        "the plan needs your yes, and there is no terminal to ask on; nothing was signed and the run waits"
    )]
    Unattended { run: String },
    #[error("the run's events make no report: {0}")]
    Report(String),
    /// A step of `hosts add` failed; the steps before it are printed already.
    #[error("{message}")]
    Step { message: String, hint: String },
    #[error("{0} cannot be read")]
    Input(String, #[source] io::Error),
    #[error("the output cannot be written")]
    Output(#[source] io::Error),
    #[error("interrupted")]
    Interrupted { run: Option<String> },
}

impl Error {
    /// Wrong usage, with what to do instead.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// A call that failed.
    pub(crate) fn rpc(doing: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let doing = doing.into();
        move |status| match explain(&status) {
            Some(connect) => Self::Connect(connect.clone()),
            None => Self::Rpc { doing, status: Box::new(status) },
        }
    }

    /// The exit status that it comes down to.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. }
            | Self::Selector(_)
            | Self::Arguments(_)
            | Self::Id(_)
            | Self::Token(_)
            | Self::Address { .. }
            | Self::NoContext(_)
            | Self::NotLoggedIn
            | Self::Input(..) => Exit::Usage,
            Self::ContextFile { .. }
            | Self::Signed { .. }
            | Self::Write { .. }
            | Self::File(_)
            | Self::Credential(_)
            | Self::OrderKey(_)
            | Self::Key(_)
            | Self::Randomness
            | Self::Enrolment(_)
            | Self::Certificate(_)
            | Self::Tls(_)
            | Self::Report(_)
            | Self::Step { .. } => Exit::Failed,
            // A reader who has seen enough (`| head`) is no failure.
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Output(_) => Exit::Failed,
            Self::Connect(_) => Exit::NoController,
            Self::Rpc { status, .. } => match status.code() {
                Code::InvalidArgument | Code::OutOfRange | Code::NotFound => Exit::Usage,
                Code::PermissionDenied | Code::Unauthenticated => Exit::Refused,
                // An answer with a name came from the controller itself: it was reached.
                Code::Unavailable if status.metadata().contains_key("vigie-code") => Exit::Failed,
                Code::Unavailable | Code::DeadlineExceeded => Exit::NoController,
                _ => Exit::Failed,
            },
            Self::Distrust(_) | Self::Unattended { .. } => Exit::Refused,
            Self::Interrupted { .. } => Exit::Interrupted,
        }
    }

    /// What to do next, where that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Usage { hint, .. } | Self::Step { hint, .. } => hint.clone(),
            Self::Selector(SelectorError::Empty) => {
                "what changes hosts needs them named: -H vps1, -l env=prod, or --all".to_owned()
            }
            Self::NoContext(_) => "`vigiectl login --context NAME` makes one".to_owned(),
            Self::NotLoggedIn => {
                "`vigie-controller init` prints a login token; give it to `vigiectl login`".to_owned()
            }
            Self::Token(_) => {
                "copy the whole token, from `vig1.` to its end, or ask for a new one".to_owned()
            }
            Self::Signed { .. } => {
                "orders that were signed may still start: end the run with `vigiectl runs cancel`, and open a new one"
                    .to_owned()
            }
            Self::OrderKey(_) => {
                "restore the file from a backup, or log in again with a new token".to_owned()
            }
            Self::Enrolment(_) => "ask for a new token, and tell whoever runs the controller".to_owned(),
            Self::Connect(error) => error.hint().to_owned(),
            Self::Rpc { status, .. } => return rpc_hint(status),
            Self::Distrust(distrust) => distrust.hint().to_owned(),
            Self::Unattended { run } => {
                format!(
                    "`vigiectl runs resume {run}` on a terminal shows it and asks; --yes agrees beforehand, \
                     and --yes-destroy to what loses something"
                )
            }
            Self::Report(_) => {
                "`vigiectl runs show` tells what can be told; for a report, upgrade vigiectl".to_owned()
            }
            Self::Interrupted { run: Some(run) } => {
                format!(
                    "the run goes on; `vigiectl runs watch {run}` attaches, `vigiectl runs resume {run}` offers a plan that \
                     waits, `vigiectl runs cancel {run}` withdraws what is not sent yet"
                )
            }
            _ => String::new(),
        };
        (!hint.is_empty()).then_some(hint)
    }

    /// The error and its causes in one line; `None` when there is nobody to tell.
    pub(crate) fn chain(&self) -> Option<String> {
        if let Self::Output(source) = self
            && source.kind() == io::ErrorKind::BrokenPipe
        {
            return None;
        }
        let mut text = self.to_string();
        // `Display` never repeats a source, except where a variant is transparent or has put it into its own line.
        let mut source = match self {
            Self::Connect(error) => error.source(),
            other => other.source(),
        };
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&escape(&cause.to_string(), false));
            source = cause.source();
        }
        Some(text)
    }
}

/// What the controller says to do, or what its code suggests.
fn rpc_hint(status: &Status) -> Option<String> {
    let said = status.metadata().get("vigie-hint").and_then(|hint| hint.to_str().ok());
    let said = said.filter(|hint| !hint.is_empty()).map(|hint| escape(hint, false).into_owned());
    said.or_else(|| {
        let hint = match status.code() {
            Code::Unavailable => "try again; if it lasts, look into the controller's log",
            Code::Unauthenticated => "log in again with a new token",
            Code::Unimplemented => "the controller is of another version; upgrade the older of the two",
            _ => return None,
        };
        Some(hint.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_hint_is_shown_and_cannot_move_the_cursor() {
        let mut status = Status::permission_denied("not yours\u{1b}[2J");
        status.metadata_mut().insert("vigie-hint", "ask Ana".parse().unwrap());
        let error = Error::rpc("cancelling")(status);
        assert_eq!(error.chain().unwrap(), "cancelling: not yours\\u{1b}[2J");
        assert_eq!((error.exit(), error.hint()), (Exit::Refused, Some("ask Ana".to_owned())));
    }

    #[test]
    fn a_reader_who_left_is_no_failure() {
        let error = Error::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((error.exit(), error.chain()), (Exit::Ok, None));
    }
}
