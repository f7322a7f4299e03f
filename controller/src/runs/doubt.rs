//! What is learnt of a run after it was closed: an agent speaks that nobody had heard of any more, or a person looked where
//! an order was in doubt.

use vigie_proto::{
    id::{HostId, RunId, TaskId},
    v1::{Outcome, ResolveRunRequest, RunSummary},
};
use vigie_runbook::run::{Decision, FreshIds, Input, State, Surroundings, decide};

use super::{Runs, claim, report::fitting};
use crate::{audit::Intent, error::RunsError, permit::Permit};

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
        let ResolveRunRequest { run, hosts, done, note } = request;
        let run = self.find(&run).await?;
        let operator = permit.caller().name().to_owned();
        let on = if hosts.is_empty() { String::new() } else { format!(" on {}", hosts.join(", ")) };
        let what = if done { "has happened" } else { "has not happened" };
        let intent = Intent::new(permit, &run.to_string(), &format!("what was in doubt{on} {what}: {note}"));
        let entry = self.note(run, intent).await?;
        let word = Input::Resolve { operator, hosts, done, note };
        let answer = match self.is_live(run) {
            true => self.say(&entry, run, word).await,
            false => self.amend(run, word).await,
        };
        self.conclude(entry, answer).await
    }

    /// An order's outcome whose run may be closed, and may have lost sight of it. One that is nobody's news changes nothing.
    pub(super) async fn hear_late(
        &self,
        host: HostId,
        order: TaskId,
        run: RunId,
        outcome: &Outcome,
    ) -> Result<(), RunsError> {
        if self.is_live(run) || self.0.store.closed_run(run).await?.is_none() {
            return Ok(());
        }
        let state = self.state(run).await?;
        let Some(task) = state.tasks().find(|task| task.order == order && task.host == host) else {
            return Ok(());
        };
        let operation = task.leaf.operation.as_ref().and_then(|request| request.operation.as_ref());
        let outcome = fitting(outcome.clone(), operation.map_or("", |operation| operation.name()));
        self.amend(run, Input::Ended { order, outcome }).await.map(drop)
    }

    /// Writes one more word behind the end of a closed run.
    async fn amend(&self, run: RunId, word: Input) -> Result<RunSummary, RunsError> {
        let Some(mandate) = self.0.store.closed_run(run).await? else {
            return Err(self.not_live(run).await);
        };
        let state = self.state(run).await?;
        let decision = decided(&state, word, self.0.clock.now_ms());
        if let Some(rejected) = decision.rejections.into_iter().flatten().next() {
            return Err(rejected.into());
        }
        let summary = decision.state.summary();
        if !decision.events.is_empty() {
            let mandate = mandate.claiming(claim::of(&state));
            self.0.store.append(&mandate, &decision.events, &summary, &[]).await?;
        }
        Ok(summary)
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
