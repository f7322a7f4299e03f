//! The agent: what runs on each host.
//!
//! Two halves that speak only messages: [`net`] (everything that touches the network) and [`host`] (everything that
//! guards the host). `host` trusts nothing that `net` says which an operator did not sign, so that they can be two
//! processes.

pub mod config;
pub mod enrolled;
pub mod host;
pub mod net;
pub mod operations;
pub mod output;
