//! A migration run twice in a copy. The copy is made from a dump, since a template would want everybody out of the
//! original; the original is read and not touched.

use sqlx::PgConnection;
use tokio::{sync::mpsc, time::Instant};
use vigie_proto::v1::{MigrationRehearseRequest, MigrationRehearseResult, result};

use super::{Broken, Migration, lint::Linted, run, snapshot::Snapshot};
use crate::{
    host::postgres,
    operations::{
        Context, Fault,
        backup::{
            folder::Folder,
            ledger::{Ledger, Rehearsal},
            tools::{RESERVE, Tools, scratch_name},
        },
        text,
    },
};

/// The largest database that is copied when the request does not say, in MiB.
const MAX_MB: u32 = 4096;

/// Runs a migration twice in a copy of the database.
pub(in crate::operations) async fn rehearse(
    request: MigrationRehearseRequest,
    cx: &Context,
) -> Result<MigrationRehearseResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let (migration, linted) = Migration::runnable(&stack, &request.file)?;
    let tools = Tools::find(cx, &stack).await?;
    let bytes = size(&tools).await?;
    let most = u64::from(if request.max_mb == 0 { MAX_MB } else { request.max_mb }) << 20;
    if bytes > most {
        return Err(Fault::refused(
            "database_too_large",
            format!("the database has {} MiB, and at most {} MiB are copied", bytes >> 20, most >> 20),
        )
        .hint("`--max-mb` allows more, where there is time and room"));
    }
    let (needed, free) = (bytes.saturating_mul(2) + RESERVE, tools.data_room()?);
    if free < needed {
        return Err(Fault::refused(
            "backup_no_room",
            format!("a copy takes up to {} MiB in the server, and {} MiB are free", needed >> 20, free >> 20),
        )
        .hint("make room first: `vigiectl diagnose disk-full`"));
    }
    tools.sweep().await;
    let scratch = scratch_name()?;
    let mut found = MigrationRehearseResult {
        stack: stack.name.clone(),
        file: request.file.clone(),
        digest: migration.digest.clone(),
        scratch: scratch.clone(),
        copied_bytes: bytes,
        ..MigrationRehearseResult::default()
    };
    let ran = in_copy(&tools, &scratch, &migration, &linted, &mut found, cx).await;
    let dropped = tools.drop_scratch(&scratch).await;
    let folder = Folder::of(cx, &stack);
    let kept = match over(&ran, &found, cx) {
        Some(own) => {
            Ledger::change(folder.state(), |ledger| ledger.rehearse(&stack.name, &migration.digest, own))
        }
        // What the migration is not at fault for says nothing of it.
        None => Ok(()),
    };
    let partial = |fault: Fault, found: MigrationRehearseResult| {
        Err(fault.partial(result::Operation::MigrationRehearse(found)))
    };
    if let Err(fault) = ran {
        return partial(fault, found);
    }
    if let Err(fault) = dropped {
        let fault = Fault::failed(
            "scratch_left",
            format!("the copy {scratch} cannot be dropped: {}", fault.failure.message),
        )
        .hint(format!("drop it by hand: DROP DATABASE {scratch}"));
        return partial(fault, found);
    }
    if let Err(error) = kept {
        return partial(
            Fault::failed("state_unwritable", format!("the rehearsal cannot be written down: {error}")),
            found,
        );
    }
    if !found.idempotent {
        let fault = Fault::failed(
            "migration_not_idempotent",
            format!("a second run of {} still changes: {}", request.file, found.second_changes.join("; ")),
        )
        .hint(format!("`vigiectl probe migration_lint --file {}` names the statements", request.file));
        return partial(fault, found);
    }
    Ok(found)
}

/// What is remembered of a rehearsal; nothing where something else than the migration ended it.
fn over(ran: &Result<(), Fault>, found: &MigrationRehearseResult, cx: &Context) -> Option<Rehearsal> {
    let (outcome, says) = match ran {
        Ok(()) if found.idempotent => ("passed", String::new()),
        Ok(()) => ("second_run_changes", found.second_changes.join("; ")),
        Err(fault) => match fault.failure.code.as_str() {
            "migration_failed" => ("first_run_failed", fault.failure.message.clone()),
            "migration_not_idempotent" => ("second_run_failed", fault.failure.message.clone()),
            _ => return None,
        },
    };
    Some(Rehearsal {
        at_ms: crate::host::clock::now().timestamp_millis(),
        outcome: outcome.to_owned(),
        says: text::text_up_to(&cx.host, &says, 400),
        already_applied: ran.is_ok() && found.already_applied,
    })
}

async fn in_copy(
    tools: &Tools<'_>,
    scratch: &str,
    migration: &Migration,
    linted: &Linted,
    found: &mut MigrationRehearseResult,
    cx: &Context,
) -> Result<(), Fault> {
    let begun = Instant::now();
    copy(tools, scratch, cx.deadline).await?;
    found.copy_ms = milliseconds(begun);
    let mut session = tools.session(scratch).await?;
    let done = twice(&mut session, migration, linted, found).await;
    postgres::leave(session).await;
    done
}

/// One dump of the whole, from one server program into the other.
async fn copy(tools: &Tools<'_>, scratch: &str, deadline: Instant) -> Result<(), Fault> {
    tools.create_like(scratch, &tools.database).await?;
    let (sender, mut pieces) = mpsc::channel(16);
    let (forward, input) = mpsc::channel(16);
    let pass = async {
        while let Some(piece) = pieces.recv().await {
            if forward.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        drop(forward);
    };
    let (dumped, (), restored) = tokio::join!(
        tools.dump(&tools.database, &["--no-owner", "--no-privileges"], sender, deadline),
        pass,
        tools.restore(scratch, input, deadline)
    );
    restored.and(dumped)
}

async fn twice(
    session: &mut PgConnection,
    migration: &Migration,
    linted: &Linted,
    found: &mut MigrationRehearseResult,
) -> Result<(), Fault> {
    let failed = |error: sqlx::Error| postgres::fault(&error);
    let broken = |run: &str, broken: &Broken, file: &str, code: &str| {
        Fault::failed(code, format!("the {run} run in a copy failed: {}", broken.words(file)))
            .hint(format!("nothing was changed but the copy; `vigiectl probe migration_lint --file {file}` names what to mend"))
    };
    let file = found.file.clone();
    let before = Snapshot::take(session).await.map_err(failed)?;
    let begun = Instant::now();
    run(session, &migration.sql, linted)
        .await
        .map_err(|error| broken("first", &error, &file, "migration_failed"))?;
    found.first_ms = milliseconds(begun);
    let first = Snapshot::take(session).await.map_err(failed)?;
    found.first_changes = before.changes(&first);
    found.already_applied = found.first_changes.is_empty();
    let begun = Instant::now();
    run(session, &migration.sql, linted)
        .await
        .map_err(|error| broken("second", &error, &file, "migration_not_idempotent"))?;
    found.second_ms = milliseconds(begun);
    let second = Snapshot::take(session).await.map_err(failed)?;
    found.second_changes = first.changes(&second);
    found.idempotent = found.second_changes.is_empty();
    Ok(())
}

async fn size(tools: &Tools<'_>) -> Result<u64, Fault> {
    let mut session = tools.session(&tools.database).await?;
    let bytes: Result<i64, _> =
        sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut session).await;
    postgres::leave(session).await;
    Ok(bytes.map_err(|error| postgres::fault(&error))?.try_into().unwrap_or_default())
}

pub(super) fn milliseconds(begun: Instant) -> u32 {
    u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX)
}
