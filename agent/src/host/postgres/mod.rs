//! A stack's PostgreSQL, and the ways in.
//!
//! A server is found by its service's image or name, or by `database_url` in the agent's settings. The stack's own way
//! in is TCP with the credentials that its backend was given: [`Server::enter`] goes it, and says where it ends. To look
//! after a server the agent prefers the Unix socket in the server's own container, which it reaches through `/proc`:
//! there the image trusts its superuser, so that a wrong password, a cut network and used-up connections (a superuser
//! has reserved ones) are no obstacle to finding out about them. [`Server::administer`] does that.
//!
//! Nothing here changes a server, and no password leaves: not in errors, not in arguments, not in a log.

mod login;
pub mod processes;
mod refusal;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use bollard::models::{ContainerInspectResponse, MountPoint};
use sqlx::{
    ConnectOptions as _, Connection as _, Executor as _, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

use super::{
    Host, careful,
    docker::{EngineError, belongs_to_service, label, milliseconds},
    stacks::KnownStack,
};
use crate::operations::Fault;
pub use login::{Login, PORT, Source};
pub use refusal::Refusal;

/// How long a way in may take. A healthy server lets a client in within milliseconds, a loaded one within a second.
pub const CONNECT: Duration = Duration::from_secs(3);

/// What is read of a configuration file. The one that PostgreSQL ships has 30 KiB, most of it comments.
const CONFIGURATION: u64 = 1024 * 1024;

/// What `pg_stat_activity` calls the agent's own sessions.
pub const APPLICATION: &str = "vigie";

/// Where servers keep their socket: Debian and the official image, then PostgreSQL's own default.
const SOCKETS: [&str; 3] = ["run/postgresql", "var/run/postgresql", "tmp"];

/// A stack's PostgreSQL as it stands at this moment.
#[derive(Debug, Clone)]
pub struct Server {
    pub stack: String,
    /// The Compose service; empty for a server outside of the stack.
    pub service: String,
    /// `None` when the service has no container, and for a server outside of the stack.
    pub container: Option<ServerContainer>,
    /// The ways in that the stack names, the backend's own first.
    pub logins: Vec<Login>,
    /// What is known of the backend's container.
    pub backend: Option<BackendContainer>,
}

/// The container of a server.
#[derive(Debug, Clone, Default)]
pub struct ServerContainer {
    pub id: String,
    pub name: String,
    pub image: String,
    /// created, running, paused, restarting, removing, exited, dead.
    pub state: String,
    /// none, starting, healthy, unhealthy.
    pub health: String,
    pub exit_code: i64,
    pub oom_killed: bool,
    pub restart_count: u32,
    pub started_at_ms: i64,
    pub finished_at_ms: i64,
    /// The engine's error from the last start.
    pub error: String,
    /// The container's first process on this machine; 0 when it does not run.
    pub pid: i32,
    /// Its addresses by network.
    pub addresses: BTreeMap<String, IpAddr>,
    /// Names by which others on its networks find it.
    pub names: BTreeSet<String>,
    /// Ports of this machine that lead to it: address, port of this machine, the container's own.
    pub published: Vec<(String, u16, u16)>,
    /// Where it keeps its data, in the container.
    pub data_directory: String,
    /// The mount on this machine that holds it, when it is a mount.
    pub data_source: Option<PathBuf>,
    /// Where in that mount it is: `pgdata` where `PGDATA` lies below the mount, empty where it is the mount.
    pub data_below: PathBuf,
    /// The volume's name, when it is one.
    pub volume: String,
}

/// What matters of the backend's container when it cannot reach its database.
#[derive(Debug, Clone, Default)]
pub struct BackendContainer {
    pub name: String,
    pub state: String,
    pub networks: BTreeSet<String>,
    pub host_network: bool,
}

impl Server {
    /// Finds a stack's server. `service` may be empty: the one with PostgreSQL's image or name is then taken. A stack
    /// without one has its server where its logins lead, whatever `service` says.
    ///
    /// # Errors
    /// When the stack has no such service and nothing else says where its database is, or Docker cannot be asked.
    pub async fn find(host: &Host, stack: &KnownStack, service: &str) -> Result<Self, Fault> {
        let settings = host.settings().stacks.get(&stack.name);
        let settled = settings.and_then(|settings| settings.database_url.as_ref());
        let settled = settled.and_then(|url| Login::of_url(Source::Settings, "database_url", url.secret()));
        let own = match service {
            "" => service_of(stack).map(ToOwned::to_owned),
            named if stack.services.contains_key(named) => Some(named.to_owned()),
            _ => None,
        };
        let (mut container, mut backend, mut logins) = (None, None, Vec::new());
        let summaries = match host.docker().containers(Some(&stack.name)).await {
            Ok(summaries) => summaries,
            // Without an engine there can still be a server that the settings or the files name, but no service.
            Err(EngineError::Absent(_)) if own.is_none() || settled.is_some() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let mut environment = BTreeMap::new();
        for summary in summaries.iter().filter(|summary| belongs_to_service(summary)) {
            let labels = summary.labels.as_ref();
            let name =
                labels.and_then(|labels| labels.get(label::SERVICE)).map(String::as_str).unwrap_or_default();
            let id = summary.id.as_deref().unwrap_or_default();
            if Some(name) == own.as_deref() && container.is_none() {
                let Some(found) = inspected(host, id).await? else { continue };
                environment =
                    login::environment(found.config.as_ref().and_then(|config| config.env.as_ref()));
                container = Some(ServerContainer::of(&found));
            } else if name == stack.backend_service && backend.is_none() {
                let Some(found) = inspected(host, id).await? else { continue };
                let given = login::environment(found.config.as_ref().and_then(|config| config.env.as_ref()));
                logins.extend(Login::of_environment(Source::Backend, &given));
                backend = Some(BackendContainer::of(&found));
            }
        }
        let files: Vec<_> = stack
            .effective_env_files()
            .into_iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect();
        let written: BTreeMap<_, _> = files.iter().flat_map(|text| login::env_file(text)).collect();
        logins.extend(Login::of_environment(Source::EnvFile, &written));
        if own.is_some() {
            logins.push(Login::of_server(if container.is_some() { &environment } else { &written }));
        }
        logins.splice(0..0, settled);
        // A runbook asks for the service's usual name: a stack without any such service may have its server elsewhere.
        let elsewhere = logins.iter().any(|login| !login.host.is_empty()) && service_of(stack).is_none();
        if own.is_none() && !elsewhere {
            let known: Vec<&str> = stack.services.keys().map(String::as_str).collect();
            let message = if service.is_empty() {
                format!("stack `{}` has no PostgreSQL that can be found", stack.name)
            } else {
                format!("stack `{}` has no service `{service}`", stack.name)
            };
            return Err(Fault::refused("postgres_absent", message).hint(format!(
                "it has {}; for a server elsewhere set `database_url` under [stacks.{}] in /etc/vigie/agent.toml",
                if known.is_empty() { "no services".to_owned() } else { known.join(", ") },
                stack.name
            )));
        }
        Ok(Self { stack: stack.name.clone(), service: own.unwrap_or_default(), container, logins, backend })
    }

    /// Whether the server is one of the stack's own services.
    pub fn is_service(&self) -> bool {
        !self.service.is_empty()
    }

    /// The login of the backend: what runs, else what the files say now.
    pub fn backend_login(&self) -> Option<&Login> {
        let of = |source| self.logins.iter().find(|login| login.source == source);
        of(Source::Backend).or_else(|| of(Source::EnvFile)).or_else(|| of(Source::Settings))
    }

    /// Whether a login's host is this stack's own server, by any of its names.
    pub fn is_own(&self, login: &Login) -> bool {
        let Some(container) = &self.container else {
            return login.host == self.service || login.host.is_empty();
        };
        login.host.is_empty()
            || login.host == self.service
            || container.names.contains(&login.host)
            || login
                .host
                .parse()
                .is_ok_and(|address: IpAddr| container.addresses.values().any(|own| *own == address))
            || container.published.iter().any(|(address, port, _)| {
                *port == login.port && (is_this_machine(&login.host) || *address == login.host)
            })
    }

    /// Where a login leads, as this machine has to dial it.
    ///
    /// # Errors
    /// When it leads nowhere from here.
    pub fn address(&self, login: &Login) -> Result<(String, u16), Refusal> {
        if login.source != Source::Settings && (self.is_service() && self.is_own(login)) {
            let Some(container) = &self.container else {
                return Err(Refusal::NoContainer { service: self.service.clone() });
            };
            if container.state != "running" {
                let (container, state) = (container.name.clone(), container.state.clone());
                return Err(Refusal::NotRunning { container, state });
            }
            // The port by which the container is reached inside, whatever it is published as.
            let inside = container
                .published
                .iter()
                .find(|(_, outer, _)| *outer == login.port)
                .map(|(.., inner)| *inner);
            if let Some(address) = container.addresses.values().next() {
                return Ok((
                    address.to_string(),
                    inside.filter(|_| is_this_machine(&login.host)).unwrap_or(login.port),
                ));
            }
            // On the host's network, or with no network of its own but a published port.
            if let Some((_, port, _)) = container.published.iter().find(|(.., inner)| *inner == login.port) {
                return Ok(("127.0.0.1".to_owned(), *port));
            }
            return Ok(("127.0.0.1".to_owned(), login.port));
        }
        if login.host.is_empty() {
            return Err(Refusal::NoAddress("no variable of the stack names a host".to_owned()));
        }
        // What containers call the machine on which they run.
        let host = if login.host == "host.docker.internal" { "127.0.0.1" } else { &login.host };
        Ok((host.to_owned(), login.port))
    }

    /// The stack's own way in: TCP with the credentials of `login`.
    ///
    /// # Errors
    /// Where it ends.
    pub async fn enter(&self, login: &Login, deadline: Instant) -> Result<PgConnection, Refusal> {
        let (host, port) = self.address(login)?;
        let shown = format!("{}:{port}", if login.host.is_empty() { &host } else { &login.host });
        if login.tls {
            return Err(Refusal::Tls(shown));
        }
        if host.parse::<IpAddr>().is_err() {
            let looked_up =
                timeout_at(within(deadline), tokio::net::lookup_host((host.as_str(), port))).await;
            if looked_up.ok().and_then(Result::ok).and_then(|mut found| found.next()).is_none() {
                return Err(Refusal::HostUnknown(login.host.clone()));
            }
        }
        let options = options(login, &login.database).host(&host).port(port);
        let begun = Instant::now();
        match connect(&options, &shown, deadline).await {
            Err(Refusal::Hung { .. }) => {
                // Whether anybody takes the connection tells a server that hangs from a network that swallows it.
                let taken =
                    timeout_at(within(deadline + CONNECT), TcpStream::connect((host.as_str(), port))).await;
                match taken {
                    Ok(Ok(_)) => Err(Refusal::Hung { address: shown, waited: begun.elapsed() }),
                    Ok(Err(error)) => Err(Refusal::Unreachable(shown, error.to_string())),
                    Err(_) => Err(Refusal::Unreachable(shown, "no answer".to_owned())),
                }
            }
            other => other,
        }
    }

    /// The way in of whoever looks after the server: its superuser over its own socket, else whatever login the stack
    /// names. `database` may be empty: the stack's own is then taken, or `postgres` where that is gone.
    ///
    /// # Errors
    /// The most telling of the refusals.
    pub async fn administer(&self, database: &str, deadline: Instant) -> Result<PgConnection, Refusal> {
        let mut refused: Option<Refusal> = None;
        match self.over_socket(database, deadline).await {
            Some(Ok(connection)) => return Ok(connection),
            // A server that is not ready is so for everybody.
            Some(Err(refusal)) if !refusal.is_about_the_login() => return Err(refusal),
            Some(Err(refusal)) => refused = Some(refusal),
            None => {}
        }
        let mut tried: Vec<&Login> = Vec::new();
        for login in &self.logins {
            if tried.iter().any(|other| other.same(login)) {
                continue;
            }
            tried.push(login);
            let mut login = login.clone();
            if !database.is_empty() {
                database.clone_into(&mut login.database);
            }
            match self.enter(&login, deadline).await {
                Ok(connection) => return Ok(connection),
                Err(refusal) if !refusal.is_about_the_login() => return Err(refusal),
                Err(refusal) => refused = Some(refused.unwrap_or(refusal)),
            }
        }
        Err(refused
            .unwrap_or_else(|| Refusal::NoAddress("the stack names no user and no password".to_owned())))
    }

    /// Over the socket in the server's container, as the user that the image made its superuser. `None` when there is
    /// no such way.
    async fn over_socket(&self, database: &str, deadline: Instant) -> Option<Result<PgConnection, Refusal>> {
        let login = self.logins.iter().find(|login| login.source == Source::Server)?;
        let folder = self.socket_folder(login.port)?;
        let shown = format!("the socket of `{}`", self.service);
        let named = if database.is_empty() { &login.database } else { database };
        let to = |database: &str| options(login, database).socket(&folder).port(login.port);
        let first = connect(&to(named), &shown, deadline).await;
        if database.is_empty() && matches!(first, Err(Refusal::DatabaseUnknown(_))) {
            return Some(connect(&to("postgres"), &shown, deadline).await);
        }
        Some(first)
    }

    /// The folder of the server's socket, seen through its container's first process.
    pub fn socket_folder(&self, port: u16) -> Option<PathBuf> {
        let container =
            self.container.as_ref().filter(|container| container.pid > 0 && container.state == "running")?;
        let root = PathBuf::from(format!("/proc/{}/root", container.pid));
        // An absolute link in there would lead to this machine's own folders.
        let is_own = |folder: &str| {
            let mut parts = folder.split('/').scan(root.clone(), |path, part| {
                path.push(part);
                Some(path.is_symlink())
            });
            parts.all(|link| !link)
        };
        let mut there = SOCKETS.iter().filter(|folder| is_own(folder)).map(|folder| root.join(folder));
        there.find(|folder| folder.join(format!(".s.PGSQL.{port}")).symlink_metadata().is_ok())
    }
}

impl ServerContainer {
    /// A setting as the server's own files have it: for one that nobody can ask. What is given on its command line is
    /// not looked for.
    pub fn configured(&self, name: &str) -> Option<String> {
        let source = self.data_source.as_ref()?;
        ["postgresql.auto.conf", "postgresql.conf"].iter().find_map(|file| {
            // Whoever is in the container owns these files.
            let text = careful::read(source, &self.data_below.join(file), CONFIGURATION).ok()?;
            text.lines().rev().find_map(|line| setting(line, name))
        })
    }
}

/// The value of `name = value # comment`.
fn setting(line: &str, name: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix(name)?;
    let rest = rest.strip_prefix([' ', '\t', '='])?.trim_start_matches([' ', '\t', '=']);
    let value = rest.split('#').next().unwrap_or_default().trim().trim_matches('\'');
    (!value.is_empty()).then(|| value.to_owned())
}

/// Sets how long a statement may run and wait for a lock in this session. Nothing that only looks may stand in
/// anybody's way, or wait for them.
///
/// # Errors
/// When the server does not take it.
pub async fn bound(connection: &mut PgConnection, statement: Duration) -> Result<(), sqlx::Error> {
    let (statement, lock) = (statement.as_millis(), statement.as_millis().min(1000));
    let text = format!(
        "SET statement_timeout = {statement}; SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = 30000"
    );
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(text))).await.map(|_| ())
}

/// What went wrong in mid-conversation, in the words of a refusal.
pub fn refusal_of(error: &sqlx::Error) -> Refusal {
    Refusal::of(error, "the server")
}

/// A fault for what went wrong in mid-conversation.
pub fn fault(error: &sqlx::Error) -> Fault {
    refusal_of(error).into()
}

/// Ends a session in good manners; one that the server has ended already is ended.
pub async fn leave(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the session was over already");
    }
}

/// Whether a server is PostgreSQL by its image or its service's name.
fn service_of(stack: &KnownStack) -> Option<&str> {
    let image_says = |image: &str| {
        ["postgres", "postgis", "timescale", "pgvector"].iter().any(|name| image.contains(name))
            && !["exporter", "backup", "pgadmin", "postgrest", "pgbouncer"]
                .iter()
                .any(|name| image.contains(name))
    };
    let names = ["postgres", "postgresql", "pg", "db", "database"];
    let by_image: Vec<&str> = stack
        .services
        .iter()
        .filter(|(_, own)| image_says(&own.image))
        .map(|(name, _)| name.as_str())
        .collect();
    let named = |candidates: &[&'_ str]| {
        names.iter().find_map(|name| candidates.iter().position(|candidate| candidate == name))
    };
    match by_image.as_slice() {
        [] => {
            names.iter().find_map(|name| stack.services.get_key_value(*name)).map(|(name, _)| name.as_str())
        }
        [only] => Some(*only),
        several => named(several).or(Some(0)).map(|at| several[at]),
    }
}

fn options(login: &Login, database: &str) -> PgConnectOptions {
    // Everything is said here: the driver would else take what the agent's own environment says.
    PgConnectOptions::new_without_pgpass()
        .username(&login.user)
        .password(&login.password)
        .database(database)
        .application_name(APPLICATION)
        .ssl_mode(PgSslMode::Disable)
        .statement_cache_capacity(0)
        .disable_statement_logging()
}

async fn connect(
    options: &PgConnectOptions,
    shown: &str,
    deadline: Instant,
) -> Result<PgConnection, Refusal> {
    let begun = Instant::now();
    match timeout_at(within(deadline), options.connect()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(Refusal::of(&error, shown)),
        Err(_) => Err(Refusal::Hung { address: shown.to_owned(), waited: begun.elapsed() }),
    }
}

fn within(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + CONNECT)
}

fn is_this_machine(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "::1" | "host.docker.internal")
}

async fn inspected(host: &Host, id: &str) -> Result<Option<ContainerInspectResponse>, Fault> {
    match host.docker().inspect(id).await {
        Ok(found) => Ok(Some(found)),
        // Gone since the list was made.
        Err(EngineError::Unknown(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl ServerContainer {
    fn of(found: &ContainerInspectResponse) -> Self {
        let state = found.state.clone().unwrap_or_default();
        let health = state.health.as_ref().and_then(|health| health.status).map(|status| status.to_string());
        let config = found.config.as_ref();
        let environment = login::environment(config.and_then(|config| config.env.as_ref()));
        let data_directory = environment.get("PGDATA").map_or_else(
            || "/var/lib/postgresql/data".to_owned(),
            |value: &Zeroizing<String>| value.to_string(),
        );
        let networks = found.network_settings.as_ref();
        let (mut addresses, mut names) = (BTreeMap::new(), BTreeSet::new());
        for (name, endpoint) in networks.and_then(|settings| settings.networks.as_ref()).into_iter().flatten()
        {
            if let Some(address) = endpoint.ip_address.as_deref().and_then(|text| text.parse().ok()) {
                addresses.insert(name.clone(), address);
            }
            names.extend(endpoint.aliases.iter().flatten().cloned());
        }
        names.insert(found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned());
        let ports = networks.and_then(|settings| settings.ports.as_ref());
        let published = ports.into_iter().flatten().flat_map(|(port, bindings)| {
            let inner = port.split('/').next().and_then(|port| port.parse().ok()).unwrap_or_default();
            bindings.iter().flatten().filter_map(move |binding| {
                Some((
                    binding.host_ip.clone().unwrap_or_default(),
                    binding.host_port.as_ref()?.parse().ok()?,
                    inner,
                ))
            })
        });
        let mount = found.mounts.iter().flatten().filter(|mount| holds(mount, &data_directory));
        let mount = mount.max_by_key(|mount| mount.destination.as_ref().map_or(0, String::len));
        let destination = mount.and_then(|mount| mount.destination.as_deref()).unwrap_or_default();
        let data_below = data_directory.strip_prefix(destination).unwrap_or_default().trim_start_matches('/');
        Self {
            id: found.id.clone().unwrap_or_default(),
            name: found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned(),
            image: config.and_then(|config| config.image.clone()).unwrap_or_default(),
            state: state.status.map(|status| status.to_string()).unwrap_or_default(),
            health: health.filter(|status| !status.is_empty()).unwrap_or_else(|| "none".to_owned()),
            exit_code: state.exit_code.unwrap_or_default(),
            oom_killed: state.oom_killed.unwrap_or_default(),
            restart_count: found.restart_count.and_then(|count| count.try_into().ok()).unwrap_or_default(),
            started_at_ms: milliseconds(state.started_at.as_deref()),
            finished_at_ms: milliseconds(state.finished_at.as_deref()),
            error: state.error.unwrap_or_default(),
            pid: state.pid.and_then(|pid| pid.try_into().ok()).unwrap_or_default(),
            addresses,
            names,
            published: published.collect(),
            data_source: mount.and_then(|mount| mount.source.clone()).map(PathBuf::from),
            data_below: data_below.into(),
            volume: mount.and_then(|mount| mount.name.clone()).unwrap_or_default(),
            data_directory,
        }
    }
}

fn holds(mount: &MountPoint, directory: &str) -> bool {
    let Some(destination) = mount.destination.as_deref() else { return false };
    let rest = directory.strip_prefix(destination);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || destination.ends_with('/'))
}

impl BackendContainer {
    fn of(found: &ContainerInspectResponse) -> Self {
        let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let mode = found.host_config.as_ref().and_then(|host| host.network_mode.as_deref());
        Self {
            name: found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned(),
            state: found
                .state
                .as_ref()
                .and_then(|state| state.status)
                .map(|s| s.to_string())
                .unwrap_or_default(),
            networks: networks.into_iter().flatten().map(|(name, _)| name.clone()).collect(),
            host_network: mode == Some("host"),
        }
    }
}
