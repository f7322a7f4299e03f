//! The host's real disks, Docker's objects and apt's: what is shown, that exactly that goes, and that nothing goes which
//! has changed since or which a stack owns.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use vigie_agent::host::docker::SOCKET;
use vigie_proto::v1::{
    self, DockerObject, OutcomeStatus, request::Operation as Ask, result::Operation as Answer,
};

use crate::World;

const HELD: &str = "/var/lib/docker/vigie-held";
const MIB: u64 = 1024 * 1024;
const ALL: v1::DockerPrunePreviewRequest =
    v1::DockerPrunePreviewRequest { images: true, containers: true, build_cache: true, networks: true };
const ALL_GO: v1::DockerPruneRequest =
    v1::DockerPruneRequest { images: true, containers: true, build_cache: true, networks: true };

/// Runs a program of the host to its end, and gives what it printed.
fn host(program: &str, args: &[&str]) -> String {
    let ran = Command::new(program).args(args).env("DOCKER_BUILDKIT", "1").output().unwrap();
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

fn docker(args: &[&str]) -> String {
    host("docker", args)
}

/// Containers, images, volumes and networks of this test: gone with it, and with one before it that did not end.
struct Litter;

impl Litter {
    fn swept() -> Self {
        sweep();
        Self
    }
}

impl Drop for Litter {
    fn drop(&mut self) {
        sweep();
    }
}

fn sweep() {
    for (kind, list, filter, force) in [
        ("container", "-aq", "name=vigie-", Some("-f")),
        ("volume", "-q", "name=vigie-", None),
        ("image", "-q", "reference=vigie-*", Some("-f")),
        ("network", "-q", "name=vigie-", None),
    ] {
        let listed = Command::new("docker").args([kind, "ls", list, "--filter", filter]).output();
        let ids = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        for id in ids.split_whitespace() {
            let _ = Command::new("docker").args([kind, "rm"]).args(force).arg(id).output();
        }
    }
}

/// Another file with the same path: the old one is there until the new one is, so that their inodes differ.
fn replace(path: &Path) {
    let fresh = path.with_extension("fresh");
    fs::copy(path, &fresh).unwrap();
    fs::rename(&fresh, path).unwrap();
}

fn names(objects: &[DockerObject], kind: &str) -> Vec<String> {
    objects.iter().filter(|own| own.kind == kind).map(|own| own.name.clone()).collect()
}

fn kept<'a>(objects: &'a [DockerObject], name: &str) -> &'a str {
    objects.iter().find(|own| own.name == name).map_or("it is not there", |own| own.kept.as_str())
}

#[tokio::test]
async fn disks_are_shown_with_what_lives_on_them() {
    let world = World::new().await;
    let usage = ask!(world, DiskUsage, v1::DiskUsageRequest {});
    let root = usage.filesystems.iter().find(|own| own.holds.iter().any(|held| held == "system")).unwrap();
    assert!(root.answered && root.vital && root.total_bytes > 0, "{usage:?}");
    let volumes =
        usage.filesystems.iter().find(|own| own.holds.iter().any(|held| held == "volumes")).unwrap();
    assert_eq!(volumes.stacks, ["sylion"], "{usage:?}");
    let held: Vec<_> = usage.filesystems.iter().flat_map(|own| &own.holds).map(String::as_str).collect();
    for place in ["docker", "container_logs", "stacks", "apt"] {
        assert!(held.contains(&place), "{place} is nowhere: {usage:?}");
    }

    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(folder.path().join("large"), vec![1; 3 << 20]).unwrap();
    let culprits = ask!(world, DiskCulprits, v1::DiskCulpritsRequest {});
    assert!(culprits.docker_answered && culprits.incomplete.is_empty(), "{culprits:?}");
    let group = |kind: &str| culprits.groups.iter().find(|own| own.kind == kind);
    let database = group("database").unwrap();
    assert_eq!((database.stack.as_str(), database.waste_bytes), ("sylion", 0), "{culprits:?}");
    assert!(database.bytes > MIB && group("wal").is_some_and(|wal| wal.bytes >= 16 * MIB), "{culprits:?}");
    assert!(group("temporary").is_some_and(|own| own.bytes >= 3 * MIB), "{culprits:?}");
    let images = group("images").unwrap();
    assert!(images.bytes > 0 && images.waste_bytes < images.bytes, "{culprits:?}");

    let docker = ask!(world, DockerUsage, v1::DockerUsageRequest {});
    assert!(docker.present && docker.root == "/var/lib/docker", "{docker:?}");
    assert_eq!(kept(&docker.objects, "sylion-postgres-data"), "in_use");
    assert_eq!(kept(&docker.objects, "sylion-backend"), "in_use");
    assert_eq!(kept(&docker.objects, "bridge"), "predefined");
}

#[tokio::test]
async fn the_engine_says_where_it_keeps_everything() {
    let engine = vigie_agent::host::docker::Engine::new(SOCKET);
    engine.version().await.unwrap();
    assert_eq!(engine.root(), Path::new(&docker(&["info", "-f", "{{.DockerRootDir}}"])));
}

#[tokio::test]
async fn folders_are_walked_where_the_host_names_them() {
    let world = World::new().await;
    let walk = |path: &Path| {
        Ask::DiskDirectories(v1::DiskDirectoriesRequest {
            path: path.to_str().unwrap().to_owned(),
            ..v1::DiskDirectoriesRequest::default()
        })
    };
    let Ok(Answer::DiskDirectories(fullest)) = world.probe(walk(Path::new(""))).await else { panic!() };
    assert!(!fullest.truncated && fullest.bytes > 0 && !fullest.by_bytes.is_empty(), "{fullest:?}");

    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("large"), vec![1; 2 << 20]).unwrap();
    let Ok(Answer::DiskDirectories(found)) = world.probe(walk(folder.path())).await else { panic!() };
    assert_eq!(Path::new(&found.by_bytes[0].path), deep.as_path(), "{found:?}");
    for open in ["/", "/srv/sylion", "/var/lib/docker/containers", "/var/log"] {
        assert!(world.probe(walk(Path::new(open))).await.is_ok(), "{open}");
    }
    // What nobody names needs a signature, and a link leads nowhere else.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/root", &link).unwrap();
    for closed in [Path::new("/root"), Path::new("/etc/ssh"), &link] {
        let refused = world.probe(walk(closed)).await.unwrap_err();
        assert_eq!(
            (refused.status, refused.failure.code.starts_with("policy_")),
            (OutcomeStatus::Refused, true)
        );
        assert!(world.run(walk(closed)).await.is_ok(), "{closed:?}");
    }
}

#[tokio::test]
async fn a_deleted_file_that_is_held_is_told_with_who_holds_it() {
    let world = World::new().await;
    // The root of a host of the world forgets no name of an open file; Docker's disk is one as on any machine.
    let path = PathBuf::from(HELD);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&vec![7; 5 << 20]).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(&path).unwrap();
    let found = ask!(world, DiskDeletedOpen, v1::DiskDeletedOpenRequest { over_mib: 4 });
    let own = found.files.iter().find(|own| own.path == HELD).unwrap();
    assert_eq!((own.pid, own.holders), (std::process::id(), 1));
    assert!(own.bytes >= 5 * MIB && found.bytes >= own.bytes, "{found:?}");
    let culprits = ask!(world, DiskCulprits, v1::DiskCulpritsRequest {});
    let group = culprits.groups.iter().find(|own| own.kind == "deleted_open").unwrap();
    assert!(group.waste_bytes >= 5 * MIB, "{group:?}");
    drop(file);
    let found = ask!(world, DiskDeletedOpen, v1::DiskDeletedOpenRequest { over_mib: 4 });
    assert!(found.files.iter().all(|own| own.path != HELD), "{found:?}");
}

#[tokio::test]
async fn a_container_log_is_emptied_while_it_is_written() {
    let (world, _litter) = (World::new().await, Litter::swept());
    let noise = "head -c 3000000 /dev/zero | tr '\\0' x | fold -w 100; sleep 600";
    docker(&["run", "-d", "--name", "vigie-noisy", "--entrypoint", "sh", "sylion-redis:7", "-c", noise]);
    let request = v1::ContainerLogTruncatePreviewRequest { over_mib: 1, container: "vigie-noisy".to_owned() };
    let act = || {
        let container = "vigie-noisy".to_owned();
        Ask::ContainerLogTruncate(v1::ContainerLogTruncateRequest { over_mib: 1, container })
    };
    let mut preview = v1::ContainerLogTruncatePreviewResult::default();
    for _ in 0..100 {
        preview = ask!(world, ContainerLogTruncatePreview, request.clone());
        if preview.bytes > 3 * MIB {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!((preview.logs.len(), preview.logs[0].container.as_str()), (1, "vigie-noisy"), "{preview:?}");
    let path = PathBuf::from(&preview.logs[0].path);

    // Without what was shown nothing goes, and a file that took the place of the shown one stays.
    assert_eq!(world.run(act()).await.unwrap_err().failure.code, "not_prepared");
    let before = preview.clone();
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    fs::copy(&aside, &path).unwrap();
    let refused = world.run_prepared(act(), Answer::ContainerLogTruncatePreview(before)).await.unwrap_err();
    assert_eq!(refused.failure.code, "nothing_freed");
    let Some(Answer::ContainerLogTruncate(partial)) = refused.partial.as_deref() else {
        panic!("{refused:?}")
    };
    assert!(partial.truncated.is_empty() && partial.left.len() == 1, "{partial:?}");
    assert!(fs::metadata(&path).unwrap().len() > 2 * MIB);
    fs::rename(&aside, &path).unwrap();

    let done = world.run_prepared(act(), Answer::ContainerLogTruncatePreview(preview)).await;
    let Ok(Answer::ContainerLogTruncate(done)) = done else { panic!("{done:?}") };
    assert!(done.freed_bytes > 2 * MIB && done.left.is_empty() && done.truncated.len() == 1, "{done:?}");
    assert!(fs::metadata(&path).unwrap().len() < MIB);
    assert_eq!(docker(&["inspect", "-f", "{{.State.Running}}", "vigie-noisy"]), "true");

    // It belongs to no stack: who may merely ask does not read it.
    let logs = |container: &str| {
        let container = container.to_owned();
        Ask::ContainerLogs(v1::ContainerLogsRequest { container, ..v1::ContainerLogsRequest::default() })
    };
    let refused = world.probe(logs("vigie-noisy")).await.unwrap_err();
    assert_eq!(refused.status, OutcomeStatus::Refused);
    assert!(refused.failure.code.starts_with("policy_"), "{refused:?}");
    assert!(world.run(logs("vigie-noisy")).await.is_ok(), "an order may");
    assert!(world.probe(logs("sylion-backend")).await.is_ok(), "a stack's own is read by name");
}

#[tokio::test]
async fn apts_archives_go_as_they_were_shown() {
    let world = World::new().await;
    let folder = Path::new("/var/cache/apt/archives");
    fs::create_dir_all(folder.join("partial")).unwrap();
    let (same, other) = (folder.join("vigie-same_1_all.deb"), folder.join("vigie-other_1_all.deb"));
    for path in [&same, &other] {
        fs::write(path, vec![1; 1 << 20]).unwrap();
    }
    let request = v1::AptCleanPreviewRequest { autoremove: false };
    let act = || Ask::AptClean(v1::AptCleanRequest { autoremove: false });
    let preview = ask!(world, AptCleanPreview, request);
    assert!(preview.present && preview.bytes >= 2 * MIB, "{preview:?}");
    replace(&other);
    let done = world.run_prepared(act(), Answer::AptCleanPreview(preview)).await;
    let Ok(Answer::AptClean(done)) = done else { panic!("{done:?}") };
    assert!(!same.exists() && other.exists(), "{done:?}");
    assert_eq!(done.left.iter().map(|own| Path::new(&own.name)).collect::<Vec<_>>(), [other.as_path()]);
    let preview = ask!(world, AptCleanPreview, request);
    let done = world.run_prepared(act(), Answer::AptCleanPreview(preview)).await;
    assert!(matches!(done, Ok(Answer::AptClean(done)) if done.left.is_empty() && done.files_deleted > 0));
    assert!(!other.exists());
}

#[tokio::test]
async fn archived_journals_go_as_they_were_shown() {
    let world = World::new().await;
    for _ in 0..3 {
        host("systemd-cat", &["echo", "vigie writes"]);
        host("journalctl", &["--rotate"]);
    }
    let request = v1::JournalVacuumPreviewRequest { keep_days: 0, keep_mib: 1 };
    let preview = ask!(world, JournalVacuumPreview, request);
    assert!(preview.present && preview.files.len() >= 2, "{preview:?}");
    let paths: Vec<PathBuf> = preview.files.iter().map(|file| PathBuf::from(&file.path)).collect();
    replace(&paths[0]);
    let act = Ask::JournalVacuum(v1::JournalVacuumRequest { keep_days: 0, keep_mib: 1 });
    assert_eq!(world.run(act.clone()).await.unwrap_err().failure.code, "not_prepared");
    let done = world.run_prepared(act, Answer::JournalVacuumPreview(preview.clone())).await;
    let Ok(Answer::JournalVacuum(done)) = done else { panic!("{done:?}") };
    assert_eq!((done.deleted.len(), done.left.len()), (preview.files.len() - 1, 1), "{done:?}");
    assert!(paths[0].exists() && paths[1..].iter().all(|path| !path.exists()));
    assert!(done.journal_bytes < preview.journal_bytes && done.freed_bytes > 0, "{done:?}");
    fs::remove_file(&paths[0]).unwrap();
    // The journal goes on, and units have lines in it again.
    host("systemctl", &["reload", "nginx"]);
}

/// Makes what nobody owns: an image without a name that holds something, with the container it came from, and build
/// cache of a step that names a secret of the stack.
fn abandon(secret: &str) -> String {
    let fill = "head -c 3000000 /dev/urandom >/litter";
    docker(&["run", "--name", "vigie-old", "--entrypoint", "sh", "sylion-redis:7", "-c", fill]);
    let image = docker(&["commit", "vigie-old", "vigie-image:1"]);
    docker(&["commit", "-m", "another", "vigie-old", "vigie-image:1"]);
    docker(&["rmi", "vigie-image:1"]);
    let context = tempfile::tempdir().unwrap();
    let file = format!(
        "FROM sylion-redis:7\nRUN echo '{secret}' | head -c 0; head -c 2000000 /dev/urandom >/built\n"
    );
    fs::write(context.path().join("Dockerfile"), file).unwrap();
    docker(&["build", "-q", "-t", "vigie-built", context.path().to_str().unwrap()]);
    docker(&["rmi", "vigie-built"]);
    image
}

/// Makes a container look old, which only its engine's own notes can say.
fn age(container: &str) {
    let id = docker(&["inspect", "-f", "{{.Id}}", container]);
    let notes = Path::new("/var/lib/docker/containers").join(&id).join("config.v2.json");
    host("systemctl", &["stop", "docker.socket", "docker.service"]);
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&notes).unwrap()).unwrap();
    saved["Created"] = "2026-01-01T00:00:00Z".into();
    fs::write(&notes, saved.to_string()).unwrap();
    host("systemctl", &["start", "docker.service"]);
}

#[tokio::test]
async fn a_prune_takes_what_nobody_owns_while_the_stack_is_down() {
    let state = tempfile::tempdir().unwrap();
    let (world, _litter) = (World::remembering(state.path()).await, Litter::swept());
    world.healthy().await;
    let stack = world.host.stacks().resolve("").await.unwrap();
    let secret = stack.variable(&["POSTGRES_PASSWORD"]).unwrap().value.as_str().replace('\'', "");
    ask!(world, ComposeDown, v1::ComposeDownRequest::default());
    let image = abandon(&secret);
    let recent = ask!(world, DockerPrunePreview, ALL);
    assert_eq!(kept(&recent.kept, "vigie-old"), "recent", "{recent:?}");
    age("vigie-old");
    docker(&["network", "create", "vigie-network"]);
    docker(&["volume", "create", "vigie-lost"]);
    let anonymous = docker(&["volume", "create"]);

    let preview = ask!(world, DockerPrunePreview, ALL);
    for kind in ["container", "image", "build_cache", "network"] {
        let goes = names(&preview.objects, kind);
        assert!(!goes.is_empty(), "no {kind} goes: {preview:?}");
        assert!(goes.iter().all(|name| !name.contains("sylion")), "{kind}: {goes:?}");
    }
    assert_eq!(names(&preview.objects, "container"), ["vigie-old"]);
    assert_eq!(names(&preview.objects, "network"), ["vigie-network"]);
    assert!(preview.objects.iter().any(|own| own.id == image), "{preview:?}");
    assert_eq!(kept(&preview.kept, "sylion-postgres:15"), "stack", "{preview:?}");
    assert!(preview.objects.iter().all(|own| !own.name.contains(&secret)), "a build's step leaves redacted");

    // What has got a name or a user since is somebody's.
    docker(&["tag", &image, "vigie-image:kept"]);
    let lease = ["create", "--name", "vigie-user", "--network", "vigie-network", "sylion-redis:7"];
    docker(&lease);
    let done = world.run_prepared(Ask::DockerPrune(ALL_GO), Answer::DockerPrunePreview(preview)).await;
    let Ok(Answer::DockerPrune(done)) = done else { panic!("{done:?}") };
    assert_eq!(names(&done.removed, "container"), ["vigie-old"], "{done:?}");
    assert!(!names(&done.removed, "build_cache").is_empty() && done.freed_bytes > 0, "{done:?}");
    let left: Vec<_> = done.left.iter().map(|own| own.name.as_str()).collect();
    assert!(left.contains(&"image <none>") && left.contains(&"network vigie-network"), "{done:?}");
    docker(&["image", "inspect", &image]);
    docker(&["rm", "vigie-user"]);
    docker(&["rmi", "vigie-image:kept"]);

    volumes(&world, &anonymous).await;

    let up = ask!(world, ComposeUp, v1::ComposeUpRequest::default());
    assert_eq!(up.exit_code, 0, "{up:?}");
    docker(&["network", "rm", "vigie-network"]);
    world.healthy().await;
}

/// The same for volumes: one with a name goes when it is named, the stack's stay.
async fn volumes(world: &World, anonymous: &str) {
    let ask = |volumes: &[&str]| v1::DockerVolumePrunePreviewRequest {
        volumes: volumes.iter().map(|name| (*name).to_owned()).collect(),
    };
    let preview = ask!(world, DockerVolumePrunePreview, ask(&[]));
    assert!(names(&preview.objects, "volume").contains(&anonymous.to_owned()), "{preview:?}");
    for (name, why) in
        [("vigie-lost", "named"), ("sylion-postgres-data", "stack"), ("sylion-redis-data", "stack")]
    {
        assert_eq!(kept(&preview.kept, name), why, "{preview:?}");
        assert!(!names(&preview.objects, "volume").contains(&name.to_owned()), "{preview:?}");
    }
    let preview = ask!(world, DockerVolumePrunePreview, ask(&["vigie-lost", "sylion-postgres-data"]));
    assert_eq!(names(&preview.objects, "volume"), ["vigie-lost"], "{preview:?}");
    let act = || {
        let volumes = ["vigie-lost", "sylion-postgres-data"].map(str::to_owned).to_vec();
        Ask::DockerVolumePrune(v1::DockerVolumePruneRequest { volumes })
    };
    docker(&["create", "--name", "vigie-user", "-v", "vigie-lost:/x", "sylion-redis:7"]);
    let prepared = Answer::DockerVolumePrunePreview(preview);
    let refused = world.run_prepared(act(), prepared.clone()).await.unwrap_err();
    assert_eq!(refused.failure.code, "nothing_freed");
    docker(&["rm", "vigie-user"]);
    let done = world.run_prepared(act(), prepared).await;
    let Ok(Answer::DockerVolumePrune(done)) = done else { panic!("{done:?}") };
    assert_eq!(names(&done.removed, "volume"), ["vigie-lost"], "{done:?}");
    for name in ["sylion-postgres-data", "sylion-redis-data"] {
        docker(&["volume", "inspect", name]);
    }
    let request = v1::DockerVolumePruneRequest::default();
    let preview = ask!(world, DockerVolumePrunePreview, ask(&[]));
    let done =
        world.run_prepared(Ask::DockerVolumePrune(request), Answer::DockerVolumePrunePreview(preview)).await;
    assert!(matches!(done, Ok(Answer::DockerVolumePrune(done)) if done.left.is_empty()));
    assert!(
        Command::new("docker")
            .args(["volume", "inspect", anonymous])
            .output()
            .is_ok_and(|ran| !ran.status.success())
    );
}
