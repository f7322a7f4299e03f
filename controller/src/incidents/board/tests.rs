use proptest::{prelude::*, test_runner::TestCaseError};

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

fn at(place: u32, symptom: Symptom) -> Symptom {
    Symptom { place, ..symptom }
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
        self.take(Input::Shows { host, name, witness: Witness::Agent, symptoms: symptoms.to_vec() });
    }

    fn shows_outside(&mut self, host: usize, symptoms: &[Symptom]) {
        let (host, name) = (self.hosts[host], format!("vps{}", host + 1));
        self.take(Input::Shows { host, name, witness: Witness::Controller, symptoms: symptoms.to_vec() });
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

    /// The board as a restarted controller has it.
    fn restarts(&mut self) {
        let kept = self.board.incidents.iter().map(|(id, kept)| (*id, kept.incident.clone()));
        let kept: Vec<_> = kept.collect();
        self.board = Board::new(kept, self.now_ms);
        self.diagnose.clear();
    }

    fn only(&self) -> &Incident {
        assert_eq!(self.board.incidents.len(), 1);
        &self.board.incidents.values().next().unwrap().incident
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
    assert!(bench.told[NOTICES - 1].text.contains("those to come wait"), "{}", bench.told[NOTICES - 1].text);
    bench.restarts();
    bench.board.sent[1] = VecDeque::from(vec![bench.now_ms; NOTICES]);
    let untold = |bench: &Bench| -> Vec<usize> {
        let untold = bench.board.incidents.values().filter(|kept| kept.incident.notified_at_ms == 0);
        let host =
            |kept: &Kept| kept.incident.places[0].host_name["vps".len()..].parse::<usize>().unwrap() - 1;
        untold.map(host).collect()
    };
    assert_eq!(untold(&bench).len(), 40);
    bench.passes(NOTICES_WITHIN_MS + 60_000, "a cause");
    assert_eq!(bench.told.len(), 2 * NOTICES, "they wait, and are told when there is room");
    let last = &bench.told[2 * NOTICES - 1].text;
    assert!(last.contains("20 more notices wait"), "{last}");
    // Those that end before anybody heard of them are nobody's news.
    for host in untold(&bench) {
        bench.shows(host, &[]);
    }
    bench.passes(3 * NOTICES_WITHIN_MS, "");
    assert_eq!(bench.told.len(), 2 * NOTICES);
    assert!(bench.kinds().iter().all(|kind| *kind == Kind::Opened));
}

#[test]
fn warnings_do_not_keep_an_outage_from_being_told() {
    let mut bench = Bench::new(60);
    for host in 0..59 {
        bench.shows(host, &[symptom(&format!("runbook-{host}"), "warning")]);
    }
    bench.passes(60_000, "a cause");
    assert_eq!(bench.told.len(), NOTICES);
    bench.shows(59, &[symptom("postgres-down", "critical")]);
    bench.passes(60_000, "PostgreSQL is stopped");
    assert_eq!(bench.told.len(), NOTICES + 1);
    assert_eq!(bench.told[NOTICES].subject, "[critical] vps60: PostgreSQL is stopped");
    bench.shows(59, &[]);
    bench.passes(CALM_MS + 1, "");
    assert_eq!(bench.kinds()[NOTICES + 1..], [Kind::Resolved], "and its end with it");
}

#[test]
fn an_outage_joins_no_old_warning() {
    let certificate = || at(3, symptom("api-down", "warning"));
    let outages = [symptom("postgres-down", "critical"), symptom("api-down", "critical")];
    for outage in outages {
        let mut bench = Bench::new(1);
        bench.shows(0, &[certificate()]);
        bench.passes(24 * 3_600_000, "a certificate has 12 days left");
        bench.shows(0, &[certificate(), outage.clone()]);
        bench.passes(60_000, "the cause");
        assert_eq!((bench.open(), bench.kinds()), (2, vec![Kind::Opened, Kind::Opened]));
        bench.shows(0, &[certificate()]);
        bench.passes(CALM_MS + 1, "");
        assert_eq!(bench.kinds()[2..], [Kind::Resolved]);
        assert_eq!(bench.told[2].severity, "critical");
        assert_eq!(bench.open(), 1, "the certificate is still to be renewed");
        assert!(
            bench.board.incidents.values().all(|kept| kept.incident.severity != "critical"
                || kept.incident.state() == IncidentState::Resolved)
        );
    }
}

#[test]
fn what_begins_late_on_a_host_is_another_incident_and_what_goes_on_is_not() {
    let mut bench = Bench::new(1);
    let redis = || symptom("redis-down", "critical");
    bench.shows(0, &[redis()]);
    bench.passes(JOIN_MS + 1, "Redis is stopped");
    bench.shows(0, &[redis(), at(1, redis())]);
    assert_eq!(bench.open(), 1, "another symptom of the same trouble");
    bench.shows(0, &[redis(), at(1, redis()), symptom("disk-full", "critical")]);
    bench.passes(60_000, "the disk is full");
    assert_eq!((bench.open(), bench.kinds()), (2, vec![Kind::Opened, Kind::Opened]));
}

#[test]
fn severity_is_that_of_what_shows_and_that_it_eased_is_told() {
    let mut bench = Bench::new(1);
    let (nearly_full, full) =
        (|| at(5, symptom("disk-full", "warning")), || symptom("disk-full", "critical"));
    bench.shows(0, &[nearly_full()]);
    bench.passes(60_000, "the disk is nearly full");
    bench.shows(0, &[nearly_full(), full()]);
    bench.passes(60_000, "the disk is full");
    assert_eq!(bench.kinds(), [Kind::Opened, Kind::Worsened], "an outage waits for no warning's pause");
    assert_eq!(bench.only().severity, "critical");
    bench.shows(0, &[nearly_full()]);
    assert_eq!(bench.only().severity, "warning");
    bench.passes(WORSE_MS - 1_000, "");
    assert_eq!(bench.kinds().len(), 2);
    bench.passes(2_000, "");
    assert_eq!(bench.kinds()[2..], [Kind::Eased]);
    assert_eq!(
        bench.told[2].severity, "critical",
        "who was told that it is critical is told that it no longer is"
    );
    assert!(bench.told[2].text.contains("what is left is a warning"), "{}", bench.told[2].text);
    bench.shows(0, &[]);
    bench.passes(CALM_MS + 1, "");
    assert_eq!(bench.kinds()[3..], [Kind::Resolved]);
    assert_eq!(bench.told[3].severity, "warning");
    assert_eq!(bench.only().severity, "critical", "who writes it up wants to know how bad it was");
}

#[test]
fn what_is_seen_from_outside_and_on_the_host_take_nothing_back_of_each_other() {
    let mut bench = Bench::new(1);
    let api = || symptom("api-down", "critical");
    bench.shows_outside(0, &[api()]);
    bench.shows(0, &[]);
    bench.passes(CALM_MS * 2, "the provider's firewall drops it");
    assert_eq!((bench.open(), bench.kinds()), (1, vec![Kind::Opened]), "the host itself sees nothing");
    // The same rule, seen by both.
    bench.shows(0, &[api()]);
    bench.shows_outside(0, &[]);
    bench.passes(CALM_MS * 2, "");
    assert_eq!(bench.open(), 1);
    bench.restarts();
    bench.shows_outside(0, &[]);
    bench.passes(CALM_MS * 2, "");
    assert_eq!(bench.open(), 1, "who saw what is remembered");
    bench.shows(0, &[]);
    bench.passes(CALM_MS + 1, "");
    assert_eq!((bench.open(), bench.kinds()), (0, vec![Kind::Opened, Kind::Resolved]));
    // No agent speaks in the controller's name.
    bench.shows(0, &[at(AWAY_PLACE, api())]);
    assert_eq!(bench.open(), 0);
}

#[test]
fn runs_are_written_down_while_it_is_open_and_shortly_after() {
    let mut bench = Bench::new(1);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.passes(60_000, "Redis is stopped");
    let ran = |bench: &mut Bench| {
        let hosts = BTreeSet::from([bench.hosts[0]]);
        let (operator, text) = ("ada".to_owned(), "run redis-down ended: resolved".to_owned());
        bench.take(Input::Ran { run: RunId::new(), hosts, operator, text, checklist: Vec::new() });
        bench.only().timeline.iter().filter(|line| line.operator == "ada").count()
    };
    assert_eq!(ran(&mut bench), 1);
    bench.shows(0, &[]);
    bench.passes(CALM_MS + 60_000, "");
    assert_eq!(ran(&mut bench), 2, "cured first and tidied up after");
    bench.passes(AGAIN_MS, "");
    assert_eq!(ran(&mut bench), 2, "what is done next month has another reason");
}

/// A second diagnosis that waits for the first one does not keep the loop awake.
#[test]
fn nothing_is_due_while_a_diagnosis_is_under_way() {
    let mut bench = Bench::new(1);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.now_ms += SETTLE_MS;
    bench.take(Input::Tick);
    let (incident, _) = bench.diagnose.pop().unwrap();
    bench.take(Input::Diagnosing { incident, run: RunId::new() });
    bench.shows(0, &[symptom("redis-down", "critical"), symptom("backend-502", "critical")]);
    bench.now_ms += SETTLE_MS + 1_000;
    bench.take(Input::Tick);
    assert!(bench.diagnose.is_empty());
    assert!(bench.board.wake_at_ms().unwrap() > bench.now_ms);
    bench.take(Input::Diagnosed { incident, causes: Vec::new() });
    assert_eq!(bench.diagnose.len(), 1);
}

#[test]
fn a_silent_agent_is_a_symptom_and_its_host_keeps_the_others() {
    let mut bench = Bench::new(2);
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.passes(60_000, "Redis is stopped");
    let (host, name) = (bench.hosts[0], "vps1".to_owned());
    bench.take(Input::Away { host, name, says: "not connected" });
    bench.passes(30_000, "");
    bench.take(Input::Back { host });
    bench.passes(120_000, "");
    assert_eq!(bench.kinds(), [Kind::Opened], "a short absence is none");
    let away = |says| Input::Away { host: bench.hosts[1], name: "vps2".to_owned(), says };
    let (silent, gone) = (away("does not answer"), away("not connected"));
    bench.take(silent);
    bench.now_ms += AWAY_MS / 2;
    bench.take(gone);
    assert_eq!(
        bench.board.wake_at_ms(),
        Some(bench.now_ms + AWAY_MS / 2),
        "it counts from its first silence"
    );
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
    bench.restarts();
    bench.shows(0, &[symptom("redis-down", "critical")]);
    bench.passes(3_600_000, "");
    assert_eq!(bench.kinds(), [Kind::Opened]);
    bench.shows(0, &[]);
    bench.passes(CALM_MS + 1, "");
    assert_eq!(bench.kinds(), [Kind::Opened, Kind::Resolved]);
    bench.restarts();
    bench.passes(3_600_000, "");
    assert_eq!(bench.kinds().len(), 2);
}

#[test]
fn a_restart_loses_nothing_that_is_still_to_be_told() {
    let mut bench = Bench::new(2);
    let redis = || symptom("redis-down", "critical");
    bench.shows(0, &[redis()]);
    bench.passes(60_000, "Redis is stopped");
    // Another host: told after a pause, in which the controller restarts.
    bench.shows(1, &[redis()]);
    bench.passes(60_000, "Redis is stopped");
    assert_eq!(bench.kinds().len(), 1);
    bench.restarts();
    bench.passes(WORSE_MS, "Redis is stopped");
    assert_eq!(bench.kinds(), [Kind::Opened, Kind::Worsened]);
    assert_eq!(bench.told[1].hosts, ["vps1", "vps2"]);
    // Over, and again: the same.
    bench.shows(0, &[]);
    bench.shows(1, &[]);
    bench.passes(CALM_MS + 1, "");
    bench.shows(0, &[redis()]);
    bench.passes(60_000, "Redis is stopped");
    bench.restarts();
    bench.passes(WORSE_MS, "Redis is stopped");
    assert_eq!(bench.kinds()[2..], [Kind::Resolved, Kind::Again]);
}

#[derive(Debug, Clone)]
enum Move {
    Shows(usize, Vec<usize>),
    Outside(usize, bool),
    Away(usize),
    Back(usize),
    Passes(i64),
    Restarts,
}

/// What people were told of one incident makes sense to who reads nothing else.
fn makes_sense(told: &[Notice]) -> Result<(), TestCaseError> {
    let mut open: BTreeMap<&str, bool> = BTreeMap::new();
    for notice in told {
        let believed = open.get(notice.incident.as_str()).copied();
        let fits = match notice.kind {
            Kind::Opened => believed.is_none(),
            Kind::Again => believed == Some(false),
            Kind::Worsened | Kind::Eased | Kind::Resolved => believed == Some(true),
            Kind::Test => false,
        };
        prop_assert!(fits, "{:?} after {believed:?}", notice.kind);
        open.insert(&notice.incident, notice.kind != Kind::Resolved);
    }
    Ok(())
}

proptest! {
    /// Whatever hosts show, and whenever the controller restarts: an incident is open while something shows and as bad as
    /// the worst of it, what people are told makes sense, nobody is flooded, and in the end everybody knows that it is over.
    #[test]
    fn what_shows_is_open_and_what_is_over_ends(moves in prop::collection::vec(prop_oneof![
        (0_usize..3, prop::collection::vec(0_usize..3, 0..3)).prop_map(|(host, shows)| Move::Shows(host, shows)),
        (0_usize..3, any::<bool>()).prop_map(|(host, shows)| Move::Outside(host, shows)),
        (0_usize..3).prop_map(Move::Away),
        (0_usize..3).prop_map(Move::Back),
        (0_i64..400_000).prop_map(Move::Passes),
        Just(Move::Restarts),
    ], 0..40)) {
        let runbooks = [("redis-down", "critical"), ("backend-502", "critical"), ("disk-full", "warning")];
        let mut restarts = 0;
        let mut bench = Bench::new(3);
        let mut shown: [BTreeSet<usize>; 3] = Default::default();
        for step in moves {
            match step {
                Move::Shows(host, shows) => {
                    shown[host] = shows.iter().copied().collect();
                    let symptoms: Vec<_> =
                        shown[host].iter().map(|place| symptom(runbooks[*place].0, runbooks[*place].1)).collect();
                    bench.shows(host, &symptoms);
                }
                Move::Outside(host, shows) => {
                    let api = symptom("api-down", "critical");
                    bench.shows_outside(host, if shows { std::slice::from_ref(&api) } else { &[] });
                }
                Move::Restarts => {
                    restarts += 1;
                    bench.restarts();
                }
                Move::Away(host) => {
                    let (host, name) = (bench.hosts[host], format!("vps{host}"));
                    bench.take(Input::Away { host, name, says: "not connected" });
                }
                Move::Back(host) => bench.take(Input::Back { host: bench.hosts[host] }),
                Move::Passes(ms) => bench.passes(ms, "a cause"),
            }
            for (host, shows) in shown.iter().enumerate() {
                let id = bench.hosts[host];
                let open: BTreeSet<_> = bench.board.incidents.values()
                    .filter(|kept| kept.incident.state() == IncidentState::Open)
                    .flat_map(|kept| symptoms_of(&kept.incident, id))
                    .filter(|symptom| symptom.until_ms == 0 && !symptom.outside)
                    .map(|symptom| symptom.runbook.as_str())
                    .collect();
                let expected: BTreeSet<_> = shows.iter().map(|place| runbooks[*place].0).collect();
                prop_assert_eq!(open, expected);
            }
            for kept in bench.board.incidents.values() {
                let now = worst(&kept.incident, |symptom| symptom.until_ms == 0);
                prop_assert!(now.is_none_or(|worst| worst == kept.incident.severity));
            }
        }
        makes_sense(&bench.told)?;
        let spans = (bench.now_ms - START) / NOTICES_WITHIN_MS + 1 + restarts;
        prop_assert!(bench.told.len() as i64 <= spans * 2 * NOTICES as i64);
        // All quiet: everything ends.
        for host in 0..3 {
            bench.shows(host, &[]);
            bench.shows_outside(host, &[]);
            bench.take(Input::Back { host: bench.hosts[host] });
        }
        bench.passes(CALM_MS + 1, "");
        prop_assert_eq!(bench.open(), 0);
        bench.passes(4 * NOTICES_WITHIN_MS, "");
        makes_sense(&bench.told)?;
        prop_assert!(bench.board.incidents.values().all(|kept| !kept.incident.told_open));
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
