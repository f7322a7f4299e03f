//! A fleet on loopback for the suites: the real programs as processes, real TLS, state in a folder that goes away.

mod fleet;
mod program;
pub mod seeds;
pub mod story;

pub use fleet::{AgentProcess, Fleet};
pub use program::{Said, binary, free_ports, wait_until, wait_within};
