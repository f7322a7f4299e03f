//! A controller in the test's own process, over real TLS.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::SystemTime,
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use vigie_proto::v1::{
    FromAgent, OutputChunk, OutputReceipt, ToAgent, Welcome,
    link_server::{Link as LinkService, LinkServer},
    to_agent,
};
use vigie_transport::{
    credential::{Credential, PrivateKey},
    identity::Role,
    server::{Admits, Listener, limits},
    tls::{ClientAuth, server_config},
};

/// A CA for one role.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn root(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.0.der().clone()
    }

    /// A credential whose chain ends with this CA.
    pub(super) fn issue(&self, uri: &str, key: PrivateKey) -> Credential {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let day = std::time::Duration::from_secs(24 * 3600);
        params.not_before = (SystemTime::now() - day).into();
        params.not_after = (SystemTime::now() + day).into();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let public = KeyPair::from_pem(&key.to_pem()).unwrap();
        let certificate = params.signed_by(&public, &self.0).unwrap();
        Credential::new(vec![certificate.der().clone(), self.root()], key).unwrap()
    }

    pub(super) fn controller(&self) -> Credential {
        self.issue("spiffe://fleet.test/controller/one", PrivateKey::generate().unwrap())
    }
}

/// One session as the controller sees it.
pub(super) struct Session {
    pub(super) from: Streaming<FromAgent>,
    pub(super) to: mpsc::Sender<Result<ToAgent, Status>>,
}

impl Session {
    pub(super) async fn next(&mut self) -> FromAgent {
        self.from.message().await.unwrap().unwrap()
    }

    pub(super) async fn welcome(&self) {
        self.say(to_agent::Message::Welcome(Welcome { controller: "one".to_owned(), ..Welcome::default() }))
            .await;
    }

    pub(super) async fn say(&self, message: to_agent::Message) {
        self.to.send(Ok(ToAgent { message: Some(message) })).await.unwrap();
    }
}

/// The link's service: every session and every output stream goes to the test.
pub(super) struct Sessions {
    pub(super) opened: mpsc::Sender<Session>,
    pub(super) outputs: mpsc::Sender<Vec<OutputChunk>>,
    /// What sessions are told instead of being opened.
    pub(super) refuse: watch::Receiver<Option<Status>>,
}

#[tonic::async_trait]
impl LinkService for Sessions {
    type SessionStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(status) = self.refuse.borrow().clone() {
            return Err(status);
        }
        let (to, messages) = mpsc::channel(16);
        self.opened.send(Session { from: request.into_inner(), to }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn output(
        &self,
        request: Request<Streaming<OutputChunk>>,
    ) -> Result<Response<OutputReceipt>, Status> {
        let chunks: Vec<_> = request.into_inner().collect::<Result<Vec<_>, _>>().await?;
        self.outputs.send(chunks).await.unwrap();
        Ok(Response::new(OutputReceipt::default()))
    }
}

/// Serves the link until `stop`.
pub(super) fn serve_link(
    address: SocketAddr,
    credential: &Credential,
    agents: &Authority,
    sessions: Sessions,
    stop: CancellationToken,
) -> SocketAddr {
    let auth = ClientAuth::Required { roots: vec![agents.root()] };
    let (_, config) = watch::channel(server_config(credential, auth).unwrap());
    let listener = Listener::bind(address, config, Admits::Roles(&[Role::Agent])).unwrap();
    let bound = listener.local_address().unwrap();
    tokio::spawn(async move {
        limits(Server::builder())
            .add_service(LinkServer::new(sessions))
            .serve_with_incoming_shutdown(listener.incoming(), stop.cancelled_owned())
            .await
            .unwrap();
    });
    bound
}

pub(super) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Where an interrupted enrolment keeps its key.
pub(super) fn key_file(state: &std::path::Path) -> PathBuf {
    state.join("enrolment-key.pem")
}
