//! Background loops: no input, idempotent, woken by a signal and by the clock, so that the first time, a retry and a
//! restart are the same.

mod heartbeat;
mod outside;
mod remember;
mod renew;
mod tend;
mod watching;

pub(crate) use heartbeat::heartbeat;
pub(crate) use outside::{Outside, watch_outside};
pub(crate) use remember::remember;
pub use renew::DoorsError;
pub(crate) use renew::{Doors, renew};
pub(crate) use tend::tend;
pub(crate) use watching::{Watching, keep_watching};
