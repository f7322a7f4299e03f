//! Opening: nothing is served from a file that is not what it has to be, and who reads why knows what to do.

use std::{fs, path::Path, time::Duration};

use sqlx::{
    Row as _, SqlSafeStr as _, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Sqlite,
    guard::{CORRUPT, Guard, NOTADB, code},
    wal,
};
use crate::store::StoreError;

/// How long a statement waits for another process's lock (a backup, a person with `sqlite3`) before it fails.
const BUSY: Duration = Duration::from_secs(5);

/// Connections that read at the same time.
const READERS: u32 = 4;

/// Pages of 4 KiB in the write-ahead log before they are moved into the main file: half of what is kept in reserve of it.
const CHECKPOINT_PAGES: &str = "500";

/// The first SQLite whose write-ahead log cannot be damaged by a reset at the wrong moment (3.7.0 to 3.51.2 can:
/// <https://sqlite.org/wal.html>).
const SQLITE: [u32; 3] = [3, 51, 3];

/// What was wrong with a damaged file, in so many lines.
const COMPLAINTS: usize = 3;

impl Sqlite {
    /// Opens the file, or makes it, and brings its schema up to date. After a stop that was none, looks it over first.
    ///
    /// # Errors
    /// When it cannot be opened, is damaged or of a newer version, or does not keep what it is told to keep.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let guard = Guard::new(path);
        // Its write-ahead log and shared memory have to be made, and that needs room.
        if guard.room().is_ok_and(|room| room.is_short()) {
            guard.reserve.release();
        }
        private(path)?;
        let unclean = fs::metadata(wal(path)).is_ok_and(|log| log.len() > 0);
        let opened = connect(path, unclean).await;
        let (writer, readers) = opened.map_err(|error| damage(path, error))?;
        guard.look();
        Ok(Self { writer, readers, guard, path: path.to_owned() })
    }
}

async fn connect(path: &Path, unclean: bool) -> Result<(SqlitePool, SqlitePool), StoreError> {
    let failed = |source| StoreError::Open { path: path.to_owned(), source };
    let options = SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        // A full disk has no room for temporary files.
        .pragma("temp_store", "MEMORY");
    let pool = |connections: u32| {
        SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(connections)
            // A connection costs nothing to keep; closing the last one would checkpoint in the middle of things.
            .idle_timeout(None)
            .max_lifetime(None)
    };
    let writer = pool(1).connect_with(options.clone()).await.map_err(failed)?;
    assert_version(&writer).await?;
    assert_settings(&writer, path).await?;
    if unclean {
        look_over(&writer, path).await?;
    }
    migrations().run(&writer).await.map_err(|error| unmigrated(path, error))?;
    let readers = pool(READERS).connect_with(options.read_only(true)).await.map_err(failed)?;
    Ok((writer, readers))
}

/// Makes the file with mode 0600 before SQLite does, which would follow the umask; its log takes the same mode.
fn private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| StoreError::Open { path: path.to_owned(), source: error.into() })
}

async fn assert_version(pool: &SqlitePool) -> Result<(), StoreError> {
    let found: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(pool).await?;
    let numbers: Vec<u32> = found.split('.').filter_map(|part| part.parse().ok()).collect();
    if numbers.as_slice() < SQLITE.as_slice() {
        return Err(StoreError::Version { found, wanted: SQLITE.map(|part| part.to_string()).join(".") });
    }
    Ok(())
}

/// What the durability of every answer rests on is asked for, not assumed.
pub(super) async fn assert_settings(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    let checks = [
        ("journal_mode", "PRAGMA journal_mode", "wal"),
        ("synchronous", "PRAGMA synchronous", "2"),
        ("foreign_keys", "PRAGMA foreign_keys", "1"),
        ("wal_autocheckpoint", "PRAGMA wal_autocheckpoint", CHECKPOINT_PAGES),
        // No bound at which the log would be cut, and its room given away.
        ("journal_size_limit", "PRAGMA journal_size_limit", "-1"),
        ("temp_store", "PRAGMA temp_store", "2"),
    ];
    for (pragma, statement, wanted) in checks {
        let row = sqlx::query(statement).fetch_one(pool).await?;
        let found =
            row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()))?;
        if found != wanted {
            return Err(StoreError::Pragma { path: path.to_owned(), pragma, wanted, found });
        }
    }
    Ok(())
}

/// Whether the file is whole, as far as can be told without reading every row's contents.
pub(super) async fn look_over(pool: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    tracing::info!("the last stop was none: looking over the database");
    let found: Vec<String> = sqlx::query_scalar("PRAGMA quick_check").fetch_all(pool).await?;
    if found.iter().any(|line| line != "ok") {
        let found = found.into_iter().take(COMPLAINTS).collect::<Vec<_>>().join("; ");
        return Err(StoreError::Corrupt { path: path.to_owned(), found });
    }
    Ok(())
}

/// A file that SQLite calls damaged is called so, by its name.
fn damage(path: &Path, error: StoreError) -> StoreError {
    let source = match &error {
        StoreError::Open { source, .. } | StoreError::Database(source) => source,
        StoreError::Migrate { source: MigrateError::Execute(source), .. } => source,
        _ => return error,
    };
    match code(source).map(|code| code & 0xff) {
        Some(CORRUPT | NOTADB) => {
            let found =
                source.as_database_error().map_or_else(String::new, |error| error.message().to_owned());
            StoreError::Corrupt { path: path.to_owned(), found }
        }
        _ => error,
    }
}

fn unmigrated(path: &Path, source: MigrateError) -> StoreError {
    let path = path.to_owned();
    match source {
        MigrateError::VersionMissing(found) => {
            let known = migrations().iter().map(|migration| migration.version).max().unwrap_or(0);
            StoreError::Newer { path, found, known }
        }
        source => StoreError::Migrate { path, source },
    }
}

fn migrations() -> Migrator {
    let first = include_str!("../../../migrations/0001_first.sql").into_sql_str();
    let incidents = include_str!("../../../migrations/0002_incidents.sql").into_sql_str();
    let remedies = include_str!("../../../migrations/0003_remedies.sql").into_sql_str();
    let retries = include_str!("../../../migrations/0004_retries.sql").into_sql_str();
    Migrator::with_migrations(vec![
        Migration::new(1, "first".into(), MigrationType::Simple, first, false),
        Migration::new(2, "incidents".into(), MigrationType::Simple, incidents, false),
        Migration::new(3, "remedies".into(), MigrationType::Simple, remedies, false),
        Migration::new(4, "retries".into(), MigrationType::Simple, retries, false),
    ])
}
