//! Following a run to its end: events folded as they come, the plan shown and signed when it waits for that, and the
//! connection made again when it breaks. The run itself needs none of this: it goes on without us.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use tonic::{Code, Status};
use vigie_proto::{
    id::RunId,
    order::{CLOCK_ALLOWANCE_MS, SigningKey},
    text::escape,
    v1::{
        AcknowledgeRunRequest, CancelRunRequest, OutputChunk, ProbePurpose, RunMode, RunSpec, SignRunRequest,
        Target, WatchRunRequest, watch_run_response::Item,
    },
};

use super::{
    consent::{Distrust, Plan, moment, was_written_out},
    ledger::Ledger,
    pins::Pins,
    submit::{may_pass, submit},
};
use crate::{
    client::Client,
    error::Error,
    invocation::Invocation,
    output::look::count,
    view,
    view::run::{RunView, StepView, TaskView},
};

/// Before each attempt to attach again; the last one repeats.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// A controller that restarts is back by then.
const ATTEMPTS: usize = 30;

/// How long agents honour what they prepared, at most.
const CHALLENGE_MS: i64 = 300_000;

/// What was looked at longer ago is looked at anew: the signature has to arrive while agents still honour it.
const LONGEST_LOOK_MS: i64 = 290_000;

/// What is kept of a line of output that does not end, in bytes.
const LONGEST_LINE: usize = 8 * 1024;

/// Who signs, and what they asked for.
struct Signer {
    run: RunId,
    operator: String,
    key: SigningKey,
    asked: Option<RunSpec>,
    /// What was signed here, and for whom.
    ledger: Ledger,
    state: PathBuf,
}

/// Opens a run and follows it, signing its plan where the person agrees.
pub(crate) async fn open(
    invocation: &mut Invocation,
    client: &Client,
    spec: RunSpec,
) -> Result<RunView, Error> {
    // Before the run is there: without the key nobody could agree to its plan.
    client.keys.order()?;
    let run = submit(invocation, client, spec).await?;
    resume(invocation, client, run).await
}

/// Follows a run, offering its plan for signing.
pub(crate) async fn resume(
    invocation: &mut Invocation,
    client: &Client,
    run: RunId,
) -> Result<RunView, Error> {
    let state = invocation.home.state(&client.context.name)?;
    let ledger = Ledger::of(&state);
    let signer = Signer {
        run,
        operator: client.context.settings.operator.clone(),
        key: client.keys.order()?,
        asked: ledger.read(run),
        ledger,
        state,
    };
    Follower::new(invocation, client, run, Some(signer)).until_closed().await
}

/// Follows a run without taking part in it.
pub(crate) async fn watch(
    invocation: &mut Invocation,
    client: &Client,
    run: RunId,
) -> Result<RunView, Error> {
    Follower::new(invocation, client, run, None).until_closed().await
}

/// The events that there are now.
pub(crate) async fn read(invocation: &mut Invocation, client: &Client, run: RunId) -> Result<RunView, Error> {
    let mut follower = Follower::new(invocation, client, run, None);
    follower.stream(false).await?.map_err(Error::rpc("reading the run"))?;
    Ok(follower.view)
}

struct Follower<'a> {
    invocation: &'a mut Invocation,
    client: &'a Client,
    view: RunView,
    signer: Option<Signer>,
    /// The manifest that the person was asked about last.
    asked_about: Vec<u8>,
    /// The steps that the person was told to do, by their words and their end.
    told_of: Vec<(String, i64)>,
    /// What each task's output ended with, for the progress line.
    tails: HashMap<String, String>,
}

impl<'a> Follower<'a> {
    fn new(invocation: &'a mut Invocation, client: &'a Client, run: RunId, signer: Option<Signer>) -> Self {
        let view = RunView::new(&run.to_string());
        Self {
            invocation,
            client,
            view,
            signer,
            asked_about: Vec::new(),
            told_of: Vec::new(),
            tails: HashMap::new(),
        }
    }

    async fn until_closed(mut self) -> Result<RunView, Error> {
        let mut attempt = 0;
        // First what has happened already, so that nobody is asked about a plan that is history.
        let mut live = false;
        loop {
            let seen = self.view.last_seq;
            let ended = self.stream(live).await?;
            if self.view.closed.is_some() {
                self.invocation.output.clear();
                return Ok(self.view);
            }
            if self.view.last_seq > seen {
                attempt = 0;
            }
            match ended {
                Ok(()) if !live => {
                    live = true;
                    self.consent().await?;
                    self.deeds().await?;
                    continue;
                }
                Ok(()) if attempt < ATTEMPTS => {}
                Ok(()) => {
                    return Err(Error::rpc("following the run")(Status::unavailable(
                        "the run does not go on",
                    )));
                }
                Err(status) if may_pass(&status) && attempt < ATTEMPTS => {}
                Err(status) => {
                    let run = &self.view.run;
                    self.invocation
                        .output
                        .say(format!("run {run} goes on; `vigiectl runs watch {run}` attaches"));
                    return Err(Error::rpc("following the run")(status));
                }
            }
            self.pause(attempt).await?;
            attempt += 1;
        }
    }

    async fn pause(&mut self, attempt: usize) -> Result<(), Error> {
        self.invocation.output.progress("the connection was lost; attaching again");
        let pause = PAUSES[attempt.min(PAUSES.len() - 1)];
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.invocation.interrupt.wait() => Err(self.interrupted()),
        }
    }

    fn interrupted(&self) -> Error {
        Error::Interrupted { run: Some(self.view.run.clone()) }
    }

    /// Reads events until the stream ends; its own end is the inner result.
    async fn stream(&mut self, follow: bool) -> Result<Result<(), Status>, Error> {
        let request = WatchRunRequest { run: self.view.run.clone(), after_seq: self.view.last_seq, follow };
        let mut runs = self.client.runs();
        let opened = tokio::select! {
            opened = runs.watch_run(request) => opened,
            () = self.invocation.interrupt.wait() => return Err(self.interrupted()),
        };
        let mut stream = match opened {
            Ok(stream) => stream.into_inner(),
            Err(status) => return Ok(Err(status)),
        };
        loop {
            let message = tokio::select! {
                message = stream.message() => message,
                () = self.invocation.interrupt.wait() => return Err(self.interrupted()),
            };
            match message {
                Ok(None) => return Ok(Ok(())),
                Err(status) => return Ok(Err(status)),
                Ok(Some(message)) => match message.item {
                    Some(Item::Event(event)) => {
                        self.view.apply(event);
                        // What was in doubt may have been resolved behind the end.
                        if follow && self.view.closed.is_some() {
                            return Ok(Ok(()));
                        }
                        if follow {
                            self.invocation.output.progress(&progress(&self.view));
                            self.consent().await?;
                            self.deeds().await?;
                        }
                    }
                    Some(Item::Output(chunk)) => self.output(&chunk),
                    None => {}
                },
            }
        }
    }

    /// The last whole line of a running task, in the progress line.
    fn output(&mut self, chunk: &OutputChunk) {
        // Only the plan's own tasks, and only so much of a line that does not end.
        if !self.view.tasks.iter().any(|task| task.leaf.order == chunk.task) {
            return;
        }
        let tail = self.tails.entry(chunk.task.clone()).or_default();
        if tail.len() > LONGEST_LINE {
            tail.clear();
        }
        tail.push_str(&String::from_utf8_lossy(&chunk.data));
        let Some(end) = tail.rfind('\n') else { return };
        let line = tail[..end].lines().next_back().unwrap_or_default().to_owned();
        *tail = tail.split_off(end + 1);
        let task = self.view.tasks.iter().find(|task| task.leaf.order == chunk.task);
        let label = task.map(|task| self.view.label(&[task.target])).unwrap_or_default();
        self.invocation.output.progress(&format!("{label}: {}", escape(&line, false)));
    }

    /// Shows the plan that waits for a signature, asks, and signs or ends the run.
    async fn consent(&mut self) -> Result<(), Error> {
        if !self.view.awaits_signature() {
            return Ok(());
        }
        let Some(signer) = self.signer.as_ref() else {
            let plan = self.view.plan.as_ref().map(|planned| planned.manifest.clone()).unwrap_or_default();
            if plan != self.asked_about {
                let run = &self.view.run;
                let line = format!(
                    "The run waits for a signature; `vigiectl runs resume {run}` shows its plan and asks."
                );
                self.invocation.output.say(line);
                self.asked_about = plan;
            }
            return Ok(());
        };
        let plan =
            Plan::examine(&self.view, signer.asked.as_ref(), &signer.operator, self.invocation.now_ms())?;
        if plan.bytes() == self.asked_about {
            return Ok(());
        }
        // One plan at a time: a second one that is asked for while the first may still start would do it all twice.
        let signed_until = signer.ledger.signed_until(signer.run, plan.bytes(), &plan.places(&self.view))?;
        if let Some(until) = signed_until.filter(|until| self.invocation.now_ms() <= *until) {
            return Err(Distrust::SignedAlready(moment(until)).into());
        }
        Pins::of(&signer.state)?.check(plan.hosts(&self.view))?;
        let written_out = !signer.ledger.was_signed(signer.run) && was_written_out(signer.asked.as_ref());
        let replaced = !self.view.signed_before() && !self.asked_about.is_empty();
        if replaced {
            self.invocation.output.say("The plan's time to start has passed; this is the new one.");
        }
        self.asked_about = plan.bytes().to_vec();
        if !written_out && !self.agrees(&plan).await? {
            return self.decline().await;
        }
        self.sign(&plan).await
    }

    /// Shows a plan and asks; true for a yes.
    async fn agrees(&mut self, plan: &Plan) -> Result<bool, Error> {
        let look = self.invocation.output.talk.clone();
        if self.view.runbook_id().is_some() {
            self.invocation.output.say(view::diagnose::body(&self.view, &look));
        }
        let planned = self.view.plan.clone().unwrap_or_default();
        self.invocation.output.say(view::plan::text(
            &self.view,
            &planned,
            &plan.manifest,
            &plan.leaves,
            &look,
        ));
        let beforehand = match plan.loses() {
            true => self.invocation.yes_destroy,
            false => self.invocation.yes,
        };
        if beforehand {
            return Ok(true);
        }
        if !self.invocation.asks() {
            return Err(Error::Unattended { run: self.view.run.clone() });
        }
        let run = self.view.run.clone();
        if plan.loses() {
            let word = name_of(plan.hosts(&self.view));
            return self.invocation.types(&word, Some(&run)).await;
        }
        self.invocation.agrees("Proceed?", Some(&run)).await
    }

    async fn sign(&mut self, plan: &Plan) -> Result<(), Error> {
        let Some(signer) = &self.signer else { return Ok(()) };
        let now_ms = self.invocation.now_ms();
        let prepared_at = self.view.prepared_at_ms().filter(|_| plan.loses());
        if prepared_at.is_some_and(|at| now_ms - at > LONGEST_LOOK_MS) {
            self.invocation.output.say("What was shown is too old by now: it is looked at anew.");
            return self.ask_anew(plan).await;
        }
        // An agent forgets what it was asked to prepare five minutes after; what loses nothing has its window.
        let until_ms = match plan.loses_by_all() {
            true => now_ms + CHALLENGE_MS,
            false => plan.manifest.not_after_ms.saturating_add(CLOCK_ALLOWANCE_MS),
        };
        // Before anything is sent: whoever comes after a crash has to know.
        signer.ledger.sign(signer.run, plan.bytes(), until_ms, &plan.places(&self.view), now_ms)?;
        vigie_failpoint::reached("ctl.signing");
        Pins::of(&signer.state)?.remember(plan.hosts(&self.view))?;
        let signature = plan.sign(&signer.key);
        let request = SignRunRequest {
            run: self.view.run.clone(),
            manifest: plan.bytes().to_vec(),
            signatures: vec![signature],
        };
        let mut attempt = 0;
        loop {
            match self.client.runs().sign_run(request.clone()).await {
                Ok(_) => return Ok(()),
                // The plan's window passed while the person thought, or somebody ended the run: what follows says which. Of a
                // word that is given again it says only that the first one arrived.
                Err(status) if status.code() == Code::FailedPrecondition => {
                    if attempt == 0 {
                        let why = escape(status.message(), false).into_owned();
                        self.invocation.output.say(format!("The plan was not taken: {why}"));
                    }
                    return Ok(());
                }
                // It arrived or not. The same signature over the same plan is the same word, however often it is given; a
                // run whose controller never heard it would wait for ever.
                Err(status) if may_pass(&status) && attempt < ATTEMPTS => {}
                Err(status) => return Err(Error::rpc("signing the plan")(status)),
            }
            self.pause(attempt).await?;
            attempt += 1;
        }
    }

    /// Asks for the plan to be made anew, with no signature.
    async fn ask_anew(&mut self, plan: &Plan) -> Result<(), Error> {
        let (run, manifest) = (self.view.run.clone(), plan.bytes().to_vec());
        let request = SignRunRequest { run, manifest, signatures: Vec::new() };
        match self.client.runs().sign_run(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(Error::rpc("asking for the plan anew")(status)),
        }
    }

    /// Tells what a person has to do now, and asks for the word that it is done. Nothing else gives that word: who was
    /// asked to agree to a plan has not yet done what stands in it.
    async fn deeds(&mut self) -> Result<(), Error> {
        let awaited = self.view.awaited().into_iter();
        let awaited: Vec<_> = awaited
            .map(|(says, until_ms, targets)| (says.to_owned(), until_ms, targets))
            .filter(|(says, until_ms, _)| {
                !self.told_of.iter().any(|told| (&told.0, told.1) == (says, *until_ms))
            })
            .collect();
        for (says, until_ms, targets) in awaited {
            self.told_of.push((says.clone(), until_ms));
            let look = self.invocation.output.talk.clone();
            let label = self.view.label(&targets);
            let until = look.clock(until_ms);
            let what = escape(&says, true).into_owned();
            self.invocation.output.say(format!("{label}: to be done by a person, until {until}:\n  {what}"));
            let run = self.view.run.clone();
            let hosts = targets.iter().filter_map(|target| self.view.target(*target));
            let hosts: Vec<_> = hosts.map(|target| target.host_name.clone()).collect();
            let asks = self.signer.is_some() && self.invocation.asks() && !self.invocation.yes;
            if asks && self.invocation.agrees("Is it done?", Some(&run)).await? {
                self.acknowledge(hosts).await?;
            } else {
                self.invocation.output.say(format!("`vigiectl runs approve {run}` says that it is done."));
            }
        }
        Ok(())
    }

    async fn acknowledge(&mut self, hosts: Vec<String>) -> Result<(), Error> {
        let request = AcknowledgeRunRequest { run: self.view.run.clone(), hosts, note: String::new() };
        match self.client.runs().acknowledge_run(request).await {
            Ok(_) => Ok(()),
            // The time was up, or somebody else said it.
            Err(status) if status.code() == Code::FailedPrecondition => {
                self.invocation.output.say(escape(status.message(), false).into_owned());
                Ok(())
            }
            Err(status) => Err(Error::rpc("saying that it is done")(status)),
        }
    }

    async fn decline(&mut self) -> Result<(), Error> {
        let request =
            CancelRunRequest { run: self.view.run.clone(), reason: "the operator said no".to_owned() };
        match self.client.runs().cancel_run(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(()),
            Err(status) => Err(Error::rpc("declining the plan")(status)),
        }
    }
}

/// What is typed to lose something: the stack where it is one, the host where it is one.
fn name_of<'a>(targets: impl Iterator<Item = &'a Target>) -> String {
    let targets: Vec<_> = targets.collect();
    let (mut stacks, mut hosts): (Vec<_>, Vec<_>) =
        targets.iter().map(|target| (target.stack.as_str(), target.host_name.as_str())).unzip();
    stacks.sort_unstable();
    stacks.dedup();
    hosts.sort_unstable();
    hosts.dedup();
    match (&stacks[..], &hosts[..]) {
        ([stack], _) if !stack.is_empty() => (*stack).to_owned(),
        (_, [host]) => (*host).to_owned(),
        _ => "destroy".to_owned(),
    }
}

/// Where the run stands, in a line that is drawn over.
fn progress(view: &RunView) -> String {
    let title = escape(&view.opened.title, false);
    let total = view.opened.targets.len();
    let distinct = |targets: Vec<u32>| targets.into_iter().collect::<std::collections::BTreeSet<_>>().len();
    if view.signed {
        if let Some(held) = view.held.values().next() {
            let (run, says) = (escape(&held.run, false), escape(&held.says, false));
            return format!("{title}: waits for run {run} ({says}), which changes the same stack");
        }
        let waits = view.steps.iter().find_map(|((target, _), step)| match step {
            StepView::Open { says, .. } => Some((*target, says)),
            _ => None,
        });
        if let Some((target, says)) = waits {
            return format!("{title}: {} waits: {}", view.label(&[target]), escape(says, false));
        }
        let tasks = view.present_tasks();
        let left_out = |task: &&TaskView| {
            matches!(view.steps.get(&(task.target, task.leaf.step)), Some(StepView::LeftOut(_)))
        };
        let ended = tasks.iter().filter(|task| task.outcome.is_some() || left_out(task)).count();
        if ended < tasks.len() {
            return format!("{title}: {ended} of {} ended", count(tasks.len(), "task"));
        }
        if view.runbook_id().is_none() {
            return format!("{title}: ended");
        }
        let round = view.observations.iter().filter(|seen| seen.purpose() == ProbePurpose::Verification);
        let round = round.map(|seen| seen.round).max().unwrap_or(0) + 1;
        return format!("{title}: verifying, round {round}");
    }
    if view.awaits_signature() {
        return format!("{title}: waits for a signature");
    }
    let previews = view.observations.iter().any(|seen| seen.purpose() == ProbePurpose::Preview);
    if previews || (view.conclusions.len() == total && view.mode() != RunMode::Diagnose && total > 0) {
        return format!("{title}: previewing");
    }
    let answered = distinct(view.observations.iter().map(|seen| seen.target).collect());
    format!("{title}: {answered} of {} answered", count(total, "target"))
}
