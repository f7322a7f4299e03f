//! Real TLS 1.3 over loopback: tonic behind our listener, and our client in front of tonic's channel.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests, but not their support functions"
)]

mod clients;
mod connections;
mod controllers;
mod resumption;
mod support;
