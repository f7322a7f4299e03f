//! The connection to the controller: one channel, shown our certificate, trusting only the fleet's own CA. It takes note of
//! answers that may be behind.

use std::{
    pin::Pin,
    str::FromStr as _,
    sync::{Arc, Mutex, PoisonError},
    task::{Context as Polling, Poll},
};

use tonic::{
    body::Body,
    codegen::{Service, http},
    transport::Channel,
};
use vigie_proto::v1::{
    hosts_client::HostsClient, incidents_client::IncidentsClient, runbooks_client::RunbooksClient,
    runs_client::RunsClient,
};
use vigie_proto::{STALE_SINCE, STALE_WHY};
use vigie_transport::{
    client::{Address, Keepalive, connect_over},
    credential::{Credential, certificates_from_pem},
    network::Network,
    tls::{ServerTrust, client_config},
};

use crate::{
    context::{Context, Home},
    error::Error,
    keys::Keys,
};

/// An answer with the evidence of a whole fleet is larger than tonic's bound of 4 MiB.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;

/// One controller, as one operator.
pub(crate) struct Client {
    pub(crate) context: Context,
    pub(crate) keys: Keys,
    channel: Marked,
}

impl Client {
    /// Connects to the controller of the context of this name, or of the current one.
    pub(crate) async fn connect(
        network: Arc<dyn Network>,
        home: &Home,
        context: Option<&str>,
        stale: &Stale,
    ) -> Result<Self, Error> {
        let context = home.context(context)?;
        let keys = Keys::of(home.state(&context.name)?);
        let credential = keys.credential()?;
        let channel = Marked { channel: dial(network, &context, &credential).await?, stale: stale.clone() };
        Ok(Self { context, keys, channel })
    }

    pub(crate) fn hosts(&self) -> HostsClient<Marked> {
        HostsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn runs(&self) -> RunsClient<Marked> {
        RunsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn incidents(&self) -> IncidentsClient<Marked> {
        IncidentsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn runbooks(&self) -> RunbooksClient<Marked> {
        RunbooksClient::new(self.channel.clone())
    }
}

/// Since when the controller says that its answers may be behind, and why; the last that it said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stale(Arc<Mutex<Option<(i64, String)>>>);

impl Stale {
    pub(crate) fn get(&self) -> Option<(i64, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn heed(&self, headers: &http::HeaderMap) {
        let read = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let since = read(STALE_SINCE).and_then(|since| since.parse().ok());
        let said = since.map(|since| (since, read(STALE_WHY).unwrap_or_default().to_owned()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }
}

/// A channel that reads each answer's mark.
#[derive(Debug, Clone)]
pub(crate) struct Marked {
    channel: Channel,
    stale: Stale,
}

impl Service<http::Request<Body>> for Marked {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, polling: &mut Polling<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(polling)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (answer, stale) = (self.channel.call(request), self.stale.clone());
        Box::pin(async move {
            let answer = answer.await?;
            stale.heed(answer.headers());
            Ok(answer)
        })
    }
}

async fn dial(
    network: Arc<dyn Network>,
    context: &Context,
    credential: &Credential,
) -> Result<Channel, Error> {
    let roots = certificates_from_pem(&context.settings.roots)
        .map_err(|_| Error::Enrolment("the context holds no CA certificate".to_owned()))?;
    let tls = client_config(ServerTrust::Roots(roots), Some(credential))?;
    let address = Address::from_str(&context.settings.address)
        .map_err(|source| Error::Address { place: "context", source })?;
    connect_over(network, address, tls, Keepalive::default()).await.map_err(Error::Connect)
}
