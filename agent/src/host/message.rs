//! All that the two halves say to each other. Nothing else is shared, so that they can be two processes.

use vigie_proto::v1::{FromAgent, OutputChunk, ToAgent, from_agent};

/// What the host half gets from the network.
#[derive(Debug)]
pub enum Inbox {
    /// A connection is there: say Hello. What was sent before may have been lost.
    Connected,
    Message(ToAgent),
    /// Nothing can be sent until the next [`Connected`](Self::Connected).
    Disconnected,
}

/// What the host half hands to the network.
#[derive(Debug)]
pub enum Outbox {
    /// In order, on the session. Dropped while there is none.
    Message(Box<FromAgent>),
    /// Live output: dropped wherever it would have to wait.
    Output(OutputChunk),
}

impl Outbox {
    /// Wraps a message.
    pub fn message(message: from_agent::Message) -> Self {
        Self::Message(Box::new(FromAgent { message: Some(message) }))
    }
}
