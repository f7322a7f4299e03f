//! What the host's own root asks for: the same probes, previews and orders, without a controller.
//!
//! Its orders go through the loop and the journal as an operator's do. What it was told lives in memory, by its session:
//! where that ends, what runs goes on, and nothing more begins.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use vigie_proto::{
    id::{HostId, TaskId},
    v1::{Failure, Outcome, OutcomeStatus, Prepare, PreparedOrder, Probe, ProbeResult},
};

use super::{
    Dispatch, PROBES, Underway,
    challenges::{Challenges, Prepared, VALID},
    order, probe,
    shared::Shared,
    warrant::{Spoken, Stacks, Warrant},
};
use crate::host::{clock::Clock, door::Root, executor::Executor, journal, message::Outbox};

/// Orders on their way to the loop.
const ASKS: usize = 16;

/// Where the host's root speaks to the half that guards the host. A cheap handle.
#[derive(Clone)]
pub struct Local {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Ask>,
    host: HostId,
    incarnation: u64,
    /// The run that has its turn, in words.
    turn: Arc<Mutex<Option<String>>>,
}

/// What the host's root asks of the loop.
pub(super) enum Ask {
    /// Why it takes no more orders at this moment; nothing while there is room.
    Room(oneshot::Sender<Option<Failure>>),
    Order(Box<Given>),
}

/// An order of the host's root, on its way into the loop.
pub(super) struct Given {
    warrant: Warrant,
    prepared: Option<Prepared>,
    told: mpsc::UnboundedSender<Told>,
}

/// Lets one run of the host's root change the host, and no second one, until this is dropped.
#[derive(Debug)]
pub(in crate::host) struct Turn(Arc<Mutex<Option<String>>>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What the loop says of such an order.
#[derive(Debug)]
pub(in crate::host) enum Told {
    /// Its start is on disk.
    Started { order: TaskId, at_ms: i64 },
    /// It ended, or was refused.
    Ended { order: TaskId, outcome: Box<Outcome> },
}

/// One run of the host's root.
pub(in crate::host) struct Session {
    root: Root,
    challenges: Mutex<Challenges>,
    stacks: Arc<Stacks>,
    told: mpsc::UnboundedSender<Told>,
    output: mpsc::Sender<Outbox>,
    gone: CancellationToken,
}

impl Session {
    /// Begins one, with its turn where it is to change the host. What its orders say goes to `told`, what they print to
    /// `output`.
    pub(in crate::host) fn new(
        root: Root,
        turn: Option<Turn>,
        told: mpsc::UnboundedSender<Told>,
        output: mpsc::Sender<Outbox>,
    ) -> Self {
        let stacks = Arc::new(Stacks::of(turn));
        Self { root, challenges: Mutex::default(), stacks, told, output, gone: CancellationToken::new() }
    }

    /// Ends it when it is dropped: what has not begun by then never will.
    pub(in crate::host) fn end(&self) -> DropGuard {
        self.gone.clone().drop_guard()
    }
}

impl Local {
    pub(super) fn new(shared: Arc<Shared>, host: HostId, incarnation: u64) -> (Self, mpsc::Receiver<Ask>) {
        let (asks, receiver) = mpsc::channel(ASKS);
        (Self { shared, asks, host, incarnation, turn: Arc::default() }, receiver)
    }

    /// One that looks and takes no order: it has no journal.
    pub fn looking(executor: Arc<dyn Executor>, clock: Arc<dyn Clock>, host: HostId) -> Self {
        let shared = Shared {
            journal: journal::Handle::none(),
            executor,
            clock,
            outbox: mpsc::channel(1).0,
            events: mpsc::unbounded_channel().0,
            stacks: Mutex::default(),
            probes: Semaphore::new(PROBES),
        };
        Self::new(Arc::new(shared), host, 0).0
    }

    /// The host that it speaks for, as targets name it.
    pub fn host(&self) -> (HostId, u64) {
        (self.host, self.incarnation)
    }

    /// Gives a run its turn.
    ///
    /// # Errors
    /// With what it has to wait for: another run of the host's root, or as many orders as the agent takes.
    pub(in crate::host) async fn turn(&self, run: String) -> Result<Turn, String> {
        let (reply, room) = oneshot::channel();
        // A loop that has ended says so of the order itself.
        let asked = self.asks.send(Ask::Room(reply)).await;
        if let (Ok(()), Ok(Some(busy))) = (asked, room.await) {
            return Err(busy.message);
        }
        let mut present = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = &*present {
            return Err(other.clone());
        }
        *present = Some(run);
        Ok(Turn(Arc::clone(&self.turn)))
    }

    /// Asks for what needs no order.
    pub(in crate::host) async fn probe(&self, probe: Probe) -> ProbeResult {
        let outcome = match probe::check(&probe) {
            Ok(checked) => probe::in_turn(&self.shared, checked).await,
            Err(failure) => Outcome::refused(failure),
        };
        ProbeResult { task: probe.task, outcome: Some(outcome) }
    }

    /// Looks at what an order would lose, and remembers it for the session.
    pub(in crate::host) async fn prepare(&self, session: &Session, prepare: Prepare) -> PreparedOrder {
        let task = prepare.task.clone();
        let refused =
            |outcome| PreparedOrder { task: task.clone(), outcome: Some(outcome), ..Default::default() };
        let preparing = match probe::check_prepare(prepare) {
            Ok(preparing) => preparing,
            Err(failure) => return refused(Outcome::refused(failure)),
        };
        let probe::Preparing { run, request, preview } = preparing;
        if let Some(operation) = &request.operation
            && let Err(failure) = self.shared.executor.permits_root(operation).await
        {
            return refused(Outcome::refused(failure));
        }
        let outcome = probe::in_turn(&self.shared, preview).await;
        let Some(found) = outcome.result.as_ref().filter(|_| outcome.is_success()) else {
            return refused(outcome);
        };
        let mut challenges = session.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        match challenges.keep(run, &request, found, Instant::now()) {
            Ok(challenge) => PreparedOrder {
                challenge: challenge.to_vec(),
                valid_ms: u32::try_from(VALID.as_millis()).unwrap_or(u32::MAX),
                ..refused(outcome)
            },
            Err(failure) => refused(Outcome::ended(OutcomeStatus::Failed, failure)),
        }
    }

    /// Gives an order. How it goes is told to the session.
    ///
    /// # Errors
    /// Why it is not even begun.
    pub(in crate::host) async fn order(&self, session: &Session, spoken: Spoken) -> Result<(), Failure> {
        let (output, stacks) = (session.output.clone(), Arc::clone(&session.stacks));
        let gone = session.gone.clone();
        let warrant =
            Warrant::here(&session.root, spoken, self.host, self.incarnation, output, stacks, gone)?;
        let prepared = {
            let mut challenges = session.challenges.lock().unwrap_or_else(PoisonError::into_inner);
            challenges.take(&warrant, Instant::now())?
        };
        let given = Given { warrant, prepared, told: session.told.clone() };
        self.asks.send(Ask::Order(Box::new(given))).await.map_err(|_| stops())
    }
}

fn stops() -> Failure {
    Failure::new("agent_stops", "the agent stops, and begins nothing more")
        .hint("start it again, or let it be stopped, and repeat the command")
}

impl Dispatch {
    /// Where the host's root speaks to this loop, while it runs.
    pub fn local(&self) -> Local {
        self.local.clone()
    }

    /// Answers the host's root.
    pub(super) fn asked_here(&mut self, ask: Ask, stopping: bool) {
        match ask {
            // Whoever asked may have gone.
            Ask::Room(reply) => drop(reply.send(self.is_busy())),
            Ask::Order(given) => self.order_here(*given, stopping),
        }
    }

    fn order_here(&mut self, given: Given, stopping: bool) {
        let Given { warrant, prepared, told } = given;
        let order = warrant.order();
        let known = self.underway.contains_key(&order) || self.shared.journal.standing(order).is_some();
        let refusal = match (stopping, known) {
            (true, _) => Some(stops()),
            (_, true) => {
                Some(Failure::new("duplicate_order", format!("order {order} is in the journal already")))
            }
            _ => self.is_busy(),
        };
        if let Some(failure) = refusal {
            // Whoever gave it may have gone.
            let _ = told.send(Told::Ended { order, outcome: Box::new(Outcome::refused(failure)) });
            return;
        }
        tracing::info!(
            %order, run = %warrant.run(), person = warrant.person(), operation = warrant.operation().name,
            "an order was given on this host"
        );
        let underway = Underway { what: warrant.words(), ..Underway::waiting() };
        let stop = underway.stop.clone();
        self.underway.insert(order, underway);
        self.told.insert(order, told);
        self.ordered.spawn(order::carry_out(Arc::clone(&self.shared), warrant, prepared, stop));
    }

    /// Passes on what became of an order that was given here; false for any other. Whoever gave it may have gone.
    pub(super) fn tell_here(&self, order: TaskId, what: Told) -> bool {
        let told = self.told.get(&order);
        told.inspect(|told| drop(told.send(what))).is_some()
    }

    /// The same for its end. False for what the controller has to hear of: an operator's order, and one that was given
    /// here and began.
    pub(super) fn end_here(&mut self, order: TaskId, what: Told) -> bool {
        let Some(told) = self.told.remove(&order) else { return false };
        drop(told.send(what));
        self.shared.journal.index().done_here(order).is_none()
    }
}
