//! The half that speaks to the network: enrolment, the link.
//!
//! It dials and never listens. It carries messages between the controller and [`crate::host`] and decides nothing about
//! them.

mod backoff;
pub mod enrol;
pub mod link;
mod output;

#[cfg(test)]
mod tests;
