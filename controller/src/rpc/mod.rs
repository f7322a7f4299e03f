//! The doors: each rpc decodes, makes one call, and encodes. Nothing else lives here.

pub(crate) mod enrolment;
pub(crate) mod hosts;
pub(crate) mod incidents;
pub(crate) mod link;
pub(crate) mod runbooks;
pub(crate) mod runs;

/// The largest request of an operator, in bytes: a manifest with its signatures has some hundred.
pub(crate) const LARGEST_REQUEST: usize = 1024 * 1024;

/// The largest message on an agent's link, in bytes, either way: a result with its captured output.
pub(crate) const LARGEST_REPORT: usize = 4 * 1024 * 1024;

/// The largest message to an operator, in bytes: a run's event may hold what a whole wave reported.
pub(crate) const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The largest request of a stranger, in bytes.
pub(crate) const LARGEST_APPLICATION: usize = 64 * 1024;
