//! What this agent found when orders were prepared that lose something, and the challenge that it gave out for each.
//!
//! Owned by the dispatch's loop, in memory alone: after a restart every order is prepared anew. Each is good once, for a
//! few minutes of the machine's own monotonic time, for exactly the operation, run and findings that it was given for.

use std::time::Duration;

use prost::Message as _;
use tokio::time::Instant;
use vigie_proto::{
    id::RunId,
    order::{Digest, digest},
    v1::{self, Failure, Request, result},
};

use super::warrant::Warrant;

/// How long a challenge is good: time to read what would be lost, and to agree to it.
pub(super) const VALID: Duration = Duration::from_secs(300);

/// So many are kept; the oldest makes way. A controller that asks for more takes only its own operators' away.
const MOST: usize = 64;

/// What an order of this kind may act on, until when it may begin.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) result: result::Operation,
    pub(super) expires: Instant,
}

/// Every challenge that was given out and not used.
#[derive(Debug, Default)]
pub(super) struct Challenges(Vec<Kept>);

#[derive(Debug)]
struct Kept {
    bytes: [u8; 32],
    run: RunId,
    /// As encoded, so that no field is passed over.
    request: Vec<u8>,
    found: Digest,
    result: result::Operation,
    expires: Instant,
}

impl Challenges {
    /// Keeps what a preview found, and gives the challenge for it.
    ///
    /// # Errors
    /// When the system has no randomness to give, or the preview found nothing.
    pub(super) fn keep(
        &mut self,
        run: RunId,
        request: &Request,
        found: &v1::Result,
        now: Instant,
    ) -> Result<[u8; 32], Failure> {
        let result = found.operation.clone();
        let result = result.ok_or_else(|| Failure::new("internal", "the preview has no result"))?;
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            Failure::new("internal", format!("this host has no randomness to give: {error}"))
        })?;
        // What is over stays as long as there is room, so that its order is told why it is refused.
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(Kept {
            bytes,
            run,
            request: request.encode_to_vec(),
            found: digest(&found.encode_to_vec()),
            result,
            expires: now + VALID,
        });
        Ok(bytes)
    }

    /// Takes what an order was prepared with: once, in time, and for exactly this. `None` for an order that needs none.
    ///
    /// # Errors
    /// Why the challenge is not good for it. It is used up all the same.
    pub(super) fn take(&mut self, order: &Warrant, now: Instant) -> Result<Option<Prepared>, Failure> {
        let Some(challenge) = order.challenge() else { return Ok(None) };
        let again = "open a new run: it looks anew, shows what it finds, and asks";
        let Some(place) = self.0.iter().position(|kept| kept.bytes == challenge.bytes) else {
            let message =
                "this agent gave out no such challenge, or it was used, or the agent was restarted since";
            return Err(Failure::new("challenge_unknown", message).hint(again));
        };
        let kept = self.0.remove(place);
        if now >= kept.expires {
            return Err(expired());
        }
        let same = kept.run == order.run()
            && kept.request == order.request().encode_to_vec()
            && kept.found == challenge.prepared;
        if !same {
            let message = "the order is for something else than what its challenge was given for";
            return Err(Failure::new("challenge_mismatch", message).hint(again));
        }
        Ok(Some(Prepared { result: kept.result, expires: kept.expires }))
    }
}

/// The refusal of an order whose challenge is too old.
pub(super) fn expired() -> Failure {
    let message = format!("what it was prepared with is older than {} s", VALID.as_secs());
    Failure::new("challenge_expired", message)
        .hint("open a new run: it looks anew, shows what it finds, and asks")
}
