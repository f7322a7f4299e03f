//! Room that is the database's own before it is needed.
//!
//! A table of noise is written, moved into the main file, and dropped: its pages stay in the file, free, and the
//! write-ahead log stays as long as it was. What is written later goes into those blocks, and needs none from a disk that
//! has none left. It holds on file systems that overwrite in place; one that copies (btrfs, ZFS) needs room for
//! every write, which the reserve's file gives.

use std::fs;

use super::{Sqlite, wal};
use crate::store::{
    StoreError,
    room::{RESERVE, Room},
};

/// Bytes of one row of noise.
const ROW: u64 = 1 << 20;

/// Left over beside the reserves.
const MARGIN: u64 = 1 << 20;

impl Sqlite {
    /// Bytes in free pages.
    pub(super) async fn free(&self) -> Result<u64, StoreError> {
        let pages: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&self.readers).await?;
        let size: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&self.readers).await?;
        Ok(u64::try_from(pages.saturating_mul(size)).unwrap_or(0))
    }

    /// Keeps both reserves as large as they are to be, as far as there is room.
    pub(super) async fn keep_reserve(&self, room: Room) -> Result<(), StoreError> {
        let free = self.free().await?;
        let log = fs::metadata(wal(&self.path)).map_or(0, |log| log.len());
        let (pages, log) = (RESERVE.saturating_sub(free), RESERVE.saturating_sub(log));
        // Half of it may be used up before it is made up for: each time costs a few MiB of writing.
        let wanting = pages > RESERVE / 2 || log > 0;
        if wanting && room.available >= pages + log + MARGIN {
            self.grow().await?;
        }
        if !self.guard.reserve.is_there() && room.available >= room.floor.saturating_mul(2) + RESERVE {
            let reserve = self.guard.reserve.clone();
            // Some MiB and a sync, on a disk that may be slow: nothing else waits for that.
            match tokio::task::spawn_blocking(move || reserve.make()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the reserve's file cannot be made"),
                Err(error) => tracing::error!(%error, "the reserve's making died"),
            }
        }
        Ok(())
    }

    async fn grow(&self) -> Result<(), StoreError> {
        // In one transaction: a log that was moved into the main file in between would begin anew, and stay short.
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        // One that a stop left behind.
        sqlx::query("DROP TABLE IF EXISTS filling").execute(&mut *transaction).await?;
        sqlx::query("CREATE TABLE filling (noise BLOB NOT NULL)").execute(&mut *transaction).await?;
        for _ in 0..RESERVE / ROW {
            let row = sqlx::query("INSERT INTO filling VALUES (randomblob(?))");
            row.bind(i64::try_from(ROW).unwrap_or(0)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&self.writer).await?;
        sqlx::query("DROP TABLE filling").execute(&self.writer).await?;
        Ok(())
    }

    /// A change that changes nothing: whether the store can be written.
    pub(super) async fn try_writing(&self) -> Result<(), StoreError> {
        sqlx::query("PRAGMA user_version = 1").execute(&self.writer).await?;
        Ok(())
    }
}
