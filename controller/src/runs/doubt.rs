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

#[cfg(test)]
mod tests {
    use std::{io, path::PathBuf, sync::Arc};

    use async_trait::async_trait;
    use vigie_proto::v1::{
        ExecRequest, ExecResult, Owned, Request, RunEvent, RunSpec, RunVerdict, Signature, Target, request,
        result, run_event::Event, run_spec::Kind,
    };
    use vigie_runbook::run::open;

    use super::*;
    use crate::{
        clock::SystemClock,
        fleet::Fleet,
        runbooks::Runbooks,
        runs::Evaluation,
        store::{
            Store as _,
            memory::{Disk, Memory, Weather},
        },
    };

    /// Whatever is asked of the store, somebody else has a turn before it.
    struct Turns;

    #[async_trait]
    impl Weather for Turns {
        async fn before(&self, _: bool) -> io::Result<()> {
            tokio::task::yield_now().await;
            Ok(())
        }

        async fn after(&self) {}
    }

    const NOW_MS: i64 = 1_800_000_000_000;

    /// A run of one order on each of two hosts, of which nothing was heard any more.
    fn lost() -> (Vec<RunEvent>, State) {
        let exec = ExecRequest { program: "uptime".to_owned(), args: Vec::new() };
        let request = Request { operation: Some(request::Operation::Exec(exec)) };
        let spec = RunSpec { kind: Some(Kind::Operation(request)), ..RunSpec::default() };
        let target = |name: &str| Target {
            host: HostId::new().to_string(),
            host_name: name.to_owned(),
            incarnation: 1,
            ..Target::default()
        };
        let opened = open(spec, "ada", vec![target("vps1"), target("vps2")], None).unwrap();
        let owned = Owned { epoch: 1, controller: "one".to_owned() };
        let mut events: Vec<_> = (1..)
            .zip([Event::Opened(opened), Event::Owned(owned)])
            .map(|(seq, event)| RunEvent { seq, at_ms: NOW_MS, event: Some(event) })
            .collect();
        let mut state = State::fold(RunId::new(), &events).unwrap();
        let mut decides = |word: Input, now_ms: i64| {
            let mut around = Surroundings {
                now_ms,
                ids: &mut FreshIds,
                connected: &|_| true,
                held: &|_, _| None,
                tries: &|_, _, _| Vec::new(),
            };
            let decision = decide(&state, [word], &mut around);
            assert_eq!(decision.rejections, [None]);
            state = decision.state;
            events.extend(decision.events);
            events.last().unwrap().event.clone().unwrap()
        };
        let Event::Planned(plan) = decides(Input::Tick, NOW_MS) else { panic!("a plan comes first") };
        let (manifest, signatures) = (plan.manifest, vec![Signature::default()]);
        decides(Input::Signed { manifest, signatures, operator: "ada".to_owned() }, NOW_MS);
        decides(Input::Tick, NOW_MS + 24 * 3_600_000);
        assert_eq!(state.closed().unwrap().0, RunVerdict::InDoubt);
        (events, state)
    }

    /// Both read the log before either has written into it.
    #[tokio::test]
    async fn of_two_late_words_at_once_both_are_kept() {
        let (events, state) = lost();
        let run = state.run();
        let store = Arc::new(Memory::open(Disk::default(), Arc::new(Turns)));
        let intent = Intent::own("test", "", "");
        store.open_run(&intent, run, &events, &state.summary()).await.unwrap();
        let fleet = Fleet::load(store.clone(), Arc::new(SystemClock)).await.unwrap();
        let runbooks = Runbooks::open(PathBuf::from("/nonexistent"));
        let runs = Runs::new(store, fleet, runbooks, "one".to_owned(), Evaluation::Aside);
        let done = Outcome::succeeded(result::Operation::Exec(ExecResult::default()));
        let orders: Vec<_> = state.tasks().map(|task| (task.host, task.order)).collect();
        let [(first, one), (second, two)] = orders[..] else { panic!("{orders:?}") };
        let (a, b) =
            tokio::join!(runs.hear_late(first, one, run, &done), runs.hear_late(second, two, run, &done));
        assert!(a.unwrap() && b.unwrap());
        assert_eq!(runs.state(run).await.unwrap().closed().unwrap().0, RunVerdict::Ok);
        assert!(!runs.hear_late(first, two, run, &done).await.unwrap(), "another host's order");
    }
}
