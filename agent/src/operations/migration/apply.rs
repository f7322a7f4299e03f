//! A migration run once on the database in service: after a backup, after a rehearsal of the very file, never waiting
//! long for a lock, and saying who holds it.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, Row as _};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use vigie_proto::v1::{MigrationApplyRequest, MigrationApplyResult, MigrationBlocker, result};

use super::{Migration, lint::Linted, rehearse::milliseconds, run};
use crate::{
    host::{
        postgres::{self, Server},
        stacks::KnownStack,
    },
    operations::{
        Context, Fault,
        backup::{
            folder::Folder,
            ledger::{Ledger, Ran},
            tools::execute,
        },
        text,
    },
};

/// How long a statement waits for a lock: everybody who comes after waits behind it.
const LOCK_TIMEOUT_S: u32 = 5;

/// How old the backup behind a migration may be.
const BACKUP_AGE_S: u32 = 3600;

/// How long a rehearsal counts.
const REHEARSAL_S: u64 = 24 * 3600;

/// How often it is looked who stands in the way.
const LOOK: Duration = Duration::from_millis(500);

/// Runs a migration on the database in service.
pub(in crate::operations) async fn apply(
    request: MigrationApplyRequest,
    cx: &Context,
) -> Result<MigrationApplyResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let (migration, linted) = Migration::runnable(&stack, &request.file)?;
    rehearsed(&request, &stack, &migration, cx)?;
    let mut found = MigrationApplyResult {
        stack: stack.name.clone(),
        file: request.file.clone(),
        digest: migration.digest.clone(),
        one_transaction: !linted.own_transaction,
        statements: linted.statements,
        ..MigrationApplyResult::default()
    };
    backed_up(&request, &stack, &mut found, cx).await?;
    let server = Server::find(&cx.host, &stack, "").await?;
    let database = server.backend_login().map(|login| login.database.clone()).unwrap_or_default();
    let (mut session, mut watch) =
        (server.administer(&database, cx.deadline).await?, server.administer(&database, cx.deadline).await?);
    found.database = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&mut session)
        .await
        .map_err(|error| postgres::fault(&error))?;
    let lock_s = if request.lock_timeout_s == 0 { LOCK_TIMEOUT_S } else { request.lock_timeout_s };
    execute(
        &mut session,
        format!("SET lock_timeout = '{lock_s}s'; SET application_name = 'vigie migration'"),
    )
    .await?;
    let begun = Instant::now();
    let before = schema(&mut watch).await?;
    remember(&found, "begun", "", &stack, cx)?;
    let ran = watched(&mut session, &mut watch, &migration, &linted, &mut found, cx).await;
    found.duration_ms = milliseconds(begun);
    for blocker in &mut found.blockers {
        blocker.query = text::text_up_to(&cx.host, &blocker.query, 200);
        blocker.application = text::text(&cx.host, &blocker.application);
    }
    match ran {
        Ok(()) => {
            found.applied = true;
            // It is done, whether that can be written down or not.
            if let Err(fault) = remember(&found, "applied", "", &stack, cx) {
                tracing::warn!(
                    fault = fault.failure.message,
                    "that a migration was applied is not remembered"
                );
            }
            found.changes = difference(&before, &schema(&mut watch).await?);
            postgres::leave(session).await;
            postgres::leave(watch).await;
            Ok(found)
        }
        Err(fault) => {
            // The session may be in the middle of a statement: it is dropped, which ends it.
            drop(session);
            postgres::leave(watch).await;
            // One that ran out of time may still run, or have run.
            let outcome = if fault.failure.code == "timed_out" { "begun" } else { "failed" };
            if let Err(own) = remember(&found, outcome, &fault.failure.message, &stack, cx) {
                tracing::warn!(fault = own.failure.message, "that a migration failed is not remembered");
            }
            Err(fault.partial(result::Operation::MigrationApply(found)))
        }
    }
}

/// Writes down where the run stands.
fn remember(
    found: &MigrationApplyResult,
    outcome: &str,
    says: &str,
    stack: &KnownStack,
    cx: &Context,
) -> Result<(), Fault> {
    let own = Ran {
        at_ms: crate::host::clock::now().timestamp_millis(),
        digest: found.digest.clone(),
        outcome: outcome.to_owned(),
        says: text::text_up_to(&cx.host, says, 400),
        failed_line: found.failed_line,
        one_transaction: found.one_transaction,
        backup: found.backup.clone(),
    };
    Ledger::change(Folder::of(cx, stack).state(), |ledger| ledger.run(&stack.name, &found.file, own)).map_err(
        |error| Fault::failed("state_unwritable", format!("the run cannot be written down: {error}")),
    )
}

/// What was rehearsed is this very file, and not long ago.
fn rehearsed(
    request: &MigrationApplyRequest,
    stack: &KnownStack,
    migration: &Migration,
    cx: &Context,
) -> Result<(), Fault> {
    let ledger = Ledger::read(Folder::of(cx, stack).state());
    let passed =
        ledger.rehearsal(&stack.name, &migration.digest).filter(|rehearsal| rehearsal.outcome == "passed");
    let age = passed.map(|rehearsal| super::folder::age_s(rehearsal.at_ms));
    if age.is_some_and(|age| age <= REHEARSAL_S) {
        return Ok(());
    }
    let what = if age.is_some() {
        "its rehearsal is more than a day old"
    } else {
        "no rehearsal of this very file has passed"
    };
    Err(Fault::refused("migration_not_rehearsed", format!("{}: {what}", request.file))
        .hint(format!("`vigiectl do migration_rehearse --file {}` runs it twice in a copy", request.file)))
}

/// A whole backup, young enough, stands behind it.
async fn backed_up(
    request: &MigrationApplyRequest,
    stack: &KnownStack,
    found: &mut MigrationApplyResult,
    cx: &Context,
) -> Result<(), Fault> {
    let folder = Folder::of(cx, stack);
    let most = u64::from(if request.backup_age_s == 0 { BACKUP_AGE_S } else { request.backup_age_s });
    let mut dumps = folder.dumps().map_err(|error| folder.unreadable(&error))?.unwrap_or_default();
    dumps.retain(|dump| dump.age_s() <= most);
    folder.read(&mut dumps, cx.deadline).await?;
    match dumps.iter().find(|dump| dump.is_usable()) {
        Some(dump) => {
            found.backup.clone_from(&dump.name);
            found.backup_age_s = dump.age_s();
            Ok(())
        }
        None => Err(Fault::refused(
            "backup_not_fresh",
            format!("no whole backup in {} is younger than {most} s", folder.path.display()),
        )
        .hint("make one: `vigiectl do backup_create`")),
    }
}

/// Runs it, and looks from a second session who stands in its way meanwhile.
async fn watched(
    session: &mut PgConnection,
    watch: &mut PgConnection,
    migration: &Migration,
    linted: &Linted,
    found: &mut MigrationApplyResult,
    cx: &Context,
) -> Result<(), Fault> {
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *session)
        .await
        .map_err(|error| postgres::fault(&error))?;
    let mut blockers: BTreeMap<i32, MigrationBlocker> = BTreeMap::new();
    let ended = {
        let running = timeout_at(cx.deadline, run(session, &migration.sql, linted));
        let mut running = std::pin::pin!(running);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
        loop {
            tokio::select! {
                ended = &mut running => break ended,
                _ = looks.tick() => match blocking(watch, pid).await {
                    Ok(seen) => blockers.extend(seen.into_iter().map(|one| (one.pid, one))),
                    Err(error) => tracing::warn!(%error, "who blocks the migration cannot be seen"),
                },
            }
        }
    };
    found.blockers = blockers.into_values().collect();
    let left = if found.one_transaction { "nothing of it was done" } else { "what went before it was done" };
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(broken)) => {
            found.failed_line = broken.line;
            let words = broken.words(&found.file);
            Err(if broken.is_lock() {
                let who: Vec<_> = found
                    .blockers
                    .iter()
                    .map(|one| format!("pid {} ({}, {})", one.pid, one.application, one.state))
                    .collect();
                let by = if who.is_empty() { String::new() } else { format!(", held by {}", who.join(", ")) };
                Fault::failed("migration_blocked", format!("{words}{by}; {left}"))
                    .hint("`vigiectl probe postgres_locks` shows the whole chain; wait for it or end it, then run the migration again")
            } else if broken.is_server() {
                Fault::failed("postgres_not_ready", format!("{words}; {left}"))
                    .hint("`vigiectl diagnose postgres-down` tells why")
            } else {
                Fault::failed("migration_failed", format!("{words}; {left}"))
                    .hint("mend the file, rehearse it again")
            })
        }
        Err(_) => {
            let cancelled = sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(watch).await;
            let sure = if cancelled.is_ok() { left } else { "its session may still run" };
            Err(Fault::failed("timed_out", format!("{} was not done in its time; {sure}", found.file))
                .hint("give it more with `--timeout`"))
        }
    }
}

/// Who holds what this session waits for.
async fn blocking(watch: &mut PgConnection, pid: i32) -> Result<Vec<MigrationBlocker>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT pid, coalesce(usename::text, '') AS usename, coalesce(application_name, '') AS application, coalesce(state, '') AS state, \
         coalesce(extract(epoch FROM now() - xact_start), 0)::bigint AS transaction_s, left(query, 400) AS query \
         FROM pg_stat_activity WHERE pid = ANY(pg_blocking_pids($1))",
    )
    .bind(pid)
    .fetch_all(watch)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(MigrationBlocker {
                pid: row.try_get("pid")?,
                user: row.try_get("usename")?,
                application: row.try_get("application")?,
                state: row.try_get("state")?,
                transaction_s: row.try_get::<i64, _>("transaction_s")?.try_into().unwrap_or_default(),
                query: row.try_get("query")?,
            })
        })
        .collect()
}

/// The tables of a database, with their columns, indexes and constraints counted: enough to show what a migration did.
type Schema = BTreeMap<String, (i64, i64, i64)>;

async fn schema(session: &mut PgConnection) -> Result<Schema, Fault> {
    let rows = sqlx::query(
        "SELECT c.oid::regclass::text AS name, \
         (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns, \
         (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) AS indexes, \
         (SELECT count(*) FROM pg_constraint n WHERE n.conrelid = c.oid) AS constraints \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%'",
    )
    .fetch_all(session)
    .await
    .map_err(|error| postgres::fault(&error))?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<_, sqlx::Error> {
        Ok((
            row.try_get("name")?,
            (row.try_get("columns")?, row.try_get("indexes")?, row.try_get("constraints")?),
        ))
    };
    rows.iter().map(read).collect::<Result<Schema, _>>().map_err(|error| postgres::fault(&error))
}

fn difference(before: &Schema, after: &Schema) -> Vec<String> {
    let mut changes = Vec::new();
    for (table, now) in after {
        match before.get(table) {
            None => changes.push(format!("table {table} created")),
            Some(was) if was != now => {
                for (what, was, now) in
                    [("columns", was.0, now.0), ("indexes", was.1, now.1), ("constraints", was.2, now.2)]
                {
                    if was != now {
                        changes.push(format!("{table}: {was} {what} before, {now} after"));
                    }
                }
            }
            Some(_) => {}
        }
    }
    changes.extend(
        before
            .keys()
            .filter(|table| !after.contains_key(*table))
            .map(|table| format!("table {table} dropped")),
    );
    changes
}
