use vigie_proto::{
    id::{RunId, TokenId},
    v1::{Hello, Label, Place, Selector, SignedTrustList, Stack},
};
use zeroize::Zeroizing;

use super::*;
use crate::{
    audit::Intent,
    authority::{Certificate, IssueError},
    clock::SystemClock,
    error::LinkError,
    store::{Issue, NewOperator, OpenedRun, Redemption, Sqlite, Token, TokenFor},
};

/// The serial of every certificate in these tests, as [`Permit::for_test`] shows it.
const SERIAL: &str = "40";

struct Names(String);

impl Issue for Names {
    fn agent(&self, host: HostId) -> Result<Certificate, IssueError> {
        let identity = format!("spiffe://vigie/agent/{host}");
        Ok(Certificate { der: vec![1], identity, serial: self.0.clone(), not_after_ms: i64::MAX })
    }

    fn operator(&self, name: &str) -> Result<Certificate, IssueError> {
        let identity = format!("spiffe://vigie/operator/{name}");
        Ok(Certificate {
            der: vec![1],
            identity,
            serial: format!("operator {}", self.0),
            not_after_ms: i64::MAX,
        })
    }
}

/// A fleet of one enrolled host, with one stack.
struct World {
    fleet: Fleet,
    store: Arc<dyn Store>,
    host: HostId,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap());
        let operator = NewOperator {
            name: "ada".to_owned(),
            public_key: [1; 32],
            version: 1,
            trust_list: SignedTrustList::default(),
        };
        redeem(&*store, TokenFor::Operator, Some(operator), "1").await;
        let host = enrol(&*store, "vps1", false, SERIAL).await;
        let fleet = Fleet::load(Arc::clone(&store), Arc::new(SystemClock)).await.unwrap();
        Self { fleet, store, host: host.id, _folder: folder }
    }

    fn permit(&self) -> Permit {
        Permit::for_test(&format!("spiffe://vigie/agent/{}", self.host), "/vigie.v1.Link/Session")
    }

    async fn attach(&self) -> Result<Attached, LinkError> {
        let stack = Stack { name: "sylion".to_owned(), ..Default::default() };
        let state = HostState { stacks: vec![stack], ..Default::default() };
        let hello = Hello { incarnation: 1, state: Some(state), ..Default::default() };
        self.fleet.attach(&self.permit(), "one", hello).await
    }
}

async fn redeem(
    store: &dyn Store,
    grants: TokenFor,
    operator: Option<NewOperator>,
    serial: &str,
) -> crate::store::Enrolment {
    let token = Token::new(TokenId::new(), &[1; 32], grants, i64::MAX);
    let intent = Intent::own("test", "", "");
    store.add_token(&intent, &token).await.unwrap();
    let redemption = Redemption {
        token: token.id,
        secret: Zeroizing::new(vec![1; 32]),
        key_sha256: [1; 32],
        now_ms: 0,
        operator,
        intent,
    };
    store.redeem(&redemption, &Names(serial.to_owned())).await.unwrap()
}

async fn enrol(store: &dyn Store, name: &str, replaces: bool, serial: &str) -> HostRow {
    let labels = BTreeMap::from([("env".to_owned(), "prod".to_owned())]);
    let grants = TokenFor::Agent { host_name: name.to_owned(), labels, replaces };
    redeem(store, grants, None, serial).await.agent.unwrap().host
}

fn operator() -> Permit {
    Permit::for_test("spiffe://vigie/operator/ada", "/vigie.v1.Hosts/ListHosts")
}

async fn mandate(store: &dyn Store) -> Mandate {
    let (run, intent) = (RunId::new(), Intent::own("test", "", ""));
    match store.open_run(&intent, run, &[], &v1::RunSummary::default()).await.unwrap() {
        OpenedRun::New(mandate) => mandate,
        OpenedRun::Exists(_) => panic!("it is new"),
    }
}

fn drain() -> to_agent::Message {
    to_agent::Message::Drain(v1::Drain { after_ms: 1 })
}

#[tokio::test]
async fn the_newest_session_wins_and_its_end_is_the_hosts() {
    let world = World::new().await;
    let mut changes = world.fleet.changes();
    assert!(world.fleet.session(world.host).is_none());
    let mut first = world.attach().await.unwrap();
    assert_eq!(changes.recv().await, Ok(world.host));
    let second = world.attach().await.unwrap();
    assert_eq!(*first.end.wait_for(Option::is_some).await.unwrap(), Some(End::Superseded));
    assert_eq!(world.fleet.session(world.host), Some(second.id));
    drop(first);
    assert!(world.fleet.session(world.host).is_some(), "an older session's end takes nothing from the newer");
    drop(second);
    assert!(world.fleet.session(world.host).is_none());
    let host = world.fleet.host(&operator(), "vps1").unwrap();
    assert!(!host.connected && host.state.is_some(), "its last report stays");
}

#[tokio::test]
async fn a_replaced_machine_is_turned_away() {
    let world = World::new().await;
    let mut old = world.attach().await.unwrap();
    world.fleet.enrolled(enrol(&*world.store, "vps1", true, "41").await);
    assert_eq!(*old.end.wait_for(Option::is_some).await.unwrap(), Some(End::Replaced));
    drop(old);
    // Its certificate is still valid, and it may claim whatever it likes.
    assert!(matches!(world.attach().await, Err(LinkError::Replaced)));
    let lying = Hello { incarnation: 2, ..Default::default() };
    assert!(matches!(world.fleet.attach(&world.permit(), "one", lying).await, Err(LinkError::Malformed(_))));
    let stranger =
        Permit::for_test(&format!("spiffe://vigie/agent/{}", HostId::new()), "/vigie.v1.Link/Session");
    let hello = Hello { incarnation: 1, ..Default::default() };
    assert!(matches!(world.fleet.attach(&stranger, "one", hello).await, Err(LinkError::UnknownHost)));
}

#[tokio::test]
async fn messages_reach_the_session_and_a_full_queue_refuses_more() {
    let world = World::new().await;
    let mandate = mandate(&*world.store).await;
    assert_eq!(world.fleet.send(&mandate, world.host, drain()), Err(SendError::NotConnected));
    let mut attached = world.attach().await.unwrap();
    let welcome = attached.outbound.recv().await.unwrap().message.unwrap();
    assert!(matches!(welcome, to_agent::Message::Welcome(_)), "{welcome:?}");
    for _ in 0..QUEUE {
        assert_eq!(world.fleet.send(&mandate, world.host, drain()), Ok(attached.id));
    }
    assert_eq!(world.fleet.send(&mandate, world.host, drain()), Err(SendError::Full));
    drop(attached);
    assert_eq!(world.fleet.send(&mandate, world.host, drain()), Err(SendError::NotConnected));
}

/// A queue that is full says nothing of the agent: it may have been asked very much at once.
#[tokio::test]
async fn who_was_not_asked_does_not_owe_an_answer() {
    let world = World::new().await;
    let mandate = mandate(&*world.store).await;
    let mut attached = world.attach().await.unwrap();
    // From here on nothing waits for the store.
    tokio::time::pause();
    let answering =
        || world.fleet.host(&operator(), "vps1").unwrap().liveness.is_some_and(|pulse| pulse.answering);
    while world.fleet.send(&mandate, world.host, drain()).is_ok() {}
    let pulse = world.fleet.pulse(world.host, attached.id);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(60), pulse).await;
    assert!(answering(), "it was never asked");
    // Once there is room it is asked, and says nothing.
    while attached.outbound.try_recv().is_ok() {}
    let pulse = world.fleet.pulse(world.host, attached.id);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(60), pulse).await;
    assert!(!answering());
}

#[tokio::test]
async fn what_was_seen_of_a_journal_is_never_replaced_by_another_one() {
    let world = World::new().await;
    let head = |seq, hash| AuditHead { seq, hash: vec![hash; 32] };
    let attach = async |told: AuditHead| {
        let hello = Hello {
            incarnation: 1,
            audit_head: Some(told),
            state: Some(HostState::default()),
            ..Default::default()
        };
        let mut attached = world.fleet.attach(&world.permit(), "one", hello).await.unwrap();
        let Some(to_agent::Message::Welcome(welcome)) = attached.outbound.recv().await.unwrap().message
        else {
            panic!("a welcome")
        };
        (attached, welcome.seen)
    };
    let (first, seen) = attach(head(3, 1)).await;
    assert_eq!(seen, None, "nothing was seen of this enrolment");
    // Its agent, which knows what it compared with, says how far it goes.
    world.fleet.journal_seen(world.host, first.id, head(5, 1));
    // A hello takes nothing back and nothing forward.
    for told in [head(4, 2), head(5, 2), head(6, 2)] {
        let (session, seen) = attach(told.clone()).await;
        assert_eq!(seen, Some(head(5, 1)), "{told:?}");
        if told.seq <= 5 {
            world.fleet.journal_seen(world.host, session.id, told);
        }
    }
    world.fleet.remember().await.unwrap();
    let again = Fleet::load(Arc::clone(&world.store), Arc::new(SystemClock)).await.unwrap();
    let kept = again.host(&operator(), "vps1").unwrap().state.unwrap().journal;
    assert_eq!(kept, Some(head(5, 1)), "a restart knows it as well");
    // Another enrolment has another journal.
    world.fleet.enrolled(enrol(&*world.store, "vps1", true, "41").await);
    assert_eq!(world.fleet.hosts()[&world.host].journal, None);
}

#[tokio::test]
async fn a_restarted_fleet_remembers() {
    let world = World::new().await;
    let attached = world.attach().await.unwrap();
    assert_eq!(world.fleet.remember().await.unwrap(), 1);
    assert_eq!(world.fleet.remember().await.unwrap(), 0, "nothing is new");
    let again = Fleet::load(Arc::clone(&world.store), Arc::new(SystemClock)).await.unwrap();
    let (now, then) =
        (world.fleet.host(&operator(), "vps1").unwrap(), again.host(&operator(), "vps1").unwrap());
    assert!(now.connected && !then.connected);
    assert_eq!((then.state, then.connected_since_ms), (now.state, now.connected_since_ms));
    drop(attached);
}

fn row(name: &str, labels: &[(&str, &str)], stacks: &[&str]) -> Known {
    let state = HostState {
        stacks: stacks.iter().map(|name| Stack { name: (*name).to_owned(), ..Default::default() }).collect(),
        ..Default::default()
    };
    let row = HostRow {
        id: HostId::new(),
        name: name.to_owned(),
        labels: labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        incarnation: 1,
        enrolled_at_ms: 0,
        connected_since_ms: 0,
        last_seen_ms: 0,
        state: Some(state),
    };
    Known { row, journal: None, session: None, dirty: false }
}

#[test]
fn a_selector_becomes_targets() {
    let rows = [
        row("vps2", &[("env", "prod")], &["sylion", "staging"]),
        row("vps1", &[("env", "prod")], &["sylion"]),
        row("db1", &[("env", "test")], &[]),
    ];
    let hosts: BTreeMap<_, _> = rows.into_iter().map(|known| (known.row.id, known)).collect();
    let targets = |labels: &str, names: &str, stack: &str, scope| {
        let selector = Selector {
            labels: labels.to_owned(),
            hosts: names.to_owned(),
            all: labels.is_empty() && names.is_empty(),
            stack: stack.to_owned(),
            ..Selector::default()
        };
        let targets = select::targets(&hosts, &selector, scope);
        targets
            .map(|t| t.iter().map(|t| format!("{}/{}", t.host_name, t.stack)).collect::<Vec<_>>().join(" "))
    };
    use Scope::{Host, Stack};
    assert_eq!(targets("", "", "", Host).unwrap(), "db1/ vps1/ vps2/");
    assert_eq!(targets("", "", "", Stack).unwrap(), "vps1/sylion vps2/sylion vps2/staging");
    assert_eq!(targets("env=prod", "vps2", "", Stack).unwrap(), "vps2/sylion vps2/staging");
    assert_eq!(targets("", "", "staging", Stack).unwrap(), "vps2/staging");
    assert_eq!(targets("", "", "sylion", Host).unwrap(), "vps1/sylion vps2/sylion");
    assert!(matches!(targets("", "db1", "", Stack), Err(HostsError::NoStack { stack: None })));
    assert!(matches!(targets("", "", "none", Host), Err(HostsError::NoStack { stack: Some(_) })));
    assert!(matches!(targets("env=none", "", "", Host), Err(HostsError::NoMatch)));
    let written = |places: &[(&str, &str)], scope| {
        let place =
            |(host, stack): &(&str, &str)| Place { host: (*host).to_owned(), stack: (*stack).to_owned() };
        let places = places.iter().map(place).collect();
        let targets = select::targets(&hosts, &Selector { places, ..Selector::default() }, scope)?;
        let places = targets.into_iter().map(|target| (target.host_name, target.stack));
        Ok::<Vec<_>, HostsError>(places.map(|(host, stack)| format!("{host}/{stack}")).collect())
    };
    assert_eq!(written(&[("vps2", "staging")], Stack).unwrap(), ["vps2/staging"]);
    assert_eq!(written(&[("vps2", "staging"), ("vps1", "")], Host).unwrap(), ["vps1/", "vps2/staging"]);
    for (gone, scope) in [(("vps1", "staging"), Stack), (("vps1", ""), Stack), (("db1", "sylion"), Host)] {
        let refused = written(&[("vps2", "sylion"), gone], scope).unwrap_err();
        assert!(matches!(&refused, HostsError::NoPlace { host, .. } if host == gone.0), "{refused}");
    }
    let Err(HostsError::Unknown(unknown)) = targets("", "vps1,vps[8-9]", "", Host) else { panic!("unknown") };
    assert_eq!(unknown, ["vps8", "vps9"]);
    assert!(matches!(
        select::targets(&BTreeMap::new(), &Selector::default(), Host),
        Err(HostsError::Selector(_))
    ));
}

#[test]
fn labels_are_written_as_the_contract_wants() {
    let known = row("vps1", &[("env", "prod")], &[]);
    assert_eq!(known.row.labels(), [Label { name: "env".to_owned(), value: "prod".to_owned() }]);
    assert_eq!(known.to_proto().labels, known.row.labels());
}
