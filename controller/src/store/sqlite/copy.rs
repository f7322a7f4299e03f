//! What backups and restores ask of a database.

use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use super::{Sqlite, audit, open};
use crate::{
    audit::{Intent, Kind},
    store::{Claim, StoreError},
};

impl Sqlite {
    /// Copies a database, which may be in use, as it stands at one moment. The copy has no free pages, and everything in its
    /// main file.
    ///
    /// # Errors
    /// When the one cannot be read or the other cannot be written.
    pub(crate) async fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
        let failed = |source| StoreError::Open { path: from.to_owned(), source };
        let options = SqliteConnectOptions::new().filename(from).read_only(true);
        let mut connection = options.connect().await.map_err(failed)?;
        let copied = sqlx::query("VACUUM INTO ?").bind(to.to_string_lossy()).execute(&mut connection).await;
        connection.close().await.map_err(failed)?;
        copied.map_err(|source| StoreError::Open { path: to.to_owned(), source })?;
        Ok(())
    }

    /// Whether the file is whole.
    ///
    /// # Errors
    /// Says what is not.
    pub(crate) async fn look_over(&self) -> Result<(), StoreError> {
        open::look_over(&self.writer, &self.path).await
    }

    /// Makes every token void that was not used, and says for what reason. How many there were.
    ///
    /// # Errors
    /// When it is not written.
    pub(crate) async fn void_tokens(&self, intent: &Intent, now_ms: i64) -> Result<u64, StoreError> {
        let mut transaction = self.write(Claim::Ordinary).await?;
        let void =
            sqlx::query("UPDATE tokens SET expires_at_ms = 0 WHERE used_by IS NULL AND expires_at_ms > ?")
                .bind(now_ms)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        let said = intent.with_detail(&format!("{}; tokens made void: {void}", intent.detail()));
        audit::append(&mut transaction, &said.line(Kind::Done)).await?;
        transaction.commit().await?;
        Ok(void)
    }
}
