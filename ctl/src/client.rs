//! The connection to the controller: one channel, shown our certificate, trusting only the fleet's own CA.

use std::str::FromStr as _;

use tonic::transport::Channel;
use vigie_proto::v1::{
    hosts_client::HostsClient, incidents_client::IncidentsClient, runbooks_client::RunbooksClient,
    runs_client::RunsClient,
};
use vigie_transport::{
    client::{Address, Keepalive, connect},
    credential::{Credential, certificates_from_pem},
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
    channel: Channel,
}

impl Client {
    /// Connects to the controller of the context of this name, or of the current one.
    pub(crate) async fn connect(home: &Home, context: Option<&str>) -> Result<Self, Error> {
        let context = home.context(context)?;
        let keys = Keys::of(home.state(&context.name)?);
        let credential = keys.credential()?;
        let channel = dial(&context, &credential).await?;
        Ok(Self { context, keys, channel })
    }

    pub(crate) fn hosts(&self) -> HostsClient<Channel> {
        HostsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn runs(&self) -> RunsClient<Channel> {
        RunsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn incidents(&self) -> IncidentsClient<Channel> {
        IncidentsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn runbooks(&self) -> RunbooksClient<Channel> {
        RunbooksClient::new(self.channel.clone())
    }
}

async fn dial(context: &Context, credential: &Credential) -> Result<Channel, Error> {
    let roots = certificates_from_pem(&context.settings.roots)
        .map_err(|_| Error::Enrolment("the context holds no CA certificate".to_owned()))?;
    let tls = client_config(ServerTrust::Roots(roots), Some(credential))?;
    let address = Address::from_str(&context.settings.address)
        .map_err(|source| Error::Address { place: "context", source })?;
    connect(address, tls, Keepalive::default()).await.map_err(Error::Connect)
}
