//! Text and documents out of runs: pure functions, without I/O, for every program that shows a run to a person.
//!
//! [`run`] is the fold of a run's events that all else reads; each view takes it and a [`Look`](look::Look). Every text
//! that comes from a host or a controller is escaped here, before it is put together with anything else.

pub mod changes;
pub mod diagnose;
pub mod diagnose_json;
pub mod document;
pub mod exit;
pub mod json;
pub mod look;
pub mod names;
pub mod outcomes;
pub mod plan;
pub mod ranked;
pub mod request;
pub mod run;
pub mod runs;
mod steps;
pub mod table;
pub mod timeline;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
