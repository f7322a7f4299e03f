//! Containers of the Docker engine.

pub(super) mod stats;

use bollard::models::{ContainerInspectResponse, ContainerSummary};
use vigie_proto::v1::{
    Container, ContainerInspectRequest, ContainerInspectResult, ContainerListRequest, ContainerListResult,
    ContainerLogsRequest, ContainerLogsResult, ContainerRestartRequest, ContainerRestartResult, LogLine,
    OutcomeStatus, PublishedPort, StackLogsRequest, StackLogsResult, result,
};

use super::{Context, Fault, compose, text};
use crate::host::{
    docker::{belongs_to_service, container, label, milliseconds},
    stacks::KnownStack,
};

/// Log lines when the request does not say.
const LINES: u32 = 100;

/// The lines of a stack's services together.
const STACK_LINES: usize = 4000;

/// What of a log leaves the host at most: a few times what a person reads.
const LOG_BYTES: usize = 512 * 1024;

/// Lists containers, and names the known services that have none.
pub(super) async fn list(request: ContainerListRequest, cx: &Context) -> Result<ContainerListResult, Fault> {
    if !request.stack.is_empty() {
        let stack = cx.host.stacks().resolve(&request.stack).await?;
        let (all, missing) = stack.inventory(&present(cx, &stack.name).await?);
        let containers = all.into_iter().filter(|own| own.state != "missing").collect();
        return Ok(ContainerListResult { containers, missing });
    }
    let mut containers: Vec<Container> =
        cx.host.docker().containers(None).await?.iter().map(container).collect();
    cx.host.docker().tell_finished(&mut containers).await;
    containers.sort_by(|a, b| (&a.stack, &a.service, &a.name).cmp(&(&b.stack, &b.service, &b.name)));
    let missing = cx.host.stacks().all().into_iter().flat_map(|stack| {
        let (_, missing) = stack.inventory(&containers);
        missing.into_iter().map(move |service| format!("{}/{service}", stack.name))
    });
    Ok(ContainerListResult { missing: missing.collect(), containers })
}

/// Shows one container, or that a known service has none.
pub(super) async fn inspect(
    request: ContainerInspectRequest,
    cx: &Context,
) -> Result<ContainerInspectResult, Fault> {
    let found = match named(cx, &request.stack, &request.service, &request.container).await? {
        Named::Container(id) => cx.host.docker().inspect(&id).await?,
        Named::Missing { stack, service } => {
            return Ok(ContainerInspectResult {
                stack,
                service,
                state: "missing".to_owned(),
                ..Default::default()
            });
        }
    };
    let mut result = describe(&found, crate::host::clock::now().timestamp_millis());
    result.health_output = text::text_up_to(&cx.host, &result.health_output, 4096);
    result.error = text::text(&cx.host, &result.error);
    // An image that was removed under its container has no date any more.
    match cx.host.docker().image(&result.image_id).await {
        Ok(image) => result.image_created_at_ms = milliseconds(image.created.as_deref()),
        Err(crate::host::docker::EngineError::Unknown(_)) => {}
        Err(error) => return Err(Fault::from(error).partial(result::Operation::ContainerInspect(result))),
    }
    Ok(result)
}

/// Reads the end of a container's log.
pub(super) async fn logs(request: ContainerLogsRequest, cx: &Context) -> Result<ContainerLogsResult, Fault> {
    let id = match named(cx, &request.stack, &request.service, &request.container).await? {
        Named::Container(id) => id,
        Named::Missing { .. } => return Ok(ContainerLogsResult::default()),
    };
    let lines = if request.lines == 0 { LINES } else { request.lines };
    let since = match request.since_s {
        0 => 0,
        seconds => crate::host::clock::now().timestamp() - i64::from(seconds),
    };
    let engine = cx.host.docker();
    let (inspected, (tail, error)) =
        tokio::join!(engine.inspect(&id), engine.logs(&id, lines, since, LOG_BYTES, cx.deadline));
    let name = inspected.ok().and_then(|found| found.name).unwrap_or(id);
    let result = ContainerLogsResult {
        present: true,
        container: name.trim_start_matches('/').to_owned(),
        lines: text::lines(&cx.host, &tail.lines),
        truncated: tail.truncated,
    };
    match error {
        None => Ok(result),
        Some(error) => Err(Fault::from(error).partial(result::Operation::ContainerLogs(result))),
    }
}

/// Reads the end of all services' logs as one.
pub(super) async fn stack_logs(request: StackLogsRequest, cx: &Context) -> Result<StackLogsResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    if let Some(unknown) = request.services.iter().find(|name| !stack.services.contains_key(*name)) {
        return Err(unknown_service(&stack, unknown));
    }
    let lines = if request.lines == 0 { LINES } else { request.lines };
    let since = match request.since_s {
        0 => 0,
        seconds => crate::host::clock::now().timestamp() - i64::from(seconds),
    };
    let (all, mut missing) = stack.inventory(&present(cx, &stack.name).await?);
    let asked = |service: &String| request.services.is_empty() || request.services.contains(service);
    missing.retain(asked);
    let engine = cx.host.docker();
    let reads =
        all.into_iter().filter(|own| own.state != "missing" && asked(&own.service)).map(async |own| {
            let read = engine.stamped_logs(&own.id, lines, since, LOG_BYTES, cx.deadline).await;
            (own.service, read)
        });
    let mut result = StackLogsResult { stack: stack.name.clone(), missing, ..StackLogsResult::default() };
    let mut failed = None;
    for (service, (tail, error)) in futures_util::future::join_all(reads).await {
        result.truncated |= tail.truncated;
        let (times, texts): (Vec<i64>, Vec<&str>) = tail.lines.iter().map(|line| stamped(line)).unzip();
        // Each service's lines are redacted together, before others' come between them.
        let texts = text::lines(&cx.host, &texts);
        let lines = times.into_iter().zip(texts);
        result.lines.extend(lines.map(|(at_ms, text)| LogLine { service: service.clone(), at_ms, text }));
        failed = failed.or(error);
    }
    result.lines.sort_by_key(|line| line.at_ms);
    let excess = result.lines.len().saturating_sub(STACK_LINES);
    result.truncated |= excess > 0;
    result.lines.drain(..excess);
    match failed {
        None => Ok(result),
        Some(error) => Err(Fault::from(error).partial(result::Operation::StackLogs(result))),
    }
}

/// Takes the time off a line: `2026-11-25T02:12:55.123456789Z text`.
fn stamped(line: &str) -> (i64, &str) {
    let stamp = line.split_once(' ').unwrap_or((line, ""));
    match chrono::DateTime::parse_from_rfc3339(stamp.0) {
        Ok(at) => (at.timestamp_millis(), stamp.1),
        Err(_) => (0, line),
    }
}

/// Restarts one container of a stack. What it is made of stays as it is.
pub(super) async fn restart(
    request: ContainerRestartRequest,
    cx: &Context,
) -> Result<ContainerRestartResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let id = match named(cx, &stack.name, &request.service, &request.container).await? {
        Named::Container(id) => id,
        Named::Missing { service, .. } => {
            let message = format!("service `{service}` of stack `{}` has no container", stack.name);
            return Err(Fault::refused("container_missing", message)
                .hint(format!("create it: `vigiectl do compose-up --services {service}`")));
        }
    };
    let engine = cx.host.docker();
    let before = describe(&engine.inspect(&id).await?, 0);
    if before.stack != stack.name {
        let message = format!("container `{}` does not belong to stack `{}`", before.name, stack.name);
        return Err(Fault::refused("container_foreign", message)
            .hint("name one of the stack's own: `vigiectl probe container-list`"));
    }
    compose::room_for_databases(cx, &stack, std::slice::from_ref(&before.service), false).await?;
    let ended = engine.restart(&before.id, cx.deadline).await;
    let after = engine.inspect(&before.id).await.map(|found| describe(&found, 0)).unwrap_or_default();
    let result = ContainerRestartResult {
        name: before.name,
        id: before.id,
        started_before_ms: before.started_at_ms,
        started_after_ms: after.started_at_ms,
        state: after.state,
        health: after.health,
    };
    let fault = match ended {
        Err(error) => Fault::from(error),
        Ok(()) if result.started_after_ms <= result.started_before_ms => {
            Fault::failed("not_restarted", format!("{} did not restart", result.name))
        }
        Ok(()) => return Ok(result),
    };
    Err(fault.partial(result::Operation::ContainerRestart(result)))
}

/// The containers of a stack's services at this moment.
pub(super) async fn present(cx: &Context, stack: &str) -> Result<Vec<Container>, Fault> {
    let mut all: Vec<Container> = summaries(cx, stack).await?.iter().map(container).collect();
    cx.host.docker().tell_finished(&mut all).await;
    Ok(all)
}

/// The same in the engine's words.
pub(super) async fn summaries(cx: &Context, stack: &str) -> Result<Vec<ContainerSummary>, Fault> {
    let mut all = cx.host.docker().containers(Some(stack)).await?;
    all.retain(belongs_to_service);
    Ok(all)
}

/// The fault of a service that a stack does not have.
pub(super) fn unknown_service(stack: &KnownStack, service: &str) -> Fault {
    let known: Vec<&str> = stack.services.keys().map(String::as_str).collect();
    Fault::refused("service_unknown", format!("stack `{}` has no service `{service}`", stack.name))
        .hint(format!("it has {}", known.join(", ")))
}

enum Named {
    /// Its id or name.
    Container(String),
    /// The service is known and has no container.
    Missing { stack: String, service: String },
}

async fn named(cx: &Context, stack: &str, service: &str, container: &str) -> Result<Named, Fault> {
    match (service, container) {
        ("", "") => Err(Fault::refused("argument_missing", "neither `service` nor `container` is given")),
        ("", container) => may_look_into(cx, container).await.map(Named::Container),
        (service, "") => {
            let stack = cx.host.stacks().resolve(stack).await?;
            let mut own = present(cx, &stack.name).await?;
            own.retain(|own| own.service == service);
            // Of several, one that has trouble tells more than one that runs.
            own.sort_by_key(|own| (own.state == "running", own.name.clone()));
            match own.into_iter().next() {
                Some(own) => Ok(Named::Container(own.id)),
                None if stack.services.contains_key(service) => {
                    Ok(Named::Missing { stack: stack.name.clone(), service: service.to_owned() })
                }
                None => Err(unknown_service(&stack, service)),
            }
        }
        _ => Err(Fault::refused("argument_conflict", "`service` and `container` are both given")
            .hint("give one of them")),
    }
}

/// The id of a container, if it may be looked at: without an order only a stack's, or one that the policy names. What
/// others say in their logs, and how they are made, is nobody's business who can merely ask.
async fn may_look_into(cx: &Context, container: &str) -> Result<String, Fault> {
    let found = cx.host.docker().inspect(container).await?;
    let id = found.id.clone().unwrap_or_else(|| container.to_owned());
    let own = describe(&found, 0);
    let stacks = cx.host.stacks().all();
    let belongs = |stack: &KnownStack| {
        stack.name == own.stack || stack.services.values().any(|service| service.container == own.name)
    };
    if cx.ordered || stacks.iter().any(|stack| belongs(stack)) {
        return Ok(id);
    }
    match cx.host.policy().may_look_into(&own.name) {
        Ok(()) => Ok(id),
        Err(failure) => Err(Fault { status: OutcomeStatus::Refused, failure, partial: None }),
    }
}

/// An inspected container in the catalogue's words; everything but the image's date.
pub(super) fn describe(found: &ContainerInspectResponse, now_ms: i64) -> ContainerInspectResult {
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    let labelled = |name: &str| labels.and_then(|labels| labels.get(name)).cloned().unwrap_or_default();
    let state = found.state.clone().unwrap_or_default();
    let health = state.health.clone().unwrap_or_default();
    let host = found.host_config.as_ref();
    let started_at_ms = milliseconds(state.started_at.as_deref());
    let last_check =
        health.log.as_ref().and_then(|checks| checks.last()).and_then(|check| check.output.clone());
    let running = state.running.unwrap_or_default() && !state.restarting.unwrap_or_default();
    ContainerInspectResult {
        present: true,
        name: found.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned(),
        id: found.id.clone().unwrap_or_default(),
        stack: labelled(label::PROJECT),
        service: labelled(label::SERVICE),
        state: state.status.map(|status| status.to_string()).unwrap_or_default(),
        health: match health.status.map(|status| status.to_string()) {
            Some(status) if !status.is_empty() => status,
            _ => "none".to_owned(),
        },
        exit_code: state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default(),
        oom_killed: state.oom_killed.unwrap_or_default(),
        restart_count: found.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
        created_at_ms: milliseconds(found.created.as_deref()),
        started_at_ms,
        finished_at_ms: milliseconds(state.finished_at.as_deref()),
        uptime_s: if running { u64::try_from((now_ms - started_at_ms) / 1000).unwrap_or(0) } else { 0 },
        image: found.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default(),
        image_id: found.image.clone().unwrap_or_default(),
        image_created_at_ms: 0,
        restart_policy: host
            .and_then(|host| host.restart_policy.as_ref()?.name)
            .map(|name| name.to_string())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "no".to_owned()),
        memory_limit_bytes: host
            .and_then(|host| host.memory)
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or_default(),
        ports: ports(found),
        health_output: last_check.unwrap_or_default(),
        health_failures: health.failing_streak.and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        error: state.error.unwrap_or_default(),
    }
}

/// The ports as they are published now; where the container does not run, as they would be.
fn ports(found: &ContainerInspectResponse) -> Vec<PublishedPort> {
    let live = found.network_settings.as_ref().and_then(|settings| settings.ports.as_ref());
    let asked = found.host_config.as_ref().and_then(|host| host.port_bindings.as_ref());
    let map = live.filter(|ports| !ports.is_empty()).or(asked);
    let mut ports: Vec<PublishedPort> = map
        .into_iter()
        .flatten()
        .flat_map(|(port, bindings)| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            let base = PublishedPort {
                container_port: number.parse().unwrap_or_default(),
                protocol: protocol.to_owned(),
                ..PublishedPort::default()
            };
            let bound: Vec<PublishedPort> = bindings
                .iter()
                .flatten()
                .map(|binding| PublishedPort {
                    host_address: binding.host_ip.clone().unwrap_or_default(),
                    host_port: binding
                        .host_port
                        .as_deref()
                        .and_then(|port| port.parse().ok())
                        .unwrap_or_default(),
                    ..base.clone()
                })
                .collect();
            if bound.is_empty() { vec![base] } else { bound }
        })
        .collect();
    ports.sort_by(|a, b| {
        (a.container_port, a.host_port, &a.host_address).cmp(&(
            b.container_port,
            b.host_port,
            &b.host_address,
        ))
    });
    ports
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Captured with `GET /containers/sylion-backend/json` from Docker 20.10, the variables taken out.
    const HEALTHY: &str = include_str!("fixtures/inspect-healthy.json");
    /// The same while it crash-loops for want of a variable.
    const LOOPING: &str = include_str!("fixtures/inspect-crash-loop.json");

    #[test]
    fn a_healthy_container() {
        let found: ContainerInspectResponse = serde_json::from_str(HEALTHY).unwrap();
        let started = milliseconds(found.state.as_ref().unwrap().started_at.as_deref());
        let result = describe(&found, started + 61_500);
        assert!(result.present);
        assert_eq!(
            (result.name.as_str(), result.stack.as_str(), result.service.as_str()),
            ("sylion-backend", "sylion", "backend")
        );
        assert_eq!((result.state.as_str(), result.health.as_str()), ("running", "healthy"));
        assert_eq!((result.uptime_s, result.restart_count, result.finished_at_ms), (61, 0, 0));
        assert_eq!(result.restart_policy, "unless-stopped");
        assert_eq!(
            result.ports,
            [PublishedPort {
                host_address: "127.0.0.1".to_owned(),
                host_port: 8000,
                container_port: 8000,
                protocol: "tcp".to_owned(),
            }]
        );
        assert!(result.image_id.starts_with("sha256:") && result.created_at_ms > 0);
    }

    #[test]
    fn lines_and_their_times() {
        assert_eq!(
            stamped("2026-11-25T02:12:55.123456789Z {\"level\": \"info\"}"),
            (1_795_572_775_123, "{\"level\": \"info\"}")
        );
        assert_eq!(stamped("2026-11-25T02:12:55Z"), (1_795_572_775_000, ""));
        assert_eq!(stamped("no time at all"), (0, "no time at all"));
    }

    #[test]
    fn a_crash_loop() {
        let found: ContainerInspectResponse = serde_json::from_str(LOOPING).unwrap();
        let result = describe(&found, i64::MAX / 2);
        assert_eq!(result.state, "restarting");
        assert!(result.restart_count >= 2 && result.exit_code != 0 && result.finished_at_ms > 0);
        assert_eq!(result.uptime_s, 0, "it does not run");
        assert_eq!(result.ports.len(), 1, "the port that it asks for is shown: {:?}", result.ports);
    }
}
