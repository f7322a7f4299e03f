//! Where a request meets the host: may it run here, and then run it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use prost::Message as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::TaskId,
    v1::{self, Failure, Outcome, OutcomeStatus, OutputSource, request, result},
};

use super::{
    Host,
    child::{
        OutputSink,
        keeper::{self, Keeping},
    },
    journal::Started,
    redaction::{Patterns, RedactionError},
};
use crate::operations::{
    self, Context,
    witness::{self, Begun, Witness},
};

/// How long a look at what became of an order may take.
const LOOK: Duration = Duration::from_secs(30);

/// A request that this host's policy lets an order run.
#[derive(Debug, Clone, PartialEq)]
pub struct Permitted {
    /// The request with the stack that it means filled in, so that what was allowed is what runs.
    pub operation: request::Operation,
    /// What no other order may change meanwhile.
    pub exclusive: Option<String>,
}

/// The order that a request runs by.
#[derive(Debug, Clone)]
pub struct Ordered {
    pub order: TaskId,
    /// For what loses something: what its preview found, which is what was signed for.
    pub prepared: Option<result::Operation>,
    /// Says that a person ended the run: a program that runs is stopped then.
    pub stop: CancellationToken,
}

/// Decides and runs. A trait, so that tests and simulations need no real host.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Whether an order may run this here.
    ///
    /// # Errors
    /// With the reason and its remedy.
    async fn permits(&self, operation: &request::Operation) -> Result<Permitted, Failure>;

    /// Whether the host's own root may run this here: the policy bounds operators, and whoever could rewrite it need not
    /// be asked.
    ///
    /// # Errors
    /// With the reason and its remedy.
    async fn permits_root(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        self.permits(operation).await
    }

    /// Runs an operation. Its outcome has no times, and nothing in it that must not leave the host.
    async fn run(
        &self,
        operation: &request::Operation,
        deadline: Instant,
        output: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome;

    /// Finds out what became of an order that began at this time and whose end nobody saw. Waits for programs of it that still
    /// run, and stops them once `stop` says so; never runs anything again.
    async fn look_back(&self, order: TaskId, begun: &Started, at_ms: i64, stop: CancellationToken)
    -> Witness;

    /// Lets go of what was kept of an order until its end was written down.
    fn forget(&self, order: TaskId);

    /// The orders of which something is kept.
    fn kept(&self) -> Vec<TaskId> {
        Vec::new()
    }

    /// What must not leave the host.
    ///
    /// # Errors
    /// When that is not known.
    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError>;
}

#[async_trait]
impl Executor for Arc<Host> {
    async fn permits(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        privileged(self)?;
        let policy = self.policy();
        if policy.unsound().is_some() {
            policy.permits(operation, None)?;
        }
        let permitted = resolved(self, operation).await?;
        policy.permits(&permitted.operation, permitted.exclusive.as_deref())?;
        Ok(permitted)
    }

    async fn permits_root(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        privileged(self)?;
        resolved(self, operation).await
    }

    async fn run(
        &self,
        operation: &request::Operation,
        deadline: Instant,
        output: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome {
        let order = ordered.as_ref().map(|ordered| ordered.order);
        let context = Context {
            deadline,
            output,
            ordered: ordered.is_some(),
            order,
            keeping: order.and_then(|order| self.keeping(order)),
            stop: ordered.as_ref().map(|ordered| ordered.stop.clone()).unwrap_or_default(),
            prepared: ordered.and_then(|ordered| ordered.prepared),
            host: Arc::clone(self),
        };
        let began_ms = crate::host::clock::now().timestamp_millis();
        let mut outcome: Outcome = match operations::run(operation.clone(), &context).await {
            Ok(result) => Outcome::succeeded(result),
            Err(fault) => fault.into(),
        };
        if let (OutcomeStatus::Cancelled, Some(order)) = (outcome.status(), order) {
            let begun = Begun {
                order,
                operation: operation.clone(),
                at_ms: began_ms,
                prepared: context.prepared.clone(),
                programs: Vec::new(),
            };
            outcome.found = witness::after_a_stop(&begun, &self.observing()).await;
        }
        outcome
    }

    async fn look_back(
        &self,
        order: TaskId,
        begun: &Started,
        at_ms: i64,
        stop: CancellationToken,
    ) -> Witness {
        let Some(mut operation) = begun.request.clone().and_then(|request| request.operation) else {
            return Witness::Unknown("it asks for something that this agent does not know".to_owned());
        };
        // An agent that has just begun knows neither its stacks nor, by them, what must not leave the host.
        self.stacks().refresh().await;
        let programs = match self.state() {
            Some(state) => keeper::programs(state, order, &stop).await,
            None => Ok(Vec::new()),
        };
        let programs = match programs {
            Ok(programs) => programs,
            Err(error) => return Witness::Silent(format!("what its programs left cannot be read: {error}")),
        };
        let prepared = v1::Result::decode(begun.prepared.as_slice()).ok().and_then(|result| result.operation);
        if let Some(stack) = operation.stack_mut()
            && stack.is_empty()
        {
            stack.clone_from(&begun.stack);
        }
        witness::look(&Begun { order, operation, at_ms, prepared, programs }, &self.observing()).await
    }

    fn forget(&self, order: TaskId) {
        if let Some(state) = self.state() {
            keeper::forget(state, order);
        }
    }

    fn kept(&self) -> Vec<TaskId> {
        self.state().map(keeper::orders).unwrap_or_default()
    }

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Host::secrets(self)
    }
}

/// Nobody watches a look.
struct Quiet;

impl OutputSink for Quiet {
    fn write(&self, _: OutputSource, _: &[u8]) {}
}

impl Host {
    /// Where the programs of an order are kept; `None` for a host without a state folder, whose programs end with it.
    fn keeping(&self, order: TaskId) -> Option<Keeping> {
        match Keeping::new(self.state()?, order) {
            Ok(keeping) => Some(keeping),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the agent's own program is not known"
                );
                None
            }
        }
    }

    /// For looks at what became of an order: as an order may, since an order it was.
    fn observing(self: &Arc<Self>) -> Context {
        Context {
            host: Arc::clone(self),
            deadline: Instant::now() + LOOK,
            output: Arc::new(Quiet),
            ordered: true,
            order: None,
            keeping: None,
            stop: CancellationToken::new(),
            prepared: None,
        }
    }
}

fn privileged(host: &Host) -> Result<(), Failure> {
    if host.privileged() {
        return Ok(());
    }
    let message = "the agent of this host does not run as root, so that it only observes";
    Err(Failure::new("unprivileged", message)
        .hint("run the agent as root, as the vigie-agent.service unit does"))
}

/// The request with the stack that it means filled in.
async fn resolved(host: &Host, operation: &request::Operation) -> Result<Permitted, Failure> {
    let mut operation = operation.clone();
    let mut exclusive = None;
    if let Some(stack) = operation.stack_mut() {
        let resolved = host.stacks().resolve(stack).await.map_err(|fault| fault.failure)?;
        stack.clone_from(&resolved.name);
        exclusive = Some(resolved.name.clone());
    }
    Ok(Permitted { operation, exclusive })
}
