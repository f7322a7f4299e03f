//! A host's hands: they count what they do where no crash reaches.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigie_agent::{
    host::{
        child::OutputSink,
        executor::{Executor, Ordered, Permitted},
        journal::Started,
        redaction::{Patterns, RedactionError},
    },
    operations::witness::Witness,
};
use vigie_proto::{
    id::TaskId,
    v1::{
        ComposeRestartResult, ContainerInspectResult, ExecResult, Failure, HttpCheckResult, Outcome,
        OutcomeStatus, PostgresTerminatePreviewResult, PostgresTerminateResult, request, result,
    },
};

use crate::world::{World, lock};

/// The hands of one process.
pub(crate) struct Hands {
    pub(crate) world: Arc<World>,
    pub(crate) host: usize,
}

impl Hands {
    /// What an order does goes through here, whatever it is.
    async fn act(&self, operation: &request::Operation, ordered: &Ordered) -> Outcome {
        let order = ordered.order.to_string();
        self.world.begins(self.host, &order);
        let (before, after, ends) = {
            let mut chance = self.world.chance();
            let longest = if chance.one_in(8) { 20_000 } else { 2_000 };
            (chance.millis(0..longest), chance.millis(0..longest / 2), chance.below(20))
        };
        tokio::select! {
            biased;
            () = tokio::time::sleep(before) => {}
            () = ordered.stop.cancelled() => {
                let stopped = Failure::new("simulated", "it was stopped before it did anything");
                return self.returns(&order, Outcome::ended(OutcomeStatus::Cancelled, stopped));
            }
        }
        if ends == 0 {
            let nothing = Failure::new("simulated", "it could not be done");
            return self.returns(&order, Outcome::ended(OutcomeStatus::Failed, nothing));
        }
        self.world.does(self.host, &order);
        if let Some(stack) = stack_of(operation) {
            lock(&self.world.hosts[self.host].ill).remove(&stack);
        }
        tokio::time::sleep(after).await;
        match ends {
            1 => {
                let half = Failure::new("simulated", "it was done, and went wrong");
                self.returns(&order, Outcome::ended(OutcomeStatus::Failed, half))
            }
            _ => self.returns(&order, Outcome::succeeded(done(operation))),
        }
    }

    fn returns(&self, order: &str, outcome: Outcome) -> Outcome {
        self.world.returned(self.host, order, &outcome);
        outcome
    }

    fn answer(&self, operation: &request::Operation) -> Outcome {
        let stack = stack_of(operation);
        let ill = stack.is_some_and(|stack| lock(&self.world.hosts[self.host].ill).contains(&stack));
        Outcome::succeeded(match operation {
            request::Operation::ContainerInspect(_) => {
                let state = if ill { "exited" } else { "running" }.to_owned();
                let found = ContainerInspectResult { present: true, state, ..Default::default() };
                result::Operation::ContainerInspect(found)
            }
            request::Operation::HttpCheck(_) => {
                let status = if ill { 502 } else { 200 };
                result::Operation::HttpCheck(HttpCheckResult { status, ..Default::default() })
            }
            request::Operation::PostgresTerminatePreview(_) => {
                let found = PostgresTerminatePreviewResult { present: true, total: 3, ..Default::default() };
                result::Operation::PostgresTerminatePreview(found)
            }
            _ => return Outcome::refused(Failure::new("simulated", "nobody asks this")),
        })
    }
}

fn stack_of(operation: &request::Operation) -> Option<String> {
    operation.clone().stack_mut().map(|stack| stack.clone())
}

fn done(operation: &request::Operation) -> result::Operation {
    match operation {
        request::Operation::ComposeRestart(_) => {
            result::Operation::ComposeRestart(ComposeRestartResult::default())
        }
        request::Operation::PostgresTerminate(_) => {
            result::Operation::PostgresTerminate(PostgresTerminateResult::default())
        }
        _ => result::Operation::Exec(ExecResult::default()),
    }
}

#[async_trait]
impl Executor for Hands {
    async fn permits(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        Ok(Permitted { operation: operation.clone(), exclusive: stack_of(operation) })
    }

    async fn run(
        &self,
        operation: &request::Operation,
        _: Instant,
        _: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome {
        match ordered {
            Some(ordered) => self.act(operation, &ordered).await,
            None => {
                self.world.pause(0..50).await;
                self.answer(operation)
            }
        }
    }

    async fn look_back(&self, order: TaskId, _: &Started, _: i64, _: CancellationToken) -> Witness {
        self.world.pause(0..200).await;
        let seen = self.world.was_done(&order.to_string());
        let tells = self.world.chance().below(6);
        match (seen, tells) {
            (_, 0) => Witness::Unknown("what is seen fits both".to_owned()),
            (_, 1) => Witness::Silent("nothing answers yet".to_owned()),
            (true, _) => Witness::Done("it is seen".to_owned()),
            (false, _) => Witness::NotDone("it is not seen".to_owned()),
        }
    }

    fn forget(&self, _: TaskId) {}

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Ok(Arc::default())
    }
}
