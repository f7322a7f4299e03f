//! Everything that a peer can be told when something fails, in one place.
//!
//! One enum per area; under each, its way into a [`Status`], without a catch-all. A status carries a stable name
//! (`vigie-code`) and, where there is one, what to do next (`vigie-hint`) in its metadata. What went wrong inside the
//! controller never reaches the peer: it is logged here, where it is handled, with its whole chain.

use std::error::Error;

use tonic::{Code, Status, metadata::MetadataValue};
use vigie_proto::{id::IdError, order::TrustError, selector::SelectorError};
use vigie_runbook::run::{Corrupt, NotAgain, OpenError, Rejected};

use crate::{
    authority::{IssueError, RequestError},
    permit::Denied,
    store::StoreError,
};

/// A status in the making.
struct Answer {
    code: Code,
    name: &'static str,
    message: String,
    hint: &'static str,
}

impl Answer {
    fn new(code: Code, name: &'static str, message: &impl ToString) -> Self {
        Self { code, name, message: message.to_string(), hint: "" }
    }

    fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// The peer asked for something that is not well-formed.
    fn invalid(name: &'static str, error: &impl ToString) -> Self {
        Self::new(Code::InvalidArgument, name, error)
    }
}

/// The longest message, in characters: it travels in a header.
const LONGEST: usize = 2000;

impl From<Answer> for Status {
    fn from(answer: Answer) -> Self {
        let message: String = answer.message.chars().take(LONGEST).collect();
        let mut status = Self::new(answer.code, message);
        let metadata = status.metadata_mut();
        metadata.insert("vigie-code", MetadataValue::from_static(answer.name));
        if let Ok(hint) = ascii(answer.hint).parse()
            && !answer.hint.is_empty()
        {
            metadata.insert("vigie-hint", hint);
        }
        status
    }
}

/// Metadata is visible ASCII; everything else becomes a question mark.
fn ascii(text: &str) -> String {
    text.chars().take(LONGEST).map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// Logs a failure of our own and says to the peer only that there was one.
fn internal(what: &'static str, error: &(dyn Error + 'static)) -> Answer {
    tracing::error!(error, "{what}");
    Answer::new(Code::Internal, "internal", &what).hint("the controller's log says why")
}

fn store(error: &StoreError) -> Answer {
    match error {
        StoreError::Full { why } => {
            tracing::warn!(why, "a change is refused: the disk is full");
            let message = format!(
                "the controller's disk is full ({why}), so that nothing was changed and nothing sent"
            );
            return Answer::new(Code::ResourceExhausted, "store_full", &message).hint(
                "free room on the controller's machine: `vigiectl diagnose` and `vigiectl run disk-full` are still taken",
            );
        }
        StoreError::ReadOnly { why } => {
            tracing::warn!(why, "a change is refused: the store cannot be written");
            let message = format!(
                "the controller cannot write its database ({why}), so that nothing was changed and nothing sent"
            );
            return Answer::new(Code::Internal, "store_read_only", &message)
                .hint("mend the disk of the controller's machine and start the controller again; what is shown may be behind");
        }
        _ => {}
    }
    tracing::error!(error = error as &dyn Error, "the store failed");
    Answer::new(Code::Unavailable, "store_unavailable", &"the controller cannot read or write its database")
        .hint("see the controller's log, and whether its disk is full; nothing was changed")
}

/// The gate in front of every rpc.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the certificate has expired since the connection was opened")]
    Expired,
    #[error("a request came past the gate")]
    NoGate,
}

impl From<GateError> for Status {
    fn from(error: GateError) -> Self {
        match &error {
            GateError::Denied(denied) => Answer::new(Code::PermissionDenied, "permission_denied", denied),
            GateError::Expired => Answer::new(Code::Unauthenticated, "certificate_expired", &error)
                .hint("enrol this machine again, or log in again"),
            GateError::NoGate => internal("the request could not be attributed to a caller", &error),
        }
        .into()
    }
}

/// Asking about hosts, and choosing them.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    #[error("the selector cannot be read: {0}")]
    Selector(#[from] SelectorError),
    #[error("no host is named {}", names(.0))]
    Unknown(Vec<String>),
    #[error("the selector matches no host")]
    NoMatch,
    #[error("no host is enrolled yet")]
    NoHosts,
    #[error("none of the selected hosts has {}", .stack.as_ref().map_or("a stack".to_owned(), |s| format!("the stack `{s}`")))]
    NoStack { stack: Option<String> },
    #[error("{}", match .stack.as_str() { "" => format!("no stack of {host} is named, and the request is about stacks"), stack => format!("{host} has no stack `{stack}`") })]
    NoPlace { host: String, stack: String },
    #[error("{0:?} is not a host's name: lower-case letters, digits, `.`, `-` and `_`, at most 63")]
    Name(String),
    #[error("{0:?} is not a label's name or value: letters, digits, `.`, `_`, `-` and `/`, at most 63")]
    Label(String),
    #[error("the label {0:?} is given twice")]
    LabelTwice(String),
    #[error("a host has at most {0} labels")]
    TooManyLabels(usize),
    #[error("a host named {0} is enrolled already")]
    Taken(String),
    #[error("no host named {0} is enrolled, so none can be replaced")]
    NothingToReplace(String),
    #[error("a token lives at most {max_s} s, and {asked_s} were asked for")]
    Ttl { asked_s: u32, max_s: u32 },
    #[error("the system gave no randomness")]
    Random(#[source] getrandom::Error),
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// A bounded list of names for a message.
fn names(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} (and {more} more)"),
    }
}

impl From<HostsError> for Status {
    fn from(error: HostsError) -> Self {
        use HostsError as E;
        match &error {
            E::Selector(_) => Answer::invalid("bad_selector", &error),
            E::Unknown(_) => {
                Answer::new(Code::NotFound, "unknown_host", &error).hint("`vigiectl hosts list` shows every host")
            }
            E::NoMatch => Answer::new(Code::NotFound, "no_match", &error)
                .hint("`vigiectl hosts list` shows every host with its labels"),
            E::NoHosts => {
                Answer::new(Code::NotFound, "no_hosts", &error).hint("`vigiectl hosts add root@HOST` adds one")
            }
            E::NoStack { .. } | E::NoPlace { .. } => Answer::new(Code::FailedPrecondition, "no_stack", &error)
                .hint("a stack is known once its host's agent has reported it; `vigiectl hosts show HOST` lists them"),
            E::Name(_) => Answer::invalid("bad_name", &error),
            E::Label(_) | E::LabelTwice(_) | E::TooManyLabels(_) => Answer::invalid("bad_label", &error),
            E::Taken(_) => Answer::new(Code::AlreadyExists, "name_taken", &error)
                .hint("choose another name, or say that the host is to be replaced"),
            E::NothingToReplace(_) => Answer::new(Code::NotFound, "unknown_host", &error)
                .hint("leave `replace` out to enrol a new host of this name"),
            E::Ttl { .. } => Answer::invalid("bad_ttl", &error),
            E::Random(_) => internal("the system gave no randomness", &error),
            E::Store(source) => store(source),
        }
        .into()
    }
}

/// Opening, watching, signing and ending runs.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("no run is named {0:?}")]
    Unknown(String),
    #[error("several runs begin with {0:?}")]
    Ambiguous(String),
    #[error("a request for a run says what to run")]
    NoKind,
    #[error("a request for a run has a selector")]
    NoSelector,
    #[error("no runbook is named {0:?}")]
    UnknownRunbook(String),
    #[error(transparent)]
    Hosts(#[from] HostsError),
    #[error("the run cannot be opened: {0}")]
    Open(#[from] OpenError),
    #[error("a run with the id {0} exists, with another request or by another operator")]
    Different(vigie_proto::id::RunId),
    #[error("{0}")]
    Rejected(#[from] Rejected),
    #[error("nothing is tried again: {0}")]
    NotAgain(#[from] NotAgain),
    #[error("the run's log is damaged")]
    Corrupt(#[from] Corrupt),
    #[error("the rules could not be evaluated")]
    Rules(#[from] tokio::task::JoinError),
    #[error("the controller is stopping")]
    Stopping,
    #[error("the run is open, and this controller does not drive it")]
    Undriven,
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl From<RunsError> for Status {
    fn from(error: RunsError) -> Self {
        use RunsError as E;
        match error {
            E::Id(_) => Answer::invalid("bad_id", &error).hint("a run's id is a UUIDv7 that the caller made"),
            E::Unknown(_) => Answer::new(Code::NotFound, "unknown_run", &error)
                .hint("`vigiectl runs list` shows the latest"),
            E::Ambiguous(_) => Answer::invalid("ambiguous_run", &error).hint("write more of the id"),
            E::NoKind => Answer::invalid("bad_request", &error).hint("name an operation or a runbook"),
            E::NoSelector => Answer::invalid("bad_request", &error).hint("say which hosts"),
            E::UnknownRunbook(_) => Answer::new(Code::NotFound, "unknown_runbook", &error)
                .hint("`vigiectl runbooks list` shows them"),
            E::Hosts(source) => return source.into(),
            E::Open(OpenError::Request(_)) => Answer::invalid("bad_operation", &error)
                .hint("`vigiectl operations show OPERATION` lists its arguments"),
            E::Open(OpenError::Parameters(_) | OpenError::UnknownRemedy { .. }) => {
                Answer::invalid("bad_runbook_call", &error)
                    .hint("`vigiectl runbooks show RUNBOOK` lists what it takes")
            }
            E::Open(
                OpenError::Nothing | OpenError::Mode | OpenError::OnlyDiagnose | OpenError::UnknownRunbook(_),
            ) => Answer::invalid("bad_request", &error),
            E::Different(_) => Answer::new(Code::AlreadyExists, "run_exists", &error).hint("make a new id"),
            E::Rejected(_) => Answer::new(Code::FailedPrecondition, "rejected", &error)
                .hint("`vigiectl runs show RUN` tells where the run stands"),
            E::NotAgain(NotAgain::InDoubt { .. }) => Answer::new(Code::FailedPrecondition, "in_doubt", &error)
                .hint("look there, then say what you found: `vigiectl runs resolve RUN -H HOST --stack STACK --done` or `--not-done`"),
            E::NotAgain(NotAgain::Open(_)) => Answer::new(Code::FailedPrecondition, "not_again", &error)
                .hint("`vigiectl runs watch RUN` waits for its end, `vigiectl runs cancel RUN` ends it"),
            E::NotAgain(NotAgain::Since { .. }) => Answer::new(Code::FailedPrecondition, "not_again", &error)
                .hint("give `vigiectl runs retry` that run to go on from there; -H and --stack narrow it to other places"),
            E::NotAgain(NotAgain::OtherRequest(_) | NotAgain::Elsewhere { .. } | NotAgain::Well { .. }) => {
                Answer::new(Code::FailedPrecondition, "not_again", &error)
                    .hint("`vigiectl runs show RUN` tells how it ended on each host and stack")
            }
            E::Corrupt(_) => internal("the run's log is damaged", &error),
            E::Rules(_) => internal("the rules could not be evaluated", &error),
            E::Stopping => Answer::new(Code::Unavailable, "stopping", &error)
                .hint("try again in a few seconds; the run itself is kept"),
            E::Undriven => Answer::new(Code::Unavailable, "run_undriven", &error).hint(
                "another controller has taken it, or its log is damaged; the controller's log says which",
            ),
            E::Store(source) => store(&source),
        }
        .into()
    }
}

/// Asking for runbooks.
#[derive(Debug, thiserror::Error)]
pub enum RunbooksError {
    #[error("no runbook is named {0:?}")]
    Unknown(String),
}

impl From<RunbooksError> for Status {
    fn from(error: RunbooksError) -> Self {
        match &error {
            RunbooksError::Unknown(_) => Answer::new(Code::NotFound, "unknown_runbook", &error)
                .hint("`vigiectl runbooks list` shows them"),
        }
        .into()
    }
}

/// Exchanging a token for a certificate. What a stranger is told does not say whether a token exists.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    #[error("the token is not valid, or was used, or has expired")]
    Token(#[source] TokenDenial),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(
        "the name {0:?} cannot be an operator's: lower-case letters, digits, `.`, `_` and `-`, at most 63"
    )]
    Name(String),
    #[error("a login brings the operator's trust list, version 1, with that operator alone")]
    TrustListShape,
    #[error("the trust list is not sound: {0}")]
    TrustList(#[from] TrustError),
    #[error("an operator brings both a name and a trust list, an agent neither")]
    Neither,
    #[error("the token's id is not one")]
    TokenId,
    #[error("no operator has logged in yet, so there is nobody whom the host could take orders from")]
    NoOperator,
    #[error("a host named {0} is enrolled already")]
    Taken(String),
    #[error("no certificate could be issued")]
    Issue(#[from] IssueError),
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// Why a token is not honoured: for the log and the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenDenial {
    #[error("there is no such token")]
    Unknown,
    #[error("the secret is wrong")]
    Secret,
    #[error("the token has expired")]
    Expired,
    #[error("the token was used with another key")]
    OtherKey,
    #[error("the first operator has logged in already")]
    Claimed,
}

impl From<EnrolError> for Status {
    fn from(error: EnrolError) -> Self {
        use EnrolError as E;
        match &error {
            E::Token(_) => Answer::new(Code::PermissionDenied, "token_denied", &error)
                .hint("ask for a new token; if nobody used this one, somebody else may have"),
            E::Request(_) => Answer::invalid("bad_certificate_request", &error),
            E::Name(_) => Answer::invalid("bad_name", &error),
            E::TrustListShape | E::TrustList(_) => Answer::invalid("bad_trust_list", &error),
            E::Neither | E::TokenId => Answer::invalid("bad_enrolment", &error),
            E::NoOperator => Answer::new(Code::FailedPrecondition, "no_operator", &error)
                .hint("redeem the first operator's token with `vigiectl login`"),
            E::Taken(_) => Answer::new(Code::AlreadyExists, "name_taken", &error)
                .hint("make a token under another name, or one that replaces the host"),
            E::Issue(_) => internal("no certificate could be issued", &error),
            E::Store(source) => store(source),
        }
        .into()
    }
}

/// Asking about incidents, and writing them up.
#[derive(Debug, thiserror::Error)]
pub enum IncidentsError {
    #[error("no incident is named {0:?}")]
    Unknown(String),
    #[error("several incidents begin with {0:?}")]
    Ambiguous(String),
    #[error("the checklist has no line {0}")]
    NoLine(u32),
    #[error("nothing is said")]
    Nothing,
    #[error("a text has at most {0} characters")]
    TooLong(usize),
    #[error("symptoms of the incident show still")]
    StillShows,
    #[error("the incident is closed")]
    Closed,
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl From<IncidentsError> for Status {
    fn from(error: IncidentsError) -> Self {
        use IncidentsError as E;
        match &error {
            E::Unknown(_) => Answer::new(Code::NotFound, "unknown_incident", &error)
                .hint("`vigiectl incidents list --closed` shows them all"),
            E::Ambiguous(_) => Answer::invalid("ambiguous_incident", &error).hint("write more of the id"),
            E::NoLine(_) => Answer::invalid("bad_line", &error)
                .hint("`vigiectl incidents show INCIDENT` numbers the lines"),
            E::Nothing => {
                Answer::invalid("bad_note", &error).hint("write a note, a cause, a fix or a ticket")
            }
            E::TooLong(_) => Answer::invalid("bad_note", &error),
            E::StillShows => Answer::new(Code::FailedPrecondition, "still_shows", &error)
                .hint("mend it first, or close it all the same with --force"),
            E::Closed => Answer::new(Code::FailedPrecondition, "incident_closed", &error),
            E::Store(source) => store(source),
        }
        .into()
    }
}

/// An agent's session and its outputs.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("the certificate names no host of this fleet")]
    UnknownHost,
    #[error("the host was enrolled again since; this certificate is of an earlier enrolment")]
    Replaced,
    #[error("a session begins with a hello, within {0} s")]
    NoHello(u64),
    #[error("a message of the session is empty or says something impossible: {0}")]
    Malformed(&'static str),
    #[error("a newer session of the same host took over")]
    Superseded,
    #[error("the certificate has reached its end")]
    CertificateEnded,
    #[error("the host does not read its messages")]
    Stuck,
    #[error("the host runs no such task")]
    UnknownTask,
    #[error("the controller is stopping")]
    Stopping,
    #[error("the store failed")]
    Store(#[from] StoreError),
}

impl From<LinkError> for Status {
    fn from(error: LinkError) -> Self {
        use LinkError as E;
        match &error {
            E::UnknownHost => {
                Answer::new(Code::PermissionDenied, "unknown_host", &error).hint("enrol this host again")
            }
            E::Replaced => Answer::new(Code::PermissionDenied, "wrong_incarnation", &error)
                .hint("another machine took this host's place; enrol this one under its own name"),
            E::NoHello(_) | E::Malformed(_) => Answer::invalid("bad_session", &error),
            E::Superseded => Answer::new(Code::Aborted, "superseded", &error),
            E::CertificateEnded => Answer::new(Code::Unauthenticated, "certificate_expired", &error)
                .hint("enrol this host again"),
            E::Stuck => Answer::new(Code::ResourceExhausted, "stuck", &error),
            E::UnknownTask => Answer::new(Code::NotFound, "unknown_task", &error),
            E::Stopping => Answer::new(Code::Unavailable, "stopping", &error),
            E::Store(source) => store(source),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_name_and_its_hint() {
        let status = Status::from(HostsError::Unknown((0..12).map(|n| format!("vps{n}")).collect()));
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().ends_with("vps9 (and 2 more)"), "{}", status.message());
        assert_eq!(status.metadata().get("vigie-code").unwrap(), "unknown_host");
        assert_eq!(status.metadata().get("vigie-hint").unwrap(), "`vigiectl hosts list` shows every host");
    }

    #[test]
    fn what_failed_inside_stays_inside() {
        let failure = StoreError::Damaged { what: "the secret plan" };
        let status = Status::from(RunsError::Store(failure));
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!format!("{status:?}").contains("secret plan"));
    }

    #[test]
    fn a_stranger_does_not_learn_whether_a_token_exists() {
        let message = |denial| Status::from(EnrolError::Token(denial)).message().to_owned();
        assert_eq!(message(TokenDenial::Unknown), message(TokenDenial::Expired));
        assert_eq!(message(TokenDenial::Secret), message(TokenDenial::OtherKey));
    }

    #[test]
    fn hints_are_visible_ascii() {
        assert_eq!(ascii("a\nb\u{e9} c"), "a?b? c");
    }
}
