//! Runs from this side: opened under an id that is on disk first, followed to their end, signed by a person who saw
//! what the bytes say.

pub(crate) mod consent;
pub(crate) mod find;
pub(crate) mod follow;
pub(crate) mod ledger;
mod pins;
pub(crate) mod record;
pub(crate) mod submit;
