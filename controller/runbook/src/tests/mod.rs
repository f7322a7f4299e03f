//! Runbooks as people write them.

mod backend_502;
mod diagnostics;
mod judging;
mod suite;
