//! Backups and migrations on the stack's real PostgreSQL: made, tried, damaged, gone back to; linted, rehearsed,
//! applied, blocked.

use std::{fs, path::Path, sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigie_agent::{
    config::Settings,
    host::{Host, docker, postgres::Server, stacks::Stacks},
    operations::{self, Context, Fault},
};
use vigie_proto::v1::{self, request::Operation as Ask, result::Operation as Answer};

use crate::World;

const FOLDER: &str = "/srv/sylion/backups/postgres";
const MIGRATION: &str = "drizzle/0003_add_plans_and_knowledge.sql";

async fn prepared(world: &World, ask: Ask, prepared: Answer) -> Result<Answer, Fault> {
    let context = Context {
        host: Arc::clone(&world.host),
        deadline: Instant::now() + Duration::from_secs(180),
        output: world.watched.clone(),
        ordered: true,
        prepared: Some(prepared),
        order: None,
        keeping: None,
        stop: CancellationToken::new(),
    };
    Box::pin(operations::run(ask, &context)).await
}

async fn session(world: &World, database: &str) -> PgConnection {
    let stack = world.host.stacks().resolve("").await.unwrap();
    let server = Server::find(&world.host, &stack, "").await.unwrap();
    server.administer(database, Instant::now() + Duration::from_secs(5)).await.unwrap()
}

async fn sql(world: &World, text: &str) {
    session(world, "").await.execute(sqlx::raw_sql(AssertSqlSafe(text.to_owned()))).await.unwrap();
}

async fn number(world: &World, text: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(text.to_owned())).fetch_one(&mut session(world, "").await).await.unwrap()
}

async fn scratch(world: &World) -> i64 {
    number(world, "SELECT count(*) FROM pg_database WHERE datname LIKE 'vigie\\_scratch\\_%'").await
}

async fn list(world: &World) -> v1::BackupListResult {
    ask!(world, BackupList, v1::BackupListRequest { test: 50, ..Default::default() })
}

/// A backup made now, with all that the host has in it.
async fn made(world: &World) -> v1::Backup {
    // The script names files by the second, and writes over one of the same.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let made = ask!(world, BackupCreate, v1::BackupCreateRequest::default());
    assert_eq!((made.method.as_str(), made.removed.len()), ("script", 0), "{made:?}");
    made.backup.unwrap()
}

#[tokio::test]
async fn backups_are_worth_what_comes_out_of_them() {
    let state = tempfile::tempdir().unwrap();
    let world = World::remembering(state.path()).await;
    world.healthy().await;
    let made = made(&world).await;
    assert!(made.integrity == "ok" && made.tables == 5 && made.rows > 30 && made.restorable, "{made:?}");
    let found = list(&world).await;
    assert_eq!((found.newest.as_str(), found.newest_integrity.as_str()), (made.name.as_str(), "ok"));
    assert!(found.present && !found.running && found.newest_age_s < 60 && found.free_bytes > 0, "{found:?}");
    assert!(!found.backups[0].verified);

    let verify = |backup: &str| v1::BackupVerifyRequest { backup: backup.to_owned(), ..Default::default() };
    let tried = ask!(world, BackupVerify, verify(""));
    assert!(tried.verified && tried.tables == 5 && tried.rows == made.rows, "{tried:?}");
    assert_eq!(scratch(&world).await, 0, "the scratch database is gone");
    let found = list(&world).await;
    assert_eq!((found.newest_verified.as_str(), found.verified_count), (made.name.as_str(), 1));

    // Half of it, and half of what was in it.
    let whole = fs::read(Path::new(FOLDER).join(&made.name)).unwrap();
    let (cut, torn) = ("sylion_9999-01-01_000000.sql.gz", "sylion_9999-01-02_000000.sql.gz");
    fs::write(Path::new(FOLDER).join(cut), &whole[..whole.len() / 2]).unwrap();
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 40].fill(0xff);
    fs::write(Path::new(FOLDER).join(torn), &flipped).unwrap();
    let found = list(&world).await;
    assert_eq!(found.broken.len(), 2, "{found:?}");
    assert_eq!(found.newest_usable, made.name);
    let fault = world.run(Ask::BackupVerify(verify(cut))).await.unwrap_err();
    assert_eq!(fault.failure.code, "backup_damaged");

    // A dump that is whole and does not fit together: the restore test alone tells.
    let text = "CREATE TABLE a (b int);\nCOPY a (b) FROM stdin;\nnot a number\n\\.\n-- PostgreSQL database dump complete\n";
    fs::write(Path::new(FOLDER).join("sylion_9999-01-03_000000.sql"), text).unwrap();
    let fault = world.run(Ask::BackupVerify(verify("sylion_9999-01-03_000000.sql"))).await.unwrap_err();
    assert_eq!(fault.failure.code, "restore_failed");
    assert!(fault.failure.message.contains("invalid input syntax"), "{}", fault.failure.message);
    assert_eq!(scratch(&world).await, 0);

    // Pruning: what is no dump goes; what is verified stays.
    let keep = v1::BackupPrunePreviewRequest { keep: 1, ..Default::default() };
    let shown = ask!(world, BackupPrunePreview, keep);
    let names: Vec<_> = shown.remove.iter().map(|own| own.name.as_str()).collect();
    assert!(
        names.contains(&cut) && names.contains(&torn) && !names.contains(&made.name.as_str()),
        "{shown:?}"
    );
    let order = Ask::BackupPrune(v1::BackupPruneRequest { keep: 1, ..Default::default() });
    assert_eq!(world.run(order.clone()).await.unwrap_err().failure.code, "not_prepared");
    // One of them changes after it was shown.
    fs::write(Path::new(FOLDER).join(torn), b"others").unwrap();
    let pruned = match prepared(&world, order, Answer::BackupPrunePreview(shown)).await {
        Ok(Answer::BackupPrune(pruned)) => pruned,
        other => panic!("{other:?}"),
    };
    assert!(pruned.removed.iter().any(|name| name == cut), "{pruned:?}");
    assert_eq!(pruned.left, [torn]);
    assert!(Path::new(FOLDER).join(&made.name).exists());
    fs::remove_file(Path::new(FOLDER).join(torn)).unwrap();
    let _ = fs::remove_file(Path::new(FOLDER).join("sylion_9999-01-03_000000.sql"));
}

#[tokio::test]
async fn a_restore_goes_back_and_keeps_what_was() {
    let state = tempfile::tempdir().unwrap();
    let world = World::remembering(state.path()).await;
    world.healthy().await;
    let made = made(&world).await;
    let tenants = number(&world, "SELECT count(*) FROM tenants").await;
    sql(&world, "INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'after the backup')").await;
    let shown = ask!(
        world,
        BackupRestorePreview,
        v1::BackupRestorePreviewRequest { backup: made.name.clone(), ..Default::default() }
    );
    assert_eq!(
        (shown.database.as_str(), shown.writers.as_slice()),
        ("sylion_prod", &["backend".to_owned()][..])
    );
    assert!(shown.obstacles.is_empty() && shown.lost_s < 60 && shown.room_there_bytes > 0, "{shown:?}");
    let order =
        Ask::BackupRestore(v1::BackupRestoreRequest { backup: made.name.clone(), ..Default::default() });
    assert_eq!(world.run(order.clone()).await.unwrap_err().failure.code, "not_prepared");

    let mut other = shown.clone();
    other.database_oid += 1;
    let fault = prepared(&world, order.clone(), Answer::BackupRestorePreview(other)).await.unwrap_err();
    assert_eq!(fault.failure.code, "not_as_prepared");

    let done = match prepared(&world, order, Answer::BackupRestorePreview(shown)).await {
        Ok(Answer::BackupRestore(done)) => done,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        done.steps,
        ["writers_stopped", "saved", "restored_beside", "verified", "swapped", "writers_started"]
    );
    assert!(done.swapped && done.tables == 5 && done.rows == made.rows, "{done:?}");
    assert_eq!(number(&world, "SELECT count(*) FROM tenants").await, tenants);
    let mark = sqlx::query_scalar::<_, String>(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()",
    );
    let mark = mark.fetch_one(&mut session(&world, "").await).await.unwrap();
    assert!(mark.contains(&made.digest), "{mark}");
    // What was replaced is still there, and in the dump that was made first.
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM tenants")
        .fetch_one(&mut session(&world, &done.kept).await)
        .await
        .unwrap();
    assert_eq!(kept, tenants + 1);
    let saved = list(&world).await.backups.into_iter().find(|own| own.name == done.saved).unwrap();
    assert_eq!((saved.integrity.as_str(), saved.rows), ("ok", made.rows + 1));
    world.healthy().await;
    session(&world, "postgres")
        .await
        .execute(sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {}", done.kept))))
        .await
        .unwrap();
    fs::remove_file(Path::new(FOLDER).join(&done.saved)).unwrap();

    // One that fails in the middle leaves the old one serving, and the writers up.
    let text = "CREATE TABLE a (b int);\nCOPY a (b) FROM stdin;\nnot a number\n\\.\n-- PostgreSQL database dump complete\n";
    let bad = "sylion_9999-01-04_000000.sql";
    fs::write(Path::new(FOLDER).join(bad), text).unwrap();
    let shown = ask!(
        world,
        BackupRestorePreview,
        v1::BackupRestorePreviewRequest { backup: bad.to_owned(), waive_saving: true, ..Default::default() }
    );
    let order = Ask::BackupRestore(v1::BackupRestoreRequest {
        backup: bad.to_owned(),
        waive_saving: true,
        ..Default::default()
    });
    let fault = prepared(&world, order, Answer::BackupRestorePreview(shown)).await.unwrap_err();
    fs::remove_file(Path::new(FOLDER).join(bad)).unwrap();
    assert_eq!(fault.failure.code, "restore_failed");
    assert!(fault.failure.message.contains("the old database is in service"), "{}", fault.failure.message);
    let Some(Answer::BackupRestore(stood)) = fault.partial.map(|partial| *partial) else {
        panic!("nothing tells how far it got")
    };
    assert!(!stood.swapped && stood.steps == ["writers_stopped", "writers_started"], "{stood:?}");
    assert_eq!(number(&world, "SELECT count(*) FROM tenants").await, tenants);
    assert_eq!(scratch(&world).await, 0);
    world.healthy().await;
}

/// Where the world's Docker keeps PostgreSQL's data.
const DATA: &str = "/var/lib/docker/volumes/sylion-postgres-data/_data";

fn call_docker(args: &[&str]) {
    let ended = std::process::Command::new("/usr/bin/docker").args(args).output().unwrap();
    assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

/// Old data that rebuildings left beside.
fn left_beside() -> Vec<std::path::PathBuf> {
    let beside = fs::read_dir(Path::new(DATA).parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    beside.filter(|path| path.to_string_lossy().contains(".before-")).collect()
}

#[tokio::test]
async fn a_server_that_cannot_start_is_rebuilt_and_its_old_data_are_kept() {
    use std::os::unix::fs::MetadataExt as _;

    let state = tempfile::tempdir().unwrap();
    let world = World::remembering(state.path()).await;
    world.healthy().await;
    let made = made(&world).await;
    let tenants = number(&world, "SELECT count(*) FROM tenants").await;
    sql(&world, "INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'after the backup')").await;
    let ask =
        |backup: &str| v1::BackupRebuildPreviewRequest { backup: backup.to_owned(), ..Default::default() };
    let order = |backup: &str| {
        Ask::BackupRebuild(v1::BackupRebuildRequest { backup: backup.to_owned(), ..Default::default() })
    };

    // One that lets sessions in is restored beside.
    let shown = ask!(world, BackupRebuildPreview, ask(&made.name));
    assert!(shown.admission == "ok" && shown.obstacles[0].contains("backup_restore"), "{shown:?}");
    let fault = prepared(&world, order(&made.name), Answer::BackupRebuildPreview(shown)).await.unwrap_err();
    assert_eq!(fault.failure.code, "restore_impossible");

    // A write-ahead log of zeros: PANIC at every start.
    call_docker(&["kill", "sylion-postgres"]);
    let segments = fs::read_dir(Path::new(DATA).join("pg_wal")).unwrap().map(|entry| entry.unwrap().path());
    for segment in segments.filter(|path| path.is_file()) {
        let size = usize::try_from(segment.metadata().unwrap().len()).unwrap();
        fs::write(&segment, vec![0; size]).unwrap();
    }
    call_docker(&["start", "sylion-postgres"]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let inode = fs::metadata(DATA).unwrap().ino();

    // A backup that does not go in: the old data are in their place again.
    let text = "CREATE TABLE a (b int);\nCOPY a (b) FROM stdin;\nnot a number\n\\.\n-- PostgreSQL database dump complete\n";
    let bad = "sylion_9999-01-05_000000.sql";
    fs::write(Path::new(FOLDER).join(bad), text).unwrap();
    let shown = ask!(world, BackupRebuildPreview, ask(bad));
    assert_eq!((shown.old_data.as_str(), shown.obstacles.as_slice()), ("moved", &[][..]), "{shown:?}");
    assert!(
        shown.data_directory == DATA && shown.data_inode == inode && shown.data_bytes > 1 << 20,
        "{shown:?}"
    );
    let fault = prepared(&world, order(bad), Answer::BackupRebuildPreview(shown)).await.unwrap_err();
    fs::remove_file(Path::new(FOLDER).join(bad)).unwrap();
    assert_eq!(fault.failure.code, "restore_failed", "{}", fault.failure.message);
    assert!(fault.failure.message.contains("the old data are in their place"), "{}", fault.failure.message);
    let Some(Answer::BackupRebuild(stood)) = fault.partial.map(|partial| *partial) else {
        panic!("nothing tells how far it got")
    };
    let steps =
        ["writers_stopped", "server_stopped", "set_aside", "server_started", "put_back", "writers_started"];
    assert_eq!(stood.steps, steps);
    assert!(!stood.rebuilt && stood.kept.is_empty(), "{stood:?}");
    assert_eq!((fs::metadata(DATA).unwrap().ino(), left_beside().len()), (inode, 0));

    // What was shown is what is worked on.
    let shown = ask!(world, BackupRebuildPreview, ask(&made.name));
    assert!(
        shown.lost_s < 120 && shown.rows_backup == made.rows && shown.writers == ["backend"],
        "{shown:?}"
    );
    let other = v1::BackupRebuildPreviewResult { data_inode: inode + 1, ..shown.clone() };
    let fault = prepared(&world, order(&made.name), Answer::BackupRebuildPreview(other)).await.unwrap_err();
    assert_eq!(fault.failure.code, "not_as_prepared");

    let done = match prepared(&world, order(&made.name), Answer::BackupRebuildPreview(shown)).await {
        Ok(Answer::BackupRebuild(done)) => done,
        other => panic!("{other:?}"),
    };
    let steps = [
        "writers_stopped",
        "server_stopped",
        "set_aside",
        "server_started",
        "restored_beside",
        "verified",
        "swapped",
        "writers_started",
    ];
    assert_eq!(done.steps, steps);
    assert!(done.rebuilt && done.tables == 5 && done.rows == made.rows, "{done:?}");
    assert_eq!(number(&world, "SELECT count(*) FROM tenants").await, tenants);
    assert_eq!(scratch(&world).await, 0);
    let mark = sqlx::query_scalar::<_, String>(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()",
    );
    let mark = mark.fetch_one(&mut session(&world, "").await).await.unwrap();
    assert!(mark.contains(&made.digest), "{mark}");
    // The damaged data are whole and where the answer says.
    assert_eq!(left_beside(), [Path::new(&done.kept)]);
    assert_eq!(fs::metadata(&done.kept).unwrap().ino(), inode);
    world.healthy().await;
    let shown = ask!(world, BackupRebuildPreview, ask(&made.name));
    assert_eq!(shown.earlier, std::slice::from_ref(&done.kept));
    fs::remove_dir_all(&done.kept).unwrap();
}

#[tokio::test]
async fn migrations_are_linted_rehearsed_and_applied() {
    let state = tempfile::tempdir().unwrap();
    let world = World::remembering(state.path()).await;
    world.healthy().await;
    let lint = |file: &str| v1::MigrationLintRequest { file: file.to_owned(), ..Default::default() };
    let found = ask!(world, MigrationLint, lint(MIGRATION));
    assert!(
        found.present && found.idempotent && found.statements == 9 && found.violations.is_empty(),
        "{found:?}"
    );
    assert!(found.syntax_asked && found.syntax_error.is_empty() && found.run.is_none(), "{found:?}");
    assert!(!ask!(world, MigrationLint, lint("drizzle/none.sql")).present);
    let escape = world.run(Ask::MigrationLint(lint("drizzle/../../../etc/passwd"))).await.unwrap_err();
    assert_eq!(escape.failure.code, "path_forbidden");
    let tables = ask!(
        world,
        TableCheck,
        v1::TableCheckRequest {
            file: MIGRATION.to_owned(),
            tables: vec!["absent".to_owned()],
            ..Default::default()
        }
    );
    assert_eq!(
        (tables.missing.as_slice(), tables.applied.as_str()),
        (&["absent".to_owned()][..], "all"),
        "{tables:?}"
    );
    let plans = tables.tables.iter().find(|own| own.name == "plans").unwrap();
    assert!(plans.present && plans.columns == 4 && plans.rows == 3 && plans.rows_exact, "{plans:?}");

    let rehearse = |file: &str| v1::MigrationRehearseRequest { file: file.to_owned(), ..Default::default() };
    let apply = |file: &str| v1::MigrationApplyRequest {
        file: file.to_owned(),
        lock_timeout_s: 2,
        backup_age_s: 30,
        ..Default::default()
    };
    let fault = world.run(Ask::MigrationApply(apply(MIGRATION))).await.unwrap_err();
    assert_eq!(fault.failure.code, "migration_not_rehearsed");
    let found = ask!(world, MigrationRehearse, rehearse(MIGRATION));
    assert!(found.idempotent && found.already_applied && found.second_changes.is_empty(), "{found:?}");
    assert_eq!(scratch(&world).await, 0);

    // One that seeds without looking, and one that fails when it is run again.
    let write =
        |name: &str, text: &str| fs::write(Path::new("/srv/sylion/drizzle").join(name), text).unwrap();
    write("9001.sql", "CREATE TABLE IF NOT EXISTS note (n int);\nINSERT INTO note VALUES (1);\n");
    write(
        "9002.sql",
        "ALTER TABLE plans ADD COLUMN IF NOT EXISTS world int;\nALTER TABLE plans ADD CONSTRAINT world_check CHECK (world > 0);\n",
    );
    write("9003.sql", "ALTER TABLE plans ADD COLUMN IF NOT EXISTS world int;\n");
    let fault = world.run(Ask::MigrationRehearse(rehearse("drizzle/9001.sql"))).await.unwrap_err();
    assert_eq!(fault.failure.code, "migration_not_idempotent");
    let Some(Answer::MigrationRehearse(seen)) = fault.partial.map(|partial| *partial) else {
        panic!("nothing tells what changed")
    };
    assert_eq!(seen.second_changes, ["note: 1 rows before, 2 after"]);
    let known = ask!(world, MigrationLint, lint("drizzle/9001.sql")).rehearsal.unwrap();
    assert_eq!(
        (known.outcome.as_str(), known.says.as_str()),
        ("second_run_changes", "note: 1 rows before, 2 after")
    );
    let fault = world.run(Ask::MigrationRehearse(rehearse("drizzle/9002.sql"))).await.unwrap_err();
    assert_eq!(fault.failure.code, "migration_not_idempotent");
    assert!(fault.failure.message.contains("line 2"), "{}", fault.failure.message);
    assert_eq!(scratch(&world).await, 0);

    let seen = ask!(world, MigrationRehearse, rehearse("drizzle/9003.sql"));
    assert!(seen.idempotent && seen.first_changes.contains(&"schema".to_owned()), "{seen:?}");
    for own in list(&world).await.backups.iter().filter(|own| own.age_s <= 31) {
        fs::remove_file(Path::new(FOLDER).join(&own.name)).unwrap();
    }
    let fault = world.run(Ask::MigrationApply(apply("drizzle/9003.sql"))).await.unwrap_err();
    assert_eq!(fault.failure.code, "backup_not_fresh");
    let backup = made(&world).await;

    // Somebody holds the table: it gives up in its time, and says who.
    let mut holder = session(&world, "").await;
    holder
        .execute("SET application_name = 'the holder'; BEGIN; LOCK TABLE plans IN ACCESS SHARE MODE")
        .await
        .unwrap();
    let fault = world.run(Ask::MigrationApply(apply("drizzle/9003.sql"))).await.unwrap_err();
    assert_eq!(fault.failure.code, "migration_blocked", "{}", fault.failure.message);
    assert!(fault.failure.message.contains("the holder"), "{}", fault.failure.message);
    let Some(Answer::MigrationApply(blocked)) = fault.partial.map(|partial| *partial) else {
        panic!("nothing tells who blocks")
    };
    assert_eq!((blocked.failed_line, blocked.blockers[0].application.as_str()), (1, "the holder"));
    let known = ask!(world, MigrationLint, lint("drizzle/9003.sql")).run.unwrap();
    assert!(known.outcome == "failed" && known.this_file && known.one_transaction, "{known:?}");
    holder.execute("ROLLBACK").await.unwrap();
    let done = ask!(world, MigrationApply, apply("drizzle/9003.sql"));
    assert!(done.applied && done.one_transaction && done.backup == backup.name, "{done:?}");
    assert_eq!(done.changes, ["plans: 4 columns before, 5 after"]);
    let known = ask!(world, MigrationLint, lint("drizzle/9003.sql")).run.unwrap();
    assert!(known.outcome == "applied" && known.backup == backup.name, "{known:?}");
    sql(&world, "ALTER TABLE plans DROP COLUMN world").await;
    for name in ["9001.sql", "9002.sql", "9003.sql"] {
        fs::remove_file(Path::new("/srv/sylion/drizzle").join(name)).unwrap();
    }
}

#[tokio::test]
async fn what_stops_a_migration_is_told_before_it_runs() {
    let state = tempfile::tempdir().unwrap();
    let world = World::remembering(state.path()).await;
    world.healthy().await;
    let lint = |file: &str| v1::MigrationLintRequest { file: file.to_owned(), ..Default::default() };
    // The server's own parser says where, and runs nothing.
    let wrong = Path::new("/srv/sylion/drizzle/9000.sql");
    fs::write(wrong, "CREATE TABLE IF NOT EXISTS world_wrong (a int);\nCREATE  TABEL b (c int);\n").unwrap();
    let found = ask!(world, MigrationLint, lint("drizzle/9000.sql"));
    assert_eq!((found.syntax_line, found.syntax_column, found.syntax_asked), (2, 9, true), "{found:?}");
    fs::write(wrong, "SELECT 'x;\n").unwrap();
    let found = ask!(world, MigrationLint, lint("drizzle/9000.sql"));
    assert!(found.syntax_line == 1 && found.syntax_column == 8 && !found.idempotent, "{found:?}");
    fs::remove_file(wrong).unwrap();
    assert_eq!(number(&world, "SELECT count(*) FROM pg_class WHERE relname = 'world_wrong'").await, 0);

    // Who holds its tables, once they have for a while; a reader is in nobody's way who only adds rows.
    let alters = Path::new("/srv/sylion/drizzle/9004.sql");
    fs::write(alters, "ALTER TABLE plans ADD COLUMN IF NOT EXISTS world int;\n").unwrap();
    let mut holder = session(&world, "").await;
    holder
        .execute("SET application_name = 'the holder'; BEGIN; LOCK TABLE plans IN ACCESS SHARE MODE")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(11)).await;
    let check = |file: &str| v1::TableCheckRequest { file: file.to_owned(), ..Default::default() };
    let held = ask!(world, TableCheck, check("drizzle/9004.sql")).holders;
    let readers = ask!(world, TableCheck, check(MIGRATION)).holders;
    holder.execute("ROLLBACK").await.unwrap();
    fs::remove_file(alters).unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    assert!(held[0].blocks && held[0].application == "the holder", "{held:?}");
    assert_eq!((held[0].mode.as_str(), held[0].needs.as_str()), ("AccessShareLock", "AccessExclusiveLock"));
    assert!(!readers.is_empty() && readers.iter().all(|own| !own.blocks), "{readers:?}");
}

#[tokio::test]
async fn the_age_of_copies_elsewhere_is_told() {
    let (state, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mark = place.path().join("copied");
    let mut settings = Settings::default();
    let stack = settings.stacks.entry("sylion".to_owned()).or_default();
    stack.backups.off_site = Some(mark.clone());
    let engine = docker::Engine::new(docker::SOCKET);
    let stacks = Stacks::open(state.path(), engine.clone(), settings.stacks.clone());
    let world = World { host: Arc::new(Host::new(settings, engine, stacks)), watched: Arc::default() };
    world.host.stacks().refresh().await;
    let found = list(&world).await;
    assert!(found.off_site_configured && found.off_site_at_ms == 0, "{found:?}");
    let file = fs::File::create(&mark).unwrap();
    file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3 * 86400)).unwrap();
    let found = list(&world).await;
    assert!((259_200..259_260).contains(&found.off_site_age_s), "{found:?}");
}
