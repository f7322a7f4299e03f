//! E-mail, over SMTP.

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::authentication::Credentials,
};

use super::{ChannelError, ChannelSettings, DeliveryError, EmailTls, PATIENCE};
use crate::incidents::Notice;

/// Mail to a fixed set of people.
pub(super) struct Email {
    from: Mailbox,
    to: Vec<Mailbox>,
    server: AsyncSmtpTransport<Tokio1Executor>,
}

impl Email {
    pub(super) fn open(settings: &ChannelSettings) -> Result<Self, ChannelError> {
        let name = || settings.name.clone();
        let mailbox = |address: &String| {
            let bad = |source| ChannelError::Address { name: name(), address: address.clone(), source };
            address.parse::<Mailbox>().map_err(bad)
        };
        let from = settings.from.as_ref().ok_or(ChannelError::Missing { name: name(), key: "from" })?;
        let server =
            settings.server.as_deref().ok_or(ChannelError::Missing { name: name(), key: "server" })?;
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) => {
                (host, Some(port.parse::<u16>().map_err(|_| ChannelError::Server { name: name() })?))
            }
            None => (server, None),
        };
        let tls = |source| ChannelError::Tls { name: name(), source };
        let mut transport = match settings.tls.unwrap_or_default() {
            EmailTls::Starttls => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host).map_err(tls)?,
            EmailTls::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(host).map_err(tls)?,
            EmailTls::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host),
        }
        .timeout(Some(PATIENCE));
        if let Some(port) = port {
            transport = transport.port(port);
        }
        if let (Some(user), Some(file)) = (&settings.username, &settings.password_file) {
            transport = transport.credentials(Credentials::new(user.clone(), settings.secret(file)?));
        }
        Ok(Self {
            from: mailbox(from)?,
            to: settings.to.iter().map(mailbox).collect::<Result<_, _>>()?,
            server: transport.build(),
        })
    }

    pub(super) async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(&notice.subject)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message.body(notice.text.clone()).map_err(DeliveryError::Message)?;
        self.server.send(message).await.map_err(DeliveryError::Mail)?;
        Ok(())
    }
}
