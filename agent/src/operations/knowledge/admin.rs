//! The backend's admin interface for the knowledge base: one exchange on a connection of its own, on this machine.

use std::time::Duration;

use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use zeroize::Zeroizing;

use crate::{
    host::stacks::KnownStack,
    operations::{Context, Fault},
};

/// An admin call reads a few rows, or puts one job into a queue.
const ANSWER: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(2);
/// The answers are small objects.
const BODY: usize = 64 * 1024;

/// Where a stack's admin interface is.
pub(super) struct Admin {
    /// Without a slash at its end.
    pub url: String,
    authority: String,
    token: Option<Zeroizing<String>>,
}

/// What it answered; the error is the word for what ended the exchange.
pub(super) type Answered = Result<(u16, Value), &'static str>;

impl Admin {
    /// The interface of the settings, else of the backend's published address.
    pub(super) fn of(stack: &KnownStack, cx: &Context) -> Result<Self, Fault> {
        let settings = cx.host.settings().stacks.get(&stack.name);
        let hint = format!("set `admin_url` under [stacks.{}] in /etc/vigie/agent.toml", stack.name);
        let url = match settings.and_then(|settings| settings.admin_url.clone()) {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None if stack.backend_address.is_empty() => {
                let message =
                    format!("nobody knows where the backend of stack `{}` is published", stack.name);
                return Err(Fault::failed("backend_unknown", message).hint(hint));
            }
            None => format!("http://{}", stack.backend_address),
        };
        let uri: Option<Uri> = url.parse().ok();
        let plain = uri.filter(|uri| uri.scheme_str() == Some("http"));
        let authority = plain.as_ref().and_then(Uri::authority).filter(|own| !own.as_str().contains('@'));
        let Some(authority) = authority.map(ToString::to_string) else {
            return Err(Fault::failed(
                "url_invalid",
                "`admin_url` is no plain address such as http://127.0.0.1:3000",
            )
            .hint(hint));
        };
        let named = settings.and_then(|settings| settings.admin_token_env.as_deref());
        let token = match named {
            None => None,
            Some(name) => match stack.variable(&[name]) {
                Some(variable) => Some(variable.value),
                None => {
                    let message =
                        format!("`admin_token_env` names {name}, which no env file of the stack sets");
                    return Err(
                        Fault::failed("admin_token_missing", message).hint("set it, or correct the name")
                    );
                }
            },
        };
        Ok(Self { url, authority, token })
    }

    /// Asks for a path on behalf of a tenant.
    pub(super) async fn ask(&self, method: Method, path: &str, tenant: &str) -> Answered {
        let dialled = if self.authority.rsplit(']').next().is_some_and(|end| end.contains(':')) {
            self.authority.clone()
        } else {
            format!("{}:80", self.authority)
        };
        let stream = timeout(CONNECT, TcpStream::connect(&dialled)).await.map_err(|_| "timeout")?;
        let stream = stream.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "refused",
            _ => "unreachable",
        })?;
        timeout(ANSWER, self.speak(stream, method, path, tenant)).await.map_err(|_| "timeout")?
    }

    async fn speak(&self, stream: TcpStream, method: Method, path: &str, tenant: &str) -> Answered {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| "protocol")?;
        let base = self.url.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", base.unwrap_or_default()))
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, concat!("vigie-agent/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_LENGTH, "0")
            .header(header::CONNECTION, "close")
            .header("X-Tenant-ID", tenant);
        if let Some(token) = &self.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = http::HeaderValue::from_str(&bearer).map_err(|_| "protocol")?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|_| "protocol")?;
        let talk = async {
            let answer = sender.send_request(request).await.map_err(|_| "reset")?;
            let status = answer.status().as_u16();
            let (mut frames, mut body) = (answer.into_body(), Vec::new());
            while let Some(frame) = frames.frame().await {
                let frame = frame.map_err(|_| "reset")?;
                let Some(data) = frame.data_ref() else { continue };
                body.extend_from_slice(&data[..data.len().min(BODY.saturating_sub(body.len()))]);
            }
            Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        // The connection moves only while it is polled; when it ends first, what was said is in the channel.
        tokio::pin!(connection, talk);
        tokio::select! {
            done = &mut talk => return done,
            _ = &mut connection => {}
        }
        talk.await
    }
}
