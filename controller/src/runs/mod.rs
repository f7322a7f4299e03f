//! Runs: opened once, driven to their end, watched by anyone.
//!
//! Owns a driver per open run, the routes by which agents' reports find it, and the streams of those who watch. What a
//! run means, and what it wants next, is `vigie_runbook::run`'s to say; what happened is in the store before anybody
//! hears of it.

mod again;
mod claim;
mod doubt;
mod driver;
mod evaluation;
mod here;
mod late;
mod leap;
pub(crate) mod outside;
mod report;
mod routes;
mod stacks;
mod turn;
mod watch;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{broadcast, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use vigie_proto::{
    id::RunId,
    v1::{
        Opened, Owned, RunEvent, RunMode, RunPhase, RunSpec, RunSummary, RunbookCall, Selector, Signature,
        run_event::Event, run_spec::Kind,
    },
};
use vigie_runbook::{
    Scope,
    run::{self, Input, State},
};

pub use evaluation::Evaluation;
pub(crate) use here::DoneHere;
pub(crate) use leap::leap;
pub use report::Report;
pub(crate) use report::Taken;
pub use watch::Watching;

use crate::{
    audit::{Audit, Entry, Intent},
    clock::Clock,
    error::{HostsError, RunsError},
    fleet::Fleet,
    permit::Permit,
    runbooks::Runbooks,
    store::{Claim, Health, Mandate, OpenedRun, Store},
};
use driver::{Around, Driver, Live};
use routes::Routes;
use stacks::Stacks;
use turn::Turn;

/// Runs that a list shows when nobody says how many, and at most.
const LISTED: u32 = 50;
const LISTED_AT_MOST: u32 = 1000;

/// Under whose name the controller's own runs stand. No operator can have it: it is no name in a certificate.
pub(crate) const OWN: &str = "(controller)";

/// Ended runs that a slow listener may fall behind by.
const ENDED: usize = 256;

/// Events that are read from the store at once.
const PAGE: u32 = 256;

/// A cheap handle to all runs.
#[derive(Clone)]
pub struct Runs(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    audit: Audit,
    fleet: Fleet,
    runbooks: Runbooks,
    clock: Arc<dyn Clock>,
    evaluation: Evaluation,
    /// This replica's name, as events tell who owned a run.
    controller: String,
    /// The open runs. Held for moments only, never across an await.
    live: Mutex<HashMap<RunId, Live>>,
    routes: Routes,
    stacks: Stacks,
    /// A run is open that nobody drives: its log is damaged, or its driver ended before it did.
    abandoned: AtomicBool,
    /// Orders of which something is written down beside the sessions.
    beside: late::Beside,
    /// Held from the look at a retry to its opening.
    retrying: tokio::sync::Mutex<()>,
    /// Every driver, every watcher, and whatever is written down beside the sessions.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Names each run whose driver ended.
    ended: broadcast::Sender<RunId>,
}

/// What became of a run's beginning.
enum Begun {
    New(RunSummary),
    Exists(RunSummary),
}

impl Runs {
    /// No run yet. They go by the fleet's clock.
    pub fn new(
        store: Arc<dyn Store>,
        fleet: Fleet,
        runbooks: Runbooks,
        controller: String,
        evaluation: Evaluation,
    ) -> Self {
        Self(Arc::new(Inner {
            audit: Audit::new(Arc::clone(&store)),
            store,
            clock: Arc::clone(fleet.clock()),
            fleet,
            runbooks,
            evaluation,
            controller,
            live: Mutex::default(),
            routes: Routes::default(),
            stacks: Stacks::new(),
            abandoned: AtomicBool::new(false),
            beside: late::Beside::default(),
            retrying: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            ended: broadcast::channel(ENDED).0,
        }))
    }

    fn live(&self) -> MutexGuard<'_, HashMap<RunId, Live>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a run, or finds the one that the same request opened before.
    ///
    /// # Errors
    /// When the request is not valid, selects nothing, or its id belongs to another request.
    pub async fn submit(&self, permit: &Permit, run: RunId, spec: RunSpec) -> Result<RunSummary, RunsError> {
        // In a task of its own: a caller who goes away must not leave a run that is opened and that nobody drives.
        let (runs, permit) = (self.clone(), permit.clone());
        let submitted = self.0.tasks.spawn(async move { runs.submit_now(&permit, run, spec).await });
        submitted.await.unwrap_or(Err(RunsError::Stopping))
    }

    async fn submit_now(&self, permit: &Permit, run: RunId, spec: RunSpec) -> Result<RunSummary, RunsError> {
        // First, since the hosts and the runbook may have changed since the first time.
        if let Some(existing) = self.0.store.run(run).await? {
            return self.same(permit, run, &spec, existing).await;
        }
        let opened = self.open(permit.caller().name(), spec.clone())?;
        // One at a time, so that none is opened beside another that it did not see.
        let _turn = match spec.retry_of.is_empty() {
            true => None,
            false => Some(self.0.retrying.lock().await),
        };
        self.tries_again(run, &opened).await?;
        let intent = Intent::new(
            permit,
            &run.to_string(),
            &format!("{} on {} targets", opened.title, opened.targets.len()),
        );
        match self.begin(run, opened, &intent).await? {
            Begun::Exists(existing) => self.same(permit, run, &spec, existing).await,
            Begun::New(summary) => Ok(summary),
        }
    }

    /// Diagnoses hosts that show something, of the controller's own accord. It takes nothing but their names, so that
    /// nothing else can be asked of them without a caller.
    ///
    /// # Errors
    /// When none of the hosts can be asked, or the store fails.
    pub(crate) async fn diagnose(&self, hosts: &[String], why: &str) -> Result<RunId, RunsError> {
        let call = RunbookCall { mode: RunMode::Diagnose.into(), ..RunbookCall::default() };
        let spec = RunSpec {
            selector: Some(Selector { hosts: hosts.join(","), ..Selector::default() }),
            kind: Some(Kind::Runbook(call)),
            ..RunSpec::default()
        };
        let opened = self.open(OWN, spec)?;
        let run = RunId::new();
        let intent = Intent::own("diagnose", &run.to_string(), why);
        self.begin(run, opened, &intent).await?;
        Ok(run)
    }

    /// Writes a run's beginning down, unless its id is taken, and drives it.
    async fn begin(&self, run: RunId, opened: Opened, intent: &Intent) -> Result<Begun, RunsError> {
        let events = self.number([Event::Opened(opened), self.owned(1)], 0);
        let state = State::fold(run, &events)?;
        let intent = intent.clone().claiming(claim::of(&state));
        vigie_failpoint::reached("controller.before.opened");
        let opened = self.0.store.open_run(&intent, run, &events, &state.summary()).await?;
        vigie_failpoint::reached("controller.after.opened");
        match opened {
            OpenedRun::Exists(existing) => Ok(Begun::Exists(existing)),
            OpenedRun::New(mandate) => {
                let summary = state.summary();
                tracing::info!(%run, title = summary.title, operator = summary.operator, "run opened");
                self.drive(mandate, state);
                Ok(Begun::New(summary))
            }
        }
    }

    /// Names each run whose driver ended from now on.
    pub(crate) fn ended(&self) -> broadcast::Receiver<RunId> {
        self.0.ended.subscribe()
    }

    /// A run as its events tell it.
    ///
    /// # Errors
    /// When the store fails, or the log is damaged.
    pub(crate) async fn state(&self, run: RunId) -> Result<State, RunsError> {
        Ok(State::fold(run, &self.events(run).await?)?)
    }

    /// Every event of a run.
    async fn events(&self, run: RunId) -> Result<Vec<RunEvent>, RunsError> {
        let mut events = Vec::new();
        loop {
            let after = events.last().map_or(0, |event: &RunEvent| event.seq);
            let page = self.0.store.events(run, after, PAGE).await?;
            if page.is_empty() {
                return Ok(events);
            }
            events.extend(page);
        }
    }

    /// The first event of a run: the request with everything that it refers to, frozen.
    fn open(&self, operator: &str, spec: RunSpec) -> Result<Opened, RunsError> {
        let selector = spec.selector.as_ref().ok_or(RunsError::NoSelector)?;
        let runbook = match spec.kind.as_ref().ok_or(RunsError::NoKind)? {
            Kind::Operation(_) => None,
            Kind::Runbook(call) if call.id.is_empty() => return self.open_all(operator, spec),
            Kind::Runbook(call) => {
                let unknown = || RunsError::UnknownRunbook(call.id.chars().take(64).collect());
                Some(self.0.runbooks.find(&call.id).ok_or_else(unknown)?)
            }
        };
        let runbook = runbook.as_deref();
        let scope = run::scope(&spec, runbook)?;
        let targets = self.0.fleet.targets(selector, scope)?;
        Ok(run::open(spec, operator, targets, runbook)?)
    }

    /// The first event of a run of every runbook.
    fn open_all(&self, operator: &str, spec: RunSpec) -> Result<Opened, RunsError> {
        let selector = spec.selector.as_ref().ok_or(RunsError::NoSelector)?;
        let runbooks = self.0.runbooks.all();
        let about = |scope| runbooks.iter().any(|runbook| runbook.scope == scope);
        let mut targets = Vec::new();
        // Where a stack is named, the hosts themselves are not meant.
        if about(Scope::Host) && selector.stack.is_empty() {
            targets = self.0.fleet.targets(selector, Scope::Host)?;
        }
        // Places that are written out are hosts and stacks in one.
        if selector.places.is_empty() || targets.is_empty() {
            match self.0.fleet.targets(selector, Scope::Stack) {
                Ok(stacks) => targets.extend(stacks),
                // A host without a stack is asked about itself.
                Err(HostsError::NoStack { .. }) if !targets.is_empty() => {}
                Err(other) => return Err(other.into()),
            }
        }
        targets.sort_by(|a, b| (&a.host_name, &a.stack).cmp(&(&b.host_name, &b.stack)));
        let runbooks: Vec<_> = runbooks.iter().map(|runbook| &**runbook).collect();
        Ok(run::open_all(spec, operator, targets, &runbooks)?)
    }

    /// A retry of a request is the same run; another request under its id is refused.
    async fn same(
        &self,
        permit: &Permit,
        run: RunId,
        spec: &RunSpec,
        existing: RunSummary,
    ) -> Result<RunSummary, RunsError> {
        let first = self.0.store.events(run, 0, 1).await?;
        let opened = first.first().and_then(|event| match &event.event {
            Some(Event::Opened(opened)) => opened.spec.as_ref(),
            _ => None,
        });
        if opened == Some(spec) && existing.operator == permit.caller().name() {
            Ok(existing)
        } else {
            Err(RunsError::Different(run))
        }
    }

    fn owned(&self, epoch: u64) -> Event {
        Event::Owned(Owned { epoch, controller: self.0.controller.clone() })
    }

    /// Takes up every run that is open in the store. Must end before any agent is let in: what agents report about
    /// these runs has to find them.
    ///
    /// # Errors
    /// When the store fails. A run whose log is damaged is left alone, and said so.
    pub async fn resume(&self) -> Result<usize, RunsError> {
        let an_hour_ago_ms = self.0.clock.now_ms() - run::HOUR_MS;
        self.0.stacks.tried(&self.0.store.remedies(an_hour_ago_ms).await?);
        let mut resumed = Vec::new();
        for mandate in self.0.store.open_runs().await? {
            let run = mandate.run();
            match self.take_up(mandate).await {
                Ok(taken_up) => resumed.push(taken_up),
                Err(RunsError::Corrupt(damage)) => {
                    tracing::error!(%run, error = &damage as &dyn std::error::Error, "a run cannot be continued");
                    self.0.abandoned.store(true, Ordering::Relaxed);
                }
                Err(other) => return Err(other),
            }
        }
        // What one is changing is held before any other could take it.
        for (mandate, state) in &resumed {
            for (host, stack) in state.changing() {
                self.0.stacks.hold(mandate.run(), &driver::says(state), host, &stack);
            }
        }
        let number = resumed.len();
        for (mandate, state) in resumed {
            self.drive(mandate, state);
        }
        Ok(number)
    }

    async fn take_up(&self, mandate: Mandate) -> Result<(Mandate, State), RunsError> {
        let run = mandate.run();
        let mut state = self.state(run).await?;
        let owned = self.number([self.owned(state.epoch() + 1)], state.last_seq());
        for event in &owned {
            state.apply(event)?;
        }
        // On a full disk too: it is some bytes, and a controller that does not start helps nobody.
        let mandate = mandate.claiming(Claim::Freeing);
        self.0.store.append(&mandate, &owned, &state.summary(), &[]).await?;
        Ok((mandate, state))
    }

    /// Starts the driver of a run.
    fn drive(&self, mandate: Mandate, state: State) {
        let run = mandate.run();
        let mandate = mandate.claiming(claim::of(&state));
        let (live, inputs) = Live::new();
        // Here and not in the driver: after a restart, reports may come before it has begun.
        self.0.routes.add_orders(run, &state);
        let Inner { store, fleet, routes, stacks, evaluation, stop, .. } = &*self.0;
        let around = Around {
            store: Arc::clone(store),
            fleet: fleet.clone(),
            routes: routes.clone(),
            stacks: stacks.clone(),
            evaluation: *evaluation,
            stop: stop.clone(),
        };
        let driver = Driver::new(mandate, state, live.clone(), around);
        self.live().insert(run, live);
        let runs = self.clone();
        let span = tracing::info_span!("run", %run);
        self.0.tasks.spawn(
            async move {
                let late = driver.run(inputs).await;
                if late.is_none() {
                    runs.0.abandoned.store(true, Ordering::Relaxed);
                }
                // Dropped with its channels: from here on, watchers know that the store holds everything.
                runs.live().remove(&run);
                runs.0.routes.forget(run);
                runs.0.stacks.keep(run, &[]);
                // Nobody may be listening.
                let _ = runs.0.ended.send(run);
                for late in late.into_iter().flatten() {
                    runs.take_late(late);
                }
            }
            .instrument(span),
        );
    }

    /// The newest runs.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, _: &Permit, limit: u32) -> Result<Vec<RunSummary>, RunsError> {
        let limit = if limit == 0 { LISTED } else { limit.min(LISTED_AT_MOST) };
        Ok(self.0.store.runs(limit).await?)
    }

    /// Hands a run its operator's signature.
    ///
    /// # Errors
    /// When there is no such run, or it does not take the signature.
    pub async fn sign(
        &self,
        permit: &Permit,
        run: &str,
        manifest: Vec<u8>,
        signatures: Vec<Signature>,
    ) -> Result<RunSummary, RunsError> {
        let run = self.find(run).await?;
        let digest = data_encoding::HEXLOWER.encode(&vigie_proto::order::digest(&manifest));
        let operator = permit.caller().name().to_owned();
        let intent = Intent::new(permit, &run.to_string(), &format!("signs the manifest {digest}"));
        let entry = self.note(run, intent).await?;
        let answer = self.say(&entry, run, Input::Signed { manifest, signatures, operator }).await;
        self.conclude(entry, answer).await
    }

    /// Ends a run that has not acted.
    ///
    /// # Errors
    /// When there is no such run, or it is too late.
    pub async fn cancel(&self, permit: &Permit, run: &str, reason: String) -> Result<RunSummary, RunsError> {
        let run = self.find(run).await?;
        let operator = permit.caller().name().to_owned();
        // On a full disk too, whatever run it is: it is some bytes, and ends what would take more.
        let intent = Intent::new(permit, &run.to_string(), &reason).claiming(Claim::Freeing);
        let entry = self.0.audit.open(intent).await?;
        let answer = self.say(&entry, run, Input::Cancel { operator, reason }).await;
        self.conclude(entry, answer).await
    }

    /// Takes a person's word that what a run waits for is done, on these hosts or wherever it waits.
    ///
    /// # Errors
    /// When there is no such run, or it waits for nobody.
    pub async fn acknowledge(
        &self,
        permit: &Permit,
        run: &str,
        hosts: Vec<String>,
        note: String,
    ) -> Result<RunSummary, RunsError> {
        let run = self.find(run).await?;
        let operator = permit.caller().name().to_owned();
        let on = if hosts.is_empty() { String::new() } else { format!(" on {}", hosts.join(", ")) };
        let intent = Intent::new(permit, &run.to_string(), &format!("a step is done{on}: {note}"));
        let entry = self.note(run, intent).await?;
        let answer = self.say(&entry, run, Input::ManualDone { operator, hosts, note }).await;
        self.conclude(entry, answer).await
    }

    /// Writes an operator's word down before the run hears it, with the run's own claim on the disk's room.
    async fn note(&self, run: RunId, intent: Intent) -> Result<Entry, RunsError> {
        let well = *self.0.store.health().borrow() == Health::Writable;
        // Only where it matters, since it takes reading the run.
        let claim = if well { Claim::Ordinary } else { claim::of(&self.state(run).await?) };
        Ok(self.0.audit.open(intent.claiming(claim)).await?)
    }

    /// Gives a run an operator's word; the entry shows that it was written down.
    async fn say(&self, _: &Entry, run: RunId, word: Input) -> Result<RunSummary, RunsError> {
        let inputs = self.live().get(&run).map(Live::inputs);
        let Some(inputs) = inputs else {
            return Err(self.not_live(run).await);
        };
        let (reply, answer) = oneshot::channel();
        if inputs.send(Turn::word(word, reply)).await.is_err() {
            return Err(self.not_live(run).await);
        }
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self.not_live(run).await),
        }
    }

    /// Whether a run has a driver.
    fn is_live(&self, run: RunId) -> bool {
        self.live().contains_key(&run)
    }

    /// Why a run has no driver: it is closed, the controller stops, or it is open and nobody drives it here.
    async fn not_live(&self, run: RunId) -> RunsError {
        if self.0.stop.is_cancelled() {
            return RunsError::Stopping;
        }
        match self.0.store.run(run).await {
            // Whoever gave their word to it has to give it again, and must not take it for ended.
            Ok(Some(summary)) if summary.phase() != RunPhase::Closed => RunsError::Undriven,
            Ok(_) => run::Rejected::Closed.into(),
            Err(error) => error.into(),
        }
    }

    async fn conclude(
        &self,
        entry: Entry,
        answer: Result<RunSummary, RunsError>,
    ) -> Result<RunSummary, RunsError> {
        let ending = match &answer {
            Ok(_) => "taken".to_owned(),
            Err(error) => format!("not taken: {error}"),
        };
        self.0.audit.close(entry, &ending).await;
        answer
    }

    /// A run by its id, or by the beginning of one that no other run shares.
    async fn find(&self, name: &str) -> Result<RunId, RunsError> {
        let unknown = || RunsError::Unknown(name.chars().take(64).collect());
        // What an id cannot hold is no beginning of one.
        if name.is_empty() || name.len() > 36 || !name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(unknown());
        }
        match self.0.store.runs_beginning(&name.to_ascii_lowercase()).await?.as_slice() {
            [run] => Ok(*run),
            [] => Err(unknown()),
            _ => Err(RunsError::Ambiguous(name.to_owned())),
        }
    }

    /// Stops every driver and every watcher, and what is being written down; their runs go on when the controller is back.
    pub(crate) fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
    }

    /// Completes when all of them have stopped.
    pub(crate) async fn stopped(&self) {
        self.0.tasks.wait().await;
    }

    /// Gives events their places after `last`, and the present time.
    fn number<const N: usize>(&self, events: [Event; N], last: u64) -> Vec<RunEvent> {
        let at_ms = self.0.clock.now_ms();
        (last + 1..).zip(events).map(|(seq, event)| RunEvent { seq, at_ms, event: Some(event) }).collect()
    }
}
