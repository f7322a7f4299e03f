//! The services around a database: who writes to it, and how they are stopped and started.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{
    host::{
        docker::{belongs_to_service, container, label},
        stacks::{
            KnownStack,
            compose::{cannot_run, last_words},
        },
    },
    operations::{Context, Fault},
};

/// Services are stopped and started again even when an operation's own time is up.
const LEAST: Duration = Duration::from_secs(60);

/// The stack's running services that write: the backend, and whatever container has a session.
pub(super) async fn writers(
    stack: &KnownStack,
    addresses: &BTreeSet<String>,
    cx: &Context,
) -> Result<Vec<String>, Fault> {
    let mut found = BTreeSet::new();
    for summary in
        cx.host.docker().containers(Some(&stack.name)).await?.iter().filter(|own| belongs_to_service(own))
    {
        let own = container(summary);
        if own.state != "running" {
            continue;
        }
        let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let mut places =
            networks.into_iter().flatten().filter_map(|(_, network)| network.ip_address.as_deref());
        let service = summary
            .labels
            .as_ref()
            .and_then(|labels| labels.get(label::SERVICE))
            .cloned()
            .unwrap_or_default();
        if service == stack.backend_service || places.any(|place| addresses.contains(place)) {
            found.insert(service);
        }
    }
    Ok(found.into_iter().filter(|service| !service.is_empty()).collect())
}

/// A command of Compose on these services and nothing else.
pub(super) async fn compose(
    cx: &Context,
    stack: &KnownStack,
    command: &[&str],
    services: &[String],
) -> Result<(), Fault> {
    if services.is_empty() {
        return Ok(());
    }
    let deadline = cx.deadline.max(Instant::now() + LEAST);
    let compose = cx.host.stacks().compose().find(deadline).await?;
    let words: Vec<String> =
        command.iter().copied().chain(["--"]).map(str::to_owned).chain(services.iter().cloned()).collect();
    let child = compose.child(stack, words).map_err(cannot_run)?.sink(&*cx.output);
    // Nobody stops it in the middle: what it is a part of would be left half-way.
    let exit = match &cx.keeping {
        Some(keeping) => child.run_kept(keeping, deadline).await,
        None => child.run(deadline).await,
    };
    let exit = exit.map_err(cannot_run)?;
    if exit.success() {
        return Ok(());
    }
    Err(Fault::failed(
        "compose_failed",
        format!("`compose {}` of {} failed: {}", command.join(" "), services.join(", "), last_words(&exit)),
    )
    .hint("`vigiectl probe compose_ps` tells what runs"))
}
