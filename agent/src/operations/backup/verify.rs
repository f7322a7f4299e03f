//! The restore test: a backup is worth what comes out of it. It goes into a database of its own in the same server,
//! is counted, and is dropped again; the stack's own database is not touched.

use sqlx::{PgConnection, Row as _};
use tokio::time::Instant;
use vigie_proto::v1::{BackupVerifyRequest, BackupVerifyResult, result};

use super::{
    folder::{Dump, Folder},
    ledger::{Ledger, Verified},
    tools::{RESERVE, Tools, quoted, scratch_name, text_of},
};
use crate::{
    host::postgres,
    operations::{Context, Fault},
};

/// Restores a backup beside, counts it, drops it.
pub(in crate::operations) async fn verify(
    request: BackupVerifyRequest,
    cx: &Context,
) -> Result<BackupVerifyResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let mut dump = folder.choose(&request.backup, cx.deadline).await?;
    restorable(&dump)?;
    let tools = Tools::find(cx, &stack).await?;
    enough_room(&tools, &dump)?;
    tools.sweep().await;
    let scratch = scratch_name()?;
    let mut result = BackupVerifyResult {
        stack: stack.name.clone(),
        scratch: scratch.clone(),
        ..BackupVerifyResult::default()
    };
    let begun = Instant::now();
    let restored = restore_beside(&tools, &dump, &scratch, cx.deadline).await;
    result.restore_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
    let dropped = tools.drop_scratch(&scratch).await;
    let digest = dump.scan.clone().unwrap_or_default().digest;
    let keep = |verified: Option<Verified>| {
        Ledger::change(folder.state(), |ledger| ledger.verify(&digest, verified)).map_err(|error| {
            Fault::failed("state_unwritable", format!("the restore test cannot be written down: {error}"))
        })
    };
    match restored {
        Ok(counted) => {
            (result.tables, result.rows, result.scratch_bytes) =
                (counted.tables, counted.rows, counted.bytes);
            result.verified = true;
            let verified = Verified {
                at_ms: crate::host::clock::now().timestamp_millis(),
                restore_ms: result.restore_ms,
            };
            dump.verified_at_ms = verified.at_ms;
            dump.restore_ms = verified.restore_ms;
            result.backup = Some(dump.shown());
            keep(Some(verified))?;
            match dropped {
                Ok(()) => Ok(result),
                Err(fault) => Err(Fault::failed(
                    "scratch_left",
                    format!(
                        "the backup is good, and its scratch database {scratch} cannot be dropped: {}",
                        fault.failure.message
                    ),
                )
                .hint(format!("drop it by hand: DROP DATABASE {scratch}"))
                .partial(result::Operation::BackupVerify(result))),
            }
        }
        Err(fault) => {
            result.backup = Some(dump.shown());
            // Only what the backup itself is at fault for counts against it.
            if matches!(
                fault.failure.code.as_str(),
                "restore_failed" | "restore_incomplete" | "backup_unreadable"
            ) {
                keep(None)?;
            }
            Err(fault.partial(result::Operation::BackupVerify(result)))
        }
    }
}

/// What is in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub tables: u32,
    pub rows: u64,
    pub bytes: u64,
}

/// Whether a backup is a whole dump that goes where it is told.
pub(super) fn restorable(dump: &Dump) -> Result<(), Fault> {
    let scan = dump.scan.clone().unwrap_or_default();
    if !dump.is_readable() {
        return Err(Fault::refused("backup_unsupported", format!("{} is no dump in SQL", dump.name))
            .hint("restore pg_dump's own formats with pg_restore, by hand"));
    }
    if !dump.is_usable() {
        return Err(Fault::refused(
            "backup_damaged",
            format!("{} is {}: {}", dump.name, scan.integrity, scan.problem),
        )
        .hint("choose a whole one: `vigiectl probe backup_list` names the newest"));
    }
    if !scan.restorable {
        return Err(Fault::refused(
            "backup_unsupported",
            format!(
                "{} says itself which database it replaces, or bids psql do more than restore",
                dump.name
            ),
        )
        .hint("make dumps without --create, or restore this one by hand"));
    }
    Ok(())
}

/// What a dump takes in the server: its text and its indexes, the write-ahead log beside.
pub(super) fn room_needed(dump: &Dump) -> u64 {
    dump.scan.as_ref().map_or(0, |scan| scan.dump_bytes).saturating_mul(3) + RESERVE
}

fn enough_room(tools: &Tools<'_>, dump: &Dump) -> Result<(), Fault> {
    let (needed, free) = (room_needed(dump), tools.data_room()?);
    if free >= needed {
        return Ok(());
    }
    Err(Fault::refused(
        "backup_no_room",
        format!(
            "{} takes up to {} MiB in the server, and {} MiB are free",
            dump.name,
            needed >> 20,
            free >> 20
        ),
    )
    .hint("make room first: `vigiectl diagnose disk-full`"))
}

/// Restores a dump into a new database and holds what came out against what the dump says it holds.
pub(super) async fn restore_beside(
    tools: &Tools<'_>,
    dump: &Dump,
    into: &str,
    deadline: Instant,
) -> Result<Counted, Fault> {
    tools.create_like(into, &tools.database).await?;
    tools.restore(into, text_of(dump)?, deadline).await?;
    let mut session = tools.session(into).await?;
    let counted = count(&mut session).await;
    postgres::leave(session).await;
    let counted = counted.map_err(|error| postgres::fault(&error))?;
    let scan = dump.scan.clone().unwrap_or_default();
    // Extensions bring tables of their own.
    if counted.tables < scan.tables || counted.rows < scan.rows {
        return Err(Fault::failed(
            "restore_incomplete",
            format!(
                "{} holds {} tables and {} rows, and {} tables and {} rows came back",
                dump.name, scan.tables, scan.rows, counted.tables, counted.rows
            ),
        )
        .hint("choose another backup"));
    }
    Ok(counted)
}

/// Counts the tables of a database and all their rows.
pub(super) async fn count(session: &mut PgConnection) -> Result<Counted, sqlx::Error> {
    let tables = sqlx::query(
        "SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'r' AS holds FROM pg_class c \
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' AND n.nspname NOT LIKE 'pg\\_temp%'",
    )
    .fetch_all(&mut *session)
    .await?;
    let mut rows = 0_u64;
    for table in &tables {
        if !table.try_get::<bool, _>("holds")? {
            continue;
        }
        let (schema, name) = (table.try_get::<String, _>("schema")?, table.try_get::<String, _>("name")?);
        let text = format!("SELECT count(*) FROM ONLY {}.{}", quoted(&schema), quoted(&name));
        let counted: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(&mut *session).await?;
        rows += u64::try_from(counted).unwrap_or_default();
    }
    let bytes: i64 =
        sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut *session).await?;
    Ok(Counted {
        tables: u32::try_from(tables.len()).unwrap_or(u32::MAX),
        rows,
        bytes: u64::try_from(bytes).unwrap_or_default(),
    })
}
