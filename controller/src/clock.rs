//! The controller's clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as Unix milliseconds. A clock before 1970 reads as 0: then nothing is valid, which is the safe side.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
