//! What the kernel's rules do with a new connection from anywhere, read from `iptables -S` and `ip6tables -S`
//! as a packet would go.
//!
//! Only what a customer's first packet meets is judged: TCP, a new connection, from an address that no rule names, on an
//! interface that is not loopback. A match that is not known here is taken for one that does not match, so that a rule
//! for some is never taken for a rule for all.

use std::collections::BTreeMap;

use tokio::time::Instant;
use vigie_proto::v1::PortVerdict;

use crate::{
    host::{
        child::Child,
        stacks::compose::{cannot_run, timed_out},
    },
    operations::Fault,
};

/// A ruleset of a host with many containers and blocked addresses.
const RULES_BYTES: usize = 8 * 1024 * 1024;

/// Chains that call each other deeper than this are a loop.
const DEPTH: usize = 24;

/// The kernel's filter, as far as its tools tell.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// `None` where there is no iptables, or it may not be read.
    pub table: Option<Table>,
    /// The same for IPv6, which has rules of its own.
    pub table_v6: Option<Table>,
    /// Whether nftables has rules of its own that hook into what comes in.
    pub nftables: bool,
}

/// Asks the kernel's tools. None of them on a host, and one that may not be asked, are answers.
pub(super) async fn read(deadline: Instant) -> Result<Kernel, Fault> {
    let (table, table_v6) = tokio::join!(table("iptables", deadline), table("ip6tables", deadline));
    let mut kernel = Kernel { table: table?, table_v6: table_v6?, nftables: false };
    if let Ok(child) = Child::new("nft") {
        let exit =
            child.args(["list", "chains"]).keep(RULES_BYTES).run(deadline).await.map_err(cannot_run)?;
        kernel.nftables = exit.success() && has_own_input_hook(&exit.stdout.text().text);
    }
    Ok(kernel)
}

async fn table(program: &str, deadline: Instant) -> Result<Option<Table>, Fault> {
    let Ok(child) = Child::new(program) else { return Ok(None) };
    let exit = child.args(["-w", "2", "-S"]).keep(RULES_BYTES).run(deadline).await.map_err(cannot_run)?;
    if exit.timed_out {
        return Err(timed_out(&format!("{program} -S")));
    }
    Ok(exit.success().then(|| Table::parse(&exit.stdout.text().text)))
}

/// Whether a table that is not iptables' own filters what comes in. On a kernel of today iptables keeps its tables in
/// nftables, under these names; what translates addresses filters nothing.
fn has_own_input_hook(chains: &str) -> bool {
    let mut own = false;
    chains.lines().map(str::trim).any(|line| {
        if let Some(table) = line.strip_prefix("table ") {
            let (family, name) = table.trim_end_matches(" {").split_once(' ').unwrap_or_default();
            own = !(matches!(family, "ip" | "ip6")
                && matches!(name, "filter" | "nat" | "mangle" | "raw" | "security"));
        }
        own && line.starts_with("type filter hook input ")
    })
}

/// The filter table.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// What becomes of what comes in and meets no rule: ACCEPT or DROP.
    pub policy: String,
    /// By chain, each rule's words.
    chains: BTreeMap<String, Vec<Vec<String>>>,
}

/// What a chain made of a packet.
enum Met {
    Verdict {
        open: bool,
        rule: String,
    },
    /// It goes on in the chain that called.
    Nothing,
}

impl Table {
    /// Reads what `iptables -S` prints.
    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self { policy: "ACCEPT".to_owned(), chains: BTreeMap::new() };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["-P", "INPUT", policy] => (*policy).clone_into(&mut found.policy),
                ["-A", chain, rest @ ..] => {
                    let rule = rest.iter().map(|word| (*word).to_owned()).collect();
                    found.chains.entry((*chain).to_owned()).or_default().push(rule);
                }
                _ => {}
            }
        }
        found
    }

    /// Whether it does anything at all to what comes in.
    pub(super) fn filters(&self) -> bool {
        self.policy != "ACCEPT" || self.chains.get("INPUT").is_some_and(|rules| !rules.is_empty())
    }

    /// What becomes of a new connection to a port.
    pub(super) fn verdict(&self, port: u32) -> PortVerdict {
        match self.walk("INPUT", port, 0) {
            Met::Verdict { open, rule } => PortVerdict { port, open, rule },
            Met::Nothing => {
                PortVerdict { port, open: self.policy == "ACCEPT", rule: format!("-P INPUT {}", self.policy) }
            }
        }
    }

    fn walk(&self, chain: &str, port: u32, depth: usize) -> Met {
        if depth > DEPTH {
            return Met::Nothing;
        }
        for rule in self.chains.get(chain).into_iter().flatten() {
            let Some(target) = matching(rule, port) else { continue };
            let said = || format!("-A {chain} {}", rule.join(" "));
            match target {
                "ACCEPT" => return Met::Verdict { open: true, rule: said() },
                "DROP" | "REJECT" => return Met::Verdict { open: false, rule: said() },
                "RETURN" => return Met::Nothing,
                other => {
                    if let verdict @ Met::Verdict { .. } = self.walk(other, port, depth + 1) {
                        return verdict;
                    }
                }
            }
        }
        Met::Nothing
    }
}

/// The target of a rule, where a customer's packet matches it.
fn matching(rule: &[String], port: u32) -> Option<&str> {
    let mut words = rule.iter().map(String::as_str).peekable();
    let (mut target, mut not) = (None, false);
    while let Some(word) = words.next() {
        if word == "!" {
            not = true;
            continue;
        }
        let negated = std::mem::take(&mut not);
        let is = |matches: bool| (matches != negated).then_some(());
        match word {
            "-p" => is(matches!(words.next()?, "tcp" | "all" | "6"))?,
            "-m" => {
                words.next();
            }
            "--dport" | "--dports" | "--destination-port" => {
                is(words.next()?.split(',').any(|part| covers(part, port)))?;
            }
            "--ctstate" | "--state" => is(words.next()?.split(',').any(|state| state == "NEW"))?,
            "--dst-type" => is(words.next()? == "LOCAL")?,
            "--comment" => skip_quoted(&mut words),
            "-i" => {
                let interface = words.next()?;
                is(interface != "lo" && !interface.starts_with("docker") && !interface.starts_with("br-"))?;
            }
            "-j" | "-g" => {
                target = words.next();
                // What follows is the target's own: `--reject-with …`.
                break;
            }
            // An address, a rate, a mark: for some, and not for all. `! -s 10.0.0.0/8` holds for the rest of the world.
            "-s" | "-d" => {
                words.next();
                is(false)?;
            }
            _ => return None,
        }
    }
    target
}

/// `22`, `6000:6007`.
fn covers(ports: &str, port: u32) -> bool {
    match ports.split_once(':') {
        Some((from, to)) => {
            from.parse().unwrap_or(0) <= port && port <= to.parse().unwrap_or(u32::from(u16::MAX))
        }
        None => ports.parse() == Ok(port),
    }
}

/// A comment in quotes is several words.
fn skip_quoted<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let Some(first) = words.next() else { return };
    let opens =
        first.starts_with('"') && !(first.len() > 1 && first.ends_with('"') && !first.ends_with("\\\""));
    if opens {
        for word in words {
            if word.ends_with('"') && !word.ends_with("\\\"") {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Captured from ufw on Debian 12 with `ufw allow 22/tcp`, `80/tcp` and `443/tcp`, what goes out left away.
    const UFW: &str = include_str!("fixtures/iptables-S-ufw.txt");

    fn open(text: &str, port: u32) -> bool {
        Table::parse(text).verdict(port).open
    }

    #[test]
    fn what_ufw_lets_in() {
        let table = Table::parse(UFW);
        assert!(table.filters());
        for port in [22, 80, 443] {
            let verdict = table.verdict(port);
            assert!(verdict.open && verdict.rule.contains(&format!("--dport {port}")), "{verdict:?}");
        }
        let verdict = table.verdict(8080);
        assert!(!verdict.open, "{verdict:?}");
        // A rule that somebody put before ufw's own.
        let inserted = UFW.replacen("-A INPUT", "-A INPUT -p tcp -m tcp --dport 443 -j DROP\n-A INPUT", 1);
        assert!(!open(&inserted, 443) && open(&inserted, 80));
    }

    #[test]
    fn rules_for_some_are_no_rules_for_all() {
        assert!(open("-P INPUT ACCEPT\n", 80));
        assert!(!Table::parse("-P INPUT ACCEPT\n").filters());
        assert!(!open(
            "-P INPUT DROP\n-A INPUT -s 10.0.0.0/8 -p tcp -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n",
            80
        ));
        assert!(open("-P INPUT ACCEPT\n-A INPUT -s 198.51.100.7/32 -j DROP\n", 80), "a blocked address");
        assert!(!open(
            "-P INPUT ACCEPT\n-A INPUT ! -s 10.0.0.0/8 -p tcp --dport 80 -j REJECT --reject-with tcp-reset\n",
            80
        ));
        assert!(open("-P INPUT DROP\n-A INPUT -p tcp -m multiport --dports 22,80:90 -j ACCEPT\n", 85));
        assert!(open(
            "-P INPUT DROP\n-A INPUT -m comment --comment \"the whole web\" -p tcp --dport 80 -j ACCEPT\n",
            80
        ));
        assert!(!open("-P INPUT DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n", 80));
        assert!(!open("-P INPUT ACCEPT\n-A INPUT -j a\n-A a -j b\n-A b -j a\n-A INPUT -j DROP\n", 80));
    }

    #[test]
    fn tables_of_nftables_itself() {
        let chain = |table: &str, chain: &str| {
            format!("table {table} {{\n\tchain c {{\n\t\ttype {chain};\n\t}}\n}}\n")
        };
        for own in ["ip filter", "ip6 filter", "ip mangle", "ip6 raw", "ip security"] {
            assert!(
                !has_own_input_hook(&chain(own, "filter hook input priority filter; policy drop")),
                "{own}"
            );
        }
        assert!(has_own_input_hook(&chain("inet filter", "filter hook input priority filter; policy drop")));
        assert!(has_own_input_hook(&chain(
            "inet f2b-table",
            "filter hook input priority filter - 1; policy accept"
        )));
        assert!(!has_own_input_hook(&chain("inet shop", "nat hook input priority 100; policy accept")));
        assert!(!has_own_input_hook(&chain("inet shop", "filter hook output priority filter; policy drop")));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(-P INPUT|-A |INPUT |a |b |-j |-p tcp |--dport |! |--comment |\"|\\n|[0-9:,]| ){0,60}") {
            Table::parse(&text).verdict(80);
        }
    }
}
