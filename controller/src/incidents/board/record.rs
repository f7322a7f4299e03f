//! What an incident's record holds: its timeline, its places and their symptoms.

use vigie_proto::{
    id::{HostId, RunId},
    v1::{Incident, IncidentEntry, IncidentPlace, IncidentSymptom},
};

use super::TIMELINE;

/// Adds a line to the timeline. The oldest but the first give way.
pub(in crate::incidents) fn entry(incident: &mut Incident, at_ms: i64, text: &str, run: &str) {
    if incident.timeline.len() >= TIMELINE {
        incident.timeline.remove(1);
    }
    incident.timeline.push(IncidentEntry {
        at_ms,
        text: text.to_owned(),
        operator: String::new(),
        run: run.to_owned(),
    });
}

/// Whether it tells this of a run already.
pub(super) fn tells(incident: &Incident, run: RunId, text: &str) -> bool {
    let run = run.to_string();
    incident.timeline.iter().any(|line| line.run == run && line.text == text)
}

pub(super) fn is_of(place: &IncidentPlace, host: HostId) -> bool {
    place.host.parse() == Ok(host)
}

pub(super) fn symptoms_of(incident: &Incident, host: HostId) -> impl Iterator<Item = &IncidentSymptom> {
    incident.places.iter().filter(move |place| is_of(place, host)).flat_map(|place| &place.symptoms)
}

pub(super) fn place_of<'a>(
    incident: &'a mut Incident,
    host: HostId,
    name: &str,
    stack: &str,
) -> &'a mut IncidentPlace {
    let known = incident.places.iter().position(|place| is_of(place, host) && place.stack == stack);
    let at = known.unwrap_or_else(|| {
        incident.places.push(IncidentPlace {
            host: host.to_string(),
            host_name: name.to_owned(),
            stack: stack.to_owned(),
            symptoms: Vec::new(),
        });
        incident.places.len() - 1
    });
    &mut incident.places[at]
}

/// The worst severity among an incident's symptoms; nothing where there is none.
pub(super) fn worst(incident: &Incident, of: impl Fn(&IncidentSymptom) -> bool) -> Option<String> {
    let symptoms = incident.places.iter().flat_map(|place| &place.symptoms).filter(|symptom| of(symptom));
    symptoms.max_by_key(|symptom| rank(&symptom.severity)).map(|symptom| symptom.severity.clone())
}

/// The rank of what wakes people at night.
pub(super) const CRITICAL: u8 = 3;

/// How bad a word is.
pub(crate) fn rank(severity: &str) -> u8 {
    match severity {
        "critical" => CRITICAL,
        "warning" => 2,
        "notice" => 1,
        _ => 0,
    }
}
