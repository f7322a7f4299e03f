//! Docker Compose stacks.

mod build;
pub(super) mod images;
mod reasons;
pub(super) mod rollback;

use std::{collections::BTreeMap, path::PathBuf};

use tokio::time::Instant;
use vigie_proto::v1::{
    ComposeBuildCheckRequest, ComposeBuildCheckResult, ComposeConfigRequest, ComposeConfigResult,
    ComposePreviewRequest, ComposePreviewResult, ComposePsRequest, ComposePsResult, ComposeRestartRequest,
    ComposeRestartResult, ComposeUpRequest, ComposeUpResult, Container, ServiceChange, ServiceRestart,
    result,
};

use super::{
    Context, Fault,
    containers::{present, summaries, unknown_service},
    disk::room,
    text,
};
use crate::host::{
    child::Exit,
    docker::{container, milliseconds},
    stacks::{
        KnownStack,
        compose::{cannot_run, last_words, timed_out},
        dry_run::Change,
    },
};

/// What of Compose's output is kept.
const OUTPUT: usize = 60;

/// Shows each service of a stack and what became of it.
pub(super) async fn ps(request: ComposePsRequest, cx: &Context) -> Result<ComposePsResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let (services, missing) = stack.inventory(&present(cx, &stack.name).await?);
    Ok(ComposePsResult {
        stack: stack.name.clone(),
        directory: stack.directory.to_string_lossy().into_owned(),
        services,
        missing,
    })
}

/// Shows what the Compose files ask for.
pub(super) async fn config(
    request: ComposeConfigRequest,
    cx: &Context,
) -> Result<ComposeConfigResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let mut result = ComposeConfigResult {
        stack: stack.name.clone(),
        files: stack.config_files.iter().map(|file| file.to_string_lossy().into_owned()).collect(),
        ..ComposeConfigResult::default()
    };
    match cx.host.stacks().compose().configured(&stack, cx.deadline).await? {
        Ok(configured) => {
            result.services =
                configured.model.services.iter().map(|service| service.declared.clone()).collect();
            result.unset_variables.clone_from(&configured.unset);
            Ok(result)
        }
        Err(error) => {
            result.unset_variables.clone_from(&error.unset);
            Err(Fault::from(error).partial(result::Operation::ComposeConfig(result)))
        }
    }
}

/// Tells whether a service's sources are newer than the image it runs.
pub(super) async fn build_check(
    request: ComposeBuildCheckRequest,
    cx: &Context,
) -> Result<ComposeBuildCheckResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let calls = cx.host.stacks().compose();
    let (configured, own) =
        tokio::try_join!(calls.configured(&stack, cx.deadline), summaries(cx, &stack.name))?;
    let configured = configured?;
    let service = configured
        .model
        .service(&request.service)
        .ok_or_else(|| unknown_service(&stack, &request.service))?;
    let context = service.declared.build_context.clone();
    if context.is_empty() {
        return Ok(ComposeBuildCheckResult::default());
    }
    let running = own.iter().find(|summary| container(summary).service == request.service);
    let image = match running.and_then(|summary| summary.image_id.clone()) {
        Some(id) => id,
        None => reasons::image_name(&stack, service, &*calls.find(cx.deadline).await?),
    };
    let created = match cx.host.docker().image(&image).await {
        Ok(image) => milliseconds(image.created.as_deref()),
        // It was never built, or its container outlived it.
        Err(crate::host::docker::EngineError::Unknown(_)) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut result = ComposeBuildCheckResult {
        buildable: true,
        context: context.clone(),
        image_created_at_ms: created,
        ..ComposeBuildCheckResult::default()
    };
    if !context.starts_with('/') {
        // A repository elsewhere: nothing here can be newer.
        result.truncated = true;
        return Ok(result);
    }
    let walked = tokio::task::spawn_blocking(move || build::newest(context.as_ref())).await;
    let newest = walked.map_err(|error| Fault::failed("file_unreadable", error))?.map_err(|error| {
        Fault::failed("file_unreadable", format!("the build context cannot be read: {error}"))
    })?;
    result.truncated = newest.truncated;
    result.newest_source = newest.path;
    result.newest_source_at_ms = newest.modified_at_ms;
    result.source_newer = created > 0 && newest.modified_at_ms > created;
    Ok(result)
}

/// Tells what bringing the stack up would change, and why.
pub(super) async fn preview(
    request: ComposePreviewRequest,
    cx: &Context,
) -> Result<ComposePreviewResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    known_services(&stack, &request.services)?;
    let calls = cx.host.stacks().compose();
    let compose = calls.find(cx.deadline).await?;
    let mut result = ComposePreviewResult {
        stack: stack.name.clone(),
        command: text::text(
            &cx.host,
            &compose.command_line(&stack, &up_command(request.build, &request.services)),
        ),
        ..ComposePreviewResult::default()
    };
    // Whichever fails first ends the others: a dry run would wait for a daemon that hangs.
    let (run, configured, own) = tokio::try_join!(
        calls.dry_run(&stack, &stack.compose_env, &request.services, cx.deadline),
        calls.configured(&stack, cx.deadline),
        summaries(cx, &stack.name),
    )?;
    let run = match run {
        Some(Ok(run)) => run,
        Some(Err(error)) if error.unset.is_empty() => return Err(error.into()),
        // It stops at the variables: they are the answer.
        Some(Err(error)) => {
            result.unset_variables = error.unset;
            return Ok(result);
        }
        None => {
            result.unset_variables = configured.map_or_else(|error| error.unset, |found| found.unset.clone());
            return Ok(result);
        }
    };
    let configured = configured?;
    let mut changes: BTreeMap<String, Change> = BTreeMap::new();
    for (name, change) in &run.containers {
        let service = reasons::service_of(name, &stack, &own, &configured.model);
        let worst = changes.entry(service).or_insert(*change);
        *worst = (*worst).max(*change);
    }
    // Compose says nothing of a container that is just being restarted and would stay as it is.
    for service in configured.model.services.iter().map(|service| &service.declared.service) {
        let asked = request.services.is_empty() || request.services.contains(service);
        if asked && own.iter().any(|summary| container(summary).service == *service) {
            changes.entry(service.clone()).or_insert(Change::None);
        }
    }
    for (service, change) in changes {
        let declared = configured.model.service(&service);
        let buildable = declared.is_some_and(|own| !own.declared.build_context.is_empty());
        result.changes.push(if request.build && buildable {
            let reason = match change {
                Change::Create => "its image would be rebuilt and its container created",
                Change::Recreate => "its image would be rebuilt and its container recreated",
                _ => "its image would be rebuilt, and its container recreated if the image comes out changed",
            };
            ServiceChange { service, change: "build".to_owned(), reason: reason.to_owned() }
        } else {
            let reason = reasons::why(cx, &stack, declared, &service, change, &own, &run, &compose).await;
            ServiceChange { service, change: change.word().to_owned(), reason }
        });
    }
    result.unset_variables = run.unset;
    result.predicted = true;
    Ok(result)
}

/// Brings services up as the files say.
pub(super) async fn up(request: ComposeUpRequest, cx: &Context) -> Result<ComposeUpResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    known_services(&stack, &request.services)?;
    established(&stack)?;
    room_for_databases(cx, &stack, &request.services, true).await?;
    let calls = cx.host.stacks().compose();
    let (configured, before) =
        tokio::try_join!(calls.configured(&stack, cx.deadline), summaries(cx, &stack.name))?;
    let unset = match configured {
        Ok(configured) => configured.unset.clone(),
        Err(error) if error.unset.is_empty() => {
            let mut fault = Fault::from(error);
            fault.status = vigie_proto::v1::OutcomeStatus::Refused;
            return Err(fault);
        }
        Err(error) => error.unset,
    };
    if !unset.is_empty() {
        let message = format!("nothing sets {}: Compose would put blanks in their place", unset.join(", "));
        return Err(Fault::refused("unset_variables", message)
            .hint("set them in the stack's env file, or under `compose_env` in /etc/vigie/agent.toml"));
    }
    let exit = call(cx, &stack, up_command(request.build, &request.services)).await?;
    let after = summaries(cx, &stack.name).await;
    let output = output(cx, &exit);
    let mut present: Vec<Container> = after.iter().flatten().map(container).collect();
    cx.host.docker().tell_finished(&mut present).await;
    let result = after.as_ref().map(|after| ComposeUpResult {
        stack: stack.name.clone(),
        changes: reasons::changed(&before, after, request.build),
        services: stack.inventory(&present).0,
        output: output.clone(),
        exit_code: exit.code,
    });
    let result = result.unwrap_or_else(|_| ComposeUpResult {
        stack: stack.name.clone(),
        output,
        exit_code: exit.code,
        ..ComposeUpResult::default()
    });
    cx.host.stacks().refresh().await;
    let fault = match ended(&exit, "compose up") {
        Some(fault) => fault,
        None => match after {
            Ok(_) => return Ok(result),
            Err(fault) => fault,
        },
    };
    Err(fault.partial(result::Operation::ComposeUp(result)))
}

/// Restarts services. Their containers stay as they are: what is stopped is started, env files are not read again.
pub(super) async fn restart(
    request: ComposeRestartRequest,
    cx: &Context,
) -> Result<ComposeRestartResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    known_services(&stack, &request.services)?;
    room_for_databases(cx, &stack, &request.services, false).await?;
    let mut containers = present(cx, &stack.name).await?;
    containers.retain(|own| request.services.contains(&own.service));
    containers.sort_by(|a, b| (&a.service, &a.name).cmp(&(&b.service, &b.name)));
    for service in &request.services {
        if !containers.iter().any(|own| own.service == *service) {
            let message =
                format!("service `{service}` of stack `{}` has no container to restart", stack.name);
            return Err(Fault::refused("container_missing", message)
                .hint(format!("create it: `vigiectl do compose-up --services {service}`")));
        }
    }
    let before = starts(cx, &containers).await?;
    let words = ["restart", "--"].into_iter().map(str::to_owned);
    let exit = call(cx, &stack, words.chain(request.services.iter().cloned()).collect()).await?;
    let after = starts(cx, &containers).await;
    let after_or_none = after.as_ref().map_or_else(|_| vec![0; containers.len()], Clone::clone);
    let restarts: Vec<ServiceRestart> = containers
        .iter()
        .zip(before.iter().zip(after_or_none))
        .map(|(own, (before, after))| ServiceRestart {
            service: own.service.clone(),
            container: own.name.clone(),
            started_before_ms: *before,
            started_after_ms: after,
        })
        .collect();
    let still: Vec<&str> = restarts
        .iter()
        .filter(|restart| restart.started_after_ms <= restart.started_before_ms)
        .map(|restart| restart.container.as_str())
        .collect();
    let not_restarted = (!still.is_empty()).then(|| format!("{} did not restart", still.join(", ")));
    let result = ComposeRestartResult {
        stack: stack.name.clone(),
        restarts,
        output: output(cx, &exit),
        exit_code: exit.code,
    };
    cx.host.stacks().refresh().await;
    let fault = match (ended(&exit, "compose restart"), after, not_restarted) {
        (Some(fault), ..) | (None, Err(fault), _) => fault,
        (None, Ok(_), Some(message)) => Fault::failed("not_restarted", message),
        (None, Ok(_), None) => return Ok(result),
    };
    Err(fault.partial(result::Operation::ComposeRestart(result)))
}

/// When each container was last started, in their order; 0 for one that never was.
async fn starts(cx: &Context, containers: &[Container]) -> Result<Vec<i64>, Fault> {
    let inspected = containers.iter().map(|own| cx.host.docker().inspect(&own.id));
    let found = futures_util::future::try_join_all(inspected).await?;
    Ok(found
        .iter()
        .map(|own| milliseconds(own.state.as_ref().and_then(|state| state.started_at.as_deref())))
        .collect())
}

fn up_command(build: bool, services: &[String]) -> Vec<String> {
    let mut words = vec!["up".to_owned(), "-d".to_owned()];
    if build {
        words.push("--build".to_owned());
    }
    if !services.is_empty() {
        words.push("--".to_owned());
        words.extend(services.iter().cloned());
    }
    words
}

/// Runs Compose on a stack, its output sent on while it runs.
async fn call(cx: &Context, stack: &KnownStack, words: Vec<String>) -> Result<Exit, Fault> {
    let compose = cx.host.stacks().compose().find(cx.deadline.min(Instant::now() + FIND)).await?;
    let child = compose.child(stack, words).map_err(cannot_run)?.sink(&*cx.output);
    cx.act(child).await.map_err(cannot_run)
}

/// `compose version` answers at once.
const FIND: std::time::Duration = std::time::Duration::from_secs(10);

fn output(cx: &Context, exit: &Exit) -> Vec<String> {
    let all: Vec<String> = exit.stdout.lines().into_iter().chain(exit.stderr.lines()).collect();
    text::last_lines(&cx.host, &all, OUTPUT)
}

/// Why a call of Compose was no success.
pub(super) fn ended(exit: &Exit, what: &str) -> Option<Fault> {
    if exit.timed_out {
        return Some(timed_out(what));
    }
    if exit.stopped {
        return Some(Fault::stopped(what));
    }
    (!exit.success())
        .then(|| Fault::failed("compose_failed", format!("`{what}` failed: {}", last_words(exit))))
}

fn known_services(stack: &KnownStack, services: &[String]) -> Result<(), Fault> {
    match services.iter().find(|service| !stack.services.contains_key(*service)) {
        Some(service) => Err(unknown_service(stack, service)),
        None => Ok(()),
    }
}

/// Precondition of whatever starts a stack's databases: there is room where they write. Empty `services` are all; what
/// is brought `up` brings up those that it depends on, so that every database that does not run counts.
pub(super) async fn room_for_databases(
    cx: &Context,
    stack: &KnownStack,
    services: &[String],
    up: bool,
) -> Result<(), Fault> {
    let databases = databases_of(stack);
    let asked = |service: &String| services.is_empty() || services.contains(service);
    let starts = match databases.iter().find(|service| asked(service)) {
        Some(service) => Some((*service).clone()),
        None if up && !databases.is_empty() => {
            let own = present(cx, &stack.name).await?;
            let runs = |service: &&&String| {
                own.iter().any(|container| container.service == ***service && container.state == "running")
            };
            databases.iter().find(|service| !runs(service)).map(|service| (*service).clone())
        }
        None => None,
    };
    match starts {
        Some(service) => {
            let what = format!("{service} of stack `{}`", stack.name);
            room::for_database(&cx.host, &what, &database_places(cx, stack)).await
        }
        None => Ok(()),
    }
}

/// Precondition of whatever starts Docker's engine, which starts the databases of every stack with it.
pub(super) async fn room_for_all_databases(cx: &Context) -> Result<(), Fault> {
    for stack in cx.host.stacks().all() {
        if let Some(service) = databases_of(&stack).first() {
            let what = format!("Docker, which starts {service} of stack `{}`,", stack.name);
            room::for_database(&cx.host, &what, &database_places(cx, &stack)).await?;
        }
    }
    Ok(())
}

fn databases_of(stack: &KnownStack) -> Vec<&String> {
    let services = stack.services.iter();
    services
        .filter(|(service, known)| room::is_database(service) || room::is_database(&known.image))
        .map(|(service, _)| service)
        .collect()
}

/// Where a stack's databases write: its volumes, and the folders of this machine that were bound into their containers.
fn database_places(cx: &Context, stack: &KnownStack) -> Vec<PathBuf> {
    let bound = databases_of(stack).into_iter().filter_map(|service| stack.binds.get(service)).flatten();
    room::of_volumes(&cx.host, stack.volumes.iter().cloned()).into_iter().chain(bound.cloned()).collect()
}

fn established(stack: &KnownStack) -> Result<(), Fault> {
    if stack.compose_env_established {
        return Ok(());
    }
    let message = format!(
        "nobody knows with which variables Compose was called for stack `{}`: a wrong one would recreate it wrongly",
        stack.name
    );
    Err(Fault::refused("compose_env_unknown", message).hint(format!(
        "say it in /etc/vigie/agent.toml: [stacks.{}] compose_env = {{ ENV_FILE = \".env.prod\" }} (or {{}} for none)",
        stack.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_stand_after_the_options() {
        assert_eq!(up_command(false, &[]), ["up", "-d"]);
        assert_eq!(up_command(true, &["backend".to_owned()]), ["up", "-d", "--build", "--", "backend"]);
    }

    #[test]
    fn what_is_not_known_is_refused_with_its_remedy() {
        let mut stack = KnownStack { name: "shop".to_owned(), ..KnownStack::default() };
        let fault = established(&stack).unwrap_err();
        assert_eq!(fault.status, vigie_proto::v1::OutcomeStatus::Refused);
        assert_eq!(fault.failure.code, "compose_env_unknown");
        assert!(fault.failure.hint.contains("[stacks.shop] compose_env"));
        stack.compose_env_established = true;
        assert!(established(&stack).is_ok());
        stack.services.insert("backend".to_owned(), Default::default());
        let fault = known_services(&stack, &["web".to_owned()]).unwrap_err();
        assert!(fault.failure.hint.contains("backend"));
    }
}
