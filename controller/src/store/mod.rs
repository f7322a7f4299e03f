//! What the controller must not forget, behind verbs that are whole transactions.
//!
//! Owns all SQL. A verb does everything that belongs together or nothing, and takes the proof that it may: an
//! [`Intent`](crate::audit::Intent) for what changes something on somebody's behalf, whose audit entry is written in the
//! same transaction, or a run's [`Mandate`]. It decides nothing: whether a token is honoured is
//! [`Token::judge`](model::Token::judge)'s to say, which the verb calls inside its transaction.
//!
//! SQLite is the one engine so far; every test of the contract runs on any [`Store`], the simulation's in memory among
//! them.

mod health;
#[cfg(any(test, feature = "sim"))]
pub mod memory;
mod model;
mod room;
mod sqlite;

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::sync::watch;
use vigie_proto::{
    id::{RunId, TokenId},
    v1::{Incident, RunEvent, RunSummary, SignedTrustList},
};

pub use health::{Claim, Health};
pub use model::{
    AgentEnrolled, CertificateRow, Enrolment, HostRow, Mandate, NewOperator, OpenedRun, PendingNotice,
    Redemption, RemedyTried, Sighting, Token, TokenFor,
};
pub use sqlite::Sqlite;

use crate::{
    audit::{Intent, Kind, Line, Record},
    authority::{Certificate, IssueError},
    error::TokenDenial,
};
use vigie_proto::id::HostId;

/// What the controller remembers.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Whether it takes changes, as it is now and becomes.
    fn health(&self) -> watch::Receiver<Health>;

    /// Looks after itself: whether there is room, whether it can be written again, whether its reserves are whole. Called
    /// again and again.
    async fn tend(&self);

    /// Appends one line to the audit and gives its sequence number.
    async fn write_audit(&self, line: Line, claim: Claim) -> Result<u64, StoreError>;

    /// The audit's records after a sequence number, at most `limit`.
    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<Record>, StoreError>;

    /// Records that were opened and never closed.
    async fn open_audit(&self) -> Result<Vec<Record>, StoreError>;

    /// Keeps a new token.
    async fn add_token(&self, intent: &Intent, token: &Token) -> Result<(), StoreError>;

    /// Honours a token or says why not. On success the certificate, what it is for and the token's use are written
    /// together; a refusal is written into the audit. `issue` is called inside the transaction, at most once.
    async fn redeem(&self, redemption: &Redemption, issue: &dyn Issue) -> Result<Enrolment, RedeemError>;

    /// A certificate that this controller issued.
    async fn certificate(&self, serial: &str) -> Result<Option<CertificateRow>, StoreError>;

    /// Every host, by name.
    async fn hosts(&self) -> Result<Vec<HostRow>, StoreError>;

    /// Keeps what was last seen of hosts. A host that is not known, or was
    /// replaced since, is passed over.
    async fn remember(&self, sightings: &[Sighting]) -> Result<(), StoreError>;

    /// The newest trust list; `None` before the first operator's login.
    async fn trust_list(&self) -> Result<Option<SignedTrustList>, StoreError>;

    /// Opens a run with its first events, unless its id is taken.
    async fn open_run(
        &self,
        intent: &Intent,
        run: RunId,
        events: &[RunEvent],
        summary: &RunSummary,
    ) -> Result<OpenedRun, StoreError>;

    /// Appends events, renews the summary and keeps which remedies the events begin. Fails with [`StoreError::Overtaken`] when the run's last event is not
    /// the one before the first of these.
    async fn append(
        &self,
        mandate: &Mandate,
        events: &[RunEvent],
        summary: &RunSummary,
        remedies: &[RemedyTried],
    ) -> Result<(), StoreError>;

    /// The remedies that were begun since then, each once for each run.
    async fn remedies(&self, since_ms: i64) -> Result<Vec<RemedyTried>, StoreError>;

    /// The mandates of all runs that are not closed, oldest first.
    async fn open_runs(&self) -> Result<Vec<Mandate>, StoreError>;

    /// The mandate to write behind a run's end what is learnt later; `None` for a run that is open, or that there is not.
    async fn closed_run(&self, run: RunId) -> Result<Option<Mandate>, StoreError>;

    /// A run's events after a sequence number, at most `limit`.
    async fn events(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError>;

    /// The newest runs first.
    async fn runs(&self, limit: u32) -> Result<Vec<RunSummary>, StoreError>;

    /// One run's summary.
    async fn run(&self, run: RunId) -> Result<Option<RunSummary>, StoreError>;

    /// The runs that try a run again, oldest first.
    async fn retries(&self, run: RunId) -> Result<Vec<RunId>, StoreError>;

    /// At most two runs whose id begins with `prefix`: enough to tell one from several.
    async fn runs_beginning(&self, prefix: &str) -> Result<Vec<RunId>, StoreError>;

    /// Keeps incidents as they stand now, a person's intent where there is one, and what people are to be told, each
    /// notice with its channel.
    async fn save_incidents(
        &self,
        intent: Option<&Intent>,
        incidents: &[Incident],
        notices: &[(String, String)],
        now_ms: i64,
    ) -> Result<(), StoreError>;

    /// The newest incidents first, those that are closed only when asked for.
    async fn incidents(&self, closed: bool, limit: u32) -> Result<Vec<Incident>, StoreError>;

    /// At most two incidents whose id begins with `prefix`.
    async fn incidents_beginning(&self, prefix: &str) -> Result<Vec<Incident>, StoreError>;

    /// The notice that a channel is to deliver next: of each incident the oldest, and of those the one that is due first.
    async fn next_notice(&self, channel: &str) -> Result<Option<PendingNotice>, StoreError>;

    /// A notice is delivered, or given up.
    async fn notice_done(&self, id: i64) -> Result<(), StoreError>;

    /// A notice was not delivered and is tried again later.
    async fn notice_delayed(&self, id: i64, next_at_ms: i64) -> Result<(), StoreError>;

    /// Ends all work, so that what was written is in the main file.
    async fn close(&self);
}

/// Issues the certificates that a token is exchanged for.
pub trait Issue: Send + Sync {
    /// For a host's agent.
    ///
    /// # Errors
    /// When it cannot be made.
    fn agent(&self, host: HostId) -> Result<Certificate, IssueError>;

    /// For an operator.
    ///
    /// # Errors
    /// When it cannot be made.
    fn operator(&self, name: &str) -> Result<Certificate, IssueError>;
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{path} cannot be opened; run as its owner, and look whether its disk is full or mounted read-only"
    )]
    Open { path: PathBuf, source: sqlx::Error },
    #[error("{path} cannot be brought up to date; restore a backup, or install the version that wrote it")]
    Migrate { path: PathBuf, source: sqlx::migrate::MigrateError },
    #[error(
        "{path} was written by a newer vigie-controller (its schema is {found}, this program knows {known}); install that \
         version, or restore a backup from before it"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "{path} is damaged, or no database of Vigie's ({found}); keep it aside, and restore a backup with \
         `vigie-controller restore`"
    )]
    Corrupt { path: PathBuf, found: String },
    #[error(
        "{path} is set to {pragma} = {found} where {wanted} is needed; move the state folder to a local disk, since \
         network shares cannot do it"
    )]
    Pragma { path: PathBuf, pragma: &'static str, wanted: &'static str, found: String },
    #[error(
        "SQLite {found} is linked, which can lose what it has kept; build with the bundled one, {wanted} or newer"
    )]
    Version { found: String, wanted: String },
    #[error("the disk is full: {why}")]
    Full { why: String },
    #[error("the store cannot be written: {why}")]
    ReadOnly { why: String },
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the database holds {what} that does not read")]
    Damaged { what: &'static str },
    #[error("run {run} has been continued by somebody else: its last event is not {expected}")]
    Overtaken { run: RunId, expected: u64 },
    #[error("token {0} exists")]
    TokenExists(TokenId),
}

impl StoreError {
    /// Whether what is kept does not read, which no other try mends.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Corrupt { .. })
    }
}

/// Why a token was not exchanged.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    #[error(transparent)]
    Denied(#[from] TokenDenial),
    #[error("a host named {0} is enrolled already")]
    Taken(String),
    #[error("an agent's token was redeemed as an operator's, or the other way round")]
    WrongRole,
    #[error("there is no trust list")]
    NoTrustList,
    #[error("no certificate could be issued")]
    Issue(#[from] IssueError),
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// What the audit says of a refusal. An unknown token is left to the log: anyone can make those up, without end.
fn refusal(redemption: &Redemption, error: &RedeemError) -> Option<Line> {
    let detail = match error {
        RedeemError::Denied(TokenDenial::Unknown) | RedeemError::Store(_) | RedeemError::Issue(_) => {
            return None;
        }
        RedeemError::Denied(_)
        | RedeemError::Taken(_)
        | RedeemError::WrongRole
        | RedeemError::NoTrustList => error.to_string(),
    };
    Some(redemption.intent.with_detail(&detail).line(Kind::Denied))
}

impl From<sqlx::Error> for RedeemError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[cfg(test)]
mod contract;
