//! The Compose projects of this host: found by the labels of their containers, and remembered.
//!
//! Owns what is known of each stack (where it lives, how Compose is called, what it consists of, where its backend is
//! published by rights) and looks at each stack's containers again on every [`Stacks::refresh`]. It changes nothing:
//! bringing a stack up or down is an operation's business.

pub mod compose;
mod compose_env;
mod discovery;
pub mod dry_run;
pub mod env_file;
pub mod env_values;
pub mod expansion;
mod images;
mod known;
mod memory;
pub mod model;
mod roles;
mod service_env;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bollard::models::ContainerSummary;
use tokio::{sync::Mutex, time::Instant};
use vigie_proto::v1::{Container, Stack};

use crate::{
    config::StackSettings,
    host::{
        docker::{Engine, EngineError, container},
        nginx,
        redaction::RedactionError,
    },
    operations::Fault,
};
use compose::{ComposeCalls, Configured};
use env_file::EnvNames;
pub use images::RanImage;
pub use known::{KnownService, KnownStack};
use memory::Memory;
pub use roles::is_same as is_same_place;

/// How long one look at all stacks may take. Compose's own programs are the slow part.
const REFRESH: Duration = Duration::from_secs(20);

/// Where a stack lives whose settings name its servers and nothing else: no file is looked for there, as of a user without a
/// home.
const NOWHERE: &str = "/nonexistent";

/// The stacks of this host.
pub struct Stacks {
    engine: Engine,
    settings: BTreeMap<String, StackSettings>,
    calls: ComposeCalls,
    /// What everyone reads; replaced whole by a refresh.
    picture: RwLock<Picture>,
    /// Held by the refresh that runs. What it guards says when a search for `compose_env` found nothing.
    refreshing: Mutex<HashMap<String, String>>,
    memory: Memory,
    /// Why stacks that were seen earlier may not be known; empty when they all are.
    forgotten: String,
}

/// The stacks at one moment.
#[derive(Default, Clone)]
struct Picture {
    known: BTreeMap<String, Arc<KnownStack>>,
    /// All containers; `None` while the engine does not answer.
    containers: Option<Arc<Vec<Container>>>,
    docker_error: String,
    /// By stack: what Compose last made of its files.
    configured: BTreeMap<String, Arc<Configured>>,
    /// True once the stacks were looked at: those of an engine that answered, or those that were known before.
    looked: bool,
    /// A stack's file that could not be read at the last look.
    unread: Option<PathBuf>,
}

impl Stacks {
    /// The stacks that this state folder remembers. Nothing is looked at before the first refresh.
    pub fn open(state: &Path, engine: Engine, settings: BTreeMap<String, StackSettings>) -> Self {
        let (memory, known, error) = Memory::open(state);
        let forgotten = error.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(error) = error {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, cause, "the stacks seen earlier are not remembered");
        }
        let mut known: BTreeMap<_, _> = known;
        for (name, settings) in &settings {
            if let Some(stack) = known.get_mut(name) {
                stack.correct(settings);
            }
        }
        let known = known.into_iter().map(|(name, stack)| (name, Arc::new(stack))).collect();
        Self {
            engine,
            settings,
            calls: ComposeCalls::default(),
            picture: RwLock::new(Picture { known, ..Picture::default() }),
            refreshing: Mutex::default(),
            memory,
            forgotten,
        }
    }

    /// The agent's state folder, where the stacks are remembered.
    pub fn state_folder(&self) -> &Path {
        self.memory.folder()
    }

    /// Compose on this host.
    pub fn compose(&self) -> &ComposeCalls {
        &self.calls
    }

    /// Why the engine does not answer; empty when it does, when there is none, and before the first refresh.
    pub fn docker_error(&self) -> String {
        self.picture().docker_error
    }

    /// Whether every stack of this host is known, up or down: what nobody is known to own may then be called nobody's.
    ///
    /// # Errors
    /// With the reason why one may be missing.
    pub fn complete(&self) -> Result<(), String> {
        let picture = self.picture();
        if !self.forgotten.is_empty() {
            return Err(format!("stacks that were seen earlier may be forgotten: {}", self.forgotten));
        }
        if !picture.docker_error.is_empty() {
            return Err(picture.docker_error);
        }
        if picture.containers.is_none() {
            return Err("the containers could not be listed".to_owned());
        }
        match picture.known.values().find(|stack| stack.is_project() && stack.services.is_empty()) {
            Some(stack) => Err(format!("nobody knows what stack `{}` consists of", stack.name)),
            None => Ok(()),
        }
    }

    /// Every stack as operators see it.
    pub fn snapshot(&self) -> Vec<Stack> {
        let picture = self.picture();
        picture.known.values().map(|stack| as_seen(stack, picture.containers.as_deref())).collect()
    }

    /// Every stack that is known.
    pub fn all(&self) -> Vec<Arc<KnownStack>> {
        self.picture().known.into_values().collect()
    }

    /// The files that hold the stacks' secrets, and what Compose made of the stacks, which holds more.
    ///
    /// # Errors
    /// When they are not all known: nothing was looked at yet, or a stack's file could not be read.
    pub fn secret_places(&self) -> Result<(Vec<PathBuf>, Vec<Arc<Configured>>), RedactionError> {
        let picture = self.picture();
        if let Some(path) = picture.unread {
            return Err(RedactionError::Unread { path });
        }
        if !picture.looked {
            return Err(RedactionError::NotLooked);
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for stack in picture.known.values() {
            files.extend(stack.effective_env_files());
            files.extend(stack.service_env_files.iter().flatten().cloned());
            // `ENV_FILE=.env.prod`: a file that the services read and Compose itself does not.
            let named = stack.compose_env.values().map(|value| stack.directory.join(value));
            files.extend(named.filter(|path| path.is_file()));
        }
        files.sort_unstable();
        files.dedup();
        Ok((files, picture.configured.into_values().collect()))
    }

    /// A stack by name; the empty name means the only one.
    ///
    /// # Errors
    /// When there is no such stack, or more than one to choose from.
    pub async fn resolve(&self, name: &str) -> Result<Arc<KnownStack>, Fault> {
        if let Some(found) = self.find(name)? {
            return Ok(found);
        }
        // It may have come up since the last look.
        self.refresh().await;
        if let Some(found) = self.find(name)? {
            return Ok(found);
        }
        let picture = self.picture();
        let names: Vec<_> = picture.known.keys().map(String::as_str).collect();
        let (message, hint) = match (name, names.as_slice()) {
            ("", _) => ("no stack was ever seen on this host".to_owned(), String::new()),
            (name, []) => (format!("no stack `{name}` was ever seen on this host"), String::new()),
            (name, names) => (
                format!("no stack `{name}` was ever seen on this host"),
                format!("known here: {}", names.join(", ")),
            ),
        };
        if picture.docker_error.is_empty() {
            let fault = match names.as_slice() {
                [] => Fault::absent("stack", message),
                _ => Fault::refused("stack_unknown", message),
            };
            return Err(fault.hint(hint));
        }
        Err(Fault::failed("docker_unreachable", format!("{message}, and {}", picture.docker_error))
            .hint(hint))
    }

    fn find(&self, name: &str) -> Result<Option<Arc<KnownStack>>, Fault> {
        let picture = self.picture();
        if !name.is_empty() {
            return Ok(picture.known.get(name).cloned());
        }
        let mut stacks = picture.known.values();
        match (stacks.next(), stacks.next()) {
            (Some(only), None) => Ok(Some(Arc::clone(only))),
            (None, _) => Ok(None),
            _ => {
                let names: Vec<_> = picture.known.keys().map(String::as_str).collect();
                Err(Fault::refused("stack_ambiguous", "this host has several stacks")
                    .hint(format!("name one of them: {}", names.join(", "))))
            }
        }
    }

    /// Looks at the host again. What cannot be seen at this moment stays as it was known.
    pub async fn refresh(&self) {
        let mut tried = self.refreshing.lock().await;
        let deadline = Instant::now() + REFRESH;
        let before = self.picture();
        let mut known: BTreeMap<String, KnownStack> =
            before.known.iter().map(|(name, stack)| (name.clone(), KnownStack::clone(stack))).collect();
        let (summaries, docker_error) = match self.engine.containers(None).await {
            Ok(summaries) => (Some(summaries), String::new()),
            Err(EngineError::Absent(_)) => (None, String::new()),
            Err(error) => (None, error.chain()),
        };
        let now = now_ms();
        for (name, seen) in discovery::projects(summaries.as_deref().unwrap_or_default()) {
            let stack = known.entry(name.clone()).or_insert_with(|| KnownStack {
                name,
                first_seen_ms: now,
                ..KnownStack::default()
            });
            stack.learn(seen);
        }
        for (name, settings) in &self.settings {
            // Settings that say where a stack lives, or where its servers are, stand for having seen it.
            let lives = settings.directory.is_some() && !settings.config_files.is_empty();
            let has_servers = settings.database_url.is_some() || settings.redis_url.is_some();
            if !known.contains_key(name) && (lives || has_servers) {
                let directory = PathBuf::from(NOWHERE);
                let stack =
                    KnownStack { name: name.clone(), directory, first_seen_ms: now, ..KnownStack::default() };
                known.insert(name.clone(), stack);
            }
            if let Some(stack) = known.get_mut(name) {
                stack.correct(settings);
            }
        }
        if summaries.is_some() {
            self.forget_what_is_gone(&mut known, summaries.as_deref().unwrap_or_default()).await;
        }
        let mut containers: Option<Vec<Container>> =
            summaries.as_ref().map(|all| all.iter().map(container).collect());
        if let Some(all) = &mut containers {
            self.engine.tell_finished(all).await;
        }
        let present = containers.as_deref().unwrap_or_default();
        let mut models = BTreeMap::new();
        for stack in known.values_mut() {
            if let Some(model) =
                self.examine(stack, summaries.as_deref(), present, &mut tried, deadline).await
            {
                models.insert(stack.name.clone(), model);
            }
        }
        let routes = if known.is_empty() { None } else { nginx::routes(deadline).await.ok() };
        roles::assign(&mut known, present, &models, routes.as_deref());
        for (name, settings) in &self.settings {
            if let Some(stack) = known.get_mut(name) {
                stack.correct(settings);
            }
        }
        let unread = known.values_mut().filter_map(remember_service_env_files).last();
        let looked = before.looked || docker_error.is_empty() || !known.is_empty();
        let mut configured = before.configured;
        configured.extend(models);
        let containers = containers.map(Arc::new);
        let picture = Picture { containers, docker_error, configured, looked, unread, ..Picture::default() };
        self.keep(known, picture);
    }

    /// Forgets the stacks of which nothing is left: no container, no volume, no folder, and no word in the settings. That
    /// is a stack that was taken away. One whose files or data are still there is missing its containers, and stays.
    async fn forget_what_is_gone(
        &self,
        known: &mut BTreeMap<String, KnownStack>,
        summaries: &[ContainerSummary],
    ) {
        let present: BTreeSet<String> = summaries.iter().map(|summary| container(summary).stack).collect();
        let mut gone = Vec::new();
        for stack in known.values() {
            let is_there = |path: &PathBuf| !matches!(path.try_exists(), Ok(false));
            if present.contains(&stack.name)
                || self.settings.contains_key(&stack.name)
                || stack.directory.as_os_str().is_empty()
                || is_there(&stack.directory)
                || stack.config_files.iter().any(is_there)
            {
                continue;
            }
            let mut has_data = false;
            for volume in &stack.volumes {
                // Nobody is forgotten on an answer that could not be had.
                has_data |= self.engine.has_volume(volume).await.unwrap_or(true);
            }
            if !has_data {
                gone.push(stack.name.clone());
            }
        }
        for name in gone {
            tracing::info!(stack = name, "nothing of the stack is left on this host: it is forgotten");
            known.remove(&name);
        }
    }

    /// Looks at one stack's files.
    async fn examine(
        &self,
        stack: &mut KnownStack,
        summaries: Option<&[ContainerSummary]>,
        present: &[Container],
        tried: &mut HashMap<String, String>,
        deadline: Instant,
    ) -> Option<Arc<Configured>> {
        remember_env_names(stack, summaries.unwrap_or_default());
        images::remember(stack, summaries.unwrap_or_default(), now_ms());
        // An engine that does not answer makes Compose slow, and there is nothing new to learn.
        let summaries = summaries.filter(|_| stack.is_project())?;
        if !stack.compose_env_established {
            self.establish(stack, summaries, present, tried, deadline).await;
        }
        // A stack whose files are broken keeps what was known; `compose_config` says what is wrong.
        let configured = self.calls.configured(stack, deadline).await.ok()?.ok()?;
        if let Some(declared) = declared_services(&stack.config_files) {
            let alive = |service: &String| {
                present.iter().any(|own| own.stack == stack.name && own.service == *service)
            };
            stack.services.retain(|service, _| declared.contains(service) || alive(service));
        }
        for service in &configured.model.services {
            let known = stack.services.entry(service.declared.service.clone()).or_default();
            if known.container.is_empty() {
                known.container.clone_from(&service.container_name);
            }
            if known.image.is_empty() {
                known.image.clone_from(&service.declared.image);
            }
        }
        Some(configured)
    }

    async fn establish(
        &self,
        stack: &mut KnownStack,
        summaries: &[ContainerSummary],
        present: &[Container],
        tried: &mut HashMap<String, String>,
        deadline: Instant,
    ) {
        let own: Vec<Container> = present.iter().filter(|own| own.stack == stack.name).cloned().collect();
        let circumstances = compose_env::circumstances(stack, &own);
        if own.is_empty() || tried.get(&stack.name) == Some(&circumstances) {
            return;
        }
        match compose_env::infer(&self.calls, stack, summaries, deadline).await {
            Ok(Some(environment)) => {
                tracing::info!(stack = stack.name, variables = ?environment.keys(), "compose_env is established");
                stack.compose_env = environment;
                stack.compose_env_established = true;
                tried.remove(&stack.name);
            }
            Ok(None) => {
                tried.insert(stack.name.clone(), circumstances);
            }
            Err(fault) => {
                tracing::debug!(
                    stack = stack.name,
                    reason = fault.failure.message,
                    "compose_env is not known yet"
                );
            }
        }
    }

    fn keep(&self, known: BTreeMap<String, KnownStack>, picture: Picture) {
        let before = self.picture();
        let same = before.known.len() == known.len()
            && known.iter().all(|(name, stack)| before.known.get(name).is_some_and(|old| **old == *stack));
        if !same && let Err(error) = self.memory.save(&known) {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, cause, "what was learnt of the stacks is not remembered");
        }
        let picture = Picture {
            known: known.into_iter().map(|(name, stack)| (name, Arc::new(stack))).collect(),
            ..picture
        };
        // A writer that panicked left a whole picture behind: it is replaced in one assignment.
        *self.picture.write().unwrap_or_else(PoisonError::into_inner) = picture;
    }

    fn picture(&self) -> Picture {
        self.picture.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Looks for the env files that a stack's services name. Returns the file because of which they are not known: one that
/// cannot be read, or one that is broken and was never seen whole. What a file named before it broke still holds.
fn remember_service_env_files(stack: &mut KnownStack) -> Option<PathBuf> {
    match service_env::files(stack) {
        Ok(files) => stack.service_env_files = Some(files),
        Err((path, error)) => {
            tracing::warn!(stack = stack.name, path = %path.display(), %error, "the services' env files are not known");
            let broken = error.kind() == std::io::ErrorKind::InvalidData;
            return (!broken || stack.service_env_files.is_none()).then_some(path);
        }
    }
    None
}

/// Adds the names that the env files set. Names that are gone are forgotten only once the stack is well without them:
/// every container runs and passes its health check, and the backend's (every one where none is known to be the
/// backend) was made after the file changed.
fn remember_env_names(stack: &mut KnownStack, summaries: &[ContainerSummary]) {
    for file in stack.effective_env_files() {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let names = EnvNames::parse(&text).set();
        let modified = std::fs::metadata(&file).and_then(|meta| meta.modified()).unwrap_or(SystemTime::now());
        let remembered = stack.env_names.entry(file).or_default();
        if is_well_since(&stack.name, &stack.backend_service, stack.services.keys(), summaries, modified) {
            *remembered = names;
        } else {
            remembered.extend(names);
        }
    }
}

fn is_well_since<'a>(
    project: &str,
    backend: &str,
    mut services: impl Iterator<Item = &'a String>,
    summaries: &[ContainerSummary],
    modified: SystemTime,
) -> bool {
    let modified = modified.duration_since(UNIX_EPOCH).map_or(i64::MAX, |since| since.as_secs() as i64);
    let own: Vec<(Container, i64)> = summaries
        .iter()
        .map(|summary| (container(summary), summary.created.unwrap_or_default()))
        .filter(|(own, _)| own.stack == project)
        .collect();
    services.all(|service| own.iter().any(|(own, _)| own.service == *service))
        && own.iter().any(|(own, _)| own.health == "healthy")
        && own.iter().filter(|(own, _)| !own.finished).all(|(own, created)| {
            own.state == "running"
                && matches!(own.health.as_str(), "healthy" | "none")
                && (*created > modified || (!backend.is_empty() && own.service != backend))
        })
}

/// The services that the files declare, those of inactive profiles too; `None` when a file cannot be read or brings
/// in others.
fn declared_services(files: &[PathBuf]) -> Option<BTreeSet<String>> {
    let mut declared = BTreeSet::new();
    for file in files {
        let tree: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
        if tree.get("include").is_some() {
            return None;
        }
        declared.extend(tree.get("services")?.as_object()?.keys().cloned());
    }
    Some(declared)
}

fn as_seen(stack: &KnownStack, containers: Option<&Vec<Container>>) -> Stack {
    let (mut services, _) = stack.inventory(containers.map_or(&[], Vec::as_slice));
    if containers.is_none() {
        // Nobody can tell, which is not the same as missing.
        services.iter_mut().for_each(|own| "unknown".clone_into(&mut own.state));
    }
    let texts = |files: &[PathBuf]| files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    Stack {
        name: stack.name.clone(),
        directory: stack.directory.to_string_lossy().into_owned(),
        config_files: texts(&stack.config_files),
        env_files: texts(&stack.effective_env_files()),
        compose_env: stack.compose_env.keys().cloned().collect(),
        compose_env_established: stack.compose_env_established,
        services,
        server_name: stack.server_name.clone(),
        backend_address: stack.backend_address.clone(),
        health_path: stack.health_path().to_owned(),
        first_seen_ms: stack.first_seen_ms,
        public_address: stack.public_address.clone(),
    }
}

fn now_ms() -> i64 {
    crate::host::clock::now().timestamp_millis()
}

#[cfg(test)]
mod tests;
