//! The agent: what runs on each host.
//!
//! Two halves that speak only messages: [`net`] (everything that touches the network) and [`host`] (everything that
//! guards the host). `host` trusts nothing that `net` says which an operator did not sign, so that they can be two
//! processes. [`local`] is a third that speaks to `host` alone: a command on the host itself, in the place of a
//! controller.

pub mod config;
pub mod enrolled;
pub mod folder;
pub mod host;
pub mod local;
pub mod net;
pub mod operations;
pub mod output;
