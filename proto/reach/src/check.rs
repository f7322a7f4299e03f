//! The whole way to a public name, one step after the other.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use vigie_proto::v1::{HttpCheckResult, PortCheck, ReachabilityCheckResult};

use crate::{
    certificate,
    http::{Asked, handshake, milliseconds, speak, word},
    ping::ping,
};

/// ssh and the web, in this order.
pub const PORTS: [u16; 3] = [22, 80, 443];

/// How many addresses of a name are told.
const ADDRESSES: usize = 16;

/// How long an echo is waited for: it comes at once, or not at all.
const PING: Duration = Duration::from_millis(1500);

/// Whom to ask, and for what.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The public name.
    pub name: String,
    /// Where it leads by rights, where that is known: it is dialled whatever the name resolves to.
    pub address: Option<IpAddr>,
    pub path: String,
    /// How long each step may take.
    pub wait: Duration,
    /// When all of it has to be over.
    pub until: Instant,
}

/// Goes the whole way, and tells how far it got.
pub async fn check(wanted: &Wanted) -> ReachabilityCheckResult {
    walk(wanted, true).await
}

/// The same without knocking at ssh: who does that twice a minute fills its log, and is banned by what guards it.
pub async fn check_web(wanted: &Wanted) -> ReachabilityCheckResult {
    walk(wanted, false).await
}

async fn walk(wanted: &Wanted, with_ssh: bool) -> ReachabilityCheckResult {
    let mut result = ReachabilityCheckResult { name: wanted.name.clone(), ..Default::default() };
    let addresses = resolve(wanted, &mut result).await;
    let Some(address) = wanted.address.or_else(|| addresses.first().copied()) else {
        return judged(result);
    };
    result.address = address.to_string();
    let (echo, ports) = tokio::join!(ping(address, PING.min(wanted.wait)), knocks(address, wanted, with_ssh));
    match echo {
        Ok(took) => {
            result.ping_answered = true;
            result.ping_ms = milliseconds(took);
        }
        Err(word) => word.clone_into(&mut result.ping_failure),
    }
    result.ports = ports;
    ask(wanted, address, &mut result).await;
    judged(result)
}

/// What the name resolves to, which is told in the result too.
async fn resolve(wanted: &Wanted, result: &mut ReachabilityCheckResult) -> Vec<IpAddr> {
    let begun = Instant::now();
    let found = timeout_at(step(wanted), lookup_host((wanted.name.as_str(), 443))).await;
    result.resolve_ms = milliseconds(begun.elapsed());
    let mut addresses: Vec<IpAddr> = Vec::new();
    match found {
        Ok(Ok(found)) => {
            for address in found.map(|socket| socket.ip()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() {
                "not_found".clone_into(&mut result.resolve_failure);
            }
        }
        Ok(Err(_)) => "not_found".clone_into(&mut result.resolve_failure),
        Err(_) => "timeout".clone_into(&mut result.resolve_failure),
    }
    result.addresses = addresses.iter().take(ADDRESSES).map(ToString::to_string).collect();
    result.public_address = wanted.address.map(|address| address.to_string()).unwrap_or_default();
    result.resolves_here =
        !addresses.is_empty() && wanted.address.is_none_or(|address| addresses.contains(&address));
    // Most of the world still speaks IPv4, and a host whose IPv6 is broken is no host that is down.
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

/// All ports at once.
async fn knocks(address: IpAddr, wanted: &Wanted, with_ssh: bool) -> Vec<PortCheck> {
    let [ssh, http, https] = PORTS.map(|port| knock(address, port, wanted));
    let ssh = async { if with_ssh { Some(ssh.await) } else { None } };
    let (ssh, http, https) = tokio::join!(ssh, http, https);
    ssh.into_iter().chain([http, https]).collect()
}

/// Whether a port takes a connection.
async fn knock(address: IpAddr, port: u16, wanted: &Wanted) -> PortCheck {
    let begun = Instant::now();
    let connected = timeout_at(step(wanted), TcpStream::connect((address, port))).await;
    let failure = match connected {
        Ok(Ok(_)) => "",
        Ok(Err(error)) => word(&error),
        Err(_) => "timeout",
    };
    PortCheck {
        port: port.into(),
        open: failure.is_empty(),
        failure: failure.to_owned(),
        connect_ms: milliseconds(begun.elapsed()),
    }
}

/// The request itself, over TLS where that port takes connections.
async fn ask(wanted: &Wanted, address: IpAddr, result: &mut ReachabilityCheckResult) {
    let open = |port: u32| result.ports.iter().any(|own| own.port == port && own.open);
    let tls = match (open(443), open(80)) {
        (true, _) => true,
        (false, true) => false,
        (false, false) => return,
    };
    let (scheme, port) = if tls { ("https", 443) } else { ("http", 80) };
    result.url = format!("{scheme}://{}{}", wanted.name, wanted.path);
    let begun = Instant::now();
    let until = step(wanted);
    let asked = Asked {
        url: result.url.clone(),
        dialled: SocketAddr::new(address, port).to_string(),
        host_header: wanted.name.clone(),
        path: wanted.path.clone(),
        tls: tls.then(|| wanted.name.clone()),
    };
    let failure = match timeout_at(until, TcpStream::connect((address, port))).await {
        Ok(Ok(stream)) => exchange(stream, &asked, until, result).await,
        Ok(Err(error)) => Err(word(&error)),
        Err(_) => Err("timeout"),
    };
    result.http_ms = milliseconds(begun.elapsed());
    if let Err(word) = failure {
        word.clone_into(&mut result.http_failure);
    }
}

async fn exchange(
    stream: TcpStream,
    asked: &Asked,
    until: Instant,
    result: &mut ReachabilityCheckResult,
) -> Result<(), &'static str> {
    let (mut answer, mut body) = (HttpCheckResult::default(), Vec::new());
    let spoken = match &asked.tls {
        None => speak(stream, asked, until, &mut answer, &mut body).await,
        Some(name) => {
            let stream = match handshake(name, stream, until).await {
                Ok(stream) => stream,
                Err(word) => {
                    word.clone_into(&mut result.tls_failure);
                    return Err(word);
                }
            };
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            certificate::trouble(chain, name).clone_into(&mut result.certificate_trouble);
            result.certificate = chain.first().and_then(certificate::describe);
            speak(stream, asked, until, &mut answer, &mut body).await
        }
    };
    result.status = answer.status;
    // A status is an answer, whatever became of the body.
    if answer.status > 0 { Ok(()) } else { spoken }
}

/// Names the first step that does not work.
fn judged(mut result: ReachabilityCheckResult) -> ReachabilityCheckResult {
    let closed =
        result.ports.iter().filter(|own| own.port != 22 && !own.open).map(|own| own.failure.as_str());
    let closed: Vec<&str> = closed.collect();
    let (step, failure) = if result.address.is_empty() {
        ("resolve", result.resolve_failure.as_str())
    } else if closed.len() == 2 {
        // Of two words, the one of 443.
        ("connect", closed[1])
    } else if !result.tls_failure.is_empty() {
        ("tls", result.tls_failure.as_str())
    } else if !matches!(result.certificate_trouble.as_str(), "" | "unknown_issuer") {
        ("certificate", result.certificate_trouble.as_str())
    } else if !result.http_failure.is_empty() {
        ("http", result.http_failure.as_str())
    } else if result.status >= 500 {
        ("status", "status")
    } else if !result.resolve_failure.is_empty() {
        // It was dialled by its address.
        ("resolve", result.resolve_failure.as_str())
    } else {
        ("", "")
    };
    let failure = failure.to_owned();
    step.clone_into(&mut result.failing);
    result.failure = failure;
    result
}

fn step(wanted: &Wanted) -> Instant {
    (Instant::now() + wanted.wait).min(wanted.until)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u32, failure: &str) -> PortCheck {
        PortCheck { port, open: failure.is_empty(), failure: failure.to_owned(), connect_ms: 1 }
    }

    fn failing(change: impl FnOnce(&mut ReachabilityCheckResult)) -> (String, String) {
        let mut result = ReachabilityCheckResult {
            address: "192.0.2.7".to_owned(),
            ports: vec![port(22, "timeout"), port(80, ""), port(443, "")],
            status: 200,
            certificate_trouble: "unknown_issuer".to_owned(),
            ..Default::default()
        };
        change(&mut result);
        let result = judged(result);
        (result.failing, result.failure)
    }

    #[test]
    fn the_first_step_that_does_not_work() {
        let is = |found: (String, String), step: &str, word: &str| {
            assert_eq!((found.0.as_str(), found.1.as_str()), (step, word));
        };
        is(failing(|_| {}), "", "");
        is(
            failing(|result| result.ports = vec![port(22, ""), port(80, "refused"), port(443, "timeout")]),
            "connect",
            "timeout",
        );
        is(failing(|result| result.certificate_trouble = "expired".to_owned()), "certificate", "expired");
        is(failing(|result| result.tls_failure = "tls".to_owned()), "tls", "tls");
        is(failing(|result| result.status = 502), "status", "status");
        is(failing(|result| result.status = 404), "", "");
        is(failing(|result| result.resolve_failure = "timeout".to_owned()), "resolve", "timeout");
        is(
            failing(|result| {
                result.address.clear();
                result.resolve_failure = "not_found".to_owned();
            }),
            "resolve",
            "not_found",
        );
    }

    #[tokio::test]
    async fn a_name_that_is_none() {
        let wanted = Wanted {
            name: "no-such-host.invalid".to_owned(),
            address: None,
            path: "/health".to_owned(),
            wait: Duration::from_secs(5),
            until: Instant::now() + Duration::from_secs(10),
        };
        let result = check(&wanted).await;
        assert_eq!(result.failing, "resolve", "{result:?}");
        // Where it leads by rights is asked all the same.
        let wanted = Wanted { address: Some([127, 0, 0, 1].into()), ..wanted };
        let result = check(&wanted).await;
        assert_eq!((result.address.as_str(), result.resolves_here), ("127.0.0.1", false));
        assert_eq!(result.ports.len(), 3);
        let watched: Vec<_> = check_web(&wanted).await.ports.iter().map(|own| own.port).collect();
        assert_eq!(watched, [80, 443]);
    }
}
