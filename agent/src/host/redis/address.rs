//! A Redis's address as a URL says it.

use ::redis::{ConnectionAddr, IntoConnectionInfo as _};
use zeroize::Zeroizing;

use super::Credential;

/// What Redis's own port is.
pub(super) const PORT: u16 = 6379;

/// An address as a URL says it.
#[derive(Default)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) database: u32,
    pub(super) tls: bool,
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
    // The library reads an address in TLS only where it speaks TLS itself, which is done elsewhere here.
    let secure = url.strip_prefix("rediss://").map(|rest| Zeroizing::new(format!("redis://{rest}")));
    let plain = secure.as_ref().map_or(url, |url| url.as_str());
    let info = plain.into_connection_info().map_err(|error| error.category().to_owned())?;
    let ConnectionAddr::Tcp(host, port) = info.addr() else {
        return Err("it is no TCP address".to_owned());
    };
    let redis = info.redis_settings();
    Ok(Address {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: *port,
        username: redis.username().filter(|name| !name.is_empty()).map(str::to_owned),
        password: redis
            .password()
            .filter(|word| !word.is_empty())
            .map(|word| Zeroizing::new(word.to_owned())),
        database: u32::try_from(redis.db()).unwrap_or_default(),
        tls: secure.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_what_they_hide() {
        let found = address("redis://:g%23N2%2BN@redis:6380/3").unwrap();
        assert_eq!((found.host.as_str(), found.port, found.database, found.tls), ("redis", 6380, 3, false));
        assert_eq!(found.password.as_ref().unwrap().as_str(), "g#N2+N");
        assert!(found.username.is_none());
        let found = address("redis://app:x@cache.internal").unwrap();
        assert_eq!((found.port, found.username.as_deref()), (6379, Some("app")));
        let found = address("rediss://app:x@cache.internal:6380/1").unwrap();
        assert_eq!(
            (found.host.as_str(), found.port, found.database, found.tls),
            ("cache.internal", 6380, 1, true)
        );
        for bad in ["http://:hunter22@h", "hunter22", "unix:///hunter22", "rediss://:hunter22@h:notaport"] {
            let reason = address(bad).map(|_| ()).unwrap_err();
            assert!(!reason.contains("hunter22"), "{reason}");
        }
    }
}
