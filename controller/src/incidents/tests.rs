use vigie_proto::v1::{HostState, Stack, Symptom};

use super::*;
use crate::{
    clock::SystemClock,
    runbooks::Runbooks,
    runs::Evaluation,
    store::{HostRow, Sqlite},
};

struct World {
    incidents: Incidents,
    runs: Runs,
    hosts: Vec<HostId>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn of(hosts: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap());
        let fleet = Fleet::load(Arc::clone(&store), Arc::new(SystemClock)).await.unwrap();
        let hosts: Vec<_> = (0..hosts).map(|_| HostId::new()).collect();
        for (place, id) in hosts.iter().enumerate() {
            fleet.enrolled(HostRow {
                id: *id,
                name: format!("vps{}", place + 1),
                labels: BTreeMap::new(),
                incarnation: 1,
                enrolled_at_ms: 0,
                connected_since_ms: 0,
                last_seen_ms: 0,
                state: Some(HostState {
                    stacks: vec![Stack { name: "sylion".to_owned(), ..Default::default() }],
                    ..Default::default()
                }),
            });
        }
        let runbooks = Runbooks::open(folder.path().join("none"));
        let runs = Runs::new(Arc::clone(&store), fleet.clone(), runbooks, "c1".to_owned(), Evaluation::Aside);
        let incidents = Incidents::load(store, fleet, runs.clone(), Vec::new(), Vec::new()).await.unwrap();
        Self { incidents, runs, hosts, _folder: folder }
    }
}

fn symptom(says: &str) -> Symptom {
    Symptom {
        runbook: "redis-down".to_owned(),
        severity: "critical".to_owned(),
        says: says.to_owned(),
        ..Default::default()
    }
}

fn reported(says: &str) -> Symptoms {
    Symptoms { symptoms: vec![symptom(says)], ..Default::default() }
}

/// Nobody turns the board: what comes in a storm lies there, the latest of each.
#[tokio::test]
async fn a_storm_loses_no_host() {
    let world = World::of(3000).await;
    for host in &world.hosts {
        world.incidents.shows(*host, reported("first"));
        world.incidents.shows_outside(*host, vec![symptom("from outside")]);
    }
    for host in &world.hosts {
        world.incidents.shows(*host, reported("latest"));
    }
    world.incidents.shows(HostId::new(), reported("nobody knows this host"));
    let mut seen = BTreeSet::new();
    for _ in 0..2 * world.hosts.len() {
        let Input::Shows { host, witness, symptoms, .. } = world.incidents.post().await else {
            panic!("only symptoms came in");
        };
        let expected = if witness == Witness::Agent { "latest" } else { "from outside" };
        assert_eq!(symptoms[0].says, expected);
        assert!(seen.insert((host, witness)), "each comes once");
    }
    let more = tokio::time::timeout(Duration::from_millis(20), world.incidents.post()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test]
async fn a_missed_end_of_a_diagnosis_is_looked_up() {
    let world = World::of(1).await;
    let (incidents, stop) = (&world.incidents, CancellationToken::new());
    let run = world.runs.diagnose(&["vps1".to_owned()], "a test").await.unwrap();
    let (host, name) = (world.hosts[0], "vps1".to_owned());
    let shows = Input::Shows { host, name, witness: Witness::Agent, symptoms: vec![symptom("it is down")] };
    incidents.take(shows, &stop).await;
    let open = incidents.0.store.incidents(false, 1).await.unwrap();
    let incident = open[0].id.parse().unwrap();
    incidents.take(Input::Diagnosing { incident, run }, &stop).await;
    incidents.missed(&stop).await;
    // On a slow machine it may be over already: its host is away.
    if world.runs.state(run).await.unwrap().closed().is_none() {
        assert_eq!(incidents.board().diagnosing(run), Some(incident), "it is still under way");
        let permit = Permit::for_test("spiffe://vigie/operator/ada", "/vigie.v1.Runs/CancelRun");
        let cancelled = world.runs.cancel(&permit, &run.to_string(), "a test".to_owned()).await;
        assert!(matches!(cancelled, Ok(_) | Err(crate::error::RunsError::Rejected(_))), "{cancelled:?}");
    }
    incidents.missed(&stop).await;
    assert_eq!(incidents.board().diagnosing(run), None);
    // One that nobody can read has ended as well.
    let lost = RunId::new();
    incidents.take(Input::Diagnosing { incident, run: lost }, &stop).await;
    incidents.missed(&stop).await;
    assert_eq!(incidents.board().diagnosing(lost), None);
    let told = incidents.board().incident(incident).unwrap().timeline.clone();
    let ends = told.iter().filter(|line| line.text == "the diagnosis confirms no cause").count();
    assert_eq!(ends, 2, "{told:?}");
    world.runs.stop();
}
