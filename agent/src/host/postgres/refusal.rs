//! Why PostgreSQL lets nobody in, told apart by its SQLSTATE and by how far the connection got.

use std::{io, time::Duration};

use crate::operations::Fault;

/// Why there is no connection. Each has another cure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the service `{service}` has no container")]
    NoContainer { service: String },
    #[error("the container `{container}` is {state}")]
    NotRunning { container: String, state: String },
    #[error("nothing is known of how to reach PostgreSQL: {0}")]
    NoAddress(String),
    #[error("the host `{0}` has no address")]
    HostUnknown(String),
    #[error("{0} refuses connections")]
    Refused(String),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    #[error("{address} takes the connection and does not let anybody in within {} ms", waited.as_millis())]
    Hung { address: String, waited: Duration },
    #[error("{0}")]
    Authentication(String),
    #[error("{0}")]
    DatabaseUnknown(String),
    #[error("{0}")]
    TooManyConnections(String),
    #[error("{0}")]
    Starting(String),
    #[error("{0}")]
    ShuttingDown(String),
    #[error("{0}")]
    Recovering(String),
    #[error("{0}")]
    Corrupted(String),
    #[error("PostgreSQL asks for TLS at {0}, which is not spoken here")]
    Tls(String),
    #[error("{message} ({code})")]
    Other { code: String, message: String },
}

impl Refusal {
    /// The one word by which rules tell refusals apart.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoContainer { .. } => "no_container",
            Self::NotRunning { .. } => "not_running",
            Self::NoAddress(_) => "no_address",
            Self::HostUnknown(_) => "host_unknown",
            Self::Refused(_) => "refused",
            Self::Unreachable(..) => "unreachable",
            Self::Hung { .. } => "hung",
            Self::Authentication(_) => "authentication",
            Self::DatabaseUnknown(_) => "database_unknown",
            Self::TooManyConnections(_) => "too_many_connections",
            Self::Starting(_) => "starting",
            Self::ShuttingDown(_) => "shutting_down",
            Self::Recovering(_) => "recovering",
            Self::Corrupted(_) => "corrupted",
            Self::Tls(_) => "tls",
            Self::Other { .. } => "other",
        }
    }

    /// What `pg_isready` would say: a server that answers anything but "not now" is accepting.
    pub fn readiness(&self) -> &'static str {
        match self {
            Self::Starting(_) | Self::ShuttingDown(_) | Self::Recovering(_) => "rejecting",
            Self::Authentication(_)
            | Self::DatabaseUnknown(_)
            | Self::TooManyConnections(_)
            | Self::Corrupted(_)
            | Self::Tls(_)
            | Self::Other { .. } => "accepting",
            Self::NoContainer { .. }
            | Self::NotRunning { .. }
            | Self::NoAddress(_)
            | Self::HostUnknown(_)
            | Self::Refused(_)
            | Self::Unreachable(..)
            | Self::Hung { .. } => "no_response",
        }
    }

    /// Whether another way in (a superuser's, the local socket) may get further.
    pub fn is_about_the_login(&self) -> bool {
        matches!(
            self,
            Self::Authentication(_)
                | Self::DatabaseUnknown(_)
                | Self::TooManyConnections(_)
                | Self::Tls(_)
                | Self::HostUnknown(_)
                | Self::NoAddress(_)
                | Self::Refused(_)
                | Self::Unreachable(..)
                | Self::Other { .. }
        )
    }

    /// Reads a driver's error.
    pub(super) fn of(error: &sqlx::Error, address: &str) -> Self {
        match error {
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                Self::of_state(&code, database.message())
            }
            sqlx::Error::Io(error) => Self::of_io(error, address),
            sqlx::Error::Tls(_) => Self::Tls(address.to_owned()),
            // A server that dies in mid-greeting, and one that asks for what the driver does not speak.
            other => Self::Other { code: "protocol".to_owned(), message: other.to_string() },
        }
    }

    fn of_io(error: &io::Error, address: &str) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused(address.to_owned()),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                Self::Other { code: "closed".to_owned(), message: format!("{address} closed the connection") }
            }
            _ => Self::Unreachable(address.to_owned(), error.to_string()),
        }
    }

    /// By SQLSTATE. The state 57P03 has several words, in English unless `lc_messages` says otherwise; what cannot be
    /// told apart is `Starting`, whose advice is to wait.
    pub fn of_state(code: &str, message: &str) -> Self {
        let text = message.to_owned();
        match code {
            "28P01" | "28000" => Self::Authentication(text),
            "3D000" => Self::DatabaseUnknown(text),
            "53300" => Self::TooManyConnections(text),
            "57P03" if message.contains("shutting down") => Self::ShuttingDown(text),
            "57P03" if message.contains("recovery") || message.contains("not yet accepting") => {
                Self::Recovering(text)
            }
            "57P03" => Self::Starting(text),
            // A backend that ends while its server stops: 57P01 by command, 57P02 after another one's crash.
            "57P01" => Self::ShuttingDown(text),
            "57P02" => Self::Recovering(text),
            "XX001" | "XX002" => Self::Corrupted(text),
            // A file of the catalogue that is gone or cannot be read stops a connection with its own errors.
            "58P01" | "58030" => Self::Corrupted(text),
            code => Self::Other { code: code.to_owned(), message: text },
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let (code, hint) = match &refusal {
            Refusal::NoContainer { .. } | Refusal::NotRunning { .. } => {
                ("postgres_stopped", "`vigiectl diagnose postgres-down` tells why it does not run")
            }
            Refusal::NoAddress(_) | Refusal::HostUnknown(_) => {
                ("postgres_address_unknown", "set `database_url` under the stack in /etc/vigie/agent.toml")
            }
            Refusal::Refused(_) | Refusal::Unreachable(..) => {
                ("postgres_unreachable", "`vigiectl probe postgres_status` tells what stands there")
            }
            Refusal::Hung { .. } => (
                "postgres_hung",
                "`vigiectl diagnose postgres-down` tells whether the server is stopped in its tracks",
            ),
            Refusal::Authentication(_) => (
                "postgres_authentication",
                "the role's password and the one in the stack's env file have to be the same",
            ),
            Refusal::DatabaseUnknown(_) => {
                ("postgres_database_unknown", "compare the database's name in the env file with the server's")
            }
            Refusal::TooManyConnections(_) => {
                ("postgres_connections_exhausted", "`vigiectl probe postgres_activity` tells who holds them")
            }
            Refusal::Starting(_) | Refusal::ShuttingDown(_) | Refusal::Recovering(_) => {
                ("postgres_not_ready", "wait: a server that starts or recovers must not be restarted")
            }
            Refusal::Corrupted(_) => (
                "postgres_corrupted",
                "do not restart it; `vigiectl diagnose postgres-down` says what to save and to restore",
            ),
            Refusal::Tls(_) => (
                "postgres_tls",
                "set `database_url` under the stack in /etc/vigie/agent.toml to an address without TLS",
            ),
            Refusal::Other { .. } => {
                ("postgres_failed", "`vigiectl probe postgres_log_signs` tells what its log says")
            }
        };
        Self::failed(code, refusal).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_apart() {
        for (code, message, word, readiness) in [
            (
                "28P01",
                "password authentication failed for user \"sylion_user\"",
                "authentication",
                "accepting",
            ),
            ("28000", "role \"x\" does not exist", "authentication", "accepting"),
            ("3D000", "database \"x\" does not exist", "database_unknown", "accepting"),
            ("53300", "sorry, too many clients already", "too_many_connections", "accepting"),
            ("57P03", "the database system is starting up", "starting", "rejecting"),
            ("57P03", "the database system is shutting down", "shutting_down", "rejecting"),
            ("57P03", "the database system is in recovery mode", "recovering", "rejecting"),
            ("57P03", "the database system is not yet accepting connections", "recovering", "rejecting"),
            ("57P03", "le système de bases de données se lance", "starting", "rejecting"),
            ("XX001", "invalid page in block 0 of relation global/1262", "corrupted", "accepting"),
            ("42501", "permission denied", "other", "accepting"),
        ] {
            let refusal = Refusal::of_state(code, message);
            assert_eq!((refusal.word(), refusal.readiness()), (word, readiness), "{message}");
            assert!(refusal.to_string().contains(message));
        }
    }

    #[test]
    fn how_far_the_connection_got() {
        let io = |kind: io::ErrorKind| {
            Refusal::of(&sqlx::Error::Io(io::Error::from(kind)), "172.18.0.3:5432").word()
        };
        assert_eq!(io(io::ErrorKind::ConnectionRefused), "refused");
        assert_eq!(io(io::ErrorKind::HostUnreachable), "unreachable");
        assert_eq!(io(io::ErrorKind::UnexpectedEof), "other");
    }
}
