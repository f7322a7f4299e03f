//! By which ports somebody reaches this machine who must not be cut off: ssh, a controller, a tunnel that carries either.
//!
//! Whoever holds a listening socket is asked for by name, every process of it: systemd holds that of an `ssh` which it
//! starts by the connection. Who is connected now counts as well as who could connect.

use std::{collections::BTreeSet, fs};

use tokio::time::Instant;

use super::super::{Fault, sockets};
use crate::host::{child::Child, stacks::compose::cannot_run};

/// What ssh listens on unless somebody moved it; kept open whether it is seen listening or not.
const SSH: u32 = 22;

/// Programs that must stay within reach, by the name that the kernel knows them by (its first fifteen bytes).
const WITHIN_REACH: [(&str, &str); 6] = [
    ("sshd", "ssh"),
    // What OpenSSH has become since 9.8: one program for each session.
    ("sshd-session", "ssh"),
    ("sshd-auth", "ssh"),
    ("dropbear", "ssh"),
    ("tinysshd", "ssh"),
    ("vigie-controlle", "a controller of Vigie"),
];

/// Programs that carry others' connections, ssh's or the agent's among them, over UDP.
const TUNNELS: [(&str, &str); 9] = [
    ("openvpn", "OpenVPN"),
    ("tailscaled", "Tailscale"),
    ("wireguard-go", "WireGuard"),
    ("boringtun", "WireGuard"),
    ("nebula", "Nebula"),
    ("zerotier-one", "ZeroTier"),
    ("charon", "IPsec"),
    ("charon-systemd", "IPsec"),
    ("mosh-server", "ssh"),
];

/// Units by which systemd listens for ssh and starts it for each connection or the first.
const SOCKETS: [&str; 4] = ["ssh.socket", "sshd.socket", "dropbear.socket", "vigie-controller.socket"];

/// Whom denying a port would leave without a way in.
pub(super) async fn cut_off(port: u32, protocol: &str, deadline: Instant) -> Result<Option<String>, Fault> {
    if protocol != "tcp" {
        let holders = off_thread(move || sockets::udp_programs_on(port)).await??;
        return Ok(tunnel(holders.as_ref(), has_wireguard()).map(ToOwned::to_owned));
    }
    let (holders, connected) =
        off_thread(move || Ok::<_, Fault>((sockets::programs_on(port)?, sockets::connected_on(port)?)))
            .await??;
    // Whom systemd listens for is asked only where it is systemd that listens.
    let activated = holders.contains("systemd") && listens_for_ssh(port, deadline).await?;
    Ok(of_programs(port, &holders, &connected, activated).map(ToOwned::to_owned))
}

async fn off_thread<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(look).await.map_err(|error| Fault::failed("proc_unreadable", error))
}

fn of_programs(
    port: u32,
    holders: &BTreeSet<String>,
    connected: &BTreeSet<String>,
    activated: bool,
) -> Option<&'static str> {
    let named = |programs: &BTreeSet<String>| {
        WITHIN_REACH.iter().find(|(program, _)| programs.contains(*program)).map(|(_, whom)| *whom)
    };
    named(holders).or_else(|| named(connected)).or((port == SSH || activated).then_some("ssh"))
}

/// Which tunnel a port of UDP is; `None` for `holders` stands for a port that nobody has bound. WireGuard's socket is the
/// kernel's own: no process holds it.
fn tunnel(holders: Option<&BTreeSet<String>>, wireguard: bool) -> Option<&'static str> {
    let holders = holders?;
    let known = TUNNELS.iter().find(|(program, _)| holders.contains(*program)).map(|(_, name)| *name);
    known.or((holders.is_empty() && wireguard).then_some("WireGuard"))
}

/// Whether a network interface of this machine is WireGuard's.
fn has_wireguard() -> bool {
    let interfaces = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    interfaces
        .filter_map(|entry| fs::read_to_string(entry.path().join("uevent")).ok())
        .any(|uevent| uevent.lines().any(|line| line == "DEVTYPE=wireguard"))
}

/// Whether systemd listens on a port for ssh.
async fn listens_for_ssh(port: u32, deadline: Instant) -> Result<bool, Fault> {
    let Ok(child) = Child::new("systemctl") else { return Ok(false) };
    let args = ["show", "--property=Listen", "--"].into_iter().chain(SOCKETS);
    let exit = child.args(args).run(deadline).await.map_err(cannot_run)?;
    // A systemd that holds the port and does not say for whom may hold it for ssh.
    Ok(!exit.success() || lists(&exit.stdout.text().text, port))
}

/// `Listen=0.0.0.0:2222 (Stream)`
fn lists(show: &str, port: u32) -> bool {
    show.lines().filter_map(|line| line.strip_prefix("Listen=")).any(|listen| {
        let address = listen.split(' ').next().unwrap_or_default();
        let number = address.rsplit(':').next().unwrap_or_default();
        listen.ends_with("(Stream)") && number.parse() == Ok(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn nobody_is_cut_off() {
        let none = BTreeSet::new();
        let of = |port, holders: &[&str]| of_programs(port, &names(holders), &none, false);
        assert_eq!(of(22, &[]), Some("ssh"));
        assert_eq!(of(2222, &[]), None);
        assert_eq!(of(2222, &["sshd"]), Some("ssh"));
        assert_eq!(of(2222, &["sshd", "systemd"]), Some("ssh"), "both hold the socket");
        assert_eq!(of(2222, &["systemd"]), None, "for somebody else");
        assert_eq!(of_programs(2222, &names(&["systemd"]), &none, true), Some("ssh"));
        assert_eq!(
            of_programs(2222, &none, &names(&["sshd-session"]), false),
            Some("ssh"),
            "who is in stays in"
        );
        assert_eq!(of(7443, &["vigie-controlle"]), Some("a controller of Vigie"));
    }

    #[test]
    fn what_systemd_listens_on() {
        // Captured from systemd 255 with Ubuntu's ssh.socket moved.
        let show = "Listen=0.0.0.0:2222 (Stream)\nListen=[::]:2222 (Stream)\n\nListen=/run/a.sock (Stream)\n";
        assert!(lists(show, 2222) && !lists(show, 22) && !lists("", 22));
    }

    #[test]
    fn tunnels_carry_others() {
        assert_eq!(tunnel(Some(&names(&["openvpn"])), false), Some("OpenVPN"));
        assert_eq!(tunnel(Some(&names(&[])), true), Some("WireGuard"));
        assert_eq!(tunnel(Some(&names(&[])), false), None);
        assert_eq!(tunnel(Some(&names(&["dnsmasq"])), true), None);
        assert_eq!(tunnel(None, true), None, "nobody is there");
    }
}
