//! vigiectl
