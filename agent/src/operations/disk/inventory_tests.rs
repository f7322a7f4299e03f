use std::collections::BTreeMap;

use super::*;
use crate::host::stacks::KnownService;

/// The stack `shop` as it is remembered.
fn shop() -> KnownStack {
    let service = |container: &str, image: &str| KnownService {
        container: container.to_owned(),
        image: image.to_owned(),
    };
    KnownStack {
        name: "shop".to_owned(),
        services: BTreeMap::from([
            ("db".to_owned(), service("shop-db", "postgres:15")),
            ("web".to_owned(), service("shop-web", "registry.example/shop/web")),
        ]),
        volumes: ["pgdata".to_owned()].into(),
        networks: ["inner".to_owned()].into(),
        ..KnownStack::default()
    }
}

/// An engine's answer to `/v1.41/system/df`, its shape from Docker 20.10: the stack is down, all its containers gone.
fn down() -> Usage {
    serde_json::from_str(
        r#"{"LayersSize": 900, "Images": [
            {"Id": "sha256:p15", "ParentId": "", "RepoTags": ["postgres:15"], "Size": 300, "SharedSize": 100, "Labels": null},
            {"Id": "sha256:web", "ParentId": "sha256:step", "RepoTags": ["registry.example/shop/web:latest"], "Size": 200, "SharedSize": 150},
            {"Id": "sha256:base", "ParentId": "", "RepoTags": ["debian:12"], "Size": 150, "SharedSize": 150},
            {"Id": "sha256:built", "ParentId": "", "RepoTags": ["<none>:<none>"], "Size": 90, "SharedSize": 0,
             "Labels": {"com.docker.compose.project": "gone"}},
            {"Id": "sha256:old", "ParentId": "", "RepoTags": ["app:v1", "app:v1.0"], "Size": 400, "SharedSize": 0}],
         "Containers": [
            {"Id": "c1", "Names": ["/job"], "Image": "app:v2", "ImageID": "sha256:none", "State": "exited", "Created": 1000, "SizeRw": 70,
             "Mounts": [{"Name": "jobdata"}], "NetworkSettings": {"Networks": {"jobs": {"NetworkID": "n"}}}},
            {"Id": "c2", "Names": ["/fresh"], "State": "created", "Created": 9990},
            {"Id": "c3", "Names": ["/other-web-1"], "State": "exited", "Created": 1000,
             "Labels": {"com.docker.compose.project": "other"}}],
         "Volumes": [
            {"Name": "pgdata", "Mountpoint": "/v/pgdata", "UsageData": {"Size": 5000, "RefCount": 0}},
            {"Name": "shop_uploads", "UsageData": {"Size": 4000, "RefCount": 0}},
            {"Name": "other_data", "Labels": {"com.docker.compose.volume": "data"}, "UsageData": {"Size": 3000, "RefCount": 0}},
            {"Name": "jobdata", "UsageData": {"Size": 20, "RefCount": 1}},
            {"Name": "lost", "Labels": {}, "UsageData": {"Size": 2000, "RefCount": 0}}],
         "BuildCache": [
            {"ID": "b1", "Type": "regular", "Description": "RUN make", "InUse": false, "Shared": false, "Size": 60},
            {"ID": "b2", "InUse": false, "Shared": true, "Size": 50},
            {"ID": "b3", "InUse": true, "Shared": false, "Size": 40}]}"#,
    )
    .unwrap()
}

fn networks() -> Vec<Network> {
    ["bridge", "inner", "jobs", "stray"]
        .into_iter()
        .map(|name| Network {
            name: Some(name.to_owned()),
            id: Some(format!("id-{name}")),
            ..Network::default()
        })
        .collect()
}

fn layers() -> HashMap<String, Vec<String>> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    HashMap::from([
        ("sha256:p15".to_owned(), list(&["x", "y"])),
        ("sha256:web".to_owned(), list(&["d", "e"])),
        ("sha256:base".to_owned(), list(&["d"])),
        ("sha256:built".to_owned(), list(&["q"])),
        ("sha256:old".to_owned(), list(&["o"])),
    ])
}

#[test]
fn a_stack_that_is_down_keeps_everything() {
    let stack = shop();
    let objects = judge(&down(), &networks(), &layers(), &[&stack], 10_000);
    let nobodys: Vec<_> = objects
        .iter()
        .filter(|own| own.kept.is_empty())
        .map(|own| (own.kind.as_str(), own.name.as_str()))
        .collect();
    assert_eq!(
        nobodys,
        [
            ("volume", "lost"),
            ("image", "app:v1"),
            ("container", "job"),
            ("build_cache", "RUN make"),
            ("network", "stray")
        ]
    );
    let why = |kind: &str, name: &str| {
        objects.iter().find(|own| own.kind == kind && own.name == name).map(|own| own.kept.as_str()).unwrap()
    };
    assert_eq!(why("volume", "pgdata"), "stack");
    assert_eq!(why("volume", "shop_uploads"), "stack");
    assert_eq!(why("volume", "other_data"), "compose");
    assert_eq!(why("volume", "jobdata"), "in_use");
    assert_eq!(why("image", "postgres:15"), "stack");
    assert_eq!(why("image", "registry.example/shop/web:latest"), "stack");
    assert_eq!(why("image", "debian:12"), "base");
    assert_eq!(why("image", "<none>"), "compose");
    assert_eq!(why("container", "fresh"), "recent");
    assert_eq!(why("container", "other-web-1"), "compose");
    assert_eq!(why("network", "inner"), "stack");
    assert_eq!(why("network", "jobs"), "in_use");
    assert_eq!(why("network", "bridge"), "predefined");
}

#[test]
fn an_image_whose_layers_nobody_knows_is_kept() {
    let stack = shop();
    let mut known = layers();
    known.remove("sha256:old");
    let objects = judge(&down(), &[], &known, &[&stack], 10_000);
    assert!(objects.iter().any(|own| own.name == "app:v1" && own.kept == "base"));
}

#[test]
fn names_as_the_engine_resolves_them() {
    assert_eq!(full_name("docker.io/library/redis"), "redis:latest");
    assert_eq!(full_name("registry.example:5000/a/b"), "registry.example:5000/a/b:latest");
    assert_eq!(full_name("a/b@sha256:0"), "a/b@sha256:0");
    let stack = shop();
    assert_eq!(named_for("shop_data", &[&stack]), Some("shop"));
    assert_eq!(named_for("shopping", &[&stack]), None);
}
