//! Going back to a backup. It is restored into a database beside the one in service, looked at, and put in its place by
//! two renames in one transaction. Until then the old one serves; after it, the old one is still in the server, under
//! another name. The state before is dumped first, where it can be.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tokio::time::Instant;
use vigie_proto::v1::{
    BackupRestorePreviewRequest, BackupRestorePreviewResult, BackupRestoreRequest, BackupRestoreResult,
    result,
};

use super::{
    create::dump_name,
    folder::{Dump, Folder, room},
    services,
    tools::{RESERVE, Tools, end_sessions, execute, quoted, scratch_name},
    verify::{Counted, restorable, restore_beside, room_needed},
};
use crate::{
    host::{postgres, stacks::KnownStack},
    operations::{Context, Fault},
};

/// What a server restores in a second when nothing tells: a small VPS's.
pub(super) const BYTES_A_SECOND: u64 = 10 * 1024 * 1024;

/// Stopping writers, counting, swapping, starting writers.
const AROUND_S: u64 = 25;

/// Tells what a restore would take and lose.
pub(in crate::operations) async fn preview(
    request: BackupRestorePreviewRequest,
    cx: &Context,
) -> Result<BackupRestorePreviewResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let dump = folder.choose(&request.backup, cx.deadline).await?;
    let tools = Tools::find(cx, &stack).await?;
    look(&request, &stack, &folder, &dump, &tools, cx).await
}

async fn look(
    request: &BackupRestorePreviewRequest,
    stack: &KnownStack,
    folder: &Folder,
    dump: &Dump,
    tools: &Tools<'_>,
    cx: &Context,
) -> Result<BackupRestorePreviewResult, Fault> {
    let scan = dump.scan.clone().unwrap_or_default();
    let mut found = BackupRestorePreviewResult {
        stack: stack.name.clone(),
        backup: Some(dump.shown()),
        database: tools.database.clone(),
        lost_s: dump.age_s(),
        rows_backup: scan.rows,
        room_needed_bytes: room_needed(dump),
        room_there_bytes: tools.data_room()?,
        ..BackupRestorePreviewResult::default()
    };
    let mut session = tools.session("postgres").await?;
    let facts = facts(&mut session, &tools.database).await.map_err(|error| postgres::fault(&error))?;
    postgres::leave(session).await;
    found.database_oid = facts.oid;
    found.database_bytes = facts.bytes;
    found.sessions = facts.sessions;
    found.writers = services::writers(stack, &facts.addresses, cx).await?;
    if let Ok(mut session) = tools.session(&tools.database).await {
        // The planner's guess: counting a corrupt or a huge database would not end.
        let rows: Result<Option<i64>, _> = sqlx::query_scalar(
            "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')",
        )
        .fetch_one(&mut session)
        .await;
        found.rows_now = rows.ok().flatten().and_then(|rows| rows.try_into().ok()).unwrap_or_default();
        postgres::leave(session).await;
    }
    // A compressed dump is a fraction of its database; nothing tells which beforehand.
    found.save_needed_bytes = if request.waive_saving { 0 } else { facts.bytes / 2 + RESERVE };
    found.save_there_bytes = room(&folder.path).map_err(|error| folder.unreadable(&error))?.0;
    let restore_s = match dump.restore_ms {
        0 => scan.dump_bytes / BYTES_A_SECOND + 1,
        tested => u64::from(tested) / 1000 + 1,
    };
    let save_s = if request.waive_saving { 0 } else { facts.bytes / (2 * BYTES_A_SECOND) + 1 };
    found.estimated_s = u32::try_from(restore_s + save_s + AROUND_S).unwrap_or(u32::MAX);
    if let Err(fault) = restorable(dump) {
        found.obstacles.push(fault.failure.message);
    }
    if found.room_there_bytes < found.room_needed_bytes {
        found.obstacles.push("there is not room enough for a second database".to_owned());
    }
    if found.save_there_bytes < found.save_needed_bytes {
        found.obstacles.push(
            "there is not room enough to save the present state (waive_saving goes without)".to_owned(),
        );
    }
    Ok(found)
}

struct Facts {
    oid: u32,
    bytes: u64,
    sessions: u32,
    /// Where they come from.
    addresses: BTreeSet<String>,
}

async fn facts(session: &mut PgConnection, database: &str) -> Result<Facts, sqlx::Error> {
    let row = sqlx::query(
        "SELECT oid::bigint AS oid, pg_database_size(oid) AS bytes FROM pg_database WHERE datname = $1",
    )
    .bind(database)
    .fetch_one(&mut *session)
    .await?;
    let sessions = sqlx::query(
        "SELECT coalesce(host(client_addr), '') AS address FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
    )
    .bind(database)
    .fetch_all(&mut *session)
    .await?;
    let addresses: Result<BTreeSet<String>, _> = sessions.iter().map(|row| row.try_get("address")).collect();
    Ok(Facts {
        oid: row.try_get::<i64, _>("oid")?.try_into().unwrap_or_default(),
        bytes: row.try_get::<i64, _>("bytes")?.try_into().unwrap_or_default(),
        sessions: u32::try_from(sessions.len()).unwrap_or(u32::MAX),
        addresses: addresses?,
    })
}

/// Replaces the database by a backup.
pub(in crate::operations) async fn restore(
    request: BackupRestoreRequest,
    cx: &Context,
) -> Result<BackupRestoreResult, Fault> {
    let Some(result::Operation::BackupRestorePreview(prepared)) = &cx.prepared else {
        return Err(Fault::refused("not_prepared", "nothing says what was shown to the operator")
            .hint("order it again: `vigiectl do backup_restore` shows first what would be lost"));
    };
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let dump = folder.choose(&request.backup, cx.deadline).await?;
    let tools = Tools::find(cx, &stack).await?;
    let again = BackupRestorePreviewRequest {
        stack: request.stack.clone(),
        backup: request.backup.clone(),
        waive_saving: request.waive_saving,
    };
    let now = look(&again, &stack, &folder, &dump, &tools, cx).await?;
    let same = |shown: &BackupRestorePreviewResult| {
        let backup = shown.backup.clone().unwrap_or_default();
        (shown.database.clone(), shown.database_oid, backup.name, backup.digest, backup.inode)
    };
    if same(prepared) != same(&now) {
        return Err(Fault::refused(
            "not_as_prepared",
            "the backup or the database is another one than the operator was shown",
        )
        .hint("order it again, and look at what is shown"));
    }
    if let Some(obstacle) = now.obstacles.first() {
        return Err(Fault::refused("restore_impossible", obstacle)
            .hint("`vigiectl probe backup_restore_preview` lists every obstacle"));
    }
    let done = BackupRestoreResult {
        stack: stack.name.clone(),
        backup: Some(dump.shown()),
        database: tools.database.clone(),
        writers: now.writers.clone(),
        ..BackupRestoreResult::default()
    };
    let mut work =
        Work { cx, stack: &stack, tools: &tools, dump: &dump, done, begun: Instant::now(), is_closed: false };
    let ended = work.all(&folder, request.waive_saving).await;
    work.done.duration_ms = u32::try_from(work.begun.elapsed().as_millis()).unwrap_or(u32::MAX);
    match ended {
        Ok(()) => Ok(work.done),
        Err(mut fault) => {
            let stand = match (work.done.swapped, work.is_closed) {
                (true, _) => "the backup's database is in service",
                (false, false) => "the old database is in service, untouched",
                (false, true) => {
                    "the old database is untouched, and takes no sessions until it is opened again"
                }
            };
            fault.failure.message = format!("{}; {stand}", fault.failure.message);
            Err(fault.partial(result::Operation::BackupRestore(work.done)))
        }
    }
}

/// A restore on its way.
struct Work<'a> {
    cx: &'a Context,
    stack: &'a KnownStack,
    tools: &'a Tools<'a>,
    dump: &'a Dump,
    done: BackupRestoreResult,
    begun: Instant,
    /// The old database was closed for the swap, and could not be opened again.
    is_closed: bool,
}

impl Work<'_> {
    fn step(&mut self, name: &str) {
        self.done.steps.push(name.to_owned());
    }

    async fn all(&mut self, folder: &Folder, waive_saving: bool) -> Result<(), Fault> {
        let swapped = match services::compose(self.cx, self.stack, &["stop"], &self.done.writers).await {
            Ok(()) => {
                self.step("writers_stopped");
                self.while_stopped(folder, waive_saving).await
            }
            Err(fault) => Err(fault),
        };
        // Whatever became of it, one of the two databases is in service, and the writers belong up: those too that a stop
        // which failed has stopped.
        let started = services::compose(self.cx, self.stack, &["start"], &self.done.writers).await;
        if started.is_ok() {
            self.step("writers_started");
        }
        self.cx.host.stacks().refresh().await;
        match (swapped, started) {
            (Err(fault), Ok(())) => Err(fault),
            (Err(mut fault), Err(writers)) => {
                fault.failure.message = format!(
                    "{}; and the writers do not start: {}",
                    fault.failure.message, writers.failure.message
                );
                Err(fault)
            }
            (Ok(()), started) => started,
        }
    }

    async fn while_stopped(&mut self, folder: &Folder, waive_saving: bool) -> Result<(), Fault> {
        if waive_saving {
            self.done.notes.push("the present state was not dumped first, as ordered".to_owned());
        } else {
            let name = dump_name(&format!("before-restore-{}", self.stack.name));
            self.tools.dump_to(&self.tools.database, &folder.path.join(&name), self.cx.deadline).await.map_err(|fault| {
                Fault::failed("saving_failed", format!("the present state cannot be saved: {}", fault.failure.message)).hint(
                    "a corrupt database cannot be dumped: order it again with `--waive-saving`; the replaced database stays in \
                     the server all the same, and the volume can be copied while PostgreSQL is stopped",
                )
            })?;
            let saved = folder.choose(&name, self.cx.deadline).await?;
            if !saved.is_usable() {
                let problem = saved.scan.unwrap_or_default().problem;
                return Err(Fault::failed(
                    "saving_failed",
                    format!("the dump of the present state is not whole: {problem}"),
                ));
            }
            self.done.saved = name;
            self.step("saved");
        }
        let fresh = scratch_name()?;
        let put = async {
            let counted = restore_beside(self.tools, self.dump, &fresh, self.cx.deadline).await?;
            Ok::<Counted, Fault>(counted)
        }
        .await;
        let swapped = match put {
            Ok(counted) => {
                self.step("restored_beside");
                self.step("verified");
                (self.done.tables, self.done.rows) = (counted.tables, counted.rows);
                self.swap(&fresh).await
            }
            Err(fault) => Err(fault),
        };
        if let Err(mut fault) = swapped {
            if let Err(left) = self.tools.drop_scratch(&fresh).await {
                fault.failure.message =
                    format!("{}; {fresh} is left behind: {}", fault.failure.message, left.failure.message);
            }
            return Err(fault);
        }
        self.done.swapped = true;
        self.step("swapped");
        Ok(())
    }

    /// Puts the fresh database in the old one's place. Both renames are one transaction: there is no moment without a
    /// database, and none with two.
    async fn swap(&mut self, fresh: &str) -> Result<(), Fault> {
        let database = self.tools.database.clone();
        let kept =
            format!("{}_before_{}", cut(&database, 40), crate::host::clock::now().format("%Y%m%d_%H%M%S"));
        let mut session = self.tools.session("postgres").await?;
        self.carry_over(&mut session, &database, fresh).await?;
        execute(&mut session, format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", quoted(&database)))
            .await?;
        let renamed = async {
            end_sessions(&mut session, &database).await?;
            end_sessions(&mut session, fresh).await?;
            let backup = self.dump.shown();
            let mark = format!("restored by Vigie from {} (sha256 {}) at {}", backup.name, backup.digest, crate::host::clock::now().to_rfc3339());
            let mut transaction = session.begin().await.map_err(|error| postgres::fault(&error))?;
            let text = format!(
                "ALTER DATABASE {old} RENAME TO {kept}; ALTER DATABASE {fresh} RENAME TO {old}; COMMENT ON DATABASE {old} IS '{mark}'",
                old = quoted(&database),
                kept = quoted(&kept),
                fresh = quoted(fresh),
                mark = mark.replace('\'', "''"),
            );
            transaction.execute(sqlx::raw_sql(AssertSqlSafe(text))).await.map_err(|error| postgres::fault(&error))?;
            transaction.commit().await.map_err(|error| postgres::fault(&error))
        }
        .await;
        let closed = if renamed.is_ok() { &kept } else { &database };
        let open = format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS true", quoted(closed));
        let mut opened = execute(&mut session, open.clone()).await;
        postgres::leave(session).await;
        if opened.is_err() {
            // It may be the session that broke.
            opened = match self.tools.session("postgres").await {
                Ok(mut again) => {
                    let opened = execute(&mut again, open.clone()).await;
                    postgres::leave(again).await;
                    opened
                }
                Err(fault) => Err(fault),
            };
        }
        if opened.is_err() {
            self.is_closed = renamed.is_err();
            self.done.notes.push(format!("{closed} takes no sessions: {open}"));
        }
        renamed?;
        self.done
            .notes
            .push(format!("the replaced database takes room until somebody drops it: DROP DATABASE {kept}"));
        self.done.kept = kept;
        Ok(())
    }

    /// What belongs to a database and not to its dump: settings and limits. Grants are told, not copied.
    async fn carry_over(&mut self, session: &mut PgConnection, old: &str, fresh: &str) -> Result<(), Fault> {
        let failed = |error: sqlx::Error| postgres::fault(&error);
        let row = sqlx::query(
            "SELECT datconnlimit, datacl IS NOT NULL AS granted FROM pg_database WHERE datname = $1",
        )
        .bind(old)
        .fetch_one(&mut *session)
        .await
        .map_err(failed)?;
        let limit: i32 = row.try_get("datconnlimit").map_err(failed)?;
        if limit != -1 {
            execute(session, format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", quoted(fresh))).await?;
        }
        if row.try_get::<bool, _>("granted").map_err(failed)? {
            self.done.notes.push(
                "the old database has grants of its own (CONNECT, TEMPORARY), which were not carried over"
                    .to_owned(),
            );
        }
        let settings = sqlx::query(
            "SELECT split_part(line, '=', 1) AS name, quote_literal(substr(line, strpos(line, '=') + 1)) AS value, \
             CASE WHEN setrole = 0 THEN '' ELSE quote_ident(pg_get_userbyid(setrole)) END AS role \
             FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(setconfig) line WHERE d.datname = $1",
        )
        .bind(old)
        .fetch_all(&mut *session)
        .await
        .map_err(failed)?;
        for row in settings {
            let column = |name: &str| row.try_get::<String, _>(name).map_err(failed);
            let (name, value, role) = (column("name")?, column("value")?, column("role")?);
            // A list of names is written without quotes around the whole.
            let value =
                if name == "search_path" { value.trim_matches('\'').replace("''", "'") } else { value };
            let of = if role.is_empty() { String::new() } else { format!("ROLE {role} IN ") };
            let text = format!("ALTER {of}DATABASE {} SET {name} TO {value}", quoted(fresh));
            if execute(session, text).await.is_err() {
                self.done.notes.push(format!("the setting {name} of the old database was not carried over"));
            }
        }
        Ok(())
    }
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}
