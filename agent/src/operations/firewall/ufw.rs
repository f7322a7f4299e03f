//! What `ufw status verbose` prints.

use vigie_proto::v1::FirewallRule;

/// ufw as it says of itself.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Ufw {
    pub active: bool,
    /// allow, deny, reject.
    pub incoming: String,
    pub outgoing: String,
    pub rules: Vec<FirewallRule>,
}

impl Ufw {
    /// Reads the status, as it is printed in the C locale.
    pub(super) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut in_rules = false;
        for line in text.lines() {
            if let Some(status) = line.strip_prefix("Status: ") {
                found.active = status.trim() == "active";
            } else if let Some(defaults) = line.strip_prefix("Default: ") {
                for part in defaults.split(", ") {
                    match part.split_once(' ') {
                        Some((word, "(incoming)")) => word.clone_into(&mut found.incoming),
                        Some((word, "(outgoing)")) => word.clone_into(&mut found.outgoing),
                        _ => {}
                    }
                }
            } else if line.starts_with("--") {
                in_rules = true;
            } else if in_rules {
                found.rules.extend(rule(line));
            }
        }
        found
    }
}

/// `443/tcp (v6)               ALLOW IN    Anywhere (v6)`
fn rule(line: &str) -> Option<FirewallRule> {
    // Columns stand at least two blanks apart, or fill their width; the action is the landmark.
    let (at, action) = ["ALLOW", "DENY", "REJECT", "LIMIT"]
        .iter()
        .filter_map(|action| Some((line.find(&format!(" {action} "))?, *action)))
        .min()?;
    let to = line[..at].trim();
    let mut rest = line[at + 1 + action.len()..].trim_start();
    let mut direction = "in";
    for word in ["IN", "OUT", "FWD"] {
        if let Some(after) = rest.strip_prefix(word).filter(|after| after.starts_with(' ')) {
            direction = match word {
                "OUT" => "out",
                "FWD" => "fwd",
                _ => "in",
            };
            rest = after;
            break;
        }
    }
    // What follows a `#` is the rule's comment.
    let from = rest.split('#').next().unwrap_or_default().trim();
    let v6 = to.ends_with("(v6)");
    let place = to.trim_end_matches("(v6)").trim();
    let (port, protocol) = match place.split_once('/') {
        Some((port, protocol @ ("tcp" | "udp"))) => (port, protocol),
        _ => (place, ""),
    };
    Some(FirewallRule {
        action: action.to_lowercase(),
        direction: direction.to_owned(),
        port: port.parse().unwrap_or(0),
        protocol: protocol.to_owned(),
        to: to.to_owned(),
        from: from.to_owned(),
        v6,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Captured from ufw 0.36.2 on Debian 12.
    const CAPTURED: &str = "Status: active\nLogging: on (low)\nDefault: deny (incoming), allow (outgoing), deny (routed)\n\
        New profiles: skip\n\nTo                         Action      From\n--                         ------      ----\n\
        22/tcp                     ALLOW IN    Anywhere                  \n\
        80/tcp                     DENY IN     Anywhere                  \n\
        443                        LIMIT IN    10.1.0.0/16               # the office\n\
        6000:6007/tcp              ALLOW IN    Anywhere                  \n\
        22/tcp (v6)                ALLOW IN    Anywhere (v6)             \n\
        53                         DENY OUT    Anywhere                  \n\n";

    #[test]
    fn a_captured_status() {
        let found = Ufw::parse(CAPTURED);
        assert!(found.active);
        assert_eq!((found.incoming.as_str(), found.outgoing.as_str()), ("deny", "allow"));
        let rules: Vec<_> = found
            .rules
            .iter()
            .map(|rule| {
                (
                    rule.port,
                    rule.protocol.as_str(),
                    rule.action.as_str(),
                    rule.direction.as_str(),
                    rule.from.as_str(),
                )
            })
            .collect();
        assert_eq!(
            rules,
            [
                (22, "tcp", "allow", "in", "Anywhere"),
                (80, "tcp", "deny", "in", "Anywhere"),
                (443, "", "limit", "in", "10.1.0.0/16"),
                (0, "tcp", "allow", "in", "Anywhere"),
                (22, "tcp", "allow", "in", "Anywhere (v6)"),
                (53, "", "deny", "out", "Anywhere"),
            ]
        );
        assert!(found.rules[4].v6);
        assert_eq!(Ufw::parse("Status: inactive\n"), Ufw::default());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(Status: |Default: |--|\\n| ALLOW | IN |[0-9/é ]){0,40}") {
            Ufw::parse(&text);
        }
    }
}
