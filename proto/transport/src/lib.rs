//! What agent, controller and ctl share about TLS: names, keys, trust and the two ends of a connection.
//!
//! A connection is TLS 1.3 with private roots, never resumed, and carries HTTP/2. Its peer is an
//! [`identity::Identity`], read from the certificate and from nowhere else.
//!
//! - [`identity`], [`pin`]: who a certificate names, and which CA an agent trusts before it has one;
//! - [`credential`]: private keys and chains, and how they rest on a disk;
//! - [`tls`]: the rustls configurations, with the checks that webpki cannot make;
//! - [`network`]: the sockets below all that, the system's or a simulation's;
//! - [`server`]: the listener in front of tonic, and every HTTP/2 limit;
//! - [`client`]: the connector behind tonic's channel, and errors that say what to do.
//!
//! Architecture Invariant: this crate knows no rpc and no role's rights. It says *who* is calling;
//! the controller says what they may do. It issues no certificate either: that is the controller's
//! authority.

mod certificate;
pub mod client;
pub mod credential;
pub mod identity;
pub mod network;
pub mod pin;
pub mod server;
pub mod tls;

pub use certificate::{Malformed, Validity};
