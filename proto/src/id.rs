//! Ids: UUIDv7 under a type each, so that a host's cannot stand where a run's belongs.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// Why a string is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a {kind} id (a UUID in lower case with dashes)")]
pub struct IdError {
    kind: &'static str,
    value: String,
}

/// A new id. Made under a clock before 1970, it is no older than that.
fn fresh() -> Uuid {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(_) => Uuid::now_v7(),
        Err(_) => Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 0, 0)),
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// Makes a new one, ordered by the time of its making.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(fresh())
            }

            /// When it was made, as Unix milliseconds.
            pub fn made_at_ms(self) -> i64 {
                let (seconds, nanos) = self.0.get_timestamp().map_or((0, 0), |at| at.to_unix());
                i64::try_from(seconds).unwrap_or(0) * 1000 + i64::from(nanos / 1_000_000)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Takes exactly what `Display` writes: one id has one spelling.
            fn from_str(value: &str) -> Result<Self, IdError> {
                let error = || IdError { kind: $kind, value: value.chars().take(64).collect() };
                let uuid = Uuid::try_parse(value).map_err(|_| error())?;
                if uuid.get_version_num() == 7 && uuid.to_string() == value {
                    Ok(Self(uuid))
                } else {
                    Err(error())
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// An incident.
    IncidentId = "incident";
    /// A host, for as long as it is known; never used again for another.
    HostId = "host";
    /// A run.
    RunId = "run";
    /// A task; for one that needs an order, the order's id too.
    TaskId = "task";
    /// A batch of orders under one signature.
    BatchId = "batch";
    /// A one-time token.
    TokenId = "token";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_has_one_spelling() {
        let id = RunId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<RunId>().is_err());
        assert!(id.to_string().replace('-', "").parse::<RunId>().is_err());
        assert!("../../etc/passwd".parse::<HostId>().is_err());
    }
}
