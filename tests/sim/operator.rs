//! Operators: they open runs, agree to plans and sign them as ctl does, change their minds, and go away.

use std::sync::Arc;

use tonic::{Code, Request, Status};
use vigie_controller::sim::Door;
use vigie_proto::{
    id::RunId,
    order::{Batch, Domain},
    v1::{
        self, CancelRunRequest, ExecRequest, Leaf, Manifest, Planned, PostgresTerminateRequest, RunMode,
        RunSpec, RunbookCall, Selector, SignRunRequest, SubmitRunRequest, WatchRunRequest, request,
        run_event::Event, run_spec::Kind, runs_client::RunsClient, watch_run_response::Item,
    },
};

use crate::{aftermath::AtWork, controller, link::peer, world::World};

pub(crate) const NAME: &str = "ada";

/// What an operator asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wish {
    /// A program on every host.
    Exec,
    /// A restart of every stack: two orders for each host.
    Restart,
    /// The end of sessions on every stack, which loses something.
    Terminate,
    /// A remedy by waves, with a budget for failures.
    Stopped,
    /// A remedy that loses something: a plan and a signature for each wave.
    Stuck,
    /// A remedy with a step for a person between its orders.
    ByHand,
}

pub(crate) const WISHES: [Wish; 6] =
    [Wish::Exec, Wish::Restart, Wish::Terminate, Wish::Stopped, Wish::Stuck, Wish::ByHand];

/// How often a run is tried again, at most.
const RETRIES: usize = 2;

impl Wish {
    fn spec(self) -> RunSpec {
        let call = |id: &str| {
            Kind::Runbook(RunbookCall { id: id.to_owned(), mode: RunMode::Run.into(), ..Default::default() })
        };
        let operation = |operation| Kind::Operation(v1::Request { operation: Some(operation) });
        let kind = match self {
            Self::Exec => operation(request::Operation::Exec(ExecRequest {
                program: "true".to_owned(),
                args: Vec::new(),
            })),
            Self::Restart => operation(request::Operation::ComposeRestart(v1::ComposeRestartRequest {
                services: vec!["backend".to_owned()],
                ..Default::default()
            })),
            Self::Terminate => {
                operation(request::Operation::PostgresTerminate(PostgresTerminateRequest::default()))
            }
            Self::Stopped => call("stopped"),
            Self::Stuck => call("stuck"),
            Self::ByHand => call("by-hand"),
        };
        // Written out, since an empty selector means nothing.
        let selector = Selector { hosts: "vps[1-5]".to_owned(), ..Default::default() };
        RunSpec { selector: Some(selector), kind: Some(kind), ..RunSpec::default() }
    }
}

/// An operator with a laptop on which the run's id is.
pub(crate) struct Operator {
    pub(crate) world: Arc<World>,
    pub(crate) wish: Wish,
}

impl Operator {
    /// Sees a run through, and what it left undone, or goes away in the middle of it.
    pub(crate) async fn work(self) {
        let leaves = self.world.chance().one_in(5);
        match leaves {
            true => {
                let time = self.world.chance().millis(0..60_000);
                if tokio::time::timeout(time, self.see_to_the_end()).await.is_err() {
                    self.world.note(format_args!("{:?}: its operator goes away", self.wish));
                }
            }
            false => self.see_to_the_end().await,
        }
    }

    async fn see_to_the_end(&self) {
        let (mut spec, mut at_work) = (self.wish.spec(), None);
        for _ in 0..=RETRIES {
            let run = RunId::new();
            if !self.see_through(&run.to_string(), spec, at_work.take()).await {
                return;
            }
            let after = AtWork::begin(&self.world);
            let Some(again) = self.again_after(run).await else { return };
            (spec, at_work) = (again, Some(after));
        }
    }

    /// False when the run was not opened. Whoever tries another one again is at work until this one is open.
    async fn see_through(&self, run: &str, spec: RunSpec, at_work: Option<AtWork>) -> bool {
        let name = self.world.name("r", run);
        let tries = if spec.retry_of.is_empty() { "" } else { " again" };
        self.world.note(format_args!("{name}: {:?}{tries}", self.wish));
        loop {
            let request = SubmitRunRequest { run: run.to_owned(), spec: Some(spec.clone()) };
            let submitted =
                self.call(async |mut runs| runs.submit_run(request_of(request.clone())).await).await;
            match submitted {
                Some(Ok(_)) => break,
                Some(Err(status)) if is_refusal(&status) => {
                    // Not its words: ids stand in them.
                    let code = status.metadata().get("vigie-code").map_or("", |code| code.to_str().unwrap());
                    self.world.note(format_args!("{name}: refused: {code}"));
                    self.world.ledger().count(if at_work.is_some() {
                        "retries refused"
                    } else {
                        "runs refused"
                    });
                    return false;
                }
                _ => self.world.pause(100..2_000).await,
            }
        }
        if at_work.is_some() {
            self.world.ledger().count("retries");
        }
        drop(at_work);
        let cancels = self.world.chance().one_in(6);
        let cancelling = async {
            match cancels {
                true => {
                    self.world.pause(0..40_000).await;
                    self.cancel(run).await;
                }
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.watch(run) => {}
            () = async { cancelling.await; std::future::pending().await } => {}
        }
        true
    }

    async fn cancel(&self, run: &str) {
        let name = self.world.name("r", run);
        self.world.note(format_args!("{name}: its operator wants it to end"));
        loop {
            let request = CancelRunRequest { run: run.to_owned(), reason: String::new() };
            match self.call(async |mut runs| runs.cancel_run(request_of(request.clone())).await).await {
                Some(Ok(_)) => return,
                Some(Err(status)) if is_refusal(&status) => return,
                _ => self.world.pause(100..2_000).await,
            }
        }
    }

    /// Watches until the run is closed, and signs what it waits with.
    async fn watch(&self, run: &str) {
        let mut after_seq = 0;
        loop {
            let request = WatchRunRequest { run: run.to_owned(), after_seq, follow: true };
            let Some(process) = self.world.at_work() else {
                self.world.pause(200..3_000).await;
                continue;
            };
            let follow = async {
                let mut runs = runs_of(&process);
                let mut watched = runs.watch_run(request_of(request)).await?.into_inner();
                while let Some(item) = watched.message().await? {
                    let Some(Item::Event(event)) = item.item else { continue };
                    match event.event {
                        Some(Event::Planned(planned)) => self.sign(run, &planned).await,
                        Some(Event::WaitsOpened(opened)) => self.deed(run, &opened).await,
                        Some(Event::Closed(_)) => return Ok(true),
                        _ => {}
                    }
                    // Only now: what the controller died of in the middle comes again.
                    after_seq = event.seq;
                }
                Ok::<_, Status>(false)
            };
            tokio::select! {
                biased;
                () = process.dead.cancelled() => {}
                closed = follow => if matches!(closed, Ok(true)) {
                    return;
                },
            }
            self.world.pause(200..3_000).await;
        }
    }

    /// Looks at a plan for a while, and signs its exact bytes.
    async fn sign(&self, run: &str, planned: &Planned) {
        let name = self.world.name("r", run);
        let thinks = {
            let mut chance = self.world.chance();
            let longest = if chance.one_in(12) { 1_000_000 } else { 8_000 };
            chance.millis(0..longest)
        };
        tokio::time::sleep(thinks).await;
        let (batch, manifest, leaves): (Batch, Manifest, Vec<Leaf>) =
            Batch::from_parts(planned.manifest.clone(), planned.leaves.clone()).unwrap();
        if manifest.person != NAME || manifest.run != run {
            self.world.violated(format_args!("{name}: the plan is not this run's"));
            return;
        }
        for leaf in &leaves {
            self.world.ledger().signed(&manifest, leaf);
        }
        let signature = self.world.key.sign(Domain::Manifest, batch.manifest());
        // Long past its window it is asked for anew by no signature, as ctl does.
        let late = self.world.now_ms() > manifest.not_after_ms;
        self.world.note(format_args!("{name}: signed, {} orders", leaves.len()));
        loop {
            let request = SignRunRequest {
                run: run.to_owned(),
                manifest: batch.manifest().to_vec(),
                signatures: if late { Vec::new() } else { vec![signature.clone()] },
            };
            match self.call(async |mut runs| runs.sign_run(request_of(request.clone())).await).await {
                Some(Ok(_)) => return,
                Some(Err(status)) if is_refusal(&status) => {
                    self.world.note(format_args!("{name}: not taken: {}", status.message()));
                    return;
                }
                _ => self.world.pause(100..2_000).await,
            }
        }
    }

    /// Calls the controller; `None` when nobody knows what came of it.
    pub(crate) async fn call<T>(
        &self,
        call: impl AsyncFnOnce(RunsClient<Door>) -> Result<T, Status>,
    ) -> Option<Result<T, Status>> {
        let process = self.world.at_work()?;
        let lag = self.world.lag();
        tokio::time::sleep(lag).await;
        let answer = tokio::select! {
            biased;
            () = process.dead.cancelled() => return None,
            answer = call(runs_of(&process)) => answer,
        };
        let lost = self.world.chance().one_in(12);
        (!lost).then_some(answer)
    }
}

pub(crate) fn runs_of(process: &controller::Process) -> RunsClient<Door> {
    // As in ctl: an event may hold what a whole wave reported.
    RunsClient::new(process.controller.operators.clone()).max_decoding_message_size(64 * 1024 * 1024)
}

pub(crate) fn request_of<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(peer(&format!("spiffe://vigie/operator/{NAME}"), NAME.to_owned()));
    request
}

/// Whether asking again would bring the same answer.
pub(crate) fn is_refusal(status: &Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::Internal | Code::Unknown | Code::ResourceExhausted)
}
