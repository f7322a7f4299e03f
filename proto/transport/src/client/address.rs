use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// Where a controller is: a DNS name or an IP address, and a port. The host is also the name that
/// its certificate has to carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    /// Lowercase, as names compare; `rustls` has found it well-formed.
    Name(String),
    Ip(IpAddr),
}

impl Address {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name to resolve, or the address itself; IPv6 without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Ip(ip) => ip.to_string(),
        }
    }

    /// What TLS looks for in the certificate.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, AddressError> {
        match &self.host {
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| AddressError::Host),
            Host::Ip(ip) => Ok((*ip).into()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            return Err(AddressError::Scheme);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::NoPort)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(inner) => Host::Ip(IpAddr::V6(inner.parse().map_err(|_| AddressError::Ipv6)?)),
            None if host.contains(':') => return Err(AddressError::Ipv6),
            None => name_or_ipv4(host)?,
        };
        // `u16` alone would also take "+443".
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if digits && port != 0 => Ok(Self { host, port }),
            _ => Err(AddressError::Port),
        }
    }
}

fn name_or_ipv4(host: &str) -> Result<Host, AddressError> {
    if let Ok(ip) = host.parse() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    match ServerName::try_from(host) {
        Ok(ServerName::DnsName(name)) => Ok(Host::Name(name.to_lowercase_owned().as_ref().to_owned())),
        _ => Err(AddressError::Host),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
        }
    }
}

/// Why a text is no address. Each says what would be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("an address has no scheme; write `host:port`, as in `vigie.example.com:7443`")]
    Scheme,
    #[error("the address has no port; write `host:port`, as in `vigie.example.com:7443`")]
    NoPort,
    #[error("the address's port is not a number from 1 to 65535")]
    Port,
    #[error("the address's host is neither a DNS name nor an IP address")]
    Host,
    #[error("an IPv6 address stands in brackets, as in `[2001:db8::1]:7443`")]
    Ipv6,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_both_kinds_of_ip() {
        for (text, host) in [
            ("vigie.example.com:7443", "vigie.example.com"),
            ("localhost:1", "localhost"),
            ("192.0.2.7:65535", "192.0.2.7"),
            ("[2001:db8::1]:7443", "2001:db8::1"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host().as_str(), address.to_string().as_str()), (host, text));
            address.server_name().unwrap();
        }
        assert_eq!(
            "Vigie.Example.COM:7443".parse::<Address>().unwrap().to_string(),
            "vigie.example.com:7443"
        );
    }

    #[test]
    fn refuses_each_fault_by_name() {
        use AddressError as E;
        for (text, expected) in [
            ("https://vigie.example.com:7443", E::Scheme),
            ("vigie.example.com", E::NoPort),
            ("", E::NoPort),
            ("vigie.example.com:", E::Port),
            ("vigie.example.com:0", E::Port),
            ("vigie.example.com:+443", E::Port),
            ("vigie.example.com:65536", E::Port),
            ("vigie.example.com:443/path", E::Port),
            (":443", E::Host),
            ("-o:443", E::Host),
            ("user@host:443", E::Host),
            ("a b:443", E::Host),
            ("2001:db8::1:443", E::Ipv6),
            ("[::1:443", E::Ipv6),
            ("[localhost]:443", E::Ipv6),
        ] {
            assert_eq!(text.parse::<Address>(), Err(expected), "{text:?}");
        }
    }
}
