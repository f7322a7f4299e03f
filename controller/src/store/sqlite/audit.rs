//! The audit's chain.

use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{bytes, signed, unsigned};
use crate::{
    audit::{GENESIS, Kind, Line, Record},
    store::StoreError,
};

const WHAT: &str = "an audit entry";

/// Appends a line within a transaction; its place and hash follow from the last one, which only this writer changes.
pub(super) async fn append(connection: &mut SqliteConnection, line: &Line) -> Result<u64, StoreError> {
    let last = sqlx::query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await?;
    let (last, previous) = match last {
        Some(row) => (unsigned(row.try_get(0)?, WHAT)?, bytes(row.try_get(1)?, WHAT)?),
        None => (0, GENESIS),
    };
    let seq = last + 1;
    sqlx::query(
        "INSERT INTO audit (seq, at_ms, kind, about, actor, address, action, subject, detail, hash)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(signed(seq))
    .bind(line.at_ms)
    .bind(line.kind.word())
    .bind(line.about.map(signed))
    .bind(&line.actor)
    .bind(&line.address)
    .bind(&line.action)
    .bind(&line.subject)
    .bind(&line.detail)
    .bind(&line.hash(seq, &previous)[..])
    .execute(connection)
    .await?;
    Ok(seq)
}

pub(super) async fn page(pool: &SqlitePool, after: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query("SELECT * FROM audit WHERE seq > ? ORDER BY seq LIMIT ?")
        .bind(signed(after))
        .bind(limit)
        .fetch_all(pool)
        .await?;
    rows.iter().map(record).collect()
}

pub(super) async fn open(pool: &SqlitePool) -> Result<Vec<Record>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM audit AS opened WHERE kind = 'opened'
         AND NOT EXISTS (SELECT 1 FROM audit AS closing WHERE closing.about = opened.seq) ORDER BY seq",
    )
    .fetch_all(pool)
    .await?;
    rows.iter().map(record).collect()
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let about: Option<i64> = row.try_get("about")?;
    let line = Line {
        at_ms: row.try_get("at_ms")?,
        kind: Kind::read(row.try_get("kind")?).ok_or(StoreError::Damaged { what: WHAT })?,
        about: about.map(|seq| unsigned(seq, WHAT)).transpose()?,
        actor: row.try_get("actor")?,
        address: row.try_get("address")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        detail: row.try_get("detail")?,
    };
    Ok(Record { seq: unsigned(row.try_get("seq")?, WHAT)?, line, hash: bytes(row.try_get("hash")?, WHAT)? })
}
