//! The world: three real VPSes, one of them broken by each fault in turn. `tests/run world` brings the hosts up and adds
//! them with `vigiectl hosts add`; this suite breaks, diagnoses, repairs and looks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod local;
mod secrets;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use vigie_tests::{Said, binary, wait_until, wait_within};

/// What one fault must lead to.
struct Case {
    fault: &'static str,
    /// The finding that is the root cause.
    cause: &'static str,
    /// What the cause's words must name.
    says: &'static str,
    /// The remedy that is proposed; empty where a person has to edit something.
    remedy: &'static str,
    /// What the advice must name, where a person has to.
    advise: &'static str,
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("world").join(name)
}

fn world(words: &[&str]) -> Said {
    try_world(words).exits(0)
}

/// However it ends.
fn try_world(words: &[&str]) -> Said {
    Said::of(Command::new(script("world")).args(words))
}

fn fleet(words: &[&str]) {
    let _ = Said::of(Command::new(script("fleet")).args(words)).exits(0);
}

fn state() -> PathBuf {
    PathBuf::from(
        std::env::var("VIGIE_FLEET_STATE").unwrap_or_else(|_| panic!("run this through `tests/run world`")),
    )
}

fn ctl(words: &[&str]) -> Said {
    Said::of(
        Command::new(binary("vigiectl"))
            .args(words)
            .env("VIGIE_HOME", state().join("operator"))
            .env("NO_COLOR", "1"),
    )
}

/// Starts the controller again, and waits for every agent: each looks for it after a backoff of its own, 30 s at most.
fn controller_returns() {
    fleet(&["controller", "start"]);
    wait_within(Duration::from_secs(60), "every agent is back", || {
        let hosts = ctl(&["hosts", "list", "-o", "json"]).exits(0).json();
        let hosts = hosts["hosts"].as_array().cloned().unwrap_or_default();
        hosts.len() == 3 && hosts.iter().all(|host| host["connected"] == true)
    });
}

/// The incidents that are open, without their timelines.
fn open_incidents() -> Vec<Value> {
    let known = ctl(&["incidents", "list", "-o", "json"]).exits(0).json();
    let known = known["incidents"].as_array().cloned().unwrap_or_default();
    known.into_iter().filter(|incident| incident["state"] == "open").collect()
}

/// Whether something shows, or showed, on a host.
fn concerns(incident: &Value, host: &str) -> bool {
    incident["places"].as_array().is_some_and(|places| places.iter().any(|place| place["host_name"] == host))
}

/// What vigiectl says of each target, healthy ones included.
fn targets(document: &Value) -> &Vec<Value> {
    document["targets"].as_array().unwrap_or_else(|| panic!("no targets: {document}"))
}

fn target<'a>(document: &'a Value, host: &str) -> &'a Value {
    targets(document)
        .iter()
        .find(|target| target["host"] == host)
        .unwrap_or_else(|| panic!("no {host}: {document}"))
}

/// The confirmed findings of a target that nothing else explains.
fn causes(target: &Value) -> Vec<&Value> {
    let findings = target["findings"].as_array().unwrap_or_else(|| panic!("no findings: {target}"));
    findings.iter().filter(|f| f["state"] == "confirmed" && f["explained_by"] == "").collect()
}

/// Breaks one host, and insists on the whole way from the symptom to the end.
fn incident(host: &str, case: &Case) {
    let _ = world(&["reset", "all"]);
    let _ = world(&["fault", host, case.fault]);

    let since = Instant::now();
    let diagnosed = ctl(&["diagnose", "backend-502", "--all", "-o", "json"]).exits(6);
    let took = since.elapsed();
    let document = diagnosed.json();
    assert_eq!(targets(&document).len(), 3, "every host is in the sum");
    for target in targets(&document) {
        let causes = causes(target);
        if target["host"] != host {
            assert!(causes.is_empty(), "{} is healthy: {causes:#?}", target["host"]);
            assert_eq!(target["health"], "healthy", "{target:#}");
            continue;
        }
        let ids: Vec<_> = causes.iter().map(|finding| finding["id"].as_str().unwrap_or_default()).collect();
        assert_eq!(ids, [case.cause], "{causes:#?}");
        let says = causes[0]["says"].as_str().unwrap_or_default();
        assert!(says.contains(case.says), "{says}");
        let advise = causes[0]["advise"].as_str().unwrap_or_default();
        assert!(advise.contains(case.advise), "{advise}");
        assert_eq!(target["restore_backup"]["answer"], "never");
        let evidence = causes[0]["evidence"].as_array().map_or(0, Vec::len);
        assert!(evidence > 0, "no evidence: {causes:#?}");
        let ruled_out =
            target["findings"].as_array().into_iter().flatten().filter(|f| f["state"] == "ruled_out").count();
        assert!(ruled_out > 3, "hardly anything is ruled out: {target:#}");
    }
    assert!(took.as_secs() < 30, "{took:?}");

    let before = world(&[
        "exec",
        host,
        "--",
        "docker",
        "inspect",
        "--format",
        "{{.Id}} {{.State.StartedAt}}",
        "sylion-postgres",
    ]);
    if case.remedy.is_empty() {
        let ran = ctl(&["run", "backend-502", "--all", "--yes", "-o", "json"]).exits(6);
        let ran = ran.json();
        for target in targets(&ran) {
            assert!(target["tasks"].as_array().is_none_or(Vec::is_empty), "acted in vain: {target:#}");
        }
    } else {
        repair(host, case);
    }
    let after = world(&[
        "exec",
        host,
        "--",
        "docker",
        "inspect",
        "--format",
        "{{.Id}} {{.State.StartedAt}}",
        "sylion-postgres",
    ]);
    assert_eq!(before.stdout, after.stdout, "the database was not touched");
}

fn repair(host: &str, case: &Case) {
    // Nobody says yes: nothing changes.
    let asked = ctl(&["run", "backend-502", "--all"]).exits(4);
    assert!(asked.stderr.contains("--yes"), "{asked:?}");
    assert_eq!(
        causes(target(&ctl(&["diagnose", "backend-502", "--all", "-o", "json"]).exits(6).json(), host)).len(),
        1
    );

    let ran = ctl(&["run", "backend-502", "--all", "--yes", "-o", "json"]).exits(0).json();
    assert_eq!(ran["verdict"], "resolved", "{ran:#}");
    let repaired = target(&ran, host);
    assert_eq!(repaired["remedy"], case.remedy, "{repaired:#}");
    assert_eq!(repaired["verification"]["verified"], true, "{repaired:#}");
    for other in targets(&ran).iter().filter(|target| target["host"] != host) {
        assert!(other["tasks"].as_array().is_none_or(Vec::is_empty), "a healthy host was touched: {other:#}");
    }
    let health = world(&[
        "exec",
        host,
        "--",
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://127.0.0.1/health",
        "-H",
        "Host: api.sylion.tech",
    ]);
    assert_eq!(health.stdout, "200");

    let id = ran["run"].as_str().unwrap_or_default();
    let shown = ctl(&["runs", "show", id]).exits(0).stdout;
    for line in ["ada opens it", "ada signs plan", "compose-", "verified: well again", "resolved"] {
        assert!(shown.contains(line), "the timeline lacks {line:?}:\n{shown}");
    }
    let report = ctl(&["runs", "show", id, "--report"]).exits(0).stdout;
    for line in ["# run backend-502", "## Findings", "## Timeline", "- [x] /health answers 200"] {
        assert!(report.contains(line), "the report lacks {line:?}:\n{report}");
    }
}

macro_rules! incidents {
    ($($name:ident on $host:literal: $case:expr;)*) => {$(
        #[test]
        fn $name() {
            incident($host, &$case);
        }
    )*};
}

incidents! {
    backend_stopped on "vps2": Case {
        fault: "backend-stopped", cause: "backend_stopped", says: "sylion-backend is stopped",
        remedy: "restart_backend", advise: "",
    };
    backend_crash_loops_for_want_of_a_variable on "vps1": Case {
        fault: "backend-missing-variable", cause: "missing_variable", says: "JWT_SECRET",
        remedy: "", advise: "compose_up",
    };
    backend_accepts_and_never_answers on "vps3": Case {
        fault: "backend-unhealthy", cause: "hanging", says: "does not answer",
        remedy: "restart_backend", advise: "",
    };
    port_is_not_published on "vps2": Case {
        fault: "port-not-published", cause: "port_not_published", says: "8000",
        remedy: "", advise: "127.0.0.1:8000:8000",
    };
    nginx_points_at_a_wrong_upstream on "vps1": Case {
        fault: "nginx-wrong-upstream", cause: "wrong_upstream", says: "127.0.0.1:8001",
        remedy: "", advise: "proxy_pass http://127.0.0.1:8000",
    };
    backend_is_killed_for_memory on "vps3": Case {
        fault: "backend-oom", cause: "out_of_memory", says: "40 MiB",
        remedy: "", advise: "mem_limit",
    };
    image_is_broken_and_the_source_is_mended on "vps2": Case {
        fault: "image-broken", cause: "image_outdated", says: "SyntaxError",
        remedy: "rebuild_backend", advise: "",
    };
}

#[test]
fn healthy_hosts_are_well_and_nothing_is_said_against_them() {
    let _ = world(&["reset", "all"]);
    let well = ctl(&["diagnose", "backend-502", "--all", "-o", "json"]).exits(0).json();
    for target in targets(&well) {
        assert_eq!(target["health"], "healthy", "{target:#}");
    }
    let ran = ctl(&["run", "backend-502", "--all", "--yes", "-o", "json"]).exits(0).json();
    assert_eq!(ran["verdict"], "ok");
}

#[test]
fn exec_is_the_hosts_policy_to_allow() {
    let ran = ctl(&["exec", "-H", "vps1", "--yes", "--", "uptime"]).exits(0);
    assert!(ran.stdout.contains("load average"), "{ran:?}");
    let refused = ctl(&["exec", "-H", "vps2", "--yes", "--", "uptime"]).exits(4);
    assert!(
        format!("{}{}", refused.stdout, refused.stderr).contains("/etc/vigie/policy.toml"),
        "{refused:?}"
    );
}

/// The controller is killed while a host rebuilds: the run ends all the same, and the rebuild happened once.
#[test]
fn a_controller_killed_in_the_middle_of_a_repair() {
    let _ = world(&["reset", "all"]);
    let _ = world(&["fault", "vps1", "image-broken"]);
    let mut run = Command::new(binary("vigiectl"))
        .args(["run", "backend-502", "-H", "vps1", "--yes"])
        .env("VIGIE_HOME", state().join("operator"))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let newest = || ctl(&["runs", "list", "-o", "json"]).exits(0).json()["runs"][0].clone();
    wait_until("the run acts", || newest()["phase"] == "acting");
    fleet(&["controller", "kill"]);
    controller_returns();
    let id = newest()["run"].as_str().unwrap().to_owned();
    let watched = ctl(&["runs", "watch", &id]).exits(0);
    assert!(!watched.stdout.is_empty());
    let _ = run.wait();
    assert_eq!(newest()["verdict"], "resolved");
    let events = ctl(&["runs", "show", &id, "-o", "json"]).exits(0).json();
    let ended =
        events["events"].as_array().unwrap().iter().filter(|event| event.get("ended").is_some()).count();
    assert_eq!(ended, 1, "one order, one end: {events:#}");
}

/// The agent is killed while Compose runs: systemd keeps Compose in a unit of its own and starts the agent again, which
/// waits for it, tells how it ended, and has it run no second time.
#[test]
fn an_agent_killed_in_the_middle_of_a_repair() {
    let _ = world(&["reset", "vps2"]);
    let on_host = |words: &[&str]| world(&[&["exec", "vps2", "--"], words].concat()).stdout;
    let started = || {
        on_host(&[
            "docker",
            "inspect",
            "--format",
            "{{.State.StartedAt}} {{.RestartCount}}",
            "sylion-backend",
        ])
    };
    let before = started();
    // As soon as a program of an order runs apart from the agent, the agent dies.
    let killer = thread::spawn(|| {
        let kill = "until systemctl --quiet is-active 'vigie-0*'; do :; done; systemctl kill --signal=KILL vigie-agent";
        world(&["exec", "vps2", "--", "timeout", "60", "sh", "-c", kill])
    });
    let ran = ctl(&[
        "do",
        "compose_restart",
        "-H",
        "vps2",
        "--stack",
        "sylion",
        "--services",
        "backend",
        "--yes",
        "-o",
        "json",
    ]);
    let _ = killer.join().unwrap();
    let document = ran.exits(0).json();
    let outcome = &document["targets"][0];
    assert!(outcome["found"].as_str().is_some_and(|found| found.contains("it has happened")), "{document:#}");
    assert_ne!(started(), before, "the backend was started anew");
    let journal = on_host(&["vigie-agent", "journal"]);
    let run =
        ctl(&["runs", "list", "-o", "json"]).exits(0).json()["runs"][0]["run"].as_str().unwrap().to_owned();
    let events = ctl(&["runs", "show", &run, "-o", "json"]).exits(0).json();
    let ended =
        events["events"].as_array().unwrap().iter().find_map(|event| event.get("ended")).unwrap().clone();
    let order = ended["tasks"][0]["order"].as_str().unwrap();
    assert_eq!(journal.matches(&format!("started {order}")).count(), 1, "{journal}");
    assert_eq!(
        on_host(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "vigie-0*"]).trim(),
        ""
    );
    assert_eq!(
        on_host(&["find", "/var/lib/vigie/children", "-type", "f"]).trim(),
        "",
        "nothing stays behind"
    );
}

/// The controller's settings with something added. Dropping it writes them back and starts the controller with them.
struct Settings {
    path: PathBuf,
    before: String,
}

impl Settings {
    /// `[watch]` and `[[notify]]` are the test's; what the fleet has of its own stands in between.
    fn with(text: &str) -> Self {
        let path = state().join("controller/controller.toml");
        let before = std::fs::read_to_string(&path).unwrap();
        let own = Self { path, before };
        let mut kept: Vec<&str> = Vec::new();
        let mut ours = false;
        for line in own.before.lines() {
            if line.starts_with('[') {
                ours = matches!(line, "[watch]" | "[[notify]]");
            }
            if !ours {
                kept.push(line);
            }
        }
        own.write(&format!("{}\n{text}", kept.join("\n")));
        own
    }

    /// In place, so that the file stays its owner's alone.
    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).unwrap();
        fleet(&["controller", "stop"]);
        // The next test wants its agents; what a failed one wants is to be heard.
        match thread::panicking() {
            true => fleet(&["controller", "start"]),
            false => controller_returns(),
        }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        self.write(&self.before);
    }
}

/// A webhook's other side: its URL, and what it is sent.
fn pager() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let (notices, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.get_mut().write_all(answer).unwrap();
            if notices.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, received)
}

/// Nobody asks: agents see it, the controller diagnoses it, and a pager rings once. It is told once that it is over.
#[test]
fn an_outage_that_nobody_asks_about_is_told_once_with_its_cause_and_so_is_its_end() {
    let _ = world(&["reset", "all"]);
    let (url, notices) = pager();
    let _settings = Settings::with(&format!(
        "[watch]\nevery_s = 5\n\n[[notify]]\nname = \"pager\"\nkind = \"webhook\"\nurl = \"{url}\"\n"
    ));
    // What other tests left behind on this host is over first: an outage would join it. What the machine that all hosts
    // share is found to suffer from is nobody's business here.
    let since = Instant::now();
    loop {
        let open: Vec<_> =
            open_incidents().into_iter().filter(|incident| concerns(incident, "vps2")).collect();
        if open.is_empty() {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(240), "incidents of other tests do not end: {open:#?}");
        thread::sleep(Duration::from_millis(500));
    }
    while notices.try_recv().is_ok() {}
    let on_vps2 =
        |notice: &Value| notice["hosts"].as_array().is_some_and(|hosts| hosts.contains(&"vps2".into()));
    let told = |within_s| {
        let until = Instant::now() + Duration::from_secs(within_s);
        let next = || notices.recv_timeout(until.saturating_duration_since(Instant::now())).ok();
        std::iter::from_fn(next).find(on_vps2)
    };

    let _ = world(&["fault", "vps2", "redis-stopped"]);
    let opened = told(90).expect("it is told");
    assert_eq!((&opened["kind"], &opened["severity"]), (&"opened".into(), &"critical".into()), "{opened:#}");
    assert_eq!(opened["hosts"], serde_json::json!(["vps2"]), "{opened:#}");
    let subject = opened["subject"].as_str().unwrap_or_default();
    assert!(subject.starts_with("[critical] vps2: ") && subject.contains("redis is stopped"), "{subject}");
    let _ = world(&["cure", "vps2"]);
    let resolved = told(180).expect("its end is told");
    assert_eq!(
        (&resolved["kind"], &resolved["incident"]),
        (&"resolved".into(), &opened["incident"]),
        "{resolved:#}"
    );
    assert_eq!(resolved["hosts"], serde_json::json!(["vps2"]), "{resolved:#}");
    let more: Vec<_> = notices.try_iter().filter(on_vps2).collect();
    assert!(more.is_empty(), "nothing else was to be told: {more:#?}");
    let id = opened["incident"].as_str().unwrap_or_default();
    let report = ctl(&["incidents", "report", id]).exits(0).stdout;
    assert!(report.contains("redis is stopped"), "{report}");
}
