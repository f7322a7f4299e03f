//! The controller in this process, spoken to as agents and operators do: over mTLS, through the contract.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests, but not their support functions"
)]

mod disk;
mod doors;
mod incidents;
mod liveness;
mod orders;
mod runs;
mod support;
