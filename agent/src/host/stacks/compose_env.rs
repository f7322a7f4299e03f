//! With which variables Compose has to be called, beside the env files: labels do not hold them, and a blank one would
//! recreate production wrongly.
//!
//! A candidate is accepted only when bringing the stack up with it would recreate nothing while every service has its
//! container: then the containers themselves bear witness to it. What a person's settings say is not doubted.

use std::{collections::BTreeMap, path::Path};

use bollard::models::ContainerSummary;
use tokio::time::Instant;
use vigie_proto::v1::Container;

use super::{
    KnownStack,
    compose::ComposeCalls,
    dry_run::{Change, DryRun},
    expansion::{self, Known},
};
use crate::{
    host::docker::{container, label},
    operations::Fault,
};

type Environment = BTreeMap<String, String>;

/// Looks for the environment that recreates nothing.
///
/// # Errors
/// When Compose cannot be run; there is then no answer, and it is worth asking again.
pub(super) async fn infer(
    calls: &ComposeCalls,
    stack: &KnownStack,
    containers: &[ContainerSummary],
    deadline: Instant,
) -> Result<Option<Environment>, Fault> {
    let unset = match calls.ask(stack, &Environment::new(), deadline).await? {
        Ok(configured) => configured.unset.clone(),
        Err(error) => error.unset,
    };
    let restarting =
        containers.iter().map(container).any(|own| own.stack == stack.name && own.state == "restarting");
    for candidate in candidates(stack, &unset, &env_file_variables(stack)) {
        let accepted = match calls.dry_run(stack, &candidate, &[], deadline).await? {
            Some(Ok(run)) => recreates_nothing(&run, restarting),
            Some(Err(_)) => false,
            None => {
                let hashes = calls.legacy_hashes(stack, &candidate, deadline).await?;
                hashes_match(&hashes, &stack.name, containers)
            }
        };
        if accepted {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// What is worth trying, the likeliest first: the env file's name for the variables that name env files, for every
/// unset variable, then nothing at all.
fn candidates(stack: &KnownStack, unset: &[String], env_file_variables: &[String]) -> Vec<Environment> {
    let mut found: Vec<Environment> = Vec::new();
    let naming: Vec<&String> = unset.iter().filter(|name| env_file_variables.contains(name)).collect();
    for file in &stack.env_files {
        let relative = file.strip_prefix(&stack.directory).unwrap_or(file);
        for value in [relative, file.as_path()].map(Path::to_string_lossy) {
            for names in [naming.clone(), unset.iter().collect()] {
                let candidate: Environment =
                    names.into_iter().map(|name| (name.clone(), value.clone().into_owned())).collect();
                if !candidate.is_empty() && !found.contains(&candidate) {
                    found.push(candidate);
                }
            }
        }
    }
    found.push(Environment::new());
    found
}

/// The variables with which the Compose files name their env files.
fn env_file_variables(stack: &KnownStack) -> Vec<String> {
    let mut found = Vec::new();
    for file in &stack.config_files {
        // A file that cannot be read names nothing; Compose says what is wrong with it.
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        found.extend(expansion::in_file(&text, &|_| Known::Unset).env_file_paths.all);
    }
    found
}

/// Of a container that is just being restarted, and would stay, Compose says nothing at all.
fn recreates_nothing(run: &DryRun, restarting: bool) -> bool {
    (restarting || !run.containers.is_empty())
        && run.containers.values().all(|change| matches!(change, Change::None | Change::Start))
}

/// Whether every service's hash is that of its containers.
fn hashes_match(hashes: &BTreeMap<String, String>, project: &str, containers: &[ContainerSummary]) -> bool {
    let own: Vec<_> = containers
        .iter()
        .filter_map(|summary| summary.labels.as_ref())
        .filter(|labels| labels.get(label::PROJECT).is_some_and(|name| name == project))
        .collect();
    !hashes.is_empty()
        && hashes.iter().all(|(service, hash)| {
            let mut found =
                own.iter().filter(|labels| labels.get(label::SERVICE) == Some(service)).peekable();
            found.peek().is_some() && found.all(|labels| labels.get(label::CONFIG_HASH) == Some(hash))
        })
}

/// What an attempt rests on, so that one that found nothing is made again only when something has changed.
pub(super) fn circumstances(stack: &KnownStack, containers: &[Container]) -> String {
    let files = stack.config_files.iter().chain(&stack.env_files);
    let marks: Vec<_> = files.map(|file| super::compose::FileMark::of(file)).collect();
    let ids: Vec<_> = containers.iter().map(|container| &container.id).collect();
    format!("{marks:?} {ids:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_env_file_is_tried_for_what_names_it_first() {
        let stack = KnownStack {
            directory: "/srv/shop".into(),
            env_files: vec!["/srv/shop/.env.prod".into()],
            ..KnownStack::default()
        };
        let unset = ["ENV_FILE".to_owned(), "TAG".to_owned()];
        let found = candidates(&stack, &unset, &unset[..1]);
        let env = |pairs: &[(&str, &str)]| -> Environment {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(
            found,
            [
                env(&[("ENV_FILE", ".env.prod")]),
                env(&[("ENV_FILE", ".env.prod"), ("TAG", ".env.prod")]),
                env(&[("ENV_FILE", "/srv/shop/.env.prod")]),
                env(&[("ENV_FILE", "/srv/shop/.env.prod"), ("TAG", "/srv/shop/.env.prod")]),
                env(&[]),
            ]
        );
        assert_eq!(candidates(&stack, &[], &[]), [env(&[])]);
    }

    #[test]
    fn only_containers_that_stay_bear_witness() {
        let run = |state: &str| {
            DryRun::parse(&format!(
                " DRY-RUN MODE -  Container a  {state}\n DRY-RUN MODE -  Container b  Running\n"
            ))
        };
        for restarting in [false, true] {
            assert!(["Running", "Created"].iter().all(|state| recreates_nothing(&run(state), restarting)));
            assert!(["Recreate", "Creating"].iter().all(|state| !recreates_nothing(&run(state), restarting)));
        }
        assert!(!recreates_nothing(&DryRun::default(), false));
        assert!(recreates_nothing(&DryRun::default(), true));
    }

    #[test]
    fn the_hashes_of_compose_1() {
        let containers: Vec<ContainerSummary> =
            serde_json::from_str(include_str!("fixtures/containers.json")).unwrap();
        // Printed by `docker-compose config --hash '*'` 1.29.2 for these containers.
        let mut hashes = BTreeMap::from([
            (
                "redis".to_owned(),
                "29f4b4d0ed77fbd26ad996a69789235aecbe0916201638b0fc8a249f01ec8e8c".to_owned(),
            ),
            (
                "backend".to_owned(),
                "c771da6b365e37bf2532317455f9aea9e1dee8890b67296c4d073395d693e952".to_owned(),
            ),
        ]);
        assert!(hashes_match(&hashes, "stack1", &containers));
        assert!(!hashes_match(&hashes, "opstest", &containers));
        hashes.insert("gone".to_owned(), "00".to_owned());
        assert!(!hashes_match(&hashes, "stack1", &containers));
    }
}
