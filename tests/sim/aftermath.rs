//! What operators do besides agreeing: the steps that are theirs, the looks where something is in doubt, and what they
//! try again.

use std::sync::Arc;

use tonic::Status;
use vigie_proto::{
    id::RunId,
    v1::{
        AcknowledgeRunRequest, OutcomeStatus, Place, ResolveRunRequest, RunEvent, RunSpec, Selector,
        WaitsOpened, WatchRunRequest, watch_run_response::Item,
    },
};
use vigie_runbook::run::{Again, State, TargetState};

use crate::{
    operator::{Operator, is_refusal, request_of, runs_of},
    world::World,
};

/// That an operator has still something to do about a run that is over.
pub(crate) struct AtWork(Arc<World>);

impl AtWork {
    pub(crate) fn begin(world: &Arc<World>) -> Self {
        world.ledger().at_work += 1;
        Self(Arc::clone(world))
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.ledger().at_work -= 1;
    }
}

impl Operator {
    /// Does what a step waits for, and says so, or forgets to.
    pub(crate) async fn deed(&self, run: &str, opened: &WaitsOpened) {
        if !opened.waits.iter().any(|wait| wait.manual) {
            return;
        }
        let name = self.world.name("r", run);
        self.world.pause(0..120_000).await;
        if self.world.chance().one_in(6) {
            return self.world.note(format_args!("{name}: its operator forgets to say that it is done"));
        }
        let request = AcknowledgeRunRequest { run: run.to_owned(), ..Default::default() };
        loop {
            match self.call(async |mut runs| runs.acknowledge_run(request_of(request.clone())).await).await {
                Some(Ok(_)) => return,
                Some(Err(status)) if is_refusal(&status) => {
                    return self.world.note(format_args!("{name}: not taken: {}", status.message()));
                }
                _ => self.world.pause(100..2_000).await,
            }
        }
    }

    /// Looks what a run that is over left in doubt, and asks for what it left undone again.
    pub(crate) async fn again_after(&self, run: RunId) -> Option<RunSpec> {
        let longest = if self.world.chance().one_in(6) { 1_500_000 } else { 60_000 };
        self.world.pause(0..longest).await;
        let state = self.read(run).await;
        for task in state.tasks() {
            let in_doubt = task.outcome.as_ref().is_some_and(|o| o.status() == OutcomeStatus::InDoubt);
            // Now and then nobody gets round to it.
            if in_doubt && !self.world.chance().one_in(4) {
                self.resolve(run, &task.leaf.order, &state.targets()[task.target]).await;
            }
        }
        self.retry(&self.read(run).await)
    }

    /// Goes and looks whether an order was done, and says so.
    async fn resolve(&self, run: RunId, order: &str, on: &TargetState) {
        let name = self.world.name("o", order);
        let done = self.world.ledger().looks(order);
        let seen = if done { "done" } else { "not done" };
        self.world.note(format_args!("{name}: an operator looks: {seen}"));
        let request = ResolveRunRequest {
            run: run.to_string(),
            hosts: vec![on.target.host_name.clone()],
            stack: on.target.stack.clone(),
            done,
            note: String::new(),
        };
        loop {
            match self.call(async |mut runs| runs.resolve_run(request_of(request.clone())).await).await {
                Some(Ok(_)) => return,
                // Its agent spoke meanwhile, or the answer to the first call was lost.
                Some(Err(status)) if is_refusal(&status) => {
                    return self.world.note(format_args!("{name}: not taken: {}", status.message()));
                }
                _ => self.world.pause(100..2_000).await,
            }
        }
    }

    /// The request for some of what is worth trying again; now and then, for whatever the run was about.
    fn retry(&self, before: &State) -> Option<RunSpec> {
        let mut chance = self.world.chance();
        if chance.one_in(4) {
            return None;
        }
        let careless = chance.one_in(5);
        let targets = before.targets().iter().enumerate();
        let worth = targets.filter(|(index, _)| careless || before.again(*index) == Again::Worth);
        let asked = worth.filter(|_| careless || !chance.one_in(4));
        let place = |target: &TargetState| Place {
            host: target.target.host_name.clone(),
            stack: target.target.stack.clone(),
        };
        let places: Vec<_> = asked.map(|(_, target)| place(target)).collect();
        let selector = Some(Selector { places, ..Selector::default() });
        let retry_of = before.run().to_string();
        let asks = selector.as_ref().is_some_and(|selector| !selector.places.is_empty());
        asks.then(|| RunSpec { selector, retry_of, ..before.spec().clone() })
    }

    /// A run as its events tell it, as ctl reads it.
    async fn read(&self, run: RunId) -> State {
        loop {
            if let Some(Ok(events)) = self.events(run).await
                && let Ok(state) = State::fold(run, &events)
            {
                return state;
            }
            self.world.pause(200..3_000).await;
        }
    }

    async fn events(&self, run: RunId) -> Option<Result<Vec<RunEvent>, Status>> {
        let process = self.world.at_work()?;
        let request = WatchRunRequest { run: run.to_string(), after_seq: 0, follow: false };
        let reading = async {
            let mut watched = runs_of(&process).watch_run(request_of(request)).await?.into_inner();
            let mut events = Vec::new();
            while let Some(item) = watched.message().await? {
                events.extend(match item.item {
                    Some(Item::Event(event)) => Some(event),
                    _ => None,
                });
            }
            Ok(events)
        };
        tokio::select! {
            biased;
            () = process.dead.cancelled() => None,
            events = reading => Some(events),
        }
    }
}
