//! What agents say that no driver waits for: outcomes that come after their run was closed, or that no run here knows.
//!
//! It is written down in tasks beside the sessions that it came in, one for each order: a store that does not take it must
//! not hold up what else a host says. Until it is written, the agent keeps it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use vigie_proto::{
    id::{HostId, RunId, TaskId},
    v1::Outcome,
};
use vigie_runbook::run::Input;

use super::{Runs, driver::Live, turn::Turn};
use crate::{
    audit::{Intent, Kind},
    error::RunsError,
    store::Claim,
};

/// When to try again what the store did not take.
const AGAIN: Duration = Duration::from_millis(500);

/// Outcomes that wait to be written down: a fleet's of some hours fit. No host has all the places.
const WAITING: usize = 1024;
const OF_A_HOST: usize = 128;

/// Those that are written down at once: many of one run would only overtake one another.
const AT_ONCE: usize = 16;

/// An order's end that no driver took.
pub(super) struct Late {
    pub(super) host: HostId,
    pub(super) order: TaskId,
    /// As far as its agent knows.
    pub(super) run: String,
    pub(super) outcome: Outcome,
}

/// The orders of which something is being written down, each as its host tells it.
#[derive(Debug)]
pub(super) struct Beside {
    orders: Mutex<HashSet<(HostId, TaskId)>>,
    turns: Arc<Semaphore>,
}

impl Default for Beside {
    fn default() -> Self {
        Self { orders: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Beside {
    fn with<T>(&self, with: impl FnOnce(&mut HashSet<(HostId, TaskId)>) -> T) -> T {
        with(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// False when there is no place left, or when the order has one.
    fn take(&self, host: HostId, order: TaskId) -> bool {
        self.with(|orders| {
            let of_host = orders.iter().filter(|(of, _)| *of == host).count();
            orders.len() < WAITING && of_host < OF_A_HOST && orders.insert((host, order))
        })
    }
}

/// Held while a task writes something about an order. It is given back before the agent is told to forget the order: what is
/// told again after that is written again.
pub(crate) struct Place(Runs, HostId, TaskId);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.beside.with(|orders| orders.remove(&(self.1, self.2)));
    }
}

impl Runs {
    /// Works beside the session that an order's end came in, unless that is under way already. What is too much is left
    /// with its agent, which tells it again in its next session.
    pub(crate) fn beside<F>(&self, host: HostId, order: TaskId, work: impl FnOnce(Place) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.0.beside.take(host, order) {
            tracing::debug!(%host, %order, "an outcome is being written down already, or is left with its agent");
            return;
        }
        let (turns, stop) = (Arc::clone(&self.0.beside.turns), self.0.stop.clone());
        let work = work(Place(self.clone(), host, order));
        let in_turn = async move {
            // The semaphore is never closed.
            if let Some(Ok(_turn)) = stop.run_until_cancelled(turns.acquire_owned()).await {
                work.await;
            }
        };
        self.0.tasks.spawn(in_turn.in_current_span());
    }

    /// Is cancelled when the controller stops.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Tries until the store takes it. `None` when the controller stops before, or when trying again does not help.
    pub(super) async fn until_kept<T, F>(
        &self,
        host: HostId,
        order: TaskId,
        attempt: impl Fn() -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<T, RunsError>>,
    {
        let mut said = false;
        loop {
            let error = match attempt().await {
                Ok(kept) => return Some(kept),
                Err(error) => error,
            };
            // Once, and not at each try: the log may be on the same full disk.
            if !std::mem::replace(&mut said, true) {
                tracing::error!(%host, %order, error = &error as &dyn std::error::Error, "what a host told is not written down");
            }
            if !matches!(&error, RunsError::Store(error) if !error.is_damage()) {
                return None;
            }
            tokio::select! {
                biased;
                () = self.0.stop.cancelled() => return None,
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Takes an order's end that no driver took.
    pub(super) fn take_late(&self, late: Late) {
        let runs = self.clone();
        self.beside(late.host, late.order, |place| async move { runs.late(late, place).await });
    }

    /// The same of a run whose driver has ended. An outcome of a run that is still open comes again when somebody drives it.
    pub(super) fn take_after(&self, run: RunId, late: Late) {
        let runs = self.clone();
        self.beside(late.host, late.order, |place| async move {
            let closed = || async { Ok(runs.0.store.closed_run(run).await?.is_some()) };
            if runs.until_kept(late.host, late.order, closed).await == Some(true) {
                while runs.is_live(run) {
                    sleep(AGAIN).await;
                }
                runs.late(late, place).await;
            }
        });
    }

    /// Once it is written down, the agent may forget it. It may not while a run is open that nobody drives: the outcome
    /// could be that run's.
    async fn late(&self, late: Late, place: Place) {
        let Late { host, order, .. } = late;
        if self.0.abandoned.load(std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!(%host, %order, "an outcome is left with its agent, since an open run is not driven");
            return;
        }
        if self.until_kept(host, order, || self.write_late(&late)).await != Some(true) {
            return;
        }
        drop(place);
        let inputs = late.run.parse().ok().and_then(|run| self.live().get(&run).map(Live::inputs));
        if let Some(inputs) = inputs {
            let input = Input::Stray { host, order, outcome: late.outcome };
            // It acknowledges what it has in its log.
            if inputs.send(Turn::report(host, order, input)).await.is_ok() {
                return;
            }
        }
        self.0.fleet.acknowledge(host, vec![order.to_string()]);
    }

    /// Writes an outcome into the log of its run, where that is closed and has the order, and into the audit. False when it
    /// is left with its agent.
    async fn write_late(&self, late: &Late) -> Result<bool, RunsError> {
        let Late { host, order, run, outcome } = late;
        let run = run.parse::<RunId>().ok();
        let known = match run {
            Some(run) => self.0.store.run(run).await?.map(|summary| (run, summary.closed_at_ms > 0)),
            None => None,
        };
        let came = match known {
            None => "an outcome came of a run that is not known here",
            Some((run, true)) if self.hear_late(*host, *order, run, outcome).await? => {
                "an outcome came after its run was closed"
            }
            Some((_, true)) => {
                "an outcome came after its run was closed, of an order that the run does not have"
            }
            // A driver that is about to end may have had it; it is told again when somebody drives the run.
            Some((run, false)) if !self.is_live(run) => return Ok(false),
            Some((_, false)) => "an outcome came of an order that its run does not have",
        };
        let code = outcome.failure.as_ref().map_or("", |failure| failure.code.as_str());
        let code: String = code.chars().take(64).collect();
        let detail = format!("{came}: {} {code}; host {host}", outcome.status().word());
        let intent = Intent::own("late-report", &order.to_string(), &detail).claiming(Claim::Observing);
        self.0.audit.write(&intent, Kind::Done).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_host_has_all_the_places_and_no_order_two() {
        let beside = Beside::default();
        let (greedy, other, order) = (HostId::new(), HostId::new(), TaskId::new());
        assert!(beside.take(other, order));
        assert!(!beside.take(other, order), "it is under way");
        let taken = (0..WAITING).filter(|_| beside.take(greedy, TaskId::new())).count();
        assert_eq!(taken, OF_A_HOST);
        assert!(beside.take(other, TaskId::new()));
        let hosts = std::iter::repeat_with(HostId::new).take(WAITING);
        assert!(hosts.filter(|host| beside.take(*host, TaskId::new())).count() < WAITING, "there is an end");
    }
}
