//! Whether the tables that a stack rests on are there, and how much of what a migration creates.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use vigie_proto::v1::{MigrationObject, TableCheckRequest, TableCheckResult, TableHolder, TableState};

use super::{
    Migration,
    lint::Created,
    locks::{Mode, Touched},
};
use crate::{
    host::postgres::{self, Server},
    operations::{Context, Fault, backup::tools::quoted, text},
};

/// A table larger than this is not counted row by row.
const COUNTED: i64 = 64 * 1024 * 1024;

/// Looks for tables, and for what a migration creates.
pub(in crate::operations) async fn check(
    request: TableCheckRequest,
    cx: &Context,
) -> Result<TableCheckResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let created = match request.file.as_str() {
        "" => None,
        file => match Migration::read(&stack, file)? {
            Some(migration) => Some(migration.lint(file)?.created),
            None => {
                return Err(Fault::refused(
                    "migration_missing",
                    format!("there is no {file} in {}", stack.directory.display()),
                )
                .hint("name it relative to the stack's directory"));
            }
        },
    };
    let settled =
        cx.host.settings().stacks.get(&stack.name).map(|stack| stack.tables.clone()).unwrap_or_default();
    let mut wanted = if request.tables.is_empty() { settled } else { request.tables.clone() };
    wanted.extend(created.iter().flat_map(|created| created.tables.iter().map(|table| plain(table))));
    let mut seen = std::collections::BTreeSet::new();
    wanted.retain(|table| seen.insert(table.clone()));
    let server = Server::find(&cx.host, &stack, "").await?;
    let database = server.backend_login().map(|login| login.database.clone()).unwrap_or_default();
    let mut session = server.administer(&database, cx.deadline).await?;
    let found = look(&mut session, &wanted, created.as_ref()).await;
    postgres::leave(session).await;
    let mut result = found.map_err(|error| postgres::fault(&error))?;
    result.stack.clone_from(&stack.name);
    for holder in &mut result.holders {
        holder.application = text::text(&cx.host, &holder.application);
    }
    Ok(result)
}

async fn look(
    session: &mut PgConnection,
    wanted: &[String],
    created: Option<&Created>,
) -> Result<TableCheckResult, sqlx::Error> {
    postgres::bound(session, std::time::Duration::from_secs(5)).await?;
    let mut result = TableCheckResult {
        database: sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut *session).await?,
        scratch: sqlx::query_scalar(
            "SELECT datname::text FROM pg_database WHERE datname LIKE 'vigie\\_scratch\\_%' OR datname LIKE '%\\_before\\_________\\_______' ORDER BY 1",
        )
        .fetch_all(&mut *session)
        .await?,
        ..TableCheckResult::default()
    };
    for table in wanted {
        let state = table_state(session, table).await?;
        if !state.present {
            result.missing.push(table.clone());
        }
        result.tables.push(state);
    }
    let Some(created) = created else {
        result.holders = holders(session, wanted, &[]).await?;
        return Ok(result);
    };
    for (kind, name, present) in objects(session, created).await? {
        if !present {
            result.objects_missing.push(format!("{kind} {name}"));
        }
        result.objects.push(MigrationObject { kind: kind.to_owned(), name, present });
    }
    let there = result.objects.iter().filter(|object| object.present).count();
    result.applied = match there {
        _ if result.objects.is_empty() => String::new(),
        0 => "none".to_owned(),
        all if all == result.objects.len() => "all".to_owned(),
        _ => "some".to_owned(),
    };
    // A block that finds what it looks for takes no lock.
    let absent = |name: &String| {
        result
            .objects
            .iter()
            .any(|object| object.kind == "constraint" && object.name == *name && !object.present)
    };
    let touched: Vec<_> =
        created.touched.iter().filter(|own| own.unless.as_ref().is_none_or(absent)).cloned().collect();
    result.holders = holders(session, wanted, &touched).await?;
    Ok(result)
}

/// Transactions that stay open and hold locks on these tables. Those of the agent itself are short.
async fn holders(
    session: &mut PgConnection,
    tables: &[String],
    touched: &[Touched],
) -> Result<Vec<TableHolder>, sqlx::Error> {
    let mut names: Vec<String> = tables.iter().map(|table| identifier(table)).collect();
    names.extend(touched.iter().map(|own| own.table.clone()));
    // By the table's own number: one table is written in many ways.
    let mut needs: BTreeMap<i64, Vec<Mode>> = BTreeMap::new();
    for own in touched {
        let relation: Option<i64> = sqlx::query_scalar("SELECT to_regclass($1)::oid::bigint")
            .bind(&own.table)
            .fetch_one(&mut *session)
            .await?;
        needs.entry(relation.unwrap_or_default()).or_default().push(own.mode);
    }
    let rows = sqlx::query(
        "SELECT a.pid, l.relation::bigint AS relation, l.relation::regclass::text AS name, l.mode, \
         left(coalesce(a.application_name, ''), 64) AS application, \
         coalesce(a.state, '') AS state, extract(epoch FROM now() - a.xact_start)::bigint AS transaction_s \
         FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid \
         WHERE l.granted AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND l.relation IN (SELECT to_regclass(name) FROM unnest($1::text[]) name) \
         AND a.xact_start < now() - interval '10 seconds' AND a.backend_type = 'client backend' \
         ORDER BY a.xact_start LIMIT 20",
    )
    .bind(names)
    .fetch_all(session)
    .await?;
    rows.iter()
        .map(|row| {
            let mode: String = row.try_get("mode")?;
            let wanted = needs.get(&row.try_get("relation")?).map_or(&[][..], Vec::as_slice);
            let held = Mode::of_word(&mode);
            Ok(TableHolder {
                pid: row.try_get("pid")?,
                table: row.try_get("name")?,
                mode,
                application: row.try_get("application")?,
                state: row.try_get("state")?,
                transaction_s: row.try_get::<i64, _>("transaction_s")?.try_into().unwrap_or_default(),
                blocks: held.is_some_and(|held| wanted.iter().any(|wanted| wanted.waits_for(held))),
                needs: wanted.iter().max().map(|mode| mode.word().to_owned()).unwrap_or_default(),
            })
        })
        .collect()
}

async fn table_state(session: &mut PgConnection, table: &str) -> Result<TableState, sqlx::Error> {
    let row = sqlx::query(
        "SELECT n.nspname AS schema, c.relname AS name, greatest(c.reltuples, 0)::bigint AS guess, pg_relation_size(c.oid) AS bytes, \
         pg_total_relation_size(c.oid) AS total, \
         (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p', 'f')",
    )
    .bind(identifier(table))
    .fetch_optional(&mut *session)
    .await?;
    let mut state = TableState { name: table.to_owned(), ..TableState::default() };
    let Some(row) = row else { return Ok(state) };
    state.present = true;
    state.columns = row.try_get::<i64, _>("columns")?.try_into().unwrap_or_default();
    state.size_bytes = row.try_get::<i64, _>("total")?.try_into().unwrap_or_default();
    state.rows = row.try_get::<i64, _>("guess")?.try_into().unwrap_or_default();
    if row.try_get::<i64, _>("bytes")? <= COUNTED {
        let (schema, name) = (row.try_get::<String, _>("schema")?, row.try_get::<String, _>("name")?);
        let text = format!("SELECT count(*) FROM {}.{}", quoted(&schema), quoted(&name));
        let counted: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(text)).fetch_one(&mut *session).await;
        // A table that somebody has locked is there all the same.
        if let Ok(rows) = counted {
            state.rows = rows.try_into().unwrap_or_default();
            state.rows_exact = true;
        }
    }
    Ok(state)
}

async fn objects(
    session: &mut PgConnection,
    created: &Created,
) -> Result<Vec<(&'static str, String, bool)>, sqlx::Error> {
    let mut found = Vec::new();
    for (kind, names) in [("table", &created.tables), ("index", &created.indexes)] {
        for name in names {
            let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
                .bind(name)
                .fetch_one(&mut *session)
                .await?;
            found.push((kind, plain(name), there));
        }
    }
    for (table, column) in &created.columns {
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped)",
        )
        .bind(table)
        .bind(folded(column))
        .fetch_one(&mut *session)
        .await?;
        found.push(("column", format!("{}.{}", plain(table), plain(column)), there));
    }
    for (table, constraint) in &created.constraints {
        let there: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE conrelid = to_regclass($1) AND lower(conname) = lower($2))",
        )
        .bind(table)
        .bind(constraint)
        .fetch_one(&mut *session)
        .await?;
        found.push(("constraint", constraint.clone(), there));
    }
    Ok(found)
}

/// A name as PostgreSQL keeps it: folded, unless it is in quotes.
fn folded(name: &str) -> String {
    if name.starts_with('"') { plain(name) } else { name.to_lowercase() }
}

fn plain(name: &str) -> String {
    name.replace('"', "")
}

/// A name of a request as SQL takes it: its own case, since an operator writes what stands in the list.
fn identifier(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}
