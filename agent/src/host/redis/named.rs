//! Which Redis the variables of a stack name: by an address as a whole, or by its parts.

use zeroize::Zeroizing;

use super::address::{Address, PORT, address};

/// The variables under which stacks write the whole address, its parts, and the way in.
pub(super) const URLS: [&str; 4] = ["REDIS_URL", "REDIS_URI", "QUEUE_REDIS_URL", "REDIS_CONNECTION_STRING"];
const HOSTS: [&str; 2] = ["REDIS_HOST", "REDIS_HOSTNAME"];
const PORTS: [&str; 1] = ["REDIS_PORT"];
const DATABASES: [&str; 3] = ["REDIS_DB", "REDIS_DATABASE", "REDIS_DB_INDEX"];
const USERS: [&str; 2] = ["REDIS_USERNAME", "REDIS_USER"];
pub(super) const PASSWORDS: [&str; 3] = ["REDIS_PASSWORD", "REDIS_PASS", "REDISCLI_AUTH"];

/// A variable that is set to something.
pub(super) struct Set {
    pub(super) name: String,
    pub(super) value: Zeroizing<String>,
    /// The file or container that sets it.
    pub(super) place: String,
}

/// What one place says of where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The variables, to be told: `REDIS_URL`.
    pub(super) by: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: u32,
    pub(super) tls: bool,
}

/// What a set of variables says: where Redis is, as many ways as it says it, and with which credentials.
#[derive(Default)]
pub(super) struct Said {
    pub(super) named: Vec<Named>,
    pub(super) url: Option<(Set, Address)>,
    /// The password alone, and the user beside it.
    pub(super) password: Option<(Set, Option<String>)>,
    /// An address that cannot be read, and why.
    pub(super) unreadable: Option<(String, String)>,
}

/// Reads variables. `REDIS_PORT` without a host is where Compose publishes it, as often as not, and says nothing here.
pub(super) fn said(variable: impl Fn(&[&str]) -> Option<Set>) -> Said {
    let mut found = Said::default();
    if let Some(set) = variable(&URLS) {
        match address(&set.value) {
            Ok(parsed) => {
                found.named.push(Named {
                    by: set.name.clone(),
                    host: parsed.host.clone(),
                    port: parsed.port,
                    database: parsed.database,
                    tls: parsed.tls,
                });
                found.url = Some((set, parsed));
            }
            Err(reason) => found.unreadable = Some((set.name, reason)),
        }
    }
    let database = variable(&DATABASES).and_then(|set| Some((set.name, set.value.trim().parse().ok()?)));
    if let Some(host) = variable(&HOSTS) {
        let port = variable(&PORTS).and_then(|set| set.value.trim().parse().ok()).unwrap_or(PORT);
        found.named.push(Named {
            by: host.name,
            host: host.value.trim().trim_matches(['[', ']']).to_owned(),
            port,
            database: database.as_ref().map_or(0, |(_, number)| *number),
            tls: false,
        });
    } else if let Some((name, database)) = database {
        // The address names the place, and this the database in it.
        let same = found.named.first().cloned();
        let same = same.unwrap_or(Named {
            by: String::new(),
            host: String::new(),
            port: PORT,
            database,
            tls: false,
        });
        found.named.push(Named { by: name, database, ..same });
    }
    let user = variable(&USERS).map(|set| set.value.to_string());
    found.password = variable(&PASSWORDS).map(|set| (set, user));
    found
}

impl Named {
    /// Whether it names no machine, or the one on which it is read: of a container, that is the container itself.
    pub(super) fn is_local(&self) -> bool {
        is_local(&self.host)
    }
}

/// Names of whatever machine reads them.
pub(super) fn is_local(host: &str) -> bool {
    matches!(host, "" | "localhost" | "::1" | "0.0.0.0" | "host.docker.internal") || host.starts_with("127.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Said {
        said(|names| {
            names.iter().find_map(|name| {
                let (name, value) = variables.iter().find(|(own, _)| own == name)?;
                let value = Zeroizing::new((*value).to_owned());
                Some(Set { name: (*name).to_owned(), value, place: ".env".to_owned() })
            })
        })
    }

    fn places(said: &Said) -> Vec<(&str, &str, u16, u32)> {
        said.named.iter().map(|own| (own.by.as_str(), own.host.as_str(), own.port, own.database)).collect()
    }

    #[test]
    fn parts_name_a_place_and_a_user() {
        let found = of(&[
            ("REDIS_HOST", "cache.internal"),
            ("REDIS_PORT", "6390"),
            ("REDIS_DB", "4"),
            ("REDIS_USERNAME", "bull"),
            ("REDIS_PASSWORD", "x"),
        ]);
        assert_eq!(places(&found), [("REDIS_HOST", "cache.internal", 6390, 4)]);
        assert_eq!(found.password.unwrap().1.as_deref(), Some("bull"));
        assert_eq!(places(&of(&[("REDIS_HOST", "redis")])), [("REDIS_HOST", "redis", 6379, 0)]);
        assert_eq!(places(&of(&[("REDIS_PORT", "16379")])), [], "where Compose publishes it");
        assert_eq!(places(&of(&[("REDIS_DB", "2")])), [("REDIS_DB", "", 6379, 2)]);
    }

    #[test]
    fn an_address_and_parts_stand_beside_each_other() {
        let found = of(&[("REDIS_URL", "rediss://:p@cache:6380"), ("REDIS_DB", "3")]);
        assert_eq!(places(&found), [("REDIS_URL", "cache", 6380, 0), ("REDIS_DB", "cache", 6380, 3)]);
        assert!(found.named[0].tls);
        let found = of(&[("REDIS_URL", "unix:///run/redis.sock")]);
        assert!(found.named.is_empty() && found.unreadable.is_some());
    }

    #[test]
    fn names_of_whoever_reads_them() {
        for host in ["", "localhost", "127.0.0.1", "127.3.2.1", "::1", "host.docker.internal"] {
            assert!(is_local(host), "{host}");
        }
        assert!(!is_local("redis") && !is_local("10.0.0.5"));
    }
}
