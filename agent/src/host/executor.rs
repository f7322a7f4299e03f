//! Where a request meets the host: may it run here, and then run it.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use vigie_proto::{
    id::TaskId,
    v1::{Failure, Outcome, request, result},
};

use super::{
    Host,
    child::OutputSink,
    redaction::{Patterns, RedactionError},
};
use crate::operations::{self, Context};

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
}

/// Decides and runs. A trait, so that tests and simulations need no real host.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Whether an order may run this here.
    ///
    /// # Errors
    /// With the reason and its remedy.
    async fn permits(&self, operation: &request::Operation) -> Result<Permitted, Failure>;

    /// Runs an operation. Its outcome has no times, and nothing in it that must not leave the host.
    async fn run(
        &self,
        operation: &request::Operation,
        deadline: Instant,
        output: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome;

    /// What must not leave the host.
    ///
    /// # Errors
    /// When that is not known.
    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError>;
}

#[async_trait]
impl Executor for Arc<Host> {
    async fn permits(&self, operation: &request::Operation) -> Result<Permitted, Failure> {
        if !self.privileged() {
            return Err(Failure::new(
                "unprivileged",
                "the agent of this host does not run as root, so that it only observes",
            )
            .hint("run the agent as root, as the vigie-agent.service unit does"));
        }
        let policy = self.policy();
        if policy.unsound().is_some() {
            policy.permits(operation, None)?;
        }
        let mut operation = operation.clone();
        let mut exclusive = None;
        if let Some(stack) = operation.stack_mut() {
            let resolved = self.stacks().resolve(stack).await.map_err(|fault| fault.failure)?;
            stack.clone_from(&resolved.name);
            exclusive = Some(resolved.name.clone());
        }
        policy.permits(&operation, exclusive.as_deref())?;
        Ok(Permitted { operation, exclusive })
    }

    async fn run(
        &self,
        operation: &request::Operation,
        deadline: Instant,
        output: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome {
        let context = Context {
            host: Arc::clone(self),
            deadline,
            output,
            ordered: ordered.is_some(),
            order: ordered.as_ref().map(|ordered| ordered.order),
            prepared: ordered.and_then(|ordered| ordered.prepared),
        };
        match operations::run(operation.clone(), &context).await {
            Ok(result) => Outcome::succeeded(result),
            Err(fault) => fault.into(),
        }
    }

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Host::secrets(self)
    }
}
