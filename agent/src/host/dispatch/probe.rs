//! A probe: checked against the catalogue, run detached, and over by its deadline.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use vigie_proto::{
    descriptors,
    id::RunId,
    operation::{self, Authority, Effect, Operation},
    v1::{Failure, Outcome, OutcomeStatus, Prepare, Probe, ProbeResult, Request, request},
};

use super::{Event, Shared};
use crate::host::{
    child::OutputSink,
    executor::{Executor, Ordered},
};

/// How long an operation has after its deadline to end by itself, with what it has: a hung child gets two seconds
/// between SIGTERM and SIGKILL.
pub(super) const GRACE: Duration = Duration::from_secs(4);

/// No probe runs longer, whatever the controller asks for.
const LONGEST: Duration = Duration::from_secs(300);

/// A task's id that is longer is none.
const LONGEST_ID: usize = 64;

/// A request that needs no order.
pub(super) struct Checked {
    operation: request::Operation,
    deadline: Instant,
}

/// Lets through what only observes, and what is valid.
pub(super) fn check(probe: &Probe) -> Result<Checked, Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        Failure::new("invalid_request", error)
            .hint("correct the request; a newer agent may know more operations")
    };
    if probe.task.is_empty() || probe.task.len() > LONGEST_ID {
        return Err(invalid(&format!("a task's id has 1 to {LONGEST_ID} bytes")));
    }
    let request = probe.operation.as_ref().ok_or_else(|| invalid(&operation::FieldError::Unknown))?;
    let known = Operation::of(request).map_err(|error| invalid(&error))?;
    if known.needs_order() || known.effect != Effect::Observe {
        return Err(Failure::new(
            "order_required",
            format!("{} runs only by an operator's signed order", known.name),
        )
        .hint("run it with `vigiectl do` or `vigiectl run`, which ask for the signature"));
    }
    operation::check(request).map_err(|error| invalid(&error))?;
    let operation = request.operation.clone().ok_or_else(|| invalid(&operation::FieldError::Unknown))?;
    let timeout = match probe.timeout_ms {
        0 => known.timeout(),
        ms => Duration::from_millis(u64::from(ms)),
    };
    Ok(Checked { operation, deadline: Instant::now() + timeout.min(LONGEST) })
}

/// What an order is to be prepared for.
pub(super) struct Preparing {
    pub(super) run: RunId,
    pub(super) request: Request,
    pub(super) preview: Checked,
}

/// Lets through what loses something and tells beforehand what.
pub(super) fn check_prepare(prepare: Prepare) -> Result<Preparing, Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        Failure::new("invalid_request", error)
            .hint("correct the request; a newer agent may know more operations")
    };
    let request = prepare.operation.ok_or_else(|| invalid(&operation::FieldError::Unknown))?;
    let known = Operation::of(&request).map_err(|error| invalid(&error))?;
    if known.authority != Authority::OrderChallenge {
        return Err(invalid(&format!("{} is prepared by nothing", known.name)));
    }
    operation::check(&request).map_err(|error| invalid(&error))?;
    let run = prepare.run.parse().map_err(|error| invalid(&error))?;
    let operation = descriptors::preview_of(&request);
    let probe = Probe {
        task: prepare.task,
        operation: Some(operation.ok_or_else(|| invalid(&format!("{} has no preview", known.name)))?),
        timeout_ms: prepare.timeout_ms,
        run: prepare.run,
    };
    Ok(Preparing { run, preview: check(&probe)?, request })
}

/// Finds out what an order would lose, where it may run here, and tells it.
pub(super) async fn preview(shared: Arc<Shared>, task: String, preparing: Preparing) {
    let Preparing { run, request, preview } = preparing;
    let permitted = match &request.operation {
        Some(operation) => shared.executor.permits(operation).await.map(drop),
        None => Err(Failure::new("invalid_request", "the request asks for nothing")),
    };
    let outcome = match permitted {
        Ok(()) => in_turn(&shared, preview).await,
        Err(failure) => Outcome::refused(failure),
    };
    shared.event(Event::Previewed { task, run, request, outcome });
}

/// Runs a probe when its turn comes, and tells its result.
pub(super) async fn ask(shared: Arc<Shared>, task: String, checked: Checked) {
    let outcome = in_turn(&shared, checked).await;
    shared.event(Event::Probed(ProbeResult { task, outcome: Some(outcome) }));
}

/// Runs a probe when its turn comes.
pub(super) async fn in_turn(shared: &Shared, checked: Checked) -> Outcome {
    match tokio::time::timeout_at(checked.deadline, shared.probes.acquire()).await {
        Ok(Ok(_turn)) => {
            let quiet: Arc<dyn OutputSink> = Arc::new(Quiet);
            run(shared, checked.operation, checked.deadline, quiet, None)
                .await
                .unwrap_or_else(|cut_off| Outcome::ended(OutcomeStatus::Failed, cut_off))
        }
        Ok(Err(_)) | Err(_) => Outcome::ended(
            OutcomeStatus::Failed,
            Failure::new("busy", "the probe's time was up before its turn came, since other probes ran")
                .hint("try again; if it lasts, look at what is slow on the host"),
        ),
    }
}

/// Runs an operation in a task of its own, so that neither a panic nor a hang is anybody else's.
///
/// # Errors
/// When it did not come to an end that it could tell of.
pub(super) async fn run(
    shared: &Shared,
    operation: request::Operation,
    deadline: Instant,
    output: Arc<dyn OutputSink>,
    ordered: Option<Ordered>,
) -> Result<Outcome, Failure> {
    let name = operation.name();
    let executor: Arc<dyn Executor> = Arc::clone(&shared.executor);
    let (began_ms, began) = (shared.clock.now_ms(), Instant::now());
    let mut task =
        AbortOnDrop(tokio::spawn(async move { executor.run(&operation, deadline, output, ordered).await }));
    let mut outcome = match tokio::time::timeout_at(deadline + GRACE, &mut task.0).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => {
            tracing::error!(operation = name, error = &error as &dyn std::error::Error, "an operation died");
            return Err(Failure::new("internal", format!("{name} died inside the agent"))
                .hint("please report it with the agent's log of that moment"));
        }
        Err(_) => {
            return Err(Failure::new(
                "deadline",
                format!("{name} did not end by its deadline and was cut off"),
            )
            .hint("look at what hangs on the host"));
        }
    };
    outcome.started_at_ms = began_ms;
    outcome.duration_ms = u32::try_from(began.elapsed().as_millis()).unwrap_or(u32::MAX);
    Ok(outcome)
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Nobody watches a probe's output: its result is all.
struct Quiet;

impl OutputSink for Quiet {
    fn write(&self, _: vigie_proto::v1::OutputSource, _: &[u8]) {}
}
