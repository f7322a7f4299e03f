//! A stack's Redis: where it is, with which password the stack speaks to it, and what it says to whoever knocks.
//!
//! What keeps the stack from using it is told apart before any client library is asked: the first exchange is one inline
//! `PING` on a connection of its own, whose answer names the trouble in Redis's own words. Every step has its own short
//! limit, since a Redis that hangs takes connections as long as its kernel does.

mod address;

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, RedisError, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cmd,
};
use bollard::models::ContainerInspectResponse;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{Host, docker::container, stacks::KnownStack};
use crate::operations::Fault;
use address::{Address, address};

/// On one machine, a connection takes well under a millisecond; over a network, a few.
const CONNECT: Duration = Duration::from_millis(1500);
/// A healthy Redis answers within a millisecond, one that forks or swaps within some hundreds.
const ANSWER: Duration = Duration::from_millis(2000);
/// What Redis's own port is.
const PORT: u16 = 6379;
/// An error of Redis is one short line.
const LINE: u64 = 1024;

/// The variables under which stacks write the whole address, and the password alone.
const URLS: [&str; 4] = ["REDIS_URL", "REDIS_URI", "QUEUE_REDIS_URL", "REDIS_CONNECTION_STRING"];
const PASSWORDS: [&str; 3] = ["REDIS_PASSWORD", "REDIS_PASS", "REDISCLI_AUTH"];
const HOSTS: [&str; 1] = ["REDIS_HOST"];

/// A password that may be the right one, and where it comes from.
pub struct Credential {
    /// settings, env_url, env_password, container, backend.
    pub source: &'static str,
    /// The variable or argument that holds it.
    pub name: String,
    /// The file or container.
    pub place: String,
    username: Option<String>,
    /// `None` where the place holds none.
    password: Option<Zeroizing<String>>,
    pub outcome: &'static str,
}

/// A stack's Redis, whether it answers or not.
#[derive(Default)]
pub struct Place {
    pub service: String,
    pub container_name: String,
    /// As in the catalogue's Container; empty outside Docker.
    pub container_state: String,
    pub container: Option<ContainerInspectResponse>,
    /// Host and port to dial; empty while there is none.
    pub address: String,
    pub database: u32,
    pub credentials: Vec<Credential>,
}

/// Why Redis does not serve the stack: a state of `redis_status`, and its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub state: &'static str,
    pub said: String,
}

impl Trouble {
    fn new(state: &'static str, said: impl Into<String>) -> Self {
        Self { state, said: said.into() }
    }

    /// The fault of an operation that cannot do without Redis.
    pub fn fault(&self, place: &Place) -> Fault {
        let name = if place.container_name.is_empty() { "Redis" } else { &place.container_name };
        let (code, words) = match self.state {
            "absent" => ("redis_absent", "the stack has no Redis".to_owned()),
            "wrong_password" => ("redis_wrong_password", format!("{name} refuses the stack's password")),
            "password_unknown" => {
                ("redis_password_unknown", format!("{name} wants a password and the stack sets none"))
            }
            state => ("redis_unavailable", format!("{name} cannot be asked: {}", state.replace('_', " "))),
        };
        let said = if self.said.is_empty() { String::new() } else { format!(" ({})", self.said) };
        let message = format!("{words}{said}");
        let absent = self.state == "absent";
        if absent { Fault::absent("redis", message) } else { Fault::failed(code, message) }
            .hint("`vigiectl diagnose redis-down` tells why; for a Redis elsewhere set `redis_url` in /etc/vigie/agent.toml")
    }
}

/// A connection that Redis has let in.
pub struct Session {
    connection: MultiplexedConnection,
    /// Whether it asked for a password.
    pub password_required: bool,
}

/// What became of the attempt to speak to Redis.
pub struct Knock {
    /// There even with a trouble, when Redis lets in but does not serve (loading, a broken master link), or when it
    /// refuses what the stack's files say and takes what it was made with.
    pub session: Option<Session>,
    pub trouble: Option<Trouble>,
    pub password_required: bool,
}

impl Session {
    /// One command. Redis's own error is an answer; a connection that broke is a trouble.
    ///
    /// # Errors
    /// Redis's refusal, or why it did not answer.
    pub async fn ask(&mut self, command: &Cmd) -> Result<Value, Trouble> {
        match timeout(ANSWER * 2, self.connection.req_packed_command(command)).await {
            Ok(Ok(Value::ServerError(error))) => Err(said(&RedisError::from(error))),
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err(Trouble::new("hung", "it did not answer in time")),
        }
    }

    /// Many commands at once, answered in their order; one that Redis refuses is `Nil`.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn ask_all(&mut self, commands: &[Cmd]) -> Result<Vec<Value>, Trouble> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = ::redis::Pipeline::with_capacity(commands.len());
        for command in commands {
            pipeline.add_command(command.clone());
        }
        let asked = self.connection.req_packed_commands(&pipeline, 0, commands.len());
        let values = match timeout(ANSWER * 2, asked).await {
            Ok(Ok(values)) => values,
            Ok(Err(error)) => return Err(said(&error)),
            Err(_) => return Err(Trouble::new("hung", "it did not answer in time")),
        };
        Ok(values
            .into_iter()
            .map(|value| if matches!(value, Value::ServerError(_)) { Value::Nil } else { value })
            .collect())
    }
}

/// Where a stack's Redis is; `None` when it has none.
///
/// # Errors
/// When the Docker engine cannot be asked, or the service that was named is not of this stack.
pub async fn locate(host: &Host, stack: &KnownStack, service: &str) -> Result<Option<Place>, Fault> {
    let settings = host.settings().stacks.get(&stack.name);
    let mut place = Place::default();
    let mut target = None;
    if let Some(url) = settings
        .and_then(|settings| settings.redis_url.as_ref())
        .map(crate::config::DatabaseUrl::secret)
        .filter(|_| service.is_empty())
    {
        let parsed =
            address(url).map_err(|reason| invalid("`redis_url` in /etc/vigie/agent.toml", &reason))?;
        place.credentials.push(parsed.credential("settings", "redis_url", "/etc/vigie/agent.toml"));
        place.database = parsed.database;
        target = Some((parsed.host, parsed.port));
    }
    let outside = target.is_some();
    if let Some(variable) = stack.variable(&URLS) {
        let file = variable.file.to_string_lossy().into_owned();
        match address(&variable.value) {
            Ok(parsed) => {
                place.credentials.push(parsed.credential("env_url", &variable.name, &file));
                if target.is_none() {
                    place.database = parsed.database;
                    target = Some((parsed.host, parsed.port));
                }
            }
            // What cannot be read is not this stack's way of saying it.
            Err(reason) => tracing::debug!(variable = variable.name, reason, "no address of Redis"),
        }
    }
    if target.is_none()
        && let Some(variable) = stack.variable(&HOSTS)
    {
        target = Some((variable.value.to_string(), PORT));
    }
    if let Some(variable) = stack.variable(&PASSWORDS) {
        place.credentials.push(Credential {
            source: "env_password",
            name: variable.name,
            place: variable.file.to_string_lossy().into_owned(),
            username: None,
            password: Some(variable.value),
            outcome: "untried",
        });
    }
    let named = target.as_ref().map_or("", |(host, _)| host.as_str());
    let found = if outside { None } else { service_of(stack, service, named)? };
    let port = target.as_ref().map_or(PORT, |(_, port)| *port);
    match found {
        Some(found) => inside(host, stack, found, port, &mut place).await?,
        None => match target {
            Some((host, port)) => place.address = format!("{host}:{port}"),
            None => return Ok(None),
        },
    }
    let key = |credential: &Credential| {
        ["settings", "env_url", "env_password", "backend", "container"]
            .iter()
            .position(|s| *s == credential.source)
    };
    place.credentials.sort_by_key(key);
    Ok(Some(place))
}

fn invalid(what: &str, reason: &str) -> Fault {
    Fault::failed("redis_url_invalid", format!("{what} is no address of a Redis: {reason}"))
        .hint("write `redis://HOST:PORT/DATABASE`; TLS is not spoken")
}

/// The service that is the stack's Redis: the one asked for, the one that its address names, or the one that looks so.
fn service_of(stack: &KnownStack, asked: &str, named: &str) -> Result<Option<String>, Fault> {
    if !asked.is_empty() {
        if stack.services.contains_key(asked) {
            return Ok(Some(asked.to_owned()));
        }
        let known: Vec<&str> = stack.services.keys().map(String::as_str).collect();
        return Err(Fault::refused(
            "service_unknown",
            format!("stack `{}` has no service `{asked}`", stack.name),
        )
        .hint(format!("it has {}", known.join(", "))));
    }
    let by_address = stack
        .services
        .iter()
        .find(|(name, known)| !named.is_empty() && (*name == named || known.container == named));
    if let Some((name, _)) = by_address {
        return Ok(Some(name.clone()));
    }
    if !named.is_empty() && !matches!(named, "localhost" | "127.0.0.1" | "::1" | "host.docker.internal") {
        // It names another machine.
        let looks = stack.services.contains_key("redis");
        if named.contains('.') && !looks {
            return Ok(None);
        }
    }
    let looks = |name: &str, image: &str| {
        let image = image.rsplit('/').next().unwrap_or(image);
        ["redis", "valkey", "keydb"].iter().any(|kind| name.contains(kind) || image.contains(kind))
            && !["exporter", "commander", "insight", "sentinel"]
                .iter()
                .any(|other| image.contains(other) || name.contains(other))
    };
    let mut like: Vec<&String> = stack
        .services
        .iter()
        .filter(|(name, known)| looks(name, &known.image))
        .map(|(name, _)| name)
        .collect();
    like.sort_by_key(|name| (name.as_str() != "redis", name.len()));
    Ok(like.first().map(|name| (*name).clone()))
}

/// Looks at the service's container, and at the backend's for the password that it was made with.
async fn inside(
    host: &Host,
    stack: &KnownStack,
    service: String,
    port: u16,
    place: &mut Place,
) -> Result<(), Fault> {
    let own = host.docker().containers(Some(&stack.name)).await?;
    let of = |service: &str| own.iter().map(container).find(|own| own.service == service);
    if !stack.backend_service.is_empty()
        && let Some(backend) = of(&stack.backend_service)
        && let Ok(found) = host.docker().inspect(&backend.id).await
    {
        let variables = environment(&found);
        let value =
            |names: &[&'static str]| names.iter().find_map(|name| Some((*name, variable(&variables, name)?)));
        let at = |name: &str, parsed: Address| parsed.credential("backend", name, &backend.name);
        if let Some((name, url)) = value(&URLS)
            && let Ok(parsed) = address(&url)
        {
            place.credentials.push(at(name, parsed));
        } else if let Some((name, password)) = value(&PASSWORDS) {
            let parsed = Address { password: Some(password), ..Address::default() };
            place.credentials.push(at(name, parsed));
        }
    }
    place.container_name =
        stack.services.get(&service).map(|known| known.container.clone()).unwrap_or_default();
    let running = of(&service);
    place.service = service;
    let Some(running) = running else {
        "missing".clone_into(&mut place.container_state);
        return Ok(());
    };
    place.container_name.clone_from(&running.name);
    place.container_state.clone_from(&running.state);
    let found = host.docker().inspect(&running.id).await?;
    place.credentials.push(made_with(&found, &running.name));
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let address = networks
        .into_iter()
        .flatten()
        .filter_map(|(_, network)| network.ip_address.as_deref())
        .find(|address| !address.is_empty());
    let published =
        running.ports.iter().find(|own| own.container_port == u32::from(port) && own.host_port > 0);
    place.address = match (address, published) {
        (Some(address), _) => format!("{address}:{port}"),
        (None, Some(own)) => format!("127.0.0.1:{}", own.host_port),
        // On the host's own network.
        (None, None) if running.state == "running" => format!("127.0.0.1:{port}"),
        (None, None) => String::new(),
    };
    place.container = Some(found);
    Ok(())
}

/// The password that Redis's container was made with: its `--requirepass`, else its variable.
fn made_with(found: &ContainerInspectResponse, name: &str) -> Credential {
    let config = found.config.clone().unwrap_or_default();
    let words: Vec<String> =
        config.entrypoint.into_iter().flatten().chain(config.cmd.into_iter().flatten()).collect();
    let argument =
        words.iter().position(|word| word == "--requirepass").and_then(|at| words.get(at + 1)).cloned();
    let variables = environment(found);
    let variable = PASSWORDS.iter().find_map(|name| Some(((*name).to_owned(), variable(&variables, name)?)));
    let (variable, password) = match (argument, variable) {
        (Some(argument), _) => ("--requirepass".to_owned(), Some(Zeroizing::new(argument))),
        (None, Some((name, value))) => (name, Some(value)),
        (None, None) => (String::new(), None),
    };
    let outcome = if password.is_some() { "untried" } else { "none" };
    Credential {
        source: "container",
        name: variable,
        place: name.to_owned(),
        username: None,
        password,
        outcome,
    }
}

fn environment(found: &ContainerInspectResponse) -> Vec<String> {
    found.config.as_ref().and_then(|config| config.env.clone()).unwrap_or_default()
}

fn variable(environment: &[String], name: &str) -> Option<Zeroizing<String>> {
    let set = environment.iter().filter_map(|line| line.split_once('=')).find(|(own, _)| *own == name);
    set.map(|(_, value)| Zeroizing::new(value.to_owned())).filter(|value| !value.is_empty())
}

/// Knocks, and goes in with the first password that Redis takes.
pub async fn knock(place: &mut Place) -> Knock {
    let closed = |trouble| Knock { session: None, trouble: Some(trouble), password_required: false };
    match place.container_state.as_str() {
        "" | "running" => {}
        "missing" => return closed(Trouble::new("missing", "")),
        "paused" => return closed(Trouble::new("paused", "")),
        "restarting" => return closed(Trouble::new("restarting", "")),
        _ => return closed(Trouble::new("stopped", "")),
    }
    let dialled = match dial(&place.address).await {
        Ok(dialled) => dialled,
        Err(trouble) => return closed(trouble),
    };
    let password_required = match hello(&dialled.1) {
        // Busy states are told by Redis once more, after the password.
        Greeting::Open => false,
        Greeting::Password => true,
        Greeting::Trouble(trouble) => return closed(trouble),
    };
    let mut session = match connect(dialled.0).await {
        Ok(connection) => Session { connection, password_required },
        Err(trouble) => return closed(trouble),
    };
    let mut refused = None;
    if password_required && let Err(trouble) = authenticate(place, &mut session).await {
        // What Redis itself was made with may still open it, and tell what is wrong.
        let inside = place.credentials.iter().any(|own| own.outcome == "accepted");
        if !inside {
            return Knock { session: None, trouble: Some(trouble), password_required };
        }
        refused = Some(trouble);
    }
    if place.database > 0
        && let Err(trouble) = session.ask(cmd("SELECT").arg(place.database)).await
    {
        return Knock { session: None, trouble: Some(trouble), password_required };
    }
    let trouble = match refused {
        Some(trouble) => Some(trouble),
        None => session.ask(&cmd("PING")).await.err().filter(|trouble| trouble.state != "misconf"),
    };
    // One that hangs is of no more use.
    let gone = trouble.as_ref().is_some_and(|trouble| matches!(trouble.state, "hung" | "unreachable"));
    Knock { session: (!gone).then_some(session), trouble, password_required }
}

/// Tries each password once. Those that the stack itself uses decide; what the container was made with is tried after
/// them, for what it tells.
async fn authenticate(place: &mut Place, session: &mut Session) -> Result<(), Trouble> {
    let mut verdict: Option<Trouble> = None;
    let mut tried: Vec<(Option<String>, Zeroizing<String>, &'static str)> = Vec::new();
    let mut let_in = false;
    let mut own_way = false;
    for credential in &mut place.credentials {
        let Some(password) = &credential.password else {
            credential.outcome = "none";
            continue;
        };
        let same =
            tried.iter().find(|(username, word, _)| *username == credential.username && word == password);
        credential.outcome = if let Some((_, _, outcome)) = same {
            outcome
        } else {
            let mut auth = cmd("AUTH");
            if let Some(username) = &credential.username {
                auth.arg(username);
            }
            match session.ask(auth.arg(password.as_str())).await {
                Ok(_) => "accepted",
                Err(trouble) if trouble.state == "wrong_password" => "refused",
                Err(trouble) => return Err(trouble),
            }
        };
        tried.push((credential.username.clone(), password.clone(), credential.outcome));
        let accepted = credential.outcome == "accepted";
        let_in |= accepted;
        if matches!(credential.source, "settings" | "env_url" | "env_password") {
            own_way |= accepted;
            if !accepted {
                verdict.get_or_insert_with(|| {
                    Trouble::new(
                        "wrong_password",
                        format!("{} in {} is refused", credential.name, credential.place),
                    )
                });
            }
        }
    }
    if own_way {
        return Ok(());
    }
    if let Some(trouble) = verdict {
        return Err(trouble);
    }
    // The stack's files say nothing: what the containers were made with is the stack's way.
    if let_in { Ok(()) } else { Err(Trouble::new("password_unknown", "NOAUTH Authentication required")) }
}

/// Opens a connection, sends one inline PING, and reads the first line of the answer.
async fn dial(address: &str) -> Result<(SocketAddr, Option<String>), Trouble> {
    let addresses = timeout(CONNECT, lookup_host(address)).await;
    let addresses: Vec<SocketAddr> = match addresses {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Trouble::new("unreachable", error.to_string())),
        Err(_) => return Err(Trouble::new("unreachable", "its name cannot be resolved")),
    };
    let stream = match timeout(CONNECT, TcpStream::connect(&*addresses)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(Trouble::new("refused", error.to_string()));
        }
        Ok(Err(error)) => return Err(Trouble::new("unreachable", error.to_string())),
        Err(_) => return Err(Trouble::new("timeout", "nothing takes the connection")),
    };
    let peer = stream.peer_addr().map_err(|error| Trouble::new("unreachable", error.to_string()))?;
    let mut stream = BufReader::new(stream);
    let exchange = async {
        // A server that refuses every client has answered and closed already: what it said is read whatever writing does.
        let written = stream.get_mut().write_all(b"PING\r\n").await;
        let mut line = String::new();
        let read = tokio::io::AsyncReadExt::take(&mut stream, LINE).read_line(&mut line).await;
        if line.is_empty() { written.and(read.map(drop)).map(|()| line) } else { Ok(line) }
    };
    match timeout(ANSWER, exchange).await {
        Ok(Ok(line)) if line.is_empty() => Err(Trouble::new("protocol", "it closes the connection at once")),
        Ok(Ok(line)) => Ok((peer, Some(line.trim_end().to_owned()))),
        Ok(Err(error)) => Err(Trouble::new("protocol", error.to_string())),
        Err(_) => Err(Trouble::new("hung", "it takes the connection and does not answer")),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Greeting {
    Open,
    Password,
    Trouble(Trouble),
}

/// What the answer to the first PING means.
fn hello(line: &Option<String>) -> Greeting {
    let line = line.as_deref().unwrap_or_default();
    if line == "+PONG" {
        return Greeting::Open;
    }
    let Some(error) = line.strip_prefix('-') else {
        return Greeting::Trouble(Trouble::new("protocol", "what answers is no Redis"));
    };
    let trouble = trouble_of(error);
    match trouble.state {
        "password_unknown" => Greeting::Password,
        // It lets in, and tells more.
        "loading" | "master_down" | "busy" | "misconf" => Greeting::Open,
        _ => Greeting::Trouble(trouble),
    }
}

/// An error line of Redis, without the minus.
fn trouble_of(error: &str) -> Trouble {
    let (code, rest) = error.split_once(' ').unwrap_or((error, ""));
    let state = match code {
        "NOAUTH" => "password_unknown",
        "WRONGPASS" => "wrong_password",
        "LOADING" => "loading",
        "BUSY" => "busy",
        "MASTERDOWN" => "master_down",
        "DENIED" => "protected",
        "NOPERM" => "no_permission",
        // PING is refused like a write while snapshots fail; reads are served.
        "MISCONF" => "misconf",
        "ERR" if rest.starts_with("max number of clients") => "max_clients",
        // Before Redis 6.
        "ERR" if rest.starts_with("invalid password") => "wrong_password",
        _ => "error",
    };
    Trouble::new(state, error)
}

async fn connect(peer: SocketAddr) -> Result<MultiplexedConnection, Trouble> {
    let info = ConnectionAddr::Tcp(peer.ip().to_string(), peer.port())
        .into_connection_info()
        .map_err(|error| said(&error))?
        // Nothing is sent before the first command: what Redis says to a password is read here, not in the library.
        .set_redis_settings(
            RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name(),
        );
    let client = Client::open(info).map_err(|error| said(&error))?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(ANSWER));
    client.get_multiplexed_async_connection_with_config(&config).await.map_err(|error| said(&error))
}

/// The library's error in Redis's own words.
fn said(error: &RedisError) -> Trouble {
    if error.is_timeout() {
        return Trouble::new("hung", "it did not answer in time");
    }
    if error.is_connection_refusal() {
        return Trouble::new("refused", "connection refused");
    }
    if error.is_io_error() || error.is_connection_dropped() {
        return Trouble::new("unreachable", "the connection broke");
    }
    if error.kind() == ErrorKind::Parse {
        return Trouble::new("protocol", "what answers is no Redis");
    }
    let code = error.code().unwrap_or("ERR");
    trouble_of(format!("{code} {}", error.detail().unwrap_or_default()).trim_end())
}

/// Where Redis's data is on this machine.
pub struct DataFolder {
    pub volume: String,
    pub source: PathBuf,
    pub destination: String,
}

impl Place {
    /// The mount that holds Redis's data: `/data`, else the only one that it may write to.
    pub fn data(&self) -> Option<DataFolder> {
        let mounts = self.container.as_ref()?.mounts.as_deref().unwrap_or_default();
        let writable: Vec<_> = mounts.iter().filter(|mount| mount.rw != Some(false)).collect();
        let data = writable.iter().find(|mount| mount.destination.as_deref() == Some("/data"));
        let mount = data.or(if let [only] = &*writable { Some(only) } else { None })?;
        Some(DataFolder {
            volume: mount.name.clone().unwrap_or_default(),
            source: mount.source.clone().unwrap_or_default().into(),
            destination: mount.destination.clone().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_to_the_first_ping() {
        // Each line captured from Redis 7.0.15 in that state.
        let state = |line: &str| match hello(&Some(line.to_owned())) {
            Greeting::Open => "open",
            Greeting::Password => "password",
            Greeting::Trouble(trouble) => trouble.state,
        };
        for (line, expected) in [
            ("+PONG", "open"),
            ("-NOAUTH Authentication required.", "password"),
            ("-LOADING Redis is loading the dataset in memory", "open"),
            ("-ERR max number of clients reached", "max_clients"),
            ("-DENIED Redis is running in protected mode because protected mode is enabled", "protected"),
            ("-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "open"),
            (
                "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                "open",
            ),
            (
                "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                "open",
            ),
            ("HTTP/1.1 400 Bad Request", "protocol"),
        ] {
            assert_eq!(state(line), expected, "{line}");
        }
    }

    #[test]
    fn addresses_and_what_they_hide() {
        let found = address("redis://:g%23N2%2BN@redis:6380/3").unwrap();
        assert_eq!((found.host.as_str(), found.port, found.database), ("redis", 6380, 3));
        assert_eq!(found.password.as_ref().unwrap().as_str(), "g#N2+N");
        assert!(found.username.is_none());
        let found = address("redis://app:x@cache.internal").unwrap();
        assert_eq!((found.port, found.username.as_deref()), (6379, Some("app")));
        for bad in ["rediss://:hunter22@h", "http://:hunter22@h", "hunter22", "unix:///hunter22"] {
            let reason = address(bad).map(|_| ()).unwrap_err();
            assert!(!reason.contains("hunter22"), "{reason}");
        }
    }

    #[test]
    fn which_service_is_redis() {
        let mut stack = KnownStack { name: "s".to_owned(), ..KnownStack::default() };
        let mut add = |name: &str, image: &str| {
            let known = crate::host::stacks::KnownService {
                container: format!("s-{name}-1"),
                image: image.to_owned(),
            };
            stack.services.insert(name.to_owned(), known);
        };
        add("backend", "shop/backend");
        add("redis-exporter", "oliver006/redis_exporter");
        add("cache", "docker.io/valkey/valkey:8");
        add("queue", "redis:7");
        assert_eq!(service_of(&stack, "", "queue").unwrap().as_deref(), Some("queue"));
        assert_eq!(service_of(&stack, "", "s-cache-1").unwrap().as_deref(), Some("cache"));
        assert_eq!(service_of(&stack, "", "cache.internal").unwrap(), None, "another machine's");
        assert_eq!(service_of(&stack, "backend", "").unwrap().as_deref(), Some("backend"));
        assert_eq!(service_of(&stack, "", "").unwrap().as_deref(), Some("cache"));
        assert_eq!(service_of(&stack, "nope", "").unwrap_err().failure.code, "service_unknown");
    }
}
