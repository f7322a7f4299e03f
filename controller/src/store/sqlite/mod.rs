//! The store on SQLite: one file, one writer, nothing else to install.
//!
//! WAL with `synchronous = FULL`: what a caller was told is kept is on the disk. All writing goes through one
//! connection, so that two transactions never meet; reading has connections of its own and never waits for a writer.

mod audit;
mod copy;
mod guard;
mod hosts;
mod incidents;
mod open;
mod reserve;
mod runs;
mod tokens;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use prost::Message;
use sqlx::{Sqlite as Engine, SqlitePool, Transaction};
use tokio::sync::watch;
use vigie_proto::{
    id::RunId,
    v1::{Incident, RunEvent, RunSummary, SignedTrustList},
};

use super::{
    CertificateRow, Claim, Enrolment, Health, HostRow, Issue, Mandate, OpenedRun, PendingNotice, RedeemError,
    Redemption, RemedyTried, Sighting, Store, StoreError, Token, refusal, room::RESERVE,
};
use crate::audit::{Intent, Kind, Line, Record};
use guard::Guard;

/// A store in one SQLite file.
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    guard: Guard,
    path: PathBuf,
}

impl Sqlite {
    /// Begins a transaction that writes, taking the lock at once instead of at its first write.
    async fn write(&self, claim: Claim) -> Result<Transaction<'static, Engine>, StoreError> {
        self.guard.admit(claim)?;
        if claim == Claim::Observing && self.guard.is_on_reserve() && self.free().await? < RESERVE / 2 {
            let why = "what is left of the reserve is kept for what frees the disk".to_owned();
            return Err(StoreError::Full { why });
        }
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// The write-ahead log of a database.
fn wal(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
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
    fn health(&self) -> watch::Receiver<Health> {
        self.guard.watch()
    }

    async fn tend(&self) {
        if self.guard.may_recover() {
            match self.try_writing().await {
                Ok(()) => self.guard.recovered(),
                Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "not yet"),
            }
        }
        self.guard.look();
        let Ok(room) = self.guard.room() else { return };
        if self.guard.watch().borrow().refusal(Claim::Freeing).is_none()
            && let Err(error) = self.guard.heed(self.keep_reserve(room).await)
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "the reserve cannot be kept");
        }
    }

    async fn write_audit(&self, line: Line, claim: Claim) -> Result<u64, StoreError> {
        let writing = async {
            let mut transaction = self.write(claim).await?;
            let seq = audit::append(&mut transaction, &line).await?;
            transaction.commit().await?;
            Ok(seq)
        };
        self.guard.heed(writing.await)
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
        audit::page(&self.readers, after, limit).await
    }

    async fn open_audit(&self) -> Result<Vec<Record>, StoreError> {
        audit::open(&self.readers).await
    }

    async fn add_token(&self, intent: &Intent, token: &Token) -> Result<(), StoreError> {
        let writing = async {
            let mut transaction = self.write(intent.claim()).await?;
            tokens::add(&mut transaction, intent, token).await?;
            Ok(transaction.commit().await?)
        };
        self.guard.heed(writing.await)
    }

    async fn redeem(&self, redemption: &Redemption, issue: &dyn Issue) -> Result<Enrolment, RedeemError> {
        let redeeming = async {
            let mut transaction = self.write(redemption.intent.claim()).await?;
            match tokens::redeem(&mut transaction, redemption, issue).await {
                Ok(enrolment) => {
                    transaction.commit().await?;
                    Ok(enrolment)
                }
                Err(error) => {
                    transaction.rollback().await?;
                    if let Some(line) = refusal(redemption, &error) {
                        self.write_audit(line, Claim::Ordinary).await?;
                    }
                    Err(error)
                }
            }
        };
        redeeming.await.map_err(|error| match error {
            RedeemError::Store(error) => RedeemError::Store(self.guard.name(error)),
            other => other,
        })
    }

    async fn certificate(&self, serial: &str) -> Result<Option<CertificateRow>, StoreError> {
        tokens::certificate(&self.readers, serial).await
    }

    async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        hosts::all(&self.readers).await
    }

    async fn remember(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        let writing = async {
            let mut transaction = self.write(Claim::Ordinary).await?;
            for sighting in sightings {
                hosts::remember(&mut transaction, sighting).await?;
            }
            Ok(transaction.commit().await?)
        };
        self.guard.heed(writing.await)
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
        let writing = async {
            let mut transaction = self.write(intent.claim()).await?;
            let opened = runs::open(&mut transaction, intent, run, events, summary).await?;
            transaction.commit().await?;
            Ok(opened)
        };
        self.guard.heed(writing.await)
    }

    async fn append(
        &self,
        mandate: &Mandate,
        events: &[RunEvent],
        summary: &RunSummary,
        remedies: &[RemedyTried],
    ) -> Result<(), StoreError> {
        let writing = async {
            let mut transaction = self.write(mandate.claim()).await?;
            runs::append(&mut transaction, mandate.run(), events, summary).await?;
            runs::try_remedies(&mut transaction, mandate.run(), remedies).await?;
            Ok(transaction.commit().await?)
        };
        self.guard.heed(writing.await)
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

    async fn retries(&self, run: RunId) -> Result<Vec<RunId>, StoreError> {
        runs::retries(&self.readers, run).await
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
        let writing = async {
            // Few and short, and people have to hear of a full disk.
            let mut transaction = self.write(Claim::Observing).await?;
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
        };
        self.guard.heed(writing.await)
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
        let writing = async {
            let mut transaction = self.write(Claim::Observing).await?;
            incidents::notice_done(&mut transaction, id).await?;
            Ok(transaction.commit().await?)
        };
        self.guard.heed(writing.await)
    }

    async fn notice_delayed(&self, id: i64, next_at_ms: i64) -> Result<(), StoreError> {
        let writing = async {
            let mut transaction = self.write(Claim::Observing).await?;
            incidents::notice_delayed(&mut transaction, id, next_at_ms).await?;
            Ok(transaction.commit().await?)
        };
        self.guard.heed(writing.await)
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

#[cfg(test)]
mod tests;
