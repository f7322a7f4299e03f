//! Bugs that can be switched on, to show that the simulation finds them. Each is a part that lies, and none is a line in a
//! program.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The journal's disk says that it synced, and did not.
    NoSync,
    /// The journal is empty after each start: what was seen before is not recognised.
    Amnesia,
    /// The controller's disk says that something is committed before it is.
    EarlyCommit,
    /// Every order comes under the first epoch, whoever sends it.
    OneEpoch,
    /// The agent looked at the clock once, when it started.
    StoppedClock,
    /// What the agent's executor returned is told as a refusal.
    FalseRefusal,
    /// The controller's disk shows what is in doubt of a run that is over as failed.
    HiddenDoubt,
}
