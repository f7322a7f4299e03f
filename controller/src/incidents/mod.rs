//! Incidents: opened by what hosts show, diagnosed, told, resolved, and written up by persons.
//!
//! Owns the board and the one loop that turns it; what the loop decides is in the store before anybody is told or asked.
//! Reports of symptoms come in from the agents' sessions, ends of runs from the runs. What an incident is, when it worsens
//! and when it is over is the [`board`]'s to say.

mod board;
mod checklist;
mod notice;
mod ran;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast::error::RecvError, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::{HostId, IncidentId, RunId},
    text::escape,
    v1::{self, Incident, IncidentContact, IncidentEntry, IncidentState, NoteIncidentRequest, Symptoms},
};

pub(crate) use board::rank;
#[cfg(test)]
pub(crate) use notice::Kind as NoticeKind;
pub(crate) use notice::Notice;

use crate::{
    audit::Intent,
    clock::now_ms,
    error::IncidentsError,
    fleet::Fleet,
    monitoring::Colour,
    notify::Channel,
    permit::Permit,
    runs::{DoneHere, Runs},
    store::{Claim, Store, StoreError},
};
use board::{Board, Decision, Input, Witness};

/// Incidents that a list shows when nobody says how many, and at most; as many are kept on the board.
const LISTED: u32 = 50;
const LISTED_AT_MOST: u32 = 1000;

/// When to try again what the store did not take.
const AGAIN: Duration = Duration::from_secs(2);

/// After a start, agents have to find the controller again, within their longest backoff.
const RETURN: Duration = Duration::from_secs(35);

/// The longest text that a person writes, in characters, and the longest that a host says.
const LONGEST_NOTE: usize = 4000;
const LONGEST_WORDS: usize = 500;

/// Symptoms that one witness can see of one host.
const SYMPTOMS: usize = 200;

/// A cheap handle to all incidents.
#[derive(Clone)]
pub struct Incidents(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    fleet: Fleet,
    runs: Runs,
    channels: Vec<Channel>,
    contacts: Vec<IncidentContact>,
    inbox: Mutex<Inbox>,
    /// Rung when something lies in the inbox.
    bell: Notify,
    /// Held for moments, and across the write that makes a change lasting: the board is never ahead of the store for
    /// those who read.
    board: Mutex<Board>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    /// Counts what was given to the channels.
    news: watch::Sender<u64>,
}

/// What waits for the loop. A newer report takes the place of an older one, so that a storm loses none: agents tell only
/// what changed, and tell it once.
#[derive(Default)]
struct Inbox {
    shows: BTreeMap<(HostId, Witness), Vec<v1::Symptom>>,
    monitored: Option<Colour>,
}

/// One thing from the inbox.
enum Post {
    Shows(HostId, Witness, Vec<v1::Symptom>),
    Monitored(Colour),
}

impl Inbox {
    fn next(&mut self) -> Option<Post> {
        if let Some(seen) = self.monitored.take() {
            return Some(Post::Monitored(seen));
        }
        let ((host, witness), symptoms) = self.shows.pop_first()?;
        Some(Post::Shows(host, witness, symptoms))
    }
}

impl Incidents {
    /// The incidents as the store remembers them.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn load(
        store: Arc<dyn Store>,
        fleet: Fleet,
        runs: Runs,
        channels: Vec<Channel>,
        contacts: Vec<IncidentContact>,
    ) -> Result<Self, StoreError> {
        let known = store.incidents(false, LISTED_AT_MOST).await?;
        let known = known.into_iter().filter_map(|incident| Some((incident.id.parse().ok()?, incident)));
        let (inbox, bell) = (Mutex::default(), Notify::new());
        let board = Mutex::new(Board::new(known, now_ms()));
        let (news, turn) = (watch::Sender::new(0), tokio::sync::Mutex::default());
        let inner = Inner { store, fleet, runs, channels, contacts, inbox, bell, board, turn, news };
        Ok(Self(Arc::new(inner)))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes when there may be a notice to deliver.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.0.news.subscribe()
    }

    /// Takes what an agent says shows on its host.
    pub(crate) fn shows(&self, host: HostId, symptoms: Symptoms) {
        let Some(name) = self.0.fleet.name(host) else { return };
        for runbook in symptoms.unwatched.iter().take(SYMPTOMS) {
            let runbook: String = escape(runbook, false).chars().take(64).collect();
            tracing::warn!(host = name, runbook, "an agent cannot watch for a runbook's symptoms");
        }
        self.report(host, Witness::Agent, symptoms.symptoms);
    }

    /// Takes what shows of a host from outside.
    pub(crate) fn shows_outside(&self, host: HostId, symptoms: Vec<v1::Symptom>) {
        self.report(host, Witness::Controller, symptoms);
    }

    /// Takes what a host's root did on the host itself. Completes once every incident that it concerns has it, or at the stop.
    pub(crate) async fn done_here(&self, host: HostId, done: &DoneHere, stop: &CancellationToken) {
        let input =
            Input::DoneHere { run: done.run, host, person: done.person.clone(), text: done.says.clone() };
        self.take(input, stop).await;
    }

    /// Whether any incident waits for the monitoring's word.
    pub(crate) fn want_monitoring(&self) -> bool {
        self.board().wants_monitoring()
    }

    /// Takes the monitoring's word.
    pub(crate) fn monitored(&self, seen: Colour) {
        self.inbox().monitored = Some(seen);
        self.0.bell.notify_one();
    }

    /// Whom to call, in the order of escalation; empty while the settings say nobody.
    pub(crate) fn contacts(&self) -> &[IncidentContact] {
        &self.0.contacts
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bounded: it is a stranger's text, or speaks of what a stranger said.
    fn report(&self, host: HostId, witness: Witness, symptoms: Vec<v1::Symptom>) {
        let bounded = |text: &str, most: usize| escape(text, false).chars().take(most).collect::<String>();
        let symptoms = symptoms.into_iter().take(SYMPTOMS);
        let symptoms = symptoms
            .map(|symptom| v1::Symptom {
                runbook: bounded(&symptom.runbook, 63),
                stack: bounded(&symptom.stack, 63),
                says: bounded(&symptom.says, LONGEST_WORDS),
                ..symptom
            })
            .collect();
        self.inbox().shows.insert((host, witness), symptoms);
        self.0.bell.notify_one();
    }

    /// Completes with the next of what lies in the inbox.
    async fn post(&self) -> Input {
        loop {
            let next = self.inbox().next();
            match next {
                Some(Post::Monitored(seen)) => return Input::Monitored(seen),
                Some(Post::Shows(host, witness, symptoms)) => {
                    // A host that was forgotten in the meantime shows nothing.
                    if let Some(name) = self.0.fleet.name(host) {
                        return Input::Shows { host, name, witness, symptoms };
                    }
                }
                None => self.0.bell.notified().await,
            }
        }
    }

    /// Turns the board until it is told to stop.
    pub(crate) async fn turn(self, stop: CancellationToken) {
        let (mut changes, mut ended) = (self.0.fleet.changes(), self.0.runs.ended());
        let mut returning = Some(Box::pin(sleep(RETURN)));
        loop {
            let input = tokio::select! {
                () = stop.cancelled() => return,
                input = self.post() => input,
                changed = changes.recv() => match changed {
                    Ok(host) => match self.presence(host) {
                        Some(input) => input,
                        None => continue,
                    },
                    Err(RecvError::Lagged(_)) => {
                        self.all_present(&stop).await;
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
                run = ended.recv() => match run {
                    Ok(run) => match self.ended(run).await {
                        Some(input) => input,
                        None => continue,
                    },
                    Err(RecvError::Lagged(_)) => {
                        self.missed(&stop).await;
                        continue;
                    }
                    Err(RecvError::Closed) => return,
                },
                () = async { if let Some(returning) = &mut returning { returning.await } else { std::future::pending().await } } => {
                    // Who has not come back by now is away.
                    returning = None;
                    self.all_present(&stop).await;
                    continue;
                }
                () = self.wake() => Input::Tick,
            };
            self.take(input, &stop).await;
        }
    }

    /// Completes when time alone brings something.
    async fn wake(&self) {
        let at = self.board().wake_at_ms();
        match at {
            Some(at) => sleep(Duration::from_millis(u64::try_from(at - now_ms()).unwrap_or(0))).await,
            None => std::future::pending().await,
        }
    }

    /// Whether a host's agent is heard of; nothing for one that is forgotten.
    fn presence(&self, host: HostId) -> Option<Input> {
        let name = self.0.fleet.name(host)?;
        Some(match self.0.fleet.is_answering(host) {
            Some(true) => Input::Back { host },
            Some(false) => {
                Input::Away { host, name, says: "the host's agent is connected and does not answer" }
            }
            None => Input::Away { host, name, says: "the host's agent is not connected" },
        })
    }

    async fn all_present(&self, stop: &CancellationToken) {
        for host in self.0.fleet.ids() {
            if let Some(input) = self.presence(host) {
                self.take(input, stop).await;
            }
        }
    }

    /// Takes one input: decides, writes down, tells, asks.
    async fn take(&self, input: Input, stop: &CancellationToken) {
        let turn = self.0.turn.lock().await;
        let decision = self.board().take(input, now_ms());
        self.commit(&decision, stop).await;
        drop(turn);
        for (incident, hosts) in decision.diagnose {
            self.diagnose(incident, &hosts, stop).await;
        }
    }

    /// Writes a decision down, again and again until the store takes it: what is on the board would be lost otherwise.
    async fn commit(&self, decision: &Decision, stop: &CancellationToken) {
        if decision.changed.is_empty() && decision.notices.is_empty() {
            return;
        }
        let incidents: Vec<_> = {
            let mut board = self.board();
            let contacts = &self.0.contacts;
            let amended = decision.changed.iter().map(|id| {
                board.amend(*id, |incident| {
                    incident.contacts.clone_from(contacts);
                    checklist::settle(incident);
                    incident.clone()
                })
            });
            amended.flatten().collect()
        };
        let notices = self.addressed(&decision.notices);
        let mut said = false;
        while let Err(error) = self.0.store.save_incidents(None, &incidents, &notices, now_ms()).await {
            if !std::mem::replace(&mut said, true) {
                tracing::error!(
                    error = &error as &dyn Error,
                    "incidents cannot be written down; trying again"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(AGAIN) => {}
            }
        }
        if !notices.is_empty() {
            self.0.news.send_modify(|count| *count += 1);
        }
    }

    /// Each notice for each channel that wants it, as JSON.
    fn addressed(&self, notices: &[Notice]) -> Vec<(String, String)> {
        let mut addressed = Vec::new();
        for notice in notices {
            tracing::info!(subject = notice.subject, kind = ?notice.kind, incident = notice.incident, "incident");
            for channel in self.0.channels.iter().filter(|channel| channel.wants(notice)) {
                match serde_json::to_string(notice) {
                    Ok(body) => addressed.push((channel.name().to_owned(), body)),
                    Err(error) => tracing::error!(%error, "a notice cannot be written"),
                }
            }
        }
        addressed
    }

    /// Begins a diagnosis. Its end comes back as the end of a run.
    async fn diagnose(&self, incident: IncidentId, hosts: &[String], stop: &CancellationToken) {
        let why = format!("incident {incident}");
        let input = match self.0.runs.diagnose(hosts, &why).await {
            Ok(run) => Input::Diagnosing { incident, run },
            Err(error) => {
                tracing::warn!(%incident, error = &error as &dyn Error, "an incident cannot be diagnosed");
                Input::Diagnosed { incident, causes: Vec::new() }
            }
        };
        let turn = self.0.turn.lock().await;
        let decision = self.board().take(input, now_ms());
        self.commit(&decision, stop).await;
        drop(turn);
    }

    /// Looks at every run that diagnoses an incident: its end may be among those that were missed, and an incident
    /// whose diagnosis never ended would not be diagnosed again.
    async fn missed(&self, stop: &CancellationToken) {
        let runs = self.board().all_diagnosing();
        for run in runs {
            let over = match self.0.runs.state(run).await {
                Ok(state) => state.closed().is_some(),
                // It is told as what cannot be read.
                Err(_) => true,
            };
            if over && let Some(input) = self.ended(run).await {
                self.take(input, stop).await;
            }
        }
    }

    /// What a run that ended means for incidents.
    async fn ended(&self, run: RunId) -> Option<Input> {
        let ours = self.board().diagnosing(run);
        let state = match self.0.runs.state(run).await {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!(%run, error = &error as &dyn Error, "a run that ended cannot be read");
                return ours.map(|incident| Input::Diagnosed { incident, causes: Vec::new() });
            }
        };
        match ours {
            Some(incident) => {
                // The end of the diagnosis, which is taken next, writes this down with its causes.
                self.board().amend(incident, |incident| ran::remember_changes(incident, &state, now_ms()));
                Some(Input::Diagnosed { incident, causes: ran::causes(&state) })
            }
            None => ran::deed(&state),
        }
    }

    /// The newest incidents, without their timelines.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, _: &Permit, closed: bool, limit: u32) -> Result<Vec<Incident>, IncidentsError> {
        let limit = if limit == 0 { LISTED } else { limit.min(LISTED_AT_MOST) };
        let mut incidents = self.0.store.incidents(closed, limit).await?;
        incidents.iter_mut().for_each(|incident| incident.timeline.clear());
        Ok(incidents)
    }

    /// One incident by its id, or by the beginning of one that no other incident shares.
    ///
    /// # Errors
    /// When there is none, or several.
    pub async fn get(&self, _: &Permit, incident: &str) -> Result<Incident, IncidentsError> {
        self.find(incident).await
    }

    async fn find(&self, name: &str) -> Result<Incident, IncidentsError> {
        let unknown = || IncidentsError::Unknown(name.chars().take(64).collect());
        if name.is_empty() || name.len() > 36 || !name.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(unknown());
        }
        let mut found = self.0.store.incidents_beginning(&name.to_ascii_lowercase()).await?;
        match (found.pop(), found.pop()) {
            (Some(incident), None) => Ok(incident),
            (Some(_), Some(_)) => Err(IncidentsError::Ambiguous(name.to_owned())),
            (None, _) => Err(unknown()),
        }
    }

    /// Adds a person's word.
    ///
    /// # Errors
    /// When there is no such incident or line, nothing is said, or the store fails.
    pub async fn note(
        &self,
        permit: &Permit,
        request: NoteIncidentRequest,
    ) -> Result<Incident, IncidentsError> {
        let NoteIncidentRequest { incident, note, cause, fix, ticket, done } = request;
        for text in [&note, &cause, &fix, &ticket] {
            if text.chars().count() > LONGEST_NOTE {
                return Err(IncidentsError::TooLong(LONGEST_NOTE));
            }
        }
        if [&note, &cause, &fix, &ticket].iter().all(|text| text.is_empty()) && done.is_empty() {
            return Err(IncidentsError::Nothing);
        }
        let said: Vec<_> = [("", &note), ("cause: ", &cause), ("fix: ", &fix), ("ticket: ", &ticket)]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(what, text)| format!("{what}{}", escape(text, true)))
            .chain(done.iter().map(|line| format!("checklist: line {line} is done")))
            .collect();
        self.amend(permit, &incident, &said.join("; "), |incident| {
            checklist::tick(&mut incident.checklist, &done).map_err(IncidentsError::NoLine)?;
            for (field, text) in
                [(&mut incident.cause, cause), (&mut incident.fix, fix), (&mut incident.ticket, ticket)]
            {
                if !text.is_empty() {
                    *field = text;
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends an incident for good.
    ///
    /// # Errors
    /// When there is no such incident, something shows, or the store fails.
    pub async fn close(
        &self,
        permit: &Permit,
        incident: &str,
        force: bool,
    ) -> Result<Incident, IncidentsError> {
        self.amend(permit, incident, "closed", |incident| {
            if incident.state() == IncidentState::Open && !force {
                return Err(IncidentsError::StillShows);
            }
            incident.set_state(IncidentState::Closed);
            incident.closed_at_ms = now_ms();
            Ok(())
        })
        .await
    }

    async fn amend(
        &self,
        permit: &Permit,
        incident: &str,
        said: &str,
        change: impl FnOnce(&mut Incident) -> Result<(), IncidentsError>,
    ) -> Result<Incident, IncidentsError> {
        // The board waits for a store that takes nothing; a person does not.
        if let Some(refusal) = self.0.store.health().borrow().refusal(Claim::Observing) {
            return Err(refusal.into());
        }
        let _turn = self.0.turn.lock().await;
        let mut changed = self.find(incident).await?;
        if changed.state() == IncidentState::Closed {
            return Err(IncidentsError::Closed);
        }
        let id: IncidentId = changed.id.parse().map_err(|_| IncidentsError::Unknown(changed.id.clone()))?;
        // The board's own is ahead of the store where the store did not take it yet.
        if let Some(newer) = self.board().incident(id) {
            changed = newer.clone();
        }
        change(&mut changed)?;
        checklist::settle(&mut changed);
        changed.timeline.push(IncidentEntry {
            at_ms: now_ms(),
            text: said.to_owned(),
            operator: permit.caller().name().to_owned(),
            run: String::new(),
        });
        let intent = Intent::new(permit, &changed.id, said);
        self.0.store.save_incidents(Some(&intent), std::slice::from_ref(&changed), &[], now_ms()).await?;
        let amended = changed.clone();
        self.board().amend(id, |incident| *incident = amended);
        Ok(changed)
    }
}

/// The hosts of a run.
fn hosts_of(state: &vigie_runbook::run::State) -> BTreeSet<HostId> {
    state.targets().iter().map(|target| target.host).collect()
}

#[cfg(test)]
mod tests;
