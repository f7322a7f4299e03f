//! Hosts that lack what others have: no Docker, nginx, ufw, systemd, PostgreSQL, Redis; or those outside Docker.
//!
//! `tests/run world` runs each test in a plain container of the world's images, whose name the test begins with. The
//! catalogue is walked by its descriptors, so that an operation that is added cannot be forgotten here.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use futures_util::future::join_all;
use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use tokio::time::Instant;
use vigie_agent::config::Settings;
use vigie_proto::{
    descriptors,
    operation::{self, Effect, OPERATIONS, Operation},
    v1::{
        self, FindingState, Outcome, OutcomeStatus, Request, request::Operation as Ask,
        result::Operation as Answer,
    },
};
use vigie_runbook::{Evidence, Runbook, Scope, Subject, Vantage};

use crate::World;

/// What is there on every Debian, and is told as present.
const DEBIAN: &str = "apt_clean_preview";

/// What names nothing on this host, and is told as that: no file of the example's name is anywhere.
const UNKNOWN: [(&str, &str); 2] =
    [("backup_restore_preview", "backup_unknown"), ("backup_rebuild_preview", "backup_unknown")];

/// Arguments without which an operation has nothing to do, beside those that its fields require.
const ARGUMENTS: [(&str, &str, &str); 5] = [
    ("container_inspect", "service", "backend"),
    ("container_logs", "service", "backend"),
    ("journal_vacuum_preview", "keep_mib", "100"),
    ("docker_prune_preview", "images", "true"),
    ("knowledge_counter_preview", "tenant", "11111111-1111-4111-8111-111111111111"),
];

/// What a required field is given.
fn example(field: &str) -> &'static str {
    match field {
        "service" | "services" => "backend",
        "unit" => "nginx.service",
        "path" => "/var/log/nginx/error.log",
        "port" => "443",
        "protocol" => "tcp",
        "file" => "drizzle/0001_first.sql",
        "backup" => "2026-01-01.sql.gz",
        "tenant" => "11111111-1111-4111-8111-111111111111",
        "reason" => "a test",
        other => panic!("a required field `{other}`: give it an example here"),
    }
}

/// The request of an operation with nothing but what it needs.
fn request(operation: &Operation) -> Request {
    let mut message = DynamicMessage::new(descriptors::request(operation.name).unwrap());
    let given: BTreeMap<&str, &str> =
        ARGUMENTS.iter().filter(|(name, ..)| *name == operation.name).map(|(_, f, v)| (*f, *v)).collect();
    for field in message.descriptor().fields() {
        let required = descriptors::rules(&field).required;
        let Some(text) = given.get(field.name()).copied().or(required.then(|| example(field.name()))) else {
            continue;
        };
        let one = match field.kind() {
            prost_reflect::Kind::String => Value::String(text.to_owned()),
            prost_reflect::Kind::Bool => Value::Bool(text == "true"),
            prost_reflect::Kind::Uint32 => Value::U32(text.parse().unwrap()),
            kind => panic!("{}: a {kind:?}", field.full_name()),
        };
        message.set_field(&field, if field.is_list() { Value::List(vec![one]) } else { one });
    }
    let request = descriptors::wrap(operation.name, message).unwrap();
    operation::check(&request).unwrap_or_else(|error| panic!("{error}"));
    request
}

/// Every probe of the catalogue; gives what of them is no answer for a host that lacks its component. `there` are the
/// probes of what it has.
async fn observe(world: &World, stack: &str, there: &[&str]) -> Vec<String> {
    let probes = OPERATIONS.iter().filter(|own| own.effect == Effect::Observe && !own.needs_order());
    let asked = probes.map(async |operation| {
        let request = descriptors::with_stack(&request(operation), stack);
        let begun = Instant::now();
        let answer = world.probe(request.operation.unwrap()).await;
        let late = begun.elapsed() > operation.timeout();
        let wrong = match answer {
            Ok(answer) if present(&answer) && !there.contains(&operation.name) => {
                format!("calls present what is not there: {answer:?}")
            }
            Ok(_) => return late.then(|| format!("{}: too late", operation.name)),
            Err(fault) if fault.failure.is_absence() && fault.status == OutcomeStatus::Refused => {
                return None;
            }
            Err(fault) if UNKNOWN.contains(&(operation.name, fault.failure.code.as_str())) => return None,
            Err(fault) => format!("{fault:?}"),
        };
        Some(format!("{}: {wrong}", operation.name))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// What an answer says of its component: `present`, where it says so at all.
fn present(answer: &Answer) -> bool {
    let result = v1::Result { operation: Some(answer.clone()) };
    let descriptor = descriptors::pool().get_message_by_name("vigie.v1.Result").unwrap();
    let mut outer = DynamicMessage::new(descriptor);
    outer.transcode_from(&result).unwrap();
    let (_, value) = outer.take_fields().next().unwrap();
    let message = value.as_message().unwrap();
    message.get_field_by_name("present").is_some_and(|value| value.as_bool() == Some(true))
}

/// A runbook's confirmed findings on this host, each as `runbook.finding`, with what they say.
async fn confirmed(world: &World, runbook: &Runbook, stack: &str) -> BTreeMap<String, String> {
    let parameters: Vec<v1::Parameter> = runbook
        .parameters
        .iter()
        .filter(|parameter| runbook.bind(&[]).is_err() && parameter.default.is_none())
        .map(|parameter| v1::Parameter {
            name: parameter.name.clone(),
            value: example(&parameter.name).to_owned(),
        })
        .collect();
    let bound = runbook.bind(&parameters).unwrap_or_else(|errors| panic!("{}: {errors:?}", runbook.id));
    let stack = if runbook.scope == Scope::Host { "" } else { stack };
    // From elsewhere nobody looks: the container has no network.
    let probes = bound.probes(stack).into_iter().filter(|probe| probe.from == Vantage::Host);
    let asked = probes.map(async |probe| match world.probe(probe.request.operation.unwrap()).await {
        Ok(answer) => (probe.id, Outcome::succeeded(answer)),
        Err(fault) => (probe.id, Outcome::from(fault)),
    });
    let evidence: Evidence = join_all(asked).await.into_iter().collect();
    let now_ms = chrono::Utc::now().timestamp_millis();
    let judgement = bound.judge(&Subject { host: "bare", stack, now_ms }, &evidence);
    let found = judgement.findings.into_iter().filter(|own| own.state() == FindingState::Confirmed);
    found
        .filter(|own| {
            // How busy and how full the machine is, is so whatever it lacks.
            let of_machine = runbook.scope == Scope::Host
                && own.evidence.iter().all(|used| {
                    let probe = used.reference.split(['.', '[', '(']).next().unwrap_or_default();
                    evidence.get(probe).is_none_or(Outcome::is_success)
                });
            if of_machine {
                eprintln!("             of the machine itself: {}.{}: {}", runbook.id, own.id, own.says);
            }
            !of_machine
        })
        .map(|own| (format!("{}.{}", runbook.id, own.id), own.says))
        .collect()
}

async fn all_confirmed(world: &World, stack: &str) -> BTreeMap<String, String> {
    let judged = vigie_runbook::shipped().iter().map(async |(id, text)| {
        let runbook = Runbook::parse(text, id).unwrap();
        confirmed(world, &runbook, stack).await
    });
    join_all(judged).await.into_iter().flatten().collect()
}

/// A folder with a stack as an agent remembers it that saw it up once, and the settings of its host.
struct Remembered {
    state: tempfile::TempDir,
    project: tempfile::TempDir,
}

impl Remembered {
    fn new() -> Self {
        let own = Self { state: tempfile::tempdir().unwrap(), project: tempfile::tempdir().unwrap() };
        let file = own.project.path().join("docker-compose.yml");
        fs::write(&file, "services:\n  backend:\n    image: shop\n  postgres:\n    image: postgres:15\n")
            .unwrap();
        fs::write(own.project.path().join(".env"), "A=1\n").unwrap();
        let service = |name: &str, image: &str| {
            (name.to_owned(), serde_json::json!({ "container": format!("shop-{name}"), "image": image }))
        };
        let services: serde_json::Map<_, _> =
            [service("backend", "shop:1"), service("postgres", "postgres:15"), service("redis", "redis:7")]
                .into_iter()
                .collect();
        let stack = serde_json::json!({
            "name": "shop", "directory": own.project.path(), "config_files": [file],
            "services": services, "volumes": ["shop_postgres"], "networks": ["shop_default"],
            "compose_env_established": true, "backend_service": "backend", "backend_address": "127.0.0.1:8000",
            "server_name": "shop.invalid", "health_path": "/health", "first_seen_ms": 1,
        });
        let memory = serde_json::json!({ "version": 1, "stacks": { "shop": stack } });
        fs::write(own.state.path().join("stacks.json"), memory.to_string()).unwrap();
        own
    }

    fn state(&self) -> &Path {
        self.state.path()
    }
}

/// A policy under which probes may read what they may on a host of the standard policy.
fn settings(folder: &Path) -> Settings {
    let policy = folder.join("policy.toml");
    fs::write(&policy, "version = 1\n[read]\nfolders = [\"/var/log/nginx\"]\n").unwrap();
    Settings { policy, ..Settings::default() }
}

/// What the settings say of a stack beside where it lives.
fn outside(project: &Path, said: &str) -> Settings {
    fs::write(project.join("docker-compose.yml"), "services: {}\n").unwrap();
    fs::write(project.join(".env"), "A=1\n").unwrap();
    let file = project.join("agent.toml");
    let text = format!(
        "policy = \"{0}/policy.toml\"\n[stacks.shop]\ndirectory = \"{0}\"\nconfig_files = [\"docker-compose.yml\"]\n{said}\n",
        project.display()
    );
    fs::write(&file, text).unwrap();
    Settings::load(&file).unwrap()
}

#[tokio::test]
async fn debian_alone_is_told_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::told(folder.path(), settings(folder.path())).await;
    for stack in ["", "shop"] {
        let wrong = observe(&world, stack, &[DEBIAN]).await;
        assert!(wrong.is_empty(), "stack `{stack}`:\n{}", wrong.join("\n"));
    }
    let facts = match world.probe(Ask::HostFacts(v1::HostFactsRequest {})).await {
        Ok(Answer::HostFacts(facts)) => facts,
        other => panic!("{other:?}"),
    };
    assert!(
        !facts.systemd && facts.docker_version.is_empty() && facts.compose_version.is_empty(),
        "{facts:?}"
    );
    let found = all_confirmed(&world, "").await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn debian_that_lost_its_docker_says_so() {
    let remembered = Remembered::new();
    let world = World::told(remembered.state(), settings(remembered.state())).await;
    // Its files are there still.
    let wrong = observe(&world, "", &[DEBIAN, "env_check"]).await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for ask in [
        Ask::ContainerInspect(v1::ContainerInspectRequest {
            service: "backend".to_owned(),
            ..v1::ContainerInspectRequest::default()
        }),
        Ask::ContainerList(v1::ContainerListRequest::default()),
        Ask::ComposePs(v1::ComposePsRequest::default()),
    ] {
        let name = ask.name();
        let fault = world.probe(ask).await.unwrap_err();
        assert_eq!(
            (fault.failure.code.as_str(), fault.status),
            ("docker_absent", OutcomeStatus::Refused),
            "{name}"
        );
    }
    let found = all_confirmed(&world, "shop").await;
    // The name is none, nobody serves it, and the file of the example is not there: all that is so. That containers are
    // missing, stopped or ill is not.
    let ids: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        ids,
        ["api-down.name_unresolvable", "api-down.unreachable", "db-migration.file_missing"],
        "{found:#?}"
    );
}

/// Waits until something that was started beside this test answers.
async fn until(world: &World, ask: Ask, well: impl Fn(&Answer) -> bool) -> Answer {
    let mut last = String::new();
    for _ in 0..200 {
        match world.probe(ask.clone()).await {
            Ok(answer) if well(&answer) => return answer,
            other => last = format!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("it does not come up: {last}");
}

#[tokio::test]
async fn postgres_outside_docker_is_reached_by_its_url() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let url = "database_url = \"postgresql://shop:hush-hush@127.0.0.1:5432/shop\"";
    let world = World::told(state.path(), outside(project.path(), url)).await;
    let ask = Ask::PostgresStatus(v1::PostgresStatusRequest::default());
    let answer = until(&world, ask, |answer| match answer {
        Answer::PostgresStatus(found) => found.backend_login == "ok",
        _ => false,
    })
    .await;
    let Answer::PostgresStatus(found) = answer else { panic!() };
    assert!(found.present && found.state == "outside" && found.version.starts_with("15"), "{found:?}");
    let probes =
        OPERATIONS.iter().filter(|own| own.effect == Effect::Observe && own.name.starts_with("postgres_"));
    for operation in probes {
        match world.probe(request(operation).operation.unwrap()).await {
            Ok(_) => {}
            // Its log is where nobody said.
            Err(fault) if fault.failure.is_absence() => {
                eprintln!("             not present: {} ({})", fault.failure.message, fault.failure.code);
            }
            Err(fault) => panic!("{}: {fault:?}", operation.name),
        }
    }
    let runbook = Runbook::parse(shipped("postgres-down"), "postgres-down").unwrap();
    let found = confirmed(&world, &runbook, "shop").await;
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn redis_outside_docker_and_without_a_password_is_well() {
    let (state, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world =
        World::told(state.path(), outside(project.path(), "redis_url = \"redis://127.0.0.1:6379/0\"")).await;
    let ask = Ask::RedisStatus(v1::RedisStatusRequest::default());
    let answer =
        until(&world, ask, |answer| matches!(answer, Answer::RedisStatus(found) if found.state == "ok"))
            .await;
    let Answer::RedisStatus(found) = answer else { panic!() };
    assert!(found.present && !found.password_required, "{found:?}");
    match world.probe(Ask::RedisQueues(v1::RedisQueuesRequest::default())).await {
        Ok(Answer::RedisQueues(found)) => assert!(found.present && found.queues.is_empty(), "{found:?}"),
        other => panic!("{other:?}"),
    }
    let runbook = Runbook::parse(shipped("redis-down"), "redis-down").unwrap();
    let found = confirmed(&world, &runbook, "shop").await;
    assert!(found.is_empty(), "{found:#?}");
}

fn shipped(id: &str) -> &'static str {
    vigie_runbook::shipped().iter().find(|(name, _)| *name == id).unwrap().1
}
