//! A backup before an intervention: by the stack's own script, which knows where it belongs, or by `pg_dump`.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use tokio::time::Instant;
use vigie_proto::v1::{BackupCreateRequest, BackupCreateResult, result};

use super::{
    folder::{Dump, Folder, room},
    tools::{RESERVE, Tools},
};
use crate::{
    host::{
        child::Child,
        stacks::{
            KnownStack,
            compose::{cannot_run, last_words, timed_out},
        },
    },
    operations::{Context, Fault, text},
};

/// What of the script's output is kept.
const OUTPUT: usize = 40;

/// Makes a backup and reads it to its end.
pub(in crate::operations) async fn create(
    request: BackupCreateRequest,
    cx: &Context,
) -> Result<BackupCreateResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let folder = Folder::of(cx, &stack);
    let before = folder.dumps().map_err(|error| folder.unreadable(&error))?.unwrap_or_default();
    enough_room(&folder, &before)?;
    let begun = Instant::now();
    let mut result = BackupCreateResult { stack: stack.name.clone(), ..BackupCreateResult::default() };
    let dump = match &folder.script {
        Some(script) => {
            result.method = "script".to_owned();
            result.script = script.to_string_lossy().into_owned();
            by_script(script, &stack, &folder, &before, &mut result, cx).await
        }
        None => {
            result.method = "pg_dump".to_owned();
            by_pg_dump(&stack, &folder, cx).await
        }
    };
    result.duration_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
    let after = folder.dumps().map_err(|error| folder.unreadable(&error))?.unwrap_or_default();
    result.removed = before
        .iter()
        .filter(|old| !after.iter().any(|new| new.name == old.name))
        .map(|old| old.name.clone())
        .collect();
    match dump {
        Ok(dump) => {
            result.backup = Some(dump.shown());
            if dump.is_usable() {
                return Ok(result);
            }
            let scan = dump.scan.clone().unwrap_or_default();
            Err(Fault::failed(
                "backup_damaged",
                format!("{} was written and is {}: {}", dump.name, scan.integrity, scan.problem),
            )
            .hint("it does not count as a backup; look at the disk and at the server's log")
            .partial(result::Operation::BackupCreate(result)))
        }
        Err(fault) => Err(fault.partial(result::Operation::BackupCreate(result))),
    }
}

/// A dump that fills the disk stops the database that it was to save.
fn enough_room(folder: &Folder, before: &[Dump]) -> Result<(), Fault> {
    let needed =
        before.iter().take(3).map(|dump| dump.identity.size).max().unwrap_or_default() * 3 / 2 + RESERVE;
    let (free, _) = room(&folder.path).map_err(|error| folder.unreadable(&error))?;
    if free >= needed {
        return Ok(());
    }
    Err(Fault::refused(
        "backup_no_room",
        format!(
            "{} has {} MiB free, and a backup takes up to {} MiB with what has to stay free",
            folder.path.display(),
            free >> 20,
            needed >> 20
        ),
    )
    .hint("make room first: `vigiectl diagnose disk-full`"))
}

async fn by_script(
    script: &Path,
    stack: &KnownStack,
    folder: &Folder,
    before: &[Dump],
    result: &mut BackupCreateResult,
    cx: &Context,
) -> Result<Dump, Fault> {
    trustworthy(script)?;
    let mut child = Child::new(&script.to_string_lossy())
        .map_err(cannot_run)?
        .directory(&stack.directory)
        .sink(&*cx.output);
    for (name, value) in &stack.compose_env {
        child = child.env(name, value);
    }
    let exit = cx.act(child).await.map_err(cannot_run)?;
    let all: Vec<String> = exit.stdout.lines().into_iter().chain(exit.stderr.lines()).collect();
    result.output = text::last_lines(&cx.host, &all, OUTPUT);
    if exit.timed_out {
        return Err(timed_out(&script.to_string_lossy()));
    }
    if exit.stopped {
        return Err(Fault::stopped(&script.to_string_lossy()));
    }
    if !exit.success() {
        return Err(Fault::failed("backup_failed", format!("{} ended with status {}: {}", script.display(), exit.code, last_words(&exit)))
            .hint("`vigiectl diagnose postgres-down` tells whether the server can be dumped; where it is corrupt, copy its volume"));
    }
    let after = folder.dumps().map_err(|error| folder.unreadable(&error))?.unwrap_or_default();
    let fresh = after
        .into_iter()
        .find(|new| !before.iter().any(|old| old.name == new.name && old.identity == new.identity));
    match fresh {
        Some(dump) => folder.choose(&dump.name, cx.deadline).await,
        None => Err(Fault::failed(
            "backup_missing",
            format!("{} ended well, and there is no new file in {}", script.display(), folder.path.display()),
        )
        .hint("say where it writes: `backups.directory` under the stack in /etc/vigie/agent.toml")),
    }
}

/// A script that others may write to would let them run anything as root.
fn trustworthy(script: &Path) -> Result<(), Fault> {
    let meta = std::fs::metadata(script)
        .map_err(|error| Fault::failed("file_unreadable", format!("{}: {error}", script.display())))?;
    if meta.mode() & 0o002 != 0 {
        return Err(Fault::refused(
            "script_untrusted",
            format!("{} can be written by anybody, and is not run as root", script.display()),
        )
        .hint(format!("`chmod o-w {}`", script.display())));
    }
    if meta.mode() & 0o111 == 0 {
        return Err(Fault::refused("script_untrusted", format!("{} is not executable", script.display()))
            .hint(format!("`chmod +x {}`", script.display())));
    }
    Ok(())
}

async fn by_pg_dump(stack: &KnownStack, folder: &Folder, cx: &Context) -> Result<Dump, Fault> {
    let tools = Tools::find(cx, stack).await?;
    let name = dump_name(&stack.name);
    tools.dump_to(&tools.database, &folder.path.join(&name), cx.deadline).await?;
    folder.choose(&name, cx.deadline).await
}

/// `sylion_2025-12-13_031500.sql.gz`, as the stack's own script calls them.
pub(super) fn dump_name(prefix: &str) -> String {
    format!("{prefix}_{}.sql.gz", crate::host::clock::now().format("%Y-%m-%d_%H%M%S"))
}
