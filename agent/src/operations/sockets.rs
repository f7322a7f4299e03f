//! Listening TCP sockets, from /proc.

pub(super) mod summary;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use procfs::{
    net::{TcpNetEntry, TcpState, UnixState},
    process::FDTarget,
};
use vigie_proto::v1::{ListeningSocket, SocketListRequest, SocketListResult};

use super::{Context, Fault};

/// How long a name may take: one of this machine is in its own files.
const RESOLVE: std::time::Duration = std::time::Duration::from_secs(2);

/// Lists listening TCP sockets with their processes.
pub(super) async fn list(request: SocketListRequest, _: &Context) -> Result<SocketListResult, Fault> {
    // Reading every process's descriptors takes milliseconds on a busy host.
    let found = tokio::task::spawn_blocking(move || -> Result<_, Fault> {
        let mut sockets = listening_by_inode()?;
        sockets.retain(|(address, _)| {
            request.ports.is_empty() || request.ports.contains(&u32::from(address.port()))
        });
        let owners = owners(&sockets.iter().map(|(_, inode)| *inode).collect());
        let mut found: Vec<ListeningSocket> = sockets
            .into_iter()
            .map(|(address, inode)| {
                let (pid, process) = owners.get(&inode).cloned().unwrap_or_default();
                ListeningSocket {
                    address: address.ip().to_string(),
                    port: address.port().into(),
                    pid,
                    process,
                }
            })
            .collect();
        found.sort_by(|a, b| (a.port, &a.address, a.pid).cmp(&(b.port, &b.address, b.pid)));
        Ok(found)
    });
    let sockets = found.await.map_err(|error| Fault::failed("proc_unreadable", error))??;
    Ok(SocketListResult { sockets })
}

/// Where someone listens.
pub(super) fn listening() -> Result<Vec<SocketAddr>, Fault> {
    Ok(listening_by_inode()?.into_iter().map(|(address, _)| address).collect())
}

/// The names of all programs that hold a listening TCP socket of a port: more than one where a socket is handed on.
pub(super) fn programs_on(port: u32) -> Result<BTreeSet<String>, Fault> {
    let mut sockets = listening_by_inode()?;
    sockets.retain(|(address, _)| u32::from(address.port()) == port);
    Ok(names(&holders(&sockets.iter().map(|(_, inode)| *inode).collect())))
}

/// The names of all programs that somebody is connected to on a TCP port of this machine.
pub(super) fn connected_on(port: u32) -> Result<BTreeSet<String>, Fault> {
    let inodes = tcp()?
        .filter(|entry| entry.state == TcpState::Established && u32::from(entry.local_address.port()) == port)
        .map(|entry| entry.inode)
        .collect();
    Ok(names(&holders(&inodes)))
}

/// The names of all programs that hold a UDP port; `None` where nobody has bound it. What the kernel itself bound has no
/// program.
pub(super) fn udp_programs_on(port: u32) -> Result<Option<BTreeSet<String>>, Fault> {
    let four = procfs::net::udp().map_err(|error| unreadable("udp", &error))?;
    let six = procfs::net::udp6().unwrap_or_default();
    let inodes: HashSet<u64> = four
        .into_iter()
        .chain(six)
        .filter(|entry| u32::from(entry.local_address.port()) == port)
        .map(|entry| entry.inode)
        .collect();
    Ok((!inodes.is_empty()).then(|| names(&holders(&inodes))))
}

fn names(holders: &HashMap<u64, BTreeSet<(u32, String)>>) -> BTreeSet<String> {
    holders.values().flatten().map(|(_, name)| name.clone()).collect()
}

/// Whether a listening socket takes connections to this place.
pub(super) fn takes(socket: &SocketAddr, host: &str, port: u32) -> bool {
    let wanted: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        host => match host.parse() {
            Ok(address) => address,
            // A name of this machine: any of its sockets may be meant.
            Err(_) => return u32::from(socket.port()) == port,
        },
    };
    u32::from(socket.port()) == port
        && match socket.ip().to_canonical() {
            // `::` takes IPv4 too, unless it says otherwise, which /proc does not tell.
            IpAddr::V6(ip) if ip.is_unspecified() => true,
            IpAddr::V4(ip) if ip.is_unspecified() => wanted.is_ipv4(),
            ip => ip == wanted.to_canonical() || (host == "localhost" && ip.is_loopback()),
        }
}

/// Whether a host, as nginx names it, is this machine.
pub(super) fn is_local(host: &str, own: &HashSet<IpAddr>) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified() || own.contains(&ip),
        Err(_) => host == "localhost",
    }
}

/// Whether what a stack dials as its database's or queue's host is this machine, by name or by address.
pub(super) async fn is_here(host: &str) -> bool {
    if host.starts_with('/') || matches!(host, "localhost" | "host.docker.internal" | "host-gateway") {
        return true;
    }
    let own = own_addresses();
    if let Ok(ip) = host.parse::<IpAddr>() {
        return is_local(host, &own) && !ip.is_unspecified();
    }
    let resolved = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, 0))).await;
    let mut resolved = resolved.ok().and_then(Result::ok).into_iter().flatten();
    !host.is_empty() && resolved.any(|address| is_local(&address.ip().to_string(), &own))
}

/// This machine's own addresses, as far as /proc tells: those of IPv4 from its routes, those of IPv6 from its
/// interfaces.
pub(super) fn own_addresses() -> HashSet<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    ipv4_of(&v4).chain(ipv6_of(&v6)).collect()
}

/// `|-- 172.18.0.1` followed by `/32 host LOCAL`.
fn ipv4_of(fib_trie: &str) -> impl Iterator<Item = IpAddr> {
    let lines: Vec<&str> = fib_trie.lines().map(str::trim).collect();
    let own: Vec<IpAddr> = lines
        .windows(2)
        .filter(|pair| pair[1].starts_with("/32 host LOCAL"))
        .filter_map(|pair| pair[0].strip_prefix("|-- ")?.parse().ok())
        .collect();
    own.into_iter()
}

/// Thirty-two hexadecimal digits at the beginning of a line.
fn ipv6_of(if_inet6: &str) -> impl Iterator<Item = IpAddr> {
    let address = |line: &str| u128::from_str_radix(line.get(..32)?, 16).ok();
    if_inet6.lines().filter_map(address).map(|bits| IpAddr::V6(bits.into()))
}

/// Whether someone listens on a Unix socket.
pub(super) fn listens_on_unix(path: &str) -> bool {
    procfs::net::unix().is_ok_and(|all| {
        all.iter().any(|entry| {
            // Connections that it accepted carry its path too; they are connected.
            entry.path.as_deref() == Some(std::path::Path::new(path)) && entry.state == UnixState::UNCONNECTED
        })
    })
}

fn listening_by_inode() -> Result<Vec<(SocketAddr, u64)>, Fault> {
    let all = tcp()?.filter(|entry| entry.state == TcpState::Listen);
    Ok(all.map(|entry| (entry.local_address, entry.inode)).collect())
}

fn tcp() -> Result<impl Iterator<Item = TcpNetEntry>, Fault> {
    let four = procfs::net::tcp().map_err(|error| unreadable("tcp", &error))?;
    // A kernel without IPv6 has no such file.
    Ok(four.into_iter().chain(procfs::net::tcp6().unwrap_or_default()))
}

fn unreadable(file: &str, error: &procfs::ProcError) -> Fault {
    Fault::failed("proc_unreadable", format!("/proc/net/{file} cannot be read: {error}"))
}

/// Who holds these sockets: of several processes, the one with the lowest id, which started the others.
fn owners(wanted: &HashSet<u64>) -> HashMap<u64, (u32, String)> {
    let all = holders(wanted).into_iter();
    all.filter_map(|(inode, holders)| Some((inode, holders.into_iter().next()?))).collect()
}

/// Everybody who holds these sockets, by id and name.
fn holders(wanted: &HashSet<u64>) -> HashMap<u64, BTreeSet<(u32, String)>> {
    let mut found: HashMap<u64, BTreeSet<(u32, String)>> = HashMap::new();
    if wanted.is_empty() {
        return found;
    }
    let Ok(processes) = procfs::process::all_processes() else { return found };
    for process in processes.flatten() {
        // A process that has ended since, or is not ours to look into, owns nothing that we may tell.
        let (Ok(descriptors), Ok(pid)) = (process.fd(), u32::try_from(process.pid())) else { continue };
        for descriptor in descriptors.flatten() {
            let FDTarget::Socket(inode) = descriptor.target else { continue };
            if wanted.contains(&inode) {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                found.entry(inode).or_default().insert((pid, name.trim().to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_with_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (_, inode) =
            listening_by_inode().unwrap().into_iter().find(|(found, _)| *found == address).unwrap();
        let (pid, process) = owners(&HashSet::from([inode])).remove(&inode).unwrap();
        assert_eq!(pid, std::process::id());
        assert!(!process.is_empty());
        drop(listener);
        assert!(!listening().unwrap().contains(&address));
    }

    #[test]
    fn everybody_on_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(listener.local_addr().unwrap().port());
        let own = programs_on(port).unwrap();
        assert_eq!(own.len(), 1);
        assert!(connected_on(port).unwrap().is_empty());
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        assert_eq!(connected_on(port).unwrap(), own);
        drop(client);
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = u32::from(datagrams.local_addr().unwrap().port());
        assert_eq!(udp_programs_on(port).unwrap(), Some(own));
        drop(datagrams);
        assert_eq!(udp_programs_on(port).unwrap(), None);
    }

    #[test]
    fn a_unix_listener_is_told_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(listens_on_unix(path.to_str().unwrap()));
        drop(listener);
        assert!(path.exists() && !listens_on_unix(path.to_str().unwrap()));
    }

    #[test]
    fn who_takes_what() {
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(takes(&socket("127.0.0.1:8000"), "127.0.0.1", 8000));
        assert!(takes(&socket("0.0.0.0:8000"), "127.0.0.1", 8000));
        assert!(takes(&socket("[::]:8000"), "localhost", 8000));
        assert!(takes(&socket("[::1]:8000"), "localhost", 8000));
        assert!(!takes(&socket("127.0.0.1:8000"), "127.0.0.1", 8001));
        assert!(!takes(&socket("172.18.0.1:8000"), "127.0.0.1", 8000));
        assert!(!takes(&socket("0.0.0.0:8000"), "::1", 8000));
    }

    #[test]
    fn own_addresses_as_the_kernel_prints_them() {
        let fib = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 172.18.0.0\n        /16 link UNICAST\n     |-- 172.18.0.1\n        \
                   /32 host LOCAL\n     |-- 172.18.255.255\n        /32 link BROADCAST\n";
        assert_eq!(ipv4_of(fib).collect::<Vec<_>>(), ["172.18.0.1".parse::<IpAddr>().unwrap()]);
        let inet6 = "fe80000000000000004206fffe000001 02 40 20 80     eth0\nbad\n";
        assert_eq!(ipv6_of(inet6).collect::<Vec<_>>(), ["fe80::42:6ff:fe00:1".parse::<IpAddr>().unwrap()]);
        assert!(own_addresses().contains(&"127.0.0.1".parse().unwrap()));
        assert!(is_local("127.3.2.1", &HashSet::new()) && !is_local("backend", &HashSet::new()));
    }
}
