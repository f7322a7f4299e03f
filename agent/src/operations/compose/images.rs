//! Building a stack's images apart from starting them, and taking a stack down that can come up again.

use vigie_proto::v1::{
    ComposeBuildRequest, ComposeBuildResult, ComposeDownRequest, ComposeDownResult, ImageBuild,
    OutcomeStatus, result,
};

use super::{Context, Fault, call, ended, established, known_services, output, present, reasons::image_name};
use crate::host::{
    docker::EngineError,
    stacks::{KnownStack, compose::Configured},
};

/// What the stack's files say, where nothing keeps Compose from doing what they say.
pub(super) async fn sound(cx: &Context, stack: &KnownStack) -> Result<std::sync::Arc<Configured>, Fault> {
    established(stack)?;
    let unset = match cx.host.stacks().compose().configured(stack, cx.deadline).await? {
        Ok(configured) if configured.unset.is_empty() => return Ok(configured),
        Ok(configured) => configured.unset.clone(),
        Err(error) if error.unset.is_empty() => {
            let mut fault = Fault::from(error);
            fault.status = OutcomeStatus::Refused;
            return Err(fault);
        }
        Err(error) => error.unset,
    };
    let message = format!("nothing sets {}: Compose would put blanks in their place", unset.join(", "));
    Err(Fault::refused("unset_variables", message)
        .hint("set them in the stack's env file, or under `compose_env` in /etc/vigie/agent.toml"))
}

/// An image's id; empty when there is none of this name.
pub(super) async fn image_id(cx: &Context, name: &str) -> Result<String, Fault> {
    match cx.host.docker().image(name).await {
        Ok(image) => Ok(image.id.unwrap_or_default()),
        Err(EngineError::Unknown(_)) => Ok(String::new()),
        Err(error) => Err(error.into()),
    }
}

/// Builds images. What runs goes on running with those that it has.
pub(crate) async fn build(request: ComposeBuildRequest, cx: &Context) -> Result<ComposeBuildResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    known_services(&stack, &request.services)?;
    let configured = sound(cx, &stack).await?;
    let compose = cx.host.stacks().compose().find(cx.deadline).await?;
    let mut images = Vec::new();
    for service in &configured.model.services {
        let name = &service.declared.service;
        let asked = request.services.is_empty() || request.services.contains(name);
        if asked && !service.declared.build_context.is_empty() {
            let image = image_name(&stack, service, &compose);
            let id_before = image_id(cx, &image).await?;
            images.push(ImageBuild { service: name.clone(), image, id_before, id_after: String::new() });
        }
    }
    if images.is_empty() && request.services.is_empty() {
        // A stack of ready images has nothing to build, and is built.
        return Ok(ComposeBuildResult { stack: stack.name.clone(), ..ComposeBuildResult::default() });
    }
    if images.is_empty() {
        let message = format!("nothing of stack `{}` that was asked for has a `build:`", stack.name);
        return Err(Fault::refused("nothing_to_build", message)
            .hint("`vigiectl probe compose-config` shows which services have one"));
    }
    let words = ["build", "--"].into_iter().map(str::to_owned);
    let services = images.iter().map(|image| image.service.clone());
    let exit = call(cx, &stack, words.chain(services).collect()).await?;
    for image in &mut images {
        image.id_after = image_id(cx, &image.image).await.unwrap_or_default();
    }
    let without = images.iter().find(|image| image.id_after.is_empty()).map(|image| image.image.clone());
    let result = ComposeBuildResult {
        stack: stack.name.clone(),
        images,
        output: output(cx, &exit),
        exit_code: exit.code,
    };
    let fault = match (ended(&exit, "compose build"), without) {
        (Some(fault), _) => fault,
        (None, Some(image)) => {
            Fault::failed("image_missing", format!("there is no image {image} after the build"))
        }
        (None, None) => return Ok(result),
    };
    Err(fault.partial(result::Operation::ComposeBuild(result)))
}

/// Takes a stack down, its volumes apart. Only one that could come up again at once.
pub(crate) async fn down(request: ComposeDownRequest, cx: &Context) -> Result<ComposeDownResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let configured = sound(cx, &stack).await?;
    let compose = cx.host.stacks().compose().find(cx.deadline).await?;
    for service in &configured.model.services {
        let image = image_name(&stack, service, &compose);
        if image_id(cx, &image).await?.is_empty() {
            let how = if service.declared.build_context.is_empty() {
                format!("pull it first: `docker pull {image}` on the host")
            } else {
                format!("build it first: `vigiectl do compose-build --services {}`", service.declared.service)
            };
            let message = format!(
                "the image {image} of service `{}` is not on this host: the stack could not come up again",
                service.declared.service
            );
            return Err(Fault::refused("image_missing", message).hint(how));
        }
    }
    let before = present(cx, &stack.name).await?;
    // Never `--volumes`, never `--rmi`.
    let exit = call(cx, &stack, vec!["down".to_owned()]).await?;
    let after = present(cx, &stack.name).await;
    let left: Vec<String> = after.as_deref().unwrap_or_default().iter().map(|own| own.name.clone()).collect();
    let removed = before.into_iter().map(|own| own.name).filter(|name| !left.contains(name)).collect();
    let result = ComposeDownResult {
        stack: stack.name.clone(),
        removed: if after.is_ok() { removed } else { Vec::new() },
        volumes: stack.volumes.iter().cloned().collect(),
        output: output(cx, &exit),
        exit_code: exit.code,
    };
    cx.host.stacks().refresh().await;
    let fault = match (ended(&exit, "compose down"), after) {
        (Some(fault), _) | (None, Err(fault)) => fault,
        (None, Ok(_)) if !left.is_empty() => {
            Fault::failed("not_removed", format!("{} is still there", left.join(", ")))
        }
        (None, Ok(_)) => return Ok(result),
    };
    Err(fault.partial(result::Operation::ComposeDown(result)))
}
