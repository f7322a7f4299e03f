//! The fleet: every enrolled host, what was last heard of it, and its session while there is one.
//!
//! Owns the registry of sessions, one per host, the newest winning, and each session's outbound queue. What agents
//! report is kept in memory and written to the store by [`remember`](Fleet::remember), which a background loop calls, so
//! that a restarted controller still shows the fleet, as not connected. It does not know what runs ask of hosts.

mod liveness;
mod select;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, broadcast, mpsc, watch};
use vigie_proto::{
    id::HostId,
    v1::{self, AuditHead, HostState, ToAgent, to_agent},
};

pub use select::Scope;
pub use session::{Attached, End, SessionId};

use liveness::Pulse;

use crate::{
    clock::Clock,
    error::HostsError,
    permit::Permit,
    store::{HostRow, Mandate, Sighting, Store, StoreError},
};

/// Messages that wait for one agent. A full queue means that it does not read; what does not fit is asked again later.
const QUEUE: usize = 256;

/// Changes that a slow listener may fall behind by; it then looks at every host it cares for.
const CHANGES: usize = 1024;

/// A cheap handle to the fleet.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// By id. Held for moments only, never across an await.
    hosts: Mutex<BTreeMap<HostId, Known>>,
    /// Names the host whose session began or ended.
    changes: broadcast::Sender<HostId>,
    /// Rung when there is something to remember.
    news: Notify,
}

/// One host, as it is known now.
struct Known {
    row: HostRow,
    /// The newest head of its journal that was seen; kept in the state, too, once there is one.
    journal: Option<AuditHead>,
    session: Option<Session>,
    /// Something changed since it was last written to the store.
    dirty: bool,
}

struct Session {
    id: SessionId,
    outbound: mpsc::Sender<ToAgent>,
    /// Set when the session is to end.
    end: watch::Sender<Option<End>>,
    pulse: Pulse,
}

/// Why a message did not go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the host is not connected")]
    NotConnected,
    #[error("the host does not read its messages")]
    Full,
}

impl Fleet {
    /// The fleet as the store remembers it: nobody is connected yet.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn load(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let hosts = store.hosts().await?;
        let hosts = hosts.into_iter().map(|row| (row.id, Known::remembered(row))).collect();
        let (changes, _) = broadcast::channel(CHANGES);
        Ok(Self(Arc::new(Inner { store, clock, hosts: Mutex::new(hosts), changes, news: Notify::new() })))
    }

    /// The clock by which the controller goes.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    fn now_ms(&self) -> i64 {
        self.0.clock.now_ms()
    }

    /// A panic elsewhere leaves the map whole: every change to it is one assignment.
    fn hosts(&self) -> MutexGuard<'_, BTreeMap<HostId, Known>> {
        self.0.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a host that was enrolled, for the first time or anew. A session of an earlier incarnation ends.
    pub(crate) fn enrolled(&self, row: HostRow) {
        let mut hosts = self.hosts();
        let newer = hosts.get(&row.id).is_none_or(|known| known.row.incarnation < row.incarnation);
        if newer {
            let id = row.id;
            let before = hosts.insert(id, Known { row, journal: None, session: None, dirty: false });
            if let Some(session) = before.and_then(|known| known.session) {
                session.end.send_replace(Some(End::Replaced));
            }
        }
    }

    /// Whether a host of this name is enrolled.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.hosts().values().any(|known| known.row.name == name)
    }

    /// One host by name or id.
    ///
    /// # Errors
    /// When there is none.
    pub fn host(&self, _: &Permit, name_or_id: &str) -> Result<v1::Host, HostsError> {
        let hosts = self.hosts();
        let by_id = name_or_id.parse().ok().and_then(|id: HostId| hosts.get(&id));
        by_id
            .or_else(|| hosts.values().find(|known| known.row.name == name_or_id))
            .map(Known::to_proto)
            .ok_or_else(|| HostsError::Unknown(vec![name_or_id.chars().take(64).collect()]))
    }

    /// The hosts that a selector matches, by name; all of them when there is no selector.
    ///
    /// # Errors
    /// When the selector cannot be read, names an unknown host, or matches nothing.
    pub fn list(&self, _: &Permit, selector: Option<&v1::Selector>) -> Result<Vec<v1::Host>, HostsError> {
        let hosts = self.hosts();
        let mut listed: Vec<_> = match selector {
            None => hosts.values().map(Known::to_proto).collect(),
            Some(selector) => select::matching(&hosts, selector)?.into_iter().map(Known::to_proto).collect(),
        };
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Freezes a selector: the hosts that it means now, or the stacks on them.
    ///
    /// # Errors
    /// When the selector cannot be read, names an unknown host, or leaves no target.
    pub fn targets(&self, selector: &v1::Selector, scope: Scope) -> Result<Vec<v1::Target>, HostsError> {
        select::targets(&self.hosts(), selector, scope)
    }

    /// A host's name; nothing for one that is not known.
    pub(crate) fn name(&self, host: HostId) -> Option<String> {
        self.hosts().get(&host).map(|known| known.row.name.clone())
    }

    /// Every host.
    pub(crate) fn ids(&self) -> Vec<HostId> {
        self.hosts().keys().copied().collect()
    }

    /// Tells a host what to watch for by itself. It grants nothing that a probe would not, and so needs no mandate.
    pub(crate) fn watch(&self, host: HostId, watch: v1::Watch) {
        if let Err(error) = self.queue(host, to_agent::Message::Watch(watch)) {
            // Asked again in its next session.
            tracing::debug!(%host, %error, "a host was not told what to watch for");
        }
    }

    /// A host's stack as its agent last told of it.
    pub(crate) fn stack(&self, host: HostId, name: &str) -> Option<v1::Stack> {
        let hosts = self.hosts();
        let stacks = &hosts.get(&host)?.to_proto().state?.stacks;
        stacks.iter().find(|stack| stack.name == name).cloned()
    }

    /// Every host with its name and the stacks that its agent last told of, connected or not.
    pub(crate) fn stacks(&self) -> Vec<(HostId, String, Vec<v1::Stack>)> {
        let hosts = self.hosts();
        let stacks =
            |known: &Known| known.row.state.as_ref().map(|state| state.stacks.clone()).unwrap_or_default();
        hosts.iter().map(|(id, known)| (*id, known.row.name.clone(), stacks(known))).collect()
    }

    /// Whether anything is heard in a host's session; `None` when it has none.
    pub(crate) fn is_answering(&self, host: HostId) -> Option<bool> {
        self.hosts().get(&host)?.session.as_ref().map(|session| session.pulse.is_answering())
    }

    /// The hosts that have a session.
    pub fn connected(&self) -> BTreeSet<HostId> {
        self.hosts().iter().filter(|(_, known)| known.session.is_some()).map(|(id, _)| *id).collect()
    }

    /// A host's present session.
    pub fn session(&self, host: HostId) -> Option<SessionId> {
        self.hosts().get(&host)?.session.as_ref().map(|session| session.id)
    }

    /// Names each host whose session begins or ends from now on, or whose agent falls silent in it, or answers again.
    pub fn changes(&self) -> broadcast::Receiver<HostId> {
        self.0.changes.subscribe()
    }

    /// Sends what a run asks of a host, and says in which session.
    ///
    /// # Errors
    /// When there is no session, or its queue is full.
    pub fn send(
        &self,
        _: &Mandate,
        host: HostId,
        message: to_agent::Message,
    ) -> Result<SessionId, SendError> {
        self.queue(host, message)
    }

    /// Tells a host that the outcomes of these orders are committed. It grants the agent nothing but to forget them,
    /// and so needs no mandate.
    pub(crate) fn acknowledge(&self, host: HostId, orders: Vec<String>) {
        let acknowledge = to_agent::Message::Acknowledge(v1::Acknowledge { orders });
        if let Err(error) = self.queue(host, acknowledge) {
            // The agent sends the outcome again in its next session, and is acknowledged then.
            tracing::debug!(%host, %error, "an acknowledgement was not sent");
        }
    }

    fn queue(&self, host: HostId, message: to_agent::Message) -> Result<SessionId, SendError> {
        let hosts = self.hosts();
        let session =
            hosts.get(&host).and_then(|known| known.session.as_ref()).ok_or(SendError::NotConnected)?;
        match session.outbound.try_send(ToAgent { message: Some(message) }) {
            Ok(()) => Ok(session.id),
            Err(mpsc::error::TrySendError::Full(_)) => Err(SendError::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError::NotConnected),
        }
    }

    /// Asks every agent to connect again later, each at another moment within the spread.
    pub(crate) fn drain(&self, after_ms: u32, spread_ms: u32) {
        let hosts = self.connected();
        let count = u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        for (place, host) in (0_u32..).zip(hosts) {
            let share = u64::from(spread_ms) * u64::from(place) / u64::from(count);
            let after_ms = after_ms.saturating_add(u32::try_from(share).unwrap_or(spread_ms));
            if let Err(error) = self.queue(host, to_agent::Message::Drain(v1::Drain { after_ms })) {
                tracing::debug!(%host, %error, "a host was not asked to drain");
            }
        }
    }

    /// Ends every session.
    pub(crate) fn end_sessions(&self) {
        for session in self.hosts().values().filter_map(|known| known.session.as_ref()) {
            session.end.send_replace(Some(End::Stopping));
        }
    }

    /// Keeps what an agent says of its host.
    pub(crate) fn reported(&self, host: HostId, session: SessionId, state: HostState) {
        let now_ms = self.now_ms();
        if let Some(known) = self.hosts().get_mut(&host)
            && known.is_in(session)
        {
            known.row.last_seen_ms = now_ms;
            known.reported(state);
            known.dirty = true;
            self.ring();
        }
    }

    /// Takes note of how far an agent's journal goes.
    pub(crate) fn journal_seen(&self, host: HostId, session: SessionId, head: AuditHead) {
        if let Some(known) = self.hosts().get_mut(&host)
            && known.is_in(session)
        {
            known.journal_seen(head);
            self.ring();
        }
    }

    /// Takes note that an agent was heard of.
    pub(crate) fn heard_of(&self, host: HostId, session: SessionId) {
        let now_ms = self.now_ms();
        let again = match self.hosts().get_mut(&host) {
            Some(known) if known.is_in(session) => {
                known.row.last_seen_ms = now_ms;
                known.session.as_mut().is_some_and(|present| present.pulse.heard(&known.row.name, now_ms))
            }
            _ => false,
        };
        if again {
            self.changed(host);
        }
    }

    /// Tells those who want to know that a host came, went, fell silent or answers again.
    fn changed(&self, host: HostId) {
        // Nobody may want to.
        let _ = self.0.changes.send(host);
    }

    /// Completes when something was learnt that the store does not have yet.
    pub(crate) async fn news(&self) {
        self.0.news.notified().await;
    }

    /// Makes [`news`](Self::news) complete, although nothing is new.
    pub(crate) fn ring(&self) {
        self.0.news.notify_one();
    }

    /// Writes what was learnt since the last time to the store. Idempotent; what fails is tried again next time.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn remember(&self) -> Result<usize, StoreError> {
        let sightings: Vec<Sighting> = {
            let mut hosts = self.hosts();
            let dirty = hosts.values_mut().filter(|known| known.dirty);
            dirty
                .map(|known| {
                    known.dirty = false;
                    known.sighting()
                })
                .collect()
        };
        if sightings.is_empty() {
            return Ok(0);
        }
        let written = self.0.store.remember(&sightings).await;
        if written.is_err() {
            let mut hosts = self.hosts();
            for sighting in &sightings {
                if let Some(known) = hosts.get_mut(&sighting.host) {
                    known.dirty = true;
                }
            }
        }
        written.map(|()| sightings.len())
    }
}

impl Known {
    /// A host as it stands after a start. A session that a crash cut off ended no earlier than the agent was last heard
    /// of.
    fn remembered(mut row: HostRow) -> Self {
        row.connected_since_ms = row.connected_since_ms.max(row.last_seen_ms);
        let journal = row.state.as_ref().and_then(|state| state.journal.clone());
        Self { row, journal, session: None, dirty: false }
    }

    /// Keeps how far a journal goes. It only grows: one that ends earlier, or otherwise at the same record, is an older copy
    /// and says nothing of what is the newest.
    fn journal_seen(&mut self, head: AuditHead) {
        let is_other =
            |seen: &AuditHead| seen.seq > head.seq || (seen.seq == head.seq && seen.hash != head.hash);
        if self.journal.as_ref().is_some_and(is_other) {
            tracing::warn!(
                host = self.row.name,
                seq = head.seq,
                "a host's journal is an older one than was seen before: it will refuse orders until it is enrolled anew"
            );
            return;
        }
        if let Some(state) = &mut self.row.state {
            state.journal = Some(head.clone());
            self.dirty = true;
        }
        self.journal = Some(head);
    }

    /// Keeps what a hello says of the journal where nothing was seen of this enrolment's before. Later, only its agent can
    /// tell whether the journal is still the one that was seen, and tells how far it goes once it knows.
    fn journal_greeted(&mut self, head: AuditHead) {
        if self.journal.is_none() {
            self.journal_seen(head);
        }
    }

    /// What its agent tells of it, beside what we know ourselves.
    fn reported(&mut self, state: HostState) {
        self.row.state = Some(HostState { journal: self.journal.clone(), ..state });
    }

    fn is_in(&self, session: SessionId) -> bool {
        self.session.as_ref().is_some_and(|present| present.id == session)
    }

    fn sighting(&self) -> Sighting {
        Sighting {
            host: self.row.id,
            incarnation: self.row.incarnation,
            connected_since_ms: self.row.connected_since_ms,
            last_seen_ms: self.row.last_seen_ms,
            state: self.row.state.clone(),
        }
    }

    fn to_proto(&self) -> v1::Host {
        v1::Host {
            id: self.row.id.to_string(),
            name: self.row.name.clone(),
            labels: self.row.labels(),
            incarnation: self.row.incarnation,
            enrolled_at_ms: self.row.enrolled_at_ms,
            connected: self.session.is_some(),
            connected_since_ms: self.row.connected_since_ms,
            last_seen_ms: self.row.last_seen_ms,
            state: self.row.state.clone(),
            liveness: self.session.as_ref().map(|session| session.pulse.to_proto()),
        }
    }
}

#[cfg(test)]
mod tests;
