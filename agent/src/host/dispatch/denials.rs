//! How many unbelieved orders are written down.

/// Unbelieved orders are written down one by one up to this number, and one more for each minute: a controller that
/// floods a host with them must not fill its journal.
pub(super) const DENIALS: u32 = 100;
pub(super) const DENIAL_EVERY_MS: i64 = 60_000;

/// Counts what is written down of unbelieved orders.
#[derive(Debug, Default)]
pub(super) struct Denials {
    spent: u32,
    since_ms: i64,
    unrecorded: u64,
}

impl Denials {
    /// `Some` when this one is to be written down, with the number of those that were not since the last.
    pub(super) fn record(&mut self, now_ms: i64) -> Option<u64> {
        let earned = u32::try_from(now_ms.saturating_sub(self.since_ms) / DENIAL_EVERY_MS).unwrap_or(0);
        if earned > 0 {
            self.spent = self.spent.saturating_sub(earned);
            self.since_ms = now_ms;
        }
        if self.spent >= DENIALS {
            self.unrecorded += 1;
            return None;
        }
        self.spent += 1;
        Some(std::mem::take(&mut self.unrecorded))
    }
}
