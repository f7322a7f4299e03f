//! nginx on the host.

use vigie_proto::v1::{
    NginxTestRequest, NginxTestResult, NginxUpstream, NginxUpstreamsRequest, NginxUpstreamsResult,
};

use super::{Context, Fault, sockets, text};
use crate::host::{
    nginx::{self, routes::Route},
    stacks::{KnownStack, is_same_place},
};

/// Tests nginx's configuration. One that does not hold is what the probe is for, and no failure of it.
pub(super) async fn test(_: NginxTestRequest, cx: &Context) -> Result<NginxTestResult, Fault> {
    let tested = nginx::test(cx.deadline).await?;
    Ok(NginxTestResult { lines: text::lines(&cx.host, &tested.lines), ..tested })
}

/// Lists where nginx sends requests, with whether someone listens there.
pub(super) async fn upstreams(
    request: NginxUpstreamsRequest,
    cx: &Context,
) -> Result<NginxUpstreamsResult, Fault> {
    let stack = match request.stack.as_str() {
        "" => None,
        name => Some(cx.host.stacks().resolve(name).await?),
    };
    let routes = nginx::routes(cx.deadline).await?;
    let listening = sockets::listening()?;
    let own = sockets::own_addresses();
    let upstreams = routes
        .into_iter()
        .filter(|route| stack.as_ref().is_none_or(|stack| belongs(route, stack)))
        .map(|route| {
            let unix = route.address.strip_prefix("unix:");
            let local = unix.is_some() || sockets::is_local(route.host(), &own);
            let listening = match unix {
                Some(path) => sockets::listens_on_unix(path),
                None => {
                    local && listening.iter().any(|socket| sockets::takes(socket, route.host(), route.port))
                }
            };
            NginxUpstream {
                server_names: route.server_names,
                listens: route.listens,
                location: route.location,
                pass: route.pass,
                address: route.address,
                port: route.port,
                listening,
                local,
                file: route.file,
                line: route.line,
            }
        })
        .collect();
    Ok(NginxUpstreamsResult { upstreams })
}

/// A route belongs to a stack when it leads to its backend or serves its name.
fn belongs(route: &Route, stack: &KnownStack) -> bool {
    is_same_place(&route.address, &stack.backend_address)
        || (!stack.server_name.is_empty() && route.server_names.contains(&stack.server_name))
}
