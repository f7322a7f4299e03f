//! Text and documents of what only operators see: hosts, incidents, the catalogue. What is shown of runs is
//! [`vigie_view`]'s, which the agent's local mode shares.
//!
//! Each view takes what there is and a [`Look`](crate::output::look::Look). Every text that comes from a host or the
//! controller is escaped here, before it is put together with anything else.

pub(crate) mod hosts;
pub(crate) mod incidents;
mod liveness;
pub(crate) mod operations;
pub(crate) mod status;

#[cfg(test)]
pub(crate) use vigie_view::fixtures;
pub(crate) use vigie_view::{changes, diagnose, diagnose_json, outcomes, plan, request, run, runs, timeline};
