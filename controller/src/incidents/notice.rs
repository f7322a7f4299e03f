//! What people are told of an incident, in words. Pure.

use serde::{Deserialize, Serialize};
use vigie_proto::{
    text::escape,
    v1::{Incident, IncidentState},
};

/// Hosts and causes that a notice names; the rest is counted.
const NAMED: usize = 10;

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Opened,
    Worsened,
    /// It was over, and shows again.
    Again,
    Resolved,
    /// Somebody tries the channel.
    Test,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Worsened => "worsened",
            Self::Again => "shows again",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

/// One message to people, as every channel gets it. Webhooks get exactly this, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) kind: Kind,
    /// notice, warning, critical.
    pub(crate) severity: String,
    /// One line.
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) incident: String,
    pub(crate) opened_at_ms: i64,
    pub(crate) hosts: Vec<String>,
}

impl Notice {
    /// Words an incident. `held` notices before this one were not sent.
    pub(super) fn of(incident: &Incident, kind: Kind, held: u32) -> Self {
        let mut hosts: Vec<String> = incident.places.iter().map(|place| place.host_name.clone()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let title = escape(&incident.title, false);
        let subject = match kind {
            Kind::Resolved => format!("[resolved] {}: {title}", listed(&hosts)),
            _ => format!("[{}] {}: {title}", incident.severity, listed(&hosts)),
        };
        let mut lines = vec![format!("{} ({}).", title, kind.word())];
        for cause in incident.causes.iter().take(NAMED) {
            lines.push(format!("- {}: {}", listed(&cause.host_names), escape(&cause.says, false)));
            if !cause.advise.is_empty() && incident.state() == IncidentState::Open {
                lines.push(format!("  {}", escape(&cause.advise, false)));
            }
        }
        if incident.causes.is_empty() {
            let shows = incident.places.iter().flat_map(|place| {
                place
                    .symptoms
                    .iter()
                    .filter(|symptom| symptom.until_ms == 0)
                    .map(|s| (&place.host_name, &s.says))
            });
            lines.extend(shows.take(NAMED).map(|(host, says)| format!("- {host}: {}", escape(says, false))));
        }
        let contacts = incident.contacts.iter().map(|known| format!("{}: {}", known.role, known.contact));
        let contacts: Vec<_> = contacts.collect();
        if incident.state() == IncidentState::Open && !contacts.is_empty() {
            lines.push(format!("Contacts: {}", contacts.join(", ")));
        }
        lines.push(match kind {
            Kind::Resolved => format!("Write it up: vigiectl incidents report {}", incident.id),
            _ => format!("Look: vigiectl incidents show {}", incident.id),
        });
        if held > 0 {
            lines.push(format!("{held} notices before this one were held back: vigiectl incidents list"));
        }
        Self {
            kind,
            severity: incident.severity.clone(),
            subject: subject.chars().take(200).collect(),
            text: lines.join("\n"),
            incident: incident.id.clone(),
            opened_at_ms: incident.opened_at_ms,
            hosts,
        }
    }

    /// For whoever tries a channel.
    pub(crate) fn test() -> Self {
        Self {
            kind: Kind::Test,
            severity: "notice".to_owned(),
            subject: "[test] Vigie can reach you".to_owned(),
            text: "This is a test, sent by `vigie-controller notify`. Nothing is wrong.".to_owned(),
            incident: String::new(),
            opened_at_ms: 0,
            hosts: Vec::new(),
        }
    }
}

/// `vps1, vps2 and 3 more`.
fn listed(names: &[String]) -> String {
    match names.len() {
        0 => "the fleet".to_owned(),
        count if count <= 3 => names.join(", "),
        count => format!("{} and {} more", names[..2].join(", "), count - 2),
    }
}
