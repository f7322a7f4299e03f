//! Which incidents there are, as a pure state machine over what hosts show.
//!
//! A symptom opens an incident, or joins one: a young one of its host, one of the same runbook and stack, or a young one
//! of the same runbook on other hosts, so that a fleet that breaks together is one incident. An outage joins no old
//! warning: its end would never be told. An incident is diagnosed once its first symptoms have gathered, and told after
//! that: once on opening, on worsening not too often, once when it is over. What is to be told follows from how it stands
//! and what people believe, and both are the incident's own, so that no restart and no bound loses a notice. Decides
//! nothing about how hosts are asked or people told.

mod kept;
mod record;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vigie_proto::{
    id::{HostId, IncidentId, RunId},
    text::escape,
    v1::{CheckState, Incident, IncidentCause, IncidentState, IncidentSymptom, Symptom},
};

use super::{
    checklist,
    notice::{Kind, Notice},
};
use crate::monitoring::Colour;
use kept::Kept;
pub(super) use record::entry;
pub(crate) use record::rank;
use record::{CRITICAL, is_of, place_of, symptoms_of, tells, worst};

/// Symptoms of one cause come within seconds of each other; what comes within this time is diagnosed together.
const SETTLE_MS: i64 = 8_000;
/// A diagnosis that takes longer does not keep people from being told.
const DIAGNOSED_BY_MS: i64 = 45_000;
/// An incident is over when nothing has shown for so long.
const CALM_MS: i64 = 60_000;
/// What shows again within this time is the same incident.
const AGAIN_MS: i64 = 15 * 60_000;
/// An incident that is younger than this is joined by what else its hosts show, and by other hosts with the same symptom.
const JOIN_MS: i64 = 10 * 60_000;
/// That an incident got wider, shows again, or has been less bad for so long, is told at most this often.
const WORSE_MS: i64 = 5 * 60_000;
/// An agent that has been away for so long is a symptom.
const AWAY_MS: i64 = 60_000;
/// Of all incidents together, so many notices are sent in ten minutes, and as many of critical ones: no flood of warnings
/// keeps an outage from being told. The rest waits for its turn.
const NOTICES: usize = 20;
const NOTICES_WITHIN_MS: i64 = 10 * 60_000;
/// The timeline's length: a flapping host must not fill the disk.
const TIMELINE: usize = 500;
/// Symptoms that are kept of one place; those that are gone give way.
const SYMPTOMS: usize = 100;

/// The runbook under which an agent's silence stands.
const AWAY_RUNBOOK: &str = "api-down";
/// No runbook has so many symptoms.
const AWAY_PLACE: u32 = u32::MAX;

/// Who says what shows on a host. What one says has no bearing on what the other sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Witness {
    /// Its agent.
    Agent,
    /// The controller, from outside.
    Controller,
}

/// What may happen.
#[derive(Debug)]
pub(super) enum Input {
    /// All that a witness sees of a host.
    Shows {
        host: HostId,
        name: String,
        witness: Witness,
        symptoms: Vec<Symptom>,
    },
    /// An agent's session ended, or has not begun since the controller started, or nothing is heard in it.
    Away {
        host: HostId,
        name: String,
        says: &'static str,
    },
    /// An agent is connected and answers.
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
    /// A host's root did something on the host itself. May come twice.
    DoneHere {
        run: RunId,
        host: HostId,
        person: String,
        text: String,
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

#[derive(Debug, Default)]
struct Seen {
    name: String,
    /// Since when its agent is away, and how.
    away: Option<(i64, &'static str)>,
}

/// Every incident that is not closed, and what hosts show.
#[derive(Debug, Default)]
pub(super) struct Board {
    incidents: BTreeMap<IncidentId, Kept>,
    hosts: BTreeMap<HostId, Seen>,
    /// When notices were sent lately: of what is critical, and of the rest.
    sent: [VecDeque<i64>; 2],
}

impl Board {
    /// The board as the store remembers it.
    pub(super) fn new(incidents: impl IntoIterator<Item = (IncidentId, Incident)>, now_ms: i64) -> Self {
        let keep = |(id, incident): (IncidentId, Incident)| {
            let mut kept = Kept::new(incident, now_ms);
            let open = kept.incident.state() == IncidentState::Open;
            kept.diagnose_at_ms = (open && kept.owed().is_some()).then_some(now_ms + SETTLE_MS);
            (id, kept)
        };
        Self { incidents: incidents.into_iter().map(keep).collect(), ..Self::default() }
    }

    pub(super) fn incident(&self, id: IncidentId) -> Option<&Incident> {
        self.incidents.get(&id).map(|kept| &kept.incident)
    }

    /// Every run of ours that diagnoses an incident.
    pub(super) fn all_diagnosing(&self) -> Vec<RunId> {
        self.incidents.values().filter_map(|kept| kept.diagnosing).collect()
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
            Input::Shows { host, name, witness, symptoms } => {
                let seen = self.hosts.entry(host).or_default();
                seen.name = name;
                self.shows(host, witness, symptoms, now_ms, &mut decision);
            }
            Input::Away { host, name, says } => {
                let seen = self.hosts.entry(host).or_default();
                seen.name = name;
                seen.away = Some((seen.away.map_or(now_ms, |(since, _)| since), says));
            }
            Input::Back { host } => {
                self.hosts.entry(host).or_default().away = None;
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
            Input::DoneHere { run, host, person, text } => {
                if !self.incidents.values().any(|kept| tells(&kept.incident, run, &text)) {
                    self.ran(run, &BTreeSet::from([host]), &person, &text, &[], now_ms, &mut decision);
                }
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
            let due = kept.owed().map(|(kind, at)| at.max(self.room_at_ms(kept.is_critical(kind))));
            let calm = kept.calm_since_ms.map(|since| since + CALM_MS);
            // One diagnosis at a time; its end is an input of its own.
            let diagnose = kept.diagnose_at_ms.filter(|_| kept.diagnosing.is_none());
            [diagnose, due, calm]
        });
        let away = self.hosts.iter().filter_map(|(host, seen)| {
            let (since, _) = seen.away?;
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
    fn shows(
        &mut self,
        host: HostId,
        witness: Witness,
        symptoms: Vec<Symptom>,
        now_ms: i64,
        decision: &mut Decision,
    ) {
        let outside = witness == Witness::Controller;
        let own = |symptom: &IncidentSymptom| symptom.outside == outside && symptom.place != AWAY_PLACE;
        let now: BTreeSet<_> =
            symptoms.iter().map(|s| (s.runbook.clone(), s.stack.clone(), s.place)).collect();
        let mut known = BTreeSet::new();
        for (id, kept) in &mut self.incidents {
            for place in kept.incident.places.iter_mut().filter(|place| is_of(place, host)) {
                let stack = place.stack.clone();
                for symptom in
                    place.symptoms.iter_mut().filter(|symptom| symptom.until_ms == 0 && own(symptom))
                {
                    let key = (symptom.runbook.clone(), stack.clone(), symptom.place);
                    if now.contains(&key) {
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
            // Of an agent's silence nobody but the controller can tell.
            if wakes && symptom.place != AWAY_PLACE && !known.contains(&key) {
                self.begins(host, outside, symptom, now_ms, decision);
            }
        }
    }

    /// A symptom begins to show.
    fn begins(
        &mut self,
        host: HostId,
        outside: bool,
        symptom: Symptom,
        now_ms: i64,
        decision: &mut Decision,
    ) {
        let name = self.hosts.get(&host).map(|seen| seen.name.clone()).unwrap_or_default();
        let id = self.home_of(host, &symptom, now_ms).unwrap_or_else(IncidentId::new);
        let kept = self.incidents.entry(id).or_insert_with(|| {
            let incident = Incident {
                id: id.to_string(),
                state: IncidentState::Open.into(),
                opened_at_ms: now_ms,
                title: symptom.says.clone(),
                ..Incident::default()
            };
            Kept::new(incident, now_ms)
        });
        let owed = kept.owed().map(|(kind, _)| kind);
        let incident = &mut kept.incident;
        let new_host = !incident.places.iter().any(|place| is_of(place, host));
        let new_runbook = !symptoms_of(incident, host).any(|known| known.runbook == symptom.runbook);
        let again = incident.state() == IncidentState::Resolved;
        if again {
            incident.set_state(IncidentState::Open);
            incident.resolved_at_ms = 0;
        }
        incident.wider_than_told |= incident.told_open && (new_host || new_runbook);
        let target =
            if symptom.stack.is_empty() { name.clone() } else { format!("{name}/{}", symptom.stack) };
        let word = if again { "shows again" } else { "shows" };
        entry(incident, now_ms, &format!("{target} {word}: {} ({})", symptom.says, symptom.runbook), "");
        let place = place_of(incident, host, &name, &symptom.stack);
        let same = |known: &IncidentSymptom| {
            known.runbook == symptom.runbook && known.place == symptom.place && known.outside == outside
        };
        place.symptoms.retain(|known| !same(known));
        while place.symptoms.len() >= SYMPTOMS
            && let Some(gone) = place.symptoms.iter().position(|known| known.until_ms != 0)
        {
            place.symptoms.remove(gone);
        }
        place.symptoms.push(IncidentSymptom {
            runbook: symptom.runbook,
            place: symptom.place,
            severity: symptom.severity,
            says: symptom.says,
            since_ms: now_ms,
            until_ms: 0,
            outside,
        });
        decision.changed.insert(id);
        kept.calm_since_ms = None;
        let before = rank(&kept.incident.severity);
        kept.weigh(now_ms);
        let worse = rank(&kept.incident.severity) > before;
        let now_owed = kept.owed().map(|(kind, _)| kind);
        // The first words that people read are those of a diagnosis, and so are those of what is worse.
        if kept.incident.notified_at_ms == 0 || worse || again || new_host || new_runbook {
            kept.diagnose_at_ms.get_or_insert(now_ms + SETTLE_MS);
        }
        if now_owed != owed || (worse && kept.incident.told_open) {
            kept.tell_from_ms = now_ms + DIAGNOSED_BY_MS;
        }
    }

    /// The incident that a symptom belongs to.
    fn home_of(&self, host: HostId, symptom: &Symptom, now_ms: i64) -> Option<IncidentId> {
        let is_open = |kept: &Kept| kept.incident.state() == IncidentState::Open;
        let here = |kept: &Kept| kept.incident.places.iter().any(|place| is_of(place, host));
        let same = |incident: &Incident| {
            let symptoms = incident.places.iter().flat_map(|place| &place.symptoms);
            symptoms.into_iter().any(|known| known.runbook == symptom.runbook)
        };
        let continues = |incident: &Incident| {
            let places = incident.places.iter();
            let mut own = places.filter(|place| is_of(place, host) && place.stack == symptom.stack);
            own.any(|place| place.symptoms.iter().any(|known| known.runbook == symptom.runbook))
        };
        let young = |kept: &Kept| now_ms < kept.incident.opened_at_ms + JOIN_MS;
        // An outage that joined a warning of yesterday would be nobody's news, and its end would be none.
        let too_mild = |kept: &Kept| {
            let worst = worst(&kept.incident, |_| true).unwrap_or_default();
            rank(&symptom.severity) >= CRITICAL && rank(&worst) < CRITICAL && !young(kept)
        };
        let recent = |kept: &Kept| {
            kept.incident.state() == IncidentState::Resolved
                && now_ms < kept.incident.resolved_at_ms + AGAIN_MS
        };
        let find = |wanted: &dyn Fn(&Kept) -> bool| {
            let mut newest_first = self.incidents.iter().rev();
            newest_first.find(|(_, kept)| wanted(kept) && !too_mild(kept)).map(|(id, _)| *id)
        };
        find(&|kept| is_open(kept) && continues(&kept.incident))
            .or_else(|| find(&|kept| is_open(kept) && here(kept) && young(kept)))
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
        // Who waited for the diagnosis is told now.
        kept.tell_from_ms = kept.tell_from_ms.min(now_ms);
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
            // What is done long after the end is done for another reason.
            let over =
                incident.state() != IncidentState::Open && now_ms >= incident.resolved_at_ms + AGAIN_MS;
            let concerns = incident
                .places
                .iter()
                .any(|place| place.host.parse().is_ok_and(|host: HostId| hosts.contains(&host)));
            if over || !concerns {
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
        self.incidents.values().any(Kept::wants_monitoring)
    }

    /// Takes the monitoring's word. It counts until the incident is over and has been seen green: what goes red after
    /// that is another incident's.
    fn monitored(&mut self, seen: &Colour, now_ms: i64, decision: &mut Decision) {
        let (is_green, text) = match seen {
            Colour::Green => (true, "monitoring is green".to_owned()),
            Colour::Red(why) => (false, format!("monitoring is not green: {}", escape(why, false))),
        };
        let wanted = if is_green { CheckState::Done } else { CheckState::NotDone };
        for (id, kept) in self.incidents.iter_mut().filter(|(_, kept)| kept.wants_monitoring()) {
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
        let away = self.hosts.iter().filter_map(|(host, seen)| seen.away.map(|away| (*host, away)));
        let silent: Vec<_> = away
            .filter(|(host, (since, _))| now_ms >= since + AWAY_MS && !self.is_away_told(*host))
            .collect();
        for (host, (since_ms, says)) in silent {
            let symptom = Symptom {
                runbook: AWAY_RUNBOOK.to_owned(),
                place: AWAY_PLACE,
                severity: "critical".to_owned(),
                says: says.to_owned(),
                since_ms,
                ..Symptom::default()
            };
            self.begins(host, true, symptom, now_ms, decision);
        }
        let mut due = Vec::new();
        for (id, kept) in &mut self.incidents {
            if kept.incident.state() == IncidentState::Open && kept.weigh(now_ms) {
                decision.changed.insert(*id);
            }
            let shows = worst(&kept.incident, |symptom| symptom.until_ms == 0).is_some();
            match (kept.incident.state(), shows) {
                (IncidentState::Open, false) => {
                    let since = *kept.calm_since_ms.get_or_insert(now_ms);
                    if now_ms >= since + CALM_MS {
                        kept.calm_since_ms = None;
                        kept.diagnose_at_ms = None;
                        kept.incident.set_state(IncidentState::Resolved);
                        kept.incident.resolved_at_ms = now_ms;
                        // Whoever reads of it from now on wants to know how bad it was.
                        kept.incident.severity = worst(&kept.incident, |_| true).unwrap_or_default();
                        kept.incident.wider_than_told = false;
                        entry(&mut kept.incident, now_ms, "nothing shows any more: resolved", "");
                        decision.changed.insert(*id);
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
            if let Some((kind, at)) = kept.owed()
                && now_ms >= at
            {
                due.push((at, *id, kind, kept.is_critical(kind)));
            } else {
                kept.held = false;
            }
        }
        // Who waits longest is told first.
        due.sort_unstable_by_key(|(at, id, ..)| (*at, *id));
        for is_critical in [true, false] {
            let these = due.iter().filter(|(.., critical)| *critical == is_critical);
            let wait: Vec<_> = these.map(|(_, id, kind, _)| (*id, *kind)).collect();
            self.tell(&wait, is_critical, now_ms, decision);
        }
    }

    /// When another notice may be sent.
    fn room_at_ms(&self, is_critical: bool) -> i64 {
        let sent = &self.sent[usize::from(is_critical)];
        sent.len().checked_sub(NOTICES).map_or(0, |oldest| sent[oldest] + NOTICES_WITHIN_MS)
    }

    /// Tells people, as many as they can bear. What is left is told when there is room.
    fn tell(&mut self, wait: &[(IncidentId, Kind)], is_critical: bool, now_ms: i64, decision: &mut Decision) {
        let sent = &mut self.sent[usize::from(is_critical)];
        while sent.front().is_some_and(|at| now_ms >= at + NOTICES_WITHIN_MS) {
            sent.pop_front();
        }
        for (place, (id, kind)) in wait.iter().enumerate() {
            let Some(kept) = self.incidents.get_mut(id) else { continue };
            if sent.len() >= NOTICES {
                if !kept.held {
                    kept.held = true;
                    entry(
                        &mut kept.incident,
                        now_ms,
                        "not told yet: too many notices in the last minutes",
                        "",
                    );
                    decision.changed.insert(*id);
                }
                continue;
            }
            sent.push_back(now_ms);
            let waiting = wait.len() - place - 1;
            let crowd = (sent.len() == NOTICES).then_some(waiting);
            entry(&mut kept.incident, now_ms, &format!("told: {}", kind.word()), "");
            decision.notices.push(Notice::of(&kept.incident, *kind, crowd));
            decision.changed.insert(*id);
            kept.held = false;
            kept.eased_since_ms = None;
            let incident = &mut kept.incident;
            incident.notified_at_ms = now_ms;
            incident.told_open = *kind != Kind::Resolved;
            incident.told_severity.clone_from(&incident.severity);
            incident.wider_than_told = false;
        }
    }
}

#[cfg(test)]
mod tests;
