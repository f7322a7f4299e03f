//! What is known of one stack, and what its containers and a person's settings add to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use vigie_proto::v1::Container;

use super::{discovery::Seen, images::RanImage};
use crate::config::StackSettings;

/// All that is known of one stack, whether it is up or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KnownStack {
    /// The Compose project's name.
    pub name: String,
    pub directory: PathBuf,
    /// Absolute, in the order in which Compose merges them.
    pub config_files: Vec<PathBuf>,
    /// Those given with `--env-file`, absolute.
    pub env_files: Vec<PathBuf>,
    /// The variables with which Compose is called beside the env files.
    pub compose_env: BTreeMap<String, String>,
    /// True when a dry run with `compose_env` recreated nothing, or when the settings say it.
    pub compose_env_established: bool,
    /// Every service ever seen that the files still declare.
    pub services: BTreeMap<String, KnownService>,
    pub volumes: BTreeSet<String>,
    pub networks: BTreeSet<String>,
    /// By service: the folders of this machine that its container was last seen to write to.
    pub binds: BTreeMap<String, BTreeSet<PathBuf>>,
    /// The env files that the services name, as they were last found; `None` while that is not known.
    pub service_env_files: Option<BTreeSet<PathBuf>>,
    /// By env file: the names it set the last times that the stack was well, and since.
    pub env_names: BTreeMap<PathBuf, BTreeSet<String>>,
    /// The service that answers requests; empty when none is known to.
    pub backend_service: String,
    /// Where the backend is published by rights, `127.0.0.1:8000`; empty when unknown.
    pub backend_address: String,
    /// The name under which nginx serves the stack; empty when unknown.
    pub server_name: String,
    /// Where that name leads by rights; empty when nobody said so.
    pub public_address: String,
    /// By service: the images that it ran with, the oldest first.
    pub images: BTreeMap<String, Vec<RanImage>>,
    /// Where nginx listens for that name; 0 when unknown.
    pub proxy_port: u16,
    /// Whether it expects TLS there.
    pub proxy_tls: bool,
    pub health_path: String,
    pub first_seen_ms: i64,
}

/// A service that was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownService {
    /// Its container's name.
    pub container: String,
    pub image: String,
}

impl KnownStack {
    /// Whether it is a Compose project; else all that is known of it is what the settings say, and it owns nothing here.
    pub fn is_project(&self) -> bool {
        !(self.config_files.is_empty()
            && self.services.is_empty()
            && self.volumes.is_empty()
            && self.networks.is_empty())
    }

    /// The env files that Compose reads: those given, else the `.env` beside the project.
    pub fn effective_env_files(&self) -> Vec<PathBuf> {
        if self.env_files.is_empty() { vec![self.directory.join(".env")] } else { self.env_files.clone() }
    }

    /// The health path, which is never empty.
    pub fn health_path(&self) -> &str {
        if self.health_path.is_empty() { "/health" } else { &self.health_path }
    }

    /// One container for each known service, present or missing, then those of unknown ones; and the names of the
    /// missing services.
    pub fn inventory(&self, present: &[Container]) -> (Vec<Container>, Vec<String>) {
        let mut all: Vec<Container> = present.iter().filter(|own| own.stack == self.name).cloned().collect();
        let mut missing = Vec::new();
        for (service, known) in &self.services {
            if !all.iter().any(|own| own.service == *service) {
                missing.push(service.clone());
                all.push(Container {
                    name: known.container.clone(),
                    image: known.image.clone(),
                    stack: self.name.clone(),
                    service: service.clone(),
                    state: "missing".to_owned(),
                    health: "none".to_owned(),
                    ..Container::default()
                });
            }
        }
        all.sort_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
        (all, missing)
    }

    pub(super) fn learn(&mut self, seen: Seen) {
        let place =
            |stack: &Self| (stack.directory.clone(), stack.config_files.clone(), stack.env_files.clone());
        let before = place(self);
        self.directory = seen.directory;
        self.config_files = seen.config_files;
        self.env_files = seen.env_files;
        if place(self) != before {
            // Another way of calling Compose may need another environment.
            self.compose_env_established = false;
        }
        self.services.extend(seen.services);
        self.volumes.extend(seen.volumes);
        self.binds.extend(seen.binds);
        self.networks.extend(seen.networks);
    }

    /// Applies what a person says of the stack, over whatever was found.
    pub(super) fn correct(&mut self, settings: &StackSettings) {
        if let Some(directory) = &settings.directory {
            self.directory.clone_from(directory);
        }
        let absolute =
            |files: &[PathBuf]| files.iter().map(|file| self.directory.join(file)).collect::<Vec<_>>();
        let (config_files, env_files) = (absolute(&settings.config_files), absolute(&settings.env_files));
        if !config_files.is_empty() {
            self.config_files = config_files;
        }
        if !env_files.is_empty() {
            self.env_files = env_files;
        }
        if let Some(environment) = &settings.compose_env {
            self.compose_env.clone_from(environment);
            self.compose_env_established = true;
        }
        for (value, own) in [
            (&settings.backend_service, &mut self.backend_service),
            (&settings.backend_address, &mut self.backend_address),
            (&settings.server_name, &mut self.server_name),
            (&settings.public_address, &mut self.public_address),
            (&settings.health_path, &mut self.health_path),
        ] {
            if let Some(value) = value {
                own.clone_from(value);
            }
        }
    }
}
