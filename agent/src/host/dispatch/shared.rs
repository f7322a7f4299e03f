//! What the loop and its tasks share, and what tasks tell it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};
use vigie_proto::{
    id::{RunId, TaskId},
    v1::{Outcome, ProbeResult, Request},
};

use crate::host::{clock::Clock, executor::Executor, journal, message::Outbox};

/// What tasks share with the loop.
pub(super) struct Shared {
    pub(super) journal: journal::Handle,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) outbox: mpsc::Sender<Outbox>,
    /// Unbounded, and bounded all the same: every task sends a few events, and the tasks are counted.
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// By stack: held by the order that changes it.
    pub(super) stacks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) probes: Semaphore,
}

/// What became of a task.
pub(super) enum Event {
    Probed(ProbeResult),
    Previewed { task: String, run: RunId, request: Request, outcome: Outcome },
    Started { order: TaskId, at_ms: i64 },
    Finished { order: TaskId, run: String, outcome: Outcome, kept: Kept },
}

/// Where an outcome is safe until the controller acknowledges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// In the journal.
    Journal,
    /// Nowhere, since the journal failed after the order began: the loop keeps it.
    Loop,
    /// In the loop until the order's time to start is over: it was refused, and the journal did not take that.
    Until(i64),
    /// It need not be: asking again gives it again.
    No,
}

impl Shared {
    pub(super) fn event(&self, event: Event) {
        // The loop takes events for as long as there are tasks.
        let _ = self.events.send(event);
    }

    /// The lock of a stack, which stays once it was made: there are as many as a host has stacks.
    pub(super) fn stack(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(stacks.entry(name.to_owned()).or_default())
    }

    /// Writes an end down and tells it. `otherwise` says where it is kept when the journal does not take it. What was kept
    /// of the order until then is let go of once it is not needed any more.
    pub(super) async fn finish(
        &self,
        order: TaskId,
        finished: journal::Finished,
        outcome: Outcome,
        otherwise: Kept,
    ) {
        let run = finished.run.clone();
        let kept = match self.journal.finished(order, finished, self.clock.now_ms()).await {
            Ok(()) => {
                vigie_failpoint::reached("agent.finished");
                self.executor.forget(order);
                Kept::Journal
            }
            Err(error) => {
                tracing::error!(%order, error = &error as &dyn std::error::Error, hint = error.hint(), "an end is not in the journal");
                otherwise
            }
        };
        self.event(Event::Finished { order, run, outcome, kept });
    }
}

/// Says of a task that it died.
pub(super) fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(error = &error as &dyn std::error::Error, "a task died");
    }
}

/// Completes at this moment; never without one.
pub(super) async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
