//! A server that cannot start (its data are damaged) put on fresh data, made from a backup.
//!
//! The old data change places with an empty directory, whole and in one call, and are kept beside; the stack's own
//! service then makes a new cluster in their place. The backup goes into a database beside the new one's, is counted,
//! and takes its name. Whatever fails until then, the old data are put back. Where the agent itself dies on the way, the
//! name of the old data tells when they were put aside, and the database's comment whether the backup took their place.

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::time::{Instant, sleep};
use vigie_proto::v1::{
    BackupRebuildPreviewRequest, BackupRebuildPreviewResult, BackupRebuildRequest, BackupRebuildResult,
    result,
};

use super::{
    folder::{Dump, Folder, room},
    restore::BYTES_A_SECOND,
    services,
    set_aside::DataDirectory,
    tools::{RESERVE, Tools, end_sessions, execute, quoted, scratch_name},
    verify::{restorable, restore_beside, room_needed},
};
use crate::{
    host::{
        postgres::{self, Refusal, Server, ServerContainer, Source},
        stacks::KnownStack,
    },
    operations::{Context, Fault, containers::present, text},
};

/// Stopping, a new cluster (a few seconds on a small VPS), counting, starting.
const AROUND_S: u64 = 40;

/// How long a new cluster may take until it lets clients in.
const STARTS: Duration = Duration::from_secs(120);

/// A server that has run for so long is not in between two of its crashes.
const STAYS_UP_MS: i64 = 20_000;

/// Configuration that lives among the data, and is the image's own again afterwards.
const CONFIGURATION: [&str; 4] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf"];

/// Tells what a rebuilding would take and lose.
pub(in crate::operations) async fn preview(
    request: BackupRebuildPreviewRequest,
    cx: &Context,
) -> Result<BackupRebuildPreviewResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let dump = folder.choose(&request.backup, cx.deadline).await?;
    Ok(look(&request, &stack, &dump, cx).await?.shown)
}

/// What was found, and what is worked on.
struct Found {
    shown: BackupRebuildPreviewResult,
    server: Server,
    data: DataDirectory,
}

async fn look(
    request: &BackupRebuildPreviewRequest,
    stack: &KnownStack,
    dump: &Dump,
    cx: &Context,
) -> Result<Found, Fault> {
    let server = Server::find(&cx.host, stack, "").await?;
    let container = own_container(&server)?;
    let data = data_of(container)?;
    let unreadable = |error: std::io::Error| Fault::failed("file_unreadable", error);
    let scan = dump.scan.clone().unwrap_or_default();
    let measured = data.clone();
    let data_bytes = tokio::task::spawn_blocking(move || measured.bytes())
        .await
        .map_err(|error| Fault::failed("internal", error))?
        .map_err(unreadable)?;
    let old_data = match data.can_move().map_err(unreadable)? {
        true => "moved",
        false if request.waive_copy => "given_up",
        false => "copied",
    };
    let mut shown = BackupRebuildPreviewResult {
        stack: stack.name.clone(),
        backup: Some(dump.shown()),
        service: server.service.clone(),
        container: container.name.clone(),
        state: container.state.clone(),
        data_directory: data.path().to_string_lossy().into_owned(),
        data_inode: data.inode().map_err(unreadable)?,
        data_bytes,
        volume: container.volume.clone(),
        old_data: old_data.to_owned(),
        lost_s: dump.age_s(),
        rows_backup: scan.rows,
        writers: writers(&server, stack, cx).await?,
        room_needed_bytes: room_needed(dump),
        room_there_bytes: room(&data.path()).map_err(unreadable)?.0,
        earlier: data
            .earlier()
            .map_err(unreadable)?
            .into_iter()
            .map(|path| path.to_string_lossy().into_owned())
            .collect(),
        ..BackupRebuildPreviewResult::default()
    };
    let mut estimated_s = AROUND_S
        + match dump.restore_ms {
            0 => scan.dump_bytes / BYTES_A_SECOND + 1,
            tested => u64::from(tested) / 1000 + 1,
        };
    if old_data == "copied" {
        estimated_s += data_bytes / BYTES_A_SECOND;
        let (free, _) = room(&copies(&Folder::of(cx, stack))).map_err(unreadable)?;
        if free < data_bytes + RESERVE {
            shown.obstacles.push(format!(
                "the data directory is a mount of its own and can only be copied: {} MiB, and {} MiB are free beside the \
                 backups (waive_copy gives the old data up)",
                data_bytes >> 20,
                free >> 20
            ));
        }
    }
    shown.estimated_s = u32::try_from(estimated_s).unwrap_or(u32::MAX);
    if let Err(fault) = restorable(dump) {
        shown.obstacles.push(fault.failure.message);
    }
    // What is copied or given up makes room for what comes.
    let freed = if old_data == "moved" { 0 } else { data_bytes };
    if shown.room_there_bytes + freed < shown.room_needed_bytes {
        shown.obstacles.push("there is not room enough for the restored database".to_owned());
    }
    match server.administer("", cx.deadline).await {
        Ok(session) => {
            postgres::leave(session).await;
            "ok".clone_into(&mut shown.admission);
            shown.obstacles.push(
                "PostgreSQL runs and lets sessions in: `backup_restore` goes back to a backup beside it, without taking it away"
                    .to_owned(),
            );
        }
        Err(refusal) => {
            refusal.word().clone_into(&mut shown.admission);
            shown.admission_message = text::text(&cx.host, &refusal.to_string());
            shown.obstacles.extend(at_work(&refusal, container));
        }
    }
    Ok(Found { shown, server, data })
}

/// A server that is about to let clients in by itself is not replaced.
fn at_work(refusal: &Refusal, container: &ServerContainer) -> Option<String> {
    let up_ms = crate::host::clock::now().timestamp_millis() - container.started_at_ms;
    let works =
        matches!(refusal.word(), "starting" | "recovering" | "shutting_down" | "too_many_connections");
    (container.state == "running" && works && up_ms >= STAYS_UP_MS)
        .then(|| format!("PostgreSQL is at work ({}): wait for it, or stop it first", refusal.word()))
}

fn own_container(server: &Server) -> Result<&ServerContainer, Fault> {
    server.container.as_ref().filter(|_| server.is_service()).ok_or_else(|| {
        Fault::refused(
            "postgres_stopped",
            "PostgreSQL has no container in this stack, so that nothing tells where its data are",
        )
        .hint("`vigiectl do compose_up --services` makes the container; a server elsewhere is rebuilt where it is")
    })
}

fn data_of(container: &ServerContainer) -> Result<DataDirectory, Fault> {
    let Some(source) = &container.data_source else {
        return Err(Fault::refused(
            "restore_impossible",
            format!("the data of `{}` are in no volume: they go with the container", container.name),
        )
        .hint("copy them out with `docker cp` first"));
    };
    DataDirectory::find(source, &container.data_below).map_err(|error| {
        Fault::failed("file_unreadable", format!("the data of `{}` cannot be found: {error}", container.name))
    })
}

/// Running services that would write to an empty database, or create their tables in it.
async fn writers(server: &Server, stack: &KnownStack, cx: &Context) -> Result<Vec<String>, Fault> {
    let mut found: BTreeSet<String> =
        services::writers(stack, &BTreeSet::new(), cx).await?.into_iter().collect();
    // Files that do not add up name nobody: the backend is known without them.
    if let Ok(Ok(configured)) = cx.host.stacks().compose().configured(stack, cx.deadline).await {
        let (services, _) = stack.inventory(&present(cx, &stack.name).await?);
        let runs = |name: &str| services.iter().any(|own| own.service == name && own.state == "running");
        for service in &configured.model.services {
            let declared = &service.declared;
            if declared.depends_on.contains(&server.service) && runs(&declared.service) {
                found.insert(declared.service.clone());
            }
        }
    }
    found.remove(&server.service);
    Ok(found.into_iter().collect())
}

/// Where copies of data directories go: beside the backups, which are no place of the server's.
fn copies(folder: &Folder) -> PathBuf {
    folder.path.clone()
}

/// Puts a server on fresh data from a backup.
pub(in crate::operations) async fn rebuild(
    request: BackupRebuildRequest,
    cx: &Context,
) -> Result<BackupRebuildResult, Fault> {
    let Some(result::Operation::BackupRebuildPreview(prepared)) = &cx.prepared else {
        return Err(Fault::refused("not_prepared", "nothing says what was shown to the operator")
            .hint("order it again: `vigiectl do backup_rebuild` shows first what would be lost"));
    };
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let dump = folder.choose(&request.backup, cx.deadline).await?;
    let again = BackupRebuildPreviewRequest {
        stack: request.stack.clone(),
        backup: request.backup.clone(),
        waive_copy: request.waive_copy,
    };
    let found = look(&again, &stack, &dump, cx).await?;
    let same = |shown: &BackupRebuildPreviewResult| {
        let backup = shown.backup.clone().unwrap_or_default();
        let data = (shown.data_directory.clone(), shown.data_inode, shown.old_data.clone());
        (shown.service.clone(), data, backup.name, backup.digest, backup.inode)
    };
    if same(prepared) != same(&found.shown) {
        return Err(Fault::refused(
            "not_as_prepared",
            "the backup or the data are others than the operator was shown",
        )
        .hint("order it again, and look at what is shown"));
    }
    if let Some(obstacle) = found.shown.obstacles.first() {
        return Err(Fault::refused("restore_impossible", obstacle)
            .hint("`vigiectl probe backup_rebuild_preview` lists every obstacle"));
    }
    let done = BackupRebuildResult {
        stack: stack.name.clone(),
        backup: Some(dump.shown()),
        writers: found.shown.writers.clone(),
        ..BackupRebuildResult::default()
    };
    let begun = Instant::now();
    let mut work = Work { cx, stack: &stack, dump: &dump, found: &found, aside: None, done };
    let ended = work.all(&copies(&folder)).await;
    work.done.duration_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
    match ended {
        Ok(()) => Ok(work.done),
        Err(mut fault) => {
            let stand = if work.done.rebuilt {
                "the server serves the backup's database".to_owned()
            } else if !work.done.kept.is_empty() {
                format!("the old data are in {}", work.done.kept)
            } else if found.shown.old_data == "given_up" && work.reached("set_aside") {
                "the old data were given up, as ordered".to_owned()
            } else {
                "the old data are in their place, untouched, and the server is stopped".to_owned()
            };
            fault.failure.message = format!("{}; {stand}", fault.failure.message);
            Err(fault.partial(result::Operation::BackupRebuild(work.done)))
        }
    }
}

/// A rebuilding on its way.
struct Work<'a> {
    cx: &'a Context,
    stack: &'a KnownStack,
    dump: &'a Dump,
    found: &'a Found,
    /// The name under which the old data lie beside; `None` while they are in their place.
    aside: Option<OsString>,
    done: BackupRebuildResult,
}

impl Work<'_> {
    fn step(&mut self, name: &str) {
        self.done.steps.push(name.to_owned());
    }

    fn reached(&self, name: &str) -> bool {
        self.done.steps.iter().any(|step| step == name)
    }

    async fn all(&mut self, copies: &std::path::Path) -> Result<(), Fault> {
        let rebuilt = match self.on_fresh_data(copies).await {
            Ok(()) => Ok(()),
            Err(mut fault) => {
                if let Err(left) = self.put_back().await {
                    fault.failure.message = format!(
                        "{}; putting the old data back: {}",
                        fault.failure.message, left.failure.message
                    );
                }
                Err(fault)
            }
        };
        // Without its server a writer says what it said before: that it has none. Its dependencies are left alone.
        let started = self.up(&self.done.writers).await;
        if started.is_ok() {
            self.step("writers_started");
        }
        self.cx.host.stacks().refresh().await;
        match (rebuilt, started) {
            (Err(mut fault), Err(writers)) => {
                fault.failure.message = format!(
                    "{}; and the writers do not start: {}",
                    fault.failure.message, writers.failure.message
                );
                Err(fault)
            }
            (Err(fault), Ok(())) => Err(fault),
            (Ok(()), started) => started,
        }
    }

    async fn on_fresh_data(&mut self, copies: &std::path::Path) -> Result<(), Fault> {
        services::compose(self.cx, self.stack, &["stop"], &self.done.writers).await?;
        self.step("writers_stopped");
        let server = std::slice::from_ref(&self.found.server.service);
        services::compose(self.cx, self.stack, &["stop"], server).await?;
        self.step("server_stopped");
        self.set_aside(copies).await?;
        self.step("set_aside");
        self.up(server).await?;
        let fresh = self.lets_in().await?;
        self.step("server_started");
        let tools = Tools::find(self.cx, self.stack).await?;
        self.done.database.clone_from(&tools.database);
        self.roles_and_database(&fresh, &tools).await?;
        let beside = scratch_name()?;
        let counted = restore_beside(&tools, self.dump, &beside, self.cx.deadline).await?;
        self.step("restored_beside");
        self.step("verified");
        (self.done.tables, self.done.rows) = (counted.tables, counted.rows);
        self.swap(&tools, &beside).await?;
        self.done.rebuilt = true;
        self.step("swapped");
        self.look_around(&fresh).await;
        Ok(())
    }

    /// Starts services as they are, and nothing that they depend on.
    async fn up(&self, services: &[String]) -> Result<(), Fault> {
        let command = ["up", "-d", "--no-deps", "--no-recreate", "--no-build"];
        services::compose(self.cx, self.stack, &command, services).await
    }

    async fn set_aside(&mut self, copies: &std::path::Path) -> Result<(), Fault> {
        let failed = |error: std::io::Error| {
            Fault::failed("saving_failed", format!("the old data cannot be put aside: {error}")).hint(
                "copy the volume by hand; `--waive-copy` gives the old data up where they can only be copied",
            )
        };
        let (data, aside) = (self.found.data.clone(), self.found.data.aside());
        match self.found.shown.old_data.as_str() {
            "moved" => {
                let kept = data.exchange(&aside).map_err(failed)?;
                self.done.kept = kept.to_string_lossy().into_owned();
                self.aside = Some(aside);
            }
            "given_up" => {
                data.empty().map_err(failed)?;
                self.done.notes.push("the old data were given up, as ordered".to_owned());
            }
            _ => {
                let target = copies
                    .join(format!("{}-data", self.stack.name))
                    .with_extension(crate::host::clock::now().format("before-%Y%m%d-%H%M%S").to_string());
                let into = target.clone();
                tokio::task::spawn_blocking(move || data.copy_to(&into))
                    .await
                    .map_err(|error| Fault::failed("internal", error))?
                    .map_err(failed)?;
                self.done.kept = target.to_string_lossy().into_owned();
            }
        }
        Ok(())
    }

    /// Brings the old data back to where they were. The server stays stopped: it could not start from them before.
    async fn put_back(&mut self) -> Result<(), Fault> {
        if !self.reached("set_aside") || self.found.shown.old_data == "given_up" {
            return Ok(());
        }
        services::compose(self.cx, self.stack, &["stop"], std::slice::from_ref(&self.found.server.service))
            .await?;
        let failed = |error: std::io::Error| Fault::failed("file_unwritable", error);
        let data = self.found.data.clone();
        match self.aside.take() {
            Some(aside) => {
                if let Some(left) = data.put_back(&aside).map_err(failed)? {
                    self.done.notes.push(format!("the fresh data cannot be deleted: {left}"));
                }
                self.done.kept.clear();
            }
            None => {
                let from = PathBuf::from(&self.done.kept);
                tokio::task::spawn_blocking(move || data.copy_back(&from))
                    .await
                    .map_err(|error| Fault::failed("internal", error))?
                    .map_err(failed)?;
            }
        }
        self.step("put_back");
        Ok(())
    }

    /// Waits until the new cluster lets clients in over the network. While it is made, the image's own server answers
    /// on its socket alone, and goes away again.
    async fn lets_in(&self) -> Result<Server, Fault> {
        let until = (Instant::now() + STARTS).min(self.cx.deadline);
        loop {
            let server = Server::find(&self.cx.host, self.stack, &self.found.server.service).await?;
            let login = server.logins.iter().find(|login| login.source == Source::Server);
            let reached = match login {
                Some(login) => server.enter(login, until).await,
                None => server.administer("postgres", until).await,
            };
            let refusal = match reached {
                Ok(session) => {
                    postgres::leave(session).await;
                    return Ok(server);
                }
                // Whoever asks for a password is up.
                Err(Refusal::Authentication(_) | Refusal::DatabaseUnknown(_)) => return Ok(server),
                Err(refusal) => refusal,
            };
            if Instant::now() >= until {
                return Err(Fault::failed(
                    "postgres_not_ready",
                    format!("the server does not start on fresh data: {refusal}"),
                )
                .hint("`vigiectl probe container_logs` says what it is at"));
            }
            sleep(Duration::from_millis(300)).await;
        }
    }

    /// A dump holds no roles, and a new cluster only those of its image: the backend's own is made where it is missing,
    /// and a database of the backend's name, for what it looks like.
    async fn roles_and_database(&mut self, server: &Server, tools: &Tools<'_>) -> Result<(), Fault> {
        let mut session = tools.session("postgres").await?;
        let login = server.backend_login().filter(|login| server.is_own(login));
        if let Some(login) = login
            && !exists(&mut session, "SELECT 1 FROM pg_roles WHERE rolname = $1", &login.user).await?
        {
            // Its password is in no log of the server, whatever is logged there.
            execute(&mut session, "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1".to_owned()).await?;
            let password = login.password.replace('\'', "''");
            execute(&mut session, format!("CREATE ROLE {} LOGIN PASSWORD '{password}'", quoted(&login.user)))
                .await?;
            self.done.notes.push(format!(
                "role {} was made anew, with LOGIN alone: its grants are the dump's",
                login.user
            ));
        }
        if !exists(&mut session, "SELECT 1 FROM pg_database WHERE datname = $1", &tools.database).await? {
            execute(&mut session, format!("CREATE DATABASE {}", quoted(&tools.database))).await?;
        }
        postgres::leave(session).await;
        Ok(())
    }

    /// Puts the restored database in the place of the new cluster's empty one, and says where it is from.
    async fn swap(&self, tools: &Tools<'_>, beside: &str) -> Result<(), Fault> {
        let (database, empty) = (tools.database.as_str(), scratch_name()?);
        let mut session = tools.session("postgres").await?;
        let backup = self.dump.shown();
        let mark = format!(
            "rebuilt by Vigie from {} (sha256 {}) at {}",
            backup.name,
            backup.digest,
            crate::host::clock::now().to_rfc3339()
        );
        end_sessions(&mut session, database).await?;
        end_sessions(&mut session, beside).await?;
        let mut transaction = session.begin().await.map_err(|error| postgres::fault(&error))?;
        let text = format!(
            "ALTER DATABASE {old} RENAME TO {empty}; ALTER DATABASE {beside} RENAME TO {old}; COMMENT ON DATABASE {old} IS '{mark}'",
            old = quoted(database),
            empty = quoted(&empty),
            beside = quoted(beside),
            mark = mark.replace('\'', "''"),
        );
        transaction
            .execute(sqlx::raw_sql(AssertSqlSafe(text)))
            .await
            .map_err(|error| postgres::fault(&error))?;
        transaction.commit().await.map_err(|error| postgres::fault(&error))?;
        // One that stays is a scratch database, and swept like others.
        if let Err(fault) = execute(&mut session, format!("DROP DATABASE {}", quoted(&empty))).await {
            tracing::warn!(empty, fault = fault.failure.message, "an empty database stays behind");
        }
        postgres::leave(session).await;
        Ok(())
    }

    /// What a person has to look at.
    async fn look_around(&mut self, server: &Server) {
        if let Some(login) = server.backend_login()
            && let Err(refusal) = server.enter(login, self.cx.deadline).await
        {
            let said = text::text(&self.cx.host, &refusal.to_string());
            self.done.notes.push(format!("the backend's own way in is refused: {said}"));
        }
        if self.done.kept.is_empty() {
            return;
        }
        let old = PathBuf::from(&self.done.kept);
        let differ: Vec<&str> = CONFIGURATION
            .into_iter()
            .filter(|file| {
                let read = |folder: &std::path::Path| {
                    crate::host::careful::read(folder, file.as_ref(), 1024 * 1024).ok()
                };
                read(&old).is_some_and(|was| read(&self.found.data.path()).as_ref() != Some(&was))
            })
            .collect();
        if !differ.is_empty() {
            self.done.notes.push(format!(
                "{} were other than the image's own: compare those in {}, and restart the server",
                differ.join(", "),
                self.done.kept
            ));
        }
        self.done.notes.push(format!(
            "the old data take {} MiB until somebody deletes {}",
            self.found.shown.data_bytes >> 20,
            self.done.kept
        ));
    }
}

async fn exists(session: &mut PgConnection, question: &'static str, name: &str) -> Result<bool, Fault> {
    sqlx::query(question)
        .bind(name)
        .fetch_optional(session)
        .await
        .map(|row| row.is_some())
        .map_err(|error| postgres::fault(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_works_is_left_to_work() {
        let now = crate::host::clock::now().timestamp_millis();
        let container = |state: &str, up_ms: i64| ServerContainer {
            state: state.to_owned(),
            started_at_ms: now - up_ms,
            ..ServerContainer::default()
        };
        let recovering = Refusal::of_state("57P03", "the database system is starting up");
        assert!(at_work(&recovering, &container("running", 60_000)).is_some());
        // Between two crashes it starts, too.
        assert!(at_work(&recovering, &container("running", 800)).is_none());
        assert!(at_work(&recovering, &container("restarting", 60_000)).is_none());
    }
}
