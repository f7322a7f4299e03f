//! A fleet in memory: CAs, credentials good and bad, and a server that says whom it sees.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::transport::{Channel, Server};
use tower::{Service, ServiceExt, service_fn};
use vigie_transport::client::{Address, ConnectError, Keepalive, connect};
use vigie_transport::credential::{Credential, PrivateKey};
use vigie_transport::identity::Role;
use vigie_transport::pin::Pin;
use vigie_transport::server::{Admits, Listener, Peer, limits};
use vigie_transport::tls::{ClientAuth, ServerTrust, client_config, server_config};

pub(crate) const AGENTS: Admits = Admits::Roles(&[Role::Agent]);
pub(crate) const CONTROLLER: &str = "spiffe://fleet.test/controller/one";
pub(crate) const AGENT: &str = "spiffe://fleet.test/agent/vps1";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a leaf says; the default is valid today and names `uris` alone.
#[derive(Clone, Copy)]
pub(crate) struct Leaf<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) dns: &'a [&'a str],
    /// Days since its end; negative while it is valid.
    pub(crate) expired_for: i32,
    pub(crate) authority: bool,
}

impl<'a> Leaf<'a> {
    pub(crate) fn of(uris: &'a [&'a str]) -> Self {
        Self { uris, dns: &[], expired_for: -1, authority: false }
    }

    pub(crate) fn controller() -> Self {
        Self { dns: &["localhost"], ..Self::of(&[CONTROLLER]) }
    }
}

/// A CA that issues whatever a test asks for.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A CA that nobody has heard of.
    pub(crate) fn stranger() -> Self {
        Self::named("stranger")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(crate) fn pin(&self) -> Pin {
        Pin::of(self.0.der()).unwrap()
    }

    /// A credential whose chain ends with this CA.
    pub(crate) fn issue(&self, leaf: Leaf<'_>) -> Credential {
        let key = PrivateKey::generate().unwrap();
        let mut params =
            CertificateParams::new(leaf.dns.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        let uris = leaf.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        let now = SystemTime::now();
        params.not_before = (now - 100 * DAY).into();
        params.not_after = match u32::try_from(leaf.expired_for) {
            Ok(days) => now - days * DAY,
            Err(_) => now + leaf.expired_for.unsigned_abs() * DAY,
        }
        .into();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        if leaf.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let public = KeyPair::from_pem(&key.to_pem()).unwrap();
        let certificate = params.signed_by(&public, &self.0).unwrap();
        Credential::new(vec![certificate.der().clone(), self.root()], key).unwrap()
    }
}

/// A fleet's two CAs and a good credential of each.
pub(crate) struct Fleet {
    pub(crate) controllers: Authority,
    pub(crate) agents: Authority,
    pub(crate) controller: Credential,
    pub(crate) agent: Credential,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let [controllers, agents] = ["controllers", "agents"].map(Authority::named);
        let controller = controllers.issue(Leaf::controller());
        let agent = agents.issue(Leaf::of(&[AGENT]));
        Self { controllers, agents, controller, agent }
    }

    pub(crate) fn required(&self) -> ClientAuth {
        ClientAuth::Required { roots: vec![self.agents.root()] }
    }

    pub(crate) fn trust(&self) -> ServerTrust {
        ServerTrust::Roots(vec![self.controllers.root()])
    }

    /// Serves agents.
    pub(crate) fn serve(&self) -> Running {
        Running::new(&self.controller, self.required(), AGENTS)
    }

    /// A client's configuration that trusts this fleet's controllers.
    pub(crate) fn client(&self, credential: &Credential) -> Arc<ClientConfig> {
        client_config(self.trust(), Some(credential)).unwrap()
    }
}

/// A tonic server on loopback that answers every call with its peer; it stops when dropped.
pub(crate) struct Running {
    pub(crate) socket: SocketAddr,
    pub(crate) config: watch::Sender<Arc<ServerConfig>>,
    _stop: oneshot::Sender<()>,
    _serving: JoinSet<()>,
}

impl Running {
    pub(crate) fn new(credential: &Credential, auth: ClientAuth, admits: Admits) -> Self {
        let (config, reader) = watch::channel(server_config(credential, auth).unwrap());
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), reader, admits).unwrap();
        Self::over(listener, config)
    }

    pub(crate) fn over(listener: Listener, config: watch::Sender<Arc<ServerConfig>>) -> Self {
        let socket = listener.local_address().unwrap();
        let (_stop, stopped) = oneshot::channel::<()>();
        let mut _serving = JoinSet::new();
        _serving.spawn(async move {
            let stopped = async move { drop(stopped.await) };
            let under_way = Arc::new(AtomicUsize::new(0));
            let service = service_fn(move |request| whoami(request, Arc::clone(&under_way)));
            limits(Server::builder())
                .serve_with_incoming_shutdown(service, listener.incoming(), stopped)
                .await
                .unwrap();
        });
        Self { socket, config, _stop, _serving }
    }

    /// The name that the controllers' certificates carry.
    pub(crate) fn address(&self) -> Address {
        format!("localhost:{}", self.socket.port()).parse().unwrap()
    }

    pub(crate) async fn connect(&self, tls: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
        connect(self.address(), tls, Keepalive::default()).await
    }
}

async fn whoami(
    request: http::Request<Body>,
    under_way: Arc<AtomicUsize>,
) -> Result<http::Response<Body>, Infallible> {
    let peer = request.extensions().get::<Peer>().expect("a peer on every request");
    let mut response = http::Response::new(Body::empty());
    if let Some(identity) = peer.identity() {
        response.headers_mut().insert("peer", identity.to_string().parse().unwrap());
    }
    if let Some(certificate) = &peer.certificate {
        let expired = certificate.is_expired(SystemTime::now());
        response.headers_mut().insert("expired", expired.to_string().parse().unwrap());
    }
    if request.uri().path() == "/slow" {
        let number = under_way.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
        under_way.fetch_sub(1, Ordering::SeqCst);
        response.headers_mut().insert("under-way", number.into());
    }
    Ok(response)
}

/// One call; its answer says whom the server saw.
pub(crate) async fn call(
    mut channel: Channel,
    path: &str,
) -> Result<http::Response<Body>, tonic::transport::Error> {
    let request = http::Request::post(path).body(Body::empty()).unwrap();
    channel.ready().await?.call(request).await
}

/// Whom the server saw; empty for nobody.
pub(crate) async fn seen(channel: Channel) -> String {
    let response = call(channel, "/").await.unwrap();
    response.headers().get("peer").map_or(String::new(), |peer| peer.to_str().unwrap().to_owned())
}
