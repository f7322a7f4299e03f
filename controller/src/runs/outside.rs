//! Looking at a stack from elsewhere, as its customers do. Whom to ask is what the host's agent told of the stack, never
//! what a run's text says: a runbook makes no scanner of the controller, or of a host. Runs look by it, and so does the
//! watch from outside.

use std::time::Duration;

use tokio::time::Instant;
use vigie_proto::v1::{
    Failure, Outcome, OutcomeStatus, ReachabilityCheckRequest, Request, Stack, request, result,
};
use vigie_reach::{Wanted, check, check_web};

/// How long a step may take when the request does not say.
const WAIT_MS: u32 = 4_000;
/// What is left of the time limit for the answer to be told.
const MARGIN: Duration = Duration::from_millis(300);

/// The request with the stack's public name, address and health path in it.
pub(crate) fn public(request: Request, stack: Option<&Stack>) -> Result<ReachabilityCheckRequest, Failure> {
    let Some(request::Operation::ReachabilityCheck(asked)) = request.operation else {
        // Lint lets no other through.
        return Err(Failure::new("bad_result", "this can be asked of the host alone")
            .hint("leave `from` out of the runbook's probe"));
    };
    let known = stack.filter(|stack| !stack.server_name.is_empty()).ok_or_else(|| {
        Failure::new("server_name_unknown", "nobody knows under which public name this stack is served")
            .hint("set `server_name` under [stacks.NAME] in /etc/vigie/agent.toml on the host")
    })?;
    Ok(ReachabilityCheckRequest {
        stack: String::new(),
        name: known.server_name.clone(),
        address: known.public_address.clone(),
        path: known.health_path.clone(),
        wait_ms: asked.wait_ms,
    })
}

/// The request for another host of the fleet.
pub(super) fn as_request(asked: ReachabilityCheckRequest) -> Request {
    Request { operation: Some(request::Operation::ReachabilityCheck(asked)) }
}

/// No other host could be asked.
pub(super) fn no_peer() -> Failure {
    Failure::new("no_peer", "no other host of the fleet is connected, so that none can look at this one")
        .hint("`from: controller` looks from here")
}

/// Goes the way from here.
pub(super) async fn look(asked: &ReachabilityCheckRequest, timeout_ms: u32) -> Outcome {
    go(asked, timeout_ms, true).await
}

/// The same as often as one likes: nobody knocks at ssh.
pub(crate) async fn glance(asked: &ReachabilityCheckRequest, timeout_ms: u32) -> Outcome {
    go(asked, timeout_ms, false).await
}

async fn go(asked: &ReachabilityCheckRequest, timeout_ms: u32, with_ssh: bool) -> Outcome {
    let address = match asked.address.as_str() {
        "" => None,
        text => match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let message = format!("`public_address` of this stack is no address: {text}");
                return Outcome::ended(
                    OutcomeStatus::Failed,
                    Failure::new("address_invalid", message)
                        .hint("write it like 203.0.113.7 in /etc/vigie/agent.toml"),
                );
            }
        },
    };
    let wait_ms = if asked.wait_ms == 0 { WAIT_MS } else { asked.wait_ms };
    let limit = Duration::from_millis(timeout_ms.into()).saturating_sub(MARGIN);
    let wanted = Wanted {
        name: asked.name.clone(),
        address,
        path: asked.path.clone(),
        wait: Duration::from_millis(wait_ms.into()),
        until: Instant::now() + limit,
    };
    let (started_at_ms, begun) = (crate::clock::now_ms(), Instant::now());
    let reached = if with_ssh { check(&wanted).await } else { check_web(&wanted).await };
    let mut outcome = Outcome::succeeded(result::Operation::ReachabilityCheck(reached));
    outcome.started_at_ms = started_at_ms;
    outcome.duration_ms = u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX);
    outcome
}
