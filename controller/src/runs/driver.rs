//! One run's loop: inputs become events, events are committed, and then the world is asked for what the run wants.
//!
//! Nothing is sent, shown or acknowledged before the events that lead to it are in the store. What was sent in a host's
//! present session is not sent again there; in its next session whatever is still wanted is. All else is the state
//! machine's: a driver that is stopped anywhere is continued by the next one.

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{broadcast, mpsc},
    task::JoinError,
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use vigie_proto::{
    id::{HostId, RunId, TaskId},
    v1::{
        Cancel, Outcome, OutcomeStatus, OutputChunk, Prepare, Probe, ProbePurpose, Request, RunEvent,
        to_agent,
    },
};
use vigie_runbook::{
    Vantage,
    run::{
        Challenge, Decision, Effect, FreshIds, Input, ProbeKey, Rejected, State, Surroundings, decide, wanted,
    },
};

use super::{
    Evaluation, claim,
    late::Late,
    outside,
    routes::{Route, Routes, name, preview_name},
    stacks::Stacks,
    turn::{Owed, Turn, answer, refuse},
};
use crate::{
    clock::Clock,
    fleet::{Fleet, SendError, SessionId},
    store::{Claim, Mandate, RemedyTried, Store, StoreError},
};

/// Inputs that wait for the driver; behind that, agents' sessions are held back.
const INPUTS: usize = 1024;

/// Inputs that share a transaction: a fleet's answers come in a burst, and each commit costs a sync of the disk.
const BATCH: usize = 256;

/// Events that a slow watcher may fall behind by; it then reads the store again.
const EVENTS: usize = 1024;

/// Pieces of output that a slow watcher may fall behind by; it then misses some. A piece has at most 64 KiB or so.
const OUTPUTS: usize = 64;

/// When to try again what the store or a full queue did not take.
const AGAIN: Duration = Duration::from_millis(500);

/// When to look at a run again whose rules panicked.
const AFTER_PANIC_MS: i64 = 10_000;

/// The ends of a driver that others hold.
#[derive(Clone)]
pub(super) struct Live {
    inputs: mpsc::Sender<Turn>,
    events: broadcast::Sender<Arc<RunEvent>>,
    outputs: broadcast::Sender<Arc<OutputChunk>>,
}

impl Live {
    pub(super) fn new() -> (Self, mpsc::Receiver<Turn>) {
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let (events, _) = broadcast::channel(EVENTS);
        let (outputs, _) = broadcast::channel(OUTPUTS);
        (Self { inputs, events, outputs }, receiver)
    }

    pub(super) fn inputs(&self) -> mpsc::Sender<Turn> {
        self.inputs.clone()
    }

    pub(super) fn subscribe(
        &self,
    ) -> (broadcast::Receiver<Arc<RunEvent>>, broadcast::Receiver<Arc<OutputChunk>>) {
        (self.events.subscribe(), self.outputs.subscribe())
    }

    pub(super) fn show(&self, chunk: OutputChunk) {
        // Nobody may be watching.
        let _ = self.outputs.send(Arc::new(chunk));
    }
}

/// A probe on its way.
struct Asked {
    task: TaskId,
    by: By,
}

/// Who was asked.
enum By {
    /// An agent, in this session.
    Agent(HostId, SessionId),
    /// This controller, as long as somebody wants to know.
    Ourselves { _task: AbortOnDropHandle<()> },
}

/// What drivers share.
pub(super) struct Around {
    pub(super) store: Arc<dyn Store>,
    pub(super) fleet: Fleet,
    pub(super) routes: Routes,
    pub(super) stacks: Stacks,
    pub(super) evaluation: Evaluation,
    pub(super) stop: CancellationToken,
}

/// One run's driver.
pub(super) struct Driver {
    mandate: Mandate,
    state: Arc<State>,
    live: Live,
    store: Arc<dyn Store>,
    fleet: Fleet,
    routes: Routes,
    stacks: Stacks,
    clock: Arc<dyn Clock>,
    evaluation: Evaluation,
    stop: CancellationToken,
    /// The probes on their way, each in the session that it was sent in.
    asked: HashMap<ProbeKey, Asked>,
    /// The orders that were handed over, each in its latest session.
    handed: HashMap<TaskId, SessionId>,
    /// The orders that were withdrawn, each in its latest session.
    withdrawn: HashMap<TaskId, SessionId>,
    /// The plan whose orders have their routes, by its event.
    routed: u64,
    /// When to come back without being called.
    wake_at_ms: Option<i64>,
    /// What the store did not take: it is decided on anew, with whatever has come and gone since.
    unkept: Vec<Turn>,
    /// When to try that again. Set as long as what the run was to do next could not be kept.
    again_at: Option<Instant>,
}

impl Driver {
    pub(super) fn new(mandate: Mandate, state: State, live: Live, around: Around) -> Self {
        let Around { store, fleet, routes, stacks, evaluation, stop } = around;
        Self {
            mandate,
            state: Arc::new(state),
            live,
            store,
            clock: Arc::clone(fleet.clock()),
            fleet,
            routes,
            stacks,
            evaluation,
            stop,
            asked: HashMap::new(),
            handed: HashMap::new(),
            withdrawn: HashMap::new(),
            routed: 0,
            wake_at_ms: None,
            unkept: Vec::new(),
            again_at: None,
        }
    }

    /// Drives the run until it is closed, or until the controller stops. What came too late to be in its log; `None` when
    /// the run stays open and undriven.
    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Turn>) -> Option<Vec<Late>> {
        let mut changes = self.fleet.changes();
        let mut freed = self.stacks.freed();
        let mut batch = vec![Turn::tick()];
        let mut held: Option<Turn> = None;
        loop {
            if let Err(error) = self.step(batch).await {
                tracing::error!(error = &error as &dyn Error, "another controller has taken this run");
                return None;
            }
            if let Some((verdict, reason, _)) = self.state.closed() {
                tracing::info!(verdict = verdict.as_str_name(), reason, "run closed");
                return Some(self.wind_up(held, inputs));
            }
            let first = match held.take() {
                Some(turn) => turn,
                None => match self.next(&mut inputs, &mut changes, &mut freed).await {
                    Some(turn) => turn,
                    None => return Some(Vec::new()),
                },
            };
            // A word is decided and committed before all that waits for room: it may be what ends the run.
            batch = if first.is_word() { Vec::new() } else { std::mem::take(&mut self.unkept) };
            batch.push(first);
            while !batch[0].is_word() && batch.len() < BATCH && held.is_none() {
                match inputs.try_recv() {
                    Ok(turn) if turn.is_word() => held = Some(turn),
                    Ok(turn) => batch.push(turn),
                    Err(_) => break,
                }
            }
        }
    }

    /// Gives what is owed to those who came while the run was closing. Its log says how it ended: an order's end that is
    /// in it may be forgotten, and any other is handed back.
    fn wind_up(&mut self, held: Option<Turn>, mut inputs: mpsc::Receiver<Turn>) -> Vec<Late> {
        inputs.close();
        let (mut owed, mut late) = (Vec::new(), Vec::new());
        let unkept = std::mem::take(&mut self.unkept).into_iter().chain(held);
        for turn in unkept.chain(std::iter::from_fn(|| inputs.try_recv().ok())) {
            let logged = match &turn.input {
                Input::Ended { order, outcome } => self
                    .state
                    .tasks()
                    .any(|task| task.order == *order && task.outcome.as_ref() == Some(outcome)),
                _ => true,
            };
            if logged { owed.push(turn.owed) } else { late.extend(turn.untaken(self.mandate.run())) }
        }
        let rejections = owed.iter().map(|_| Some(Rejected::Closed)).collect();
        self.settle(owed, rejections);
        late
    }

    /// Whatever comes first; `None` when the controller stops.
    async fn next(
        &self,
        inputs: &mut mpsc::Receiver<Turn>,
        changes: &mut broadcast::Receiver<HostId>,
        freed: &mut broadcast::Receiver<()>,
    ) -> Option<Turn> {
        let waits_for_stack = self.state.targets().iter().any(|target| !target.held_by.is_empty());
        // Two that have no room for what they would begin would else wake each other without end.
        let waits_for_stack = waits_for_stack && self.again_at.is_none();
        tokio::select! {
            // Whatever comes leads to the same decision as a tick, so that no order starves the later ones.
            biased;
            () = self.stop.cancelled() => None,
            turn = inputs.recv(), if self.unkept.len() < INPUTS => turn,
            () = self.concerns(changes) => Some(Turn::tick()),
            () = heard(freed), if waits_for_stack => Some(Turn::tick()),
            () = sleep_until(self.wakes_at()) => Some(Turn::tick()),
        }
    }

    /// Completes when one of this run's hosts came or went, or when that may have been missed.
    async fn concerns(&self, changes: &mut broadcast::Receiver<HostId>) {
        use broadcast::error::RecvError;
        loop {
            match changes.recv().await {
                Ok(host) if self.state.targets().iter().any(|target| target.host == host) => return,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return,
                // The fleet lives as long as the controller.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Decides, commits, tells, and asks. Fails when the run is another controller's.
    async fn step(&mut self, turns: Vec<Turn>) -> Result<(), StoreError> {
        let decided = match self.decide(turns.iter().map(|turn| turn.input.clone()).collect()).await {
            Ok(decided) => decided,
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "the rules could not be evaluated");
                refuse(turns, error);
                // The run stays as it is. What was reported in vain is reported again, or given up in time.
                self.wake_at_ms = Some(self.clock.now_ms() + AFTER_PANIC_MS);
                self.again_at = None;
                return Ok(());
            }
        };
        let cancels = turns.iter().any(|turn| matches!(turn.input, Input::Cancel { .. }));
        let error = match self.commit(&decided, cancels).await {
            Ok(()) => {
                self.follow(decided, turns);
                self.again_at = (!self.unkept.is_empty()).then(Instant::now);
                return Ok(());
            }
            Err(error @ StoreError::Overtaken { .. }) => return Err(error),
            Err(error) => error,
        };
        // Nothing was begun, and others may begin it.
        self.stacks.keep(self.mandate.run(), &self.state.changing());
        if turns.iter().any(Turn::is_word) {
            // Whoever asked is told, and nothing has happened.
            refuse(turns, error);
            return Ok(());
        }
        // Once, and not at each try: the log may be on the same full disk.
        if self.again_at.is_none() {
            tracing::error!(error = &error as &dyn Error, "events could not be kept; trying again");
        }
        self.again_at = Some(Instant::now() + AGAIN);
        // What begins waits for room; how things ended may be written on what is kept for that.
        let before =
            decided.before_it_begins(&self.state).filter(|_| matches!(error, StoreError::Full { .. }));
        match before {
            Some(before) => match self.commit(&before, false).await {
                Ok(()) => self.follow(before, turns),
                Err(error @ StoreError::Overtaken { .. }) => return Err(error),
                Err(_) => self.put_off(turns),
            },
            None => self.put_off(turns),
        }
        Ok(())
    }

    /// Writes a decision down. What begins nothing may be written on the disk's reserve, and so may the word that ends a run.
    async fn commit(&self, decided: &Decision, cancels: bool) -> Result<(), StoreError> {
        if decided.events.is_empty() {
            return Ok(());
        }
        passing("before", &decided.events);
        let claim = if cancels { Claim::Freeing } else { Claim::Observing };
        let mandate = claim::for_decision(&self.mandate, decided, claim);
        let begun = remedies(self.mandate.run(), decided);
        self.store.append(&mandate, &decided.events, &decided.state.summary(), &begun).await?;
        passing("after", &decided.events);
        self.stacks.tried(&begun);
        Ok(())
    }

    /// Keeps what came until the store takes it. A tick is no news by then.
    fn put_off(&mut self, turns: Vec<Turn>) {
        self.unkept.extend(turns.into_iter().filter(|turn| !matches!(turn.input, Input::Tick)));
    }

    /// Goes on from what was committed.
    fn follow(&mut self, decided: Decision, turns: Vec<Turn>) {
        self.state = Arc::new(decided.state);
        self.stacks.keep(self.mandate.run(), &self.state.changing());
        if self.routed != self.state.planned_seq() {
            self.routed = self.state.planned_seq();
            self.routes.add_orders(self.mandate.run(), &self.state);
        }
        for event in decided.events {
            // Nobody may be watching.
            let _ = self.live.events.send(Arc::new(event));
        }
        self.settle(turns.into_iter().map(|turn| turn.owed).collect(), decided.rejections);
        self.ask();
    }

    /// Lets the state machine decide. Rules are work for the processor, so not on this thread.
    async fn decide(&self, inputs: Vec<Input>) -> Result<Decision, JoinError> {
        let (state, connected) = (Arc::clone(&self.state), self.fleet.connected());
        let (run, stacks, clock) = (self.mandate.run(), self.stacks.clone(), Arc::clone(&self.clock));
        let work = move || {
            let says = says(&state);
            let mut around = Surroundings {
                now_ms: clock.now_ms(),
                ids: &mut FreshIds,
                connected: &|host| connected.contains(&host),
                held: &|host, stack| stacks.hold(run, &says, host, stack),
                tries: &|host, stack, remedy| stacks.tries(host, stack, remedy),
            };
            decide(&state, inputs, &mut around)
        };
        self.evaluation.of(work).await
    }

    /// Gives everyone what they are owed, now that it is true.
    fn settle(&self, owed: Vec<Owed>, rejections: Vec<Option<Rejected>>) {
        let mut forgettable: BTreeMap<HostId, Vec<String>> = BTreeMap::new();
        for (owed, rejection) in owed.into_iter().zip(rejections) {
            match (owed, rejection) {
                (Owed::Nothing, _) => {}
                (Owed::Acknowledgement { host, order }, _) => {
                    forgettable.entry(host).or_default().push(order.to_string());
                }
                (Owed::Answer(reply), None) => answer(reply, Ok(self.state.summary())),
                (Owed::Answer(reply), Some(rejected)) => answer(reply, Err(rejected.into())),
            }
        }
        for (host, orders) in forgettable {
            self.fleet.acknowledge(host, orders);
        }
    }

    /// Asks the world for what the run wants, as far as it was not asked already.
    fn ask(&mut self) {
        let effects = {
            let connected = self.fleet.connected();
            wanted(&self.state, self.clock.now_ms(), &|host| connected.contains(&host))
        };
        self.wake_at_ms = None;
        let mut probes = HashMap::new();
        for effect in effects {
            match effect {
                Effect::WakeAt(at_ms) => self.wake_by(at_ms),
                Effect::Execute { order, host, execute } => {
                    let handed = self.handed.get(&order).copied();
                    if let Some(session) = self.send_once(host, handed, to_agent::Message::Execute(execute)) {
                        self.handed.insert(order, session);
                    }
                }
                Effect::Cancel { order, host } => {
                    let withdrawn = self.withdrawn.get(&order).copied();
                    let cancel = to_agent::Message::Cancel(Cancel { order: order.to_string() });
                    if let Some(session) = self.send_once(host, withdrawn, cancel) {
                        self.withdrawn.insert(order, session);
                    }
                }
                Effect::Probe { key, host, from, request, timeout_ms } => {
                    let before = self.asked.remove(&key);
                    let asked = match from {
                        Vantage::Host => self.probe(&key, host, before, request, timeout_ms),
                        _ if before.as_ref().is_some_and(|before| self.is_under_way(before)) => before,
                        from => self.elsewhere(&key, host, from, request, timeout_ms),
                    };
                    if let Some(asked) = asked {
                        probes.insert(key, asked);
                    }
                }
            }
        }
        // What is left was answered or is not wanted any more.
        for (_, asked) in std::mem::replace(&mut self.asked, probes) {
            self.routes.remove(asked.task);
        }
    }

    /// Sends a probe, unless it is on its way in the host's present session.
    fn probe(
        &mut self,
        key: &ProbeKey,
        host: HostId,
        before: Option<Asked>,
        request: Request,
        timeout_ms: u32,
    ) -> Option<Asked> {
        if let Some(before) = before {
            if self.is_under_way(&before) {
                return Some(before);
            }
            self.routes.remove(before.task);
        }
        let task = TaskId::new();
        let run = self.mandate.run();
        // The route comes first: the answer may be faster than this thread.
        let probe = Some((key.clone(), self.clock.now_ms()));
        let prepares = key.purpose == ProbePurpose::Preparation;
        let operation = if prepares { preview_name(&request) } else { name(&request) };
        self.routes.add(task, Route { run, host, operation, probe });
        let (task_id, run, operation) = (task.to_string(), run.to_string(), Some(request));
        let message = match prepares {
            true => to_agent::Message::Prepare(Prepare { task: task_id, operation, timeout_ms, run }),
            false => to_agent::Message::Probe(Probe { task: task_id, operation, timeout_ms, run }),
        };
        match self.send_once(host, None, message) {
            Some(session) => Some(Asked { task, by: By::Agent(host, session) }),
            None => {
                self.routes.remove(task);
                None
            }
        }
    }

    /// Whether whoever was asked may still answer.
    fn is_under_way(&self, asked: &Asked) -> bool {
        match asked.by {
            By::Agent(host, session) => self.fleet.session(host) == Some(session),
            By::Ourselves { .. } => true,
        }
    }

    /// Looks at a host from elsewhere: from here, or from a host beside it.
    fn elsewhere(
        &mut self,
        key: &ProbeKey,
        host: HostId,
        from: Vantage,
        request: Request,
        timeout_ms: u32,
    ) -> Option<Asked> {
        let target = self.state.targets().get(key.target)?;
        let stack = self.fleet.stack(host, &target.target.stack);
        let asked_at_ms = self.clock.now_ms();
        let answer = match outside::public(request, stack.as_ref()) {
            Err(failure) => Err(failure),
            Ok(request) if from == Vantage::Controller => Ok(request),
            Ok(request) => {
                let peer = self.fleet.connected().into_iter().find(|peer| *peer != host);
                match peer {
                    Some(peer) => {
                        return self.probe(key, peer, None, outside::as_request(request), timeout_ms);
                    }
                    None => Err(outside::no_peer()),
                }
            }
        };
        let (task, key, inputs) = (TaskId::new(), key.clone(), self.live.inputs());
        let handle = tokio::spawn(async move {
            let outcome = match answer {
                Ok(request) => outside::look(&request, timeout_ms).await,
                Err(failure) => Outcome::ended(OutcomeStatus::Failed, failure),
            };
            let turn = Turn::report(
                host,
                task,
                Input::Probed { key, outcome, asked_at_ms, challenge: Challenge::default() },
            );
            // A driver that has gone does not want to know any more.
            let _ = inputs.send(turn).await;
        });
        Some(Asked { task, by: By::Ourselves { _task: AbortOnDropHandle::new(handle) } })
    }

    /// Sends unless it was sent in the host's present session. The session that has it, if one does.
    fn send_once(
        &mut self,
        host: HostId,
        sent_in: Option<SessionId>,
        message: to_agent::Message,
    ) -> Option<SessionId> {
        let present = self.fleet.session(host)?;
        if sent_in == Some(present) {
            return sent_in;
        }
        match self.fleet.send(&self.mandate, host, message) {
            Ok(session) => Some(session),
            // Its coming back wakes this driver.
            Err(SendError::NotConnected) => None,
            Err(SendError::Full) => {
                self.wake_by(self.clock.now_ms() + i64::try_from(AGAIN.as_millis()).unwrap_or(500));
                None
            }
        }
    }

    /// When to come back, on the monotonic clock; a day from now stands for never.
    fn wakes_at(&self) -> Instant {
        const DAY_MS: u64 = 24 * 3600 * 1000;
        let now_ms = self.clock.now_ms();
        let left = |at_ms: i64| u64::try_from(at_ms.saturating_sub(now_ms)).unwrap_or(0);
        let wakes = Instant::now() + Duration::from_millis(self.wake_at_ms.map_or(DAY_MS, left).min(DAY_MS));
        // What is due already cannot be kept before.
        self.again_at.unwrap_or(wakes)
    }

    fn wake_by(&mut self, at_ms: i64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
    }
}

/// The places around a commit where a test may have the controller die: `controller.before.sent`.
fn passing(when: &str, events: &[RunEvent]) {
    use vigie_proto::v1::run_event::Event;
    for event in events {
        let what = match &event.event {
            Some(Event::Signed(_)) => "signed",
            Some(Event::Sent(_)) => "sent",
            Some(Event::Started(_)) => "started",
            Some(Event::Ended(_)) => "ended",
            Some(Event::Closed(_)) => "closed",
            _ => continue,
        };
        vigie_failpoint::reached(&format!("controller.{when}.{what}"));
    }
}

/// Completes when a stack became free, or may have.
async fn heard(freed: &mut broadcast::Receiver<()>) {
    if matches!(freed.recv().await, Err(broadcast::error::RecvError::Closed)) {
        // The stacks live as long as the controller.
        std::future::pending::<()>().await;
    }
}

/// What a run does, and by whom, for those who wait for it.
pub(super) fn says(state: &State) -> String {
    format!("{} by {}", state.opened().title, state.opened().operator)
}

/// The remedies whose first orders are about to be sent.
fn remedies(run: RunId, decided: &Decision) -> Vec<RemedyTried> {
    let mut begun: Vec<RemedyTried> = Vec::new();
    for event in &decided.events {
        let Some(what) = &event.event else { continue };
        for (host, stack, remedy) in decided.state.remedies_begun(what) {
            begun.push(RemedyTried { run, host, stack, remedy, at_ms: event.at_ms });
        }
    }
    begun
}

#[cfg(test)]
mod tests;
