//! ICMP echo, without root where the kernel allows it.

use std::{net::IpAddr, time::Duration};

use surge_ping::{Client, Config, ICMP, PingIdentifier, PingSequence, SurgeError};

/// What a ping carries, as `ping` sends it.
const PAYLOAD: [u8; 56] = [0; 56];

/// Asks once. The error is the word for what became of it: timeout, unreachable, not_permitted.
pub(crate) async fn ping(address: IpAddr, wait: Duration) -> Result<Duration, &'static str> {
    let kind = if address.is_ipv4() { ICMP::V4 } else { ICMP::V6 };
    // Raw sockets are for root; those for datagrams are for groups that the kernel's settings name.
    let client = Client::new(&Config::builder().kind(kind).build()).map_err(|_| "not_permitted")?;
    let mut identifier = [0; 2];
    getrandom::fill(&mut identifier).map_err(|_| "not_permitted")?;
    let mut pinger = client.pinger(address, PingIdentifier(u16::from_ne_bytes(identifier))).await;
    pinger.timeout(wait);
    match pinger.ping(PingSequence(0), &PAYLOAD).await {
        Ok((_, took)) => Ok(took),
        Err(SurgeError::Timeout { .. }) => Err("timeout"),
        Err(SurgeError::IOError(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err("not_permitted")
        }
        Err(_) => Err("unreachable"),
    }
}
