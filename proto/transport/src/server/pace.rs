//! How many handshakes, how long each, and how long a pause when accepting fails.

use std::io;
use std::time::Duration;

/// Handshakes under way at once: half of the 1024 descriptors that a process usually has, so that
/// strangers alone never use them up.
pub(super) const HANDSHAKES: usize = 512;

/// How long a handshake may take: a slow satellite link needs one second.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same while more than half of [`HANDSHAKES`] are taken: half-open connections then make room
/// sooner.
const PATIENCE_WHEN_BUSY: Duration = Duration::from_secs(2);

/// How long the next handshake may take, by how many there are.
pub(super) fn patience(under_way: usize) -> Duration {
    if under_way > HANDSHAKES / 2 { PATIENCE_WHEN_BUSY } else { PATIENCE }
}

/// How long to wait after the `earlier + 1`st failure in a row to accept.
///
/// A client that left before we looked costs nothing. Anything else (out of descriptors, out of
/// memory) fails again at once: 10 ms, doubling to 1.28 s, leave the rest of the process the time
/// to close something.
pub(super) fn pause(failure: &io::Error, earlier: u32) -> Duration {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    match failure.kind() {
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted => Duration::ZERO,
        _ => Duration::from_millis(10 << earlier.min(7)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_slows_accepting_down_and_a_lost_client_does_not() {
        let exhausted = io::Error::from_raw_os_error(24);
        assert_eq!([0, 1, 7, u32::MAX].map(|n| pause(&exhausted, n).as_millis()), [10, 20, 1280, 1280]);
        assert_eq!(pause(&io::ErrorKind::ConnectionAborted.into(), 9), Duration::ZERO);
    }

    #[test]
    fn half_open_connections_shorten_the_patience() {
        assert_eq!(
            [0, HANDSHAKES / 2, HANDSHAKES - 1].map(patience),
            [PATIENCE, PATIENCE, PATIENCE_WHEN_BUSY]
        );
    }
}
