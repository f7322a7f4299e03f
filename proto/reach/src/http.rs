//! One HTTP exchange on a connection of its own, so that each of its stages is told apart.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};
use vigie_proto::v1::{Certificate, HttpCheckResult};

use crate::certificate;

/// What of a body is read.
const BODY_READ: usize = 64 * 1024;

/// Whom is asked for what.
#[derive(Debug, Clone)]
pub struct Asked {
    /// As a person would write it.
    pub url: String,
    /// Host and port to dial.
    pub dialled: String,
    /// What `Host` says.
    pub host_header: String,
    pub path: String,
    /// The name for TLS, where there is TLS.
    pub tls: Option<String>,
}

/// One exchange. Notes in the result how far it got.
///
/// # Errors
/// The word for what ended it: refused, timeout, reset, unreachable, tls, resolve, protocol.
pub async fn exchange(
    asked: &Asked,
    begun: Instant,
    until: Instant,
    result: &mut HttpCheckResult,
    body: &mut Vec<u8>,
) -> Result<(), &'static str> {
    "resolve".clone_into(&mut result.stage);
    let addresses: Vec<SocketAddr> = timeout_at(until, lookup_host(&asked.dialled))
        .await
        .map_err(|_| "timeout")?
        .map_err(|_| "resolve")?
        .collect();
    result.port = addresses.first().ok_or("resolve")?.port().into();
    "connect".clone_into(&mut result.stage);
    let connected = timeout_at(until, TcpStream::connect(&*addresses)).await;
    result.connect_ms = milliseconds(begun.elapsed());
    let stream = connected.map_err(|_| "timeout")?.map_err(|error| word(&error))?;
    let Some(name) = &asked.tls else { return speak(stream, asked, until, result, body).await };
    "tls".clone_into(&mut result.stage);
    let stream = handshake(name, stream, until).await?;
    speak(stream, asked, until, result, body).await
}

/// A TLS handshake that takes any certificate.
pub(crate) async fn handshake(
    name: &str,
    stream: TcpStream,
    until: Instant,
) -> Result<TlsStream<TcpStream>, &'static str> {
    let name = ServerName::try_from(name.to_owned()).map_err(|_| "tls")?;
    let connector = TlsConnector::from(Arc::new(tls_config().map_err(|_| "tls")?));
    let stream = timeout_at(until, connector.connect(name, stream)).await.map_err(|_| "timeout")?;
    stream.map_err(|error| match word(&error) {
        "protocol" => "tls",
        word => word,
    })
}

/// The certificate that a server shows for a name.
///
/// # Errors
/// The word for why it shows none: refused, timeout, reset, unreachable, tls.
pub async fn served(
    address: IpAddr,
    port: u16,
    name: &str,
    until: Instant,
) -> Result<Certificate, &'static str> {
    let connected = timeout_at(until, TcpStream::connect((address, port))).await.map_err(|_| "timeout")?;
    let stream = handshake(name, connected.map_err(|error| word(&error))?, until).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    chain.first().and_then(certificate::describe).ok_or("tls")
}

pub(crate) async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    asked: &Asked,
    until: Instant,
    result: &mut HttpCheckResult,
    body: &mut Vec<u8>,
) -> Result<(), &'static str> {
    "request".clone_into(&mut result.stage);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| hyper_word(&error))?;
    let request = Request::get(asked.path.as_str())
        .header(header::HOST, asked.host_header.as_str())
        .header(header::USER_AGENT, concat!("vigie/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|_| "protocol")?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(|error| hyper_word(&error))?;
        "response".clone_into(&mut result.stage);
        result.status = answer.status().as_u16().into();
        let mut frames = answer.into_body();
        while let Some(frame) = frames.frame().await {
            let frame = frame.map_err(|error| hyper_word(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            let room = BODY_READ.saturating_sub(body.len()).min(data.len());
            body.extend_from_slice(&data[..room]);
            if body.len() >= BODY_READ {
                break;
            }
        }
        Ok(())
    };
    // The connection moves only while it is polled; when it ends first, what was said is in the channel.
    let both = async {
        tokio::pin!(connection, talk);
        tokio::select! {
            done = &mut talk => return done,
            _ = &mut connection => {}
        }
        talk.await
    };
    timeout_at(until, both).await.map_err(|_| "timeout")?
}

/// The catalogue's word for an error of the network.
pub(crate) fn word(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused",
        ErrorKind::TimedOut => "timeout",
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::UnexpectedEof => "reset",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
            "unreachable"
        }
        _ => "protocol",
    }
}

fn hyper_word(error: &hyper::Error) -> &'static str {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match io {
        Some(io) => word(io),
        None if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => "reset",
        None if error.is_timeout() => "timeout",
        None => "protocol",
    }
}

/// A duration as the catalogue writes it.
pub fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

fn tls_config() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Takes any certificate whose key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// How far an exchange with a server of this behaviour gets.
    async fn with_server<F: Future<Output = ()>>(
        tls: Option<&str>,
        wait: Duration,
        serve: impl FnOnce(TcpStream) -> F,
    ) -> (HttpCheckResult, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Asked {
            url: String::new(),
            dialled: address.clone(),
            host_header: address,
            path: "/health".to_owned(),
            tls: tls.map(str::to_owned),
        };
        let (mut result, mut body, begun) = (HttpCheckResult::default(), Vec::new(), Instant::now());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            if tls.is_none() {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).await.unwrap();
                assert!(request[..read].starts_with(b"GET /health HTTP/1.1\r\n"));
            }
            serve(stream).await;
        };
        let (failure, ()) =
            tokio::join!(exchange(&asked, begun, begun + wait, &mut result, &mut body), serve);
        failure.err().unwrap_or_default().clone_into(&mut result.failure);
        (result, String::from_utf8(body).unwrap())
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn an_answer_with_its_body() {
        let (result, body) = with_server(None, LONG, async |mut stream| {
            let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\n{\"a\":1}";
            stream.write_all(answer).await.unwrap();
        })
        .await;
        assert_eq!((result.stage.as_str(), result.failure.as_str(), result.status), ("response", "", 503));
        assert_eq!(body, "{\"a\":1}");
    }

    #[tokio::test]
    async fn a_server_that_closes_is_a_reset() {
        let (result, _) = with_server(None, LONG, async |stream| drop(stream)).await;
        assert_eq!((result.stage.as_str(), result.failure.as_str(), result.status), ("request", "reset", 0));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_a_timeout() {
        let (result, _) = with_server(None, Duration::from_millis(150), async |mut stream| {
            // Ends when the client gives up.
            let _ = stream.read(&mut [0; 16]).await;
        })
        .await;
        assert_eq!((result.stage.as_str(), result.failure.as_str()), ("request", "timeout"));
    }

    #[tokio::test]
    async fn a_body_that_stops_half_way_keeps_its_status() {
        let (result, body) = with_server(None, Duration::from_millis(150), async |mut stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
            let _ = stream.read(&mut [0; 16]).await;
        })
        .await;
        assert_eq!(
            (result.stage.as_str(), result.failure.as_str(), result.status),
            ("response", "timeout", 200)
        );
        assert_eq!(body, "half");
    }

    #[tokio::test]
    async fn what_is_no_http_and_what_is_no_tls() {
        let (result, _) = with_server(None, LONG, async |mut stream| {
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n\r\n").await.unwrap();
        })
        .await;
        assert_eq!((result.stage.as_str(), result.failure.as_str()), ("request", "protocol"));
        let (result, _) = with_server(Some("shop.example"), LONG, async |mut stream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        })
        .await;
        assert_eq!((result.stage.as_str(), result.failure.as_str()), ("tls", "tls"));
    }

    #[tokio::test]
    async fn nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let asked = |dialled: String| Asked {
            url: String::new(),
            host_header: dialled.clone(),
            dialled,
            path: "/".to_owned(),
            tls: None,
        };
        let (mut result, begun) = (HttpCheckResult::default(), Instant::now());
        let ended = exchange(&asked(address), begun, begun + LONG, &mut result, &mut Vec::new()).await;
        assert_eq!((ended, result.stage.as_str()), (Err("refused"), "connect"));
        let nowhere = asked("no-such-host.invalid:80".to_owned());
        let ended = exchange(&nowhere, begun, begun + LONG, &mut result, &mut Vec::new()).await;
        assert_eq!((ended, result.stage.as_str()), (Err("resolve"), "resolve"));
    }
}
