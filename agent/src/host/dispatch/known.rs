//! Orders that were seen before: by this process, by an earlier one, or as something that a person no longer wants.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::TaskId,
    v1::{Cancel, Hello, Outcome, Started, from_agent},
};

use super::{Dispatch, Event, Kept, Shared, Underway, order};
use crate::{
    host::journal::{self, Standing},
    operations::witness::Witness,
};

/// What is said of an order whose end nobody saw.
const INTERRUPTED: &str = "the agent ended while the order ran";

/// How long what could tell of an order is waited for, from the agent's start on: after a reboot Docker and the databases
/// take their time. And the pause between two looks.
const PATIENCE: Duration = Duration::from_secs(120);
const AGAIN: Duration = Duration::from_secs(3);

/// An order of an ended run that has not come yet is not taken for so long, in milliseconds: no order's time to start is
/// longer.
const WITHDRAWN_MS: i64 = 24 * 3600 * 1000;

/// So many of those are remembered.
const WITHDRAWN: usize = 1024;

impl Dispatch {
    /// Finds out what became of the orders that had begun when the agent last ended. They are never run again.
    pub(super) async fn open(&mut self) {
        let opened = journal::Opened {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            incarnation: self.trust.incarnation,
        };
        let now_ms = self.shared.clock.now_ms();
        if let Err(error) = self.shared.journal.opened(opened, now_ms).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                hint = error.hint(),
                "orders will be refused"
            );
        }
        self.tidy();
        let begun: Vec<_> = self.shared.journal.index().started().collect();
        for order in begun {
            let (begun, at_ms) = match (
                self.shared.journal.begun(order).await,
                self.shared.journal.standing(order),
            ) {
                (Ok(Some(begun)), Some(Standing::Started { at_ms, .. })) => (begun, at_ms),
                (Err(error), _) => {
                    tracing::error!(%order, error = &error as &dyn std::error::Error, "how an order began cannot be read");
                    (journal::Started { order: order.to_string(), ..Default::default() }, now_ms)
                }
                _ => continue,
            };
            tracing::warn!(%order, "an order had begun when the agent ended: finding out what became of it");
            let operation = begun.request.as_ref().and_then(|request| request.operation.as_ref());
            let operation = operation.map_or("an order", |operation| operation.name());
            let what = format!("{operation} by {}", begun.person);
            let underway = Underway { what, ..Underway::running(at_ms) };
            let stop = underway.stop.clone();
            self.underway.insert(order, underway);
            // Nobody else is on the stack before this loop takes its first order.
            let alone =
                self.shared.stack(&begun.stack).try_lock_owned().ok().filter(|_| !begun.stack.is_empty());
            self.ordered.spawn(find_out(Arc::clone(&self.shared), order, begun, at_ms, stop, alone));
        }
    }

    /// Lets go of what an earlier agent kept of orders whose end it wrote down, and died before it could.
    fn tidy(&self) {
        for order in self.shared.executor.kept() {
            let standing = self.shared.journal.standing(order);
            if matches!(standing, Some(Standing::Finished { .. } | Standing::Acknowledged { .. })) {
                self.shared.executor.forget(order);
            }
        }
    }

    /// Says Hello, then every outcome that the controller has not acknowledged.
    pub(super) async fn greet(&mut self) {
        let (mut outcomes, audit_head) = {
            let index = self.shared.journal.index();
            let outcomes: BTreeMap<_, _> = index
                .unacknowledged()
                .filter_map(|(order, outcome, run)| Some((order, (run, Outcome::decode(&outcome[..]).ok()?))))
                .collect();
            (outcomes, index.audit_head())
        };
        outcomes.extend(self.unsaved.iter().map(|(order, ended)| (*order, ended.clone())));
        let running = self.underway.iter().filter(|(_, underway)| underway.since_ms.is_some());
        let hello = Hello {
            incarnation: self.trust.incarnation,
            boot_id: self.boot_id.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            audit_head: Some(audit_head),
            unacknowledged: outcomes.keys().map(ToString::to_string).collect(),
            running: running.map(|(order, _)| order.to_string()).collect(),
            state: self.state.borrow_and_update().as_deref().cloned(),
        };
        self.send(from_agent::Message::Hello(hello)).await;
        for (order, (run, outcome)) in outcomes {
            self.send_finished(order, run, outcome).await;
        }
    }

    /// Answers for an order that was seen before.
    pub(super) async fn known(&mut self, order: TaskId) -> bool {
        if let Some(underway) = self.underway.get(&order) {
            if let Some(at_ms) = underway.since_ms {
                let started = Started { order: order.to_string(), at_ms };
                self.send(from_agent::Message::Started(started)).await;
            }
            return true;
        }
        if let Some((run, outcome)) = self.unsaved.get(&order).cloned() {
            self.send_finished(order, run, outcome).await;
            return true;
        }
        if let Some((until_ms, outcome)) = self.refused.get(&order)
            && *until_ms >= self.shared.clock.now_ms()
        {
            self.send_finished(order, String::new(), outcome.clone()).await;
            return true;
        }
        match self.shared.journal.standing(order) {
            None => false,
            Some(Standing::Started { at_ms, .. }) => {
                // It ran in this process and its end is on its way, or could not be written down.
                let started = Started { order: order.to_string(), at_ms };
                self.send(from_agent::Message::Started(started)).await;
                true
            }
            Some(Standing::Finished { outcome, .. }) => {
                let run = self.shared.journal.index().run(order);
                if let Ok(outcome) = Outcome::decode(&outcome[..]) {
                    self.send_finished(order, run, outcome).await;
                }
                true
            }
            Some(Standing::Acknowledged { .. }) => {
                let shared = Arc::clone(&self.shared);
                self.noting.spawn(async move {
                    let run = shared.journal.index().run(order);
                    match shared.journal.outcome(order).await {
                        Ok(Some(outcome)) => shared.event(Event::Finished { order, run, outcome, kept: Kept::No }),
                        Ok(None) => tracing::warn!(%order, "the outcome of an order is not in the journal any more"),
                        Err(error) => {
                            tracing::error!(%order, error = &error as &dyn std::error::Error, "an outcome cannot be read");
                        }
                    }
                });
                true
            }
        }
    }

    /// Ends what can still be ended: an order that waits, or that has not come yet, never begins; one that runs is stopped
    /// where it can be. One that has ended is told again.
    pub(super) async fn cancel(&mut self, cancel: &Cancel) {
        let Ok(order) = cancel.order.parse::<TaskId>() else {
            tracing::warn!("a withdrawal names no order");
            return;
        };
        if let Some(underway) = self.underway.get(&order) {
            tracing::info!(%order, "a person ended the run of an order that is under way");
            underway.stop.cancel();
            return;
        }
        if self.known(order).await {
            return;
        }
        if self.refused.len() >= WITHDRAWN {
            tracing::warn!(%order, "too many orders are withdrawn that have not come");
            return;
        }
        let outcome = order::cancelled();
        let until_ms = self.shared.clock.now_ms().saturating_add(WITHDRAWN_MS);
        self.refused.insert(order, (until_ms, outcome.clone()));
        self.send_finished(order, String::new(), outcome).await;
    }
}

/// Looks what became of an order, for as long as what could tell does not answer, and writes it down.
async fn find_out(
    shared: Arc<Shared>,
    order: TaskId,
    begun: journal::Started,
    at_ms: i64,
    stop: CancellationToken,
    _alone: Option<OwnedMutexGuard<()>>,
) {
    let until = Instant::now() + PATIENCE;
    let witness = loop {
        let (executor, started, stop) = (Arc::clone(&shared.executor), begun.clone(), stop.clone());
        // A look that dies is none, and no end of the loop that waits for it.
        let look = tokio::spawn(async move { executor.look_back(order, &started, at_ms, stop).await });
        let seen = look.await.unwrap_or_else(|error| {
            tracing::error!(%order, error = &error as &dyn std::error::Error, "a look at an order died");
            Witness::Unknown("the look at it died inside the agent".to_owned())
        });
        match seen {
            Witness::Silent(why) if Instant::now() < until => {
                tracing::debug!(%order, why, "what could tell of an order does not answer yet");
                sleep(AGAIN).await;
            }
            seen => break seen,
        }
    };
    let outcome = witness.outcome(INTERRUPTED, begun.here.is_some());
    tracing::warn!(%order, status = outcome.status().word(), found = outcome.found, "what became of an order");
    let finished = journal::Finished {
        order: order.to_string(),
        outcome: outcome.encode_to_vec(),
        run: begun.run,
        epoch: begun.epoch,
        person: begun.person,
        start_by_ms: begun.start_by_ms,
    };
    shared.finish(order, finished, outcome, Kept::Loop).await;
}
