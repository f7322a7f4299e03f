use proptest::prelude::*;

use super::*;

const START: i64 = 1_800_000_000_000;

fn symptom(runbook: &str, severity: &str) -> Symptom {
    Symptom {
        runbook: runbook.to_owned(),
        stack: "sylion".to_owned(),
        place: 0,
        severity: severity.to_owned(),
        says: format!("{runbook} shows"),
        since_ms: START,
    }
}

/// A board with a clock, and everything that it decided.
struct Bench {
    board: Board,
    now_ms: i64,
    hosts: Vec<HostId>,
    told: Vec<Notice>,
    diagnose: Vec<(IncidentId, Vec<String>)>,
}

impl Bench {
    fn new(hosts: usize) -> Self {
        let hosts = (0..hosts).map(|_| HostId::new()).collect();
        Self { board: Board::default(), now_ms: START, hosts, told: Vec::new(), diagnose: Vec::new() }
    }

    fn take(&mut self, input: Input) {
        let decision = self.board.take(input, self.now_ms);
        self.told.extend(decision.notices);
        self.diagnose.extend(decision.diagnose);
    }

    fn shows(&mut self, host: usize, symptoms: &[Symptom]) {
        let (host, name) = (self.hosts[host], format!("vps{}", host + 1));
        self.take(Input::Shows { host, name, symptoms: symptoms.to_vec() });
    }

    /// Lets time pass, stopping wherever the board wants to be woken; what it wants diagnosed is, with `cause`.
    fn passes(&mut self, ms: i64, cause: &str) {
        let end = self.now_ms + ms;
        loop {
            for (incident, names) in std::mem::take(&mut self.diagnose) {
                self.take(Input::Diagnosing { incident, run: RunId::new() });
                let cause = IncidentCause { says: cause.to_owned(), host_names: names, ..Default::default() };
                self.take(Input::Diagnosed { incident, causes: vec![cause] });
            }
            match self.board.wake_at_ms() {
                Some(at) if at <= end => {
                    self.now_ms = at.max(self.now_ms);
                    self.take(Input::Tick);
                }
                _ => break,
            }
        }
        self.now_ms = end;
    }

    fn kinds(&self) -> Vec<Kind> {
        self.told.iter().map(|notice| notice.kind).collect()
    }

    fn open(&self) -> usize {
        self.board.incidents.values().filter(|kept| kept.incident.state() == IncidentState::Open).count()
    }
}

#[test]
fn one_cause_on_one_host_is_told_once_and_its_end_once() {
    let mut bench = Bench::new(1);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.now_ms += 2_000;
    bench.shows(0, &[symptom("redis-down", "critical"), symptom("backend-502", "critical")]);
    assert!(bench.told.is_empty(), "nobody is told before it is known what it is");
    bench.passes(60_000, "Redis is stopped");
    assert_eq!(bench.kinds(), [Kind::Opened]);
    let notice = &bench.told[0];
    assert_eq!(notice.subject, "[critical] vps1: Redis is stopped");
    assert!(notice.text.contains("vigiectl incidents show"), "{}", notice.text);
    assert_eq!(bench.open(), 1, "one incident for both symptoms");
    // The agent tells the same again in a new session.
    bench.shows(0, &[symptom("redis-down", "critical"), symptom("backend-502", "critical")]);
    bench.passes(3_600_000, "");
    assert_eq!(bench.kinds().len(), 1);
    bench.shows(0, &[]);
    bench.passes(CALM_MS - 1, "");
    assert_eq!(bench.kinds().len(), 1, "a moment's calm is no end");
    bench.passes(10, "");
    assert_eq!(bench.kinds(), [Kind::Opened, Kind::Resolved]);
    assert_eq!(bench.open(), 0);
}

#[test]
fn a_fleet_that_breaks_together_is_one_incident() {
    let mut bench = Bench::new(100);
    for host in 0..100 {
        bench.shows(host, &[symptom("api-down", "critical")]);
        bench.now_ms += 50;
    }
    bench.passes(120_000, "the certificate has expired");
    assert_eq!((bench.open(), bench.kinds()), (1, vec![Kind::Opened]));
    assert_eq!(bench.told[0].hosts.len(), 100);
    assert!(bench.told[0].subject.contains("and 98 more"), "{}", bench.told[0].subject);
}

#[test]
fn other_trouble_elsewhere_is_another_incident_and_worse_is_told() {
    let mut bench = Bench::new(3);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.shows(1, &[symptom("disk-full", "warning")]);
    bench.passes(60_000, "a cause");
    assert_eq!((bench.open(), bench.kinds()), (2, vec![Kind::Opened, Kind::Opened]));
    // The disk's warning becomes an outage, and reaches a third host: once, not before its time.
    bench.shows(1, &[symptom("disk-full", "warning"), symptom("postgres-down", "critical")]);
    bench.shows(2, &[symptom("disk-full", "warning")]);
    bench.passes(WORSE_MS + 60_000, "the disk is full");
    assert_eq!(bench.kinds()[2..], [Kind::Worsened]);
    assert_eq!(bench.told[2].hosts, ["vps2", "vps3"]);
    assert_eq!(bench.told[2].severity, "critical");
}

#[test]
fn what_flaps_is_one_incident_and_no_flood() {
    let mut bench = Bench::new(1);
    for _ in 0..40 {
        bench.shows(0, &[symptom("backend-502", "critical")]);
        bench.passes(20_000, "it restarts");
        bench.shows(0, &[]);
        bench.passes(CALM_MS + 20_000, "");
    }
    assert_eq!(bench.board.incidents.len(), 1);
    let opened = bench.kinds().iter().filter(|kind| **kind == Kind::Opened).count();
    let again = bench.kinds().iter().filter(|kind| **kind == Kind::Again).count();
    // 40 times in 67 minutes.
    assert_eq!(opened, 1);
    assert!(again <= 14, "{again}");
    assert!(bench.board.incidents.values().all(|kept| kept.incident.timeline.len() <= TIMELINE));
}

#[test]
fn a_storm_is_counted_and_not_sent() {
    let mut bench = Bench::new(60);
    for host in 0..60 {
        // As many runbooks as hosts, so that nothing groups.
        bench.shows(host, &[symptom(&format!("runbook-{host}"), "critical")]);
    }
    bench.passes(60_000, "a cause");
    assert_eq!((bench.open(), bench.told.len()), (60, NOTICES));
    bench.passes(NOTICES_WITHIN_MS, "");
    bench.shows(0, &[symptom("runbook-0", "critical"), symptom("more", "critical")]);
    bench.passes(120_000, "a cause");
    assert!(
        bench.told.last().unwrap().text.contains("40 notices before this one"),
        "{:?}",
        bench.told.last()
    );
}

#[test]
fn a_silent_agent_is_a_symptom_and_its_host_keeps_the_others() {
    let mut bench = Bench::new(2);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.passes(60_000, "Redis is stopped");
    let (host, name) = (bench.hosts[0], "vps1".to_owned());
    bench.take(Input::Away { host, name });
    bench.passes(30_000, "");
    bench.take(Input::Back { host });
    bench.passes(120_000, "");
    assert_eq!(bench.kinds(), [Kind::Opened], "a short absence is none");
    bench.take(Input::Away { host: bench.hosts[1], name: "vps2".to_owned() });
    bench.passes(AWAY_MS + 60_000, "vps2 does not answer");
    assert_eq!(bench.kinds(), [Kind::Opened, Kind::Opened]);
    assert_eq!(bench.told[1].hosts, ["vps2"]);
    bench.take(Input::Back { host: bench.hosts[1] });
    bench.passes(CALM_MS + 1, "");
    assert_eq!(bench.kinds()[2], Kind::Resolved);
    assert_eq!(bench.open(), 1, "Redis is still down on vps1");
}

#[test]
fn what_is_only_worth_knowing_wakes_nobody() {
    let mut bench = Bench::new(1);
    bench.shows(0, &[symptom("quota-blocking", "notice")]);
    bench.passes(3_600_000, "");
    assert_eq!((bench.open(), bench.told.len()), (0, 0));
}

#[test]
fn people_are_told_although_nothing_can_be_diagnosed() {
    let mut bench = Bench::new(1);
    bench.shows(0, &[symptom("backend-502", "critical")]);
    // The diagnosis never ends.
    bench.now_ms += DIAGNOSED_BY_MS;
    bench.take(Input::Tick);
    assert_eq!(bench.kinds(), [Kind::Opened]);
    assert!(bench.told[0].text.contains("backend-502 shows"), "{}", bench.told[0].text);
}

#[test]
fn a_restart_tells_nothing_twice() {
    let mut bench = Bench::new(1);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.passes(60_000, "Redis is stopped");
    let kept: Vec<_> = bench.board.incidents.iter().map(|(id, kept)| (*id, kept.incident.clone())).collect();
    bench.board = Board::new(kept, bench.now_ms);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.passes(3_600_000, "");
    assert_eq!(bench.kinds(), [Kind::Opened]);
    bench.shows(0, &[]);
    bench.passes(CALM_MS + 1, "");
    assert_eq!(bench.kinds(), [Kind::Opened, Kind::Resolved]);
}

#[derive(Debug, Clone)]
enum Move {
    Shows(usize, Vec<usize>),
    Away(usize),
    Back(usize),
    Passes(i64),
}

proptest! {
    /// Whatever hosts show: an incident is open while something shows, ends are told only of what was told, and nobody is
    /// flooded.
    #[test]
    fn what_shows_is_open_and_what_is_over_ends(moves in prop::collection::vec(prop_oneof![
        (0_usize..3, prop::collection::vec(0_usize..3, 0..3)).prop_map(|(host, shows)| Move::Shows(host, shows)),
        (0_usize..3).prop_map(Move::Away),
        (0_usize..3).prop_map(Move::Back),
        (0_i64..400_000).prop_map(Move::Passes),
    ], 0..40)) {
        let runbooks = ["redis-down", "backend-502", "disk-full"];
        let mut bench = Bench::new(3);
        let mut shown: [BTreeSet<usize>; 3] = Default::default();
        for step in moves {
            match step {
                Move::Shows(host, shows) => {
                    shown[host] = shows.iter().copied().collect();
                    let symptoms: Vec<_> =
                        shown[host].iter().map(|runbook| symptom(runbooks[*runbook], "critical")).collect();
                    bench.shows(host, &symptoms);
                }
                Move::Away(host) => {
                    let (host, name) = (bench.hosts[host], format!("vps{host}"));
                    bench.take(Input::Away { host, name });
                }
                Move::Back(host) => bench.take(Input::Back { host: bench.hosts[host] }),
                Move::Passes(ms) => bench.passes(ms, "a cause"),
            }
            for (host, shows) in shown.iter().enumerate() {
                let id = bench.hosts[host];
                let open: BTreeSet<_> = bench.board.incidents.values()
                    .filter(|kept| kept.incident.state() == IncidentState::Open)
                    .flat_map(|kept| symptoms_of(&kept.incident, id))
                    .filter(|symptom| symptom.until_ms == 0 && symptom.place != AWAY_PLACE)
                    .map(|symptom| symptom.runbook.as_str())
                    .collect();
                let expected: BTreeSet<_> = shows.iter().map(|runbook| runbooks[*runbook]).collect();
                prop_assert_eq!(open, expected);
            }
        }
        let count = |wanted: &[Kind]| bench.kinds().iter().filter(|kind| wanted.contains(kind)).count();
        prop_assert!(count(&[Kind::Resolved]) <= count(&[Kind::Opened, Kind::Again, Kind::Worsened]));
        let hours = (bench.now_ms - START) / NOTICES_WITHIN_MS + 1;
        prop_assert!(bench.told.len() as i64 <= hours * NOTICES as i64);
        // All quiet: everything ends.
        for host in 0..3 {
            bench.shows(host, &[]);
            bench.take(Input::Back { host: bench.hosts[host] });
        }
        bench.passes(CALM_MS + 1, "");
        prop_assert_eq!(bench.open(), 0);
    }
}

/// A line of the checklist, by its words.
fn monitoring(bench: &Bench) -> Vec<CheckState> {
    let lines = bench.board.incidents.values().map(|kept| &kept.incident.checklist);
    lines.map(|lines| checklist::state(lines, checklist::MONITORING)).collect()
}

#[test]
fn the_monitorings_word_counts_until_an_incident_is_over_and_green() {
    let mut bench = Bench::new(1);
    let red = || Input::Monitored(Colour::Red("DiskFull".to_owned()));
    assert!(!bench.board.wants_monitoring(), "nobody asks while all is well");
    bench.shows(0, &[symptom("disk-full", "critical")]);
    bench.passes(30_000, "the disk is full");
    bench.take(Input::Monitored(Colour::Green));
    assert_eq!(monitoring(&bench), [CheckState::Done]);
    bench.take(red());
    bench.take(red());
    assert_eq!(monitoring(&bench), [CheckState::NotDone], "an open incident follows it");
    let said = |bench: &Bench| {
        let kept = bench.board.incidents.values().next().unwrap();
        kept.incident.timeline.iter().filter(|line| line.text.starts_with("monitoring")).count()
    };
    assert_eq!(said(&bench), 2, "what has not changed is not said again");
    bench.shows(0, &[]);
    bench.passes(CALM_MS + 1_000, "");
    assert_eq!(bench.open(), 0);
    assert!(bench.board.wants_monitoring(), "it was not green yet");
    bench.take(Input::Monitored(Colour::Green));
    assert!(!bench.board.wants_monitoring());
    bench.take(red());
    assert_eq!(monitoring(&bench), [CheckState::Done], "what fires now is another incident");
}
