//! How long to wait before dialling again.

use std::time::Duration;

/// The first window; each failure doubles it.
const FIRST: Duration = Duration::from_millis(500);
/// The widest window for what may pass by itself.
const WIDEST: Duration = Duration::from_secs(30);
/// The widest for what a person has to mend first. Not for ever: they may mend it at the other end.
const WIDEST_PERMANENT: Duration = Duration::from_secs(300);

/// A session that lasted this long was a good one: the next failure starts with the shortest delay.
const GOOD: Duration = Duration::from_secs(10);

/// Full jitter: each delay is drawn from the whole window, so that a fleet that lost its controller at one moment does
/// not come back at one moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next delay. `chance` is drawn evenly from all of `u64`.
    pub(super) fn next(&mut self, permanent: bool, chance: u64) -> Duration {
        let widest = if permanent { WIDEST_PERMANENT } else { WIDEST };
        let window = FIRST.saturating_mul(1 << self.failures.min(16)).min(widest);
        self.failures = self.failures.saturating_add(1);
        scaled(window, chance)
    }

    /// A session ended that lasted so long.
    pub(super) fn lasted(&mut self, session: Duration) {
        if session >= GOOD {
            self.failures = 0;
        }
    }
}

/// A part of a duration.
pub(super) fn scaled(window: Duration, chance: u64) -> Duration {
    let millis = (u128::from(chance) * window.as_millis()) >> 64;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// A number that nobody can foresee; the middle one where the system has no randomness to give.
pub(super) fn chance() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_grow_to_their_limit_and_start_anew() {
        let mut backoff = Backoff::default();
        let windows: Vec<_> = (0..8).map(|_| backoff.next(false, u64::MAX).as_millis()).collect();
        assert_eq!(windows, [499, 999, 1999, 3999, 7999, 15999, 29999, 29999]);
        assert_eq!(backoff.next(true, u64::MAX).as_millis(), 127_999);
        backoff.lasted(GOOD - Duration::from_millis(1));
        assert_eq!(backoff.next(false, u64::MAX).as_millis(), 29_999, "it hardly came about");
        backoff.lasted(GOOD);
        assert_eq!(backoff.next(true, u64::MAX).as_millis(), 499);
    }

    proptest! {
        #[test]
        fn a_delay_is_anywhere_within_its_window(failures in 0..200u32, chance in any::<u64>(), permanent in any::<bool>()) {
            let mut backoff = Backoff { failures };
            prop_assert!(backoff.next(permanent, chance) < WIDEST_PERMANENT);
            prop_assert_eq!(Backoff { failures }.next(permanent, 0), Duration::ZERO);
        }
    }
}
