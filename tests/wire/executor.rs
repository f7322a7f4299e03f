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
    v1::{Failure, Outcome, OutcomeStatus, request},
};

use crate::{
    common::{answer, done, stack_of, witness},
    world::{World, lock},
};

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
        let host = &self.world.hosts[self.host];
        answer(operation, stack_of(operation).is_some_and(|stack| lock(&host.ill).contains(&stack)))
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
        witness(seen, tells)
    }

    fn forget(&self, _: TaskId) {}

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Ok(Arc::default())
    }
}
