use rustls::AlertDescription;

use super::{ConnectError, Stage};

impl ConnectError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address(_) => "correct the address in the configuration",
            Self::Resolve { .. } | Self::NoAddress { .. } => {
                "check the name for a typing error, and this machine's DNS"
            }
            Self::Refused { .. } => "check that the controller runs and that the port is right",
            Self::Unreachable { .. } => "check this machine's network and its route to the controller",
            Self::Timeout { stage: Stage::Resolve, .. } => "check this machine's DNS",
            Self::Timeout { stage: Stage::Tcp, .. } => "check the firewalls between here and the controller",
            Self::Timeout { stage: Stage::Tls, .. } => {
                "something accepts connections there but says nothing; check that the port is the \
                 controller's, and its load"
            }
            Self::Pin { .. } => {
                "do not go on unless you know why: the controller's CA was replaced, the token is \
                 another fleet's, or someone stands in between"
            }
            Self::Impostor { .. } => {
                "do not go on unless you know why: the certificate is genuine but belongs to another \
                 role; check the address"
            }
            Self::Untrusted { .. } => {
                "check that the address is your fleet's; if the controller's CA was replaced, enrol or \
                 log in again"
            }
            Self::Name { .. } => {
                "dial a name that the certificate carries, or add this one to the controller's addresses"
            }
            Self::Expired { .. } => {
                "check this machine's clock; if it is right, the controller failed to renew its \
                 certificate"
            }
            Self::NotYetValid { .. } => "check this machine's clock",
            Self::CertificateRefused { alert: AlertDescription::CertificateExpired, .. } => {
                "our certificate is too old to be renewed; enrol or log in again, and check this \
                 machine's clock"
            }
            Self::CertificateRefused { alert: AlertDescription::CertificateRequired, .. } => {
                "this port asks for a certificate and we have none; enrol or log in first"
            }
            Self::CertificateRefused { .. } => {
                "our certificate is for another port, another fleet, or was revoked; check the \
                 address, then enrol or log in again"
            }
            Self::NotTls { .. } | Self::NotHttp2 { .. } => {
                "check the port: something else than a controller listens there"
            }
            Self::Closed { .. } => {
                "our role may not use this port, or the controller is stopping; check the address and \
                 the controller's log"
            }
            Self::Tls { .. } | Self::Transport(_) => "try again; if it lasts, look into the controller's log",
        }
    }

    /// Whether another attempt, unchanged, can succeed: no person has to do anything first. Dates
    /// count among these, for a host whose clock is set some seconds after it starts.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::NoAddress { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Expired { .. }
            | Self::NotYetValid { .. }
            | Self::Closed { .. }
            | Self::Tls { .. }
            | Self::Transport(_) => true,
            Self::Address(_)
            | Self::Pin { .. }
            | Self::Impostor { .. }
            | Self::Untrusted { .. }
            | Self::Name { .. }
            | Self::CertificateRefused { .. }
            | Self::NotTls { .. }
            | Self::NotHttp2 { .. } => false,
        }
    }
}
