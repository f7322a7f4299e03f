//! A store in memory, for the contract's tests and the simulation: what a crash finds uncommitted is gone, and commits
//! are as slow, as refused and as untrue as the [`Weather`] makes them.

mod weather;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::watch;
use vigie_proto::{
    id::{HostId, RunId, TokenId},
    v1::{Incident, IncidentState, RunEvent, RunSummary, SignedTrustList},
};
use vigie_transport::identity::{Identity, Role};

use super::{
    AgentEnrolled, CertificateRow, Claim, Enrolment, Health, HostRow, Issue, Mandate, NewOperator, OpenedRun,
    PendingNotice, RedeemError, Redemption, RemedyTried, Sighting, Store, StoreError, Token, TokenFor,
    model::Verdict, refusal,
};
pub use weather::{Calm, Weather};

use crate::{
    audit::{GENESIS, Intent, Kind, Line, Record},
    authority::Certificate,
    error::TokenDenial,
};

/// What outlives a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<Platter>>);

#[derive(Debug, Default)]
struct Platter {
    tables: Tables,
    /// What a crash goes back to, when it is not what was committed last.
    durable: Option<Tables>,
}

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        // A panic within a transaction is a test's.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes: what was committed and not on the disk is gone.
    pub fn crash(&self) {
        let mut platter = self.platter();
        if let Some(durable) = platter.durable.take() {
            platter.tables = durable;
        }
    }

    /// What was committed comes to be on the disk.
    pub fn settle(&self) {
        self.platter().durable = None;
    }

    /// The runs that are on the disk for certain.
    pub fn runs(&self) -> Vec<RunId> {
        self.platter().certain().runs.keys().copied().collect()
    }

    /// A run's events that are on the disk for certain.
    pub fn events(&self, run: RunId) -> Vec<RunEvent> {
        self.platter().certain().events.get(&run).cloned().unwrap_or_default()
    }

    /// The audit's records that are on the disk for certain.
    pub fn audit(&self) -> Vec<Record> {
        self.platter().certain().audit.clone()
    }
}

impl Platter {
    fn certain(&self) -> &Tables {
        self.durable.as_ref().unwrap_or(&self.tables)
    }
}

/// The store of one process over a disk.
pub struct Memory {
    disk: Disk,
    weather: Arc<dyn Weather>,
    health: watch::Sender<Health>,
}

impl Memory {
    /// Opens what is on a disk.
    pub fn open(disk: Disk, weather: Arc<dyn Weather>) -> Self {
        Self { disk, weather, health: watch::Sender::new(Health::Writable) }
    }

    /// A transaction that only reads.
    async fn read<T>(&self, transaction: impl FnOnce(&Tables) -> T + Send) -> Result<T, StoreError> {
        self.weather.before(false).await.map_err(sqlx::Error::Io)?;
        Ok(transaction(&self.disk.platter().tables))
    }

    /// A transaction that writes: it checks everything before it changes anything.
    async fn write<T, E: From<StoreError>>(
        &self,
        transaction: impl FnOnce(&mut Tables) -> Result<T, E> + Send,
    ) -> Result<T, E> {
        self.weather.before(true).await.map_err(|error| StoreError::from(sqlx::Error::Io(error)))?;
        let done = {
            let mut platter = self.disk.platter();
            if self.weather.lies() && platter.durable.is_none() {
                platter.durable = Some(platter.tables.clone());
            }
            transaction(&mut platter.tables)
        };
        self.weather.after().await;
        done
    }
}

#[derive(Debug, Clone, Default)]
struct Tables {
    audit: Vec<Record>,
    /// With the serial of the certificate that came of it.
    tokens: BTreeMap<TokenId, (Token, Option<String>)>,
    certificates: BTreeMap<String, (CertificateRow, Vec<u8>)>,
    hosts: BTreeMap<HostId, HostRow>,
    operators: BTreeSet<String>,
    trust_lists: BTreeMap<u64, SignedTrustList>,
    runs: BTreeMap<RunId, RunSummary>,
    events: BTreeMap<RunId, Vec<RunEvent>>,
    remedies: Vec<RemedyTried>,
    incidents: BTreeMap<String, Incident>,
    /// With its channel.
    notices: BTreeMap<i64, (String, PendingNotice)>,
    last_notice: i64,
}

impl Tables {
    fn note(&mut self, line: Line) -> u64 {
        let (last, previous) = self.audit.last().map_or((0, GENESIS), |record| (record.seq, record.hash));
        let seq = last + 1;
        let hash = line.hash(seq, &previous);
        self.audit.push(Record { seq, line, hash });
        seq
    }

    fn trust_list(&self) -> Option<SignedTrustList> {
        self.trust_lists.values().next_back().cloned()
    }

    fn redeem(&mut self, redemption: &Redemption, issue: &dyn Issue) -> Result<Enrolment, RedeemError> {
        let (token, certificate) = self.tokens.get(&redemption.token).cloned().ok_or(TokenDenial::Unknown)?;
        let verdict = token.judge(&redemption.secret, &redemption.key_sha256, redemption.now_ms)?;
        match (&token.grants, &redemption.operator, verdict) {
            (TokenFor::Agent { .. }, Some(_), _) | (TokenFor::Operator, None, _) => {
                Err(RedeemError::WrongRole)
            }
            (_, _, Verdict::Repeat) => self.repeat(certificate.as_deref().unwrap_or_default()),
            (TokenFor::Agent { host_name, labels, replaces }, None, Verdict::Honour) => {
                self.enrol(redemption, host_name, labels, *replaces, issue)
            }
            (TokenFor::Operator, Some(operator), Verdict::Honour) => {
                self.first_operator(redemption, operator, issue)
            }
        }
    }

    fn enrol(
        &mut self,
        redemption: &Redemption,
        name: &str,
        labels: &BTreeMap<String, String>,
        replaces: bool,
        issue: &dyn Issue,
    ) -> Result<Enrolment, RedeemError> {
        let trust_list = self.trust_list().ok_or(RedeemError::NoTrustList)?;
        let new = HostRow {
            id: HostId::new(),
            name: name.to_owned(),
            labels: labels.clone(),
            incarnation: 1,
            enrolled_at_ms: redemption.now_ms,
            connected_since_ms: 0,
            last_seen_ms: 0,
            state: None,
        };
        let host = match self.hosts.values().find(|host| host.name == name) {
            Some(_) if !replaces => return Err(RedeemError::Taken(name.to_owned())),
            Some(known) => HostRow {
                id: known.id,
                incarnation: known.incarnation + 1,
                labels: if labels.is_empty() { known.labels.clone() } else { new.labels },
                ..new
            },
            None => new,
        };
        let certificate = issue.agent(host.id)?;
        self.hosts.insert(host.id, host.clone());
        self.use_up(redemption, &certificate, host.incarnation);
        let detail = format!("host {} enrolled as {}, incarnation {}", host.name, host.id, host.incarnation);
        self.note(redemption.intent.with_detail(&detail).line(Kind::Done));
        Ok(Enrolment {
            certificate: certificate.der,
            identity: certificate.identity,
            agent: Some(AgentEnrolled { host, trust_list }),
        })
    }

    fn first_operator(
        &mut self,
        redemption: &Redemption,
        operator: &NewOperator,
        issue: &dyn Issue,
    ) -> Result<Enrolment, RedeemError> {
        if !self.operators.is_empty() {
            return Err(TokenDenial::Claimed.into());
        }
        let certificate = issue.operator(&operator.name)?;
        self.operators.insert(operator.name.clone());
        self.trust_lists.insert(operator.version, operator.trust_list.clone());
        self.use_up(redemption, &certificate, 0);
        let detail = format!("first operator {}", operator.name);
        self.note(redemption.intent.with_detail(&detail).line(Kind::Done));
        Ok(Enrolment { certificate: certificate.der, identity: certificate.identity, agent: None })
    }

    fn use_up(&mut self, redemption: &Redemption, certificate: &Certificate, incarnation: u64) {
        let row = CertificateRow {
            serial: certificate.serial.clone(),
            identity: certificate.identity.clone(),
            incarnation,
            not_after_ms: certificate.not_after_ms,
        };
        self.certificates.insert(row.serial.clone(), (row, certificate.der.clone()));
        if let Some((token, used_for)) = self.tokens.get_mut(&redemption.token) {
            token.used_by = Some(redemption.key_sha256);
            *used_for = Some(certificate.serial.clone());
        }
    }

    fn repeat(&self, serial: &str) -> Result<Enrolment, RedeemError> {
        let damaged = || StoreError::Damaged { what: "an enrolment" };
        let (row, der) = self.certificates.get(serial).ok_or_else(damaged)?;
        let identity: Identity = row.identity.parse().map_err(|_| damaged())?;
        let agent = match identity.role() {
            Role::Agent => {
                let id = identity.name().parse().map_err(|_| damaged())?;
                let host: &HostRow = self.hosts.get(&id).ok_or_else(damaged)?;
                let trust_list = self.trust_list().ok_or(RedeemError::NoTrustList)?;
                let host = HostRow { incarnation: row.incarnation, ..host.clone() };
                Some(AgentEnrolled { host, trust_list })
            }
            Role::Operator | Role::Tool | Role::Controller => None,
        };
        Ok(Enrolment { certificate: der.clone(), identity: row.identity.clone(), agent })
    }

    fn append(
        &mut self,
        run: RunId,
        events: &[RunEvent],
        summary: &RunSummary,
        weather: &dyn Weather,
    ) -> Result<(), StoreError> {
        let Some(first) = events.first() else { return Ok(()) };
        let expected = first.seq.saturating_sub(1);
        let known = self.runs.get_mut(&run).filter(|known| known.last_seq == expected || !weather.fences());
        let known = known.ok_or(StoreError::Overtaken { run, expected })?;
        let mut seqs = BTreeSet::new();
        if !events.iter().all(|event| seqs.insert(event.seq)) {
            return Err(StoreError::Damaged { what: "two events of one number" });
        }
        known.phase = summary.phase;
        known.verdict = summary.verdict;
        known.closed_at_ms = summary.closed_at_ms;
        known.last_seq = summary.last_seq;
        self.events.entry(run).or_default().extend_from_slice(events);
        weather.appended(run, events, summary);
        Ok(())
    }
}

#[async_trait]
impl Store for Memory {
    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    // Each write finds out for itself.
    async fn tend(&self) {}

    async fn write_audit(&self, line: Line, _: Claim) -> Result<u64, StoreError> {
        self.write(|tables| Ok(tables.note(line))).await
    }

    async fn audit(&self, after: u64, limit: u32) -> Result<Vec<Record>, StoreError> {
        let page = |tables: &Tables| {
            let later = tables.audit.iter().filter(|record| record.seq > after);
            later.take(limit as usize).cloned().collect()
        };
        self.read(page).await
    }

    async fn open_audit(&self) -> Result<Vec<Record>, StoreError> {
        let open = |tables: &Tables| {
            let closed: BTreeSet<_> = tables.audit.iter().filter_map(|record| record.line.about).collect();
            let opened = tables.audit.iter().filter(|record| record.line.kind == Kind::Opened);
            opened.filter(|record| !closed.contains(&record.seq)).cloned().collect()
        };
        self.read(open).await
    }

    async fn add_token(&self, intent: &Intent, token: &Token) -> Result<(), StoreError> {
        let add = |tables: &mut Tables| {
            if tables.tokens.contains_key(&token.id) {
                return Err(StoreError::TokenExists(token.id));
            }
            tables.tokens.insert(token.id, (token.clone(), None));
            tables.note(intent.line(Kind::Done));
            Ok(())
        };
        self.write(add).await
    }

    async fn redeem(&self, redemption: &Redemption, issue: &dyn Issue) -> Result<Enrolment, RedeemError> {
        let redeemed = self.write(|tables| tables.redeem(redemption, issue)).await;
        if let Err(error) = &redeemed
            && let Some(line) = refusal(redemption, error)
        {
            self.write_audit(line, Claim::Ordinary).await?;
        }
        redeemed
    }

    async fn certificate(&self, serial: &str) -> Result<Option<CertificateRow>, StoreError> {
        self.read(|tables| tables.certificates.get(serial).map(|(row, _)| row.clone())).await
    }

    async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        let by_name = |tables: &Tables| {
            let mut hosts: Vec<_> = tables.hosts.values().cloned().collect();
            hosts.sort_by(|a, b| a.name.cmp(&b.name));
            hosts
        };
        self.read(by_name).await
    }

    async fn remember(&self, sightings: &[Sighting]) -> Result<(), StoreError> {
        let remember = |tables: &mut Tables| {
            for sighting in sightings {
                let host = tables.hosts.get_mut(&sighting.host);
                if let Some(host) = host.filter(|host| host.incarnation == sighting.incarnation) {
                    host.connected_since_ms = sighting.connected_since_ms;
                    host.last_seen_ms = sighting.last_seen_ms;
                    host.state.clone_from(&sighting.state);
                }
            }
            Ok(())
        };
        self.write(remember).await
    }

    async fn trust_list(&self) -> Result<Option<SignedTrustList>, StoreError> {
        self.read(Tables::trust_list).await
    }

    async fn open_run(
        &self,
        intent: &Intent,
        run: RunId,
        events: &[RunEvent],
        summary: &RunSummary,
    ) -> Result<OpenedRun, StoreError> {
        let open = |tables: &mut Tables| {
            if let Some(existing) = tables.runs.get(&run) {
                return Ok(OpenedRun::Exists(existing.clone()));
            }
            tables.note(intent.line(Kind::Done));
            tables.runs.insert(run, RunSummary { last_seq: 0, ..summary.clone() });
            tables.append(run, events, summary, &*self.weather)?;
            Ok(OpenedRun::New(Mandate::new(run)))
        };
        self.write(open).await
    }

    async fn append(
        &self,
        mandate: &Mandate,
        events: &[RunEvent],
        summary: &RunSummary,
        remedies: &[RemedyTried],
    ) -> Result<(), StoreError> {
        let append = |tables: &mut Tables| {
            tables.append(mandate.run(), events, summary, &*self.weather)?;
            for tried in remedies {
                let same = |known: &RemedyTried| {
                    known.run == mandate.run()
                        && (known.host, &known.stack, &known.remedy)
                            == (tried.host, &tried.stack, &tried.remedy)
                };
                if !tables.remedies.iter().any(same) {
                    tables.remedies.push(RemedyTried { run: mandate.run(), ..tried.clone() });
                }
            }
            Ok(())
        };
        self.write(append).await
    }

    async fn remedies(&self, since_ms: i64) -> Result<Vec<RemedyTried>, StoreError> {
        let since = |tables: &Tables| {
            let late = tables.remedies.iter().filter(|tried| tried.at_ms >= since_ms);
            let mut late: Vec<_> = late.cloned().collect();
            late.sort_by_key(|tried| tried.at_ms);
            late
        };
        self.read(since).await
    }

    async fn open_runs(&self) -> Result<Vec<Mandate>, StoreError> {
        let open = |tables: &Tables| {
            let mut open: Vec<_> = tables.runs.iter().filter(|(_, run)| run.closed_at_ms == 0).collect();
            open.sort_by_key(|(_, run)| run.opened_at_ms);
            open.into_iter().map(|(run, _)| Mandate::new(*run)).collect()
        };
        self.read(open).await
    }

    async fn closed_run(&self, run: RunId) -> Result<Option<Mandate>, StoreError> {
        let closed = |tables: &Tables| {
            let found = tables.runs.get(&run).filter(|known| known.closed_at_ms > 0);
            found.map(|_| Mandate::new(run))
        };
        self.read(closed).await
    }

    async fn events(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<RunEvent>, StoreError> {
        let page = |tables: &Tables| {
            let events = tables.events.get(&run).into_iter().flatten();
            events.filter(|event| event.seq > after).take(limit as usize).cloned().collect::<Vec<_>>()
        };
        let mut events = self.read(page).await?;
        self.weather.shows(run, &mut events);
        Ok(events)
    }

    async fn runs(&self, limit: u32) -> Result<Vec<RunSummary>, StoreError> {
        let newest = |tables: &Tables| {
            let mut runs: Vec<_> = tables.runs.values().cloned().collect();
            runs.sort_by(|a, b| (b.opened_at_ms, &b.run).cmp(&(a.opened_at_ms, &a.run)));
            runs.truncate(limit as usize);
            runs
        };
        self.read(newest).await
    }

    async fn run(&self, run: RunId) -> Result<Option<RunSummary>, StoreError> {
        self.read(|tables| tables.runs.get(&run).cloned()).await
    }

    async fn retries(&self, run: RunId) -> Result<Vec<RunId>, StoreError> {
        let run = run.to_string();
        let tries = |tables: &Tables| {
            let runs = tables.runs.iter();
            runs.filter(|(_, known)| known.retry_of == run).map(|(id, _)| *id).collect()
        };
        self.read(tries).await
    }

    async fn runs_beginning(&self, prefix: &str) -> Result<Vec<RunId>, StoreError> {
        let beginning = |tables: &Tables| {
            let runs = tables.runs.keys().filter(|run| run.to_string().starts_with(prefix));
            runs.take(2).copied().collect()
        };
        self.read(beginning).await
    }

    async fn save_incidents(
        &self,
        intent: Option<&Intent>,
        incidents: &[Incident],
        notices: &[(String, String)],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let save = |tables: &mut Tables| {
            if let Some(intent) = intent {
                tables.note(intent.line(Kind::Done));
            }
            for incident in incidents {
                tables.incidents.insert(incident.id.clone(), incident.clone());
            }
            for (channel, body) in notices {
                tables.last_notice += 1;
                let id = tables.last_notice;
                let notice = PendingNotice {
                    id,
                    body: body.clone(),
                    made_at_ms: now_ms,
                    attempts: 0,
                    next_at_ms: now_ms,
                };
                tables.notices.insert(id, (channel.clone(), notice));
            }
            Ok(())
        };
        self.write(save).await
    }

    async fn incidents(&self, closed: bool, limit: u32) -> Result<Vec<Incident>, StoreError> {
        let newest = |tables: &Tables| {
            let incidents = tables.incidents.values();
            let shown = incidents.filter(|incident| closed || incident.state() != IncidentState::Closed);
            let mut shown: Vec<_> = shown.cloned().collect();
            shown.sort_by(|a, b| (b.opened_at_ms, &b.id).cmp(&(a.opened_at_ms, &a.id)));
            shown.truncate(limit as usize);
            shown
        };
        self.read(newest).await
    }

    async fn incidents_beginning(&self, prefix: &str) -> Result<Vec<Incident>, StoreError> {
        let beginning = |tables: &Tables| {
            let incidents = tables.incidents.values();
            incidents.filter(|incident| incident.id.starts_with(prefix)).take(2).cloned().collect()
        };
        self.read(beginning).await
    }

    async fn next_notice(&self, channel: &str) -> Result<Option<PendingNotice>, StoreError> {
        let next = |tables: &Tables| {
            let mut oldest: BTreeMap<String, &PendingNotice> = BTreeMap::new();
            for (of, notice) in tables.notices.values() {
                if of == channel {
                    let body = serde_json::from_str::<serde_json::Value>(&notice.body).ok();
                    let incident = body.map_or_else(
                        || notice.id.to_string(),
                        |body| body.get("incident").map(ToString::to_string).unwrap_or_default(),
                    );
                    oldest.entry(incident).or_insert(notice);
                }
            }
            oldest.into_values().min_by_key(|notice| (notice.next_at_ms, notice.id)).cloned()
        };
        self.read(next).await
    }

    async fn notice_done(&self, id: i64) -> Result<(), StoreError> {
        let done = |tables: &mut Tables| {
            tables.notices.remove(&id);
            Ok(())
        };
        self.write(done).await
    }

    async fn notice_delayed(&self, id: i64, next_at_ms: i64) -> Result<(), StoreError> {
        let delay = |tables: &mut Tables| {
            if let Some((_, notice)) = tables.notices.get_mut(&id) {
                notice.attempts += 1;
                notice.next_at_ms = next_at_ms;
            }
            Ok(())
        };
        self.write(delay).await
    }

    async fn close(&self) {}
}
