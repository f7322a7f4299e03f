//! vigie-controller
