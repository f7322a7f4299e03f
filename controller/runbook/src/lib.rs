//! Runbooks: what to ask a host, what its answers mean, and what may be done about it.
//!
//! A runbook is YAML that is checked when it is read ([`Runbook::parse`], [`lint`]), given its parameters
//! ([`Runbook::bind`]), and then says as exact messages which probes to ask and which actions to take, and judges the
//! answers with rules of three truth values ([`Bound::judge`]). [`run`] is the state machine of one run over many
//! hosts. Nothing here does I/O: controller, ctl and agent drive the same code.

mod bound;
mod call;
mod diagnostic;
mod guard;
mod judge;
mod model;
mod parameters;
mod read;
mod rollout;
mod rules;
mod steps;
mod suite;

pub mod case;
pub mod report;
pub mod run;
pub mod sightings;

#[cfg(test)]
mod tests;

pub use bound::{Bound, Evidence, ProbeSpec, StepSpec, Subject, Verification};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use judge::{Judgement, Showing};
pub use model::{
    Check, Finding, FindingSeverity, Others, Probe, Remedy, Restore, Risk, Runbook, Scope, Symptom, Vantage,
    findings_of, lint, lint_among,
};
pub use parameters::{Parameter, ParameterError, ParameterType, ParameterValue};
pub use rollout::{Batch, Rollout};
pub use steps::Condition;
pub use suite::Suite;

/// The runbooks that every program carries: their ids and their texts.
pub fn shipped() -> &'static [(&'static str, &'static str)] {
    &[
        ("api-down", include_str!("../../../deploy/runbooks/api-down.yaml")),
        ("backend-502", include_str!("../../../deploy/runbooks/backend-502.yaml")),
        ("clean-restart", include_str!("../../../deploy/runbooks/clean-restart.yaml")),
        ("db-migration", include_str!("../../../deploy/runbooks/db-migration.yaml")),
        ("disk-full", include_str!("../../../deploy/runbooks/disk-full.yaml")),
        ("high-load", include_str!("../../../deploy/runbooks/high-load.yaml")),
        ("postgres-down", include_str!("../../../deploy/runbooks/postgres-down.yaml")),
        ("quota-blocking", include_str!("../../../deploy/runbooks/quota-blocking.yaml")),
        ("redis-down", include_str!("../../../deploy/runbooks/redis-down.yaml")),
    ]
}
