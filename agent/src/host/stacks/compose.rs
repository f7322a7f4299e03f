//! How Compose is called: which Compose this host has, with which arguments and which environment, and what its
//! configuration command says, kept until the files change.
//!
//! Arguments are exactly `--project-directory`, `-p`, `-f`, `--env-file` and the command; the environment is exactly
//! the stack's `compose_env` (and HOME, where Docker keeps its plugins and the registries' credentials).

use std::{
    collections::{BTreeMap, HashMap},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use super::{
    KnownStack,
    dry_run::{DryRun, unset_variables},
    model::ComposeModel,
};
use crate::{
    host::child::{Child, ChildError, Exit, resolve},
    operations::Fault,
};

/// Where Docker looks for its plugins, the user's own folder first.
const PLUGINS: [&str; 5] = [
    "/root/.docker/cli-plugins/docker-compose",
    "/usr/local/lib/docker/cli-plugins/docker-compose",
    "/usr/local/libexec/docker/cli-plugins/docker-compose",
    "/usr/lib/docker/cli-plugins/docker-compose",
    "/usr/libexec/docker/cli-plugins/docker-compose",
];

/// Root's home, whoever the agent runs as: only root's Compose calls change anything.
const HOME: &str = "/root";

/// Configuration of a large project, in JSON.
const CONFIG_BYTES: usize = 8 * 1024 * 1024;

/// How long a configuration is believed while none of the files that are watched has changed: `include` and
/// `extends` name files that are not.
const BELIEVED: Duration = Duration::from_secs(30);

/// A Compose that this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compose {
    /// The plugin's own file, or `docker-compose`. The plugin is called without `docker` before it: *measured* with
    /// 2.26, `config` then takes 70 ms and not 120, and still answers while the daemon hangs.
    program: PathBuf,
    plugin: bool,
    /// As `version --short` prints it: `2.26.1-4`.
    pub version: String,
}

impl Compose {
    /// Whether it is the Python program of old.
    pub fn is_legacy(&self) -> bool {
        self.version.trim_start_matches('v').starts_with("1.")
    }

    /// How people write it.
    pub fn words(&self) -> &'static str {
        if self.plugin { "docker compose" } else { "docker-compose" }
    }

    /// A child that runs a command of this Compose on a stack, with an environment in place of the stack's own.
    ///
    /// # Errors
    /// When the program has gone.
    pub fn child_with<'a>(
        &self,
        stack: &KnownStack,
        environment: &BTreeMap<String, String>,
        command: impl IntoIterator<Item = String>,
    ) -> Result<Child<'a>, ChildError> {
        let mut child = self.bare()?.args(arguments(stack)).args(command).directory(&stack.directory);
        for (name, value) in environment {
            child = child.env(name, value);
        }
        Ok(child)
    }

    /// A child that runs a command of this Compose on a stack.
    ///
    /// # Errors
    /// When the program has gone.
    pub fn child<'a>(
        &self,
        stack: &KnownStack,
        command: impl IntoIterator<Item = String>,
    ) -> Result<Child<'a>, ChildError> {
        self.child_with(stack, &stack.compose_env, command)
    }

    /// The whole call as a person would type it.
    pub fn command_line(&self, stack: &KnownStack, command: &[String]) -> String {
        let mut words: Vec<String> =
            stack.compose_env.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
        words.push(self.words().to_owned());
        words.extend(arguments(stack).iter().chain(command).map(|word| quoted(word)));
        words.join(" ")
    }

    fn bare<'a>(&self) -> Result<Child<'a>, ChildError> {
        Ok(Child::new(&self.program.to_string_lossy())?.env("HOME", HOME))
    }
}

/// What names a stack to Compose.
fn arguments(stack: &KnownStack) -> Vec<String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut words =
        vec!["--project-directory".to_owned(), text(&stack.directory), "-p".to_owned(), stack.name.clone()];
    for file in &stack.config_files {
        words.extend(["-f".to_owned(), text(file)]);
    }
    for file in &stack.env_files {
        words.extend(["--env-file".to_owned(), text(file)]);
    }
    words
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What `compose config` said of a stack.
#[derive(Debug)]
pub struct Configured {
    pub model: ComposeModel,
    /// Variables that the files use and that nothing sets.
    pub unset: Vec<String>,
}

/// Why there is no configuration.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// What Compose said last.
    pub message: String,
    /// Variables that it called unset before it gave up.
    pub unset: Vec<String>,
}

impl From<ConfigError> for Fault {
    fn from(error: ConfigError) -> Self {
        Self::failed("compose_config_invalid", error.message)
            .hint("the Compose files or what they refer to do not add up: correct them on the host")
    }
}

type Answer = Result<Arc<Configured>, ConfigError>;

/// Compose on this host, with what it has said before.
#[derive(Default)]
pub struct ComposeCalls {
    /// The Compose that was found, while its file is the same.
    found: Mutex<Option<(FileMark, Arc<Compose>)>>,
    /// By stack. Each has its own lock, so that ten probes at once ask once.
    configured: Mutex<HashMap<String, Arc<Mutex<Option<Kept>>>>>,
}

struct Kept {
    marks: Vec<FileMark>,
    environment: BTreeMap<String, String>,
    until: Instant,
    answer: Answer,
}

/// A file as it was when it was read; all zero when it was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileMark {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileMark {
    /// Looks at a file.
    pub fn of(path: &Path) -> Self {
        let meta = std::fs::metadata(path).ok();
        let meta = meta.as_ref();
        Self {
            path: path.to_owned(),
            inode: meta.map_or(0, |meta| meta.ino()),
            size: meta.map_or(0, |meta| meta.size()),
            modified: meta.map_or((0, 0), |meta| (meta.mtime(), meta.mtime_nsec())),
            changed: meta.map_or((0, 0), |meta| (meta.ctime(), meta.ctime_nsec())),
        }
    }
}

impl ComposeCalls {
    /// The Compose of this host: the plugin, or the program of old.
    ///
    /// # Errors
    /// When there is none, or it does not run.
    pub async fn find(&self, deadline: Instant) -> Result<Arc<Compose>, Fault> {
        let missing = || {
            Fault::absent("compose", "there is neither `docker compose` nor `docker-compose` on this host")
                .hint("install Docker's Compose plugin")
        };
        let plugin = PLUGINS.iter().map(Path::new).find(|path| path.is_file());
        let (program, plugin) = match plugin {
            Some(program) => (program.to_owned(), true),
            None => (resolve("docker-compose").map_err(|_| missing())?, false),
        };
        let mark = FileMark::of(&program);
        let mut found = self.found.lock().await;
        if let Some((known, compose)) = &*found
            && *known == mark
        {
            return Ok(compose.clone());
        }
        let mut compose = Compose { program, plugin, version: String::new() };
        let exit = compose.bare().map_err(cannot_run)?.args(["version", "--short"]).run(deadline).await;
        let exit = exit.map_err(cannot_run)?;
        if !exit.success() {
            return Err(Fault::failed(
                "compose_failed",
                format!("`{} version` failed: {}", compose.words(), last_words(&exit)),
            ));
        }
        exit.stdout.text().text.trim().clone_into(&mut compose.version);
        Ok(found.insert((mark, Arc::new(compose))).1.clone())
    }

    /// What the stack's files ask for, with the stack's own environment.
    ///
    /// # Errors
    /// When Compose cannot be run or rejects the files.
    pub async fn configured(&self, stack: &KnownStack, deadline: Instant) -> Result<Answer, Fault> {
        let slot = self.configured.lock().await.entry(stack.name.clone()).or_default().clone();
        let mut slot = slot.lock().await;
        let marks = marks(stack);
        if let Some(kept) = &*slot
            && kept.marks == marks
            && kept.environment == stack.compose_env
            && kept.until > Instant::now()
        {
            return Ok(kept.answer.clone());
        }
        let answer = self.ask(stack, &stack.compose_env, deadline).await?;
        *slot = Some(Kept {
            marks,
            environment: stack.compose_env.clone(),
            until: Instant::now() + BELIEVED,
            answer: answer.clone(),
        });
        Ok(answer)
    }

    /// The same with another environment; nothing is kept.
    ///
    /// # Errors
    /// When Compose cannot be run.
    pub async fn ask(
        &self,
        stack: &KnownStack,
        environment: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let compose = self.find(deadline).await?;
        let mut words = vec!["config".to_owned()];
        if !compose.is_legacy() {
            words.extend(["--format".to_owned(), "json".to_owned()]);
        }
        let child = compose.child_with(stack, environment, words).map_err(cannot_run)?;
        let exit = child.keep(CONFIG_BYTES).run(deadline).await.map_err(cannot_run)?;
        if exit.timed_out {
            return Err(timed_out("compose config"));
        }
        let unset = unset_variables(&exit.stderr.text().text);
        if !exit.success() {
            return Ok(Err(ConfigError { message: last_words(&exit), unset }));
        }
        let model = ComposeModel::parse(&exit.stdout.text().text);
        Ok(model.map(|model| Arc::new(Configured { model, unset: unset.clone() })).map_err(|error| {
            ConfigError { message: format!("what `compose config` printed cannot be read: {error}"), unset }
        }))
    }

    /// What bringing the stack up would change, and which variables are unset. `None` where this Compose has no dry
    /// run.
    ///
    /// # Errors
    /// When Compose cannot be run or rejects the files.
    pub async fn dry_run(
        &self,
        stack: &KnownStack,
        environment: &BTreeMap<String, String>,
        services: &[String],
        deadline: Instant,
    ) -> Result<Option<Result<DryRun, ConfigError>>, Fault> {
        let compose = self.find(deadline).await?;
        if compose.is_legacy() {
            return Ok(None);
        }
        let words = ["--dry-run", "up", "--no-start", "--"].map(str::to_owned);
        let words = words.into_iter().chain(services.iter().cloned());
        let exit = compose.child_with(stack, environment, words).map_err(cannot_run)?.run(deadline).await;
        let exit = exit.map_err(cannot_run)?;
        if exit.timed_out {
            return Err(timed_out("compose --dry-run up"));
        }
        let said = exit.stderr.text().text;
        if exit.success() {
            return Ok(Some(Ok(DryRun::parse(&said))));
        }
        if said.contains("unknown flag: --dry-run") {
            return Ok(None);
        }
        Ok(Some(Err(ConfigError { message: last_words(&exit), unset: unset_variables(&said) })))
    }

    /// The configuration hashes that Compose 1 computes, which equal its containers' labels (those of Compose 2 do
    /// not).
    ///
    /// # Errors
    /// When Compose cannot be run.
    pub async fn legacy_hashes(
        &self,
        stack: &KnownStack,
        environment: &BTreeMap<String, String>,
        deadline: Instant,
    ) -> Result<BTreeMap<String, String>, Fault> {
        let compose = self.find(deadline).await?;
        let words = ["config", "--hash", "*"].map(str::to_owned);
        let exit = compose.child_with(stack, environment, words).map_err(cannot_run)?.run(deadline).await;
        let text = exit.map_err(cannot_run)?.stdout.text().text;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(service, hash)| (service.to_owned(), hash.trim().to_owned()))
            .collect())
    }
}

/// The files that a configuration rests on, as far as they are known.
fn marks(stack: &KnownStack) -> Vec<FileMark> {
    let named = stack.compose_env.values().map(|value| stack.directory.join(value));
    let files = stack.config_files.iter().chain(&stack.env_files).cloned();
    files.chain([stack.directory.join(".env")]).chain(named).map(|path| FileMark::of(&path)).collect()
}

/// The fault of a program that cannot be run at all.
#[allow(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
pub fn cannot_run(error: ChildError) -> Fault {
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    let message = format!("{error}{source}");
    match error {
        ChildError::Lost { .. } => Fault {
            status: vigie_proto::v1::OutcomeStatus::InDoubt,
            // Whoever asks about it depends on who ordered it.
            failure: vigie_proto::v1::Failure::new("program_lost", message),
            partial: None,
        },
        _ => Fault::failed("program_unavailable", message),
    }
}

/// The fault of a program that was stopped at its deadline.
pub fn timed_out(what: &str) -> Fault {
    Fault::failed("timed_out", format!("`{what}` did not end in time and was stopped"))
}

/// The last line that a program wrote, its errors first.
pub fn last_words(exit: &Exit) -> String {
    let last = |lines: Vec<String>| lines.into_iter().rev().find(|line| !line.trim().is_empty());
    last(exit.stderr.lines())
        .or_else(|| last(exit.stdout.lines()))
        .map(|line| line.trim().trim_end_matches('.').to_owned())
        .unwrap_or_else(|| format!("it ended with status {} and said nothing", exit.code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> KnownStack {
        KnownStack {
            name: "shop".to_owned(),
            directory: PathBuf::from("/srv/the shop"),
            config_files: vec![PathBuf::from("/srv/the shop/docker-compose.prod.yml")],
            env_files: vec![PathBuf::from("/srv/the shop/.env.prod")],
            compose_env: BTreeMap::from([("ENV_FILE".to_owned(), ".env.prod".to_owned())]),
            ..KnownStack::default()
        }
    }

    #[test]
    fn the_command_line_is_what_a_person_would_type() {
        let compose =
            Compose { program: PathBuf::from("/usr/bin/docker"), plugin: true, version: "2.26.1".to_owned() };
        assert_eq!(
            compose.command_line(&stack(), &["up".to_owned(), "-d".to_owned()]),
            "ENV_FILE=.env.prod docker compose --project-directory '/srv/the shop' -p shop -f \
             '/srv/the shop/docker-compose.prod.yml' --env-file '/srv/the shop/.env.prod' up -d"
        );
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert!(!compose.is_legacy());
        assert!(Compose { version: "1.29.2".to_owned(), ..compose }.is_legacy());
    }

    #[test]
    fn a_file_that_changes_has_another_mark() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let absent = FileMark::of(&path);
        std::fs::write(&path, "one").unwrap();
        let written = FileMark::of(&path);
        assert_ne!(absent, written);
        std::fs::write(&path, "three").unwrap();
        assert_ne!(written, FileMark::of(&path));
        assert_eq!(FileMark::of(&path), FileMark::of(&path));
    }
}
