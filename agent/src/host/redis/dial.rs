//! The way to a Redis: a connection, in TLS where the stack's address asks for it, and the first exchange on it.

use std::{io, net::SocketAddr, sync::Arc};

use ::redis::{AsyncConnectionConfig, ProtocolVersion, RedisConnectionInfo, aio::MultiplexedConnection};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::{TcpStream, lookup_host},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{ANSWER, CONNECT, LINE, Place, Trouble, said};

/// Where distributions keep the certificates that a machine trusts.
const TRUSTED: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem", "/etc/pki/tls/certs/ca-bundle.crt"];

/// What Redis is spoken to over.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// The library's half of a connection; it ends with whoever holds it.
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends one inline PING on a connection of its own, and reads the first line of the answer.
pub(super) async fn first_line(place: &Place) -> Result<(SocketAddr, String), Trouble> {
    let addresses = timeout(CONNECT, lookup_host(&place.address)).await;
    let addresses: Vec<SocketAddr> = match addresses {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Trouble::new("unreachable", error.to_string())),
        Err(_) => return Err(Trouble::new("unreachable", "its name cannot be resolved")),
    };
    let (peer, wire) = open(&addresses, place).await?;
    let mut stream = BufReader::new(wire);
    let exchange = async {
        // A server that refuses every client has answered and closed already: what it said is read whatever writing does.
        let written = async {
            stream.get_mut().write_all(b"PING\r\n").await?;
            stream.get_mut().flush().await
        };
        let written = written.await;
        let mut line = String::new();
        let read = tokio::io::AsyncReadExt::take(&mut stream, LINE).read_line(&mut line).await;
        if line.is_empty() { written.and(read.map(drop)).map(|()| line) } else { Ok(line) }
    };
    match timeout(ANSWER, exchange).await {
        Ok(Ok(line)) if line.is_empty() => Err(Trouble::new("protocol", "it closes the connection at once")),
        Ok(Ok(line)) => Ok((peer, line.trim_end().to_owned())),
        Ok(Err(error)) => Err(Trouble::new("protocol", error.to_string())),
        Err(_) => Err(Trouble::new("hung", "it takes the connection and does not answer")),
    }
}

/// A connection of the library's, to the address that answered. Nothing is sent before the first command: what Redis says
/// to a password is read here, not in the library.
pub(super) async fn connect(
    peer: SocketAddr,
    place: &Place,
) -> Result<(MultiplexedConnection, Driver), Trouble> {
    let (_, wire) = open(&[peer], place).await?;
    let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(ANSWER));
    let (connection, driver) =
        MultiplexedConnection::new_with_config(&info, wire, config).await.map_err(|error| said(&error))?;
    Ok((connection, Driver(tokio::spawn(driver))))
}

async fn open(addresses: &[SocketAddr], place: &Place) -> Result<(SocketAddr, Box<dyn Wire>), Trouble> {
    let stream = match timeout(CONNECT, TcpStream::connect(addresses)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            return Err(Trouble::new("refused", error.to_string()));
        }
        Ok(Err(error)) => return Err(Trouble::new("unreachable", error.to_string())),
        Err(_) => return Err(Trouble::new("timeout", "nothing takes the connection")),
    };
    let peer = stream.peer_addr().map_err(|error| Trouble::new("unreachable", error.to_string()))?;
    let Some(name) = &place.tls else { return Ok((peer, Box::new(stream))) };
    let refused = |why: String| Trouble::new("tls", why);
    let name = ServerName::try_from(name.clone()).map_err(|error| refused(error.to_string()))?;
    let shaken = timeout(ANSWER, TlsConnector::from(client().map_err(refused)?).connect(name, stream)).await;
    match shaken {
        Ok(Ok(stream)) => Ok((peer, Box::new(stream))),
        Ok(Err(error)) => Err(refused(error.to_string())),
        Err(_) => Err(Trouble::new("hung", "it takes the connection and does not answer the TLS greeting")),
    }
}

/// Believes what this machine believes, as the stack's own client does.
fn client() -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = TRUSTED.iter().find_map(|path| std::fs::read(path).ok()) {
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&file).flatten());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    Open,
    Password,
    Trouble(Trouble),
}

/// What the answer to the first PING means.
pub(super) fn hello(line: &str) -> Greeting {
    if line == "+PONG" {
        return Greeting::Open;
    }
    let Some(error) = line.strip_prefix('-') else {
        return Greeting::Trouble(Trouble::new("protocol", "what answers is no Redis"));
    };
    let trouble = trouble_of(error);
    match trouble.state {
        "password_unknown" => Greeting::Password,
        // It lets in, and tells more.
        "loading" | "master_down" | "busy" | "misconf" => Greeting::Open,
        _ => Greeting::Trouble(trouble),
    }
}

/// An error line of Redis, without the minus.
pub(super) fn trouble_of(error: &str) -> Trouble {
    let (code, rest) = error.split_once(' ').unwrap_or((error, ""));
    let state = match code {
        "NOAUTH" => "password_unknown",
        "WRONGPASS" => "wrong_password",
        "LOADING" => "loading",
        "BUSY" => "busy",
        "MASTERDOWN" => "master_down",
        "DENIED" => "protected",
        "NOPERM" => "no_permission",
        // PING is refused like a write while snapshots fail; reads are served.
        "MISCONF" => "misconf",
        "ERR" if rest.starts_with("max number of clients") => "max_clients",
        // Before Redis 6.
        "ERR" if rest.starts_with("invalid password") => "wrong_password",
        _ => "error",
    };
    Trouble::new(state, error)
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    #[test]
    fn every_answer_to_the_first_ping() {
        // Each line captured from Redis 7.0.15 in that state.
        let state = |line: &str| match hello(line) {
            Greeting::Open => "open",
            Greeting::Password => "password",
            Greeting::Trouble(trouble) => trouble.state,
        };
        for (line, expected) in [
            ("+PONG", "open"),
            ("-NOAUTH Authentication required.", "password"),
            ("-LOADING Redis is loading the dataset in memory", "open"),
            ("-ERR max number of clients reached", "max_clients"),
            ("-DENIED Redis is running in protected mode because protected mode is enabled", "protected"),
            ("-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", "open"),
            (
                "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
                "open",
            ),
            (
                "-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
                "open",
            ),
            ("HTTP/1.1 400 Bad Request", "protocol"),
        ] {
            assert_eq!(state(line), expected, "{line}");
        }
    }

    fn place(address: SocketAddr) -> Place {
        Place { address: address.to_string(), tls: Some("localhost".to_owned()), ..Place::default() }
    }

    #[tokio::test]
    async fn a_certificate_that_this_machine_does_not_believe_is_no_absence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        });
        let trouble = first_line(&place(address)).await.unwrap_err();
        assert_eq!(trouble.state, "tls", "{trouble:?}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_speaks_no_tls_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(b"-ERR unknown command\r\n").await;
        });
        assert_eq!(first_line(&place(address)).await.unwrap_err().state, "tls");
        server.await.unwrap();
    }
}
