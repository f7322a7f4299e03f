//! The life of one order, from the moment at which its signature was believed: fenced, in time, allowed, alone on its
//! stack, written down as begun, run, written down as ended.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{sync::OwnedMutexGuard, time::Instant};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    order::Refusal,
    v1::{self, Failure, Outcome, OutcomeStatus},
};

use super::{
    Event, Kept, Shared,
    challenges::{self, Prepared},
    live::Live,
    probe,
    warrant::Warrant,
};
use crate::{
    host::{
        executor::{Ordered, Permitted},
        journal::{Finished, JournalError, Started},
    },
    operations::witness,
};

/// What a preparation found is written down with the order's start up to this size.
const LONGEST_PREPARED: usize = 64 * 1024;

/// Why an order does not begin.
enum Stop {
    /// For good: this is its end.
    Final(Box<Outcome>),
    /// For now, or for whoever sent it; the journal knows nothing of it.
    Passing(Failure, Kept),
}

/// Carries an order out and tells how it ended.
pub(super) async fn carry_out(
    shared: Arc<Shared>,
    order: Warrant,
    prepared: Option<Prepared>,
    stop: CancellationToken,
) {
    match begin(&shared, &order, prepared.as_ref(), &stop).await {
        Ok((permitted, since_ms, _alone)) => {
            shared.event(Event::Started { order: order.order(), at_ms: since_ms });
            let outcome = run(&shared, &order, permitted, prepared, stop).await;
            vigie_failpoint::reached("agent.done");
            tracing::info!(order = %order.order(), status = outcome.status().word(), "an order ended");
            finish(&shared, &order, outcome, Kept::Loop).await;
        }
        Err(Stop::Final(outcome)) => {
            let failure = outcome.failure.clone().unwrap_or_default();
            tracing::warn!(order = %order.order(), code = failure.code, reason = failure.message, "an order is refused");
            if order.is_here() && shared.journal.standing(order.order()).is_none() {
                // Whoever gave it is told here and now, and nothing happened that anybody else has to hear of.
                let (order, run) = (order.order(), order.run().to_string());
                shared.event(Event::Finished { order, run, outcome: *outcome, kept: Kept::No });
                return;
            }
            let until = Kept::Until(order.start_by_ms());
            finish(&shared, &order, *outcome, until).await;
        }
        Err(Stop::Passing(failure, kept)) => {
            tracing::warn!(order = %order.order(), code = failure.code, reason = failure.message, "an order is refused");
            let (order, run) = (order.order(), order.run().to_string());
            shared.event(Event::Finished { order, run, outcome: Outcome::refused(failure), kept });
        }
    }
}

/// Every check that is left, then the record that the order begins. What is returned last keeps others off its stack.
async fn begin(
    shared: &Shared,
    order: &Warrant,
    prepared: Option<&Prepared>,
    stop: &CancellationToken,
) -> Result<(Permitted, i64, Option<OwnedMutexGuard<()>>), Stop> {
    let highest = shared.journal.epoch(order.run());
    if order.epoch() < highest {
        return Err(not_begun(order, &JournalError::Fenced { epoch: order.epoch(), highest }));
    }
    in_time(shared, order)?;
    let permits = async || {
        let operation = order.request().operation.as_ref();
        let operation =
            operation.ok_or_else(|| Failure::new("invalid_request", "the order asks for nothing"))?;
        match order.is_here() {
            true => shared.executor.permits_root(operation).await,
            false => shared.executor.permits(operation).await,
        }
    };
    let mut permitted = permits().await.map_err(refused_here)?;
    let mut alone = None;
    if let Some(name) = permitted.exclusive.clone().filter(|name| !order.holds(name)) {
        let stack = shared.stack(&name);
        alone = Arc::clone(&stack).try_lock_owned().ok();
        if alone.is_none() {
            tracing::info!(order = %order.order(), "an order waits for another one on the same stack");
            let left_ms =
                u64::try_from(order.start_by_ms().saturating_sub(shared.clock.now_ms())).unwrap_or(0);
            // When the time is up, the check below says so.
            alone = tokio::select! {
                biased;
                waited = tokio::time::timeout(Duration::from_millis(left_ms), stack.lock_owned()) => waited.ok(),
                () = stop.cancelled() => return Err(withdrawn()),
                () = order.deserted() => return Err(deserted()),
            };
            in_time(shared, order)?;
            if alone.is_none() {
                return Err(expired(order, shared.clock.now_ms()));
            }
            // The policy may be another one by now.
            permitted = permits().await.map_err(refused_here)?;
        }
        alone = alone.and_then(|alone| order.keep(&name, alone));
    }
    in_time(shared, order)?;
    if prepared.is_some_and(|prepared| Instant::now() >= prepared.expires) {
        return Err(refused_here(challenges::expired()));
    }
    if stop.is_cancelled() {
        return Err(withdrawn());
    }
    if order.is_deserted() {
        return Err(deserted());
    }
    let since_ms = shared.clock.now_ms();
    let started = Started {
        order: order.order().to_string(),
        run: order.run().to_string(),
        epoch: order.epoch(),
        person: order.person().to_owned(),
        digest: order.digest().to_vec(),
        request: Some(order.request().clone()),
        start_by_ms: order.start_by_ms(),
        stack: permitted.exclusive.clone().unwrap_or_default(),
        prepared: prepared.map(witnessed).unwrap_or_default(),
        here: order.told_here(),
    };
    if let Err(error) = shared.journal.started(order.order(), started, since_ms).await {
        return Err(not_begun(order, &error));
    }
    vigie_failpoint::reached("agent.started");
    // A slow disk delays a start, and never makes it a late one, or one that nobody waits for.
    in_time(shared, order)?;
    if order.is_deserted() {
        return Err(deserted());
    }
    Ok((permitted, since_ms, alone))
}

/// The journal does not let it begin. It is not written down: the order may come again and again, and a journal that
/// fails takes nothing anyway.
fn not_begun(order: &Warrant, error: &JournalError) -> Stop {
    let failure = Failure::new(error.code(), error).hint(error.hint());
    match error {
        JournalError::Fenced { .. } | JournalError::Known(_) => Stop::Passing(failure, Kept::No),
        // Whoever was told that it is refused can rely on it, also when the journal works again.
        _ => Stop::Passing(failure, Kept::Until(order.start_by_ms())),
    }
}

fn in_time(shared: &Shared, order: &Warrant) -> Result<(), Stop> {
    let now_ms = shared.clock.now_ms();
    if now_ms > order.start_by_ms() { Err(expired(order, now_ms)) } else { Ok(()) }
}

/// What a preparation found, for whoever has to find out later what became of it.
fn witnessed(prepared: &Prepared) -> Vec<u8> {
    let result = v1::Result { operation: Some(prepared.result.clone()) };
    if result.encoded_len() > LONGEST_PREPARED { Vec::new() } else { result.encode_to_vec() }
}

async fn run(
    shared: &Shared,
    order: &Warrant,
    permitted: Permitted,
    prepared: Option<Prepared>,
    stop: CancellationToken,
) -> Outcome {
    let output = order.output(&shared.outbox).clone();
    let live = Arc::new(Live::new(order.order(), shared.executor.secrets(), output));
    let deadline = Instant::now() + order.timeout();
    let ordered = Ordered { order: order.order(), prepared: prepared.map(|prepared| prepared.result), stop };
    let ran = probe::run(shared, permitted.operation, deadline, Arc::clone(&live) as _, Some(ordered)).await;
    live.finish();
    // It began, and what it had done when it was cut off is not known.
    let mut outcome = ran.unwrap_or_else(|failure| {
        Outcome::ended(OutcomeStatus::InDoubt, Failure { hint: String::new(), ..failure })
    });
    if let (OutcomeStatus::InDoubt, Some(failure)) = (outcome.status(), &mut outcome.failure)
        && failure.hint.is_empty()
    {
        witness::ask(order.is_here()).clone_into(&mut failure.hint);
    }
    outcome
}

/// Refuses an order that was believed, for good.
pub(super) async fn refuse(shared: Arc<Shared>, order: Warrant, failure: Failure) {
    let until = Kept::Until(order.start_by_ms());
    finish(&shared, &order, Outcome::refused(failure), until).await;
}

async fn finish(shared: &Shared, order: &Warrant, outcome: Outcome, otherwise: Kept) {
    let finished = Finished {
        order: order.order().to_string(),
        outcome: outcome.encode_to_vec(),
        run: order.run().to_string(),
        epoch: order.epoch(),
        person: order.person().to_owned(),
        start_by_ms: order.start_by_ms(),
    };
    shared.finish(order.order(), finished, outcome, otherwise).await;
}

/// A person ended the run before it began.
fn withdrawn() -> Stop {
    Stop::Final(Box::new(cancelled()))
}

/// What an order is told that will not begin any more, since a person ended its run.
pub(super) fn cancelled() -> Outcome {
    let failure = Failure::new("withdrawn", "the run was ended before the order began, and it never will")
        .hint("order it again if it is still wanted");
    Outcome::ended(OutcomeStatus::Cancelled, failure)
}

/// Whoever gave it on this host went away before it began: nobody sees any more what it would do.
fn deserted() -> Stop {
    let message = "whoever gave the order on this host went away before it began, and it never will";
    let failure = Failure::new("deserted", message).hint("give it again if it is still wanted");
    Stop::Final(Box::new(Outcome::ended(OutcomeStatus::Cancelled, failure)))
}

fn expired(order: &Warrant, now_ms: i64) -> Stop {
    let not_after_ms = order.start_by_ms();
    Stop::Final(Box::new(refused(&Refusal::Expired { not_after_ms, now_ms })))
}

fn refused_here(failure: Failure) -> Stop {
    Stop::Final(Box::new(Outcome::refused(failure)))
}

/// What an order is told that is not believed, or that comes too late.
pub(super) fn refused(refusal: &Refusal) -> Outcome {
    let (status, hint) = match refusal {
        Refusal::Expired { .. } => (
            OutcomeStatus::Expired,
            "order it again if it is still wanted; if the times are far apart, look at the clocks",
        ),
        Refusal::TooEarly { .. } => {
            (OutcomeStatus::Refused, "set the clocks of this host and of the operator's machine")
        }
        Refusal::UnknownKey | Refusal::WrongPerson { .. } => (
            OutcomeStatus::Refused,
            "sign with a key that is in the trust list which this host was enrolled with",
        ),
        Refusal::WrongIncarnation { .. } => {
            (OutcomeStatus::Refused, "the host was enrolled anew meanwhile: order it again")
        }
        Refusal::ChallengeRequired => (
            OutcomeStatus::Refused,
            "open a run with a newer vigiectl: it shows what would be lost, and asks",
        ),
        Refusal::Operation(_) => {
            (OutcomeStatus::Refused, "correct the request; a newer agent may know more operations")
        }
        Refusal::Malformed(_) | Refusal::TooLarge | Refusal::Id(_) => (
            OutcomeStatus::Refused,
            "the program that made it may be newer than this agent: install a newer agent",
        ),
        Refusal::SignatureRequired
        | Refusal::BadSignature
        | Refusal::NotInBatch
        | Refusal::WrongTarget(_) => (
            OutcomeStatus::Refused,
            "the controller sent what no operator signed for this host: find out why",
        ),
    };
    Outcome::ended(status, Failure::new(refusal.code(), refusal).hint(hint))
}
