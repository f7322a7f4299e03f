//! What is learnt of a run after it was closed: an agent speaks that nobody had heard of any more, or a person looked where
//! an order was in doubt.

use vigie_proto::{
    id::{HostId, RunId, TaskId},
    v1::{Outcome, ResolveRunRequest, RunSummary},
};
use vigie_runbook::run::{Decision, FreshIds, Input, State, Surroundings, decide};

use super::{Runs, claim, report::fitting};
use crate::{
    audit::Intent,
    error::RunsError,
    permit::Permit,
    store::{Claim, StoreError},
};

impl Runs {
    /// Takes a person's word about orders in doubt.
    ///
    /// # Errors
    /// When there is no such run, or nothing of it is in doubt there.
    pub async fn resolve(
        &self,
        permit: &Permit,
        request: ResolveRunRequest,
    ) -> Result<RunSummary, RunsError> {
        let ResolveRunRequest { run, hosts, done, note, stack } = request;
        let run = self.find(&run).await?;
        let operator = permit.caller().name().to_owned();
        let on = if hosts.is_empty() { String::new() } else { format!(" on {}", hosts.join(", ")) };
        let of = if stack.is_empty() { String::new() } else { format!(" · {stack}") };
        let what = if done { "has happened" } else { "has not happened" };
        let intent =
            Intent::new(permit, &run.to_string(), &format!("what was in doubt{on}{of} {what}: {note}"));
        let entry = self.note(run, intent).await?;
        let word = Input::Resolve { operator, hosts, stack, done, note };
        let answer = match self.is_live(run) {
            true => self.say(&entry, run, word).await,
            false => self.amend(run, word).await,
        };
        self.conclude(entry, answer).await
    }

    /// An order's outcome whose run is closed, and may have lost sight of it. True when the run has the order: its log tells how
    /// it ended, by this word or an earlier one.
    pub(super) async fn hear_late(
        &self,
        host: HostId,
        order: TaskId,
        run: RunId,
        outcome: &Outcome,
    ) -> Result<bool, RunsError> {
        let state = self.state(run).await?;
        let Some(task) = state.tasks().find(|task| task.order == order && task.host == host) else {
            return Ok(false);
        };
        let operation = task.leaf.operation.as_ref().and_then(|request| request.operation.as_ref());
        let outcome = fitting(outcome.clone(), operation.map_or("", |operation| operation.name()));
        self.amend(run, Input::Ended { order, outcome }).await.map(|_| true)
    }

    /// Writes one more word behind the end of a closed run.
    async fn amend(&self, run: RunId, word: Input) -> Result<RunSummary, RunsError> {
        let mut overtaken_at = 0;
        loop {
            let Some(mandate) = self.0.store.closed_run(run).await? else {
                return Err(self.not_live(run).await);
            };
            let state = self.state(run).await?;
            let decision = decided(&state, word.clone(), self.0.clock.now_ms());
            if let Some(rejected) = decision.rejections.iter().flatten().next() {
                return Err(rejected.clone().into());
            }
            let summary = decision.state.summary();
            if decision.events.is_empty() {
                return Ok(summary);
            }
            let mandate =
                claim::for_decision(&mandate.claiming(claim::of(&state)), &decision, Claim::Observing);
            match self.0.store.append(&mandate, &decision.events, &summary, &[]).await {
                // Another word came first, and this one is decided on behind it.
                Err(StoreError::Overtaken { .. }) if state.last_seq() > overtaken_at => {
                    overtaken_at = state.last_seq();
                }
                appended => return Ok(appended.map(|()| summary)?),
            }
        }
    }
}

/// What a closed run makes of a word: it asks for nothing any more, whatever the world is like.
fn decided(state: &State, word: Input, now_ms: i64) -> Decision {
    let mut around = Surroundings {
        now_ms,
        ids: &mut FreshIds,
        connected: &|_| false,
        held: &|_, _| None,
        tries: &|_, _, _| Vec::new(),
    };
    decide(state, [word], &mut around)
}
