//! Where rules are evaluated.

use tokio::task::{JoinError, spawn_blocking};

/// Which thread does it.
#[derive(Debug, Clone, Copy)]
pub enum Evaluation {
    /// One of their own: rules are work for the processor, and would hold up the async threads.
    Aside,
    /// The caller's: in a simulation everything happens in one order.
    #[cfg(feature = "sim")]
    AtOnce,
}

impl Evaluation {
    /// Does some work.
    ///
    /// # Errors
    /// When it panics.
    pub(super) async fn of<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Aside => spawn_blocking(work).await,
            #[cfg(feature = "sim")]
            Self::AtOnce => Ok(work()),
        }
    }
}
