//! Text and documents out of events and reports: pure functions, without I/O.
//!
//! Each view takes what there is and a [`Look`](crate::output::look::Look). Every text that comes from a host or the
//! controller is escaped here, before it is put together with anything else.

pub(crate) mod changes;
pub(crate) mod diagnose;
pub(crate) mod diagnose_json;
pub(crate) mod hosts;
pub(crate) mod incidents;
mod liveness;
pub(crate) mod operations;
pub(crate) mod outcomes;
pub(crate) mod plan;
pub(crate) mod ranked;
pub(crate) mod request;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod status;
mod steps;
pub(crate) mod timeline;

#[cfg(test)]
pub(crate) mod fixtures;
