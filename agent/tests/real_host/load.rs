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
