//! Hosts, and what was last seen of them.

use std::collections::BTreeMap;

use sqlx::{Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};
use vigie_proto::id::HostId;

use super::{decode, parse, signed, unsigned};
use crate::store::{HostRow, Sighting, StoreError};

const WHAT: &str = "a host";

pub(super) async fn all(pool: &SqlitePool) -> Result<Vec<HostRow>, StoreError> {
    let rows = sqlx::query("SELECT * FROM hosts ORDER BY name").fetch_all(pool).await?;
    rows.iter().map(read).collect()
}

pub(super) async fn by_name(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<HostRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM hosts WHERE name = ?").bind(name).fetch_optional(connection).await?;
    row.as_ref().map(read).transpose()
}

pub(super) async fn by_id(
    connection: &mut SqliteConnection,
    id: HostId,
) -> Result<Option<HostRow>, StoreError> {
    let row = sqlx::query("SELECT * FROM hosts WHERE id = ?")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Writes a host as it was enrolled, for the first time or anew. What was seen of it before is forgotten: it is
/// another machine now.
pub(super) async fn enrol(connection: &mut SqliteConnection, host: &HostRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO hosts (id, name, labels, incarnation, enrolled_at_ms) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET labels = excluded.labels, incarnation = excluded.incarnation,
             enrolled_at_ms = excluded.enrolled_at_ms, connected_since_ms = 0, last_seen_ms = 0, state = NULL",
    )
    .bind(host.id.to_string())
    .bind(&host.name)
    .bind(labels_to_text(&host.labels))
    .bind(signed(host.incarnation))
    .bind(host.enrolled_at_ms)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn remember(
    connection: &mut SqliteConnection,
    sighting: &Sighting,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE hosts SET connected_since_ms = ?, last_seen_ms = ?, state = ? WHERE id = ? AND incarnation = ?")
        .bind(sighting.connected_since_ms)
        .bind(sighting.last_seen_ms)
        .bind(sighting.state.as_ref().map(prost::Message::encode_to_vec))
        .bind(sighting.host.to_string())
        .bind(signed(sighting.incarnation))
        .execute(connection)
        .await?;
    Ok(())
}

fn read(row: &SqliteRow) -> Result<HostRow, StoreError> {
    let state: Option<&[u8]> = row.try_get("state")?;
    Ok(HostRow {
        id: parse(row.try_get("id")?, WHAT)?,
        name: row.try_get("name")?,
        labels: labels_from_text(row.try_get("labels")?)?,
        incarnation: unsigned(row.try_get("incarnation")?, WHAT)?,
        enrolled_at_ms: row.try_get("enrolled_at_ms")?,
        connected_since_ms: row.try_get("connected_since_ms")?,
        last_seen_ms: row.try_get("last_seen_ms")?,
        state: state.map(|state| decode(state, "a host's state")).transpose()?,
    })
}

pub(super) fn labels_to_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::Value::from_iter(labels.iter().map(|(name, value)| (name.clone(), value.clone()))).to_string()
}

pub(super) fn labels_from_text(text: &str) -> Result<BTreeMap<String, String>, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Damaged { what: "labels" })
}
