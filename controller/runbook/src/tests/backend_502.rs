//! The shipped runbook for incident 2: every fault has exactly one root cause, and a healthy host none.

use vigie_proto::v1::{
    self, ComposeBuildCheckResult, ComposeConfigResult, ComposePsResult, ComposeRollbackPreviewResult,
    ComposeService, Container, ContainerInspectResult, ContainerLogsResult, EnvCheckResult, Failure,
    FileTailResult, FindingState, HostLoadResult, HttpCheckResult, JsonField, ListeningSocket, LogLine,
    NginxTestResult, NginxUpstream, NginxUpstreamsResult, Outcome, OutcomeStatus, PublishedPort,
    SocketListResult, StackLogsResult, UnitStatusResult, request, result::Operation,
};

use crate::{Bound, Evidence, Judgement, Runbook, Subject, lint, shipped};

const NOW_MS: i64 = 1_765_600_000_000;
const STARTING: &str = r#"{"level": "info", "time": "2025-12-13T04:00:00.000Z", "service": "sylion-backend", "msg": "Starting sylion-backend v1.4.2", "env": "production"}"#;
const MISSING: &str = r#"{"level": "fatal", "time": "2025-12-13T04:00:00.100Z", "service": "sylion-backend", "msg": "Error: Missing required environment variable: JWT_SECRET"}"#;

fn bound() -> Bound {
    let (id, text) = shipped().iter().find(|(id, _)| *id == "backend-502").unwrap();
    Runbook::parse(text, id).unwrap_or_else(|found| panic!("{found}")).bind(&[]).unwrap()
}

fn subject() -> Subject<'static> {
    Subject { host: "vps1", stack: "sylion", now_ms: NOW_MS }
}

/// What a host answers; each fault changes some of it.
#[derive(Clone)]
struct Answers {
    backend: ContainerInspectResult,
    logs: Vec<&'static str>,
    sockets: Vec<u32>,
    backend_http: HttpCheckResult,
    proxy: HttpCheckResult,
    postgres: ContainerInspectResult,
    redis: ContainerInspectResult,
    compose_ports: Vec<PublishedPort>,
    build: ComposeBuildCheckResult,
    env: EnvCheckResult,
    nginx: UnitStatusResult,
    nginx_config: NginxTestResult,
    upstream: NginxUpstream,
    nginx_log: Vec<&'static str>,
    oom_kills: u64,
}

fn inspect(service: &str) -> ContainerInspectResult {
    ContainerInspectResult {
        present: true,
        name: format!("sylion-{service}"),
        stack: "sylion".to_owned(),
        service: service.to_owned(),
        state: "running".to_owned(),
        health: "healthy".to_owned(),
        uptime_s: 86_400,
        restart_policy: "unless-stopped".to_owned(),
        started_at_ms: NOW_MS - 86_400_000,
        ..ContainerInspectResult::default()
    }
}

fn port(host_port: u32) -> PublishedPort {
    PublishedPort {
        host_address: "127.0.0.1".to_owned(),
        host_port,
        container_port: 8000,
        protocol: "tcp".to_owned(),
    }
}

fn http(status: u32, failure: &str) -> HttpCheckResult {
    let health = |name: &str, value: &str| JsonField { name: name.to_owned(), value: value.to_owned() };
    let json = if status == 200 {
        vec![health("dbConnected", "true"), health("redisConnected", "true")]
    } else {
        Vec::new()
    };
    HttpCheckResult {
        url: "http://127.0.0.1:8000/health".to_owned(),
        stage: if status > 0 { "response" } else { "connect" }.to_owned(),
        failure: failure.to_owned(),
        status,
        json,
        total_ms: if failure == "timeout" { 6_000 } else { 12 },
        port: 8000,
        ..HttpCheckResult::default()
    }
}

fn proxied(status: u32) -> HttpCheckResult {
    HttpCheckResult {
        url: "https://127.0.0.1/health".to_owned(),
        host: "api.sylion.tech".to_owned(),
        ..http(status, if status == 0 { "refused" } else { "" })
    }
}

fn healthy() -> Answers {
    Answers {
        backend: ContainerInspectResult { ports: vec![port(8000)], ..inspect("backend") },
        logs: vec![STARTING],
        sockets: vec![8000],
        backend_http: http(200, ""),
        proxy: proxied(200),
        postgres: inspect("postgres"),
        redis: inspect("redis"),
        compose_ports: vec![port(8000)],
        build: ComposeBuildCheckResult {
            buildable: true,
            context: "/srv/sylion/backend".to_owned(),
            newest_source: "server.py".to_owned(),
            ..ComposeBuildCheckResult::default()
        },
        env: EnvCheckResult {
            env_file: "/srv/sylion/.env.prod".to_owned(),
            present: true,
            count: 12,
            ..EnvCheckResult::default()
        },
        nginx: UnitStatusResult {
            unit: "nginx.service".to_owned(),
            active_state: "active".to_owned(),
            result: "success".to_owned(),
            ..UnitStatusResult::default()
        },
        nginx_config: NginxTestResult { ok: true, ..NginxTestResult::default() },
        upstream: NginxUpstream {
            server_names: vec!["api.sylion.tech".to_owned()],
            location: "/".to_owned(),
            pass: "http://127.0.0.1:8000".to_owned(),
            address: "127.0.0.1:8000".to_owned(),
            port: 8000,
            listening: true,
            local: true,
            file: "/etc/nginx/sites-enabled/api.sylion.tech".to_owned(),
            line: 15,
            ..NginxUpstream::default()
        },
        nginx_log: Vec::new(),
        oom_kills: 0,
    }
}

/// Between two starts of a crash loop, with what everybody then sees from outside.
fn crashing(exit_code: i32, logs: Vec<&'static str>) -> Answers {
    let mut answers = healthy();
    answers.backend = ContainerInspectResult {
        state: "restarting".to_owned(),
        health: "unhealthy".to_owned(),
        exit_code,
        restart_count: 5,
        uptime_s: 0,
        finished_at_ms: NOW_MS - 2_000,
        ..answers.backend
    };
    answers.logs = logs;
    unreachable(answers)
}

fn unreachable(mut answers: Answers) -> Answers {
    answers.sockets = Vec::new();
    answers.backend_http = http(0, "refused");
    answers.proxy = proxied(502);
    answers.upstream.listening = false;
    answers.nginx_log = vec![
        "2025/12/13 04:00:01 [error] 71#71: *9 connect() failed (111: Connection refused) while connecting to upstream",
    ];
    answers
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn evidence(answers: &Answers) -> Evidence {
    let a = answers.clone();
    let containers = [&a.backend, &a.postgres, &a.redis].map(|inspected| Container {
        name: inspected.name.clone(),
        service: inspected.service.clone(),
        state: inspected.state.clone(),
        health: inspected.health.clone(),
        ..Container::default()
    });
    let missing = containers.iter().filter(|c| c.state == "missing").map(|c| c.service.clone()).collect();
    let compose =
        ComposeService { service: "backend".to_owned(), ports: a.compose_ports, ..ComposeService::default() };
    let sockets = a.sockets.iter().map(|port| ListeningSocket {
        address: "127.0.0.1".to_owned(),
        port: *port,
        pid: 4711,
        process: "docker-proxy".to_owned(),
    });
    let answers = [
        (
            "logs",
            Operation::ContainerLogs(ContainerLogsResult {
                present: a.backend.present,
                container: a.backend.name.clone(),
                lines: lines(&a.logs),
                truncated: false,
            }),
        ),
        ("backend", Operation::ContainerInspect(a.backend)),
        ("sockets", Operation::SocketList(SocketListResult { sockets: sockets.collect() })),
        (
            "nginx_log",
            Operation::FileTail(FileTailResult {
                present: true,
                lines: lines(&a.nginx_log),
                ..FileTailResult::default()
            }),
        ),
        ("backend_http", Operation::HttpCheck(a.backend_http)),
        ("proxy", Operation::HttpCheck(a.proxy)),
        (
            "services",
            Operation::ComposePs(ComposePsResult {
                stack: "sylion".to_owned(),
                directory: "/srv/sylion".to_owned(),
                services: containers.to_vec(),
                missing,
            }),
        ),
        (
            "compose",
            Operation::ComposeConfig(ComposeConfigResult {
                stack: "sylion".to_owned(),
                files: vec!["/srv/sylion/docker-compose.prod.yml".to_owned()],
                services: vec![compose],
                unset_variables: Vec::new(),
            }),
        ),
        ("build", Operation::ComposeBuildCheck(a.build)),
        ("env", Operation::EnvCheck(a.env)),
        ("postgres", Operation::ContainerInspect(a.postgres)),
        ("redis", Operation::ContainerInspect(a.redis)),
        ("nginx", Operation::UnitStatus(a.nginx)),
        ("nginx_config", Operation::NginxTest(a.nginx_config)),
        ("upstreams", Operation::NginxUpstreams(NginxUpstreamsResult { upstreams: vec![a.upstream] })),
        (
            "load",
            Operation::HostLoad(HostLoadResult {
                cpus: 2,
                oom_kills: a.oom_kills,
                ..HostLoadResult::default()
            }),
        ),
        ("rollback", Operation::ComposeRollbackPreview(ComposeRollbackPreviewResult::default())),
    ];
    answers.into_iter().map(|(id, result)| (id.to_owned(), Outcome::succeeded(result))).collect()
}

fn judge(answers: &Answers) -> Judgement {
    let judgement = bound().judge(&subject(), &evidence(answers));
    let unknown: Vec<_> = judgement.findings.iter().filter(|f| f.state() == FindingState::Unknown).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    judgement
}

/// The one root cause, and the remedies offered for it.
fn verdict(answers: &Answers) -> (v1::Finding, Vec<String>) {
    let judgement = judge(answers);
    assert_eq!(judgement.restore.answer, "never");
    let confirmed: Vec<_> =
        judgement.findings.iter().filter(|f| f.state() == FindingState::Confirmed).collect();
    let roots: Vec<_> = confirmed.iter().filter(|finding| finding.explained_by.is_empty()).collect();
    assert_eq!(roots.len(), 1, "{roots:#?}");
    let root = (**roots[0]).clone();
    assert!(!root.evidence.is_empty(), "{} names no evidence", root.id);
    assert!(root.advise.is_empty() != judgement.remedies.is_empty(), "{root:#?} {:?}", judgement.remedies);
    assert!(!root.says.contains('?') && !root.advise.contains('?'), "{root:#?}");
    (root, judgement.remedies)
}

/// The root cause's id with what it says and advises, for reading.
fn told(answers: &Answers) -> String {
    let (root, remedies) = verdict(answers);
    let offered =
        if remedies.is_empty() { root.advise } else { format!("remedies: {}", remedies.join(", ")) };
    format!("{}: {}\n{offered}", root.id, root.says)
}

#[test]
fn every_shipped_runbook_is_sound() {
    for (id, text) in shipped() {
        let found = lint(text, id);
        assert!(found.is_empty(), "{found}");
        assert_eq!(Runbook::parse(text, id).unwrap().id, *id);
    }
}

#[test]
fn a_healthy_host_has_no_finding() {
    let judgement = judge(&healthy());
    assert!(judgement.findings.iter().all(|finding| finding.state() == FindingState::RuledOut));
    assert!(judgement.remedies.is_empty());
    let showing = bound().symptoms(&subject(), &evidence(&healthy()));
    assert!(showing.iter().all(|symptom| symptom.shows == Some(false)), "{showing:?}");
}

#[test]
fn what_would_be_a_cause_is_none_while_the_backend_is_well() {
    let mut answers = healthy();
    answers.env.missing = lines(&["SENTRY_DSN"]);
    answers.build.source_newer = true;
    answers.logs = vec![MISSING, STARTING];
    answers.nginx_log = vec!["connect() failed (111: Connection refused)", "No space left on device"];
    answers.backend.restart_count = 7;
    answers.oom_kills = 3;
    let judgement = judge(&answers);
    let confirmed: Vec<_> =
        judgement.findings.iter().filter(|f| f.state() == FindingState::Confirmed).collect();
    assert!(confirmed.is_empty(), "{confirmed:#?}");
}

#[test]
fn a_backend_stopped_by_hand_is_restarted() {
    for exit_code in [0, 137, 143] {
        let mut answers = unreachable(healthy());
        answers.backend.state = "exited".to_owned();
        answers.backend.exit_code = exit_code;
        answers.backend.finished_at_ms = NOW_MS - 60_000;
        let (root, remedies) = verdict(&answers);
        assert_eq!((root.id.as_str(), remedies), ("backend_stopped", vec!["restart_backend".to_owned()]));
    }
}

#[test]
fn a_missing_container_is_brought_up() {
    let mut answers = unreachable(healthy());
    answers.backend = ContainerInspectResult {
        stack: "sylion".to_owned(),
        service: "backend".to_owned(),
        state: "missing".to_owned(),
        ..ContainerInspectResult::default()
    };
    answers.logs = Vec::new();
    insta::assert_snapshot!(told(&answers), @r##"
    container_missing: backend has no container: it was removed, by `compose down` or by hand
    remedies: up_backend
    "##);
}

#[test]
fn a_stack_that_is_down_is_brought_up_as_a_whole() {
    let mut answers = unreachable(healthy());
    for inspected in [&mut answers.backend, &mut answers.postgres, &mut answers.redis] {
        *inspected = ContainerInspectResult {
            stack: "sylion".to_owned(),
            service: inspected.service.clone(),
            state: "missing".to_owned(),
            ..ContainerInspectResult::default()
        };
    }
    answers.logs = Vec::new();
    insta::assert_snapshot!(told(&answers), @r##"
    stack_down: no service of sylion runs: backend is missing, postgres is missing, redis is missing
    remedies: up_stack
    "##);
}

#[test]
fn a_missing_variable_is_named_and_never_restarted_away() {
    let mut answers = crashing(1, vec![STARTING, MISSING, STARTING, MISSING]);
    answers.env.removed = lines(&["JWT_SECRET"]);
    insta::assert_snapshot!(told(&answers), @r##"
    missing_variable: the backend crash-loops: JWT_SECRET is missing in /srv/sylion/.env.prod (it was there before)
    add it to /srv/sylion/.env.prod, then `vigiectl do compose_up -H vps1 --stack sylion --services backend`: a restart would not read the file again
    "##);
    // The agent never saw the variable: the log alone tells.
    answers.env.removed = Vec::new();
    assert_eq!(verdict(&answers).0.id, "missing_variable");
    // The log says nothing: the file alone tells.
    let mut answers = crashing(1, vec![STARTING]);
    answers.env.empty = lines(&["DATABASE_URL"]);
    let (root, _) = verdict(&answers);
    assert_eq!(root.id, "missing_variable");
    assert!(root.says.contains("DATABASE_URL is missing in /srv/sylion/.env.prod"), "{}", root.says);
    // Caught in the short life after a start.
    let mut answers = crashing(0, vec![STARTING, MISSING, STARTING]);
    answers.backend.state = "running".to_owned();
    answers.backend.health = "starting".to_owned();
    assert_eq!(verdict(&answers).0.id, "missing_variable");
}

#[test]
fn another_error_in_the_log_is_no_missing_variable() {
    let refused =
        r#"{"level": "fatal", "msg": "Error: password authentication failed for user \"sylion_user\""}"#;
    let mut answers = crashing(1, vec![STARTING, refused]);
    answers.env.missing = lines(&["SENTRY_DSN"]);
    insta::assert_snapshot!(told(&answers), @r##"
    config_error: the backend crash-loops over its configuration: Error: password authentication failed for user \"sylion_user\"
    correct the value in /srv/sylion/.env.prod, then `vigiectl do compose_up -H vps1 --stack sylion --services backend`: a restart would not read the file again. A password that was changed in PostgreSQL or Redis has to be changed there, or here, to be the same
    "##);
}

#[test]
fn a_broken_image_is_rebuilt_when_its_source_is_newer() {
    let traceback = vec![
        "  File \"/app/server.py\", line 201",
        "    def main(:",
        "             ^",
        "SyntaxError: invalid syntax",
    ];
    let mut answers = crashing(1, traceback);
    answers.build.source_newer = true;
    insta::assert_snapshot!(told(&answers), @r##"
    image_outdated: the backend crash-loops, and its image is older than its source (server.py): SyntaxError: invalid syntax
    remedies: rebuild_backend
    "##);
    answers.build.source_newer = false;
    insta::assert_snapshot!(told(&answers), @r##"
    image_defective: the backend crash-loops over its own code: SyntaxError: invalid syntax
    the source is no newer than the image, so that a rebuild would make the same one: correct the source in /srv/sylion/backend, then `vigiectl do compose_up -H vps1 --stack sylion --services backend --build`
    "##);
}

#[test]
fn an_unknown_crash_is_called_one() {
    insta::assert_snapshot!(told(&crashing(3, vec![STARTING, "thread 'main' overflowed its patience"])), @r##"
    crash_loop: sylion-backend dies again and again (5 restarts, exit code 3): thread 'main' overflowed its patience
    read what it says before it dies: `vigiectl probe container_logs -H vps1 --service backend --lines 50`. A restart cannot help: it restarts already
    "##);
    // Without a restart policy it stays where it fell.
    let mut answers = crashing(3, vec![STARTING]);
    answers.backend.state = "exited".to_owned();
    answers.backend.restart_count = 0;
    assert_eq!(verdict(&answers).0.id, "crash_loop");
}

#[test]
fn a_memory_limit_that_kills_is_named() {
    let mut answers = crashing(137, vec![STARTING]);
    answers.backend.memory_limit_bytes = 40 << 20;
    answers.backend.oom_killed = true;
    answers.oom_kills = 5;
    insta::assert_snapshot!(told(&answers), @r##"
    out_of_memory: the kernel kills sylion-backend at its memory limit of 40 MiB (5 restarts)
    raise or remove `mem_limit` of backend in /srv/sylion/docker-compose.prod.yml, then `vigiectl do compose_up -H vps1 --stack sylion --services backend`: a restart would keep the limit
    "##);
    answers.backend.oom_killed = false;
    assert_eq!(verdict(&answers).0.id, "out_of_memory");
    // Caught in the short life after a start, where Docker has forgotten how the last one ended.
    answers.backend.state = "running".to_owned();
    answers.backend.health = "starting".to_owned();
    answers.backend.exit_code = 0;
    assert_eq!(verdict(&answers).0.id, "out_of_memory");
}

#[test]
fn a_backend_that_never_answers_is_restarted() {
    let mut answers = healthy();
    answers.backend.health = "unhealthy".to_owned();
    answers.backend_http = http(0, "timeout");
    answers.proxy = proxied(504);
    insta::assert_snapshot!(told(&answers), @r##"
    hanging: sylion-backend accepts connections on http://127.0.0.1:8000/health and does not answer within 6 s
    remedies: restart_backend
    "##);
    // Docker has not noticed yet.
    answers.backend.health = "healthy".to_owned();
    assert_eq!(verdict(&answers).0.id, "hanging");
}

#[test]
fn a_backend_that_answers_errors_is_unhealthy() {
    let mut answers = healthy();
    answers.backend_http = http(500, "");
    answers.proxy = proxied(500);
    insta::assert_snapshot!(told(&answers), @r##"
    unhealthy: sylion-backend runs and is not well: http://127.0.0.1:8000/health answers 500
    remedies: restart_backend
    "##);
}

#[test]
fn a_backend_that_is_starting_is_waited_for() {
    let mut answers = unreachable(healthy());
    answers.backend.health = "starting".to_owned();
    answers.backend.uptime_s = 3;
    assert_eq!(verdict(&answers).0.id, "backend_starting");
}

#[test]
fn an_unpublished_port_is_named_with_its_file() {
    let mut answers = unreachable(healthy());
    answers.backend.ports = vec![PublishedPort { host_address: String::new(), host_port: 0, ..port(0) }];
    answers.compose_ports = Vec::new();
    insta::assert_snapshot!(told(&answers), @r##"
    port_not_published: the backend runs, and port 8000 is not published on this machine: /srv/sylion/docker-compose.prod.yml has no `ports` for backend
    in /srv/sylion/docker-compose.prod.yml, under `backend:`, write `ports: ["127.0.0.1:8000:8000"]`, then `vigiectl do compose_up -H vps1 --stack sylion --services backend`: a restart would not read the file again
    "##);
    answers.compose_ports = vec![port(8080)];
    assert!(verdict(&answers).0.says.contains("publishes another one"));
    // The file is right, and the container older than it.
    answers.compose_ports = vec![port(8000)];
    let (root, remedies) = verdict(&answers);
    assert_eq!((root.id.as_str(), remedies), ("port_outdated", vec!["up_backend".to_owned()]));
}

#[test]
fn a_wrong_upstream_is_named_with_its_line() {
    let mut answers = healthy();
    answers.proxy = proxied(502);
    answers.upstream = NginxUpstream {
        pass: "http://127.0.0.1:8001".to_owned(),
        address: "127.0.0.1:8001".to_owned(),
        port: 8001,
        listening: false,
        ..answers.upstream
    };
    insta::assert_snapshot!(told(&answers), @r##"
    wrong_upstream: nginx sends api.sylion.tech to 127.0.0.1:8001, where nobody listens (/etc/nginx/sites-enabled/api.sylion.tech:15); the backend answers on 127.0.0.1:8000
    in /etc/nginx/sites-enabled/api.sylion.tech, line 15: `proxy_pass http://127.0.0.1:8000;` instead of `http://127.0.0.1:8001`, then `vigiectl do unit_restart -H vps1 --unit nginx.service`, which tests the configuration first. A restart of the backend cannot help
    "##);
}

#[test]
fn nginx_itself_may_be_down() {
    let mut answers = healthy();
    answers.nginx.active_state = "inactive".to_owned();
    answers.proxy = proxied(0);
    let (root, remedies) = verdict(&answers);
    assert_eq!((root.id.as_str(), remedies), ("nginx_down", vec!["restart_nginx".to_owned()]));
    answers.nginx.load_state = "not-found".to_owned();
    assert!(judge(&answers).findings.iter().all(|finding| finding.state() == FindingState::RuledOut));
    answers.nginx.load_state = "loaded".to_owned();
    answers.nginx.active_state = "failed".to_owned();
    answers.nginx_config = NginxTestResult {
        ok: false,
        lines: lines(&[
            "nginx: [emerg] invalid number of arguments in \"listen\" directive in /etc/nginx/sites-enabled/api.sylion.tech:3",
            "nginx: configuration file /etc/nginx/nginx.conf test failed",
        ]),
        ..NginxTestResult::default()
    };
    insta::assert_snapshot!(told(&answers), @r##"
    nginx_config_invalid: nginx is failed, and its configuration does not pass: nginx: [emerg] invalid number of arguments in "listen" directive in /etc/nginx/sites-enabled/api.sylion.tech:3
    correct the line that nginx names, then `vigiectl probe nginx_test -H vps1` and `vigiectl do unit_restart -H vps1 --unit nginx.service`
    "##);
}

#[test]
fn what_stands_behind_the_backend_is_another_incident() {
    for (service, field) in [("postgres", "dbConnected"), ("redis", "redisConnected")] {
        let mut answers = healthy();
        answers.backend.health = "unhealthy".to_owned();
        answers.backend_http = http(503, "");
        answers.backend_http.json = vec![JsonField { name: field.to_owned(), value: "false".to_owned() }];
        answers.proxy = proxied(503);
        let down = if service == "postgres" { &mut answers.postgres } else { &mut answers.redis };
        down.state = "exited".to_owned();
        let (root, remedies) = verdict(&answers);
        assert_eq!((root.id, remedies), (format!("{service}_down"), Vec::new()));
        // It runs, and refuses the backend.
        let down = if service == "postgres" { &mut answers.postgres } else { &mut answers.redis };
        down.state = "running".to_owned();
        answers.logs = vec![
            r#"{"level": "error", "msg": "Database connection failed: FATAL:  password authentication failed for user \"sylion_user\""}"#,
        ];
        assert_eq!(verdict(&answers).0.id, "dependency_refused");
    }
}

#[test]
fn a_full_disk_and_a_taken_port_come_first() {
    let answers = crashing(1, vec![STARTING, "OSError: [Errno 28] No space left on device: '/tmp/x'"]);
    assert_eq!(verdict(&answers).0.id, "disk_full");
    let mut answers = unreachable(healthy());
    answers.backend.state = "created".to_owned();
    answers.backend.exit_code = 128;
    answers.backend.error = "driver failed programming external connectivity: Bind for 127.0.0.1:8000 failed: port is already allocated".to_owned();
    answers.sockets = vec![8000];
    assert_eq!(verdict(&answers).0.id, "port_taken");
}

#[test]
fn a_paused_backend_is_called_paused() {
    let mut answers = healthy();
    answers.backend.state = "paused".to_owned();
    answers.backend_http = http(0, "timeout");
    answers.proxy = proxied(504);
    assert_eq!(verdict(&answers).0.id, "backend_paused");
}

#[test]
fn a_502_without_a_known_cause_says_so() {
    let mut answers = healthy();
    answers.proxy = proxied(502);
    answers.nginx_log = vec!["upstream sent too big header while reading response header from upstream"];
    let (root, remedies) = (judge(&answers), Vec::<String>::new());
    assert_eq!(root.remedies, remedies);
    assert_eq!(verdict(&answers).0.id, "gateway_error");
}

#[test]
fn missing_evidence_is_unknown_with_its_reason() {
    let mut some = evidence(&crashing(1, vec![STARTING, MISSING]));
    let gone = Outcome::ended(
        OutcomeStatus::Failed,
        Failure::new("engine_down", "the Docker engine does not answer"),
    );
    some.insert("backend".to_owned(), gone);
    some.remove("redis");
    let judgement = bound().judge(&subject(), &some);
    let find = |id: &str| judgement.findings.iter().find(|finding| finding.id == id).unwrap();
    assert_eq!(find("missing_variable").state(), FindingState::Unknown);
    assert_eq!(find("missing_variable").missing, "backend: the Docker engine does not answer");
    assert_eq!(find("redis_down").missing, "redis: it was not asked");
    // What does not rest on it is judged all the same.
    assert_eq!(find("nginx_down").state(), FindingState::RuledOut);
    assert_eq!(find("gateway_error").state(), FindingState::Confirmed);
    assert!(judgement.remedies.is_empty());
    // A stack without such a service has no trouble with it.
    let none = Outcome::refused(Failure::new("service_unknown", "stack `sylion` has no service `redis`"));
    some.insert("redis".to_owned(), none);
    let judgement = bound().judge(&subject(), &some);
    let redis = judgement.findings.iter().find(|finding| finding.id == "redis_down").unwrap();
    assert_eq!(redis.state(), FindingState::RuledOut);
}

#[test]
fn the_remedies_are_exact() {
    let bound = bound();
    let steps = bound.steps("rebuild_backend", "sylion");
    let Some(request::Operation::ComposeUp(up)) = &steps[0].request.operation else { panic!("{steps:?}") };
    assert_eq!(
        (up.stack.as_str(), up.services.as_slice(), up.build),
        ("sylion", &["backend".to_owned()][..], true)
    );
    let steps = bound.steps("restart_backend", "sylion");
    let Some(request::Operation::ComposeRestart(restart)) = &steps[0].request.operation else {
        panic!("{steps:?}")
    };
    assert_eq!((restart.stack.as_str(), restart.services.len()), ("sylion", 1));
    assert!(bound.steps("nothing", "sylion").is_empty());
    let verification = bound.verification("restart_backend", "sylion");
    assert_eq!((verification.within_ms, verification.every_ms), (90_000, 2_000));
    let ids: Vec<_> = verification.probes.iter().map(|probe| probe.id.as_str()).collect();
    assert_eq!(ids, ["backend", "backend_http", "proxy", "services", "fresh_log"]);
}

#[test]
fn verification_and_checklist_follow_the_evidence() {
    let bound = bound();
    let mut after = evidence(&healthy());
    let line = |text: &str, at_ms| LogLine { service: "backend".to_owned(), at_ms, text: text.to_owned() };
    let logged = |lines: Vec<LogLine>| {
        Outcome::succeeded(Operation::StackLogs(StackLogsResult { lines, ..StackLogsResult::default() }))
    };
    after.insert("fresh_log".to_owned(), logged(vec![line(STARTING, 1)]));
    assert_eq!(bound.verified("restart_backend", &subject(), &after), Some(true));
    let states = |evidence: &Evidence| -> Vec<_> {
        let lines = bound.checklist(&subject(), evidence);
        lines.iter().map(|line| line.state().as_str_name().trim_start_matches("CHECK_STATE_")).collect()
    };
    assert_eq!(states(&after), ["DONE", "DONE", "DONE", "OPEN", "OPEN", "OPEN"]);
    let refused = r#"{"level": "error", "msg": "Redis connection refused: getaddrinfo ENOTFOUND redis"}"#;
    for (lines, expected) in [
        (vec![line(refused, 1_000), line(refused, 2_500)], "DONE"),
        (vec![line(refused, 1_000), line(refused, 7_000)], "NOT_DONE"),
        (vec![line("FATAL:  the database system is starting up", 1_000)], "DONE"),
        (vec![line("FATAL:  password authentication failed for user \"sylion_user\"", 1_000)], "NOT_DONE"),
        (vec![line(r#"{"level":"fatal","msg":"out of file handles"}"#, 1_000)], "NOT_DONE"),
    ] {
        let says = format!("{lines:?}");
        after.insert("fresh_log".to_owned(), logged(lines));
        assert_eq!(states(&after)[2], expected, "{says}");
    }
    let mut answers = healthy();
    answers.proxy = proxied(502);
    assert_eq!(bound.verified("restart_backend", &subject(), &evidence(&answers)), Some(false));
    assert_eq!(states(&evidence(&answers)), ["DONE", "NOT_DONE", "OPEN", "OPEN", "OPEN", "OPEN"]);
    assert_eq!(bound.verified("restart_backend", &subject(), &Evidence::new()), None);
    assert_eq!(bound.verified("nothing", &subject(), &after), None);
}
