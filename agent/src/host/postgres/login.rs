//! With which user, password and database a stack speaks to its PostgreSQL, read from what the stack itself is given:
//! the containers' environment, the env files, the settings. Passwords stay in here; nothing prints one.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

/// PostgreSQL's port when nobody says another.
pub const PORT: u16 = 5432;

/// The variables that hold an address with its credentials, the usual one first.
const URLS: [&str; 6] =
    ["DATABASE_URL", "POSTGRES_URL", "POSTGRESQL_URL", "PG_URL", "DB_URL", "DATABASE_PRIVATE_URL"];

/// Names of single values, each set tried as a whole: host, port, user, password, database.
const PARTS: [[&str; 5]; 4] = [
    ["PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"],
    ["DB_HOST", "DB_PORT", "DB_USER", "DB_PASSWORD", "DB_NAME"],
    ["DATABASE_HOST", "DATABASE_PORT", "DATABASE_USER", "DATABASE_PASSWORD", "DATABASE_NAME"],
    ["POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"],
];

/// Where a login was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// `database_url` in the agent's settings.
    Settings,
    /// The environment of the backend's container, as it runs.
    Backend,
    /// The stack's env files, as they are now: what the backend is given when it is made anew.
    EnvFile,
    /// The environment of PostgreSQL's own container. The image reads it once, when it makes the database.
    Server,
}

impl Source {
    /// The word that the catalogue uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Backend => "backend",
            Self::EnvFile => "env_file",
            Self::Server => "server",
        }
    }
}

/// A user, a password and where they are used.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub source: Source,
    /// As it is written; empty where nothing says one.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Zeroizing<String>,
    pub database: String,
    /// Whether the address asks for TLS, which this agent does not speak to PostgreSQL.
    pub tls: bool,
    /// The variable it was read from.
    pub variable: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { source, host, port, user, database, .. } = self;
        write!(f, "{}: {user}@{host}:{port}/{database}", source.word())
    }
}

impl Login {
    /// Whether both let the same user into the same database with the same password.
    pub fn same_credentials(&self, other: &Self) -> bool {
        self.user == other.user && self.password == other.password && self.database == other.database
    }

    /// Whether both lead to the same place in the same way.
    pub fn same(&self, other: &Self) -> bool {
        self.same_credentials(other) && self.host == other.host && self.port == other.port
    }

    /// Reads `postgresql://user:password@host:port/database?…`. A password that somebody forgot to encode is taken as
    /// it stands.
    pub fn of_url(source: Source, variable: &str, url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        // `postgresql+asyncpg://` and the like name a driver.
        let scheme = scheme.split('+').next().unwrap_or(scheme);
        if !matches!(scheme, "postgres" | "postgresql" | "postgis" | "pgsql") {
            return None;
        }
        let (credentials, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        let (address, database) = place.split_once('/').unwrap_or((place, ""));
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (address, PORT),
        };
        let user = decoded(user);
        let database = if database.is_empty() { user.clone() } else { decoded(database) };
        let tls = query.split('&').any(|pair| {
            matches!(
                pair,
                "sslmode=require" | "sslmode=verify-ca" | "sslmode=verify-full" | "ssl=true" | "ssl=1"
            )
        });
        Some(Self {
            source,
            host: decoded(host.trim_matches(['[', ']'])),
            port,
            user,
            password: Zeroizing::new(decoded(password)),
            database,
            tls,
            variable: variable.to_owned(),
        })
    }

    /// The login that an environment describes, by an address or by single values.
    pub fn of_environment(source: Source, environment: &BTreeMap<String, Zeroizing<String>>) -> Option<Self> {
        let value = |name: &str| environment.get(name).map(|value| value.as_str()).filter(|v| !v.is_empty());
        let by_url = URLS.iter().find_map(|name| value(name).and_then(|url| Self::of_url(source, name, url)));
        by_url.or_else(|| {
            PARTS.iter().find_map(|[host, port, user, password, database]| {
                let name = value(user)?.to_owned();
                Some(Self {
                    source,
                    host: value(host).unwrap_or_default().to_owned(),
                    port: value(port).and_then(|port| port.parse().ok()).unwrap_or(PORT),
                    database: value(database).map_or_else(|| name.clone(), str::to_owned),
                    user: name,
                    password: Zeroizing::new(value(password).unwrap_or_default().to_owned()),
                    tls: false,
                    variable: (*password).to_owned(),
                })
            })
        })
    }

    /// The login that the official image makes of its variables.
    pub fn of_server(environment: &BTreeMap<String, Zeroizing<String>>) -> Self {
        let value = |name: &str| {
            environment.get(name).map(|value| value.as_str().to_owned()).filter(|v| !v.is_empty())
        };
        let user = value("POSTGRES_USER").unwrap_or_else(|| "postgres".to_owned());
        Self {
            source: Source::Server,
            host: String::new(),
            port: value("PGPORT").and_then(|port| port.parse().ok()).unwrap_or(PORT),
            password: Zeroizing::new(value("POSTGRES_PASSWORD").unwrap_or_default()),
            database: value("POSTGRES_DB").unwrap_or_else(|| user.clone()),
            user,
            tls: false,
            variable: "POSTGRES_PASSWORD".to_owned(),
        }
    }
}

/// A container's `NAME=value` list.
pub(super) fn environment(list: Option<&Vec<String>>) -> BTreeMap<String, Zeroizing<String>> {
    list.into_iter()
        .flatten()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_owned())))
        .collect()
}

/// What an env file sets, as Compose reads it: quotes taken off, a comment behind a blank cut, `${NAME}` replaced from
/// the lines above. A value over several lines is none of ours.
pub(super) fn env_file(text: &str) -> BTreeMap<String, Zeroizing<String>> {
    let mut found: BTreeMap<String, Zeroizing<String>> = BTreeMap::new();
    for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let Some((name, raw)) = line.split_once('=') else { continue };
        let (name, raw) = (name.trim_end(), raw.trim());
        if name.starts_with('#') || name.is_empty() {
            continue;
        }
        let value = match raw.chars().next() {
            Some('\'') => raw[1..].split('\'').next().unwrap_or_default().to_owned(),
            Some('"') => expanded(&unquoted(&raw[1..]), &found),
            _ => expanded(raw.split(" #").next().unwrap_or_default().trim_end(), &found),
        };
        found.insert(name.to_owned(), Zeroizing::new(value));
    }
    found
}

/// Up to the closing double quote, its escapes resolved.
fn unquoted(text: &str) -> String {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

/// `${NAME}` and `$NAME` where the name is known; everything else stays, a password's own `$` too.
fn expanded(text: &str, known: &BTreeMap<String, Zeroizing<String>>) -> String {
    let (mut plain, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        plain.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, next) = match after.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some(pair) => pair,
            None => {
                let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at(end)
            }
        };
        match known.get(name) {
            Some(value) => {
                plain.push_str(value);
                rest = next;
            }
            None if after.starts_with('$') => {
                plain.push('$');
                rest = &after[1..];
            }
            None => {
                plain.push('$');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// Percent-encoding resolved, where it is one.
fn decoded(text: &str) -> String {
    let digit = |byte: Option<&u8>| {
        byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok())
    };
    let (mut plain, bytes, mut at) = (Vec::with_capacity(text.len()), text.as_bytes(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                plain.push(high * 16 + low);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Login {
        Login::of_url(Source::Backend, "DATABASE_URL", url).unwrap()
    }

    #[test]
    fn addresses_in_every_way_of_writing_them() {
        let login =
            of("postgresql://sylion_user:WK1a%23mb%2Bve%25vo@postgres:5433/sylion_prod?sslmode=disable");
        assert_eq!(
            (login.user.as_str(), login.password.as_str(), login.host.as_str(), login.port),
            ("sylion_user", "WK1a#mb+ve%vo", "postgres", 5433)
        );
        assert_eq!((login.database.as_str(), login.tls), ("sylion_prod", false));
        let raw = of("postgres://u:a#b@c/d%@db/x");
        assert_eq!((raw.password.as_str(), raw.host.as_str(), raw.port), ("a#b@c/d%", "db", PORT));
        let driver = of("postgresql+asyncpg://u:p@[::1]:6000?ssl=true");
        assert_eq!(
            (driver.host.as_str(), driver.port, driver.database.as_str(), driver.tls),
            ("::1", 6000, "u", true)
        );
        assert!(Login::of_url(Source::Backend, "X", "mysql://u:p@h/d").is_none());
        assert!(Login::of_url(Source::Backend, "X", "sqlite.db").is_none());
        assert!(!format!("{raw:?}").contains("a#b"), "a password is never printed");
    }

    #[test]
    fn single_values_are_an_address_too() {
        let environment = environment(Some(&vec![
            "DB_USER=app".to_owned(),
            "DB_PASSWORD=p=1".to_owned(),
            "DB_HOST=db".to_owned(),
        ]));
        let login = Login::of_environment(Source::Backend, &environment).unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.as_str(), login.database.as_str()),
            ("app", "p=1", "app")
        );
        assert!(Login::of_environment(Source::Backend, &BTreeMap::new()).is_none());
    }

    #[test]
    fn env_files_as_compose_reads_them() {
        let found = env_file(
            "POSTGRES_USER=sylion_user # the owner\nPOSTGRES_PASSWORD=WKWD1a#mb6ZCl+veRoSR%vo6CzF\n\
             export QUOTED=\"a\\\"b\"\nSINGLE='a$b'\n# NO=1\nMONEY=a$$b$c\n\
             DATABASE_URL=postgres://${POSTGRES_USER}:x@postgres/db\n",
        );
        let value = |name: &str| found[name].as_str();
        assert_eq!(value("POSTGRES_USER"), "sylion_user");
        assert_eq!(value("POSTGRES_PASSWORD"), "WKWD1a#mb6ZCl+veRoSR%vo6CzF");
        assert_eq!((value("QUOTED"), value("SINGLE"), value("MONEY")), ("a\"b", "a$b", "a$b$c"));
        assert_eq!(value("DATABASE_URL"), "postgres://sylion_user:x@postgres/db");
        assert_eq!(found.len(), 6);
    }
}
