//! The half that speaks to the network: enrolment, certificates, the link.
