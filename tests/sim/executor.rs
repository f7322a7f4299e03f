//! A host's hands: they count what they do where no crash reaches.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

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
    v1::{CapturedText, ExecResult, Failure, Outcome, OutcomeStatus, request, result},
};

use crate::{
    common::{answer, done, stack_of, witness},
    mutants::Mutant,
    world::{World, lock},
};

/// The hands of one process.
pub(crate) struct Hands {
    pub(crate) world: Arc<World>,
    pub(crate) host: usize,
    pub(crate) alive: Arc<AtomicBool>,
}

impl Hands {
    async fn while_alive(&self) {
        if !self.alive.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// What an order does goes through here, whatever it is.
    async fn act(&self, operation: &request::Operation, ordered: &Ordered) -> Outcome {
        let order = ordered.order.to_string();
        self.world.begins(self.host, &order);
        let (before, after, ends) = {
            let mut chance = self.world.chance();
            let longest = if chance.one_in(8) { 40_000 } else { 3_000 };
            (chance.millis(0..longest), chance.millis(0..longest / 2), chance.below(20))
        };
        if ends == 0 {
            // It did nothing, and says so.
            tokio::time::sleep(before).await;
            self.while_alive().await;
            let nothing = Failure::new("simulated", "it could not be done");
            return self.returns(&order, Outcome::ended(OutcomeStatus::Failed, nothing));
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(before) => {}
            () = ordered.stop.cancelled() => {
                self.while_alive().await;
                let stopped = Failure::new("simulated", "it was stopped before it did anything");
                return self.returns(&order, Outcome::ended(OutcomeStatus::Cancelled, stopped));
            }
        }
        self.while_alive().await;
        self.world.does(self.host, &order);
        self.change(operation);
        tokio::time::sleep(after).await;
        self.while_alive().await;
        match ends {
            1 => {
                // It is done, and hangs until it is cut off.
                self.world.note(format_args!("{}: {} hangs", self.host_name(), self.world.name("o", &order)));
                std::future::pending().await
            }
            2 => {
                let half = Failure::new("simulated", "it was done, and went wrong");
                self.returns(&order, Outcome::ended(OutcomeStatus::Failed, half))
            }
            ends => self.returns(&order, Outcome::succeeded(shows(operation, ends == 3))),
        }
    }

    fn host_name(&self) -> &str {
        &self.world.hosts[self.host].name
    }

    fn returns(&self, order: &str, outcome: Outcome) -> Outcome {
        self.world.returned(self.host, order, &outcome);
        if self.world.is(Mutant::FalseRefusal) {
            return Outcome::refused(Failure::new("simulated", "it was not done"));
        }
        outcome
    }

    fn change(&self, operation: &request::Operation) {
        let host = &self.world.hosts[self.host];
        if let Some(stack) = stack_of(operation)
            && !lock(&host.hopeless).contains(&stack)
        {
            lock(&host.ill).remove(&stack);
        }
    }

    fn answer(&self, operation: &request::Operation) -> Outcome {
        let host = &self.world.hosts[self.host];
        answer(operation, stack_of(operation).is_some_and(|stack| lock(&host.ill).contains(&stack)))
    }
}

/// Now and then as long as an outcome may be, so that journals fill.
fn shows(operation: &request::Operation, talkative: bool) -> result::Operation {
    match done(operation) {
        result::Operation::Exec(result) if talkative => {
            let stdout = Some(CapturedText { text: "x".repeat(200_000), ..Default::default() });
            result::Operation::Exec(ExecResult { stdout, ..result })
        }
        done => done,
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
        self.while_alive().await;
        match ordered {
            Some(ordered) => self.act(operation, &ordered).await,
            None => {
                let longest = if self.world.chance().one_in(30) { 12_000 } else { 50 };
                self.world.pause(0..longest).await;
                self.answer(operation)
            }
        }
    }

    async fn look_back(&self, order: TaskId, _: &Started, _: i64, _: CancellationToken) -> Witness {
        self.world.pause(0..200).await;
        self.while_alive().await;
        let seen = self.world.was_done(&order.to_string());
        let tells = self.world.chance().below(6);
        witness(seen, tells)
    }

    fn forget(&self, _: TaskId) {}

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Ok(Arc::default())
    }
}
