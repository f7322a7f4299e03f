//! Takes what the controller asks for, decides, and has it carried out.
//!
//! Owns the loop in which every message is handled, one after the other and without waiting for anything but the
//! network half; whatever takes time runs in a task of its own and comes back as an event. Probes are bounded in number
//! and in time. Orders are believed, looked up in the journal, and carried out by [`order`].

mod chain;
mod challenges;
mod denials;
mod known;
mod live;
mod local;
mod order;
mod probe;
mod progress;
mod shared;
mod warrant;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::TaskId,
    order::{CLOCK_ALLOWANCE_MS, Refusal},
    v1::{
        Acknowledge, Execute, Failure, Finished, HostState, Leaf, Manifest, Outcome, OutcomeStatus, Prepare,
        PreparedOrder, Probe, ProbeResult, Started, ToAgent, from_agent, to_agent,
    },
};

use chain::Chain;
use challenges::{Challenges, VALID};
use denials::Denials;
use local::Ask;
pub use local::Local;
pub(in crate::host) use local::{Session, Told};
use progress::Progress;
use shared::{Event, Kept, Shared, report, until};
pub(in crate::host) use warrant::Spoken;
use warrant::Warrant;

use super::{
    clock::Clock,
    executor::Executor,
    journal::{self, Denied},
    message::{Inbox, Outbox},
    trust::Trust,
    watch::Watching,
};

/// So many probes run at once: a host in trouble has better things to do.
const PROBES: usize = 16;

/// So many more wait for their turn; the rest is told to come back.
const WAITING_PROBES: usize = 256;

/// Orders that are under way, waiting for their stack included. The journal keeps room for the end of each that runs, in
/// the segment at hand and in its reserve: that is enough for fourteen of the greatest length.
const ORDERS: usize = 12;

/// What the loop is made from.
pub struct Parts {
    pub trust: Trust,
    pub journal: journal::Handle,
    pub executor: Arc<dyn Executor>,
    pub clock: Arc<dyn Clock>,
    pub outbox: mpsc::Sender<Outbox>,
    /// The host's state as it was last found; `None` before the first look.
    pub state: watch::Receiver<Option<Arc<HostState>>>,
    pub watching: Watching,
    /// Changes with every boot of the machine.
    pub boot_id: String,
}

/// An order that this process carries out, or an earlier one began whose end is being found out.
#[derive(Debug, Clone)]
struct Underway {
    /// What it is, for whoever has to wait for it; empty for what is only being refused.
    what: String,
    /// Since when it runs, by the host's clock; `None` before.
    since_ms: Option<i64>,
    /// Says that a person ended the run.
    stop: CancellationToken,
    /// The highest epoch that it came with.
    epoch: Arc<AtomicU64>,
}

impl Underway {
    fn waiting() -> Self {
        Self { what: String::new(), since_ms: None, stop: CancellationToken::new(), epoch: Arc::default() }
    }

    fn running(since_ms: i64) -> Self {
        Self { since_ms: Some(since_ms), ..Self::waiting() }
    }
}

/// The loop's state.
pub struct Dispatch {
    trust: Trust,
    boot_id: String,
    shared: Arc<Shared>,
    events: mpsc::UnboundedReceiver<Event>,
    state: watch::Receiver<Option<Arc<HostState>>>,
    watching: Watching,
    connected: bool,
    underway: BTreeMap<TaskId, Underway>,
    /// Outcomes that could not be written to the journal.
    unsaved: BTreeMap<TaskId, (String, Outcome)>,
    /// Refusals that could not be, with the last moment at which each order could have started. And orders of ended runs
    /// that have not come yet.
    refused: BTreeMap<TaskId, (i64, Outcome)>,
    probing: JoinSet<()>,
    ordered: JoinSet<()>,
    /// Small things for the journal that nobody waits for.
    noting: JoinSet<()>,
    denials: Denials,
    challenges: Challenges,
    chain: Chain,
    progress: Progress,
    /// What the host's own root asks for, and who waits for its end.
    local: Local,
    asks: mpsc::Receiver<Ask>,
    told: BTreeMap<TaskId, mpsc::UnboundedSender<Told>>,
}

impl Dispatch {
    /// Puts the loop together. Nothing happens before [`run`](Self::run).
    pub fn new(parts: Parts) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let shared = Shared {
            journal: parts.journal,
            executor: parts.executor,
            clock: parts.clock,
            outbox: parts.outbox,
            events: sender,
            stacks: Mutex::default(),
            probes: Semaphore::new(PROBES),
        };
        let shared = Arc::new(shared);
        let (local, asks) = Local::new(Arc::clone(&shared), parts.trust.host, parts.trust.incarnation);
        Self {
            local,
            asks,
            told: BTreeMap::new(),
            trust: parts.trust,
            boot_id: parts.boot_id,
            shared,
            events,
            state: parts.state,
            watching: parts.watching,
            connected: false,
            underway: BTreeMap::new(),
            unsaved: BTreeMap::new(),
            refused: BTreeMap::new(),
            probing: JoinSet::new(),
            ordered: JoinSet::new(),
            noting: JoinSet::new(),
            denials: Denials::default(),
            challenges: Challenges::default(),
            chain: Chain::default(),
            progress: Progress::default(),
        }
    }

    /// Serves until `stop`, then lets the orders that run come to their end for as long as `patience` says. What is
    /// cut off then is in doubt at the next start.
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Inbox>,
        stop: CancellationToken,
        patience: Duration,
    ) {
        self.open().await;
        let mut stopping: Option<Instant> = None;
        while stopping.is_none() || !self.ordered.is_empty() {
            self.progress.look(self.probing.len() + self.ordered.len());
            tokio::select! {
                // What is under way before what is new: the tasks that tell anything are counted, so that the inbox has
                // its turn whatever they tell.
                biased;
                () = stop.cancelled(), if stopping.is_none() => {
                    stopping = Some(Instant::now() + patience);
                    self.probing.shutdown().await;
                    if !self.ordered.is_empty() {
                        tracing::info!(orders = self.ordered.len(), "waiting for orders to end");
                    }
                }
                () = until(stopping) => {
                    tracing::warn!(orders = self.ordered.len(), "orders are cut off and will be in doubt");
                    break;
                }
                Some(ask) = self.asks.recv() => self.asked_here(ask, stopping.is_some()),
                Some(event) = self.events.recv() => self.tell(event).await,
                Ok(()) = self.state.changed() => self.tell_state().await,
                Ok(()) = self.watching.shown.changed() => self.tell_symptoms().await,
                Some(ended) = self.probing.join_next() => self.progress.made(ended),
                Some(ended) = self.ordered.join_next() => self.progress.made(ended),
                Some(ended) = self.noting.join_next() => report(ended),
                message = inbox.recv() => match message {
                    Some(message) => self.take(message, stopping.is_some()).await,
                    None => break,
                },
            }
        }
        self.ordered.shutdown().await;
        while let Some(ended) = self.noting.join_next().await {
            report(ended);
        }
        while let Ok(event) = self.events.try_recv() {
            self.tell(event).await;
        }
    }

    async fn take(&mut self, message: Inbox, stopping: bool) {
        match message {
            Inbox::Connected => {
                self.connected = true;
                self.ask_anew();
                self.greet().await;
            }
            Inbox::Disconnected => self.connected = false,
            Inbox::Message(ToAgent { message: Some(message) }) => match message {
                to_agent::Message::Probe(probe) if !stopping => self.probe(probe).await,
                to_agent::Message::Prepare(prepare) if !stopping => self.prepare(prepare).await,
                to_agent::Message::Execute(execute) if !stopping => self.execute(&execute).await,
                to_agent::Message::Acknowledge(acknowledge) => self.acknowledge(&acknowledge),
                to_agent::Message::Cancel(cancel) => self.cancel(&cancel).await,
                to_agent::Message::Ping(ping) => self.pong(&ping).await,
                to_agent::Message::Watch(watch) => {
                    self.watching.asked.send_if_modified(|asked| {
                        let changed = *asked != watch;
                        *asked = watch;
                        changed
                    });
                    // Whoever asks anew knows nothing yet.
                    self.tell_symptoms().await;
                }
                // Asked again on the next session.
                to_agent::Message::Probe(_)
                | to_agent::Message::Execute(_)
                | to_agent::Message::Prepare(_) => {}
                to_agent::Message::Welcome(welcome) => self.compare(welcome.seen).await,
                // The network half's own business.
                to_agent::Message::Drain(_) => {}
            },
            Inbox::Message(ToAgent { message: None }) => {
                tracing::warn!(
                    "the controller sent a message that this agent does not know; a newer agent may"
                );
            }
        }
    }

    async fn probe(&mut self, probe: Probe) {
        match probe::check(&probe) {
            Err(failure) => {
                let outcome = Outcome::refused(failure);
                self.send(from_agent::Message::ProbeResult(ProbeResult {
                    task: probe.task,
                    outcome: Some(outcome),
                }))
                .await;
            }
            Ok(_) if self.probing.len() >= PROBES + WAITING_PROBES => {
                let failure =
                    Failure::new("busy", "too many probes wait on this host").hint("try again in a while");
                let outcome = Outcome::ended(OutcomeStatus::Failed, failure);
                self.send(from_agent::Message::ProbeResult(ProbeResult {
                    task: probe.task,
                    outcome: Some(outcome),
                }))
                .await;
            }
            Ok(checked) => {
                self.probing.spawn(probe::ask(Arc::clone(&self.shared), probe.task, checked));
            }
        }
    }

    /// Looks at what an order would lose. Whether it may run here at all is asked first, so that nobody is shown what
    /// they cannot do.
    async fn prepare(&mut self, prepare: Prepare) {
        let task = prepare.task.clone();
        let refusal = match probe::check_prepare(prepare) {
            Ok(_) if self.probing.len() >= PROBES + WAITING_PROBES => {
                let failure =
                    Failure::new("busy", "too many probes wait on this host").hint("try again in a while");
                Outcome::ended(OutcomeStatus::Failed, failure)
            }
            Ok(checked) => {
                self.probing.spawn(probe::preview(Arc::clone(&self.shared), task, checked));
                return;
            }
            Err(failure) => Outcome::refused(failure),
        };
        self.send_prepared(task, refusal, None).await;
    }

    async fn send_prepared(&self, task: String, outcome: Outcome, challenge: Option<[u8; 32]>) {
        let valid_ms = challenge.map_or(0, |_| u32::try_from(VALID.as_millis()).unwrap_or(u32::MAX));
        let challenge = challenge.map(Vec::from).unwrap_or_default();
        let prepared = PreparedOrder { task, outcome: Some(outcome), challenge, valid_ms };
        self.send(from_agent::Message::Prepared(prepared)).await;
    }

    async fn execute(&mut self, execute: &Execute) {
        vigie_failpoint::reached("agent.received");
        let claimed =
            Leaf::decode(execute.leaf.as_slice()).ok().and_then(|leaf| leaf.order.parse::<TaskId>().ok());
        let now_ms = self.shared.clock.now_ms();
        let verdict = self.trust.verify(execute, now_ms);
        // Only what an operator signed for this host can be the order whose id it carries. Such a one, if it is known, is
        // not run again, and its true outcome is told even when its time is over by now.
        let signed = match &verdict {
            Ok(_) => true,
            Err(refusal) => is_signed(refusal),
        };
        if let (true, Some(order)) = (signed, claimed) {
            if let Some(underway) = self.underway.get(&order) {
                // Its run has another owner by now, who wants it as well.
                underway.epoch.fetch_max(execute.epoch, Ordering::SeqCst);
            }
            if self.known(order).await {
                return;
            }
        }
        let verdict = verdict.map(Warrant::from);
        let prepared = match &verdict {
            Ok(warrant) => self.challenges.take(warrant, Instant::now()),
            Err(_) => Ok(None),
        };
        match (verdict, prepared) {
            (Ok(verified), Err(failure)) => {
                tracing::warn!(order = %verified.order(), code = failure.code, reason = failure.message, "an order is refused");
                self.underway.insert(verified.order(), Underway::waiting());
                self.noting.spawn(order::refuse(Arc::clone(&self.shared), verified, failure));
            }
            (Ok(verified), Ok(_)) if let Some(failure) = self.is_put_back() => {
                tracing::warn!(order = %verified.order(), code = failure.code, reason = failure.message, "an order is refused");
                let (order, run) = (verified.order(), verified.run().to_string());
                self.send_finished(order, run, Outcome::refused(failure)).await;
            }
            (Ok(verified), Ok(prepared)) if self.is_busy().is_none() => {
                let order = verified.order();
                tracing::info!(
                    %order, run = %verified.run(), person = verified.person(), operation = verified.operation().name,
                    "an order came"
                );
                let (what, epoch) = (verified.words(), verified.shared_epoch());
                let underway = Underway { what, epoch, ..Underway::waiting() };
                let stop = underway.stop.clone();
                self.underway.insert(order, underway);
                self.ordered.spawn(order::carry_out(Arc::clone(&self.shared), verified, prepared, stop));
            }
            (Ok(verified), Ok(_)) => {
                let failure = self.is_busy().unwrap_or_default();
                self.underway.insert(verified.order(), Underway::waiting());
                self.noting.spawn(order::refuse(Arc::clone(&self.shared), verified, failure));
            }
            (Err(refusal), _) => self.refuse(claimed, execute, &refusal, now_ms).await,
        }
    }

    /// Why no more orders are taken at this moment, naming those that are under way; nothing while there is room.
    fn is_busy(&self) -> Option<Failure> {
        if self.ordered.len() < ORDERS {
            return None;
        }
        let under_way = self.underway.values().map(|underway| underway.what.as_str());
        let under_way: Vec<_> = under_way.filter(|what| !what.is_empty()).collect();
        let message = format!("{ORDERS} orders are under way on this host already: {}", under_way.join(", "));
        Some(Failure::new("busy", message).hint("wait until some have ended"))
    }

    /// Notes a refusal and tells it. One that an operator signed for this host is final: whoever was told that it is
    /// refused can rely on it. Any other proves nothing about the order whose id it carries.
    async fn refuse(&mut self, claimed: Option<TaskId>, execute: &Execute, refusal: &Refusal, now_ms: i64) {
        let code = refusal.code();
        let claimed_text = claimed.map(|order| order.to_string()).unwrap_or_default();
        tracing::warn!(order = claimed_text, code, reason = %refusal, "an order is refused");
        let outcome = order::refused(refusal);
        if let (true, Some(order)) = (is_signed(refusal), claimed) {
            let manifest = Manifest::decode(execute.manifest.as_slice()).unwrap_or_default();
            let finished = journal::Finished {
                order: claimed_text,
                outcome: outcome.encode_to_vec(),
                run: manifest.run,
                epoch: execute.epoch,
                person: manifest.person,
                start_by_ms: manifest.not_after_ms.saturating_add(CLOCK_ALLOWANCE_MS),
            };
            self.underway.insert(order, Underway::waiting());
            let shared = Arc::clone(&self.shared);
            let until = Kept::Until(finished.start_by_ms);
            self.noting.spawn(async move { shared.finish(order, finished, outcome, until).await });
            return;
        }
        if let Some(unrecorded) = self.denials.record(now_ms) {
            let denied = Denied {
                claimed: claimed_text,
                code: code.to_owned(),
                reason: refusal.to_string(),
                unrecorded,
            };
            self.note(move |shared| async move { shared.journal.denied(denied, now_ms).await });
        }
        if let Some(order) = claimed {
            self.send_finished(order, String::new(), outcome).await;
        }
    }

    fn acknowledge(&mut self, acknowledge: &Acknowledge) {
        vigie_failpoint::reached("agent.acknowledged");
        let orders: Vec<TaskId> = acknowledge.orders.iter().filter_map(|order| order.parse().ok()).collect();
        for order in &orders {
            self.unsaved.remove(order);
        }
        let now_ms = self.shared.clock.now_ms();
        self.note(move |shared| async move { shared.journal.acknowledged(orders, now_ms).await });
    }

    /// Has something written down that nobody waits for.
    fn note<F>(&mut self, entry: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = Result<(), journal::JournalError>> + Send + 'static,
    {
        let entry = entry(Arc::clone(&self.shared));
        self.noting.spawn(async move {
            if let Err(error) = entry.await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    hint = error.hint(),
                    "not in the journal"
                );
            }
        });
    }

    /// Passes on what a task tells.
    async fn tell(&mut self, event: Event) {
        match event {
            Event::Probed(result) => self.send(from_agent::Message::ProbeResult(result)).await,
            Event::Previewed { task, run, request, mut outcome } => {
                let found = outcome.result.as_ref().filter(|_| outcome.is_success());
                let kept = found.map(|found| self.challenges.keep(run, &request, found, Instant::now()));
                let challenge = match kept {
                    Some(Ok(challenge)) => Some(challenge),
                    Some(Err(failure)) => {
                        outcome = Outcome::ended(OutcomeStatus::Failed, failure);
                        None
                    }
                    None => None,
                };
                self.send_prepared(task, outcome, challenge).await;
            }
            Event::Started { order, at_ms } => {
                self.underway.entry(order).or_insert_with(Underway::waiting).since_ms = Some(at_ms);
                if self.tell_here(order, Told::Started { order, at_ms }) {
                    return;
                }
                let started = Started { order: order.to_string(), at_ms };
                self.send(from_agent::Message::Started(started)).await;
            }
            Event::Finished { order, run, outcome, kept } => {
                self.underway.remove(&order);
                match kept {
                    Kept::Loop => drop(self.unsaved.insert(order, (run.clone(), outcome.clone()))),
                    Kept::Until(until_ms) => {
                        let now_ms = self.shared.clock.now_ms();
                        self.refused.retain(|_, (until_ms, _)| *until_ms >= now_ms);
                        self.refused.insert(order, (until_ms, outcome.clone()));
                    }
                    Kept::Journal | Kept::No => {}
                }
                let ended = Told::Ended { order, outcome: Box::new(outcome.clone()) };
                if self.end_here(order, ended) {
                    return;
                }
                self.send_finished(order, run, outcome).await;
                if kept == Kept::Journal {
                    self.tell_head().await;
                }
            }
        }
    }

    async fn tell_state(&mut self) {
        let state = self.state.borrow_and_update().as_deref().cloned();
        if let Some(state) = state {
            self.send(from_agent::Message::State(state)).await;
        }
    }

    async fn tell_symptoms(&mut self) {
        let shown = self.watching.shown.borrow_and_update().as_deref().cloned();
        if let Some(shown) = shown {
            self.send(from_agent::Message::Symptoms(shown)).await;
        }
    }

    async fn send_finished(&self, order: TaskId, run: String, outcome: Outcome) {
        let here = self.shared.journal.index().done_here(order).map(Arc::unwrap_or_clone);
        let finished = Finished { order: order.to_string(), outcome: Some(outcome), run, here };
        self.send(from_agent::Message::Finished(finished)).await;
    }

    /// Sends while there is a session; what matters is sent again on the next one.
    async fn send(&self, message: from_agent::Message) {
        if self.connected {
            // A network half that is gone ends the agent, and not this loop.
            let _ = self.shared.outbox.send(Outbox::message(message)).await;
        }
    }
}

/// Whether an operator signed what is refused, for this host: only its time or its content is wrong.
fn is_signed(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::TooEarly { .. }
            | Refusal::Expired { .. }
            | Refusal::Operation(_)
            | Refusal::ChallengeRequired
    )
}

#[cfg(test)]
mod tests;
