//! The listening end: our own acceptor in front of tonic, since tonic's has no reload, no
//! resumption control and no bound on handshakes.
//!
//! Owns one task per [`Incoming`] and one per handshake under way; all end when the `Incoming` is
//! dropped. Deliberately absent: revocation. A certificate is looked at once, here; whether it
//! still counts is asked on every rpc and every stream, by the controller.

mod handshake;
mod limits;
mod listener;
mod pace;
mod peer;

pub use limits::limits;
pub use listener::{Admits, Incoming, Listener};
pub use peer::{Peer, PeerCertificate, PeerStream};
