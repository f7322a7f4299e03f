//! The way to a stack's public name, and the certificates on it. How it is gone is [`vigie_reach`]'s; whom may be asked
//! is decided here.

use std::{net::IpAddr, path::Path, time::Duration};

use tokio::time::Instant;
use vigie_proto::v1::{
    CertificateCheckRequest, CertificateCheckResult, OutcomeStatus, ReachabilityCheckRequest,
    ReachabilityCheckResult, SiteCertificate,
};
use vigie_reach::{Wanted, certificate, http::served};

use super::{Context, Fault, text};
use crate::host::{nginx, stacks::KnownStack};

/// How long a step may take when the request does not say.
const WAIT: Duration = Duration::from_secs(4);
/// How long nginx on this machine has to show a certificate.
const SHOW: Duration = Duration::from_secs(3);
/// What is left of the deadline for the answer to be told.
const MARGIN: Duration = Duration::from_millis(300);

/// Goes the way of a customer's request, from here.
pub(super) async fn reachability(
    request: ReachabilityCheckRequest,
    cx: &Context,
) -> Result<ReachabilityCheckResult, Fault> {
    let wanted = wanted(&request, cx).await?;
    Ok(vigie_reach::check(&wanted).await)
}

async fn wanted(request: &ReachabilityCheckRequest, cx: &Context) -> Result<Wanted, Fault> {
    let until = cx.deadline.checked_sub(MARGIN).unwrap_or(cx.deadline);
    let wait = if request.wait_ms == 0 { WAIT } else { Duration::from_millis(request.wait_ms.into()) };
    let address = |text: &str| -> Result<Option<IpAddr>, Fault> {
        match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                Fault::refused("address_invalid", format!("{text} is no address"))
                    .hint("write it like 203.0.113.7 or 2001:db8::7")
            }),
        }
    };
    if !request.name.is_empty() && (cx.ordered || cx.host.policy().may_ask_peer(&request.name).is_ok()) {
        // Somebody who may said whom to ask: another host's stack, as a rule.
        let path = if request.path.is_empty() { "/health".to_owned() } else { request.path.clone() };
        return Ok(Wanted {
            name: request.name.clone(),
            address: address(&request.address)?,
            path,
            wait,
            until,
        });
    }
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    if stack.server_name.is_empty() {
        let message = format!("nobody knows under which name nginx serves stack `{}`", stack.name);
        return Err(Fault::failed("server_name_unknown", message)
            .hint(format!("set `server_name` under [stacks.{}] in /etc/vigie/agent.toml", stack.name)));
    }
    if !request.name.is_empty() && request.name != stack.server_name {
        let failure = cx.host.policy().may_ask_peer(&request.name).err().unwrap_or_default();
        return Err(Fault { status: OutcomeStatus::Refused, failure, partial: None });
    }
    may_ask(&request.path, &request.address, &stack, cx)?;
    let path = if request.path.is_empty() { stack.health_path().to_owned() } else { request.path.clone() };
    let own = if request.address.is_empty() { &stack.public_address } else { &request.address };
    Ok(Wanted { name: stack.server_name.clone(), address: address(own)?, path, wait, until })
}

/// Without an order, nothing but the stack's own path and place.
fn may_ask(path: &str, address: &str, stack: &KnownStack, cx: &Context) -> Result<(), Fault> {
    if cx.ordered {
        return Ok(());
    }
    if !path.is_empty() && path != stack.health_path() {
        let message = format!(
            "without an order, stack `{}` is asked for its health path {} only, not for {path}",
            stack.name,
            stack.health_path()
        );
        return Err(Fault::refused("path_forbidden", message).hint("leave `path` out"));
    }
    if !address.is_empty() && address != stack.public_address {
        return Err(Fault::refused(
            "address_forbidden",
            format!("without an order, {address} is not dialled"),
        )
        .hint(format!("set `public_address` under [stacks.{}] in /etc/vigie/agent.toml", stack.name)));
    }
    Ok(())
}

/// Shows nginx's certificates, on disk and as they are served.
pub(super) async fn certificates(
    request: CertificateCheckRequest,
    cx: &Context,
) -> Result<CertificateCheckResult, Fault> {
    let stack = match request.stack.as_str() {
        "" => None,
        name => Some(cx.host.stacks().resolve(name).await?),
    };
    let sites = match nginx::certificates(cx.deadline).await {
        Ok(sites) => sites,
        Err(fault) if fault.failure.code == "nginx_absent" => return Ok(CertificateCheckResult::default()),
        Err(fault) => return Err(fault),
    };
    let mut result = CertificateCheckResult { present: true, ..CertificateCheckResult::default() };
    let ours = |site: &&nginx::routes::TlsSite| {
        stack.as_ref().is_none_or(|stack| site.server_names.contains(&stack.server_name))
    };
    let until = (Instant::now() + SHOW).min(cx.deadline);
    for site in sites.iter().filter(ours) {
        let mut found = SiteCertificate {
            server_names: site.server_names.clone(),
            file: site.file.clone(),
            config_file: site.config_file.clone(),
            config_line: site.config_line,
            ..SiteCertificate::default()
        };
        match certificate::from_file(Path::new(&site.file)) {
            Ok(own) => found.on_disk = Some(own),
            Err(error) => found.disk_failure = text::text(&cx.host, &error),
        }
        match site.plain_name() {
            None => "no_name".clone_into(&mut found.serve_failure),
            Some(name) => match served([127, 0, 0, 1].into(), site.port, name, until).await {
                Ok(own) => found.served = Some(own),
                Err(word) => word.clone_into(&mut found.serve_failure),
            },
        }
        if let (Some(disk), Some(served)) = (&found.on_disk, &found.served) {
            found.outdated = disk.fingerprint != served.fingerprint;
        }
        result.certificates.push(found);
    }
    let shown = |site: &SiteCertificate| site.served.clone().or_else(|| site.on_disk.clone());
    let all: Vec<_> = result.certificates.iter().filter_map(shown).collect();
    result.days_left = all.iter().map(|own| own.days_left).min().unwrap_or(0);
    result.expired = all.iter().any(|own| own.expired);
    result.outdated = result.certificates.iter().any(|site| site.outdated);
    Ok(result)
}
