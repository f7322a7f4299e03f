//! What Docker keeps, and whose it is.
//!
//! A stack that is down has no container, and all that it lives on looks unused: its volumes, its images, its network.
//! So an object is nobody's only when nothing speaks for it: no container, no known stack (up or down), no label of
//! Compose, no kept image that is built on it.

use std::collections::{HashMap, HashSet};

use bollard::models::Network;
use futures_util::{StreamExt as _, stream};
use vigie_proto::v1::{DockerObject, DockerUsageRequest, DockerUsageResult};

use super::{Context, Fault, logs};
use crate::{
    host::{
        docker::{
            EngineError,
            usage::{ContainerUsage, ImageUsage, Usage},
        },
        stacks::KnownStack,
    },
    operations::text,
};

/// A host with more images than this is told that its inventory is incomplete.
const IMAGES: usize = 1000;

/// What a person reads.
const SHOWN: usize = 100;

/// What of a build's step a person reads.
const DESCRIPTION: usize = 200;

/// A container that was just made may not have been started yet.
const RECENT_S: i64 = 600;

/// What Compose writes on everything that it makes.
const COMPOSE: &str = "com.docker.compose.";

/// Networks that the engine makes for itself.
const PREDEFINED: [&str; 5] = ["bridge", "host", "none", "ingress", "docker_gwbridge"];

/// Everything that the engine keeps, judged.
pub(super) struct Inventory {
    pub objects: Vec<DockerObject>,
    /// By image id: its tags.
    pub tags: HashMap<String, Vec<String>>,
    /// By volume name: where it lies.
    pub volumes: HashMap<String, String>,
    /// Why it may not be all; empty when it is.
    pub incomplete: String,
}

/// Takes stock.
///
/// # Errors
/// When the engine cannot be asked.
pub(super) async fn take(cx: &Context) -> Result<Inventory, Fault> {
    let engine = cx.host.docker();
    let (usage, networks) = tokio::try_join!(engine.usage(cx.deadline), engine.networks())?;
    let mut incomplete = match cx.host.stacks().complete() {
        Ok(()) => String::new(),
        Err(reason) => reason,
    };
    let images = usage.images.as_deref().unwrap_or_default();
    let (mut layers, mut unseen) = (HashMap::new(), images.len().saturating_sub(IMAGES));
    let ids: Vec<String> = images.iter().take(IMAGES).map(|image| image.id.clone()).collect();
    let ask = |id: String| async move {
        let found = engine.image(&id).await;
        (id, found)
    };
    let mut asked = stream::iter(ids.into_iter().map(ask)).buffer_unordered(8);
    while let Some((id, found)) = asked.next().await {
        match found {
            Ok(image) => {
                layers.insert(id, image.root_fs.and_then(|root| root.layers).unwrap_or_default());
            }
            // Gone since.
            Err(EngineError::Unknown(_)) => {}
            Err(_) => unseen += 1,
        }
    }
    if unseen > 0 {
        incomplete = format!("{unseen} images could not be looked at");
    }
    for (name, told) in [
        ("images", usage.images.is_some()),
        ("containers", usage.containers.is_some()),
        ("volumes", usage.volumes.is_some()),
    ] {
        if !told {
            incomplete = format!("the engine does not tell its {name}");
        }
    }
    let known = cx.host.stacks().all();
    let stacks: Vec<&KnownStack> = known.iter().map(AsRef::as_ref).collect();
    let mut objects = judge(&usage, &networks, &layers, &stacks, crate::host::clock::now().timestamp());
    // What a build ran may hold a secret. Redacted here, where preview and second look both come by, it compares.
    for object in objects.iter_mut().filter(|object| object.kind == "build_cache") {
        object.name = text::text_up_to(&cx.host, &object.name, DESCRIPTION);
    }
    let tags =
        images.iter().map(|image| (image.id.clone(), tags(image).map(str::to_owned).collect())).collect();
    let volumes =
        usage.volumes.iter().flatten().map(|own| (own.name.clone(), own.mountpoint.clone())).collect();
    Ok(Inventory { objects, tags, volumes, incomplete })
}

/// Shows what Docker keeps.
pub(in crate::operations) async fn docker_usage(
    _: DockerUsageRequest,
    cx: &Context,
) -> Result<DockerUsageResult, Fault> {
    let root = cx.host.docker().root();
    let mut result =
        DockerUsageResult { root: root.to_string_lossy().into_owned(), ..DockerUsageResult::default() };
    let place = root.join("containers");
    if let Some(logs) =
        cx.host.mounts().ask(place, crate::host::mounts::PATIENCE * 5, move || logs::all(&root)).await
    {
        result.logs = logs.into_iter().take(SHOWN).collect();
    }
    let inventory = match take(cx).await {
        Ok(inventory) => inventory,
        Err(fault) if fault.failure.is_absence() => return Ok(result),
        Err(fault) => {
            return Err(fault.partial(vigie_proto::v1::result::Operation::DockerUsage(result)));
        }
    };
    result.present = true;
    for object in &inventory.objects {
        let (all, free) = match object.kind.as_str() {
            "image" => (&mut result.images_bytes, &mut result.images_reclaimable_bytes),
            "container" => (&mut result.containers_bytes, &mut result.containers_reclaimable_bytes),
            "volume" => (&mut result.volumes_bytes, &mut result.volumes_reclaimable_bytes),
            "build_cache" => (&mut result.build_cache_bytes, &mut result.build_cache_reclaimable_bytes),
            _ => continue,
        };
        *all += object.bytes;
        *free += if object.kept.is_empty() { object.bytes } else { 0 };
    }
    result.objects_total = u32::try_from(inventory.objects.len()).unwrap_or(u32::MAX);
    result.objects = inventory.objects;
    result.objects.truncate(SHOWN);
    Ok(result)
}

fn tags(image: &ImageUsage) -> impl Iterator<Item = &str> {
    image.repo_tags.iter().flatten().map(String::as_str).filter(|tag| !tag.starts_with("<none>"))
}

/// An image's name as the engine resolves it.
fn full_name(name: &str) -> String {
    let name = ["docker.io/library/", "docker.io/"]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let tagged = name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if tagged { name.to_owned() } else { format!("{name}:latest") }
}

fn bytes(size: i64) -> u64 {
    u64::try_from(size).unwrap_or(0)
}

fn composed(labels: Option<&HashMap<String, String>>) -> bool {
    labels.is_some_and(|labels| labels.keys().any(|name| name.starts_with(COMPOSE)))
}

/// The stack whose name an object's name begins with, as Compose names what it makes: `shop_data`, `shop-backend`.
fn named_for<'a>(name: &str, stacks: &[&'a KnownStack]) -> Option<&'a str> {
    let own = |stack: &&&KnownStack| {
        name.strip_prefix(stack.name.as_str()).is_some_and(|rest| rest.starts_with(['-', '_']))
    };
    stacks.iter().find(own).map(|stack| stack.name.as_str())
}

/// The stack that has such an image.
fn stack_of_image<'a>(image: &ImageUsage, stacks: &[&'a KnownStack]) -> Option<&'a str> {
    let names: HashSet<String> = tags(image).map(full_name).collect();
    let digests: HashSet<&str> = image.repo_digests.iter().flatten().map(String::as_str).collect();
    let has = |stack: &&&KnownStack| {
        stack.services.values().any(|service| {
            let own = service.image.as_str();
            !own.is_empty()
                && (own == image.id
                    || (own.len() >= 12 && image.id.trim_start_matches("sha256:").starts_with(own))
                    || digests.contains(own)
                    || names.contains(&full_name(own)))
        })
    };
    stacks
        .iter()
        .find(has)
        .map(|stack| stack.name.as_str())
        .or_else(|| names.iter().find_map(|name| named_for(name, stacks)))
}

/// Everything that the engine keeps, with what speaks for it; the largest first.
fn judge(
    usage: &Usage,
    networks: &[Network],
    layers: &HashMap<String, Vec<String>>,
    stacks: &[&KnownStack],
    now_s: i64,
) -> Vec<DockerObject> {
    let containers = usage.containers.as_deref().unwrap_or_default();
    let mut objects: Vec<DockerObject> = containers.iter().map(|own| container(own, stacks, now_s)).collect();
    objects.extend(images(usage, layers, stacks));
    for volume in usage.volumes.iter().flatten() {
        let used =
            containers.iter().any(|own| own.mounts.iter().flatten().any(|mount| mount.name == volume.name));
        let owner = stacks
            .iter()
            .find(|stack| stack.volumes.contains(&volume.name))
            .map(|stack| stack.name.as_str())
            .or_else(|| named_for(&volume.name, stacks));
        let counted = volume.usage_data.as_ref();
        let kept = match owner {
            _ if used || counted.is_some_and(|data| data.ref_count > 0) => "in_use",
            Some(_) => "stack",
            None if composed(volume.labels.as_ref()) => "compose",
            None => "",
        };
        objects.push(DockerObject {
            kind: "volume".to_owned(),
            id: volume.name.clone(),
            name: volume.name.clone(),
            bytes: counted.map_or(0, |data| bytes(data.size)),
            stack: owner.unwrap_or_default().to_owned(),
            kept: kept.to_owned(),
        });
    }
    for network in networks {
        let name = network.name.as_deref().unwrap_or_default();
        let used = containers.iter().any(|own| {
            let within = own.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
            within.is_some_and(|networks| networks.contains_key(name))
        });
        let owner = stacks
            .iter()
            .find(|stack| stack.networks.contains(name))
            .map(|stack| stack.name.as_str())
            .or_else(|| named_for(name, stacks));
        let kept = match owner {
            _ if PREDEFINED.contains(&name) => "predefined",
            _ if used => "in_use",
            Some(_) => "stack",
            None if composed(network.labels.as_ref()) => "compose",
            None => "",
        };
        objects.push(DockerObject {
            kind: "network".to_owned(),
            id: network.id.clone().unwrap_or_default(),
            name: name.to_owned(),
            bytes: 0,
            stack: owner.unwrap_or_default().to_owned(),
            kept: kept.to_owned(),
        });
    }
    objects.extend(usage.build_cache.iter().flatten().map(|cache| DockerObject {
        kind: "build_cache".to_owned(),
        id: cache.id.clone(),
        name: cache.description.clone(),
        // What is shared with an image goes with the image.
        bytes: if cache.shared { 0 } else { bytes(cache.size) },
        stack: String::new(),
        kept: if cache.in_use || cache.shared { "in_use" } else { "" }.to_owned(),
    }));
    objects.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| (&a.kind, &a.name).cmp(&(&b.kind, &b.name))));
    objects
}

fn container(own: &ContainerUsage, stacks: &[&KnownStack], now_s: i64) -> DockerObject {
    let name = own.names.iter().flatten().next().map(|name| name.trim_start_matches('/')).unwrap_or_default();
    let project = own.labels.as_ref().and_then(|labels| labels.get(crate::host::docker::label::PROJECT));
    let owner = stacks
        .iter()
        .find(|stack| {
            project == Some(&stack.name) || stack.services.values().any(|service| service.container == name)
        })
        .map(|stack| stack.name.as_str());
    let stopped = matches!(own.state.as_str(), "exited" | "dead" | "created");
    let kept = match owner {
        _ if !stopped => "in_use",
        Some(_) => "stack",
        None if composed(own.labels.as_ref()) => "compose",
        None if now_s - own.created < RECENT_S => "recent",
        None => "",
    };
    DockerObject {
        kind: "container".to_owned(),
        id: own.id.clone(),
        name: name.to_owned(),
        bytes: bytes(own.size_rw),
        stack: owner.unwrap_or_default().to_owned(),
        kept: kept.to_owned(),
    }
}

fn images(usage: &Usage, layers: &HashMap<String, Vec<String>>, stacks: &[&KnownStack]) -> Vec<DockerObject> {
    let all = usage.images.as_deref().unwrap_or_default();
    let used: HashSet<&str> = usage.containers.iter().flatten().map(|own| own.image_id.as_str()).collect();
    let named: HashSet<String> = usage.containers.iter().flatten().map(|own| full_name(&own.image)).collect();
    let mut judged: Vec<(&ImageUsage, Option<&str>, &'static str)> = all
        .iter()
        .map(|image| {
            let owner = stack_of_image(image, stacks);
            let in_use =
                used.contains(image.id.as_str()) || tags(image).any(|tag| named.contains(&full_name(tag)));
            let kept = match owner {
                _ if in_use => "in_use",
                Some(_) => "stack",
                None if composed(image.labels.as_ref()) => "compose",
                None => "",
            };
            (image, owner, kept)
        })
        .collect();
    // What a kept image is built on: a rebuild needs it, and it would free nothing.
    let kept: Vec<(&str, &[String])> = judged
        .iter()
        .filter(|(_, _, kept)| !kept.is_empty())
        .map(|(image, ..)| {
            (image.parent_id.as_str(), layers.get(&image.id).map(Vec::as_slice).unwrap_or_default())
        })
        .collect();
    for (image, _, why) in judged.iter_mut().filter(|(_, _, why)| why.is_empty()) {
        let own = layers.get(&image.id).map(Vec::as_slice).unwrap_or_default();
        let below = |(parent, theirs): &(&str, &[String])| {
            *parent == image.id || own.is_empty() || (theirs.len() >= own.len() && theirs.starts_with(own))
        };
        if kept.iter().any(below) {
            *why = "base";
        }
    }
    judged
        .into_iter()
        .map(|(image, owner, kept)| DockerObject {
            kind: "image".to_owned(),
            id: image.id.clone(),
            name: tags(image).next().unwrap_or("<none>").to_owned(),
            bytes: bytes(image.size).saturating_sub(bytes(image.shared_size)),
            stack: owner.unwrap_or_default().to_owned(),
            kept: kept.to_owned(),
        })
        .collect()
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
