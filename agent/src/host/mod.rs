//! The half that guards the host: journal, order check, policy, redaction, stacks.

pub mod child;
