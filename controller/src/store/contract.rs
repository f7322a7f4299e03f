//! What every store has to do. Each test takes a way to open the same store again and again, so that another engine
//! runs them too.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use vigie_proto::{
    id::{HostId, RunId, TaskId, TokenId},
    v1::{HostState, Noted, Owned, RunEvent, RunPhase, RunSummary, SignedTrustList, Stack, run_event::Event},
};
use zeroize::Zeroizing;

use super::*;
use crate::{
    audit::{self, Audit, Broken, Kind},
    error::TokenDenial,
};

/// Runs every test of the contract on one engine.
macro_rules! on {
    ($engine:ident, $opener:expr) => {
        mod $engine {
            use super::*;
            on!(@tests $opener;
                audit_entries_form_a_chain, audit_entries_left_open_are_found, a_thousand_uses_of_a_token_have_one_winner,
                a_lost_answer_is_repeated_and_a_thief_is_not_served, an_expired_token_enrols_nobody,
                a_taken_name_needs_a_token_that_replaces, there_is_one_first_operator, a_host_needs_somebody_to_obey,
                a_refused_certificate_uses_no_token_up, a_run_is_opened_once, events_follow_one_another,
                runs_are_listed_and_found, a_runs_retries_are_found, remedies_are_remembered_once_a_run, what_was_seen_of_a_host_is_kept, everything_is_there_after_a_restart);
        }
    };
    (@tests $opener:expr; $($test:ident),*) => {$(
        #[tokio::test]
        async fn $test() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("store");
            super::$test(&async || $opener(&path).await).await;
        }
    )*};
}

on!(sqlite, in_a_file);
on!(in_memory, on_a_disk);

async fn in_a_file(path: &std::path::Path) -> Arc<dyn Store> {
    Arc::new(Sqlite::open(path).await.unwrap())
}

/// The disk of each path, which is all that the path is good for.
async fn on_a_disk(path: &std::path::Path) -> Arc<dyn Store> {
    static DISKS: Mutex<BTreeMap<PathBuf, memory::Disk>> = Mutex::new(BTreeMap::new());
    let disk = DISKS.lock().unwrap().entry(path.to_owned()).or_default().clone();
    Arc::new(memory::Memory::open(disk, Arc::new(memory::Calm)))
}

trait Opener: AsyncFn() -> Arc<dyn Store> {}
impl<F: AsyncFn() -> Arc<dyn Store>> Opener for F {}

/// Issues names instead of certificates.
struct Names;

impl Issue for Names {
    fn agent(&self, host: HostId) -> Result<Certificate, IssueError> {
        Ok(certificate(format!("spiffe://vigie/agent/{host}")))
    }

    fn operator(&self, name: &str) -> Result<Certificate, IssueError> {
        Ok(certificate(format!("spiffe://vigie/operator/{name}")))
    }
}

fn certificate(identity: String) -> Certificate {
    let serial = TaskId::new().to_string();
    Certificate { der: serial.clone().into_bytes(), identity, serial, not_after_ms: 1_000_000 }
}

/// Issues nothing.
struct Broke;

impl Issue for Broke {
    fn agent(&self, _: HostId) -> Result<Certificate, IssueError> {
        Err(IssueError::Random(getrandom::Error::UNSUPPORTED))
    }

    fn operator(&self, _: &str) -> Result<Certificate, IssueError> {
        Err(IssueError::Random(getrandom::Error::UNSUPPORTED))
    }
}

fn intent() -> Intent {
    Intent::own("test", "subject", "")
}

const SECRET: [u8; 32] = [7; 32];

async fn token(store: &dyn Store, grants: TokenFor) -> TokenId {
    let token = Token::new(TokenId::new(), &SECRET, grants, 1000);
    store.add_token(&intent(), &token).await.unwrap();
    token.id
}

fn host(name: &str, replaces: bool) -> TokenFor {
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    TokenFor::Agent { host_name: name.to_owned(), labels, replaces }
}

fn redemption(token: TokenId, key: u8) -> Redemption {
    Redemption {
        token,
        secret: Zeroizing::new(SECRET.to_vec()),
        key_sha256: [key; 32],
        now_ms: 500,
        operator: None,
        intent: intent(),
    }
}

fn login(token: TokenId, name: &str) -> Redemption {
    let operator = NewOperator {
        name: name.to_owned(),
        public_key: [3; 32],
        version: 1,
        trust_list: SignedTrustList { trust_list: name.as_bytes().to_vec(), signatures: Vec::new() },
    };
    Redemption { operator: Some(operator), ..redemption(token, 1) }
}

async fn with_operator(open: &impl Opener) -> Arc<dyn Store> {
    let store = open().await;
    let token = token(&*store, TokenFor::Operator).await;
    store.redeem(&login(token, "ada"), &Names).await.unwrap();
    store
}

async fn audit_entries_form_a_chain(open: &impl Opener) {
    let store = open().await;
    let audit = Audit::new(Arc::clone(&store));
    let entry = audit.open(intent()).await.unwrap();
    assert_eq!(entry.seq(), 1);
    audit.close(entry, "well").await;
    audit.note(&intent(), Kind::Denied).await;
    assert_eq!(audit.verify().await.unwrap().unwrap().0, 3);
    let mut records = store.audit(0, 100).await.unwrap();
    assert_eq!((records[1].line.kind, records[1].line.about), (Kind::Closed, Some(1)));
    assert_eq!(records[1].line.detail, "well");
    assert_eq!(store.audit(1, 1).await.unwrap(), records[1..2]);
    records[1].line.detail = "ill".to_owned();
    assert_eq!(audit::verify(&records), Err(Broken::Altered { seq: 2 }));
}

async fn audit_entries_left_open_are_found(open: &impl Opener) {
    let store = open().await;
    let audit = Audit::new(Arc::clone(&store));
    let closed = audit.open(intent()).await.unwrap();
    audit.close(closed, "well").await;
    let left = audit.open(intent()).await.unwrap();
    assert_eq!(store.open_audit().await.unwrap().iter().map(|r| r.seq).collect::<Vec<_>>(), [left.seq()]);
    assert_eq!(audit.close_abandoned().await.unwrap(), 1);
    assert_eq!(audit.close_abandoned().await.unwrap(), 0);
    assert!(audit.verify().await.unwrap().is_ok());
}

/// Attack 9.
async fn a_thousand_uses_of_a_token_have_one_winner(open: &impl Opener) {
    let store = with_operator(open).await;
    let token = token(&*store, host("vps1", false)).await;
    let mut uses = tokio::task::JoinSet::new();
    for n in 0..1000_u32 {
        let store = Arc::clone(&store);
        uses.spawn(async move {
            let mut key_sha256 = [0; 32];
            key_sha256[..4].copy_from_slice(&n.to_be_bytes());
            store.redeem(&Redemption { key_sha256, ..redemption(token, 0) }, &Names).await
        });
    }
    let outcomes = uses.join_all().await;
    let denied = |outcome: &Result<Enrolment, RedeemError>| {
        matches!(outcome, Err(RedeemError::Denied(TokenDenial::OtherKey)))
    };
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| denied(outcome)).count(), 999);
    assert_eq!(store.hosts().await.unwrap().len(), 1);
    // The token's making, the login and its token, the enrolment, and each refusal.
    let records = store.audit(0, 2000).await.unwrap();
    assert_eq!(records.iter().filter(|record| record.line.kind == Kind::Denied).count(), 999);
    assert!(audit::verify(&records).is_ok());
}

async fn a_lost_answer_is_repeated_and_a_thief_is_not_served(open: &impl Opener) {
    let store = with_operator(open).await;
    let token = token(&*store, host("vps1", false)).await;
    let first = store.redeem(&redemption(token, 1), &Names).await.unwrap();
    let again = store.redeem(&redemption(token, 1), &Names).await.unwrap();
    assert_eq!((&again.certificate, &again.identity), (&first.certificate, &first.identity));
    assert_eq!(again.agent.unwrap().host, first.agent.unwrap().host);
    let denial = |key, secret: &[u8], token| {
        let (store, secret) = (Arc::clone(&store), Zeroizing::new(secret.to_vec()));
        async move {
            match store.redeem(&Redemption { secret, ..redemption(token, key) }, &Names).await.unwrap_err() {
                RedeemError::Denied(denial) => denial,
                other => panic!("{other}"),
            }
        }
    };
    assert_eq!(denial(2, &SECRET, token).await, TokenDenial::OtherKey);
    assert_eq!(denial(1, &[8; 32], token).await, TokenDenial::Secret);
    let before = store.audit(0, 100).await.unwrap().len();
    assert_eq!(denial(1, &SECRET, TokenId::new()).await, TokenDenial::Unknown);
    assert_eq!(store.audit(0, 100).await.unwrap().len(), before, "made-up tokens fill no disk");
}

async fn an_expired_token_enrols_nobody(open: &impl Opener) {
    let store = with_operator(open).await;
    let token = token(&*store, host("vps1", false)).await;
    let late = Redemption { now_ms: 1000, ..redemption(token, 1) };
    let error = store.redeem(&late, &Names).await.unwrap_err();
    assert!(matches!(error, RedeemError::Denied(TokenDenial::Expired)), "{error}");
    assert!(store.hosts().await.unwrap().is_empty());
}

async fn a_taken_name_needs_a_token_that_replaces(open: &impl Opener) {
    let store = with_operator(open).await;
    let first = token(&*store, host("vps1", false)).await;
    let second = token(&*store, host("vps1", false)).await;
    let enrolled = store.redeem(&redemption(first, 1), &Names).await.unwrap().agent.unwrap().host;
    assert_eq!((enrolled.incarnation, enrolled.labels["env"].as_str()), (1, "prod"));
    let error = store.redeem(&redemption(second, 2), &Names).await.unwrap_err();
    assert!(matches!(error, RedeemError::Taken(_)), "{error}");

    let seen =
        Sighting { host: enrolled.id, incarnation: 1, connected_since_ms: 1, last_seen_ms: 2, state: None };
    store.remember(&[seen]).await.unwrap();
    let replacing = TokenFor::Agent { host_name: "vps1".to_owned(), labels: BTreeMap::new(), replaces: true };
    let third = token(&*store, replacing).await;
    let replaced = store.redeem(&redemption(third, 3), &Names).await.unwrap();
    let row = replaced.agent.unwrap().host;
    assert_eq!((row.id, row.incarnation, &row.labels), (enrolled.id, 2, &enrolled.labels));
    assert_eq!((row.connected_since_ms, row.last_seen_ms), (0, 0), "it is another machine");
    assert_eq!(store.hosts().await.unwrap(), [row]);
    // Each certificate knows which machine it was issued to.
    let serial = String::from_utf8(replaced.certificate).unwrap();
    assert_eq!(store.certificate(&serial).await.unwrap().unwrap().incarnation, 2);
    assert_eq!(store.certificate("none").await.unwrap(), None);
}

async fn there_is_one_first_operator(open: &impl Opener) {
    let store = with_operator(open).await;
    let other = token(&*store, TokenFor::Operator).await;
    let error = store.redeem(&login(other, "eve"), &Names).await.unwrap_err();
    assert!(matches!(error, RedeemError::Denied(TokenDenial::Claimed)), "{error}");
    assert_eq!(store.trust_list().await.unwrap().unwrap().trust_list, b"ada");
    let as_host = store.redeem(&redemption(other, 1), &Names).await.unwrap_err();
    assert!(matches!(as_host, RedeemError::WrongRole), "{as_host}");
    let agents = token(&*store, host("vps1", false)).await;
    let as_operator = store.redeem(&login(agents, "eve"), &Names).await.unwrap_err();
    assert!(matches!(as_operator, RedeemError::WrongRole), "{as_operator}");
}

async fn a_host_needs_somebody_to_obey(open: &impl Opener) {
    let store = open().await;
    let token = token(&*store, host("vps1", false)).await;
    let error = store.redeem(&redemption(token, 1), &Names).await.unwrap_err();
    assert!(matches!(error, RedeemError::NoTrustList), "{error}");
}

async fn a_refused_certificate_uses_no_token_up(open: &impl Opener) {
    let store = with_operator(open).await;
    let token = token(&*store, host("vps1", false)).await;
    assert!(matches!(store.redeem(&redemption(token, 1), &Broke).await.unwrap_err(), RedeemError::Issue(_)));
    assert!(store.hosts().await.unwrap().is_empty());
    store.redeem(&redemption(token, 2), &Names).await.unwrap();
}

fn events(from: u64, to: u64) -> Vec<RunEvent> {
    (from..=to)
        .map(|seq| RunEvent {
            seq,
            at_ms: 1,
            event: Some(Event::Owned(Owned { epoch: seq, ..Default::default() })),
        })
        .collect()
}

fn summary(run: RunId, last_seq: u64, closed_at_ms: i64) -> RunSummary {
    RunSummary {
        run: run.to_string(),
        title: "diagnose".to_owned(),
        operator: "ada".to_owned(),
        opened_at_ms: run.made_at_ms(),
        closed_at_ms,
        phase: RunPhase::Observing.into(),
        verdict: 0,
        targets: 3,
        last_seq,
        retry_of: String::new(),
    }
}

async fn opened(store: &dyn Store, run: RunId) -> Mandate {
    match store.open_run(&intent(), run, &events(1, 2), &summary(run, 2, 0)).await.unwrap() {
        OpenedRun::New(mandate) => mandate,
        OpenedRun::Exists(_) => panic!("it is new"),
    }
}

async fn a_run_is_opened_once(open: &impl Opener) {
    let store = open().await;
    let run = RunId::new();
    let mut openings = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let store = Arc::clone(&store);
        openings.spawn(async move {
            store.open_run(&intent(), run, &events(1, 2), &summary(run, 2, 0)).await.unwrap()
        });
    }
    let outcomes = openings.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, OpenedRun::New(_))).count(), 1);
    let same =
        |outcome: &&OpenedRun| matches!(outcome, OpenedRun::Exists(found) if *found == summary(run, 2, 0));
    assert_eq!(outcomes.iter().filter(same).count(), 19);
    assert_eq!(store.audit(0, 100).await.unwrap().len(), 1, "the audit entry belongs to the opening");
}

async fn events_follow_one_another(open: &impl Opener) {
    let store = open().await;
    let run = RunId::new();
    let mandate = opened(&*store, run).await;
    store.append(&mandate, &events(3, 5), &summary(run, 5, 0), &[]).await.unwrap();
    for (first, last) in [(5, 5), (7, 7), (3, 6)] {
        let error =
            store.append(&mandate, &events(first, last), &summary(run, last, 9), &[]).await.unwrap_err();
        assert!(matches!(error, StoreError::Overtaken { .. }), "{error}");
    }
    assert_eq!(store.run(run).await.unwrap().unwrap(), summary(run, 5, 0));
    assert_eq!(store.events(run, 0, 100).await.unwrap(), events(1, 5));
    assert_eq!(store.events(run, 2, 2).await.unwrap(), events(3, 4));
    // An event's number is its place: a gap inside a batch is not for the store to find, an own clash is.
    let noted = RunEvent { seq: 6, at_ms: 2, event: Some(Event::Noted(Noted::default())) };
    let twice = [noted.clone(), noted];
    assert!(store.append(&mandate, &twice, &summary(run, 7, 0), &[]).await.is_err());
    assert_eq!(store.run(run).await.unwrap().unwrap().last_seq, 5, "nothing of it happened");
}

async fn a_runs_retries_are_found(open: &impl Opener) {
    let store = open().await;
    let runs: [RunId; 3] = std::array::from_fn(|_| RunId::new());
    let _ = opened(&*store, runs[0]).await;
    for again in &runs[1..] {
        let summary = RunSummary { retry_of: runs[0].to_string(), ..summary(*again, 2, 0) };
        let OpenedRun::New(mandate) =
            store.open_run(&intent(), *again, &events(1, 2), &summary).await.unwrap()
        else {
            panic!("it is there already");
        };
        store
            .append(&mandate, &events(3, 3), &RunSummary { last_seq: 3, ..summary.clone() }, &[])
            .await
            .unwrap();
        assert_eq!(store.run(*again).await.unwrap().unwrap().retry_of, runs[0].to_string());
    }
    assert_eq!(store.retries(runs[0]).await.unwrap(), runs[1..]);
    assert_eq!(open().await.retries(runs[1]).await.unwrap(), []);
}

async fn remedies_are_remembered_once_a_run(open: &impl Opener) {
    let store = open().await;
    let (run, host) = (RunId::new(), HostId::new());
    let mandate = match store.open_run(&intent(), run, &events(1, 2), &summary(run, 2, 0)).await.unwrap() {
        OpenedRun::New(mandate) => mandate,
        OpenedRun::Exists(_) => panic!("a new run"),
    };
    let tried = |remedy: &str, at_ms| RemedyTried {
        run,
        host,
        stack: "sylion".to_owned(),
        remedy: remedy.to_owned(),
        at_ms,
    };
    store.append(&mandate, &events(3, 3), &summary(run, 3, 0), &[tried("a/restart", 100)]).await.unwrap();
    let more = [tried("a/restart", 150), tried("a/rebuild", 200)];
    store.append(&mandate, &events(4, 4), &summary(run, 4, 0), &more).await.unwrap();
    let lost = store.append(&mandate, &events(4, 4), &summary(run, 4, 0), &[tried("a/other", 300)]).await;
    assert!(lost.is_err());
    assert_eq!(store.remedies(0).await.unwrap(), [tried("a/restart", 100), tried("a/rebuild", 200)]);
    store.close().await;
    assert_eq!(open().await.remedies(101).await.unwrap(), [tried("a/rebuild", 200)]);
}

async fn runs_are_listed_and_found(open: &impl Opener) {
    let store = open().await;
    let (first, second) = (RunId::new(), RunId::new());
    let mandate = opened(&*store, first).await;
    let later = RunSummary { opened_at_ms: i64::MAX, ..summary(second, 2, 0) };
    store.open_run(&intent(), second, &events(1, 2), &later).await.unwrap();
    let listed: Vec<_> = store.runs(10).await.unwrap().into_iter().map(|run| run.run).collect();
    assert_eq!(listed, [second.to_string(), first.to_string()]);
    assert_eq!(store.runs(1).await.unwrap().len(), 1);
    assert_eq!(store.open_runs().await.unwrap().len(), 2);
    store.append(&mandate, &events(3, 3), &summary(first, 3, 77), &[]).await.unwrap();
    let open: Vec<_> = store.open_runs().await.unwrap().iter().map(Mandate::run).collect();
    assert_eq!(open, [second]);
    let text = first.to_string();
    assert_eq!(store.runs_beginning(&text).await.unwrap(), [first]);
    assert_eq!(store.runs_beginning(&text[..8]).await.unwrap().len(), 2, "both were made in the same second");
    assert_eq!(store.runs_beginning("ffff").await.unwrap(), []);
    assert_eq!(store.run(RunId::new()).await.unwrap(), None);
}

async fn what_was_seen_of_a_host_is_kept(open: &impl Opener) {
    let store = with_operator(open).await;
    let token = token(&*store, host("vps1", false)).await;
    let id = store.redeem(&redemption(token, 1), &Names).await.unwrap().agent.unwrap().host.id;
    let state = HostState {
        stacks: vec![Stack { name: "sylion".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    let sighting = Sighting {
        host: id,
        incarnation: 1,
        connected_since_ms: 10,
        last_seen_ms: 20,
        state: Some(state.clone()),
    };
    let stranger = Sighting { host: HostId::new(), ..sighting.clone() };
    let earlier = Sighting { incarnation: 0, state: None, ..sighting.clone() };
    store.remember(&[sighting, stranger, earlier]).await.unwrap();
    let hosts = store.hosts().await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!((hosts[0].connected_since_ms, hosts[0].last_seen_ms, &hosts[0].state), (10, 20, &Some(state)));
}

async fn everything_is_there_after_a_restart(open: &impl Opener) {
    let store = with_operator(open).await;
    let token = token(&*store, host("vps1", false)).await;
    store.redeem(&redemption(token, 1), &Names).await.unwrap();
    let run = RunId::new();
    opened(&*store, run).await;
    let (hosts, audit) = (store.hosts().await.unwrap(), store.audit(0, 100).await.unwrap());
    store.close().await;
    drop(store);
    let store = open().await;
    assert_eq!(store.hosts().await.unwrap(), hosts);
    assert_eq!(store.audit(0, 100).await.unwrap(), audit);
    assert_eq!(store.open_runs().await.unwrap().iter().map(Mandate::run).collect::<Vec<_>>(), [run]);
    assert_eq!(store.events(run, 0, 10).await.unwrap(), events(1, 2));
    assert!(store.trust_list().await.unwrap().is_some());
    assert!(Audit::new(store).verify().await.unwrap().is_ok());
}
