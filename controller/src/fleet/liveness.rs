//! Whether an agent that is connected answers, and whether what it does comes to an end.
//!
//! The connection's pings are answered by the agent's kernel and its network half, and so tell nothing of the half that
//! carries probes and orders out. That one is asked here, in its session. Whatever it says proves that it lives; only what
//! it says in answer tells how far it gets.

use std::time::Duration;

use tokio::time::sleep;
use vigie_proto::{
    id::HostId,
    v1::{Liveness, Ping, Pong, to_agent},
};

use super::{Fleet, SessionId};

/// How often an agent is asked. With [`PATIENCE`] and the time between two questions, one that hangs is noticed within 18 s.
const EVERY: Duration = Duration::from_secs(10);

/// How long it has to answer: its loop waits for nothing but its network half.
const PATIENCE: Duration = Duration::from_secs(8);

/// One session's.
#[derive(Debug)]
pub(super) struct Pulse {
    /// The latest question.
    asked: u64,
    /// It came to an answer, or to anything else from the agent.
    heard_since: bool,
    answering: bool,
    answering_since_ms: i64,
    heard_at_ms: i64,
    latest: Pong,
    /// 0 while the agent has nothing at hand.
    quiet_since_ms: i64,
}

impl Pulse {
    pub(super) fn new(now_ms: i64) -> Self {
        Self {
            asked: 0,
            heard_since: true,
            answering: true,
            answering_since_ms: now_ms,
            heard_at_ms: now_ms,
            latest: Pong::default(),
            quiet_since_ms: 0,
        }
    }

    /// The agent's part that answers said something. True when it had fallen silent.
    pub(super) fn heard(&mut self, name: &str, now_ms: i64) -> bool {
        self.heard_since = true;
        self.heard_at_ms = now_ms;
        let again = !self.answering;
        if again {
            self.answering = true;
            self.answering_since_ms = now_ms;
            tracing::info!(host = name, "the agent answers again");
        }
        again
    }

    /// The latest question did not get as far as the agent: none is waited for.
    fn unasked(&mut self) {
        self.heard_since = true;
    }

    /// Its time to answer is over. True when it falls silent by that.
    fn overdue(&mut self, name: &str) -> bool {
        let silent = !self.heard_since && self.answering;
        if silent {
            self.answering = false;
            self.answering_since_ms = self.heard_at_ms;
            tracing::warn!(host = name, "the agent is connected and does not answer");
        }
        silent
    }

    pub(super) fn is_answering(&self) -> bool {
        self.answering
    }

    fn answered(&mut self, pong: Pong, now_ms: i64) {
        if pong.seq != self.asked {
            return;
        }
        self.quiet_since_ms = match pong.quiet_ms {
            0 => 0,
            quiet => now_ms.saturating_sub(i64::try_from(quiet).unwrap_or(i64::MAX)).max(1),
        };
        self.latest = pong;
    }

    pub(super) fn to_proto(&self) -> Liveness {
        Liveness {
            answering: self.answering,
            answering_since_ms: self.answering_since_ms,
            probes: self.latest.probes,
            orders: self.latest.orders,
            quiet_since_ms: self.quiet_since_ms,
        }
    }
}

impl Fleet {
    /// Asks an agent again and again whether it answers, for as long as its session lasts.
    pub(crate) async fn pulse(&self, host: HostId, session: SessionId) {
        loop {
            let asked = self.in_session(host, session, |pulse, _| {
                // One that does not answer has one question before it, and no more.
                pulse.heard_since.then(|| {
                    pulse.heard_since = false;
                    pulse.asked += 1;
                    pulse.asked
                })
            });
            if let Some(Some(seq)) = asked
                && let Err(error) = self.queue(host, to_agent::Message::Ping(Ping { seq }))
            {
                // What it does not read for too long ends the session; whether it would answer is not known.
                tracing::debug!(%host, %error, "an agent was not asked whether it answers");
                self.in_session(host, session, |pulse, _| pulse.unasked());
            }
            sleep(PATIENCE).await;
            if self.in_session(host, session, Pulse::overdue) == Some(true) {
                self.changed(host);
            }
            sleep(EVERY.saturating_sub(PATIENCE)).await;
        }
    }

    /// Takes what an agent answered.
    pub(crate) fn answered(&self, host: HostId, session: SessionId, pong: Pong) {
        let now_ms = self.now_ms();
        self.in_session(host, session, |pulse, _| pulse.answered(pong, now_ms));
    }

    fn in_session<T>(
        &self,
        host: HostId,
        session: SessionId,
        with: impl FnOnce(&mut Pulse, &str) -> T,
    ) -> Option<T> {
        let mut hosts = self.hosts();
        let known = hosts.get_mut(&host)?;
        let present = known.session.as_mut().filter(|present| present.id == session)?;
        Some(with(&mut present.pulse, &known.row.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_word() {
        let mut pulse = Pulse::new(1_000);
        pulse.asked = 1;
        pulse.heard_since = false;
        pulse.heard("vps1", 5_000);
        pulse.answered(Pong { seq: 1, probes: 2, orders: 1, quiet_ms: 500 }, 5_000);
        pulse.overdue("vps1");
        let liveness = pulse.to_proto();
        assert!(liveness.answering);
        assert_eq!((liveness.answering_since_ms, liveness.probes, liveness.orders), (1_000, 2, 1));
        assert_eq!(liveness.quiet_since_ms, 4_500);
        pulse.heard_since = false;
        pulse.overdue("vps1");
        let liveness = pulse.to_proto();
        assert_eq!((liveness.answering, liveness.answering_since_ms), (false, 5_000));
        pulse.heard("vps1", 9_000);
        let liveness = pulse.to_proto();
        assert_eq!((liveness.answering, liveness.answering_since_ms), (true, 9_000));
        // An answer to an older question tells nothing of now.
        pulse.asked = 2;
        pulse.answered(Pong { seq: 1, probes: 9, orders: 9, quiet_ms: 9 }, 9_000);
        assert_eq!(pulse.to_proto().probes, 2);
    }
}
