//! What a file has to be, and what is said of one that is not.

use std::{
    error::Error,
    fs,
    io::{Seek as _, SeekFrom, Write as _},
};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{open::assert_settings, *};

async fn refusal(path: &Path) -> (StoreError, String) {
    let Err(error) = Sqlite::open(path).await else { panic!("{} was opened", path.display()) };
    let said = error.to_string();
    assert!(said.contains(path.to_str().unwrap()), "it names the file: {said}");
    (error, said)
}

#[tokio::test]
async fn a_setting_that_does_not_hold_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    drop(Sqlite::open(&path).await.unwrap());
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let pool = SqlitePoolOptions::new().connect_with(options).await.unwrap();
    let said = assert_settings(&pool, &path).await.unwrap_err().to_string();
    assert!(said.contains("synchronous = 1 where 2 is needed"), "{said}");
    assert!(said.contains(path.to_str().unwrap()) && said.contains("local disk"), "{said}");
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Sqlite::open(&path).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99, 'later', TRUE, x'00', 0)",
    )
    .execute(&store.writer)
    .await
    .unwrap();
    store.close().await;
    let (error, said) = refusal(&path).await;
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    assert!(said.contains("newer vigie-controller") && said.contains("restore a backup"), "{said}");
}

#[tokio::test]
async fn a_file_of_something_else_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    fs::write(&path, "not a database\n".repeat(1000)).unwrap();
    let (error, said) = refusal(&path).await;
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?} {:?}", error.source());
    assert!(said.contains("is damaged") && said.contains("restore"), "{said}");
}

/// After a stop that was none, damage is found before anything is served.
#[tokio::test]
async fn a_damaged_file_is_found_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Sqlite::open(&path).await.unwrap();
    for number in 0..2000 {
        let line = Intent::own("test", &format!("subject {number}"), &"x".repeat(500)).line(Kind::Done);
        store.write_audit(line, Claim::Ordinary).await.unwrap();
    }
    store.close().await;
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length / 2 / 4096 * 4096)).unwrap();
    file.write_all(&[0xa5; 3 * 4096]).unwrap();
    fs::write(wal(&path), "a log that a kill left behind").unwrap();
    let (error, said) = refusal(&path).await;
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(said.contains("vigie-controller restore"), "{said}");
}

#[tokio::test]
async fn reserves_are_kept_and_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Sqlite::open(&path).await.unwrap();
    store.tend().await;
    let free = store.free().await.unwrap();
    assert!(free >= RESERVE, "{free}");
    assert!(fs::metadata(wal(&path)).unwrap().len() >= RESERVE);
    assert!(fs::metadata(path.with_extension("reserve")).unwrap().len() > RESERVE);
    let size = fs::metadata(&path).unwrap().len();
    store.close().await;
    // The next start finds the pages there, and makes the log anew within them.
    let store = Sqlite::open(&path).await.unwrap();
    store.tend().await;
    assert_eq!(fs::metadata(&path).unwrap().len(), size);
    assert!(fs::metadata(wal(&path)).unwrap().len() >= RESERVE);
    assert!(store.health().borrow().stale().is_none());
}
