//! What the command line and `/etc/vigie/agent.toml` say.
//!
//! The file is optional: it adds or corrects what the agent finds out by itself. One that does not parse stops the
//! agent, for an agent that ignores a person's corrections is worse than one that says so.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use vigie_proto::{
    operation::{OPERATIONS, Operation},
    v1::Parameter,
};

use crate::host::{
    child::keeper,
    redaction::{Secret, of_variable},
};

/// Where a package puts the settings.
const SETTINGS: &str = "/etc/vigie/agent.toml";
/// Where a package puts the agent's state.
const STATE: &str = "/var/lib/vigie";
/// Where the Docker engine listens unless somebody moved it.
const DOCKER: &str = "/var/run/docker.sock";
/// Where the policy is when the settings do not say.
pub const POLICY: &str = "/etc/vigie/policy.toml";

/// The agent of Vigie: executes diagnostics and actions on this host.
#[derive(Debug, Parser)]
#[command(name = "vigie-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Exchange a one-time join token for this host's certificate.
    Enroll(EnrollArgs),
    /// Serve this host until told to stop.
    Serve(ServeArgs),
    /// What is wrong with this host? Every runbook's probes, ranked verdicts with their evidence; or one runbook's.
    /// Needs no controller.
    Diagnose(DiagnoseArgs),
    /// Work through a runbook on this host, as its root: diagnose, propose, ask, act, verify, report. Needs no
    /// controller; what is done is told to it later. (Without a runbook, as units of earlier versions call it: serve.)
    Run(RunArgs),
    /// Look at or write this host's policy.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run a program that an order asked for, apart from the agent: the agent's own business.
    #[command(name = keeper::COMMAND, hide = true)]
    Keep {
        /// What to run, as an agent wrote it down.
        folder: PathBuf,
    },
    /// Print the journal: what this host was ordered to do, did and refused, each line with its place in the hash chain.
    Journal {
        /// Where the agent keeps its state.
        #[arg(long, value_name = "DIR", default_value = STATE)]
        state: PathBuf,
    },
}

/// The token is read from a file or from standard input: arguments and environments can be read by others.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The file with the token; standard input when left out.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    pub state: PathBuf,
    /// Enrol a host anew that is enrolled already.
    #[arg(long)]
    pub replace: bool,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The settings; may be missing.
    #[arg(long, value_name = "FILE", default_value = SETTINGS)]
    pub config: PathBuf,
    /// Where the agent keeps its state.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    pub state: PathBuf,
}

/// What both commands of the local mode take.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// A runbook of one's own, instead of one that the agent carries.
    #[arg(long, value_name = "FILE", conflicts_with = "runbook")]
    pub file: Option<PathBuf>,
    /// A parameter of the runbook; may be given again.
    #[arg(short, long = "param", value_name = "KEY=VALUE", value_parser = parameter)]
    pub parameters: Vec<Parameter>,
    /// This stack alone.
    #[arg(long, value_name = "STACK")]
    pub stack: Option<String>,
    /// How it is shown.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    #[command(flatten)]
    pub place: ServeArgs,
}

/// How a local run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Wide,
    Json,
}

#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// The runbook's id; every runbook is run where it is left out.
    pub runbook: Option<String>,
    #[command(flatten)]
    pub local: LocalArgs,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The runbook's id.
    pub runbook: Option<String>,
    /// The remedy, instead of the one that the rules choose.
    #[arg(long, value_name = "REMEDY")]
    pub remedy: Option<String>,
    /// Agree beforehand to what can be undone.
    #[arg(long)]
    pub yes: bool,
    /// Agree beforehand to everything, what loses something included.
    #[arg(long)]
    pub yes_destroy: bool,
    #[command(flatten)]
    pub local: LocalArgs,
}

fn parameter(text: &str) -> Result<Parameter, String> {
    let (name, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok(Parameter { name: name.to_owned(), value: value.to_owned() })
}

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Print what a policy allows, or what is wrong with it.
    Check {
        /// The policy.
        #[arg(value_name = "FILE", default_value = POLICY)]
        file: PathBuf,
    },
    /// Print the standard policy for the stacks that are on this host.
    Standard {
        /// Let orders run this program (absolute path); may be given again.
        #[arg(long, value_name = "PROGRAM", conflicts_with = "exec_any")]
        exec: Vec<PathBuf>,
        /// Let orders run any program.
        #[arg(long)]
        exec_any: bool,
        /// Let orders run this operation, which the standard policy leaves out (`redis_flush`, `postgres_restore`, …);
        /// may be given again.
        #[arg(long, value_name = "OPERATION", value_parser = asked_for)]
        allow: Vec<&'static Operation>,
        /// Pin the policy to these stacks instead of those found here.
        #[arg(long, value_name = "STACK")]
        stack: Vec<String>,
        /// The settings; may be missing.
        #[arg(long, value_name = "FILE", default_value = SETTINGS)]
        config: PathBuf,
        /// Where the agent keeps its state.
        #[arg(long, value_name = "DIR", default_value = STATE)]
        state: PathBuf,
    },
}

/// An operation that the standard policy has to be asked for.
fn asked_for(name: &str) -> Result<&'static Operation, String> {
    let can = |operation: &&Operation| operation.asked_for && operation.name != "exec";
    Operation::find(name).filter(can).ok_or_else(|| {
        let names: Vec<_> = OPERATIONS.iter().filter(can).map(|operation| operation.name).collect();
        format!("it is none of {}; programs are allowed with --exec", names.join(", "))
    })
}

/// The settings, complete: what the file leaves out has its default.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The host's policy.
    pub policy: PathBuf,
    /// The Docker engine's socket.
    pub docker_socket: PathBuf,
    /// Corrections by stack name.
    pub stacks: BTreeMap<String, StackSettings>,
}

/// What a person says of one stack. Everything left out is found out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StackSettings {
    /// The project's folder.
    pub directory: Option<PathBuf>,
    /// Compose files, absolute or relative to the folder.
    pub config_files: Vec<PathBuf>,
    /// Env files, absolute or relative to the folder.
    pub env_files: Vec<PathBuf>,
    /// The variables with which Compose has to be called, with their values. Given here, they count as established.
    pub compose_env: Option<BTreeMap<String, String>>,
    /// The name under which nginx serves the stack.
    pub server_name: Option<String>,
    /// Where that name leads by rights, as the world sees it: this host's public address, or its load balancer's.
    pub public_address: Option<String>,
    /// Where the backend is published, `127.0.0.1:8000`.
    pub backend_address: Option<String>,
    /// The service that is the backend.
    pub backend_service: Option<String>,
    /// The backend's health path.
    pub health_path: Option<String>,
    /// Where the stack's PostgreSQL is, `postgresql://user:password@host:port/database`: for a server that is none of
    /// the stack's services, and for another user than the stack's own.
    pub database_url: Option<DatabaseUrl>,
    /// Where the stack's Redis is, for one outside Docker: `redis://user@cache.internal:6379/0`. Its password is better
    /// kept in the stack's env file.
    pub redis_url: Option<DatabaseUrl>,
    /// Where the admin interface of the knowledge base is, when it is not the backend's published address:
    /// `http://127.0.0.1:3000`.
    pub admin_url: Option<String>,
    /// The variable of the stack's env file that holds the admin interface's bearer token.
    pub admin_token_env: Option<String>,
    /// Where the backups are, and what is known of them elsewhere.
    pub backups: BackupSettings,
    /// The tables that have to be in the stack's database.
    pub tables: Vec<String>,
}

impl StackSettings {
    /// What the settings say that must not leave the host.
    pub fn secrets(&self) -> Vec<Secret> {
        let urls: [(&[u8], _); 2] = [(b"DATABASE_URL", &self.database_url), (b"REDIS_URL", &self.redis_url)];
        urls.into_iter()
            .filter_map(|(name, url)| Some(of_variable(name, url.as_ref()?.secret().as_bytes())))
            .flatten()
            .collect()
    }
}

/// An address with a password in it, which is kept from being printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The address, password included.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl")
    }
}

/// What a person says of a stack's backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupSettings {
    /// The folder, absolute or relative to the stack's; `backups/postgres` otherwise.
    pub directory: Option<PathBuf>,
    /// The script that makes one, absolute or relative; `scripts/backup_postgres.sh` otherwise.
    pub script: Option<PathBuf>,
    /// A file that is touched whenever backups were copied elsewhere: its time is the copies' age.
    pub off_site: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: POLICY.into(), docker_socket: DOCKER.into(), stacks: BTreeMap::new() }
    }
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("the settings {path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("the settings {path} are not valid; correct the file, or remove it to go without")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

impl Settings {
    /// Reads the settings. A file that is not there says nothing.
    ///
    /// # Errors
    /// When there is a file and it cannot be read, or holds anything unknown.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(SettingsError::Read { path: path.to_owned(), source }),
        };
        toml::from_str(&text)
            .map_err(|error| SettingsError::Parse { path: path.to_owned(), source: Box::new(error) })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_correct_stacks_and_refuse_what_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        assert_eq!(Settings::load(&path).unwrap(), Settings::default());
        fs::write(
            &path,
            "[stacks.sylion]\nhealth_path = \"/health\"\ncompose_env = { ENV_FILE = \".env.prod\" }\n",
        )
        .unwrap();
        let settings = Settings::load(&path).unwrap();
        assert_eq!(settings.policy, Path::new(POLICY));
        assert_eq!(settings.stacks["sylion"].compose_env.as_ref().unwrap()["ENV_FILE"], ".env.prod");
        fs::write(&path, "polcy = \"/x\"\n").unwrap();
        let error = anyhow::Error::from(Settings::load(&path).unwrap_err());
        assert!(format!("{error:#}").contains("polcy"), "{error:#}");
    }
}
