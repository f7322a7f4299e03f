//! A Redis's address as a URL says it.

use ::redis::{ConnectionAddr, IntoConnectionInfo as _};
use zeroize::Zeroizing;

use super::Credential;

/// An address as a URL says it.
#[derive(Default)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) database: u32,
}

impl Address {
    pub(super) fn credential(&self, source: &'static str, name: &str, place: &str) -> Credential {
        Credential {
            source,
            name: name.to_owned(),
            place: place.to_owned(),
            username: self.username.clone(),
            password: self.password.clone(),
            outcome: if self.password.is_some() { "untried" } else { "none" },
        }
    }
}

/// Reads a URL. The reason never quotes it: it holds a password.
pub(super) fn address(url: &str) -> Result<Address, String> {
    let info = url.into_connection_info().map_err(|error| error.category().to_owned())?;
    let (host, port) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (host.clone(), *port),
        ConnectionAddr::TcpTls { .. } => return Err("it asks for TLS".to_owned()),
        _ => return Err("it is no TCP address".to_owned()),
    };
    let redis = info.redis_settings();
    Ok(Address {
        host,
        port,
        username: redis.username().filter(|name| !name.is_empty()).map(str::to_owned),
        password: redis
            .password()
            .filter(|word| !word.is_empty())
            .map(|word| Zeroizing::new(word.to_owned())),
        database: u32::try_from(redis.db()).unwrap_or_default(),
    })
}
