//! Watching: each runbook's symptoms, looked for again and again on cheap probes, told when they change.
//!
//! Owns the rounds and what was told. The probes go through the same executor as the controller's, so that nothing can
//! be watched that could not be asked; a question that several runbooks ask is asked once. When two looks in a row agree,
//! a symptom is told. What is looked at from elsewhere is the controller's to watch.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use vigie_proto::{
    operation::Operation,
    v1::{HostState, Outcome, OutcomeStatus, OutputSource, Request, Symptoms, Watch, request},
};
use vigie_runbook::{
    Bound, Evidence, ProbeSpec, Runbook, Scope, Showing, Subject, Vantage,
    sightings::{Key, Sightings},
};

use super::{child::OutputSink, clock::Clock, executor::Executor};

/// Probes of a round that run at once: watching must never be what a host in trouble is busy with.
const AT_ONCE: usize = 3;

/// The pause before a look that is to confirm a change.
const AGAIN: Duration = Duration::from_secs(3);

/// No two rounds are closer, whatever the controller asks for.
const LEAST: Duration = Duration::from_secs(5);

/// How long after its deadline a probe may take to end by itself.
const GRACE: Duration = Duration::from_secs(4);

/// Of logs, what is older than this is no symptom of now, however far back a diagnosis looks.
const RECENT_S: u32 = 120;

/// Runbooks beyond this number are not watched.
const RUNBOOKS: usize = 64;

/// What watching needs.
pub struct Parts {
    pub executor: Arc<dyn Executor>,
    pub clock: Arc<dyn Clock>,
    /// Tells the stacks of the host, and its name.
    pub state: watch::Receiver<Option<Arc<HostState>>>,
    pub line: Line,
}

/// The watch's end of what it shares with the dispatch.
pub struct Line {
    asked: watch::Receiver<Watch>,
    shown: watch::Sender<Option<Arc<Symptoms>>>,
}

/// The dispatch's end: what the controller asks for, and what shows.
pub struct Watching {
    pub asked: watch::Sender<Watch>,
    /// `None` before the first round.
    pub shown: watch::Receiver<Option<Arc<Symptoms>>>,
}

/// The two ends.
pub fn line() -> (Watching, Line) {
    let (asks, asked) = watch::channel(Watch::default());
    let (shows, shown) = watch::channel(None);
    (Watching { asked: asks, shown }, Line { asked, shown: shows })
}

/// Watches until the controller's half of the channel is gone.
pub async fn watch(mut parts: Parts) {
    let mut sightings = Sightings::default();
    let mut readers = Readers::default();
    loop {
        let asked = parts.line.asked.borrow_and_update().clone();
        if asked.every_s == 0 {
            if parts.line.asked.changed().await.is_err() {
                return;
            }
            continue;
        }
        readers.renew(&asked).await;
        let state = parts.state.borrow().clone();
        let mut settled = true;
        if let Some(state) = state {
            let looked = look(&parts.executor, &readers, &state, parts.clock.now_ms()).await;
            settled = sightings.take(looked, parts.clock.now_ms());
            let now = Symptoms { symptoms: sightings.told(), unwatched: readers.unwatched.clone() };
            parts.line.shown.send_if_modified(|told| {
                let changed = told.as_deref() != Some(&now);
                if changed {
                    *told = Some(Arc::new(now));
                }
                changed
            });
        }
        let pause = if settled { Duration::from_secs(u64::from(asked.every_s)).max(LEAST) } else { AGAIN };
        tokio::select! {
            () = sleep(pause) => {}
            changed = parts.line.asked.changed() => if changed.is_err() { return },
        }
    }
}

/// The runbooks that are watched, as the controller last named them.
#[derive(Default)]
struct Readers {
    texts: Option<Vec<String>>,
    bound: Arc<Vec<Bound>>,
    /// Those that do not read here, by id or by place.
    unwatched: Vec<String>,
}

impl Readers {
    /// Reads the runbooks anew where the controller names others than before.
    async fn renew(&mut self, asked: &Watch) {
        if self.texts.as_ref() == Some(&asked.runbooks) {
            return;
        }
        let texts = asked.runbooks.clone();
        // Reading takes a while, and its bounds are its own.
        let read = tokio::task::spawn_blocking(move || read(&texts)).await;
        let (bound, unwatched) = read.unwrap_or_default();
        for runbook in &unwatched {
            tracing::warn!(
                runbook,
                "a runbook is not watched: this agent cannot read it, or it needs parameters"
            );
        }
        (self.bound, self.unwatched) = (Arc::new(bound), unwatched);
        self.texts = Some(asked.runbooks.clone());
    }
}

/// Those that the agent carries, each replaced by one of the same id that the controller names.
fn read(texts: &[String]) -> (Vec<Bound>, Vec<String>) {
    let (mut runbooks, mut unwatched) = (BTreeMap::new(), Vec::new());
    let shipped = vigie_runbook::shipped().iter().map(|(_, text)| (*text).to_owned());
    for (place, text) in shipped.chain(texts.iter().cloned()).take(RUNBOOKS).enumerate() {
        match Runbook::parse(&text, "a runbook") {
            Ok(runbook) => match runbook.bind(&[]) {
                Ok(bound) => _ = runbooks.insert(runbook.id.clone(), bound),
                // It needs parameters that nobody gives here, and so has nothing to watch for.
                Err(_) if runbook.symptoms.is_empty() => {}
                Err(_) => unwatched.push(runbook.id.clone()),
            },
            Err(_) => unwatched.push(format!("runbook {place}")),
        }
    }
    (runbooks.into_values().filter(|bound| !bound.runbook().symptoms.is_empty()).collect(), unwatched)
}

/// One round: every distinct question once, then what each runbook makes of the answers.
async fn look(
    executor: &Arc<dyn Executor>,
    readers: &Readers,
    state: &HostState,
    now_ms: i64,
) -> BTreeMap<Key, Vec<Showing>> {
    let stacks: Vec<_> = state.stacks.iter().map(|stack| stack.name.clone()).collect();
    let mut targets = Vec::new();
    for (place, bound) in readers.bound.iter().enumerate() {
        match bound.runbook().scope {
            Scope::Host => targets.push((place, String::new())),
            Scope::Stack => targets.extend(stacks.iter().map(|stack| (place, stack.clone()))),
        }
    }
    let specs: Vec<_> = targets
        .into_iter()
        .map(|(place, stack)| (watched(&readers.bound[place], &stack), place, stack))
        .collect();
    let distinct: BTreeMap<Vec<u8>, ProbeSpec> = specs
        .iter()
        .flat_map(|(probes, ..)| probes)
        .filter(|probe| observes(&probe.request))
        .map(|probe| (probe.request.encode_to_vec(), probe.clone()))
        .collect();
    let answers: BTreeMap<Vec<u8>, Outcome> = stream::iter(distinct)
        .map(|(key, probe)| async move { (key, ask(executor, probe).await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let host = state.facts.as_ref().map(|facts| facts.hostname.clone()).unwrap_or_default();
    let bound = Arc::clone(&readers.bound);
    let judged = tokio::task::spawn_blocking(move || {
        let judge = |(probes, place, stack): (Vec<ProbeSpec>, usize, String)| {
            let answer = |probe: &ProbeSpec| answers.get(&probe.request.encode_to_vec()).cloned();
            let evidence: Evidence =
                probes.iter().filter_map(|probe| Some((probe.id.clone(), answer(probe)?))).collect();
            let subject = Subject { host: &host, stack: &stack, now_ms };
            let bound: &Bound = &bound[place];
            let shows = bound.symptoms(&subject, &evidence);
            (Key { runbook: bound.runbook().id.clone(), stack }, shows)
        };
        specs.into_iter().map(judge).collect()
    });
    judged.await.unwrap_or_default()
}

/// What a runbook's symptoms rest on, of now.
fn watched(bound: &Bound, stack: &str) -> Vec<ProbeSpec> {
    let mut probes = bound.watched(stack, Vantage::Host);
    for probe in &mut probes {
        if let Some(request::Operation::ContainerLogs(logs)) = &mut probe.request.operation
            && (logs.since_s == 0 || logs.since_s > RECENT_S)
        {
            logs.since_s = RECENT_S;
        }
    }
    probes
}

/// Only what a controller may ask without an order is watched.
fn observes(request: &Request) -> bool {
    Operation::of(request).is_ok_and(|operation| !operation.needs_order())
}

/// One probe, in a task of its own: neither a panic nor a hang is the watch's.
async fn ask(executor: &Arc<dyn Executor>, probe: ProbeSpec) -> Outcome {
    let lost = || Outcome { status: OutcomeStatus::Failed.into(), ..Outcome::default() };
    let Some(operation) = probe.request.operation else { return lost() };
    let patience = Duration::from_millis(u64::from(probe.timeout_ms));
    let executor = Arc::clone(executor);
    let mut task = tokio::spawn(async move {
        executor.run(&operation, Instant::now() + patience, Arc::new(Silent), None).await
    });
    match timeout(patience + GRACE, &mut task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a watched probe died");
            lost()
        }
        Err(_) => {
            task.abort();
            lost()
        }
    }
}

struct Silent;

impl OutputSink for Silent {
    fn write(&self, _: OutputSource, _: &[u8]) {}
}

#[cfg(test)]
mod tests;
