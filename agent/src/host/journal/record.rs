//! What the journal writes down. These messages stay on the host: they are no part of the contract.

use vigie_proto::v1::Request;

/// One record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// Unix milliseconds by the host's clock.
    #[prost(int64, tag = "1")]
    pub at_ms: i64,
    #[prost(oneof = "Entry", tags = "2, 3, 4, 5, 6")]
    pub entry: Option<Entry>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Entry {
    #[prost(message, tag = "2")]
    Opened(Opened),
    #[prost(message, tag = "3")]
    Started(Started),
    #[prost(message, tag = "4")]
    Finished(Finished),
    #[prost(message, tag = "5")]
    Acknowledged(Acknowledged),
    #[prost(message, tag = "6")]
    Denied(Denied),
}

/// The agent began to run.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Opened {
    #[prost(string, tag = "1")]
    pub agent_version: String,
    #[prost(string, tag = "2")]
    pub boot_id: String,
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
}

/// An order passed every check and begins.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Started {
    #[prost(string, tag = "1")]
    pub order: String,
    #[prost(string, tag = "2")]
    pub run: String,
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
    /// Who signed.
    #[prost(string, tag = "4")]
    pub person: String,
    /// SHA-256 of the leaf.
    #[prost(bytes = "vec", tag = "5")]
    pub digest: Vec<u8>,
    #[prost(message, optional, tag = "6")]
    pub request: Option<Request>,
    /// The last moment at which it may start.
    #[prost(int64, tag = "7")]
    pub start_by_ms: i64,
    /// The stack that no other order may change meanwhile; empty for none.
    #[prost(string, tag = "8")]
    pub stack: String,
    /// For what loses something: an encoded `Result` with what its preview had found. Left out where it is too long.
    #[prost(bytes = "vec", tag = "9")]
    pub prepared: Vec<u8>,
    /// Set where nobody signed: the host's own root ordered it on the host itself.
    #[prost(message, optional, tag = "12")]
    pub here: Option<Here>,
}

/// What is known of an order that was given on the host itself, beside what is known of every order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Here {
    /// `backend-502/restart_backend`: the runbook with the remedy that it is a step of.
    #[prost(string, tag = "1")]
    pub remedy: String,
}

/// An order ended, or was refused before it began; then this is all that the journal has of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Finished {
    #[prost(string, tag = "1")]
    pub order: String,
    /// An encoded `Outcome`.
    #[prost(bytes = "vec", tag = "2")]
    pub outcome: Vec<u8>,
    #[prost(string, tag = "3")]
    pub run: String,
    #[prost(uint64, tag = "4")]
    pub epoch: u64,
    #[prost(string, tag = "5")]
    pub person: String,
    #[prost(int64, tag = "6")]
    pub start_by_ms: i64,
}

/// The controller has committed these outcomes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Acknowledged {
    #[prost(string, repeated, tag = "1")]
    pub orders: Vec<String>,
}

/// Something came that claimed to be an order and was none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Denied {
    /// What it called itself; proves nothing.
    #[prost(string, tag = "1")]
    pub claimed: String,
    #[prost(string, tag = "2")]
    pub code: String,
    #[prost(string, tag = "3")]
    pub reason: String,
    /// How many more there were since the last such record that were not written down one by one.
    #[prost(uint64, tag = "4")]
    pub unrecorded: u64,
}
