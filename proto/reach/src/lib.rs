//! How far a request gets, step by step: a name's addresses, ping, TCP, TLS, HTTP, and what a certificate says.
//!
//! One code for every vantage: an agent asks from its host or, for a peer, from beside it, and the controller asks
//! from outside. What does not work is an answer here and never an error.
//!
//! Architecture Invariant: this crate knows no host and no policy. Whom may be asked is decided by whoever calls it.

pub mod certificate;
mod check;
pub mod http;
mod ping;

pub use check::{PORTS, Wanted, check, check_web};
