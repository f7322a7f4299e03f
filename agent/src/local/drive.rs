//! Drives a run on the host itself: what the state machine wants is asked of whoever guards the host, what comes back is
//! decided on, and the person is shown the plan and asked.
//!
//! The run lives as long as the command: what it did is in the journal. One that goes away leaves what runs to its end,
//! and begins nothing more.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tokio::{sync::watch, time::Instant};
use vigie_proto::{
    id::{RunId, TaskId},
    operation::{Authority, Operation},
    order::Batch,
    text::escape,
    v1::{
        Execute, Failure, Leaf, Manifest, Opened, Outcome, OutcomeStatus, OutputChunk, Owned, Prepare, Probe,
        ProbePurpose, Request, RunEvent, Signature, Target, run_event::Event, run_spec::Kind,
    },
};
use vigie_runbook::{
    Vantage,
    run::{Challenge, Effect, FreshIds, Input, ProbeKey, State, Surroundings, TaskState, decide, wanted},
};
use vigie_view::{diagnose, plan, request, run::RunView, runs};

use super::{error::LocalError, line::Line, talk::Talk};
use crate::host::{
    clock::{Clock as _, SystemClock},
    door::wire::{Answer, Order, Said},
    journal::Action,
};

/// What the person agreed to beforehand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Consent {
    pub(super) yes: bool,
    pub(super) yes_destroy: bool,
}

/// What the person is being asked.
enum Question {
    /// Whether to carry a plan out: by a yes, or by typing this word.
    Plan { manifest: Vec<u8>, word: Option<String> },
    /// Whether what a step waits for is done.
    Deed { says: String, until_ms: i64, hosts: Vec<String> },
}

/// What came first of all that is waited for.
enum First {
    Interrupt,
    Answer(Option<Box<Answer>>),
    Said(Option<String>),
    Tick,
}

/// A run on the host itself, under way.
pub(super) struct Drive<'a> {
    line: &'a mut Line,
    talk: &'a mut Talk,
    interrupt: watch::Receiver<bool>,
    state: Arc<State>,
    view: RunView,
    /// What was done here lately.
    tries: Arc<Vec<Action>>,
    consent: Consent,
    /// The probes on their way, by what they are for.
    asked: HashMap<ProbeKey, String>,
    /// The same by their tasks, with when each was asked.
    probes: HashMap<String, (ProbeKey, i64)>,
    handed: BTreeSet<TaskId>,
    wake_at_ms: Option<i64>,
    question: Option<Question>,
    /// The manifest that the person was asked about last.
    asked_about: Vec<u8>,
}

impl<'a> Drive<'a> {
    /// Begins the run.
    ///
    /// # Errors
    /// When its first event does not read.
    pub(super) fn new(
        opened: Opened,
        tries: Arc<Vec<Action>>,
        consent: Consent,
        line: &'a mut Line,
        talk: &'a mut Talk,
        interrupt: watch::Receiver<bool>,
    ) -> Result<Self, LocalError> {
        let (run, at_ms) = (RunId::new(), SystemClock.now_ms());
        let owned = Owned { epoch: 1, controller: "this host".to_owned() };
        let events = [Event::Opened(opened), Event::Owned(owned)];
        let events: Vec<_> =
            (1..).zip(events).map(|(seq, event)| RunEvent { seq, at_ms, event: Some(event) }).collect();
        let state = Arc::new(State::fold(run, &events)?);
        let mut view = RunView::on_host(&run.to_string());
        events.into_iter().for_each(|event| view.apply(event));
        Ok(Self {
            line,
            talk,
            interrupt,
            state,
            view,
            tries,
            consent,
            asked: HashMap::new(),
            probes: HashMap::new(),
            handed: BTreeSet::new(),
            wake_at_ms: None,
            question: None,
            asked_about: Vec::new(),
        })
    }

    /// Drives the run to its end.
    ///
    /// # Errors
    /// When the person wants it to end, nobody can be asked who has to be, or whoever guards the host goes away.
    pub(super) async fn until_closed(mut self) -> Result<RunView, LocalError> {
        let mut input = Input::Tick;
        loop {
            let mut next = Some(input);
            while let Some(input) = next {
                next = self.step(input).await?;
                if self.view.closed.is_some() {
                    self.talk.clear();
                    return Ok(self.view);
                }
                if next.is_none() {
                    next = self.consult()?;
                }
            }
            input = self.wait().await?;
        }
    }

    /// Whatever comes first.
    async fn wait(&mut self) -> Result<Input, LocalError> {
        loop {
            let progress = format!("{}: {}", self.view.opened.title, runs::phase_word(self.state.phase()));
            if self.question.is_none() {
                self.talk.progress(&escape(&progress, false));
            }
            let (wake, asks) = (wake(self.wake_at_ms), self.question.is_some());
            let first = tokio::select! {
                Ok(_) = self.interrupt.wait_for(|pulled| *pulled) => First::Interrupt,
                answer = self.line.next() => First::Answer(answer.map(Box::new)),
                said = self.talk.answer(), if asks => First::Said(said),
                () = tokio::time::sleep_until(wake) => First::Tick,
            };
            match first {
                First::Interrupt => return Err(self.interrupted()),
                First::Answer(None) => return Err(LocalError::Gone { under_way: self.under_way() }),
                First::Answer(Some(answer)) => {
                    if let Some(input) = self.input(*answer) {
                        return Ok(input);
                    }
                }
                First::Said(said) => return self.answered(said.as_deref()),
                First::Tick => return Ok(Input::Tick),
            }
        }
    }

    fn interrupted(&self) -> LocalError {
        LocalError::Interrupted { under_way: self.under_way(), inside: false }
    }

    /// What was handed over and has not ended, in words.
    fn under_way(&self) -> Vec<String> {
        let begun = self
            .state
            .tasks()
            .filter(|task| matches!(task.state, TaskState::Sent | TaskState::Running))
            .filter_map(|task| request::line(task.leaf.operation.as_ref()?));
        begun.collect()
    }

    /// Decides, shows, and asks for what the run wants. What can be answered at once is the next input.
    async fn step(&mut self, input: Input) -> Result<Option<Input>, LocalError> {
        let (state, tries) = (Arc::clone(&self.state), Arc::clone(&self.tries));
        // Rules are work for the processor, so not on this thread.
        let decided = tokio::task::spawn_blocking(move || {
            let mut around = Surroundings {
                now_ms: SystemClock.now_ms(),
                ids: &mut FreshIds,
                connected: &|_| true,
                // Whoever guards the host lets nobody else change a stack meanwhile.
                held: &|_, _| None,
                tries: &|_, stack, remedy| times(&tries, stack, remedy),
            };
            decide(&state, [input], &mut around)
        });
        let decided = decided.await.map_err(LocalError::Rules)?;
        for event in decided.events {
            self.view.apply(event);
        }
        for rejected in decided.rejections.into_iter().flatten() {
            self.talk.say(format!("That was not taken: {rejected}"));
        }
        self.state = Arc::new(decided.state);
        self.ask().await
    }

    /// Asks for what is wanted and was not asked for yet.
    async fn ask(&mut self) -> Result<Option<Input>, LocalError> {
        let now_ms = SystemClock.now_ms();
        let effects = wanted(&self.state, now_ms, &|_| true);
        self.wake_at_ms = None;
        let mut still = HashMap::new();
        let mut at_once = None;
        for effect in effects {
            match effect {
                Effect::WakeAt(at_ms) => {
                    self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |earlier| earlier.min(at_ms)));
                }
                // A person ends a run on the host by leaving it. A no to a later wave comes when nothing runs.
                Effect::Cancel { .. } => {}
                Effect::Execute { order, execute, .. } => {
                    if self.handed.insert(order) {
                        self.order(order, execute).await?;
                    }
                }
                Effect::Probe { key, from, request, timeout_ms, .. } => {
                    if let Some(task) = self.asked.remove(&key) {
                        still.insert(key, task);
                    } else if from == Vantage::Host {
                        let task = self.probe(&key, request, timeout_ms).await?;
                        still.insert(key, task);
                    } else if at_once.is_none() {
                        // The others are answered in their turn: each step asks again for what is still wanted.
                        let (outcome, challenge) = (no_vantage(), Challenge::default());
                        at_once = Some(Input::Probed { key, outcome, asked_at_ms: now_ms, challenge });
                    }
                }
            }
        }
        // What is left was answered, or is not wanted any more.
        for task in std::mem::replace(&mut self.asked, still).into_values() {
            self.probes.remove(&task);
        }
        Ok(at_once)
    }

    async fn probe(
        &mut self,
        key: &ProbeKey,
        request: Request,
        timeout_ms: u32,
    ) -> Result<String, LocalError> {
        let (task, run) = (TaskId::new().to_string(), self.view.run.clone());
        self.probes.insert(task.clone(), (key.clone(), SystemClock.now_ms()));
        let (id, operation) = (task.clone(), Some(request));
        let said = match key.purpose {
            ProbePurpose::Preparation => Said::Prepare(Prepare { task: id, operation, timeout_ms, run }),
            _ => Said::Probe(Probe { task: id, operation, timeout_ms, run }),
        };
        self.say(said).await?;
        Ok(task)
    }

    async fn order(&mut self, order: TaskId, execute: Execute) -> Result<(), LocalError> {
        let manifest = Manifest::decode(execute.manifest.as_slice()).unwrap_or_default();
        let said = Order {
            order: order.to_string(),
            leaf: execute.leaf,
            run: self.view.run.clone(),
            person: manifest.person,
            remedy: self.remedy_of(order),
            not_after_ms: manifest.not_after_ms,
        };
        self.say(Said::Order(said)).await
    }

    /// The name under which the tries of an order's remedy are counted.
    fn remedy_of(&self, order: TaskId) -> String {
        let Some(Kind::Runbook(call)) = &self.state.spec().kind else { return String::new() };
        let target = self.state.tasks().find(|task| task.order == order).map(|task| task.target);
        let concluded = target.and_then(|target| self.state.targets()[target].conclusion.as_ref());
        concluded.map_or_else(String::new, |conclusion| format!("{}/{}", call.id, conclusion.remedy))
    }

    async fn say(&mut self, said: Said) -> Result<(), LocalError> {
        let sent = self.line.say(said).await;
        sent.map_err(|_| LocalError::Gone { under_way: self.under_way() })
    }

    /// What an answer is for the run.
    fn input(&mut self, answer: Answer) -> Option<Input> {
        let (task, outcome, challenge) = match answer {
            Answer::Probed(result) => (result.task, result.outcome?, Challenge::default()),
            Answer::Prepared(prepared) => {
                let challenge = Challenge { challenge: prepared.challenge, valid_ms: prepared.valid_ms };
                (prepared.task, prepared.outcome?, challenge)
            }
            Answer::Started(started) => {
                return Some(Input::Started { order: started.order.parse().ok()?, at_ms: started.at_ms });
            }
            Answer::Finished(finished) => {
                return Some(Input::Ended {
                    order: finished.order.parse().ok()?,
                    outcome: finished.outcome?,
                });
            }
            Answer::Output(chunk) => {
                self.output(&chunk);
                return None;
            }
            Answer::Welcome(_) | Answer::Busy(_) => return None,
        };
        let (key, asked_at_ms) = self.probes.remove(&task)?;
        self.asked.remove(&key);
        Some(Input::Probed { key, outcome, asked_at_ms, challenge })
    }

    /// The last line of what a step prints, in the progress line.
    fn output(&mut self, chunk: &OutputChunk) {
        let text = String::from_utf8_lossy(&chunk.data);
        if let Some(line) = text.lines().rfind(|line| !line.trim().is_empty()) {
            self.talk.progress(&escape(line, false));
        }
    }

    /// Shows what waits for the person, and asks. Something that is answered already is the next input.
    fn consult(&mut self) -> Result<Option<Input>, LocalError> {
        if self.view.awaits_signature() {
            return self.offer();
        }
        if matches!(self.question, Some(Question::Plan { .. })) {
            // It lapsed while the person thought; another one follows.
            self.question = None;
        }
        self.deeds()
    }

    /// Shows the plan and asks whether to carry it out.
    fn offer(&mut self) -> Result<Option<Input>, LocalError> {
        let planned = self.view.plan.clone().unwrap_or_default();
        if planned.manifest == self.asked_about {
            return Ok(None);
        }
        let Ok((_, manifest, leaves)) = Batch::from_parts(planned.manifest.clone(), planned.leaves.clone())
        else {
            // It was put together in this process.
            return Ok(Some(self.decline("its plan does not read")));
        };
        if !self.asked_about.is_empty() && !self.view.signed_before() {
            self.talk.say("The plan's time to start has passed; this is the new one.");
        }
        self.asked_about.clone_from(&planned.manifest);
        let look = self.talk.talk.clone();
        self.talk.say(diagnose::body(&self.view, &look));
        self.talk.say(plan::text(&self.view, &planned, &manifest, &leaves, &look));
        let loses = leaves.iter().any(loses);
        let beforehand = if loses { self.consent.yes_destroy } else { self.consent.yes };
        if beforehand {
            return Ok(Some(self.agreed(planned.manifest)));
        }
        if !self.talk.asks() {
            return Err(LocalError::Unattended);
        }
        let word =
            loses.then(|| name_of(planned.entries.iter().filter_map(|entry| self.view.target(entry.target))));
        match &word {
            Some(word) => self.talk.ask(&format!("This cannot be undone. Type {word} to go on:")),
            None => self.talk.ask("Proceed? [y/N]"),
        }
        self.question = Some(Question::Plan { manifest: planned.manifest, word });
        Ok(None)
    }

    /// The person's yes. It stands where an operator's signature would: there is no key that could sign, and whoever
    /// guards the host believes who comes through its door.
    fn agreed(&self, manifest: Vec<u8>) -> Input {
        let operator = self.view.opened.operator.clone();
        Input::Signed { manifest, signatures: vec![Signature::default()], operator }
    }

    fn decline(&self, reason: &str) -> Input {
        Input::Cancel { operator: self.view.opened.operator.clone(), reason: reason.to_owned() }
    }

    /// Tells what a person has to do now, and asks for the word that it is done. Nothing else gives that word.
    fn deeds(&mut self) -> Result<Option<Input>, LocalError> {
        let awaited: Vec<_> = self
            .view
            .awaited()
            .into_iter()
            .map(|(says, until_ms, targets)| (says.to_owned(), until_ms, targets))
            .collect();
        let pending = match &self.question {
            Some(Question::Deed { says, until_ms, .. }) => {
                awaited.iter().any(|(other, until, _)| (other, until) == (says, until_ms))
            }
            _ => false,
        };
        if pending {
            return Ok(None);
        }
        self.question = None;
        let Some((says, until_ms, targets)) = awaited.into_iter().next() else { return Ok(None) };
        let look = self.talk.talk.clone();
        let (label, until, what) = (self.view.label(&targets), look.clock(until_ms), escape(&says, true));
        self.talk.say(format!("{label}: to be done by a person, until {until}:\n  {what}"));
        if !self.talk.asks() {
            return Err(LocalError::Nobody);
        }
        self.talk.ask("Is it done? [y/N]");
        let hosts = targets.iter().filter_map(|target| self.view.target(*target));
        let hosts = hosts.map(|target| target.host_name.clone()).collect();
        self.question = Some(Question::Deed { says, until_ms, hosts });
        Ok(None)
    }

    /// What the person's answer is for the run. Silence is a no.
    fn answered(&mut self, said: Option<&str>) -> Result<Input, LocalError> {
        let yes = said.is_some_and(|said| matches!(said.to_ascii_lowercase().as_str(), "y" | "yes"));
        match self.question.take() {
            Some(Question::Plan { manifest, word }) => {
                let agrees = match &word {
                    Some(word) => said == Some(word.as_str()),
                    None => yes,
                };
                Ok(if agrees {
                    self.agreed(manifest)
                } else {
                    self.decline("the person at the host said no")
                })
            }
            Some(Question::Deed { hosts, .. }) if yes => {
                let (operator, note) = (self.view.opened.operator.clone(), String::new());
                Ok(Input::ManualDone { operator, hosts, note })
            }
            Some(Question::Deed { .. }) if said.is_none() => Err(LocalError::Nobody),
            // Asked again, for as long as the step waits; Ctrl-C ends it.
            Some(Question::Deed { .. }) | None => Ok(Input::Tick),
        }
    }
}

fn loses(leaf: &Leaf) -> bool {
    let operation = leaf.operation.as_ref().and_then(|request| Operation::of(request).ok());
    operation.is_some_and(|operation| operation.authority == Authority::OrderChallenge)
}

/// What is typed to lose something: the stack where it is one, else the host.
fn name_of<'a>(targets: impl Iterator<Item = &'a Target>) -> String {
    let targets: Vec<_> = targets.collect();
    let stacks: BTreeSet<_> = targets.iter().map(|target| target.stack.as_str()).collect();
    match Vec::from_iter(stacks)[..] {
        [stack] if !stack.is_empty() => stack.to_owned(),
        _ => targets.first().map_or_else(|| "destroy".to_owned(), |target| target.host_name.clone()),
    }
}

/// There is only this host to look from.
fn no_vantage() -> Outcome {
    let failure = Failure::new("no_vantage", super::NO_VANTAGE)
        .hint("what the world sees of this host is looked at by the controller, or from another machine");
    Outcome::ended(OutcomeStatus::Failed, failure)
}

/// When a remedy was begun on a stack of this host, by runs on the host itself; a run's first step alone counts.
fn times(tries: &[Action], stack: &str, remedy: &str) -> Vec<i64> {
    let mut seen = BTreeSet::new();
    let of_it = |action: &&Action| {
        action.remedy == remedy && (stack.is_empty() || action.stack.is_empty() || action.stack == stack)
    };
    let first = tries.iter().filter(of_it).filter(|action| seen.insert(action.run.clone()));
    first.map(|action| action.at_ms).collect()
}

/// The moment on the monotonic clock; a day from now stands for never.
fn wake(at_ms: Option<i64>) -> Instant {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let in_ms =
        at_ms.map_or(DAY_MS, |at_ms| u64::try_from(at_ms.saturating_sub(SystemClock.now_ms())).unwrap_or(0));
    Instant::now() + Duration::from_millis(in_ms.min(DAY_MS))
}
