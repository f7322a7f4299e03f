//! Every operation on a real host of the test world, healthy: the `sylion` stack behind nginx under systemd.
//!
//! `tests/run world` builds it, copies it into a host and runs it there, as its root. What `absent` holds is for hosts
//! that lack everything, and is run in plain containers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test"
)]

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigie_agent::{
    config::Settings,
    host::{Host, child::OutputSink, docker, stacks::Stacks},
    operations::{self, Context, Fault},
};
use vigie_proto::v1::{
    self, HttpTarget, OutputSource, request::Operation as Ask, result::Operation as Answer,
};

#[path = "real_host/absent.rs"]
mod absent;
#[path = "real_host/load.rs"]
mod load;
#[path = "real_host/network.rs"]
mod network;
#[path = "real_host/postgres.rs"]
mod postgres;
#[path = "real_host/redis.rs"]
mod redis;

/// Collects what an operation says while it runs.
#[derive(Default)]
struct Watched(Mutex<Vec<u8>>);

impl OutputSink for Watched {
    fn write(&self, _: OutputSource, data: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(data);
    }
}

struct World {
    host: Arc<Host>,
    watched: Arc<Watched>,
}

impl World {
    /// An agent that has never seen this host.
    async fn new() -> Self {
        Self::remembering(tempfile::tempdir().unwrap().path()).await
    }

    /// An agent with what an earlier one remembers.
    async fn remembering(state: &Path) -> Self {
        Self::told(state, Settings::default()).await
    }

    /// The same with settings.
    async fn told(state: &Path, settings: Settings) -> Self {
        let engine = docker::Engine::new(docker::SOCKET);
        let stacks = Stacks::open(state, engine.clone(), settings.stacks.clone());
        let host = Host::new(settings, engine, stacks);
        let begun = Instant::now();
        host.stacks().refresh().await;
        eprintln!("{:>8.1} ms  first refresh", begun.elapsed().as_secs_f64() * 1e3);
        Self { host: Arc::new(host), watched: Arc::default() }
    }

    /// Waits until Docker calls the backend healthy: another test may have restarted it.
    async fn healthy(&self) {
        let request = v1::ContainerInspectRequest { service: "backend".to_owned(), ..Default::default() };
        let mut interval = tokio::time::interval(Duration::from_millis(250));
        for _ in 0..240 {
            interval.tick().await;
            let answer = self.run(Ask::ContainerInspect(request.clone())).await;
            if matches!(answer, Ok(Answer::ContainerInspect(found)) if found.health == "healthy") {
                return;
            }
        }
        panic!("the backend does not become healthy");
    }

    async fn run(&self, ask: Ask) -> Result<Answer, Fault> {
        self.run_until(ask, Duration::from_secs(120)).await
    }

    async fn run_until(&self, ask: Ask, limit: Duration) -> Result<Answer, Fault> {
        self.run_with(ask, limit, None, true).await
    }

    /// Runs a probe that nobody signed for.
    async fn probe(&self, ask: Ask) -> Result<Answer, Fault> {
        self.run_with(ask, Duration::from_secs(60), None, false).await
    }

    /// Runs what loses something, for exactly what its preview found.
    async fn run_prepared(&self, ask: Ask, prepared: Answer) -> Result<Answer, Fault> {
        self.run_with(ask, Duration::from_secs(120), Some(prepared), true).await
    }

    async fn run_with(
        &self,
        ask: Ask,
        limit: Duration,
        prepared: Option<Answer>,
        ordered: bool,
    ) -> Result<Answer, Fault> {
        let context = Context {
            host: Arc::clone(&self.host),
            deadline: Instant::now() + limit,
            output: self.watched.clone(),
            ordered,
            order: None,
            prepared,
            keeping: None,
            stop: CancellationToken::new(),
        };
        let (name, begun) = (ask.name(), Instant::now());
        // A test holds the states of all that it asks, which are large in a debug build.
        let answer = Box::pin(operations::run(ask, &context)).await;
        eprintln!("{:>8.1} ms  {name}", begun.elapsed().as_secs_f64() * 1e3);
        answer
    }
}

macro_rules! ask {
    ($world:expr, $variant:ident, $request:expr) => {
        match $world.run(Ask::$variant($request)).await {
            Ok(Answer::$variant(found)) => found,
            other => panic!("{other:?}"),
        }
    };
}

// Below the macro, which it uses.
#[path = "real_host/backup.rs"]
mod backup;
#[path = "real_host/disk.rs"]
mod disk;

#[tokio::test]
async fn every_probe_on_a_healthy_host() {
    let world = World::new().await;
    world.healthy().await;
    let stacks = world.host.stacks().snapshot();
    assert_eq!(stacks.len(), 1, "{stacks:?}");
    let stack = &stacks[0];
    assert_eq!((stack.name.as_str(), stack.directory.as_str()), ("sylion", "/srv/sylion"));
    assert_eq!(
        (stack.compose_env_established, stack.compose_env.as_slice()),
        (true, &["ENV_FILE".to_owned()][..])
    );
    assert_eq!(stack.backend_address, "127.0.0.1:8000");
    assert_eq!((stack.server_name.as_str(), stack.health_path.as_str()), ("api.sylion.tech", "/health"));
    assert_eq!(
        stack.services.iter().map(|own| own.service.as_str()).collect::<Vec<_>>(),
        ["backend", "postgres", "redis"]
    );

    let facts = ask!(world, HostFacts, v1::HostFactsRequest {});
    assert!(facts.systemd && facts.privileged && facts.cpus > 0 && facts.memory_bytes > 0, "{facts:?}");
    assert!(facts.system.starts_with("Debian") && !facts.docker_version.is_empty(), "{facts:?}");
    assert!(facts.compose_version.starts_with('2'), "{facts:?}");
    let load = ask!(world, HostLoad, v1::HostLoadRequest::default());
    assert!(
        load.memory_available_bytes > 0 && load.memory_available_bytes < load.memory_total_bytes,
        "{load:?}"
    );

    // Whatever was vacuumed from the journal before, this leaves a line.
    ask!(world, UnitReload, v1::UnitReloadRequest { unit: "nginx".to_owned() });
    let unit = ask!(world, UnitStatus, v1::UnitStatusRequest { unit: "nginx".to_owned(), journal_lines: 5 });
    assert_eq!(
        (unit.unit.as_str(), unit.load_state.as_str(), unit.active_state.as_str()),
        ("nginx.service", "loaded", "active")
    );
    assert!(unit.main_pid > 0 && unit.since_ms > 0 && !unit.journal.is_empty(), "{unit:?}");
    let absent = ask!(
        world,
        UnitStatus,
        v1::UnitStatusRequest { unit: "absent.service".to_owned(), journal_lines: 1 }
    );
    assert_eq!(absent.load_state, "not-found");

    let nginx = ask!(world, NginxTest, v1::NginxTestRequest {});
    assert!(nginx.ok && nginx.version.starts_with("1."), "{nginx:?}");
    let upstreams =
        ask!(world, NginxUpstreams, v1::NginxUpstreamsRequest { stack: "sylion".to_owned() }).upstreams;
    assert_eq!(upstreams.len(), 1, "{upstreams:?}");
    assert!(
        upstreams[0].listening && upstreams[0].local && upstreams[0].address == "127.0.0.1:8000",
        "{upstreams:?}"
    );

    let sockets = ask!(world, SocketList, v1::SocketListRequest { ports: vec![80, 443, 8000] }).sockets;
    let ports: Vec<_> = sockets.iter().map(|socket| (socket.port, socket.process.as_str())).collect();
    assert_eq!(ports, [(80, "nginx"), (443, "nginx"), (8000, "docker-proxy")]);

    let list = ask!(world, ContainerList, v1::ContainerListRequest { stack: String::new() });
    assert_eq!((list.containers.len(), list.missing.len()), (3, 0), "{list:?}");
    let backend = v1::ContainerInspectRequest { service: "backend".to_owned(), ..Default::default() };
    let backend = ask!(world, ContainerInspect, backend);
    assert!(backend.present && backend.state == "running" && backend.health == "healthy", "{backend:?}");
    assert!(
        backend.image_created_at_ms > 0
            && backend.started_at_ms > 0
            && !backend.health_output.contains("secret")
    );
    let logs = v1::ContainerLogsRequest { service: "backend".to_owned(), lines: 20, ..Default::default() };
    let logs = ask!(world, ContainerLogs, logs);
    assert!(
        logs.present
            && logs.container == "sylion-backend"
            && !logs.lines.is_empty()
            && logs.lines.len() <= 20
    );

    let ps = ask!(world, ComposePs, v1::ComposePsRequest::default());
    assert_eq!((ps.stack.as_str(), ps.services.len(), ps.missing.len()), ("sylion", 3, 0));
    let config = ask!(world, ComposeConfig, v1::ComposeConfigRequest::default());
    assert_eq!((config.services.len(), config.unset_variables.len()), (3, 0), "{config:?}");
    assert!(config.services[0].has_healthcheck && config.services[0].build_context == "/srv/sylion/backend");
    let again = Instant::now();
    ask!(world, ComposeConfig, v1::ComposeConfigRequest::default());
    assert!(again.elapsed() < Duration::from_millis(20), "unchanged files are not asked about again");
    let build = v1::ComposeBuildCheckRequest { stack: String::new(), service: "backend".to_owned() };
    let build = ask!(world, ComposeBuildCheck, build);
    assert!(
        build.buildable && !build.source_newer && !build.truncated && build.newest_source_at_ms > 0,
        "{build:?}"
    );
    let preview = ask!(world, ComposePreview, v1::ComposePreviewRequest::default());
    assert!(preview.predicted && preview.unset_variables.is_empty(), "{preview:?}");
    assert!(
        preview.changes.iter().all(|change| change.change == "none") && preview.changes.len() == 3,
        "{preview:?}"
    );
    assert!(preview.command.starts_with("ENV_FILE=.env.prod docker compose "), "{}", preview.command);

    for (target, port) in [(HttpTarget::Backend, 8000), (HttpTarget::Proxy, 443)] {
        let http =
            ask!(world, HttpCheck, v1::HttpCheckRequest { target: target.into(), ..Default::default() });
        assert_eq!(
            (http.status, http.port, http.stage.as_str(), http.failure.as_str()),
            (200, port, "response", ""),
            "{http:?}"
        );
        let connected =
            |name: &str| http.json.iter().any(|field| field.name == name && field.value == "true");
        assert!(connected("dbConnected") && connected("redisConnected"), "{http:?}");
    }
    let tail = v1::FileTailRequest { path: "/var/log/nginx/access.log".to_owned(), lines: 3 };
    let tail = ask!(world, FileTail, tail);
    assert!(tail.present && tail.size_bytes > 0 && (1..=3).contains(&tail.lines.len()), "{tail:?}");
    assert!(
        tail.lines.iter().any(|line| line.contains("\"vigie/")),
        "our own requests are the newest: {tail:?}"
    );
    let env = ask!(world, EnvCheck, v1::EnvCheckRequest::default());
    assert!(env.present && env.env_file == "/srv/sylion/.env.prod" && env.count > 8, "{env:?}");
    assert!(env.missing.is_empty() && env.removed.is_empty() && env.bad_lines.is_empty(), "{env:?}");
}

#[tokio::test]
async fn ten_probes_at_once_are_quick() {
    let world = World::new().await;
    let probes = || {
        vec![
            Ask::UnitStatus(v1::UnitStatusRequest { unit: "nginx.service".to_owned(), journal_lines: 10 }),
            Ask::NginxTest(v1::NginxTestRequest {}),
            Ask::NginxUpstreams(v1::NginxUpstreamsRequest::default()),
            Ask::SocketList(v1::SocketListRequest::default()),
            Ask::ContainerInspect(v1::ContainerInspectRequest {
                service: "backend".to_owned(),
                ..Default::default()
            }),
            Ask::ContainerLogs(v1::ContainerLogsRequest {
                service: "backend".to_owned(),
                ..Default::default()
            }),
            Ask::ComposePs(v1::ComposePsRequest::default()),
            Ask::ComposeConfig(v1::ComposeConfigRequest::default()),
            Ask::ComposeBuildCheck(v1::ComposeBuildCheckRequest {
                service: "backend".to_owned(),
                ..Default::default()
            }),
            Ask::HttpCheck(v1::HttpCheckRequest { target: HttpTarget::Backend.into(), ..Default::default() }),
            Ask::HttpCheck(v1::HttpCheckRequest { target: HttpTarget::Proxy.into(), ..Default::default() }),
            Ask::FileTail(v1::FileTailRequest { path: "/var/log/nginx/error.log".to_owned(), lines: 50 }),
            Ask::EnvCheck(v1::EnvCheckRequest::default()),
            Ask::HostLoad(v1::HostLoadRequest { brief: true, ..Default::default() }),
        ]
    };
    for round in 0..3 {
        let begun = Instant::now();
        let answers = futures_util::future::join_all(probes().into_iter().map(|ask| world.run(ask))).await;
        let took = begun.elapsed();
        eprintln!("{:>8.1} ms  all, round {round}", took.as_secs_f64() * 1e3);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn actions_leave_their_witness() {
    let world = World::new().await;
    let before =
        ask!(world, UnitStatus, v1::UnitStatusRequest { unit: "nginx.service".to_owned(), journal_lines: 1 });
    let restarted = ask!(world, UnitRestart, v1::UnitRestartRequest { unit: "nginx".to_owned() });
    let after = restarted.after.unwrap();
    assert!(after.active_state == "active" && after.main_pid != before.main_pid, "{after:?}");
    assert!(after.since_ms > before.since_ms, "{after:?} {before:?}");
    let absent =
        world.run(Ask::UnitRestart(v1::UnitRestartRequest { unit: "absent.service".to_owned() })).await;
    assert_eq!(absent.unwrap_err().failure.code, "unit_unusable");

    // A reload keeps the main process; what knows none says so, and what does not run has nothing to reload.
    let reload = |unit: &str| Ask::UnitReload(v1::UnitReloadRequest { unit: unit.to_owned() });
    let Ok(Answer::UnitReload(reloaded)) = world.run(reload("nginx")).await else { panic!("no reload") };
    let (before, after) = (reloaded.before.unwrap(), reloaded.after.unwrap());
    assert_eq!((after.active_state.as_str(), after.main_pid), ("active", before.main_pid));
    for (unit, code) in
        [("absent.service", "unit_unusable"), ("systemd-journald.service", "unit_cannot_reload")]
    {
        assert_eq!(world.run(reload(unit)).await.unwrap_err().failure.code, code, "{unit}");
    }
    let broken = Path::new("/etc/nginx/conf.d/vigie-test-reload.conf");
    std::fs::write(broken, "no such directive;\n").unwrap();
    let refused = world.run(reload("nginx.service")).await;
    std::fs::remove_file(broken).unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.status, v1::OutcomeStatus::Refused);
    assert!(refused.failure.message.contains("unknown directive"), "{}", refused.failure.message);

    let services = vec!["backend".to_owned()];
    let request = v1::ComposeRestartRequest { stack: "sylion".to_owned(), services: services.clone() };
    let restarted = ask!(world, ComposeRestart, request);
    assert_eq!((restarted.exit_code, restarted.restarts.len()), (0, 1));
    let witness = &restarted.restarts[0];
    assert_eq!((witness.service.as_str(), witness.container.as_str()), ("backend", "sylion-backend"));
    assert!(
        witness.started_before_ms > 0 && witness.started_after_ms > witness.started_before_ms,
        "{witness:?}"
    );
    assert!(
        String::from_utf8_lossy(&world.watched.0.lock().unwrap()).contains("sylion-backend"),
        "output is sent on"
    );

    // A container that is stopped is started.
    let stop = v1::ExecRequest {
        program: "docker".to_owned(),
        args: vec!["stop".to_owned(), "sylion-backend".to_owned()],
    };
    ask!(world, Exec, stop);
    let preview = ask!(world, ComposePreview, v1::ComposePreviewRequest::default());
    let backend = preview.changes.iter().find(|change| change.service == "backend").unwrap();
    assert_eq!((backend.change.as_str(), backend.reason.as_str()), ("start", "its container is exited"));
    let request = v1::ComposeRestartRequest { stack: String::new(), services: services.clone() };
    let witness = ask!(world, ComposeRestart, request).restarts.remove(0);
    assert!(witness.started_after_ms > witness.started_before_ms, "{witness:?}");

    // A container that is gone is created, and cannot be restarted before that.
    let remove = ["rm", "-f", "sylion-backend"].map(str::to_owned).to_vec();
    ask!(world, Exec, v1::ExecRequest { program: "docker".to_owned(), args: remove });
    let list = ask!(world, ContainerList, v1::ContainerListRequest { stack: "sylion".to_owned() });
    assert_eq!(list.missing, ["backend"]);
    let request = v1::ComposeRestartRequest { stack: String::new(), services: services.clone() };
    let refused = world.run(Ask::ComposeRestart(request)).await.unwrap_err();
    assert_eq!(refused.failure.code, "container_missing");
    let inspect = v1::ContainerInspectRequest { service: "backend".to_owned(), ..Default::default() };
    assert!(!ask!(world, ContainerInspect, inspect).present);
    let preview = ask!(
        world,
        ComposePreview,
        v1::ComposePreviewRequest { services: services.clone(), ..Default::default() }
    );
    let backend = preview.changes.iter().find(|change| change.service == "backend").unwrap();
    assert_eq!(backend.change, "create");
    let request = v1::ComposeUpRequest { stack: String::new(), services: services.clone(), build: false };
    let up = ask!(world, ComposeUp, request);
    assert_eq!(up.exit_code, 0, "{up:?}");
    assert!(up.changes.iter().any(|own| own.service == "backend" && own.change == "create"), "{up:?}");
    let nothing = ask!(world, ComposeUp, v1::ComposeUpRequest::default());
    assert!(nothing.changes.iter().all(|own| own.change == "none"), "{nothing:?}");

    let rebuild = v1::ComposeUpRequest { stack: String::new(), services, build: true };
    let up = ask!(world, ComposeUp, rebuild);
    assert_eq!(up.exit_code, 0, "{up:?}");
    assert!(!up.output.is_empty());
}

#[tokio::test]
async fn programs_are_run_as_they_are_given() {
    let world = World::new().await;
    let exec = |program: &str, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Ask::Exec(v1::ExecRequest { program: program.to_owned(), args })
    };
    let Ok(Answer::Exec(said)) = world.run(exec("echo", &["$HOME; id"])).await else { panic!() };
    assert_eq!((said.program.as_str(), said.stdout.unwrap().text.as_str()), ("/usr/bin/echo", "$HOME; id\n"));
    let failed = world.run(exec("false", &[])).await.unwrap_err();
    assert_eq!(failed.failure.code, "exit_status");
    assert!(matches!(failed.partial.as_deref(), Some(Answer::Exec(v1::ExecResult { exit_code: 1, .. }))));
    let late = world.run_until(exec("sleep", &["60"]), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(late.failure.code, "timed_out");
    assert_eq!(
        world.run(exec("no-such-program", &[])).await.unwrap_err().failure.code,
        "program_unavailable"
    );
    // A password of the stack does not leave the host, in whatever it is said.
    let cat = world.run(exec("cat", &["/srv/sylion/.env.prod"])).await;
    let Ok(Answer::Exec(said)) = cat else { panic!() };
    let (file, shown) =
        (std::fs::read_to_string("/srv/sylion/.env.prod").unwrap(), said.stdout.unwrap().text);
    let secret = file.lines().find_map(|line| line.strip_prefix("POSTGRES_PASSWORD=")).unwrap();
    assert!(shown.contains("POSTGRES_PASSWORD=") && !shown.contains(secret));
}
