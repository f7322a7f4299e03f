//! Wall-clock time, behind a trait so that tests and simulations own it.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};

/// The last millisecond of the year 9999: a clock that is further off tells nothing, and what is reckoned from it stays a time
/// that can be shown.
const LATEST_MS: i64 = 253_402_300_799_999;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Unix milliseconds.
    fn now_ms(&self) -> i64;
}

/// The host's own clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        unix_ms(SystemTime::now())
    }
}

/// The same moment for what is reckoned in days and zones. Unlike chrono's own it bears a clock before 1970.
pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(SystemClock.now_ms()).unwrap_or_default()
}

/// Unix milliseconds, within what can be reckoned with. A clock before 1970 makes every order too early, which refuses them.
fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(LATEST_MS).min(LATEST_MS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_borne() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(unix_ms(UNIX_EPOCH - 40_000 * day), 0);
        assert_eq!(unix_ms(UNIX_EPOCH + 7 * day), 7 * 24 * 3600 * 1000);
        let latest = unix_ms(UNIX_EPOCH + Duration::from_secs(1 << 60));
        assert!(DateTime::from_timestamp_millis(latest + 24 * 3600 * 1000).is_some());
        assert_eq!(latest, LATEST_MS);
    }
}
