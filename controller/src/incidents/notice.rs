//! What people are told of an incident, in words. Pure.

use serde::{Deserialize, Serialize};
use vigie_proto::{
    text::escape,
    v1::{Incident, IncidentState},
};

/// Causes that a notice names, and the hosts that it lists.
const NAMED: usize = 10;
const HOSTS: usize = 500;

/// The longest line of a text, in characters, and the longest text, in bytes: of what is longer than 4,096 bytes ntfy makes
/// a file (<https://docs.ntfy.sh/publish/#limitations>), which nobody opens at night.
const LONGEST_LINE: usize = 400;
const LONGEST_TEXT: usize = 3_600;

/// Why somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Opened,
    Worsened,
    /// It was over, and shows again.
    Again,
    /// What was bad is over, and something milder still shows.
    Eased,
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
            Self::Eased => "eased",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }

    /// Whether it says that something is over: no reason to wake anybody.
    pub(crate) fn is_relief(self) -> bool {
        matches!(self, Self::Eased | Self::Resolved)
    }
}

/// One message to people, as every channel gets it. Webhooks get exactly this, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Notice {
    pub(crate) kind: Kind,
    /// notice, warning, critical. An end has the severity of what was told, so that it reaches whoever was told of it.
    pub(crate) severity: String,
    /// One line.
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) incident: String,
    pub(crate) opened_at_ms: i64,
    pub(crate) hosts: Vec<String>,
}

impl Notice {
    /// Words an incident. `crowd` is given with the last notice that the bound lets through, and counts those that wait
    /// already.
    pub(super) fn of(incident: &Incident, kind: Kind, crowd: Option<usize>) -> Self {
        let mut hosts: Vec<String> = incident.places.iter().map(|place| place.host_name.clone()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let title = escape(&incident.title, false);
        let severity = if kind.is_relief() { &incident.told_severity } else { &incident.severity };
        let subject = match kind {
            Kind::Resolved | Kind::Eased => format!("[{}] {}: {title}", kind.word(), listed(&hosts)),
            _ => format!("[{severity}] {}: {title}", listed(&hosts)),
        };
        let mut lines = vec![format!("{title} ({}).", kind.word())];
        if kind == Kind::Eased {
            lines
                .push(format!("Nothing {severity} shows any more; what is left is a {}.", incident.severity));
        }
        for cause in incident.causes.iter().take(NAMED) {
            lines.push(format!("- {}: {}", listed(&cause.host_names), escape(&cause.says, false)));
            if !cause.advise.is_empty() && incident.state() == IncidentState::Open {
                lines.push(format!("  {}", escape(&cause.advise, false)));
            }
        }
        if incident.causes.is_empty() || kind == Kind::Eased {
            let shows = incident.places.iter().flat_map(|place| {
                place
                    .symptoms
                    .iter()
                    .filter(|symptom| symptom.until_ms == 0)
                    .map(|s| (&place.host_name, &s.says))
            });
            lines.extend(shows.take(NAMED).map(|(host, says)| format!("- {host}: {}", escape(says, false))));
        }
        let changed = incident.changed_before.iter().filter(|_| !kind.is_relief());
        lines.extend(changed.map(|words| format!("Shortly before: {}", escape(words, false))));
        let mut last = Vec::new();
        let contacts = incident.contacts.iter().map(|known| format!("{}: {}", known.role, known.contact));
        let contacts: Vec<_> = contacts.collect();
        if incident.state() == IncidentState::Open && !contacts.is_empty() {
            last.push(format!("Contacts: {}", contacts.join(", ")));
        }
        last.push(match kind {
            Kind::Resolved => format!("Write it up: vigiectl incidents report {}", incident.id),
            _ => format!("Look: vigiectl incidents show {}", incident.id),
        });
        match crowd {
            Some(0) => last
                .push("There were many notices: those to come wait. See vigiectl incidents list".to_owned()),
            Some(waiting) => last.push(format!("{waiting} more notices wait: vigiectl incidents list")),
            None => {}
        }
        hosts.truncate(HOSTS);
        Self {
            kind,
            severity: severity.clone(),
            subject: subject.chars().take(200).collect(),
            text: bounded(lines, last),
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

/// The lines as one text; where it would be too long, those before the last ones give way.
fn bounded(lines: Vec<String>, last: Vec<String>) -> String {
    let cut = |line: String| match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    };
    let last: Vec<_> = last.into_iter().map(cut).collect();
    let mut room = LONGEST_TEXT.saturating_sub(last.iter().map(|line| line.len() + 1).sum());
    let mut kept = Vec::new();
    for line in lines.into_iter().map(cut) {
        let Some(left) = room.checked_sub(line.len() + 1) else {
            kept.push("…".to_owned());
            break;
        };
        room = left;
        kept.push(line);
    }
    kept.extend(last);
    kept.join("\n")
}

/// `vps1, vps2 and 3 more`.
fn listed(names: &[String]) -> String {
    match names.len() {
        0 => "the fleet".to_owned(),
        count if count <= 3 => names.join(", "),
        count => format!("{} and {} more", names[..2].join(", "), count - 2),
    }
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::{IncidentCause, IncidentContact, IncidentPlace};

    use super::*;

    /// A statement of a megabyte in every cause, on a thousand hosts.
    #[test]
    fn no_words_of_a_host_make_a_notice_too_long_to_be_taken() {
        let causes = (0..40).map(|_| IncidentCause {
            says: "é".repeat(1 << 20),
            advise: "do it".repeat(10_000),
            host_names: (0..1000).map(|place| format!("vps{place}")).collect(),
            ..Default::default()
        });
        let places =
            (0..1000).map(|place| IncidentPlace { host_name: format!("vps{place}"), ..Default::default() });
        let mut incident = Incident {
            id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
            title: "a cause".repeat(10_000),
            severity: "critical".to_owned(),
            causes: causes.collect(),
            places: places.collect(),
            contacts: vec![IncidentContact { role: "On-call".to_owned(), contact: "0".repeat(10_000) }],
            ..Default::default()
        };
        incident.set_state(IncidentState::Open);
        let notice = Notice::of(&incident, Kind::Opened, Some(7));
        assert!(notice.text.len() <= LONGEST_TEXT, "{}", notice.text.len());
        assert!(notice.subject.chars().count() <= 200 && notice.hosts.len() == HOSTS);
        for kept in
            ["vigiectl incidents show 01890a5d", "Contacts: On-call", "7 more notices wait", "- vps0, vps1"]
        {
            assert!(notice.text.contains(kept), "{kept}: {}", notice.text);
        }
    }
}
