//! Why Compose would make a container anew, as well as can be told from outside, and what it did make anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use bollard::models::ContainerSummary;
use vigie_proto::v1::ServiceChange;

use super::Context;
use crate::host::{
    docker::{container, label},
    stacks::{
        KnownStack,
        compose::Compose,
        dry_run::{Change, DryRun},
        model::{ComposeModel, ModelService},
    },
};

/// The image that a service runs by its files.
pub(super) fn image_name(stack: &KnownStack, service: &ModelService, compose: &Compose) -> String {
    let declared = &service.declared;
    if !declared.image.is_empty() {
        return declared.image.clone();
    }
    let separator = if compose.is_legacy() { "_" } else { "-" };
    format!("{}{separator}{}", stack.name, declared.service)
}

/// The service of a container that Compose names: one that exists, one that is remembered, one that would be made.
pub(super) fn service_of(
    name: &str,
    stack: &KnownStack,
    own: &[ContainerSummary],
    model: &ComposeModel,
) -> String {
    let existing = own.iter().map(container).find(|own| own.name == name).map(|own| own.service);
    let fixed = || {
        let named = model.services.iter().find(|service| service.container_name == name);
        named.map(|service| service.declared.service.clone())
    };
    let remembered = || {
        let known = stack.services.iter().find(|(_, known)| known.container == name);
        known.map(|(service, _)| service.clone())
    };
    // `project-service-1`
    let made = || {
        let rest = name.strip_prefix(&stack.name)?.trim_start_matches(['-', '_']);
        let (service, number) = rest.rsplit_once(['-', '_'])?;
        number.parse::<u32>().ok().map(|_| service.to_owned())
    };
    existing.or_else(fixed).or_else(remembered).or_else(made).unwrap_or_else(|| name.to_owned())
}

/// Why a change would be made; empty for none.
#[allow(clippy::too_many_arguments, reason = "each is one thing that a reason may rest on")]
pub(super) async fn why(
    cx: &Context,
    stack: &KnownStack,
    declared: Option<&ModelService>,
    service: &str,
    change: Change,
    own: &[ContainerSummary],
    run: &DryRun,
    compose: &Compose,
) -> String {
    let existing = own.iter().find(|summary| container(summary).service == service);
    match change {
        Change::None => String::new(),
        Change::Start => {
            let state = existing.map(|summary| container(summary).state).unwrap_or_default();
            format!("its container is {}", if state.is_empty() { "stopped" } else { &state })
        }
        Change::Create if run.builds.iter().any(|built| built == service) => {
            "it has no container; its image does not exist and would be built".to_owned()
        }
        Change::Create => "it has no container".to_owned(),
        Change::Recreate => {
            let Some(summary) = existing else { return "its configuration changed".to_owned() };
            let made_from = summary.labels.as_ref().and_then(|labels| labels.get(label::IMAGE));
            if let (Some(declared), Some(made_from)) = (declared, made_from)
                && let Ok(image) = cx.host.docker().image(&image_name(stack, declared, compose)).await
                && image.id.as_ref() != Some(made_from)
            {
                return "its image was rebuilt or pulled since".to_owned();
            }
            newer_file(stack, summary.created.unwrap_or_default())
        }
    }
}

/// Which of the stack's files changed after a container was made, in seconds.
fn newer_file(stack: &KnownStack, created: i64) -> String {
    let newer = |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.mtime() > created);
    let name = |path: &Path| path.strip_prefix(&stack.directory).unwrap_or(path).display().to_string();
    let named =
        stack.compose_env.values().map(|value| stack.directory.join(value)).filter(|path| path.is_file());
    let env: BTreeSet<_> =
        stack.effective_env_files().into_iter().chain(named).filter(|path| newer(path)).collect();
    let files: Vec<_> = stack.config_files.iter().filter(|path| newer(path)).collect();
    match (env.first(), files.first()) {
        (Some(env), None) => format!("the env file {} changed after its container was made", name(env)),
        (None, Some(file)) => format!("{} changed after its container was made", name(file)),
        (Some(env), Some(file)) => {
            format!("{} and {} changed after its container was made", name(env), name(file))
        }
        (None, None) => "its configuration changed".to_owned(),
    }
}

/// What became of each service between two looks.
pub(super) fn changed(
    before: &[ContainerSummary],
    after: &[ContainerSummary],
    build: bool,
) -> Vec<ServiceChange> {
    let by_service = |all: &[ContainerSummary]| {
        let mut services: BTreeMap<String, Vec<(String, Option<String>, bool)>> = BTreeMap::new();
        for summary in all {
            let own = container(summary);
            let entry = (own.id, summary.image_id.clone(), own.state == "running");
            services.entry(own.service).or_default().push(entry);
        }
        services
    };
    let earlier = by_service(before);
    by_service(after)
        .into_iter()
        .map(|(service, now)| {
            let then = earlier.get(&service).map_or(&[][..], Vec::as_slice);
            let is_new = now.iter().any(|(id, ..)| !then.iter().any(|(known, ..)| known == id));
            let image_changed = !then.is_empty()
                && now.iter().any(|(_, image, _)| !then.iter().any(|(_, known, _)| known == image));
            let was_started = now
                .iter()
                .any(|(id, _, running)| *running && then.iter().any(|(known, _, ran)| known == id && !ran));
            let (change, reason) = match (is_new, then.is_empty()) {
                (true, true) => ("create", "it had no container"),
                (true, false) if image_changed && build => ("build", "its image was rebuilt"),
                (true, false) if image_changed => ("recreate", "its image changed"),
                (true, false) => ("recreate", "its configuration changed"),
                (false, _) if was_started => ("start", "its container was stopped"),
                (false, _) => ("none", ""),
            };
            ServiceChange { service, change: change.to_owned(), reason: reason.to_owned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(service: &str, id: &str, image: &str, state: &str) -> ContainerSummary {
        serde_json::from_value(serde_json::json!({
            "Id": id, "ImageID": image, "State": state, "Names": [format!("/shop-{service}-1")],
            "Labels": {"com.docker.compose.project": "shop", "com.docker.compose.service": service},
        }))
        .unwrap()
    }

    #[test]
    fn what_was_done_is_seen_from_before_and_after() {
        let before = [
            summary("a", "1", "i", "running"),
            summary("b", "2", "i", "exited"),
            summary("c", "3", "i", "running"),
            summary("d", "4", "i", "running"),
        ];
        let after = [
            summary("a", "1", "i", "running"),
            summary("b", "2", "i", "running"),
            summary("c", "30", "i", "running"),
            summary("d", "40", "j", "running"),
            summary("e", "5", "i", "running"),
        ];
        let words = |build| -> Vec<String> {
            changed(&before, &after, build)
                .into_iter()
                .map(|own| format!("{} {}", own.service, own.change))
                .collect()
        };
        assert_eq!(words(false), ["a none", "b start", "c recreate", "d recreate", "e create"]);
        assert_eq!(words(true)[3], "d build");
    }

    #[test]
    fn a_container_is_traced_to_its_service() {
        let stack = KnownStack {
            name: "shop".to_owned(),
            services: BTreeMap::from([(
                "queue".to_owned(),
                crate::host::stacks::KnownService {
                    container: "shop-queue".to_owned(),
                    image: String::new(),
                },
            )]),
            ..KnownStack::default()
        };
        let model = ComposeModel::parse("services:\n  web:\n    container_name: front\n").unwrap();
        let own = [summary("a", "1", "i", "running")];
        let of = |name: &str| service_of(name, &stack, &own, &model);
        assert_eq!(
            (of("shop-a-1"), of("front"), of("shop-queue"), of("shop_my-web_2")),
            ("a".to_owned(), "web".to_owned(), "queue".to_owned(), "my-web".to_owned())
        );
        assert_eq!(of("stranger"), "stranger");
    }

    #[test]
    fn the_file_that_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".env.prod", "compose.yml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let mut stack = KnownStack {
            directory: folder.path().to_owned(),
            env_files: vec![folder.path().join(".env.prod")],
            ..KnownStack::default()
        };
        assert_eq!(newer_file(&stack, 0), "the env file .env.prod changed after its container was made");
        assert_eq!(newer_file(&stack, i64::MAX), "its configuration changed");
        stack.config_files = vec![folder.path().join("compose.yml")];
        assert_eq!(newer_file(&stack, 0), ".env.prod and compose.yml changed after its container was made");
    }
}
