//! Whether what is under way comes to an end: what the loop tells when it is asked whether it answers.

use tokio::{task::JoinError, time::Instant};
use vigie_proto::v1::{Ping, Pong, from_agent};

use super::{Dispatch, report};

/// Since when nothing has ended while something is under way.
#[derive(Default)]
pub(super) struct Progress {
    quiet_since: Option<Instant>,
}

impl Progress {
    /// Takes note of how much is under way.
    pub(super) fn look(&mut self, underway: usize) {
        if underway == 0 {
            self.quiet_since = None;
        } else if self.quiet_since.is_none() {
            self.quiet_since = Some(Instant::now());
        }
    }

    /// Something came to its end.
    pub(super) fn made(&mut self, ended: Result<(), JoinError>) {
        self.quiet_since = None;
        report(ended);
    }

    fn quiet_ms(&self) -> u64 {
        // One that began this very millisecond is under way all the same, and 0 stands for nothing.
        self.quiet_since
            .map_or(0, |since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1))
    }
}

impl Dispatch {
    /// Answers that this loop goes round.
    pub(super) async fn pong(&mut self, ping: &Ping) {
        let (probes, orders) = (self.probing.len(), self.ordered.len());
        self.progress.look(probes + orders);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let pong = Pong {
            seq: ping.seq,
            probes: count(probes),
            orders: count(orders),
            quiet_ms: self.progress.quiet_ms(),
        };
        self.send(from_agent::Message::Pong(pong)).await;
    }
}
