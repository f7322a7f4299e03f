//! The half that guards the host: journal, order check, policy, redaction, stacks.
//!
//! Owns everything that an operation may touch, and decides what may run at all. It speaks to [`crate::net`] only by
//! the messages of [`message`], and trusts nothing in them that an operator did not sign.

pub mod careful;
pub mod changes;
pub mod child;
pub mod clock;
pub mod dispatch;
pub mod docker;
pub mod door;
pub mod executor;
pub mod glob;
pub mod journal;
pub mod message;
pub mod mounts;
pub mod nginx;
pub mod policy;
pub mod postgres;
pub mod redaction;
pub mod redis;
pub mod stacks;
pub mod state;
pub mod trust;
pub mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::config::{Settings, StackSettings};
use changes::Changes;
use docker::Engine;
use mounts::Mounts;
use policy::{Policy, PolicyFile};
use redaction::{Patterns, Redaction, RedactionError, withheld};
use stacks::Stacks;

pub use message::{Inbox, Outbox};

/// What the agent knows of this host, and what its operations may use of it.
pub struct Host {
    engine: Engine,
    stacks: Stacks,
    mounts: Mounts,
    policy: PolicyFile,
    redaction: Redaction,
    settings: Settings,
    privileged: bool,
    changes: Changes,
    state: Option<PathBuf>,
    journal: Option<PathBuf>,
}

impl Host {
    /// Puts the parts together. Touches nothing yet.
    pub fn new(settings: Settings, engine: Engine, stacks: Stacks) -> Self {
        let privileged = rustix::process::geteuid().is_root();
        Self {
            engine,
            stacks,
            mounts: Mounts::default(),
            policy: PolicyFile::new(settings.policy.clone(), privileged),
            redaction: Redaction::default(),
            settings,
            privileged,
            changes: Changes::default(),
            state: None,
            journal: None,
        }
    }

    /// The host with all that its state folder remembers. Touches nothing yet.
    pub fn of(settings: Settings, state: &Path, journal: &Path) -> Self {
        let engine = Engine::new(settings.docker_socket.clone());
        let stacks = Stacks::open(state, engine.clone(), settings.stacks.clone());
        Self::new(settings, engine, stacks).remembering(state, journal)
    }

    /// Remembers in its state folder what files and containers were like, and finds its own orders in the journal's.
    #[must_use]
    pub fn remembering(mut self, state: &Path, journal: &Path) -> Self {
        self.changes = Changes::open(state);
        self.state = Some(state.to_owned());
        self.journal = Some(journal.to_owned());
        self
    }

    /// What changed here, as far as the agent saw it.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The agent's state folder; `None` for a host that keeps nothing.
    pub fn state(&self) -> Option<&Path> {
        self.state.as_deref()
    }

    /// The journal's folder; `None` for a host that keeps none.
    pub fn journal(&self) -> Option<&Path> {
        self.journal.as_deref()
    }

    /// The Docker engine.
    pub fn docker(&self) -> &Engine {
        &self.engine
    }

    /// Every stack that was ever seen here.
    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// The filesystems.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// The policy as its file stands at this moment; one that denies every change when the file is not sound.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.current()
    }

    /// Replaces this host's secrets in a text; replaces the whole text when they cannot be known. For many lines, ask
    /// [`secrets`](Self::secrets) once.
    pub fn redact(&self, text: &str) -> String {
        match self.secrets() {
            Ok(patterns) => patterns.text(text),
            Err(error) => withheld(&error),
        }
    }

    /// What must not leave this host, as its stacks' env files stand at this moment.
    ///
    /// # Errors
    /// When one of them cannot be read, or they are not all known yet.
    pub fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        let (files, configured) = self.stacks.secret_places()?;
        let settled: Vec<_> = self.settings.stacks.values().flat_map(StackSettings::secrets).collect();
        let mut values: Vec<_> = configured.iter().map(|stack| stack.model.secrets.0.as_slice()).collect();
        values.push(&settled);
        self.redaction.patterns(&files, &values)
    }

    /// Whether the agent runs as root. Otherwise it only observes.
    pub fn privileged(&self) -> bool {
        self.privileged
    }

    /// What `/etc/vigie/agent.toml` adds or corrects.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}
