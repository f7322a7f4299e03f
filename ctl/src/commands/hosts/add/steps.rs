//! The steps on the host: small scripts with fixed paths, each safe to repeat.

use std::{fs, path::Path};

use vigie_proto::{text::escape, token::Token};
use zeroize::Zeroizing;

use super::{
    policy::Wanted,
    ssh::{Answer, Ssh},
};
use crate::error::Error;

pub(super) const AGENT: &str = "/usr/local/bin/vigie-agent";
pub(super) const UNIT: &str = "vigie-agent.service";
pub(super) const POLICY: &str = "/etc/vigie/policy.toml";

/// The same file that packages install.
const UNIT_TEXT: &str = include_str!("../../../../../deploy/systemd/vigie-agent.service");

/// The agent to install.
pub(super) struct Binary {
    bytes: Vec<u8>,
    /// As `uname -m` says it.
    architecture: &'static str,
}

impl Binary {
    /// Reads the file, and for which processor it is.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|source| Error::Input(path.display().to_string(), source))?;
        let architecture = architecture(&bytes).ok_or_else(|| {
            Error::usage(
                format!("{} is not a Linux program for x86_64 or aarch64", path.display()),
                "name the right file with --agent-binary PATH",
            )
        })?;
        Ok(Self { bytes, architecture })
    }
}

/// The processor in a 64-bit little-endian ELF header (`e_machine`, at byte 18).
fn architecture(bytes: &[u8]) -> Option<&'static str> {
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    match u16::from_le_bytes([*bytes.get(18)?, *bytes.get(19)?]) {
        0x3e => Some("x86_64"),
        0xb7 => Some("aarch64"),
        _ => None,
    }
}

/// What the host is, as far as the installation depends on it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// `Debian GNU/Linux 12 (bookworm), x86_64`.
    pub(super) system: String,
    pub(super) enrolled: bool,
    pub(super) has_policy: bool,
}

const LOOK: &str = r#"
echo "kernel=$(uname -s)"
echo "architecture=$(uname -m)"
echo "uid=$(id -u)"
[ -d /run/systemd/system ] && echo systemd=yes
[ -s /var/lib/vigie/host.json ] && echo enrolled=yes
[ -e /etc/vigie/policy.toml ] && echo policy=yes
[ -r /etc/os-release ] && . /etc/os-release && echo "system=$PRETTY_NAME"
exit 0
"#;

/// Looks at the host, and whether the agent can be installed there.
pub(super) async fn look(ssh: &Ssh, binary: &Binary) -> Result<Machine, Error> {
    let answer = expect(ssh.run(LOOK, b"").await?, "the host could not be looked at", "see what it says")?;
    judge(&answer.stdout, ssh.destination(), binary.architecture)
}

fn judge(facts: &str, destination: &str, architecture: &str) -> Result<Machine, Error> {
    let fact = |name: &str| {
        let value = facts.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        escape(value.unwrap_or_default(), false).into_owned()
    };
    let refuse = |message: String, hint: &str| Err(Error::Step { message, hint: hint.to_owned() });
    let theirs = fact("architecture");
    if fact("kernel") != "Linux" {
        return refuse(
            format!("{destination} runs {}, not Linux", fact("kernel")),
            "agents run on Linux hosts",
        );
    }
    if theirs != architecture {
        return refuse(
            format!("the agent is built for {architecture}, and {destination} is {theirs}"),
            "name an agent for that processor with --agent-binary PATH",
        );
    }
    if fact("uid") != "0" {
        return refuse(
            format!("the account at {destination} is not root"),
            "installing needs root: root@HOST",
        );
    }
    if fact("systemd") != "yes" {
        return refuse(
            format!("{destination} is not run by systemd"),
            "install by hand: `vigiectl hosts token NAME`, `vigie-agent enroll`, and keep `vigie-agent serve` running",
        );
    }
    let system = match fact("system") {
        name if name.is_empty() => format!("Linux, {theirs}"),
        name => format!("{name}, {theirs}"),
    };
    Ok(Machine { system, enrolled: fact("enrolled") == "yes", has_policy: fact("policy") == "yes" })
}

/// The new agent has to run on the host before it takes the old one's place, in one rename.
const INSTALL_AGENT: &str = r#"
set -e
mkdir -p /usr/local/bin
new=$(mktemp /usr/local/bin/.vigie-agent.XXXXXX)
trap 'rm -f "$new"' EXIT
cat > "$new"
chmod 755 "$new"
"$new" --version
mv -f "$new" /usr/local/bin/vigie-agent
"#;

/// Copies the agent; gives its version as it says itself.
pub(super) async fn install_agent(ssh: &Ssh, binary: &Binary) -> Result<String, Error> {
    let answer = ssh.run(INSTALL_AGENT, &binary.bytes).await?;
    let hint = "the agent must run there: is there space in /usr/local/bin, and is its libc new enough?";
    let answer = expect(answer, "the agent was not installed; an older one is untouched", hint)?;
    Ok(escape(answer.stdout.trim(), false).into_owned())
}

const INSTALL_UNIT: &str = r#"
set -e
umask 022
new=$(mktemp /etc/systemd/system/.vigie-agent.XXXXXX)
trap 'rm -f "$new"' EXIT
cat > "$new"
chmod 644 "$new"
mv -f "$new" /etc/systemd/system/vigie-agent.service
systemctl daemon-reload
"#;

pub(super) async fn install_unit(ssh: &Ssh) -> Result<(), Error> {
    let answer = ssh.run(INSTALL_UNIT, UNIT_TEXT.as_bytes()).await?;
    expect(answer, "the unit was not installed", "see what systemd says").map(drop)
}

/// The agent of before is stopped first: two must not hold one state folder.
pub(super) async fn enroll(ssh: &Ssh, token: &Token, replace: bool) -> Result<(), Error> {
    let replace = if replace { " --replace" } else { "" };
    let script = format!("systemctl stop {UNIT} 2>/dev/null; exec {AGENT} enroll{replace}");
    let token = Zeroizing::new(token.to_string());
    let answer = ssh.run(&script, token.as_bytes()).await?;
    expect(answer, "the host did not enrol", "can the host reach the controller's enrolment port?").map(drop)
}

/// Writes the policy that the agent itself composes from the stacks it finds.
pub(super) async fn write_policy(ssh: &Ssh, wanted: &Wanted) -> Result<(), Error> {
    let (lookups, arguments) = wanted.script();
    let script = format!(
        r#"
set -e
umask 077
find_program() {{
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v "$1" && return
    echo "there is no program $1 here" >&2
    exit 1
}}
{lookups}mkdir -p /etc/vigie
new=$(mktemp /etc/vigie/.policy.XXXXXX)
trap 'rm -f "$new"' EXIT
{AGENT} policy standard{arguments} > "$new"
[ -e {POLICY} ] || mv "$new" {POLICY}
"#
    );
    let answer = ssh.run(&script, b"").await?;
    let hint = format!(
        "write {POLICY} by hand (`{AGENT} policy standard` prints a proposal), then add the host again"
    );
    expect(answer, "no policy was written: the host would refuse every change", &hint).map(drop)
}

pub(super) async fn start(ssh: &Ssh) -> Result<(), Error> {
    let answer =
        ssh.run(&format!("systemctl enable --quiet {UNIT} && systemctl restart {UNIT}"), b"").await?;
    expect(answer, "the agent was not started", &format!("on the host: journalctl -u {UNIT}")).map(drop)
}

/// The end of the agent's log, as the hint of a host that stays silent.
pub(super) async fn why_silent(ssh: &Ssh) -> String {
    let script = format!("journalctl -u {UNIT} -n 5 -o cat --no-pager");
    let said = ssh.run(&script, b"").await.map(|answer| answer.stdout).unwrap_or_default();
    match said.trim() {
        "" => format!("on the host: journalctl -u {UNIT}"),
        said => format!("the agent's log ends with:\n{}", escape(said, true)),
    }
}

/// A script that ended well, or what it said.
fn expect(answer: Answer, message: &str, hint: &str) -> Result<Answer, Error> {
    if answer.code == 0 {
        return Ok(answer);
    }
    let said = if answer.stderr.is_empty() { answer.stdout.trim() } else { &answer.stderr };
    Err(Error::Step { message: format!("{message}: {}", escape(said, true)), hint: hint.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: &str =
        "kernel=Linux\narchitecture=x86_64\nuid=0\nsystemd=yes\nenrolled=yes\nsystem=Debian 12\n";

    #[test]
    fn a_fit_host_is_described() {
        let machine = judge(FACTS, "root@vps1", "x86_64").unwrap();
        assert_eq!(
            machine,
            Machine { system: "Debian 12, x86_64".to_owned(), enrolled: true, has_policy: false }
        );
    }

    #[test]
    fn an_unfit_host_is_told_why() {
        for (from, to, words) in [
            ("Linux", "FreeBSD", "not Linux"),
            ("x86_64", "aarch64", "built for x86_64"),
            ("uid=0", "uid=1000", "not root"),
            ("systemd=yes", "", "systemd"),
        ] {
            let error = judge(&FACTS.replace(from, to), "root@vps1", "x86_64").unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn the_processor_is_read_from_the_program() {
        let mut elf = [b"\x7fELF\x02\x01".as_slice(), &[0; 12], &[0xb7, 0], &[0; 40]].concat();
        assert_eq!(architecture(&elf), Some("aarch64"));
        elf[18] = 0x3e;
        assert_eq!(architecture(&elf), Some("x86_64"));
        assert_eq!(architecture(b"#!/bin/sh\n"), None);
        assert_eq!(architecture(b"\x7fELF\x02\x01"), None);
    }

    #[test]
    fn every_script_is_one_that_sh_can_read() {
        for script in [LOOK, INSTALL_AGENT, INSTALL_UNIT] {
            let status = std::process::Command::new("sh").args(["-n", "-c", script]).status().unwrap();
            assert!(status.success());
        }
    }

    #[test]
    fn the_unit_runs_the_agent_that_is_installed() {
        assert!(UNIT_TEXT.contains(AGENT), "{UNIT_TEXT}");
    }
}
