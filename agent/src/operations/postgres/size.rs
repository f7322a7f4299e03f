//! How large the databases are, and what holds back the write-ahead log.

use sqlx::{PgConnection, Row as _};
use vigie_proto::v1::{PostgresSizeRequest, PostgresSizeResult, PostgresSlot, PostgresTable};

use super::{enter, server, sessions::number, status};
use crate::{
    host::postgres,
    operations::{Context, Fault},
};

/// How many tables when the request does not say.
const TABLES: u32 = 10;
/// How many slots are told.
const SLOTS: usize = 50;

const DATABASES: &str = "
    SELECT current_database()::text, pg_database_size(current_database()),
           (SELECT coalesce(sum(pg_database_size(oid)), 0)::int8 FROM pg_database
            WHERE datallowconn AND has_database_privilege(oid, 'CONNECT'))";

/// Each table is measured by its files, which is a look at the filesystem and reads none of them.
const LARGEST: &str = "
    SELECT n.nspname || '.' || c.relname, pg_total_relation_size(c.oid), pg_indexes_size(c.oid),
           greatest(c.reltuples, 0)::int8, coalesce(s.n_dead_tup, 0)::int8
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
    ORDER BY 2 DESC LIMIT $1";

/// The same by the pages that the last vacuum counted: for when somebody holds a table so that it cannot be measured.
const ESTIMATED: &str = "
    SELECT n.nspname || '.' || c.relname,
           (c.relpages + coalesce(i.pages, 0) + coalesce(t.relpages, 0))::int8 * current_setting('block_size')::int8,
           coalesce(i.pages, 0)::int8 * current_setting('block_size')::int8,
           greatest(c.reltuples, 0)::int8, coalesce(s.n_dead_tup, 0)::int8
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
    LEFT JOIN (SELECT x.indrelid, sum(k.relpages) AS pages FROM pg_index x JOIN pg_class k ON k.oid = x.indexrelid
               GROUP BY x.indrelid) i ON i.indrelid = c.oid
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
    ORDER BY 2 DESC LIMIT $1";

const WAL: &str = "
    SELECT coalesce(sum(size), 0)::int8, count(*)::int8,
           (SELECT setting::int8 * 1048576 FROM pg_settings WHERE name = 'max_wal_size')
    FROM pg_ls_waldir()";

const SLOTS_OF: &str = "
    SELECT slot_name::text, active,
           coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                         ELSE pg_current_wal_lsn() END, restart_lsn), 0)::int8,
           coalesce(to_jsonb(s)->>'wal_status', '')
    FROM pg_replication_slots s ORDER BY 3 DESC";

/// Tells sizes.
pub(in crate::operations) async fn size(
    request: PostgresSizeRequest,
    cx: &Context,
) -> Result<PostgresSizeResult, Fault> {
    let Some(server) = server(cx, &request.stack, &request.service).await? else {
        return Ok(PostgresSizeResult::default());
    };
    let tables = if request.tables == 0 { TABLES } else { request.tables };
    let mut session = enter(&server, cx).await?;
    let read = read(&mut session, i64::from(tables)).await;
    postgres::leave(session).await;
    let mut result = read.map_err(|error| postgres::fault(&error))?;
    result.service.clone_from(&server.service);
    if let Some(room) = status::room(cx, &server).await {
        (result.data_free_bytes, result.data_total_bytes) = (room.free_bytes, room.total_bytes);
    }
    Ok(result)
}

async fn read(session: &mut PgConnection, tables: i64) -> Result<PostgresSizeResult, sqlx::Error> {
    let bytes = |row: &sqlx::postgres::PgRow, at: usize| row.try_get::<i64, _>(at).map(number::<u64>);
    let databases = sqlx::query(DATABASES).fetch_one(&mut *session).await?;
    let (largest, estimated) = match sqlx::query(LARGEST).bind(tables).fetch_all(&mut *session).await {
        Ok(rows) => (rows, false),
        // `lock_not_available`: measuring a table waits for whoever has it for themselves.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
            (sqlx::query(ESTIMATED).bind(tables).fetch_all(&mut *session).await?, true)
        }
        Err(error) => return Err(error),
    };
    let wal = match sqlx::query(WAL).fetch_one(&mut *session).await {
        Ok(row) => (bytes(&row, 0)?, number(row.try_get(1)?), bytes(&row, 2)?),
        // Only a superuser and a monitoring role may look; the rest is worth telling all the same.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => (0, 0, 0),
        Err(error) => return Err(error),
    };
    let slots = sqlx::query(SLOTS_OF).fetch_all(&mut *session).await?;
    let slots = slots
        .iter()
        .map(|row| {
            Ok(PostgresSlot {
                name: row.try_get(0)?,
                active: row.try_get(1)?,
                retained_bytes: bytes(row, 2)?,
                wal_status: row.try_get(3)?,
            })
        })
        .collect::<Result<Vec<PostgresSlot>, sqlx::Error>>()?;
    let inactive = slots.iter().filter(|slot| !slot.active).map(|slot| slot.retained_bytes);
    Ok(PostgresSizeResult {
        present: true,
        tables_estimated: estimated,
        database: databases.try_get(0)?,
        database_bytes: bytes(&databases, 1)?,
        all_databases_bytes: bytes(&databases, 2)?,
        tables: largest
            .iter()
            .map(|row| {
                Ok(PostgresTable {
                    name: row.try_get(0)?,
                    total_bytes: bytes(row, 1)?,
                    index_bytes: bytes(row, 2)?,
                    rows: bytes(row, 3)?,
                    dead_rows: bytes(row, 4)?,
                })
            })
            .collect::<Result<_, sqlx::Error>>()?,
        wal_bytes: wal.0,
        wal_files: wal.1,
        max_wal_bytes: wal.2,
        // One slot holds the log back, and all the later ones hold back less.
        inactive_slots_bytes: inactive.max().unwrap_or_default(),
        slots: slots.into_iter().take(SLOTS).collect(),
        ..PostgresSizeResult::default()
    })
}
