//! Back to the image with which a service was last seen well. The image that it leaves is kept under another name, so
//! that there is a way forward again.

use vigie_proto::v1::{
    ComposeRollbackPreviewRequest, ComposeRollbackPreviewResult, ComposeRollbackRequest,
    ComposeRollbackResult, result,
};

use super::{
    Context, Fault, call, ended,
    images::{image_id, sound},
    known_services, output, present,
    reasons::image_name,
    room_for_databases,
};

/// The tag under which the image that was left is kept.
const KEPT_TAG: &str = "before-rollback";

/// Tells to which image a service could go back.
pub(crate) async fn preview(
    request: ComposeRollbackPreviewRequest,
    cx: &Context,
) -> Result<ComposeRollbackPreviewResult, Fault> {
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    known_services(&stack, std::slice::from_ref(&request.service))?;
    let calls = cx.host.stacks().compose();
    let mut result = ComposeRollbackPreviewResult {
        stack: stack.name.clone(),
        service: request.service.clone(),
        ..ComposeRollbackPreviewResult::default()
    };
    if let Ok(configured) = calls.configured(&stack, cx.deadline).await?
        && let Some(service) = configured.model.service(&request.service)
    {
        result.image = image_name(&stack, service, &*calls.find(cx.deadline).await?);
    }
    let (current, previous) = stack.images_of(&request.service);
    if let Some(current) = current {
        result.current_id.clone_from(&current.id);
        (result.current_since_ms, result.current_was_well) = (current.since_ms, current.well);
    }
    if let Some(previous) = previous {
        result.previous_id.clone_from(&previous.id);
        result.previous_since_ms = previous.since_ms;
        result.possible = !result.image.is_empty()
            && !result.image.contains('@')
            && !image_id(cx, &previous.id).await?.is_empty();
    }
    Ok(result)
}

/// Gives the image's name back to the one before, and brings the service up with it.
pub(crate) async fn rollback(
    request: ComposeRollbackRequest,
    cx: &Context,
) -> Result<ComposeRollbackResult, Fault> {
    // What runs at this moment counts, not what ran at the last look.
    cx.host.stacks().refresh().await;
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let _ = sound(cx, &stack).await?;
    let ask = ComposeRollbackPreviewRequest { stack: stack.name.clone(), service: request.service.clone() };
    let found = preview(ask, cx).await?;
    if !found.possible {
        let why = if found.previous_id.is_empty() {
            "no image is known with which it was well before".to_owned()
        } else if found.image.contains('@') {
            format!("its image is pinned by its digest, {}", found.image)
        } else {
            format!("the image that it ran before, {}, is not on this host any more", found.previous_id)
        };
        let message =
            format!("service `{}` of stack `{}` cannot go back: {why}", request.service, stack.name);
        return Err(
            Fault::refused("no_way_back", message).hint("deploy the version before as you deploy any other")
        );
    }
    room_for_databases(cx, &stack, std::slice::from_ref(&request.service), false).await?;
    let (repository, tag) = repository_and_tag(&found.image);
    let engine = cx.host.docker();
    let kept_as = format!("{repository}:{KEPT_TAG}");
    if !image_id(cx, &found.current_id).await?.is_empty() {
        engine.tag(&found.current_id, repository, KEPT_TAG).await?;
    }
    engine.tag(&found.previous_id, repository, tag).await?;
    let words = ["up", "-d", "--no-build", "--no-deps", "--", &request.service].map(str::to_owned);
    let exit = call(cx, &stack, words.to_vec()).await?;
    let after = present(cx, &stack.name).await;
    cx.host.stacks().refresh().await;
    let own = after.as_deref().unwrap_or_default().iter().find(|own| own.service == request.service).cloned();
    let runs = match &own {
        Some(own) => engine.inspect(&own.id).await.ok().and_then(|found| found.image).unwrap_or_default(),
        None => String::new(),
    };
    let result = ComposeRollbackResult {
        stack: stack.name.clone(),
        service: request.service.clone(),
        image: found.image,
        from_id: found.current_id,
        to_id: found.previous_id.clone(),
        kept_as,
        container: own,
        output: output(cx, &exit),
        exit_code: exit.code,
    };
    let fault = match (ended(&exit, "compose up"), after) {
        (Some(fault), _) | (None, Err(fault)) => fault,
        (None, Ok(_)) if runs != found.previous_id => {
            Fault::failed("not_rolled_back", format!("service `{}` runs {runs}", request.service))
        }
        (None, Ok(_)) => return Ok(result),
    };
    Err(fault.partial(result::Operation::ComposeRollback(result)))
}

/// `registry:5000/shop/api:2.1` is `registry:5000/shop/api` and `2.1`.
fn repository_and_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images() {
        assert_eq!(repository_and_tag("sylion-backend"), ("sylion-backend", "latest"));
        assert_eq!(repository_and_tag("shop/api:2.1"), ("shop/api", "2.1"));
        assert_eq!(repository_and_tag("registry.example:5000/api"), ("registry.example:5000/api", "latest"));
        assert_eq!(repository_and_tag("registry.example:5000/api:2"), ("registry.example:5000/api", "2"));
    }
}
