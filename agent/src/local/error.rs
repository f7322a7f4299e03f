//! Why a command of the local mode did not come to its end, what that means for the host, and what to do next.

use std::{error::Error, io, path::PathBuf};

use vigie_proto::text::escape;
use vigie_runbook::run::OpenError;
use vigie_view::exit::Exit;

use crate::{config::SettingsError, enrolled::EnrolledError, folder::AloneError};

#[derive(Debug, thiserror::Error)]
pub(super) enum LocalError {
    #[error("only this host's root may change it")]
    NotRoot,
    #[error("this host is busy: {0}")]
    Busy(String),
    #[error("an agent works with {} and does not answer", .0.display())]
    Silent(PathBuf),
    #[error("the agent that runs is {agent}, and this program is {own}")]
    Version { agent: String, own: &'static str },
    #[error("the agent cannot be spoken to by {}", path.display())]
    Door { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Alone(#[from] AloneError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("without an enrolment this host has no journal, and nothing is done that nobody would remember")]
    Enrolled(#[source] Box<EnrolledError>),
    #[error("the enrolment's trust list is damaged")]
    Trust(#[from] vigie_proto::order::TrustError),
    #[error("the journal cannot be read")]
    Journal(#[source] io::Error),
    #[error("the host cannot be looked at from here")]
    Inside(#[source] io::Error),
    #[error("{} cannot be read", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the runbook does not read:\n{0}")]
    Runbook(String),
    #[error("there is no runbook {0:?}; this agent carries {known}", known = known())]
    UnknownRunbook(String),
    #[error("`vigie-agent run` needs to know which runbook")]
    NoRunbook,
    #[error("{0}")]
    NoStack(String),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("a run of this host's own does not read: {0}")]
    Corrupt(#[from] vigie_runbook::run::Corrupt),
    #[error("the rules could not be evaluated")]
    Rules(#[source] tokio::task::JoinError),
    #[error("the plan needs your yes, and there is no terminal to ask on; nothing was done")]
    Unattended,
    #[error("a step needs a person, and there is no terminal to ask on; nothing more was begun")]
    Nobody,
    #[error("interrupted; {}", what_of(.under_way, *.inside))]
    Interrupted { under_way: Vec<String>, inside: bool },
    #[error("the agent went away{}", lost(.under_way))]
    Gone { under_way: Vec<String> },
    #[error("the output cannot be written")]
    Output(#[source] io::Error),
}

fn known() -> String {
    vigie_runbook::shipped().iter().map(|(id, _)| *id).collect::<Vec<_>>().join(", ")
}

/// What becomes of what had begun when a person interrupts.
fn what_of(under_way: &[String], inside: bool) -> String {
    match (under_way, inside) {
        ([], _) => "nothing is under way, and nothing more begins".to_owned(),
        (some, true) => format!("{} came to its end first; nothing more begins", some.join(", ")),
        (some, false) => {
            format!("{} is under way in the agent and goes on; nothing more begins", some.join(", "))
        }
    }
}

fn lost(under_way: &[String]) -> String {
    match under_way {
        [] => " before anything was begun".to_owned(),
        some => format!(" while {} was under way, and nobody here knows how far it came", some.join(", ")),
    }
}

impl LocalError {
    /// The same error, knowing whether what had begun ran in this very process.
    pub(super) fn inside(self, inside: bool) -> Self {
        match self {
            Self::Interrupted { under_way, .. } => Self::Interrupted { under_way, inside },
            other => other,
        }
    }

    /// The exit status, as cli.md has them.
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::NotRoot | Self::Unattended | Self::Nobody => Exit::Refused,
            Self::UnknownRunbook(_)
            | Self::NoRunbook
            | Self::Open(_)
            | Self::Runbook(_)
            | Self::File { .. } => Exit::Usage,
            Self::Interrupted { .. } => Exit::Interrupted,
            Self::Gone { under_way } if !under_way.is_empty() => Exit::InDoubt,
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Busy(_)
            | Self::Silent(_)
            | Self::Version { .. }
            | Self::Door { .. }
            | Self::Alone(_)
            | Self::Settings(_)
            | Self::Enrolled(_)
            | Self::Trust(_)
            | Self::Journal(_)
            | Self::Inside(_)
            | Self::NoStack(_)
            | Self::Corrupt(_)
            | Self::Rules(_)
            | Self::Gone { .. }
            | Self::Output(_) => Exit::Failed,
        }
    }

    /// What to do next.
    pub(super) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NotRoot => {
                "run it with sudo; `vigie-agent diagnose` looks without being root, as far as it may"
            }
            Self::Busy(_) => {
                "wait until it has ended, or end it; `vigie-agent journal` tells how far it came"
            }
            Self::Silent(_) => {
                "`systemctl stop vigie-agent` (or `kill` it), then run this again: it works without an agent"
            }
            Self::Version { .. } => "`systemctl restart vigie-agent`",
            Self::Door { .. } => {
                "`systemctl restart vigie-agent`, or stop it and run this again: it works without"
            }
            Self::Enrolled(_) => {
                "`vigie-agent diagnose` needs no enrolment; to enrol the host: `vigiectl hosts token`, then \
                 `vigie-agent enroll`"
            }
            Self::UnknownRunbook(_) => "one of your own is read with --file",
            Self::NoRunbook => "`vigie-agent serve` serves this host",
            Self::NoStack(_) => {
                "is Docker up (`docker ps`)? a stack whose containers were never seen is named in /etc/vigie/agent.toml"
            }
            Self::Unattended => "--yes agrees beforehand, and --yes-destroy to what loses something",
            Self::Nobody => "run it again on a terminal; what is done already is found done",
            Self::Interrupted { under_way, inside: false } if !under_way.is_empty() => {
                "`vigie-agent journal` says how it ended"
            }
            Self::Gone { .. } => "`systemctl status vigie-agent`, and `vigie-agent journal` for what it did",
            _ => return None,
        })
    }

    /// The error and its causes.
    pub(super) fn chain(&self) -> Option<String> {
        if let Self::Output(source) = self
            && source.kind() == io::ErrorKind::BrokenPipe
        {
            return None;
        }
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&escape(&cause.to_string(), true));
            source = cause.source();
        }
        Some(text)
    }
}
