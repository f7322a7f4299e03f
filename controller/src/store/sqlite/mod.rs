//! The store on SQLite: one file, one writer, nothing else to install.
//!
//! WAL with `synchronous = FULL`: what a caller was told is kept is on the disk. All writing goes through one
//! connection, so that two transactions never meet; reading has connections of its own and never waits for a writer.

mod audit;
mod hosts;
mod incidents;
mod runs;
mod tokens;

use std::{fs, path::Path, time::Duration};

use async_trait::async_trait;
use prost::Message;
use sqlx::{
    Row as _, SqlSafeStr as _, Sqlite as Engine, SqlitePool, Transaction,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use vigie_proto::{
    id::RunId,
    v1::{Incident, RunEvent, RunSummary, SignedTrustList},
};

use super::{
    CertificateRow, Enrolment, HostRow, Issue, Mandate, OpenedRun, PendingNotice, RedeemError, Redemption,
    RemedyTried, Sighting, Store, StoreError, Token, refusal,
};
use crate::audit::{Intent, Kind, Line, Record};

/// How long a statement waits for another process's lock (a backup, a person with `sqlite3`) before it fails.
const BUSY: Duration = Duration::from_secs(5);

/// Connections that read at the same time.
const READERS: u32 = 4;

/// A store in one SQLite file.
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Sqlite {
    /// Opens the file, or makes it, and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be opened, is of a newer version, or does not keep what it is told to keep.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::private(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY);
        let pool = |connections: u32| {
            SqlitePoolOptions::new()
                .min_connections(1)
                .max_connections(connections)
                // A connection costs nothing to keep; closing the last one would checkpoint in the middle of things.
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writer = pool(1).connect_with(options.clone()).await.map_err(StoreError::Open)?;
        assert_settings(&writer).await?;
        migrations().run(&writer).await.map_err(StoreError::Migrate)?;
        let readers = pool(READERS).connect_with(options.read_only(true)).await.map_err(StoreError::Open)?;
        Ok(Self { writer, readers })
    }

    /// Makes the file with mode 0600 before SQLite does, which would follow the umask; its WAL takes the same mode.
    fn private(path: &Path) -> Result<(), StoreError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let made = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        made.map(drop).map_err(|error| StoreError::Open(error.into()))
    }

    /// Begins a transaction that writes, taking the lock at once instead of at its first write.
    async fn write(&self) -> Result<Transaction<'static, Engine>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }
}

/// What the durability of every answer rests on is asked for, not assumed.
async fn assert_settings(pool: &SqlitePool) -> Result<(), StoreError> {
    let checks = [
        ("journal_mode", "PRAGMA journal_mode", "wal"),
        ("synchronous", "PRAGMA synchronous", "2"),
        ("foreign_keys", "PRAGMA foreign_keys", "1"),
    ];
    for (pragma, statement, wanted) in checks {
        let row = sqlx::query(statement).fetch_one(pool).await?;
        let found =
            row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()))?;
        if found != wanted {
            return Err(StoreError::Pragma { pragma, wanted, found });
        }
    }
    Ok(())
}

fn migrations() -> Migrator {
    let first = include_str!("../../../migrations/0001_first.sql").into_sql_str();
    let incidents = include_str!("../../../migrations/0002_incidents.sql").into_sql_str();
    let remedies = include_str!("../../../migrations/0003_remedies.sql").into_sql_str();
    Migrator::with_migrations(vec![
        Migration::new(1, "first".into(), MigrationType::Simple, first, false),
        Migration::new(2, "incidents".into(), MigrationType::Simple, incidents, false),
        Migration::new(3, "remedies".into(), MigrationType::Simple, remedies, false),
    ])
}

/// SQLite's integers are signed; none of ours comes near the difference.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Damaged { what })
}

fn bytes<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Damaged { what })
}

fn decode<M: Message + Default>(bytes: &[u8], what: &'static str) -> Result<M, StoreError> {
    M::decode(bytes).map_err(|_| StoreError::Damaged { what })
}

fn parse<T: std::str::FromStr>(text: &str, what: &'static str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged { what })
}

#[async_trait]
impl Store for Sqlite {
    async fn write_audit(&self, line: Line) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        let seq = audit::append(&mut transaction, &line).await?;
        transaction.commit().await?;
        Ok(seq)
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
        audit::page(&self.readers, after, limit).await
    }

    async fn open_audit(&self) -> Result<Vec<Record>, StoreError> {
        audit::open(&self.readers).await
    }

    async fn add_token(&self, intent: &Intent, token: &Token) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        tokens::add(&mut transaction, intent, token).await?;
        Ok(transaction.commit().await?)
    }

    async fn redeem(&self, redemption: &Redemption, issue: &dyn Issue) -> Result<Enrolment, RedeemError> {
        let mut transaction = self.write().await?;
        match tokens::redeem(&mut transaction, redemption, issue).await {
            Ok(enrolment) => {
                transaction.commit().await?;
                Ok(enrolment)
            }
            Err(error) => {
                transaction.rollback().await?;
                if let Some(line) = refusal(redemption, &error) {
                    self.write_audit(line).await?;
                }
                Err(error)
            }
        }
    }

    async fn certificate(&self, serial: &str) -> Result<Option<CertificateRow>, StoreError> {
        tokens::certificate(&self.readers, serial).await
    }

    async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        hosts::all(&self.readers).await
    }

    async fn remember(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        for sighting in sightings {
            hosts::remember(&mut transaction, sighting).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn trust_list(&self) -> Result<Option<SignedTrustList>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        tokens::trust_list(&mut connection).await
    }

    async fn open_run(
        &self,
        intent: &Intent,
        run: RunId,
        events: &[RunEvent],
        summary: &RunSummary,
    ) -> Result<OpenedRun, StoreError> {
        let mut transaction = self.write().await?;
        let opened = runs::open(&mut transaction, intent, run, events, summary).await?;
        transaction.commit().await?;
        Ok(opened)
    }

    async fn append(
        &self,
        mandate: &Mandate,
        events: &[RunEvent],
        summary: &RunSummary,
        remedies: &[RemedyTried],
    ) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        runs::append(&mut transaction, mandate.run(), events, summary).await?;
        runs::try_remedies(&mut transaction, mandate.run(), remedies).await?;
        Ok(transaction.commit().await?)
    }

    async fn remedies(&self, since_ms: i64) -> Result<Vec<RemedyTried>, StoreError> {
        runs::remedies(&self.readers, since_ms).await
    }

    async fn open_runs(&self) -> Result<Vec<Mandate>, StoreError> {
        runs::open_runs(&self.readers).await
    }

    async fn closed_run(&self, run: RunId) -> Result<Option<Mandate>, StoreError> {
        runs::closed_run(&self.readers, run).await
    }

    async fn events(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
        runs::events(&self.readers, run, after, limit).await
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunSummary>, StoreError> {
        runs::newest(&self.readers, limit).await
    }

    async fn run(&self, run: RunId) -> Result<Option<RunSummary>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        runs::summary(&mut connection, run).await
    }

    async fn runs_beginning(&self, prefix: &str) -> Result<Vec<RunId>, StoreError> {
        runs::beginning(&self.readers, prefix).await
    }

    async fn save_incidents(
        &self,
        intent: Option<&Intent>,
        incidents: &[Incident],
        notices: &[(String, String)],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        if let Some(intent) = intent {
            audit::append(&mut transaction, &intent.line(Kind::Done)).await?;
        }
        for incident in incidents {
            incidents::save(&mut transaction, incident).await?;
        }
        for (channel, body) in notices {
            incidents::add_notice(&mut transaction, channel, body, now_ms).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn incidents(&self, closed: bool, limit: u32) -> Result<Vec<Incident>, StoreError> {
        incidents::newest(&self.readers, closed, limit).await
    }

    async fn incidents_beginning(&self, prefix: &str) -> Result<Vec<Incident>, StoreError> {
        incidents::beginning(&self.readers, prefix).await
    }

    async fn next_notice(&self, channel: &str) -> Result<Option<PendingNotice>, StoreError> {
        incidents::next_notice(&self.readers, channel).await
    }

    async fn notice_done(&self, id: i64) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        incidents::notice_done(&mut transaction, id).await?;
        Ok(transaction.commit().await?)
    }

    async fn notice_delayed(&self, id: i64, next_at_ms: i64) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        incidents::notice_delayed(&mut transaction, id, next_at_ms).await?;
        Ok(transaction.commit().await?)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
