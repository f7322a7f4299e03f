//! Which incidents there are, as a pure state machine over what hosts show.
//!
//! A symptom opens an incident, or joins one: that of its host, or a young one of the same runbook on other hosts, so
//! that a fleet that breaks together is one incident. It is diagnosed once its first symptoms have gathered, and told
//! after that: once on opening, on worsening not too often, once when it is over. Decides nothing about how hosts are
//! asked or people told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vigie_proto::{
    id::{HostId, IncidentId, RunId},
    text::escape,
    v1::{
        CheckState, Incident, IncidentCause, IncidentEntry, IncidentPlace, IncidentState, IncidentSymptom,
        Symptom,
    },
};

use super::{
    checklist,
    notice::{Kind, Notice},
};
use crate::monitoring::Colour;

/// Symptoms of one cause come within seconds of each other; what comes within this time is diagnosed together.
const SETTLE_MS: i64 = 8_000;
/// A diagnosis that takes longer does not keep people from being told.
const DIAGNOSED_BY_MS: i64 = 45_000;
/// An incident is over when nothing has shown for so long.
const CALM_MS: i64 = 60_000;
/// What shows again within this time is the same incident.
const AGAIN_MS: i64 = 15 * 60_000;
/// Another host with the same symptom joins an incident that is younger than this.
const JOIN_MS: i64 = 10 * 60_000;
/// Worsening is told at most this often for one incident.
const WORSE_MS: i64 = 5 * 60_000;
/// An agent that has been away for so long is a symptom.
const AWAY_MS: i64 = 60_000;
/// Of all incidents together, so many notices are sent in ten minutes; the rest is counted in the next one.
const NOTICES: usize = 20;
const NOTICES_WITHIN_MS: i64 = 10 * 60_000;
/// The timeline's length: a flapping host must not fill the disk.
const TIMELINE: usize = 500;
/// Symptoms that are kept of one place, shown or gone.
const SYMPTOMS: usize = 100;

/// The runbook under which an agent's silence stands.
const AWAY_RUNBOOK: &str = "api-down";
/// No runbook has so many symptoms.
const AWAY_PLACE: u32 = u32::MAX;

/// What may happen.
#[derive(Debug)]
pub(super) enum Input {
    /// All that shows on a host.
    Shows {
        host: HostId,
        name: String,
        symptoms: Vec<Symptom>,
    },
    /// An agent's session ended, or has not begun since the controller started.
    Away {
        host: HostId,
        name: String,
    },
    /// An agent's session began.
    Back {
        host: HostId,
    },
    /// A run of ours is under way.
    Diagnosing {
        incident: IncidentId,
        run: RunId,
    },
    /// It ended, or could not be opened.
    Diagnosed {
        incident: IncidentId,
        causes: Vec<IncidentCause>,
    },
    /// A person's run that changed something, or was to, ended on hosts.
    Ran {
        run: RunId,
        hosts: BTreeSet<HostId>,
        operator: String,
        text: String,
        checklist: Vec<(String, bool)>,
    },
    /// The team's own monitoring told how it is.
    Monitored(Colour),
    Tick,
}

/// What is to be written down, sent and asked because of it.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) changed: BTreeSet<IncidentId>,
    pub(super) notices: Vec<Notice>,
    /// Incidents to diagnose, with the names of their hosts.
    pub(super) diagnose: Vec<(IncidentId, Vec<String>)>,
}

/// An incident with what need not outlive the process.
#[derive(Debug)]
struct Kept {
    incident: Incident,
    diagnose_at_ms: Option<i64>,
    diagnosing: Option<RunId>,
    /// What is to be told, and from when on.
    due: Option<(Kind, i64)>,
    /// Since when nothing shows.
    calm_since_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Seen {
    name: String,
    away_since_ms: Option<i64>,
}

/// Every incident that is not closed, and what hosts show.
#[derive(Debug, Default)]
pub(super) struct Board {
    incidents: BTreeMap<IncidentId, Kept>,
    hosts: BTreeMap<HostId, Seen>,
    /// When notices were sent lately.
    sent: VecDeque<i64>,
    /// Notices that the bound held back since the last one.
    held: u32,
}

impl Board {
    /// The board as the store remembers it.
    pub(super) fn new(incidents: impl IntoIterator<Item = (IncidentId, Incident)>, now_ms: i64) -> Self {
        let keep = |(id, incident): (IncidentId, Incident)| {
            let untold = incident.state() == IncidentState::Open && incident.notified_at_ms == 0;
            let kept = Kept {
                diagnose_at_ms: untold.then_some(now_ms + SETTLE_MS),
                due: untold.then_some((Kind::Opened, now_ms + DIAGNOSED_BY_MS)),
                diagnosing: None,
                calm_since_ms: None,
                incident,
            };
            (id, kept)
        };
        Self { incidents: incidents.into_iter().map(keep).collect(), ..Self::default() }
    }

    pub(super) fn incident(&self, id: IncidentId) -> Option<&Incident> {
        self.incidents.get(&id).map(|kept| &kept.incident)
    }

    /// The incident that a run of ours diagnoses.
    pub(super) fn diagnosing(&self, run: RunId) -> Option<IncidentId> {
        self.incidents.iter().find(|(_, kept)| kept.diagnosing == Some(run)).map(|(id, _)| *id)
    }

    /// Changes an incident by a person's word; `None` when it is not on the board.
    pub(super) fn amend<R>(&mut self, id: IncidentId, change: impl FnOnce(&mut Incident) -> R) -> Option<R> {
        let kept = self.incidents.get_mut(&id)?;
        let changed = change(&mut kept.incident);
        if kept.incident.state() == IncidentState::Closed {
            self.incidents.remove(&id);
        }
        Some(changed)
    }

    /// Takes what happened.
    pub(super) fn take(&mut self, input: Input, now_ms: i64) -> Decision {
        let mut decision = Decision::default();
        match input {
            Input::Shows { host, name, symptoms } => {
                let seen = self.hosts.entry(host).or_default();
                seen.name = name;
                self.shows(host, symptoms, now_ms, &mut decision);
            }
            Input::Away { host, name } => {
                let seen = self.hosts.entry(host).or_default();
                seen.name = name;
                seen.away_since_ms.get_or_insert(now_ms);
            }
            Input::Back { host } => {
                self.hosts.entry(host).or_default().away_since_ms = None;
                self.ends(host, now_ms, &mut decision, |symptom| symptom.place == AWAY_PLACE);
            }
            Input::Diagnosing { incident, run } => {
                if let Some(kept) = self.incidents.get_mut(&incident) {
                    kept.diagnosing = Some(run);
                    entry(&mut kept.incident, now_ms, "diagnosis begins", &run.to_string());
                    decision.changed.insert(incident);
                }
            }
            Input::Diagnosed { incident, causes } => self.diagnosed(incident, causes, now_ms, &mut decision),
            Input::Ran { run, hosts, operator, text, checklist } => {
                self.ran(run, &hosts, &operator, &text, &checklist, now_ms, &mut decision);
            }
            Input::Monitored(seen) => self.monitored(&seen, now_ms, &mut decision),
            Input::Tick => {}
        }
        self.passes(now_ms, &mut decision);
        decision
    }

    /// When [`Input::Tick`] is due.
    pub(super) fn wake_at_ms(&self) -> Option<i64> {
        let incidents = self.incidents.values().flat_map(|kept| {
            let due = kept.due.map(|(_, at)| at);
            let calm = kept.calm_since_ms.map(|since| since + CALM_MS);
            [kept.diagnose_at_ms, due, calm]
        });
        let away = self.hosts.iter().filter_map(|(host, seen)| {
            let since = seen.away_since_ms?;
            (!self.is_away_told(*host)).then_some(since + AWAY_MS)
        });
        incidents.flatten().chain(away).min()
    }

    fn is_away_told(&self, host: HostId) -> bool {
        self.incidents.values().any(|kept| {
            symptoms_of(&kept.incident, host)
                .any(|symptom| symptom.place == AWAY_PLACE && symptom.until_ms == 0)
        })
    }

    /// Compares what shows with what showed.
    fn shows(&mut self, host: HostId, symptoms: Vec<Symptom>, now_ms: i64, decision: &mut Decision) {
        let now: BTreeSet<_> =
            symptoms.iter().map(|s| (s.runbook.clone(), s.stack.clone(), s.place)).collect();
        let mut known = BTreeSet::new();
        for (id, kept) in &mut self.incidents {
            for place in kept.incident.places.iter_mut().filter(|place| is_of(place, host)) {
                let stack = place.stack.clone();
                for symptom in place.symptoms.iter_mut().filter(|symptom| symptom.until_ms == 0) {
                    let key = (symptom.runbook.clone(), stack.clone(), symptom.place);
                    if symptom.place == AWAY_PLACE || now.contains(&key) {
                        known.insert(key);
                    } else {
                        symptom.until_ms = now_ms;
                        decision.changed.insert(*id);
                    }
                }
            }
        }
        for symptom in symptoms {
            // What is only worth knowing is shown where somebody looks, and wakes nobody.
            let wakes = matches!(symptom.severity.as_str(), "warning" | "critical");
            let key = (symptom.runbook.clone(), symptom.stack.clone(), symptom.place);
            if wakes && !known.contains(&key) {
                self.begins(host, symptom, now_ms, decision);
            }
        }
    }

    /// A symptom begins to show.
    fn begins(&mut self, host: HostId, symptom: Symptom, now_ms: i64, decision: &mut Decision) {
        let name = self.hosts.get(&host).map(|seen| seen.name.clone()).unwrap_or_default();
        let joined = self.home_of(host, &symptom, now_ms);
        let (id, is_new) = joined.map_or_else(|| (IncidentId::new(), true), |id| (id, false));
        let kept = self.incidents.entry(id).or_insert_with(|| Kept {
            incident: Incident {
                id: id.to_string(),
                state: IncidentState::Open.into(),
                opened_at_ms: now_ms,
                title: symptom.says.clone(),
                ..Incident::default()
            },
            diagnose_at_ms: None,
            diagnosing: None,
            due: None,
            calm_since_ms: None,
        });
        let incident = &mut kept.incident;
        let worse_severity = rank(&symptom.severity) > rank(&incident.severity);
        let new_host = !incident.places.iter().any(|place| is_of(place, host));
        let new_runbook = !symptoms_of(incident, host).any(|known| known.runbook == symptom.runbook);
        if worse_severity {
            incident.severity.clone_from(&symptom.severity);
        }
        let again = incident.state() == IncidentState::Resolved;
        if again {
            incident.set_state(IncidentState::Open);
            incident.resolved_at_ms = 0;
        }
        let target =
            if symptom.stack.is_empty() { name.clone() } else { format!("{name}/{}", symptom.stack) };
        let word = if again { "shows again" } else { "shows" };
        entry(incident, now_ms, &format!("{target} {word}: {} ({})", symptom.says, symptom.runbook), "");
        let place = place_of(incident, host, &name, &symptom.stack);
        place.symptoms.retain(|known| known.runbook != symptom.runbook || known.place != symptom.place);
        place.symptoms.truncate(SYMPTOMS - 1);
        place.symptoms.push(IncidentSymptom {
            runbook: symptom.runbook,
            place: symptom.place,
            severity: symptom.severity,
            says: symptom.says,
            since_ms: now_ms,
            until_ms: 0,
        });
        decision.changed.insert(id);
        kept.calm_since_ms = None;
        let told = kept.incident.notified_at_ms;
        if is_new || told == 0 {
            kept.diagnose_at_ms.get_or_insert(now_ms + SETTLE_MS);
            kept.due.get_or_insert((Kind::Opened, now_ms + DIAGNOSED_BY_MS));
        } else if worse_severity || new_host || new_runbook || again {
            kept.diagnose_at_ms.get_or_insert(now_ms + SETTLE_MS);
            let kind = if again { Kind::Again } else { Kind::Worsened };
            kept.due.get_or_insert((kind, (now_ms + DIAGNOSED_BY_MS).max(told + WORSE_MS)));
        }
    }

    /// The incident that a symptom belongs to.
    fn home_of(&self, host: HostId, symptom: &Symptom, now_ms: i64) -> Option<IncidentId> {
        let is_open = |kept: &Kept| kept.incident.state() == IncidentState::Open;
        let here = |kept: &Kept| kept.incident.places.iter().any(|place| is_of(place, host));
        let same = |incident: &Incident| {
            incident
                .places
                .iter()
                .flat_map(|place| &place.symptoms)
                .any(|known| known.runbook == symptom.runbook)
        };
        let young = |kept: &Kept| now_ms < kept.incident.opened_at_ms + JOIN_MS;
        let recent = |kept: &Kept| {
            kept.incident.state() == IncidentState::Resolved
                && now_ms < kept.incident.resolved_at_ms + AGAIN_MS
        };
        let find = |wanted: &dyn Fn(&Kept) -> bool| {
            self.incidents.iter().rev().find(|(_, kept)| wanted(kept)).map(|(id, _)| *id)
        };
        find(&|kept| is_open(kept) && here(kept))
            .or_else(|| find(&|kept| is_open(kept) && young(kept) && same(&kept.incident)))
            .or_else(|| find(&|kept| recent(kept) && here(kept) && same(&kept.incident)))
    }

    /// Symptoms of a host stop showing.
    fn ends(
        &mut self,
        host: HostId,
        now_ms: i64,
        decision: &mut Decision,
        over: impl Fn(&IncidentSymptom) -> bool,
    ) {
        for (id, kept) in &mut self.incidents {
            let places = kept.incident.places.iter_mut().filter(|place| is_of(place, host));
            for symptom in places.flat_map(|place| &mut place.symptoms) {
                if symptom.until_ms == 0 && over(symptom) {
                    symptom.until_ms = now_ms;
                    decision.changed.insert(*id);
                }
            }
        }
    }

    fn diagnosed(
        &mut self,
        id: IncidentId,
        causes: Vec<IncidentCause>,
        now_ms: i64,
        decision: &mut Decision,
    ) {
        let Some(kept) = self.incidents.get_mut(&id) else { return };
        let run = kept.diagnosing.take().map(|run| run.to_string()).unwrap_or_default();
        let words: Vec<_> = causes.iter().map(|cause| cause.says.as_str()).collect();
        let text = match words.as_slice() {
            [] => "the diagnosis confirms no cause".to_owned(),
            causes => format!("cause: {}", causes.join("; ")),
        };
        entry(&mut kept.incident, now_ms, &text, &run);
        if let Some(cause) = causes.first() {
            kept.incident.title.clone_from(&cause.says);
        }
        if !causes.is_empty() {
            kept.incident.causes = causes;
        }
        // Who waited for the diagnosis is told now, unless they were told a moment ago.
        if let Some((kind, at)) = kept.due {
            let earliest =
                if kind == Kind::Opened { now_ms } else { kept.incident.notified_at_ms + WORSE_MS };
            kept.due = Some((kind, at.min(earliest.max(now_ms))));
        }
        decision.changed.insert(id);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one input")]
    fn ran(
        &mut self,
        run: RunId,
        hosts: &BTreeSet<HostId>,
        operator: &str,
        text: &str,
        checklist: &[(String, bool)],
        now_ms: i64,
        decision: &mut Decision,
    ) {
        for (id, kept) in &mut self.incidents {
            let incident = &mut kept.incident;
            let concerns = incident
                .places
                .iter()
                .any(|place| place.host.parse().is_ok_and(|host: HostId| hosts.contains(&host)));
            if !concerns {
                continue;
            }
            entry(incident, now_ms, text, &run.to_string());
            if let Some(last) = incident.timeline.last_mut() {
                operator.clone_into(&mut last.operator);
            }
            checklist::answer(&mut incident.checklist, checklist);
            decision.changed.insert(*id);
        }
    }

    /// Whether the monitoring's word would say anything to an incident.
    pub(super) fn wants_monitoring(&self) -> bool {
        self.incidents.values().any(wants_monitoring)
    }

    /// Takes the monitoring's word. It counts until the incident is over and has been seen green: what goes red after
    /// that is another incident's.
    fn monitored(&mut self, seen: &Colour, now_ms: i64, decision: &mut Decision) {
        let (is_green, text) = match seen {
            Colour::Green => (true, "monitoring is green".to_owned()),
            Colour::Red(why) => (false, format!("monitoring is not green: {}", escape(why, false))),
        };
        let wanted = if is_green { CheckState::Done } else { CheckState::NotDone };
        for (id, kept) in self.incidents.iter_mut().filter(|(_, kept)| wants_monitoring(kept)) {
            let lines = &mut kept.incident.checklist;
            if checklist::state(lines, checklist::MONITORING) != wanted {
                checklist::answer(lines, &[(checklist::MONITORING.to_owned(), is_green)]);
                entry(&mut kept.incident, now_ms, &text, "");
                decision.changed.insert(*id);
            }
        }
    }

    /// What time alone brings.
    fn passes(&mut self, now_ms: i64, decision: &mut Decision) {
        let silent: Vec<_> = self
            .hosts
            .iter()
            .filter(|(host, seen)| {
                seen.away_since_ms.is_some_and(|since| now_ms >= since + AWAY_MS)
                    && !self.is_away_told(**host)
            })
            .map(|(host, seen)| (*host, seen.away_since_ms.unwrap_or(now_ms)))
            .collect();
        for (host, since_ms) in silent {
            let symptom = Symptom {
                runbook: AWAY_RUNBOOK.to_owned(),
                place: AWAY_PLACE,
                severity: "critical".to_owned(),
                says: "the host's agent is not connected".to_owned(),
                since_ms,
                ..Symptom::default()
            };
            self.begins(host, symptom, now_ms, decision);
        }
        let mut due = Vec::new();
        for (id, kept) in &mut self.incidents {
            let shows =
                kept.incident.places.iter().flat_map(|place| &place.symptoms).any(|s| s.until_ms == 0);
            match (kept.incident.state(), shows) {
                (IncidentState::Open, false) => {
                    let since = *kept.calm_since_ms.get_or_insert(now_ms);
                    if now_ms >= since + CALM_MS {
                        kept.calm_since_ms = None;
                        kept.diagnose_at_ms = None;
                        kept.incident.set_state(IncidentState::Resolved);
                        kept.incident.resolved_at_ms = now_ms;
                        entry(&mut kept.incident, now_ms, "nothing shows any more: resolved", "");
                        decision.changed.insert(*id);
                        // Nobody is told of the end of what they never heard of.
                        kept.due = (kept.incident.notified_at_ms > 0).then_some((Kind::Resolved, now_ms));
                    }
                }
                _ => kept.calm_since_ms = None,
            }
            if kept.diagnose_at_ms.is_some_and(|at| now_ms >= at) && kept.diagnosing.is_none() {
                kept.diagnose_at_ms = None;
                let names: BTreeSet<_> =
                    kept.incident.places.iter().map(|place| place.host_name.clone()).collect();
                decision.diagnose.push((*id, names.into_iter().collect()));
            }
            if let Some((kind, at)) = kept.due
                && now_ms >= at
            {
                kept.due = None;
                due.push((*id, kind));
            }
        }
        for (id, kind) in due {
            self.tell(id, kind, now_ms, decision);
        }
    }

    /// Tells people, unless they were told too much already.
    fn tell(&mut self, id: IncidentId, kind: Kind, now_ms: i64, decision: &mut Decision) {
        while self.sent.front().is_some_and(|at| now_ms >= at + NOTICES_WITHIN_MS) {
            self.sent.pop_front();
        }
        let Some(kept) = self.incidents.get_mut(&id) else { return };
        kept.incident.notified_at_ms = now_ms;
        decision.changed.insert(id);
        if self.sent.len() >= NOTICES {
            self.held += 1;
            entry(&mut kept.incident, now_ms, "not told: too many notices in the last minutes", "");
            return;
        }
        self.sent.push_back(now_ms);
        entry(&mut kept.incident, now_ms, &format!("told: {}", kind.word()), "");
        decision.notices.push(Notice::of(&kept.incident, kind, std::mem::take(&mut self.held)));
    }
}

fn wants_monitoring(kept: &Kept) -> bool {
    match kept.incident.state() {
        IncidentState::Open => true,
        IncidentState::Resolved => {
            checklist::state(&kept.incident.checklist, checklist::MONITORING) != CheckState::Done
        }
        IncidentState::Closed | IncidentState::Unspecified => false,
    }
}

/// Adds a line to the timeline. The oldest but the first give way.
fn entry(incident: &mut Incident, at_ms: i64, text: &str, run: &str) {
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

fn is_of(place: &IncidentPlace, host: HostId) -> bool {
    place.host.parse() == Ok(host)
}

fn symptoms_of(incident: &Incident, host: HostId) -> impl Iterator<Item = &IncidentSymptom> {
    incident.places.iter().filter(move |place| is_of(place, host)).flat_map(|place| &place.symptoms)
}

fn place_of<'a>(incident: &'a mut Incident, host: HostId, name: &str, stack: &str) -> &'a mut IncidentPlace {
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

/// How bad a word is.
pub(crate) fn rank(severity: &str) -> u8 {
    match severity {
        "critical" => 3,
        "warning" => 2,
        "notice" => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
