//! The controller: connects a fleet's agents and its operators, and keeps the notebook.
//!
//! A request's way in is `Caller → Permit → audit entry → send`; see [`permit`] and [`audit`]. `rpc` decodes, `fleet`
//! knows the hosts and their sessions, `runs` drives what was asked, [`store`] keeps it, [`authority`] issues the
//! certificates.
//!
//! Architecture Invariant: the controller is a courier. It holds no operator's key, and can neither make, alter nor repeat
//! an order.

pub mod audit;
pub mod authority;
pub mod backup;
pub mod caller;
pub mod clock;
pub mod config;
pub mod enrolment;
pub mod error;
pub mod fleet;
pub mod incidents;
pub mod init;
pub mod monitoring;
pub mod notify;
pub mod passphrase;
pub mod permit;
pub mod runbooks;
pub mod runs;
pub mod store;

#[cfg(feature = "sim")]
pub mod sim;

mod parts;
mod rpc;
mod serve;
mod tasks;

pub use config::Config;
pub use init::{Init, InitError, Initialised, init};
pub use serve::{Late, Running, ServeError, serve};
pub use tasks::DoorsError;
