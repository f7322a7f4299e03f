//! `vigie-controller init`: makes a controller out of nothing.
//!
//! Makes the state folder with its CAs, its settings and its database, and the token that the first operator logs in
//! with. It never touches what is there: a folder that holds anything is refused.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use vigie_proto::{id::RunId, token::Token};
use vigie_transport::pin::PinError;

use crate::{
    authority::{Authority, AuthorityError},
    config::{Config, ConfigError, Settings, WatchSettings, private_folder},
    enrolment::login_token,
    error::HostsError,
    store::{Sqlite, Store as _, StoreError},
};

/// What a new controller is to be.
#[derive(Debug, Clone)]
pub struct Init {
    pub state: PathBuf,
    /// Where agents and operators will reach it: a DNS name or an IP address.
    pub address: String,
    pub domain: String,
    pub bind: IpAddr,
    pub operators_port: u16,
    pub agents_port: u16,
    pub enrolment_port: u16,
}

/// A controller that was made.
#[derive(Debug)]
pub struct Initialised {
    pub config: Config,
    /// For the first operator's `vigiectl login`; shown once.
    pub token: Token,
}

/// Why no controller was made. What had been made until then is removed again.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "{0} is a controller's already; start it with `vigie-controller serve`, or choose another folder with --state"
    )]
    Exists(PathBuf),
    #[error("{0} is not empty; empty it, or choose another folder with --state")]
    NotEmpty(PathBuf),
    #[error("{path} cannot be used as the state folder; run as its owner, or choose another with --state")]
    Folder { path: PathBuf, source: io::Error },
    #[error("the settings make no controller")]
    Config(#[from] ConfigError),
    #[error("the CAs cannot be made")]
    Authority(#[from] AuthorityError),
    #[error("the CA has no pin")]
    Pin(#[from] PinError),
    #[error("the database cannot be made")]
    Store(#[from] StoreError),
    #[error("the first operator's token cannot be made")]
    Token(#[source] HostsError),
}

/// Makes a controller.
///
/// # Errors
/// When the folder is in use, or something cannot be made.
pub async fn init(wanted: Init) -> Result<Initialised, InitError> {
    let config = Config {
        settings: Settings {
            // Short enough for a log line, and no other replica's.
            id: RunId::new().to_string(),
            domain: wanted.domain,
            address: wanted.address,
            bind: wanted.bind,
            operators_port: wanted.operators_port,
            agents_port: wanted.agents_port,
            enrolment_port: wanted.enrolment_port,
            watch: WatchSettings::default(),
            heartbeat: None,
            monitoring: None,
            contacts: Vec::new(),
            notify: Vec::new(),
        },
        state: wanted.state,
    };
    config.settings.check()?;
    claim(&config.state)?;
    match make(&config).await {
        Ok(token) => Ok(Initialised { config, token }),
        Err(error) => {
            clear(&config);
            Err(error)
        }
    }
}

/// Takes a folder that is not there, or is empty.
fn claim(state: &Path) -> Result<(), InitError> {
    let failed = |source| InitError::Folder { path: state.to_owned(), source };
    if Config::file_in(state).exists() {
        return Err(InitError::Exists(state.to_owned()));
    }
    // Looked at before anything is done to it: a folder that is somebody else's keeps its mode.
    if state.exists() && fs::read_dir(state).map_err(failed)?.next().is_some() {
        return Err(InitError::NotEmpty(state.to_owned()));
    }
    private_folder(state).map_err(failed)
}

/// The settings come last: a folder without them is no controller's.
async fn make(config: &Config) -> Result<Token, InitError> {
    let authority = Authority::create(&config.authority(), &config.settings.domain)?;
    let runbooks = config.runbooks();
    private_folder(&runbooks).map_err(|source| InitError::Folder { path: runbooks, source })?;
    let store = Sqlite::open(&config.database()).await?;
    let fresh = login_token(&store).await.map_err(InitError::Token)?;
    store.close().await;
    let token = Token {
        id: fresh.id,
        secret: fresh.secret,
        ca_pin: *authority.pin()?.as_bytes(),
        trust_list: None,
        address: config.settings.at(config.settings.enrolment_port),
    };
    config.save()?;
    Ok(token)
}

/// Empties the folder again, which was empty before.
fn clear(config: &Config) {
    let database = config.database();
    let beside = |suffix: &str| {
        let mut path = database.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    };
    let files = [database.clone(), beside("-wal"), beside("-shm"), Config::file_in(&config.state)];
    let folders = [config.authority(), config.runbooks()];
    let removed = folders.iter().map(fs::remove_dir_all).chain(files.iter().map(fs::remove_file));
    for error in removed.filter_map(Result::err).filter(|error| error.kind() != io::ErrorKind::NotFound) {
        tracing::warn!(%error, "something that was made could not be removed again");
    }
}
