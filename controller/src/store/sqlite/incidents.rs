//! Incidents, and the notices that wait to be delivered.

use prost::Message as _;
use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use vigie_proto::v1::{Incident, IncidentState};

use super::decode;
use crate::store::{PendingNotice, StoreError};

const WHAT: &str = "an incident";

pub(super) async fn save(connection: &mut SqliteConnection, incident: &Incident) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO incidents (id, opened_at_ms, state, body) VALUES (?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, body = excluded.body",
    )
    .bind(&incident.id)
    .bind(incident.opened_at_ms)
    .bind(incident.state)
    .bind(incident.encode_to_vec())
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn newest(pool: &SqlitePool, closed: bool, limit: u32) -> Result<Vec<Incident>, StoreError> {
    let rows = sqlx::query(
        "SELECT body FROM incidents WHERE ? OR state <> ? ORDER BY opened_at_ms DESC, id DESC LIMIT ?",
    )
    .bind(closed)
    .bind(i32::from(IncidentState::Closed))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter().map(incident).collect()
}

pub(super) async fn beginning(pool: &SqlitePool, prefix: &str) -> Result<Vec<Incident>, StoreError> {
    let rows = sqlx::query("SELECT body FROM incidents WHERE substr(id, 1, length(?)) = ? LIMIT 2")
        .bind(prefix)
        .bind(prefix)
        .fetch_all(pool)
        .await?;
    rows.iter().map(incident).collect()
}

fn incident(row: &SqliteRow) -> Result<Incident, StoreError> {
    decode(&row.try_get::<Vec<u8>, _>("body")?, WHAT)
}

pub(super) async fn add_notice(
    connection: &mut SqliteConnection,
    channel: &str,
    body: &str,
    now_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO notices (channel, body, made_at_ms, next_at_ms) VALUES (?, ?, ?, ?)")
        .bind(channel)
        .bind(body)
        .bind(now_ms)
        .bind(now_ms)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn next_notice(
    pool: &SqlitePool,
    channel: &str,
) -> Result<Option<PendingNotice>, StoreError> {
    // Of one incident the oldest comes first; one that is not taken keeps no other incident's waiting.
    let row = sqlx::query(
        "WITH own AS (
             SELECT id, body, made_at_ms, attempts, next_at_ms,
                    CASE WHEN json_valid(body) THEN json_extract(body, '$.incident') ELSE id END AS incident
             FROM notices WHERE channel = ?
         )
         SELECT id, body, made_at_ms, attempts, next_at_ms FROM own
         WHERE id IN (SELECT MIN(id) FROM own GROUP BY incident)
         ORDER BY next_at_ms, id LIMIT 1",
    )
    .bind(channel)
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        Ok(PendingNotice {
            id: row.try_get("id")?,
            body: row.try_get("body")?,
            made_at_ms: row.try_get("made_at_ms")?,
            attempts: row.try_get("attempts")?,
            next_at_ms: row.try_get("next_at_ms")?,
        })
    })
    .transpose()
}

pub(super) async fn notice_done(connection: &mut SqliteConnection, id: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM notices WHERE id = ?").bind(id).execute(connection).await?;
    Ok(())
}

pub(super) async fn notice_delayed(
    connection: &mut SqliteConnection,
    id: i64,
    next_at_ms: i64,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE notices SET attempts = attempts + 1, next_at_ms = ? WHERE id = ?")
        .bind(next_at_ms)
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}
