//! Runs and their events.

use prost::Message as _;
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use vigie_proto::{
    id::RunId,
    v1::{RunEvent, RunSummary},
};

use super::{audit, decode, parse, signed, unsigned};
use crate::{
    audit::{Intent, Kind},
    store::{Mandate, OpenedRun, RemedyTried, StoreError},
};

const WHAT: &str = "a run";

pub(super) async fn open(
    connection: &mut SqliteConnection,
    intent: &Intent,
    run: RunId,
    events: &[RunEvent],
    summary: &RunSummary,
) -> Result<OpenedRun, StoreError> {
    if let Some(existing) = self::summary(connection, run).await? {
        return Ok(OpenedRun::Exists(existing));
    }
    audit::append(connection, &intent.line(Kind::Done)).await?;
    sqlx::query(
        "INSERT INTO runs (id, title, operator, opened_at_ms, closed_at_ms, phase, verdict, targets, retry_of, last_seq)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
    )
    .bind(run.to_string())
    .bind(&summary.title)
    .bind(&summary.operator)
    .bind(summary.opened_at_ms)
    .bind(summary.closed_at_ms)
    .bind(summary.phase)
    .bind(summary.verdict)
    .bind(summary.targets)
    .bind(&summary.retry_of)
    .execute(&mut *connection)
    .await?;
    append(connection, run, events, summary).await?;
    Ok(OpenedRun::New(Mandate::new(run)))
}

/// Appends behind the event before the first of these, or not at all. The summary moves first: its condition is what
/// keeps two owners of one run apart.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    run: RunId,
    events: &[RunEvent],
    summary: &RunSummary,
) -> Result<(), StoreError> {
    let Some(first) = events.first() else {
        return Ok(());
    };
    let expected = first.seq.saturating_sub(1);
    let moved = sqlx::query(
        "UPDATE runs SET phase = ?, verdict = ?, closed_at_ms = ?, last_seq = ? WHERE id = ? AND last_seq = ?",
    )
    .bind(summary.phase)
    .bind(summary.verdict)
    .bind(summary.closed_at_ms)
    .bind(signed(summary.last_seq))
    .bind(run.to_string())
    .bind(signed(expected))
    .execute(&mut *connection)
    .await?;
    if moved.rows_affected() != 1 {
        return Err(StoreError::Overtaken { run, expected });
    }
    for event in events {
        sqlx::query("INSERT INTO events (run, seq, body) VALUES (?, ?, ?)")
            .bind(run.to_string())
            .bind(signed(event.seq))
            .bind(event.encode_to_vec())
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Keeps which remedies a run begins; the first time counts.
pub(super) async fn try_remedies(
    connection: &mut SqliteConnection,
    run: RunId,
    remedies: &[RemedyTried],
) -> Result<(), StoreError> {
    for tried in remedies {
        sqlx::query(
            "INSERT INTO remedies (run, host, stack, remedy, at_ms) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        )
        .bind(run.to_string())
        .bind(tried.host.to_string())
        .bind(&tried.stack)
        .bind(&tried.remedy)
        .bind(tried.at_ms)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

pub(super) async fn remedies(pool: &SqlitePool, since_ms: i64) -> Result<Vec<RemedyTried>, StoreError> {
    let rows = sqlx::query("SELECT * FROM remedies WHERE at_ms >= ? ORDER BY at_ms")
        .bind(since_ms)
        .fetch_all(pool)
        .await?;
    let read = |row: &SqliteRow| {
        let (run, host): (String, String) = (row.try_get("run")?, row.try_get("host")?);
        Ok(RemedyTried {
            run: parse(&run, "a remedy")?,
            host: parse(&host, "a remedy")?,
            stack: row.try_get("stack")?,
            remedy: row.try_get("remedy")?,
            at_ms: row.try_get("at_ms")?,
        })
    };
    rows.iter().map(read).collect()
}

pub(super) async fn open_runs(pool: &SqlitePool) -> Result<Vec<Mandate>, StoreError> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM runs WHERE closed_at_ms = 0 ORDER BY opened_at_ms")
            .fetch_all(pool)
            .await?;
    ids.iter().map(|id| Ok(Mandate::new(parse(id, WHAT)?))).collect()
}

pub(super) async fn closed_run(pool: &SqlitePool, run: RunId) -> Result<Option<Mandate>, StoreError> {
    let closed: Option<i64> =
        sqlx::query_scalar("SELECT closed_at_ms FROM runs WHERE id = ? AND closed_at_ms > 0")
            .bind(run.to_string())
            .fetch_optional(pool)
            .await?;
    Ok(closed.map(|_| Mandate::new(run)))
}

pub(super) async fn events(
    pool: &SqlitePool,
    run: RunId,
    after: u64,
    limit: u32,
) -> Result<Vec<RunEvent>, StoreError> {
    let bodies: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT body FROM events WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?")
            .bind(run.to_string())
            .bind(signed(after))
            .bind(limit)
            .fetch_all(pool)
            .await?;
    bodies.iter().map(|body| decode(body, "a run's event")).collect()
}

/// By when they were opened: an id says only when its maker claims to have made it.
pub(super) async fn newest(pool: &SqlitePool, limit: u32) -> Result<Vec<RunSummary>, StoreError> {
    let rows = sqlx::query("SELECT * FROM runs ORDER BY opened_at_ms DESC, id DESC LIMIT ?")
        .bind(limit)
        .fetch_all(pool)
        .await?;
    rows.iter().map(read).collect()
}

pub(super) async fn summary(
    connection: &mut SqliteConnection,
    run: RunId,
) -> Result<Option<RunSummary>, StoreError> {
    let row = sqlx::query("SELECT * FROM runs WHERE id = ?")
        .bind(run.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn retries(pool: &SqlitePool, run: RunId) -> Result<Vec<RunId>, StoreError> {
    let ids: Vec<String> =
        // As the index has it, which is for those alone that try one.
        sqlx::query_scalar("SELECT id FROM runs WHERE retry_of = ? AND retry_of != '' ORDER BY id")
            .bind(run.to_string())
            .fetch_all(pool)
            .await?;
    ids.iter().map(|id| parse(id, WHAT)).collect()
}

/// `prefix` holds only what an id can hold, so that `~` stands behind every continuation of it.
pub(super) async fn beginning(pool: &SqlitePool, prefix: &str) -> Result<Vec<RunId>, StoreError> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT 2")
            .bind(prefix)
            .bind(format!("{prefix}~"))
            .fetch_all(pool)
            .await?;
    ids.iter().map(|id| parse(id, WHAT)).collect()
}

fn read(row: &SqliteRow) -> Result<RunSummary, StoreError> {
    Ok(RunSummary {
        run: row.try_get("id")?,
        title: row.try_get("title")?,
        operator: row.try_get("operator")?,
        opened_at_ms: row.try_get("opened_at_ms")?,
        closed_at_ms: row.try_get("closed_at_ms")?,
        phase: row.try_get("phase")?,
        verdict: row.try_get("verdict")?,
        targets: row.try_get("targets")?,
        last_seq: unsigned(row.try_get("last_seq")?, WHAT)?,
        retry_of: row.try_get("retry_of")?,
    })
}
