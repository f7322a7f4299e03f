//! Connections in numbers: states, full listeners, retransmissions, tracked connections.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    net::IpAddr,
    time::Duration,
};

use procfs::net::{TcpNetEntry, TcpState};
use tokio::time::{Instant, sleep};
use vigie_proto::v1::{PortUse, SocketSummaryRequest, SocketSummaryResult};

use super::{
    super::{Context, Fault},
    owners,
};

/// Over how long rates are measured when the request does not say.
const INTERVAL: Duration = Duration::from_secs(1);

/// Ports with a line of their own.
const PORTS: usize = 20;

/// The kernel cuts every backlog to this where nothing else is known.
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// Counts connections, and how they fare over an interval.
pub(in super::super) async fn summary(
    request: SocketSummaryRequest,
    cx: &Context,
) -> Result<SocketSummaryResult, Fault> {
    let wanted = match request.interval_ms {
        0 => INTERVAL,
        ms => Duration::from_millis(ms.into()),
    };
    let left = cx.deadline.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_secs(2));
    let (before, begun) = (Counters::read(), Instant::now());
    sleep(wanted.min(left)).await;
    let (after, seconds) = (Counters::read(), begun.elapsed().as_secs_f64().max(0.001));
    let rate = |name: &str| after.of(name).saturating_sub(before.of(name)) as f64 / seconds;
    let counted = tokio::task::spawn_blocking(count);
    let mut result =
        counted.await.map_err(|_| Fault::failed("proc_unreadable", "the sockets cannot be counted"))??;
    let digits = |value: f64| (value * 100.0).round() / 100.0;
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
    result.interval_ms = (seconds * 1000.0) as u32;
    result.orphaned = orphans(&fs::read_to_string("/proc/net/sockstat").unwrap_or_default());
    result.opened_per_s = digits(rate("Tcp.ActiveOpens"));
    result.accepted_per_s = digits(rate("Tcp.PassiveOpens"));
    result.retransmitted_per_s = digits(rate("Tcp.RetransSegs"));
    let sent = rate("Tcp.OutSegs");
    // Of a handful of segments, one is no share.
    if sent * seconds >= 100.0 {
        result.retransmitted_percent = digits(rate("Tcp.RetransSegs") * 100.0 / sent);
    }
    result.listen_overflows_per_s = digits(rate("TcpExt.ListenOverflows") + rate("TcpExt.ListenDrops"));
    result.listen_overflows = after.of("TcpExt.ListenOverflows");
    result.syn_cookies_per_s = digits(rate("TcpExt.SyncookiesSent"));
    // Both files are missing where connections are not tracked.
    result.conntrack = number("/proc/sys/net/netfilter/nf_conntrack_count").unwrap_or_default();
    result.conntrack_max = number("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or_default();
    if result.conntrack_max > 0 {
        result.conntrack_percent =
            digits(f64::from(result.conntrack) * 100.0 / f64::from(result.conntrack_max));
    }
    Ok(result)
}

fn count() -> Result<SocketSummaryResult, Fault> {
    let four = procfs::net::tcp().map_err(|error| {
        Fault::failed("proc_unreadable", format!("/proc/net/tcp cannot be read: {error}"))
    })?;
    // A kernel without IPv6 has no such file.
    let all: Vec<TcpNetEntry> = four.into_iter().chain(procfs::net::tcp6().unwrap_or_default()).collect();
    let mut result = tally(&all);
    let inodes: HashSet<u64> =
        all.iter().filter(|entry| entry.state == TcpState::Listen).map(|entry| entry.inode).collect();
    let owners = owners(&inodes);
    let limit: u32 =
        fs::read_to_string(SOMAXCONN).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    for port in &mut result.ports {
        let own = all.iter().find(|entry| {
            entry.state == TcpState::Listen && u32::from(entry.local_address.port()) == port.port
        });
        if let Some((pid, process)) = own.and_then(|entry| owners.get(&entry.inode)) {
            (port.pid, port.process) = (*pid, process.clone());
        }
        port.backlog = limit;
    }
    Ok(result)
}

/// Everything that the table of sockets tells.
fn tally(all: &[TcpNetEntry]) -> SocketSummaryResult {
    let mut result =
        SocketSummaryResult { total: u32::try_from(all.len()).unwrap_or(u32::MAX), ..Default::default() };
    let mut ports: BTreeMap<u16, PortUse> = BTreeMap::new();
    for entry in all.iter().filter(|entry| entry.state == TcpState::Listen) {
        let port = ports.entry(entry.local_address.port()).or_default();
        // Of a listener, what waits to be accepted stands where others have received bytes.
        port.queued += entry.rx_queue;
    }
    let mut peers: HashMap<(u16, IpAddr), u32> = HashMap::new();
    for entry in all {
        let counter = match entry.state {
            TcpState::Established => &mut result.established,
            TcpState::TimeWait => &mut result.time_wait,
            TcpState::CloseWait => &mut result.close_wait,
            TcpState::SynRecv | TcpState::NewSynRecv => &mut result.syn_received,
            TcpState::SynSent => &mut result.syn_sent,
            TcpState::FinWait1 | TcpState::FinWait2 => &mut result.fin_wait,
            TcpState::Listen => &mut result.listening,
            _ => continue,
        };
        *counter += 1;
        let local = entry.local_address.port();
        let Some(port) = ports.get_mut(&local) else { continue };
        match entry.state {
            TcpState::Established => {
                port.established += 1;
                *peers.entry((local, entry.remote_address.ip().to_canonical())).or_default() += 1;
            }
            TcpState::SynRecv | TcpState::NewSynRecv => port.syn_received += 1,
            TcpState::CloseWait => port.close_wait += 1,
            _ => {}
        }
    }
    for ((port, peer), connections) in peers {
        let Some(port) = ports.get_mut(&port) else { continue };
        if connections > port.busiest_peer_connections {
            (port.busiest_peer, port.busiest_peer_connections) = (peer.to_string(), connections);
        }
    }
    result.ports = ports.into_iter().map(|(number, port)| PortUse { port: number.into(), ..port }).collect();
    result.ports.sort_by_key(|port| {
        (std::cmp::Reverse(port.established + port.queued + port.syn_received), port.port)
    });
    result.ports.truncate(PORTS);
    result
}

/// `TCP: inuse 6 orphan 0 tw 0 alloc 116 mem 35`
fn orphans(sockstat: &str) -> u32 {
    let words: Vec<&str> =
        sockstat.lines().filter(|line| line.starts_with("TCP:")).flat_map(str::split_whitespace).collect();
    let at = words.iter().position(|word| *word == "orphan");
    at.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or_default()
}

/// `/proc/net/snmp` and `/proc/net/netstat`: a line of names, then a line of numbers.
#[derive(Default)]
struct Counters(HashMap<String, u64>);

impl Counters {
    fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&(text("/proc/net/snmp") + &text("/proc/net/netstat")))
    }

    fn parse(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        let mut all = HashMap::new();
        for pair in lines.chunks_exact(2) {
            let (Some((group, names)), Some((_, numbers))) =
                (pair[0].split_once(':'), pair[1].split_once(':'))
            else {
                continue;
            };
            for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
                // A few are signed, and none of those is asked for.
                all.insert(format!("{group}.{name}"), number.parse().unwrap_or_default());
            }
        }
        Self(all)
    }

    fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn captured_counters() {
        let text = "Tcp: RtoAlgorithm ActiveOpens PassiveOpens\nTcp: 1 20 30\n\
                    TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 4 5\n";
        let found = Counters::parse(text);
        assert_eq!((found.of("Tcp.PassiveOpens"), found.of("TcpExt.ListenOverflows")), (30, 5));
        assert_eq!(found.of("TcpExt.Other"), 0);
        assert_eq!(orphans("sockets: used 81\nTCP: inuse 6 orphan 3 tw 0 alloc 116 mem 35\n"), 3);
    }

    #[test]
    fn connections_that_nobody_accepts_wait_in_the_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let port = |found: &SocketSummaryResult| {
            found.ports.iter().find(|port| port.port == u32::from(address.port())).cloned()
        };
        let all: Vec<_> = procfs::net::tcp().unwrap();
        let own: Vec<_> = all.into_iter().filter(|entry| entry.local_address == address).collect();
        let found = port(&tally(&own)).unwrap();
        assert_eq!((found.queued, found.established, found.busiest_peer_connections), (3, 3, 3));
        assert_eq!(found.busiest_peer, "127.0.0.1");
        drop(clients);
    }
}
