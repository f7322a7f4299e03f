//! `controller.toml`: where the controller listens, and under which name it is known.
//!
//! Owns the file's grammar and the layout of the state folder. Written once by `init`, edited by people, read at every
//! start. An unknown key is an error: a setting that is misspelt must not be silently without effect.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use vigie_transport::{
    client::{Address, AddressError},
    credential::{FileError, read_public},
    identity::{Identity, IdentityError, Role},
};

use crate::{
    monitoring::{MonitoringError, MonitoringSettings},
    notify::{ChannelError, ChannelSettings},
};

/// The three doors' usual ports.
pub const OPERATORS_PORT: u16 = 7420;
pub const AGENTS_PORT: u16 = 7421;
pub const ENROLMENT_PORT: u16 = 7422;

/// The settings, with the folder that they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The state folder: CAs, database, settings, the team's runbooks.
    pub state: PathBuf,
    pub settings: Settings,
}

/// What stands in `controller.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// This replica's name within its fleet; part of its certificate.
    pub id: String,
    /// The fleet's trust domain: `spiffe://<domain>/…`. Changing it strands every certificate issued before.
    pub domain: String,
    /// The DNS name or IP address at which agents and operators reach the controller; its certificate carries it.
    pub address: String,
    /// The local address to listen on.
    pub bind: IpAddr,
    /// 0 lets the system choose, which only tests want.
    pub operators_port: u16,
    pub agents_port: u16,
    pub enrolment_port: u16,
    #[serde(default)]
    pub watch: WatchSettings,
    /// A URL that is asked again and again while the controller is well, so that somebody else notices when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<HeartbeatSettings>,
    /// Where the team's own monitoring tells that it is green; without it a person ticks that line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<MonitoringSettings>,
    /// Whom to call, in the order of escalation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<ContactSettings>,
    /// Where incidents are told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<ChannelSettings>,
}

/// `[watch]`: whether agents, and the controller from outside, watch for symptoms by themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchSettings {
    /// The pause between two looks, in seconds; 0 for none.
    pub every_s: u32,
    /// Whether the controller looks at each stack's public name. Not where it has no way to them.
    pub outside: bool,
}

impl Default for WatchSettings {
    /// A symptom is seen within half a minute, for a few probes a minute.
    fn default() -> Self {
        Self { every_s: 30, outside: true }
    }
}

/// `[heartbeat]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatSettings {
    /// Asked with GET, as healthchecks.io and its like expect.
    pub url: String,
    #[serde(default = "every_minute")]
    pub every_s: u32,
}

fn every_minute() -> u32 {
    60
}

/// One of `[[contacts]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactSettings {
    /// `On-call DevOps`.
    pub role: String,
    /// A name with a telephone number, an address, a page.
    pub contact: String,
}

/// Why there are no settings. Each names the file or the key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "{path} cannot be read; make a controller with `vigie-controller init`, or name its folder with --state"
    )]
    File { path: PathBuf, source: FileError },
    #[error("{path} is not valid; correct it as the message below says")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("`address` is {address:?}; write a DNS name or an IP address, without scheme or port")]
    Address { address: String, source: AddressError },
    #[error(
        "`domain` or `id` cannot stand in a certificate; use lower-case letters, digits, `.`, `_` and `-`"
    )]
    Identity(#[source] IdentityError),
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Monitoring(#[from] MonitoringError),
    #[error("[watch] `every_s` is {0}; write 5 to 3600 seconds, or 0 to watch nothing")]
    Watch(u32),
    #[error("[heartbeat] needs an http or https `url`, and `every_s` of 10 to 3600 seconds")]
    Heartbeat,
    #[error("[[contacts]] need a `role` and a `contact` each")]
    Contact,
    #[error("the ports of operators, agents and enrolment must differ")]
    Ports,
    #[error("the settings do not serialise")]
    Serialise(#[source] Box<toml::ser::Error>),
    #[error("{path} cannot be written")]
    Write { path: PathBuf, source: FileError },
    #[error("{0} is in use by a vigie-controller; stop it first")]
    InUse(PathBuf),
    #[error("{path} cannot be locked; run as its owner")]
    Lock { path: PathBuf, source: io::Error },
}

impl Config {
    /// Reads the settings of a state folder.
    ///
    /// # Errors
    /// When the file is missing, misspelt, or says something impossible.
    pub fn load(state: &Path) -> Result<Self, ConfigError> {
        let path = Self::file_in(state);
        let text = read_public(&path).map_err(|source| ConfigError::File { path: path.clone(), source })?;
        let settings: Settings =
            toml::from_str(&text).map_err(|source| ConfigError::Syntax { path, source: Box::new(source) })?;
        settings.check()?;
        Ok(Self { state: state.to_owned(), settings })
    }

    /// Writes the settings into the state folder.
    ///
    /// # Errors
    /// When they are impossible, or the file cannot be written.
    pub fn save(&self) -> Result<(), ConfigError> {
        self.settings.check()?;
        let text = toml::to_string_pretty(&self.settings)
            .map_err(|source| ConfigError::Serialise(Box::new(source)))?;
        let path = Self::file_in(&self.state);
        let text = format!(
            "# The controller's settings; `vigie-controller serve` reads them when it starts.\n{text}"
        );
        vigie_transport::credential::write_private(&path, text.as_bytes())
            .map_err(|source| ConfigError::Write { path, source })
    }

    /// Where the settings stand within a state folder.
    pub fn file_in(state: &Path) -> PathBuf {
        state.join("controller.toml")
    }

    /// The CAs' keys and certificates.
    pub fn authority(&self) -> PathBuf {
        self.state.join("authority")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.state.join("controller.db")
    }

    /// The team's own runbooks.
    pub fn runbooks(&self) -> PathBuf {
        self.state.join("runbooks")
    }
}

impl Settings {
    /// Refuses what could not work, before anything is made with it.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let parsed: Result<Address, _> = self.at(OPERATORS_PORT).parse();
        parsed.map_err(|source| ConfigError::Address { address: self.address.clone(), source })?;
        Identity::new(&self.domain, Role::Controller, &self.id).map_err(ConfigError::Identity)?;
        let ports = [self.operators_port, self.agents_port, self.enrolment_port];
        let clash = |a: usize, b: usize| ports[a] != 0 && ports[a] == ports[b];
        if clash(0, 1) || clash(0, 2) || clash(1, 2) {
            return Err(ConfigError::Ports);
        }
        if self.watch.every_s != 0 && !(5..=3600).contains(&self.watch.every_s) {
            return Err(ConfigError::Watch(self.watch.every_s));
        }
        if let Some(heartbeat) = &self.heartbeat {
            let url = reqwest::Url::parse(&heartbeat.url)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !url || !(10..=3600).contains(&heartbeat.every_s) {
                return Err(ConfigError::Heartbeat);
            }
        }
        if let Some(monitoring) = &self.monitoring {
            monitoring.check()?;
        }
        if self.contacts.iter().any(|known| known.role.is_empty() || known.contact.is_empty()) {
            return Err(ConfigError::Contact);
        }
        Ok(ChannelSettings::check_all(&self.notify)?)
    }

    /// The public address with a port, as clients dial it; an IPv6 address gets its brackets.
    pub fn at(&self, port: u16) -> String {
        match self.address.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{}:{port}", self.address),
        }
    }

    /// The local socket for a port.
    pub fn socket(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.bind, port)
    }
}

/// The state folder when nobody names one: the system's for root, the person's own otherwise.
///
/// # Errors
/// When neither `XDG_STATE_HOME` nor `HOME` says where that is.
pub fn default_state() -> Result<PathBuf, io::Error> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/vigie-controller"));
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")))
        .map(|folder| folder.join("vigie-controller"))
        .ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "neither XDG_STATE_HOME nor HOME is set; use --state")
        })
}

/// Takes a state folder for one process, for as long as the file lives: two controllers on one state would each undo the
/// other's promises.
///
/// # Errors
/// When another one has it.
pub(crate) fn alone(state: &Path) -> Result<fs::File, ConfigError> {
    let path = state.join("lock");
    let failed = |source| ConfigError::Lock { path: path.clone(), source };
    // Never truncated or removed: a lock on a file that is not there any more is none.
    let lock = fs::File::options().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ConfigError::InUse(state.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// Makes a folder that only its owner may enter, with its parents, if it is not there.
///
/// # Errors
/// When it cannot be made, or its mode cannot be set.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            id: "one".to_owned(),
            domain: "vigie".to_owned(),
            address: "vigie.example.com".to_owned(),
            bind: IpAddr::from([0, 0, 0, 0]),
            operators_port: OPERATORS_PORT,
            agents_port: AGENTS_PORT,
            enrolment_port: ENROLMENT_PORT,
            watch: WatchSettings::default(),
            heartbeat: None,
            monitoring: None,
            contacts: Vec::new(),
            notify: Vec::new(),
        }
    }

    #[test]
    fn what_is_saved_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), settings: settings() };
        config.save().unwrap();
        assert_eq!(Config::load(folder.path()).unwrap(), config);
    }

    /// What a person adds to the file by hand, and what is wrong with it when it is.
    #[test]
    fn channels_have_the_keys_of_their_kind() {
        let parse = |text: &str| -> Result<Settings, String> {
            let written = toml::to_string(&settings()).unwrap();
            let settings: Settings =
                toml::from_str(&format!("{written}\n{text}")).map_err(|error| error.to_string())?;
            settings.check().map_err(|error| error.to_string()).map(|()| settings)
        };
        let good = "[[contacts]]\nrole = \"On-call\"\ncontact = \"+33 1\"\n\
                    [[notify]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"https://x.example/h\"\n\
                    [[notify]]\nname = \"mail\"\nkind = \"email\"\nserver = \"localhost:25\"\ntls = \"none\"\n\
                    from = \"vigie@x.example\"\nto = [\"ada@x.example\"]\n\
                    [heartbeat]\nurl = \"https://hc.example/u\"\n";
        let settings = parse(good).unwrap();
        assert_eq!((settings.notify.len(), settings.heartbeat.unwrap().every_s), (2, 60));
        for (text, expected) in [
            ("[[notify]]\nname = \"a\"\nkind = \"webhook\"", "`url` is missing"),
            ("[[notify]]\nname = \"a\"\nkind = \"webhook\"\nurl = \"x\"", "no http or https URL"),
            ("[[notify]]\nname = \"a b\"\nkind = \"ntfy\"\nurl = \"https://n.sh/t\"", "a name has"),
            (
                "[[notify]]\nname = \"a\"\nkind = \"ntfy\"\nurl = \"https://n.sh/t\"\nto = [\"x\"]",
                "`to` belongs to another kind",
            ),
            ("[[notify]]\nname = \"a\"\nkind = \"pigeon\"", "unknown variant"),
            ("[[contacts]]\nrole = \"x\"\ncontact = \"\"", "[[contacts]]"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_misspelt_key_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { state: folder.path().to_owned(), settings: settings() };
        config.save().unwrap();
        let path = Config::file_in(folder.path());
        let text = fs::read_to_string(&path).unwrap().replace("agents_port", "agent_port");
        fs::write(&path, text).unwrap();
        let ConfigError::Syntax { source, .. } = Config::load(folder.path()).unwrap_err() else {
            panic!("syntax")
        };
        assert!(source.to_string().contains("agent_port"), "{source}");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(matches!(refused(|s| s.address = "https://x".to_owned()), ConfigError::Address { .. }));
        assert!(matches!(refused(|s| s.domain = "Vigie".to_owned()), ConfigError::Identity(_)));
        assert!(matches!(refused(|s| s.agents_port = s.operators_port), ConfigError::Ports));
        assert!(matches!(refused(|s| s.watch.every_s = 1), ConfigError::Watch(1)));
        let beat: fn(&mut Settings) = |s| {
            s.heartbeat = Some(HeartbeatSettings { url: "ftp://x/".to_owned(), every_s: 60 });
        };
        assert!(matches!(refused(beat), ConfigError::Heartbeat));
    }

    #[test]
    fn an_ipv6_address_is_dialled_in_brackets() {
        let settings = Settings { address: "2001:db8::1".to_owned(), ..settings() };
        assert_eq!(settings.at(7422), "[2001:db8::1]:7422");
    }
}
