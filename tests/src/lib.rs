//! vigie-tests
