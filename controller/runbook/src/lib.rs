//! vigie-runbook
