//! Runs that try another again.

use vigie_proto::{id::RunId, v1::Opened};
use vigie_runbook::run;

use super::Runs;
use crate::error::RunsError;

impl Runs {
    /// Whether a run, by its `own` id, may be opened as the retry that it says it is. One that is no retry may.
    ///
    /// # Errors
    /// When there is no such run, it is not over, or nothing may be tried again of it where the new one would.
    pub(super) async fn tries_again(&self, own: RunId, opened: &Opened) -> Result<(), RunsError> {
        let before = opened.spec.as_ref().map_or("", |spec| &spec.retry_of);
        if before.is_empty() {
            return Ok(());
        }
        let run: RunId = before.parse()?;
        if self.0.store.run(run).await?.is_none() {
            return Err(RunsError::Unknown(run.to_string()));
        }
        run::may_try_again(&self.state(run).await?, opened)?;
        for since in self.0.store.retries(run).await?.into_iter().filter(|since| *since != own) {
            run::may_try_again_beside(&self.state(since).await?, opened)?;
        }
        Ok(())
    }
}
