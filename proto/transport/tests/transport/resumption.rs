//! No session is ever resumed, whichever end would like to.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use vigie_transport::credential::Credential;

use crate::support::{Authority, Fleet};

fn store(authority: &Authority) -> Arc<RootCertStore> {
    let mut store = RootCertStore::empty();
    store.add(authority.root()).unwrap();
    Arc::new(store)
}

fn key(credential: &Credential) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(credential.key().to_pem().as_bytes()).unwrap()
}

#[tokio::test]
async fn our_listener_gives_an_eager_client_nothing_to_resume_with() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let mut eager = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(store(&fleet.controllers))
        .with_client_auth_cert(fleet.agent.chain().to_vec(), key(&fleet.agent))
        .unwrap();
    eager.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(eager));
    for _ in 0..3 {
        let tcp = TcpStream::connect(server.socket).await.unwrap();
        let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
        // HTTP/2's SETTINGS come after any ticket would.
        assert!(tls.read(&mut [0; 64]).await.unwrap() > 0);
        let (_, session) = tls.get_ref();
        assert_eq!(
            (session.handshake_kind(), session.tls13_tickets_received()),
            (Some(HandshakeKind::Full), 0)
        );
    }
}

#[tokio::test]
async fn our_client_resumes_nothing_with_an_eager_server() {
    let fleet = Fleet::new();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(store(&fleet.agents), provider.clone()).build().unwrap();
    let mut eager = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(fleet.controller.chain().to_vec(), key(&fleet.controller))
        .unwrap();
    eager.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(eager));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connector = TlsConnector::from(fleet.client(&fleet.agent));
    for _ in 0..3 {
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let mut tls = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
            assert_eq!(tls.read(&mut [0; 1]).await.unwrap(), 1);
            // The eager server did offer; our side just keeps nothing.
            assert!(tls.get_ref().1.tls13_tickets_received() > 0);
        };
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = acceptor.accept(tcp).await.unwrap();
            assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            tls.write_all(b"!").await.unwrap();
            tls.flush().await.unwrap();
        };
        tokio::join!(client, server);
    }
}
