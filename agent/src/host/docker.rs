//! The Docker engine of this host, over its socket.
//!
//! Every call has a deadline of its own: a daemon that hangs is a finding, not a reason to hang with it. What the
//! engine's answers mean is said in the catalogue's words here, so that no operation reads the engine's own types
//! twice. Compose is not spoken here; see [`crate::host::stacks::compose`].

pub mod exec;
mod finished;
pub mod usage;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bollard::{
    ClientVersion, Docker,
    errors::Error,
    models::{ContainerInspectResponse, ContainerStatsResponse, ContainerSummary, ImageInspect},
    query_parameters::{
        ListContainersOptionsBuilder, LogsOptionsBuilder, StatsOptionsBuilder, TagImageOptionsBuilder,
    },
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};
use vigie_proto::v1::{Container, PublishedPort};

use super::child;
use crate::operations::Fault;

/// Where a package puts the engine's socket.
pub const SOCKET: &str = "/var/run/docker.sock";

/// A healthy engine answers a list or an inspection within milliseconds, a loaded one within a second or two.
const CALL: Duration = Duration::from_secs(4);

/// What an engine says of itself takes some milliseconds, and is not worth more than this.
const SELF: Duration = Duration::from_secs(1);

/// What the client offers before it knows the engine's version. The engine answers `/version` whatever is offered.
const OFFERED: ClientVersion = ClientVersion { major_version: 1, minor_version: 47 };

pub mod label {
    //! What Compose writes on its containers.
    pub const PROJECT: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
    pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
    pub const ENVIRONMENT_FILE: &str = "com.docker.compose.project.environment_file";
    /// `True` on the containers of `compose run`, which are no part of a service.
    pub const ONE_OFF: &str = "com.docker.compose.oneoff";
    /// The image that the container was made from.
    pub const IMAGE: &str = "com.docker.compose.image";
    pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
}

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("there is no Docker engine: {} does not exist", .0.display())]
    Absent(PathBuf),
    #[error("the Docker engine cannot be reached over {}", socket.display())]
    Unreachable { socket: PathBuf, source: Box<Error> },
    #[error("the Docker engine did not answer `{call}` within {} ms", after.as_millis())]
    Hung { call: &'static str, after: Duration },
    #[error("the Docker engine knows no {0}")]
    Unknown(String),
    #[error("{0}")]
    Changed(String),
    #[error("the Docker engine refused `{call}`")]
    Refused { call: &'static str, source: Box<Error> },
}

impl EngineError {
    /// The error and its causes on one line.
    pub fn chain(&self) -> String {
        let (mut text, mut source) = (self.to_string(), std::error::Error::source(self));
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        let text = error.chain();
        match error {
            EngineError::Absent(_) => Self::absent("docker", text)
                .hint("install Docker, or set `docker_socket` in /etc/vigie/agent.toml"),
            EngineError::Unreachable { .. } | EngineError::Hung { .. } => {
                Self::failed("docker_unreachable", text)
                    .hint("look at the unit: `vigiectl probe unit-status --unit docker.service`")
            }
            EngineError::Unknown(_) => {
                Self::failed("container_unknown", text).hint("list them: `vigiectl probe container-list`")
            }
            EngineError::Changed(_) => {
                Self::failed("prepared_changed", text).hint("look again: the preview of this operation tells")
            }
            EngineError::Refused { .. } => Self::failed("docker_refused", text),
        }
    }
}

/// The engine. Cloning is cheap; the connection is made at the first call, and made anew after a failure.
#[derive(Clone)]
pub struct Engine {
    socket: Arc<PathBuf>,
    /// `None` until a call has agreed on a version with the engine.
    client: Arc<Mutex<Option<Docker>>>,
    /// How long a call may take.
    patience: Duration,
    /// Where the engine keeps everything, as it said at the last connection.
    root: Arc<RwLock<Option<PathBuf>>>,
}

/// The end of a container's log.
#[derive(Debug, Default)]
pub struct LogTail {
    /// Oldest first, as the container wrote them.
    pub lines: Vec<String>,
    /// True when older lines than these were asked for and left out for size.
    pub truncated: bool,
}

impl Engine {
    /// The engine behind this socket. Nothing is dialled yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: Arc::new(socket.into()), client: Arc::default(), patience: CALL, root: Arc::default() }
    }

    /// Where the engine keeps everything: as it said itself, else as its settings say, else where a package puts it. A
    /// full disk is when the engine does not answer, so that nobody is asked here.
    pub fn root(&self) -> PathBuf {
        let said = self.root.read().unwrap_or_else(PoisonError::into_inner).clone();
        said.unwrap_or_else(configured_root)
    }

    /// All containers, running or not, or those of one Compose project.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn containers(&self, project: Option<&str>) -> Result<Vec<ContainerSummary>, EngineError> {
        let mut options = ListContainersOptionsBuilder::default().all(true);
        let filters =
            project.map(|name| HashMap::from([("label", vec![format!("{}={name}", label::PROJECT)])]));
        if let Some(filters) = &filters {
            options = options.filters(filters);
        }
        let options = options.build();
        self.call("list containers", async |client| client.list_containers(Some(options)).await).await
    }

    /// One container by name or id.
    ///
    /// # Errors
    /// When there is none, or the engine cannot be asked.
    pub async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, EngineError> {
        self.call("inspect a container", async |client| client.inspect_container(container, None).await)
            .await
            .map_err(|error| error.naming("container", container))
    }

    /// A container's counters at this moment. Asked for once: the engine does not wait to compare.
    ///
    /// # Errors
    /// When there is none, or the engine cannot be asked.
    pub async fn stats(&self, container: &str) -> Result<ContainerStatsResponse, EngineError> {
        let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
        self.call("read a container's counters", async |client| {
            let answer = client.stats(container, Some(options)).next().await;
            answer.unwrap_or(Err(Error::RequestTimeoutError))
        })
        .await
        .map_err(|error| error.naming("container", container))
    }

    /// One image by name or id.
    ///
    /// # Errors
    /// When there is none, or the engine cannot be asked.
    pub async fn image(&self, image: &str) -> Result<ImageInspect, EngineError> {
        self.call("inspect an image", async |client| client.inspect_image(image).await)
            .await
            .map_err(|error| error.naming("image", image))
    }

    /// Whether a volume of this name is there.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn has_volume(&self, volume: &str) -> Result<bool, EngineError> {
        let found = self.call("inspect a volume", async |client| client.inspect_volume(volume).await).await;
        match found.map_err(|error| error.naming("volume", volume)) {
            Ok(_) => Ok(true),
            Err(EngineError::Unknown(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Restarts a container, and waits until it has.
    ///
    /// # Errors
    /// When there is none, it does not start, or the time is up.
    pub async fn restart(&self, container: &str, deadline: Instant) -> Result<(), EngineError> {
        let (client, begun) = (self.client().await?, Instant::now());
        match timeout_at(deadline, client.restart_container(container, None)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.failed("restart", error).await.naming("container", container)),
            Err(_) => Err(self.hung("restart", begun).await),
        }
    }

    /// Gives an image one more name, which another image may have had.
    ///
    /// # Errors
    /// When there is no such image, or the engine cannot be asked.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), EngineError> {
        let options = TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
        self.call("tag an image", async |client| client.tag_image(image, Some(options)).await)
            .await
            .map_err(|error| error.naming("image", image))
    }

    /// The engine's version.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn version(&self) -> Result<String, EngineError> {
        let version = self.call("version", async |client| client.version().await).await?;
        Ok(version.version.unwrap_or_default())
    }

    /// The end of a container's log: at most `lines` lines and `bytes` bytes, the newest kept. With the lines comes
    /// the error that ended the reading early, if one did.
    pub async fn logs(
        &self,
        container: &str,
        lines: u32,
        since: i64,
        bytes: usize,
        deadline: Instant,
    ) -> (LogTail, Option<EngineError>) {
        let options = LogsOptionsBuilder::default().tail(&lines.to_string()).since(seconds(since));
        self.read_log(container, options, bytes, deadline).await
    }

    /// The same, each line with the time at which it was written before it.
    pub async fn stamped_logs(
        &self,
        container: &str,
        lines: u32,
        since: i64,
        bytes: usize,
        deadline: Instant,
    ) -> (LogTail, Option<EngineError>) {
        let options = LogsOptionsBuilder::default().tail(&lines.to_string()).since(seconds(since));
        self.read_log(container, options.timestamps(true), bytes, deadline).await
    }

    async fn read_log(
        &self,
        container: &str,
        options: LogsOptionsBuilder,
        bytes: usize,
        deadline: Instant,
    ) -> (LogTail, Option<EngineError>) {
        let client = match self.client().await {
            Ok(client) => client,
            Err(error) => return (LogTail::default(), Some(error)),
        };
        let options = options.stdout(true).stderr(true).build();
        let mut stream = Box::pin(client.logs(container, Some(options)));
        let mut tail = LineTail::new(bytes);
        let begun = Instant::now();
        let error = loop {
            // The engine sends a log at once and ends: silence means that it hangs.
            let quiet = deadline.min(Instant::now() + self.patience);
            match timeout_at(quiet, stream.next()).await {
                Ok(Some(Ok(part))) => tail.push(&part.into_bytes()),
                Ok(Some(Err(error))) => {
                    break Some(self.failed("logs", error).await.naming("container", container));
                }
                Ok(None) => break None,
                Err(_) => break Some(self.hung("logs", begun).await),
            }
        };
        (tail.finish(), error)
    }

    async fn call<T, F>(&self, name: &'static str, ask: F) -> Result<T, EngineError>
    where
        F: AsyncFnOnce(Docker) -> Result<T, Error>,
    {
        let client = self.client().await?;
        let begun = Instant::now();
        match timeout_at(begun + self.patience, ask(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failed(name, error).await),
            Err(_) => Err(self.hung(name, begun).await),
        }
    }

    /// The client, connected and agreed on a version. One caller agrees, the others wait for it.
    async fn client(&self) -> Result<Docker, EngineError> {
        let begun = Instant::now();
        let connect = async {
            let mut client = self.client.lock().await;
            if let Some(client) = &*client {
                return Ok(client.clone());
            }
            if !self.socket.exists() {
                return Err(self.no_socket());
            }
            let unreachable = |source| EngineError::Unreachable {
                socket: self.socket.to_path_buf(),
                source: Box::new(source),
            };
            let path = self.socket.to_string_lossy();
            let agreed = Docker::connect_with_unix(&path, CALL.as_secs(), &OFFERED)
                .map_err(unreachable)?
                .negotiate_version()
                .await
                .map_err(unreachable)?;
            let client = client.insert(agreed).clone();
            // An engine that does not tell this is no worse for everything else.
            if let Ok(Ok(info)) = tokio::time::timeout(SELF, client.info()).await
                && let Some(root) = info.docker_root_dir.map(PathBuf::from).filter(|root| root.is_absolute())
            {
                *self.root.write().unwrap_or_else(PoisonError::into_inner) = Some(root);
            }
            Ok(client)
        };
        timeout_at(begun + self.patience, connect)
            .await
            .unwrap_or(Err(EngineError::Hung { call: "version", after: self.patience }))
    }

    /// There is no engine, or one that does not run: a package's takes its socket with it.
    fn no_socket(&self) -> EngineError {
        let socket = self.socket.to_path_buf();
        if *socket == *SOCKET && child::resolve("dockerd").is_ok() {
            let source = Box::new(std::io::Error::from(std::io::ErrorKind::NotFound).into());
            return EngineError::Unreachable { socket, source };
        }
        EngineError::Absent(socket)
    }

    async fn failed(&self, call: &'static str, error: Error) -> EngineError {
        match error {
            Error::DockerResponseServerError { status_code: 404, message } => EngineError::Unknown(message),
            error @ Error::DockerResponseServerError { .. } => {
                EngineError::Refused { call, source: Box::new(error) }
            }
            Error::RequestTimeoutError => EngineError::Hung { call, after: self.patience },
            error => {
                // The engine may come back as another version.
                *self.client.lock().await = None;
                EngineError::Unreachable { socket: self.socket.to_path_buf(), source: Box::new(error) }
            }
        }
    }

    async fn hung(&self, call: &'static str, begun: Instant) -> EngineError {
        *self.client.lock().await = None;
        EngineError::Hung { call, after: begun.elapsed() }
    }
}

/// Where the engine's settings put everything, or a package.
fn configured_root() -> PathBuf {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "kebab-case", default)]
    struct Daemon {
        data_root: Option<PathBuf>,
    }
    let text = std::fs::read_to_string("/etc/docker/daemon.json").unwrap_or_default();
    let daemon: Daemon = serde_json::from_str(&text).unwrap_or_default();
    daemon.data_root.filter(|root| root.is_absolute()).unwrap_or_else(|| "/var/lib/docker".into())
}

/// Unix seconds as the engine takes them.
fn seconds(since: i64) -> i32 {
    i32::try_from(since).unwrap_or(0)
}

impl EngineError {
    /// Says what was asked for in place of the engine's own wording.
    fn naming(self, kind: &str, name: &str) -> Self {
        match self {
            Self::Unknown(_) => Self::Unknown(format!("{kind} `{name}`")),
            error => error,
        }
    }
}

/// Joins pieces of a log into lines and keeps the newest within a bound.
struct LineTail {
    lines: std::collections::VecDeque<String>,
    open: Vec<u8>,
    held: usize,
    bound: usize,
    truncated: bool,
}

/// A line longer than this is cut: one could fill the whole answer. It is far more than anybody is shown of a line, so that
/// the cut is behind what leaves the host: half a secret is none that redaction knows.
const LINE: usize = 32 * 1024;

impl LineTail {
    fn new(bound: usize) -> Self {
        Self { lines: std::collections::VecDeque::new(), open: Vec::new(), held: 0, bound, truncated: false }
    }

    fn push(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LINE.saturating_sub(self.open.len()).min(text.len());
            self.truncated |= room < text.len();
            self.open.extend_from_slice(&text[..room]);
            if ends {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let line = String::from_utf8_lossy(&self.open).trim_end_matches('\r').to_owned();
        self.open.clear();
        self.held += line.len() + 1;
        self.lines.push_back(line);
        while self.held > self.bound {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.held -= oldest.len() + 1;
            self.truncated = true;
        }
    }

    fn finish(mut self) -> LogTail {
        if !self.open.is_empty() {
            self.close();
        }
        LogTail { lines: self.lines.into(), truncated: self.truncated }
    }
}

/// A container of the list in the catalogue's words.
pub fn container(summary: &ContainerSummary) -> Container {
    let labelled =
        |name: &str| summary.labels.as_ref().and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
    let status = summary.status.clone().unwrap_or_default();
    let mut ports: Vec<PublishedPort> = summary
        .ports
        .iter()
        .flatten()
        .map(|port| PublishedPort {
            host_address: port.public_port.and(port.ip.clone()).unwrap_or_default(),
            host_port: port.public_port.unwrap_or_default().into(),
            container_port: port.private_port.into(),
            protocol: port.typ.map(|kind| kind.to_string()).unwrap_or_default(),
        })
        .collect();
    ports.sort_by(|a, b| {
        (a.container_port, a.host_port, &a.host_address).cmp(&(
            b.container_port,
            b.host_port,
            &b.host_address,
        ))
    });
    Container {
        name: name(summary),
        id: summary.id.clone().unwrap_or_default(),
        image: summary.image.clone().unwrap_or_default(),
        stack: labelled(label::PROJECT),
        service: labelled(label::SERVICE),
        state: summary.state.map(|state| state.to_string()).unwrap_or_default(),
        health: health_in(&status).to_owned(),
        status,
        ports,
        // The list does not tell: see `Engine::tell_finished`.
        finished: false,
    }
}

/// The container's name without the slash that the engine puts before it.
fn name(summary: &ContainerSummary) -> String {
    // A linked container has several names; its own holds one slash.
    let names = summary.names.as_deref().unwrap_or_default();
    let own = names.iter().find(|name| name.matches('/').count() <= 1).or(names.first());
    own.map(|name| name.trim_start_matches('/').to_owned()).unwrap_or_default()
}

/// The health that the engine words into a container's status: `Up 3 hours (healthy)`.
fn health_in(status: &str) -> &'static str {
    for (mark, health) in
        [("(healthy)", "healthy"), ("(unhealthy)", "unhealthy"), ("(health: starting)", "starting")]
    {
        if status.contains(mark) {
            return health;
        }
    }
    "none"
}

/// Whether a container is one of a service's, not of a `compose run`.
pub fn belongs_to_service(summary: &ContainerSummary) -> bool {
    let labels = summary.labels.as_ref();
    labels.is_some_and(|labels| {
        labels.contains_key(label::PROJECT)
            && labels.contains_key(label::SERVICE)
            && labels.get(label::ONE_OFF).is_none_or(|value| !value.eq_ignore_ascii_case("true"))
    })
}

/// An engine's timestamp as Unix milliseconds; 0 for its zero value and for what is no timestamp.
pub fn milliseconds(timestamp: Option<&str>) -> i64 {
    let parsed = timestamp.and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    parsed.map_or(0, |time| time.timestamp_millis()).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_and_the_zero_time_is_none() {
        assert_eq!(milliseconds(Some("2026-11-23T06:43:01.123456789Z")), 1_795_416_181_123);
        assert_eq!(milliseconds(Some("0001-01-01T00:00:00Z")), 0);
        assert_eq!(milliseconds(Some("yesterday")), 0);
    }

    #[test]
    fn health_is_read_from_the_status() {
        assert_eq!(health_in("Up 3 hours (healthy)"), "healthy");
        assert_eq!(health_in("Up 2 seconds (health: starting)"), "starting");
        assert_eq!(health_in("Up 5 seconds (unhealthy)"), "unhealthy");
        assert_eq!(health_in("Exited (0) 1 second ago"), "none");
    }

    #[test]
    fn pieces_become_lines_and_the_newest_are_kept() {
        let mut tail = LineTail::new(12);
        tail.push(b"one\ntw");
        tail.push(b"o\r\nthree\nfo");
        let kept = tail.finish();
        assert_eq!(kept.lines, ["three", "fo"]);
        assert!(kept.truncated);
        let mut tail = LineTail::new(64);
        tail.push(b"\n\xff\n");
        assert_eq!(tail.finish().lines, ["", "\u{fffd}"]);
    }

    #[test]
    fn one_endless_line_is_cut() {
        let mut tail = LineTail::new(64 * 1024);
        for _ in 0..100 {
            tail.push(&[b'x'; 1024]);
        }
        let kept = tail.finish();
        assert_eq!(kept.lines.len(), 1);
        assert_eq!(kept.lines[0].len(), LINE);
        assert!(kept.truncated);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_is_told_from_none() {
        let folder = tempfile::tempdir().unwrap();
        let absent = Engine::new(folder.path().join("absent.sock"));
        assert!(matches!(absent.version().await, Err(EngineError::Absent(_))));
        let path = folder.path().join("refusing.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let refusing = Engine::new(path);
        let error = refusing.version().await.unwrap_err();
        assert!(matches!(error, EngineError::Unreachable { .. }), "{error:?}");
        assert_eq!(Fault::from(error).failure.code, "docker_unreachable");
    }

    #[tokio::test]
    async fn an_engine_that_hangs_is_left_after_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hung.sock");
        // Accepts into its backlog and never reads.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let engine = Engine { patience: Duration::from_millis(100), ..Engine::new(path) };
        let error = engine.containers(None).await.unwrap_err();
        assert!(matches!(error, EngineError::Hung { .. }), "{error:?}");
    }
}
