//! By what right an operation that changes this host is carried out: an operator's signed order, or the word of the
//! host's own root.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::{HostId, RunId, TaskId},
    operation::{self, Authority, Operation},
    order::{CLOCK_ALLOWANCE_MS, Challenge, Digest, Verified, digest},
    v1::{Failure, Leaf, Request},
};

use super::local::Turn;
use crate::host::{door::Root, journal, message::Outbox};

/// An order that may be carried out, once every other check is passed. It comes from a signature that was verified, or
/// from a [`Root`], and from nothing else.
pub(super) struct Warrant {
    order: TaskId,
    run: RunId,
    person: String,
    operation: &'static Operation,
    request: Request,
    timeout: Duration,
    start_by_ms: i64,
    epoch: Arc<AtomicU64>,
    digest: Digest,
    challenge: Option<Challenge>,
    here: Option<Spoke>,
}

/// What an order of the host's own root has beside others.
struct Spoke {
    remedy: String,
    output: mpsc::Sender<Outbox>,
    stacks: Arc<Stacks>,
    /// Says that whoever gave it has gone.
    gone: CancellationToken,
}

/// The stacks that one run of the host's root changes: nobody else changes them until it ends, or goes away and the last
/// of its orders has ended. With them it has its turn.
#[derive(Debug, Default)]
pub(in crate::host) struct Stacks {
    held: Mutex<HashMap<String, OwnedMutexGuard<()>>>,
    _turn: Option<Turn>,
}

impl Stacks {
    pub(super) fn of(turn: Option<Turn>) -> Self {
        Self { held: Mutex::default(), _turn: turn }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, OwnedMutexGuard<()>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An order as the host's root gives it.
pub(in crate::host) struct Spoken {
    /// The encoded `Leaf`, as the plan that a person agreed to holds it.
    pub(in crate::host) leaf: Vec<u8>,
    pub(in crate::host) run: String,
    pub(in crate::host) person: String,
    pub(in crate::host) remedy: String,
    /// The last moment at which it may start, Unix milliseconds.
    pub(in crate::host) not_after_ms: i64,
}

impl From<Verified> for Warrant {
    fn from(order: Verified) -> Self {
        Self {
            order: order.order(),
            run: order.run(),
            person: order.person().to_owned(),
            operation: order.operation(),
            timeout: order.timeout(),
            start_by_ms: order.start_by_ms(),
            epoch: Arc::new(order.epoch().into()),
            digest: *order.digest(),
            challenge: order.challenge().copied(),
            request: order.request().clone(),
            here: None,
        }
    }
}

impl Warrant {
    /// Takes the word of the host's root. What it asks for has to be as sound as what an operator signs.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn here(
        _: &Root,
        spoken: Spoken,
        host: HostId,
        incarnation: u64,
        output: mpsc::Sender<Outbox>,
        stacks: Arc<Stacks>,
        gone: CancellationToken,
    ) -> Result<Self, Failure> {
        let unsound = |why: &dyn std::fmt::Display| {
            Failure::new("order_malformed", format!("the order is not sound: {why}"))
                .hint("`vigie-agent` on this host and the agent that runs may be of two versions: restart the agent")
        };
        let leaf = Leaf::decode(spoken.leaf.as_slice()).map_err(|error| unsound(&error))?;
        if leaf.encode_to_vec() != spoken.leaf {
            return Err(unsound(&"it holds something that this agent does not know"));
        }
        if leaf.host != host.to_string() || leaf.incarnation != incarnation {
            return Err(unsound(&"it is for another host, or another enrolment of this one"));
        }
        let request = leaf.operation.ok_or_else(|| unsound(&operation::FieldError::Unknown))?;
        operation::check(&request).map_err(|error| unsound(&error))?;
        let operation = Operation::of(&request).map_err(|error| unsound(&error))?;
        let bytes = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(|_| unsound(&"its challenge is none"));
        let challenge = match (operation.authority, leaf.challenge.as_slice(), leaf.prepared.as_slice()) {
            (Authority::OrderChallenge, challenge, prepared) => {
                Some(Challenge { bytes: bytes(challenge)?, prepared: bytes(prepared)? })
            }
            (_, [], []) => None,
            _ => return Err(unsound(&"its operation needs no challenge")),
        };
        let timeout = match leaf.timeout_ms {
            0 => operation.timeout(),
            ms => Duration::from_millis(u64::from(ms)),
        };
        Ok(Self {
            order: leaf.order.parse().map_err(|error| unsound(&error))?,
            run: spoken.run.parse().map_err(|error| unsound(&error))?,
            person: spoken.person,
            operation,
            request,
            timeout,
            start_by_ms: spoken.not_after_ms.saturating_add(CLOCK_ALLOWANCE_MS),
            // Nobody else drives a run of this host's own.
            epoch: Arc::new(1.into()),
            digest: digest(&spoken.leaf),
            challenge,
            here: Some(Spoke { remedy: spoken.remedy, output, stacks, gone }),
        })
    }

    /// The order's id.
    pub(super) fn order(&self) -> TaskId {
        self.order
    }

    /// The run that it is part of.
    pub(super) fn run(&self) -> RunId {
        self.run
    }

    /// Who signed it, or said it here.
    pub(super) fn person(&self) -> &str {
        &self.person
    }

    /// What to do.
    pub(super) fn request(&self) -> &Request {
        &self.request
    }

    /// What the catalogue says of it.
    pub(super) fn operation(&self) -> &'static Operation {
        self.operation
    }

    /// How long it may run.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The last moment at which it may start, as Unix milliseconds, the clocks' allowance included.
    pub(super) fn start_by_ms(&self) -> i64 {
        self.start_by_ms
    }

    /// The highest fencing epoch that came with it: while it waits, a newer owner of its run may hand it over again.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// The same, for whoever hears of a newer owner.
    pub(super) fn shared_epoch(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.epoch)
    }

    /// SHA-256 of the leaf's bytes.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What it carries; there for exactly the operations that lose something.
    pub(super) fn challenge(&self) -> Option<&Challenge> {
        self.challenge.as_ref()
    }

    /// Whether the host's own root gave it, whom no policy bounds and no controller waits for.
    pub(super) fn is_here(&self) -> bool {
        self.here.is_some()
    }

    /// Completes once whoever gave it here has gone; never for an operator's, which its run wants for as long as it is open.
    pub(super) async fn deserted(&self) {
        match &self.here {
            Some(here) => here.gone.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Whether whoever gave it here has gone.
    pub(super) fn is_deserted(&self) -> bool {
        self.here.as_ref().is_some_and(|here| here.gone.is_cancelled())
    }

    /// What it is, for whoever has to wait for it.
    pub(super) fn words(&self) -> String {
        format!("{} by {}", self.operation.name, self.person)
    }

    /// What the journal keeps of that.
    pub(super) fn told_here(&self) -> Option<journal::Here> {
        self.here.as_ref().map(|here| journal::Here { remedy: here.remedy.clone() })
    }

    /// Where its live output goes; `network` for an operator's.
    pub(super) fn output<'a>(&'a self, network: &'a mpsc::Sender<Outbox>) -> &'a mpsc::Sender<Outbox> {
        self.here.as_ref().map_or(network, |here| &here.output)
    }

    /// Whether its run holds this stack already.
    pub(super) fn holds(&self, stack: &str) -> bool {
        self.here.as_ref().is_some_and(|here| here.stacks.held().contains_key(stack))
    }

    /// Leaves a stack with the order's run, where that is the host's own; gives it back for an operator's.
    pub(super) fn keep(&self, stack: &str, alone: OwnedMutexGuard<()>) -> Option<OwnedMutexGuard<()>> {
        let Some(here) = &self.here else { return Some(alone) };
        here.stacks.held().insert(stack.to_owned(), alone);
        None
    }
}
