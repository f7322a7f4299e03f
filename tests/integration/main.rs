//! Real programs on loopback, with real TLS: what a user can rely on when nothing goes wrong, and when everything does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test, which also says what it measured"
)]

mod backup;
mod durability;
mod kills;
mod liveness;
mod local;
mod orders;
mod restarts;
mod rogue;

/// Lets orders run any program: the tests' witnesses are small scripts.
const ANY_PROGRAM: &str = "version = 1\n[[allow]]\noperation = \"exec\"\nany = true\n";

/// Lets orders run `uptime` alone.
const UPTIME: &str = "version = 1\n[[allow]]\noperation = \"exec\"\nprograms = [\"/usr/bin/uptime\"]\n";

/// Allows nothing.
const NOTHING: &str = "version = 1\n";
