//! A run's state machine, without I/O.
//!
//! [`decide`] turns an input into events, [`State::apply`] folds events, and [`wanted`] says, after they were
//! committed, what the world should now be asked to do. Whoever drives it may stop anywhere: the same fold after a
//! crash wants the same things, agents recognise orders that they have seen, and probes may be asked twice. Happy path,
//! reconnect and restart are therefore one code path.
//!
//! ```text
//! Opened ─ Observing ─ Concluded ─ (Previewing) ─ Planned ─ AwaitingSignature ─ Signed ─ Acting ⇄ Verifying ─ Closed
//! ```
//!
//! What loses something goes by waves: each is prepared, planned, signed, carried out and verified before the next is
//! prepared.

mod act;
mod again;
mod beside;
mod decide;
mod doubt;
mod open;
mod plan;
mod planned;
mod state;
mod suite;
mod target;
mod verdict;
mod waits;
mod wanted;

pub use act::Holder;
pub use again::{Again, NotAgain, may_try_again, may_try_again_beside, place_name};
pub use beside::CHANGES;
pub use decide::{Decision, Surroundings, decide};
pub use open::{OpenError, open, scope};
pub use plan::HOUR_MS;
pub use state::{Corrupt, State, Task, TaskState};
pub use suite::open_all;
pub use target::{Passage, Preview, TargetState};
pub use wanted::wanted;

use vigie_proto::{
    id::{BatchId, HostId, TaskId},
    v1::{Execute, Outcome, ProbePurpose, Request, Signature},
};

use crate::Vantage;

/// Which answer a probe is: it stands in place of an id, since a probe may be asked again and again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeKey {
    /// The target's place among the run's targets.
    pub target: usize,
    /// The probe's id in the runbook, or [`CHANGES`]; `remedy/step` for a preview or a preparation; empty for a run of a
    /// single operation.
    pub probe: String,
    pub purpose: ProbePurpose,
    /// Counts the attempts of a verification or a wait.
    pub round: u32,
}

/// What an agent asks an order for that loses something to carry. Empty for everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenge {
    pub challenge: Vec<u8>,
    /// For how long the agent honours it, in milliseconds.
    pub valid_ms: u32,
}

/// What may happen to a run.
#[derive(Debug, Clone)]
pub enum Input {
    /// A probe was answered, or could not be.
    Probed { key: ProbeKey, outcome: Outcome, asked_at_ms: i64, challenge: Challenge },
    /// An agent has an order's start on disk.
    Started { order: TaskId, at_ms: i64 },
    /// An agent says how an order ended. May come twice.
    Ended { order: TaskId, outcome: Outcome },
    /// An agent says how an order ended that this log does not have.
    Stray { host: HostId, order: TaskId, outcome: Outcome },
    /// An operator signed the plan.
    Signed { manifest: Vec<u8>, signatures: Vec<Signature>, operator: String },
    /// A person did what a step waits for: on these hosts, or wherever it waits.
    ManualDone { operator: String, hosts: Vec<String>, note: String },
    /// An operator ends the run.
    Cancel { operator: String, reason: String },
    /// An operator says what they found where orders are in doubt: on these hosts, or on all of them, and on this stack
    /// of theirs where one is named. Taken by a closed run, too.
    Resolve { operator: String, hosts: Vec<String>, stack: String, done: bool, note: String },
    /// A host came or went, or the time that [`Effect::WakeAt`] named has come.
    Tick,
}

/// What the world is asked to do. Stays wanted until an event says that it happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask a host, or about it from elsewhere, or have it prepare an order where that is the purpose. Worth asking again in
    /// the next session of whoever is asked.
    Probe { key: ProbeKey, host: HostId, from: Vantage, request: Request, timeout_ms: u32 },
    /// Hand an order to its agent. Worth handing over again in the host's next session.
    Execute { order: TaskId, host: HostId, execute: Execute },
    /// Ask an agent not to begin an order, or to stop it. Worth asking again in the host's next session.
    Cancel { order: TaskId, host: HostId },
    /// Come back with [`Input::Tick`] at this time, Unix milliseconds.
    WakeAt(i64),
}

/// Where new ids come from.
pub trait Ids {
    /// An order's id.
    fn task(&mut self) -> TaskId;
    /// A batch's id.
    fn batch(&mut self) -> BatchId;
}

/// Ids from the clock and the system's randomness.
pub struct FreshIds;

impl Ids for FreshIds {
    fn task(&mut self) -> TaskId {
        TaskId::new()
    }

    fn batch(&mut self) -> BatchId {
        BatchId::new()
    }
}

/// Why an input is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("the run is closed")]
    Closed,
    #[error("the run does not wait for a signature")]
    NotAwaitingSignature,
    #[error("what was signed is not the plan that the run waits with")]
    OtherPlan,
    #[error("{signer} cannot sign: the plan names {named}, who opened the run")]
    OtherPerson { signer: String, named: String },
    #[error("no signature was given")]
    NoSignature,
    #[error("the run waits for no person {0}")]
    NobodyWaitedFor(String),
    #[error("every order of the run has ended, and what was done is not taken back")]
    TooLate,
    #[error("no order of the run is in doubt{0}")]
    NothingInDoubt(String),
}

#[cfg(test)]
mod tests;
