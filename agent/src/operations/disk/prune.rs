//! Removes what nothing owns, one by one and by id, after it was judged again. The engine's own prune knows nothing of
//! a stack that is down, and is never called.

use std::path::{Path, PathBuf};

use vigie_proto::v1::{
    DockerObject, DockerPrunePreviewRequest, DockerPrunePreviewResult, DockerPruneRequest, DockerPruneResult,
    DockerVolumePrunePreviewRequest, DockerVolumePrunePreviewResult, DockerVolumePruneRequest,
    DockerVolumePruneResult, LeftAlone, result,
};

use super::{
    Context, Fault,
    inventory::{self, Inventory},
    room,
};

/// What of the kept is shown.
const SHOWN: usize = 100;

/// How the engine words a disk that is full.
const FULL: &str = "no space left on device";

/// In this order: an image may be free only once its container is gone.
const ORDER: [&str; 5] = ["container", "image", "build_cache", "network", "volume"];

/// The fault of an action that was not prepared.
pub(super) fn not_prepared() -> Fault {
    Fault::refused("not_prepared", "nothing was prepared that this could act on")
        .hint("run it by `vigiectl do`, which asks the host first and shows you what would go")
}

/// Takes stock, and refuses when it may not be all: something could then look like nobody's.
async fn whole(cx: &Context) -> Result<Inventory, Fault> {
    cx.host.stacks().refresh().await;
    let inventory = inventory::take(cx).await?;
    if inventory.incomplete.is_empty() {
        return Ok(inventory);
    }
    Err(Fault::refused(
        "inventory_incomplete",
        format!("what is whose is not all known: {}", inventory.incomplete),
    )
    .hint("look at `vigiectl probe docker_usage`; nothing is removed until everything is known"))
}

fn split(inventory: &Inventory, kinds: &[&str]) -> (Vec<DockerObject>, Vec<DockerObject>) {
    let asked = inventory.objects.iter().filter(|object| kinds.contains(&object.kind.as_str())).cloned();
    let (mut kept, objects): (Vec<_>, Vec<_>) = asked.partition(|object| !object.kept.is_empty());
    kept.truncate(SHOWN);
    (objects, kept)
}

fn kinds(
    images: bool,
    containers: bool,
    build_cache: bool,
    networks: bool,
) -> Result<Vec<&'static str>, Fault> {
    let all =
        [("image", images), ("container", containers), ("build_cache", build_cache), ("network", networks)];
    let kinds: Vec<&str> = all.into_iter().filter(|(_, asked)| *asked).map(|(kind, _)| kind).collect();
    if kinds.is_empty() {
        return Err(Fault::refused("argument_missing", "no kind of object is named")
            .hint("say what: `--images`, `--containers`, `--build-cache`, `--networks`"));
    }
    Ok(kinds)
}

/// Names everything that a prune would remove.
pub(in crate::operations) async fn preview(
    request: DockerPrunePreviewRequest,
    cx: &Context,
) -> Result<DockerPrunePreviewResult, Fault> {
    let kinds = kinds(request.images, request.containers, request.build_cache, request.networks)?;
    let (objects, kept) = split(&whole(cx).await?, &kinds);
    Ok(DockerPrunePreviewResult { bytes: objects.iter().map(|object| object.bytes).sum(), objects, kept })
}

/// Removes those of the prepared objects that are still nobody's.
pub(in crate::operations) async fn prune(
    request: DockerPruneRequest,
    cx: &Context,
) -> Result<DockerPruneResult, Fault> {
    let kinds = kinds(request.images, request.containers, request.build_cache, request.networks)?;
    let Some(result::Operation::DockerPrunePreview(prepared)) = &cx.prepared else {
        return Err(not_prepared());
    };
    let (removed, left, freed_bytes) = remove(&prepared.objects, &kinds, cx).await?;
    let done = DockerPruneResult { removed, left, freed_bytes };
    match none_went(&done.removed, &done.left) {
        Some(fault) => Err(fault.partial(result::Operation::DockerPrune(done))),
        None => Ok(done),
    }
}

/// Names every volume that would be removed.
pub(in crate::operations) async fn volume_preview(
    request: DockerVolumePrunePreviewRequest,
    cx: &Context,
) -> Result<DockerVolumePrunePreviewResult, Fault> {
    let (objects, kept) = chosen_volumes(&whole(cx).await?, &request.volumes);
    Ok(DockerVolumePrunePreviewResult {
        bytes: objects.iter().map(|object| object.bytes).sum(),
        objects,
        kept,
    })
}

/// The volumes that would go, and those that stay. A volume that somebody gave a name holds what somebody wanted to
/// keep, so that it goes only when it is named; those that a container brought along and left behind go unasked.
fn chosen_volumes(inventory: &Inventory, asked: &[String]) -> (Vec<DockerObject>, Vec<DockerObject>) {
    let (mut objects, mut kept) = split(inventory, &["volume"]);
    if asked.is_empty() {
        let named: Vec<DockerObject> = objects.extract_if(.., |object| !is_anonymous(&object.name)).collect();
        kept.extend(named.into_iter().map(|object| DockerObject { kept: "named".to_owned(), ..object }));
        kept.truncate(SHOWN);
    } else {
        objects.retain(|object| asked.contains(&object.name));
        kept.retain(|object| asked.contains(&object.name));
    }
    (objects, kept)
}

/// Whether the engine made up a volume's name: 64 hexadecimal digits.
pub(super) fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Removes those of the prepared volumes that are still nobody's.
pub(in crate::operations) async fn volumes(
    request: DockerVolumePruneRequest,
    cx: &Context,
) -> Result<DockerVolumePruneResult, Fault> {
    let Some(result::Operation::DockerVolumePrunePreview(prepared)) = &cx.prepared else {
        return Err(not_prepared());
    };
    let mut objects = prepared.objects.clone();
    objects.retain(|object| request.volumes.is_empty() || request.volumes.contains(&object.name));
    let (removed, left, freed_bytes) = remove(&objects, &["volume"], cx).await?;
    let done = DockerVolumePruneResult { removed, left, freed_bytes };
    match none_went(&done.removed, &done.left) {
        Some(fault) => Err(fault.partial(result::Operation::DockerVolumePrune(done))),
        None => Ok(done),
    }
}

async fn remove(
    prepared: &[DockerObject],
    kinds: &[&str],
    cx: &Context,
) -> Result<(Vec<DockerObject>, Vec<LeftAlone>, u64), Fault> {
    let inventory = whole(cx).await?;
    let table = super::table()?;
    let root = cx.host.docker().root();
    // Volumes may lie elsewhere than the rest.
    let place = match prepared.iter().find(|object| object.kind == "volume") {
        Some(volume) => inventory.volumes.get(&volume.name).map_or_else(|| root.clone(), PathBuf::from),
        None => root,
    };
    let before = room::available(&cx.host, &table, &place).await;
    let (mut removed, mut left) = (Vec::new(), Vec::new());
    let mut due: Vec<&DockerObject> =
        ORDER.iter().flat_map(|kind| prepared.iter().filter(move |object| object.kind == *kind)).collect();
    loop {
        let (mut again, removed_before) = (Vec::new(), removed.len());
        for object in due {
            match one(object, kinds, &inventory, cx).await {
                Ok(()) => removed.push(object.clone()),
                Err(reason) if reason.contains(FULL) => again.push((object, reason)),
                Err(reason) => left.push(left_alone(object, reason)),
            }
        }
        // On a disk without a byte to spare the engine cannot even write down that an image goes. What went meanwhile, a
        // build's cache say, may have made the room that it takes.
        if again.is_empty() || removed.len() == removed_before {
            left.extend(again.into_iter().map(|(object, reason)| left_alone(object, reason)));
            break;
        }
        due = again.into_iter().map(|(object, _)| object).collect();
    }
    let after = room::available(&cx.host, &table, Path::new(&place)).await;
    Ok((removed, left, after.saturating_sub(before)))
}

fn left_alone(object: &DockerObject, reason: String) -> LeftAlone {
    LeftAlone { name: format!("{} {}", object.kind, object.name), reason }
}

/// Removes one object, if it is what it was and nobody's.
async fn one(
    object: &DockerObject,
    kinds: &[&str],
    inventory: &Inventory,
    cx: &Context,
) -> Result<(), String> {
    if !kinds.contains(&object.kind.as_str()) {
        return Err("its kind was not asked for".to_owned());
    }
    let now = inventory.objects.iter().find(|own| own.kind == object.kind && own.id == object.id);
    match now {
        None => return Err("it is gone".to_owned()),
        Some(own) if own.name != object.name => return Err(format!("it is called {} by now", own.name)),
        Some(own) if !own.kept.is_empty() => return Err(format!("it is somebody's by now: {}", own.kept)),
        Some(_) => {}
    }
    if tokio::time::Instant::now() >= cx.deadline {
        return Err("the time was up".to_owned());
    }
    let engine = cx.host.docker();
    let gone = match object.kind.as_str() {
        "container" => engine.remove_container(&object.id).await,
        "image" => {
            let tags = inventory.tags.get(&object.id).cloned().unwrap_or_default();
            engine.remove_image(&object.id, &tags).await
        }
        "volume" => engine.remove_volume(&object.id).await,
        "network" => engine.remove_network(&object.id).await,
        _ => match engine.remove_cache(&object.id).await {
            Ok(true) => Ok(()),
            Ok(false) => return Err("the engine kept it".to_owned()),
            Err(error) => Err(error),
        },
    };
    gone.map_err(|error| error.chain())
}

/// A prune of which nothing went is a failure.
fn none_went(removed: &[DockerObject], left: &[LeftAlone]) -> Option<Fault> {
    let first = left.first().filter(|_| removed.is_empty())?;
    Some(
        Fault::failed("nothing_freed", format!("nothing was removed; {}: {}", first.name, first.reason))
            .hint("ask again what would go: the preview of this operation tells"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_volume_with_a_name_goes_only_by_its_name() {
        let anonymous = "4f".repeat(32);
        let volume = |name: &str, kept: &str| DockerObject {
            kind: "volume".to_owned(),
            id: name.to_owned(),
            name: name.to_owned(),
            kept: kept.to_owned(),
            ..DockerObject::default()
        };
        let inventory = Inventory {
            objects: vec![volume("lost", ""), volume(&anonymous, ""), volume("shop_data", "stack")],
            tags: HashMap::new(),
            volumes: HashMap::new(),
            incomplete: String::new(),
        };
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            let (objects, kept) = chosen_volumes(&inventory, &asked);
            let names = |list: Vec<DockerObject>| list.into_iter().map(|own| own.name).collect::<Vec<_>>();
            (names(objects), names(kept))
        };
        assert_eq!(names(&[]), (vec![anonymous], vec!["shop_data".to_owned(), "lost".to_owned()]));
        assert_eq!(names(&["lost"]), (vec!["lost".to_owned()], Vec::new()));
        // Asked for by name or not: what is a stack's stays.
        assert_eq!(names(&["shop_data"]), (Vec::new(), vec!["shop_data".to_owned()]));
    }
}
