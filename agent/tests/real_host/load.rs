//! What the host's own processes use, and putting jobs off, on real systemd and cron.

use std::{fs, process::Command};

use vigie_proto::v1::{self, request::Operation as Ask, result::Operation as Answer};

use crate::World;

macro_rules! ask {
    ($world:expr, $variant:ident, $request:expr) => {
        match $world.run(Ask::$variant($request)).await {
            Ok(Answer::$variant(found)) => found,
            other => panic!("{other:?}"),
        }
    };
}

fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn whoever_is_busy_is_named_by_unit() {
    let world = World::new().await;
    let spins = "while :; do :; done & while :; do :; done & wait";
    let started = Command::new("systemd-run")
        .args(["--quiet", "--collect", "--unit=vigie-test-spin", "bash", "-c", spins])
        .status()
        .unwrap();
    assert!(started.success());
    let found = ask!(world, HostProcesses, v1::HostProcessesRequest { interval_ms: 1500, count: 5 });
    systemctl(&["stop", "vigie-test-spin.service"]);
    let spinning = found.owners.iter().find(|owner| owner.name == "vigie-test-spin.service").unwrap();
    assert!(spinning.kind == "unit" && spinning.demand > 1.5, "{spinning:?}");
    assert_eq!(found.owners[0].name, spinning.name, "it wants most");
    let backend = found.owners.iter().find(|owner| owner.service == "backend").unwrap();
    assert!(backend.kind == "container" && backend.stack == "sylion" && backend.demand < 1.0, "{backend:?}");
}

#[tokio::test]
async fn disks_containers_sockets_and_changes_are_told() {
    let world = World::new().await;
    world.healthy().await;
    let disks = ask!(world, DiskIo, v1::DiskIoRequest { interval_ms: 500 });
    assert!(!disks.disks.is_empty(), "{disks:?}");
    let stats = ask!(world, ContainerStats, v1::ContainerStatsRequest::default());
    assert_eq!((stats.containers.len(), stats.unknown.len()), (3, 0), "{stats:?}");
    assert!(stats.containers.iter().all(|used| used.memory_bytes > 0 && used.pids > 0), "{stats:?}");
    let sockets = ask!(world, SocketSummary, v1::SocketSummaryRequest { interval_ms: 200 });
    assert!(sockets.ports.iter().any(|port| port.port == 443 && port.process == "nginx"), "{sockets:?}");
    let changes =
        ask!(world, HostChanges, v1::HostChangesRequest { since_s: 31_000_000, ..Default::default() });
    assert!(changes.changes.iter().any(|change| change.kind == "reboot"), "{changes:?}");
    assert!(changes.changes.iter().any(|change| change.service == "backend"), "{changes:?}");
    assert!(changes.changes.is_sorted_by(|a, b| a.at_ms >= b.at_ms), "{changes:?}");
    assert!(changes.unread.is_empty(), "{changes:?}");
}

const ENV: &str = "/srv/sylion/.env.prod";

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn an_env_edit_and_a_redeploy_are_told_by_name_and_never_by_value() {
    let world = World::new().await;
    world.healthy().await;
    let lately = || v1::HostChangesRequest { stack: "sylion".to_owned(), since_s: 600, count: 0 };
    // The first look finds nothing changed: it is what later ones compare with.
    ask!(world, HostChanges, lately());
    let (before, values) = (fs::read_to_string(ENV).unwrap(), ["planted-hunter2-1", "planted-hunter2-2"]);
    fs::write(ENV, format!("{before}\nPLANTED_TOKEN={}\n", values[0])).unwrap();
    let added = ask!(world, HostChanges, lately());
    fs::write(ENV, format!("{before}\nPLANTED_TOKEN={}\n", values[1])).unwrap();
    let services = vec!["backend".to_owned()];
    let up = v1::ComposeUpRequest { stack: String::new(), services: services.clone(), build: false };
    let up = ask!(world, ComposeUp, up);
    let changed = ask!(world, HostChanges, lately());
    // The host is as it was before anything is insisted on.
    fs::write(ENV, &before).unwrap();
    let back = v1::ComposeUpRequest { stack: String::new(), services, build: false };
    ask!(world, ComposeUp, back);
    world.healthy().await;

    assert!(up.changes.iter().any(|own| own.service == "backend" && own.change != "none"), "{up:?}");
    let env = |found: &v1::HostChangesResult| {
        found.changes.iter().find(|change| change.kind == "env" && change.what == ENV).cloned().unwrap()
    };
    assert_eq!(env(&added).added, ["PLANTED_TOKEN"]);
    let newest = env(&changed);
    assert_eq!(
        (newest.changed.as_slice(), newest.says.as_str()),
        (&["PLANTED_TOKEN".to_owned()][..], "changed PLANTED_TOKEN")
    );
    assert_eq!(newest.stack, "sylion");
    let deployed =
        changed.changes.iter().find(|change| change.kind == "deployment" && change.service == "backend");
    // The engine tells whole seconds.
    let edited = env(&added).at_ms / 1000 * 1000;
    assert!(deployed.is_some_and(|change| change.at_ms >= edited), "{changed:?}");
    let told = format!("{added:?}{changed:?}");
    assert!(!values.iter().any(|value| told.contains(value)), "{told}");
}

#[tokio::test]
async fn a_tag_that_moves_without_a_deployment_is_told() {
    let world = World::new().await;
    world.healthy().await;
    let lately = || v1::HostChangesRequest { since_s: 600, ..Default::default() };
    ask!(world, HostChanges, lately());
    let image = docker(&["inspect", "--format", "{{.Config.Image}}", "sylion-backend"]);
    let own = docker(&["image", "inspect", "--format", "{{.Id}}", &image]);
    let other = docker(&["inspect", "--format", "{{.Image}}", "sylion-redis"]);
    docker(&["tag", &other, &image]);
    let moved = ask!(world, HostChanges, lately());
    docker(&["tag", &own, &image]);
    let told = moved.changes.iter().find(|change| change.kind == "image" && change.what == image);
    let told = told.unwrap_or_else(|| panic!("{moved:?}"));
    assert_eq!(
        (told.before.as_str(), told.after.as_str(), told.service.as_str()),
        (own.as_str(), other.as_str(), "backend")
    );
    assert!(!moved.changes.iter().any(|change| change.kind == "deployment"
        && change.service == "backend"
        && change.at_ms >= told.at_ms));
}

#[tokio::test]
async fn jobs_are_put_off_and_come_back() {
    let world = World::new().await;
    let entry = "/etc/cron.d/vigie-test:1";
    fs::write("/etc/cron.d/vigie-test", "0 4 * * * root /bin/true\n").unwrap();
    for job in ["logrotate.timer", entry] {
        let request = v1::JobDeferRequest { job: job.to_owned(), minutes: 5, stop_running: false };
        let done = ask!(world, JobDefer, request.clone());
        assert!(done.after.unwrap().deferred, "{job}");
        assert_eq!(systemctl(&["is-active", &done.restored_by]), "active");
        let again = world.run(Ask::JobDefer(request)).await;
        assert_eq!(again.unwrap_err().failure.code, "job_deferred");
        if job == entry {
            assert!(fs::read_to_string("/etc/cron.d/vigie-test").unwrap().starts_with('#'));
        } else {
            assert_eq!(systemctl(&["is-active", job]), "inactive");
        }
        let back = ask!(world, JobResume, v1::JobResumeRequest { job: job.to_owned() });
        assert!(!back.after.unwrap().deferred, "{job}");
        assert_ne!(systemctl(&["is-active", &done.restored_by]), "active");
    }
    assert_eq!(systemctl(&["is-active", "logrotate.timer"]), "active");
    assert_eq!(fs::read_to_string("/etc/cron.d/vigie-test").unwrap(), "0 4 * * * root /bin/true\n");
    fs::remove_file("/etc/cron.d/vigie-test").unwrap();
    let unknown = v1::JobDeferRequest { job: "absent.timer".to_owned(), ..Default::default() };
    assert_eq!(world.run(Ask::JobDefer(unknown)).await.unwrap_err().failure.code, "job_unknown");
}
