//! HTTP as seen from the host, one exchange on a connection of its own, so that each of its stages is told apart.
//!
//! Whose certificate answers is not judged here: nginx is asked on this machine under the stack's name, and a
//! certificate that has expired is no reason for a 502. What is asked for is the backend, nginx, or what the policy
//! names.

use std::time::Duration;

use http::Uri;
use tokio::time::Instant;
use vigie_proto::v1::{HttpCheckRequest, HttpCheckResult, HttpTarget, JsonField, OutcomeStatus};
use vigie_reach::http::{Asked, exchange, milliseconds};

use super::{Context, Fault, text};
use crate::host::{Host, stacks::KnownStack};

/// How long to wait when the request does not say.
const WAIT: Duration = Duration::from_secs(8);
/// What is left of the deadline for the answer to be told.
const MARGIN: Duration = Duration::from_millis(200);
/// What of a body leaves the host.
const BODY_SHOWN: usize = 4 * 1024;
/// Scalars of a JSON answer, and how much of the name and of the value of each.
const FIELDS: usize = 64;
const FIELD_NAME: usize = 256;
const FIELD_VALUE: usize = 1024;

/// Asks, and tells how far the exchange got. Getting nowhere is an answer too, and no failure of the probe.
pub(super) async fn check(request: HttpCheckRequest, cx: &Context) -> Result<HttpCheckResult, Fault> {
    let asked = asked(&request, cx).await?;
    let wait = if request.wait_ms == 0 { WAIT } else { Duration::from_millis(request.wait_ms.into()) };
    let begun = Instant::now();
    let until = (begun + wait).min(cx.deadline.checked_sub(MARGIN).unwrap_or(cx.deadline));
    let mut result = HttpCheckResult { url: asked.url.clone(), ..HttpCheckResult::default() };
    if asked.host_header != asked.dialled {
        result.host.clone_from(&asked.host_header);
    }
    let mut body = Vec::new();
    let failure = exchange(&asked, begun, until, &mut result, &mut body).await.err();
    if let Some(failure) = failure {
        failure.clone_into(&mut result.failure);
    }
    result.total_ms = milliseconds(begun.elapsed());
    read_body(&body, &cx.host, &mut result);
    Ok(result)
}

async fn asked(request: &HttpCheckRequest, cx: &Context) -> Result<Asked, Fault> {
    if request.target() == HttpTarget::Url {
        return asked_url(request, cx);
    }
    let stack = cx.host.stacks().resolve(&request.stack).await?;
    let path = if request.path.is_empty() { stack.health_path().to_owned() } else { request.path.clone() };
    let settings = |key: &str| format!("set `{key}` under [stacks.{}] in /etc/vigie/agent.toml", stack.name);
    if request.target() == HttpTarget::Proxy {
        if stack.server_name.is_empty() {
            let message = format!("nobody knows under which name nginx serves stack `{}`", stack.name);
            return Err(Fault::failed("server_name_unknown", message).hint(settings("server_name")));
        }
        let name = stack.server_name.clone();
        let (scheme, usual) = if stack.proxy_tls { ("https", 443) } else { ("http", 80) };
        let port = if stack.proxy_port == 0 { usual } else { stack.proxy_port };
        let authority = if port == usual { name.clone() } else { format!("{name}:{port}") };
        let url = format!("{scheme}://{authority}{path}");
        may_ask(&path, &stack, &url, cx)?;
        return Ok(Asked {
            url,
            dialled: format!("127.0.0.1:{port}"),
            host_header: authority,
            path,
            tls: stack.proxy_tls.then_some(name),
        });
    }
    if stack.backend_address.is_empty() {
        let message = format!("nobody knows where the backend of stack `{}` is published", stack.name);
        return Err(Fault::failed("backend_unknown", message).hint(settings("backend_address")));
    }
    let address = stack.backend_address.clone();
    let url = format!("http://{address}{path}");
    may_ask(&path, &stack, &url, cx)?;
    Ok(Asked { url, dialled: address.clone(), host_header: address, path, tls: None })
}

/// Without an order nothing of a stack is read but its health path and what the policy names: any other path may
/// answer with what its users said, or do something.
fn may_ask(path: &str, stack: &KnownStack, url: &str, cx: &Context) -> Result<(), Fault> {
    if cx.ordered || path == stack.health_path() || cx.host.policy().may_fetch(url).is_ok() {
        return Ok(());
    }
    let message = format!(
        "without an order, stack `{}` is asked for its health path {} only, not for {path}",
        stack.name,
        stack.health_path()
    );
    Err(Fault::refused("path_forbidden", message)
        .hint(format!("if a probe should read it, add \"{url}\" to `[read] urls` in /etc/vigie/policy.toml")))
}

fn asked_url(request: &HttpCheckRequest, cx: &Context) -> Result<Asked, Fault> {
    if request.url.is_empty() {
        return Err(Fault::refused("argument_missing", "target `url` is asked for and `url` is not given"));
    }
    if !cx.ordered {
        // What the policy allows is the address as a whole.
        if !request.path.is_empty() {
            return Err(Fault::refused(
                "argument_conflict",
                "target `url` is asked for and `path` is given too",
            )
            .hint("put the path into `url`"));
        }
        cx.host.policy().may_fetch(&request.url).map_err(|failure| Fault {
            status: OutcomeStatus::Refused,
            failure,
            partial: None,
        })?;
    }
    let invalid =
        |reason: &str| Fault::refused("url_invalid", format!("{} is no address: {reason}", request.url));
    let uri: Uri = request.url.parse().map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
    let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(invalid("it holds a name or a password"));
    }
    let tls = uri.scheme_str() == Some("https");
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = match request.path.as_str() {
        "" => uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        path => path.to_owned(),
    };
    Ok(Asked {
        url: request.url.clone(),
        dialled: format!("{}:{port}", authority.host()),
        host_header: authority.as_str().to_owned(),
        path,
        tls: tls.then(|| authority.host().trim_matches(['[', ']']).to_owned()),
    })
}

/// What of the body leaves the host.
fn read_body(body: &[u8], host: &Host, result: &mut HttpCheckResult) {
    if let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(body) {
        result.json = scalars(&fields)
            .map(|field| JsonField {
                name: text::text_up_to(host, &field.name, FIELD_NAME),
                value: text::text_up_to(host, &field.value, FIELD_VALUE),
            })
            .collect();
    }
    result.body = text::text_up_to(host, &String::from_utf8_lossy(body), BODY_SHOWN);
}

fn scalars(fields: &serde_json::Map<String, serde_json::Value>) -> impl Iterator<Item = JsonField> {
    use serde_json::Value;
    let scalar = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) | Value::Array(_) => None,
        other => Some(other.to_string()),
    };
    fields
        .iter()
        .filter_map(move |(name, value)| Some(JsonField { name: name.clone(), value: scalar(value)? }))
        .take(FIELDS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A host with one stack, whose backend is published; its secret is `s3cr3t-word`.
    async fn context(ordered: bool) -> (Context, tempfile::TempDir) {
        use crate::{
            config::{Settings, StackSettings},
            host::{child::OutputSink, docker::Engine, stacks::Stacks},
        };
        struct Silent;
        impl OutputSink for Silent {
            fn write(&self, _: vigie_proto::v1::OutputSource, _: &[u8]) {}
        }
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, "version = 1\n[read]\nurls = [\"http://127.0.0.1:8000/ready\"]\n").unwrap();
        std::fs::write(folder.path().join(".env"), "DB_PASSWORD=s3cr3t-word\n").unwrap();
        let stack = StackSettings {
            directory: Some(folder.path().to_owned()),
            config_files: vec!["compose.yml".into()],
            backend_address: Some("127.0.0.1:8000".to_owned()),
            server_name: Some("shop.example".to_owned()),
            ..StackSettings::default()
        };
        let stacks = std::collections::BTreeMap::from([("shop".to_owned(), stack)]);
        let settings = Settings { policy, stacks, ..Settings::default() };
        let engine = Engine::new(folder.path().join("no-engine.sock"));
        let stacks = Stacks::open(folder.path(), engine.clone(), settings.stacks.clone());
        let host = Arc::new(Host::new(settings, engine, stacks));
        host.stacks().refresh().await;
        (
            Context {
                host,
                deadline: Instant::now() + LONG,
                output: Arc::new(Silent),
                ordered,
                order: None,
                prepared: None,
                keeping: None,
                stop: CancellationToken::new(),
            },
            folder,
        )
    }

    #[tokio::test]
    async fn without_an_order_only_the_health_path_and_what_the_policy_names() {
        let ask = |target: HttpTarget, path: &str| HttpCheckRequest {
            target: target.into(),
            path: path.to_owned(),
            ..Default::default()
        };
        let (probe, _folder) = context(false).await;
        for target in [HttpTarget::Backend, HttpTarget::Proxy] {
            for path in ["", "/health"] {
                assert_eq!(asked(&ask(target, path), &probe).await.ok().unwrap().path, "/health");
            }
            let refused = asked(&ask(target, "/admin/export"), &probe).await.err().unwrap();
            assert_eq!(
                (refused.status, refused.failure.code.as_str()),
                (OutcomeStatus::Refused, "path_forbidden")
            );
            assert!(refused.failure.hint.contains("[read] urls"), "{refused:?}");
        }
        assert_eq!(asked(&ask(HttpTarget::Backend, "/ready"), &probe).await.ok().unwrap().path, "/ready");
        let url =
            HttpCheckRequest { url: "http://127.0.0.1:8000/ready".to_owned(), ..ask(HttpTarget::Url, "") };
        assert_eq!(asked(&url, &probe).await.ok().unwrap().path, "/ready");
        let other = HttpCheckRequest { path: "/admin".to_owned(), ..url };
        assert_eq!(asked(&other, &probe).await.err().unwrap().failure.code, "argument_conflict");
        let (order, _folder) = context(true).await;
        assert_eq!(asked(&ask(HttpTarget::Backend, "/admin"), &order).await.ok().unwrap().path, "/admin");
    }

    #[tokio::test]
    async fn a_secret_at_a_cut_leaves_nothing_of_itself() {
        let (cx, _folder) = context(false).await;
        let body = |before: usize| {
            let (value, name) = ("x".repeat(before), "y".repeat(FIELD_NAME - 4));
            format!("{{\"{name}s3cr3t-word\":\"{value}s3cr3t-word\"}}")
        };
        for before in [FIELD_VALUE - 4, BODY_SHOWN - FIELD_NAME - 20] {
            let mut result = HttpCheckResult::default();
            read_body(body(before).as_bytes(), &cx.host, &mut result);
            assert_eq!(result.json.len(), 1);
            assert!(result.json[0].name.len() == FIELD_NAME && result.json[0].value.len() == FIELD_VALUE);
            assert!(!format!("{result:?}").contains("s3c"), "{result:?}");
        }
        let line = format!("{}s3cr3t-word", "x".repeat(8 * 1024 - 4));
        let lines = text::lines(&cx.host, &[line.as_str(), "s3cr3t-word"]);
        assert!(!lines[0].contains("s3c") && lines[1] == "[redacted]", "{lines:?}");
    }

    #[test]
    fn scalars_as_json_writes_them() {
        let body =
            serde_json::json!({"ok": true, "n": 3, "s": "x", "nothing": null, "deep": {"a": 1}, "list": [1]});
        let found: Vec<_> = scalars(body.as_object().unwrap())
            .map(|field| format!("{}={}", field.name, field.value))
            .collect();
        assert_eq!(found, ["n=3", "nothing=null", "ok=true", "s=x"]);
    }
}
