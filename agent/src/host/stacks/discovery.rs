//! Compose projects as the labels of containers show them.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use bollard::models::ContainerSummary;

use super::KnownService;
use crate::host::docker::{belongs_to_service, container, label};

/// What the containers of one project tell.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub directory: PathBuf,
    pub config_files: Vec<PathBuf>,
    pub env_files: Vec<PathBuf>,
    pub services: BTreeMap<String, KnownService>,
    pub volumes: BTreeSet<String>,
    pub networks: BTreeSet<String>,
    /// By service: the folders of this machine that its containers write to.
    pub binds: BTreeMap<String, BTreeSet<PathBuf>>,
    /// When the newest container was made, in seconds: its labels are those that count.
    created: i64,
}

/// The projects that these containers belong to.
pub(super) fn projects(containers: &[ContainerSummary]) -> BTreeMap<String, Seen> {
    let mut found: BTreeMap<String, Seen> = BTreeMap::new();
    for summary in containers.iter().filter(|summary| belongs_to_service(summary)) {
        let Some(labels) = &summary.labels else { continue };
        let (Some(project), Some(service)) = (labels.get(label::PROJECT), labels.get(label::SERVICE)) else {
            continue;
        };
        let seen = found.entry(project.clone()).or_default();
        let own = container(summary);
        // Of several containers of a service, the first by name stands for it.
        let known = seen
            .services
            .entry(service.clone())
            .or_insert_with(|| KnownService { container: own.name.clone(), image: own.image.clone() });
        if own.name < known.container {
            *known = KnownService { container: own.name, image: own.image };
        }
        // A service that binds nothing any more is known to.
        let binds = seen.binds.entry(service.clone()).or_default();
        for mount in summary.mounts.iter().flatten() {
            match (mount.typ.as_deref(), &mount.source) {
                (Some("volume"), _) => seen.volumes.extend(mount.name.clone()),
                (Some("bind"), Some(source)) if mount.rw != Some(false) => {
                    binds.insert(PathBuf::from(source));
                }
                _ => {}
            }
        }
        let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        seen.networks.extend(networks.into_iter().flatten().map(|(name, _)| name.clone()));
        let created = summary.created.unwrap_or_default();
        let directory = labels.get(label::WORKING_DIR).map(PathBuf::from);
        if let Some(directory) = directory.filter(|_| created >= seen.created) {
            seen.config_files = files(labels.get(label::CONFIG_FILES), &directory);
            seen.env_files = files(labels.get(label::ENVIRONMENT_FILE), &directory);
            seen.directory = directory;
            seen.created = created;
        }
    }
    // A project whose containers do not tell where it lives cannot be worked with.
    found.retain(|_, seen| seen.directory.is_absolute());
    found
}

/// The files of a label: separated by commas, relative (Compose 1) or absolute.
fn files(label: Option<&String>, directory: &Path) -> Vec<PathBuf> {
    let paths = label.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
    paths.filter(|path| !path.is_empty()).map(|path| directory.join(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured with `GET /containers/json?all=1` from Docker 20.10: one project of Compose 2.26, one of Compose 1.29.
    const CAPTURED: &str = include_str!("fixtures/containers.json");

    #[test]
    fn both_generations_are_discovered() {
        let containers: Vec<ContainerSummary> = serde_json::from_str(CAPTURED).unwrap();
        let found = projects(&containers);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["opstest", "stack1"]);
        let two = &found["opstest"];
        assert_eq!(two.directory, Path::new("/srv/shop"));
        assert_eq!(two.config_files, [Path::new("/srv/shop/docker-compose.prod.yml")]);
        assert_eq!(two.env_files, [Path::new("/srv/shop/.env.prod")]);
        assert_eq!(two.services.keys().collect::<Vec<_>>(), ["backend", "redis"]);
        assert_eq!(two.services["backend"].container, "opstest-backend");
        assert_eq!(two.volumes, BTreeSet::from(["opstest-redis-data".to_owned()]));
        assert_eq!(two.networks, BTreeSet::from(["opstest_default".to_owned()]));
        let one = &found["stack1"];
        assert_eq!(one.config_files, [Path::new("/srv/old/v1.yml")]);
        assert_eq!(one.env_files, [Path::new("/srv/old/.env.prod")]);
    }

    #[test]
    fn folders_that_a_service_writes_to_are_its_own() {
        let mut containers: Vec<ContainerSummary> = serde_json::from_str(CAPTURED).unwrap();
        let redis = containers
            .iter_mut()
            .find(|summary| summary.names.as_ref().is_some_and(|names| names[0] == "/opstest-redis"))
            .unwrap();
        let mounts = serde_json::json!([
            { "Type": "bind", "Source": "/mnt/data/redis", "Destination": "/data", "RW": true },
            { "Type": "bind", "Source": "/etc/localtime", "Destination": "/etc/localtime", "RW": false },
        ]);
        redis.mounts = serde_json::from_value(mounts).unwrap();
        let found = projects(&containers);
        assert_eq!(found["opstest"].binds["redis"], BTreeSet::from([PathBuf::from("/mnt/data/redis")]));
        assert!(found["opstest"].binds["backend"].is_empty());
    }

    #[test]
    fn containers_of_compose_run_and_of_nobody_are_no_services() {
        let mut containers: Vec<ContainerSummary> = serde_json::from_str(CAPTURED).unwrap();
        containers
            .retain(|summary| summary.names.as_ref().is_some_and(|names| names[0] == "/opstest-backend"));
        let labels = containers[0].labels.as_mut().unwrap();
        labels.insert(label::ONE_OFF.to_owned(), "True".to_owned());
        assert!(projects(&containers).is_empty());
        containers[0].labels = None;
        assert!(projects(&containers).is_empty());
    }

    #[test]
    fn the_newest_container_says_where_the_project_lives() {
        let mut containers: Vec<ContainerSummary> = serde_json::from_str(CAPTURED).unwrap();
        let newest = containers
            .iter_mut()
            .find(|summary| summary.names.as_ref().is_some_and(|names| names[0] == "/opstest-redis"))
            .unwrap();
        newest.created = Some(i64::MAX);
        newest.labels.as_mut().unwrap().insert(label::WORKING_DIR.to_owned(), "/srv/moved".to_owned());
        assert_eq!(projects(&containers)["opstest"].directory, Path::new("/srv/moved"));
    }
}
