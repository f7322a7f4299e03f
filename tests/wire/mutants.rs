//! Bugs that can be switched on, to show that the simulation finds them. Each is a part that lies, and none is a line in a
//! program.

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// The journal is empty after each start: what was seen before is not recognised.
    Amnesia,
    /// The controllers' disk says that something is committed before it is.
    EarlyCommit,
    /// The controllers' store lets a controller write that was overtaken.
    Unfenced,
}
