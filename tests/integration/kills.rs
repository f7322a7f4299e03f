//! Programs die at every step of the protocol, by SIGKILL and between two lines, while a real FLUSHDB is on its way. The
//! server itself counts: it is flushed once, or not at all, and everybody is told the truth.
//!
//! The letters are those of the steps in docs/reliability.md.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use vigie_tests::{AgentProcess, Fleet, free_ports, wait_until};

/// Lets orders empty the stack's Redis.
const FLUSH: &str = "version = 1\n[[allow]]\noperation = \"redis_flush\"\nstacks = [\"shop\"]\n";

/// A Redis of its own, which counts how often it was flushed.
struct Redis {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port] = free_ports();
        let process = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: tests/run does it");
        let redis = Self { process, port, _folder: folder };
        wait_until("Redis answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        redis
    }

    /// One command in the inline protocol, and the first line of its answer; for a bulk string, all of it.
    fn ask(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some(length) = line.strip_prefix('$') else { return line.trim().to_owned() };
        let mut text = vec![0; length.trim().parse().unwrap()];
        std::io::Read::read_exact(&mut reader, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// How often it was flushed.
    fn flushes(&self) -> u32 {
        let stats = self.ask("INFO commandstats");
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_flushdb:calls="));
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    }

    fn fill(&self) {
        for number in 0..20 {
            assert_eq!(self.ask(&format!("SET job:{number} x")), "+OK");
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Scene {
    redis: Redis,
    agent: AgentProcess,
    fleet: Fleet,
}

impl Scene {
    fn new() -> Self {
        let redis = Redis::start();
        redis.fill();
        let fleet = Fleet::new();
        let folder = fleet.path("shop");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("compose.yml"), "services: {}\n").unwrap();
        let stack = format!(
            "[stacks.shop]\ndirectory = {folder:?}\nconfig_files = [\"compose.yml\"]\nredis_url = \"redis://127.0.0.1:{}/0\"\n",
            redis.port
        );
        let agent = fleet.add_agent_with("vps1", FLUSH, &stack);
        let scene = Self { redis, agent, fleet };
        scene.wait_ready();
        scene
    }

    /// Waits until the host is there with its stack.
    fn wait_ready(&self) {
        self.fleet.wait_connected("vps1", true);
        wait_until("the stack is known", || {
            let host = self.fleet.vigiectl(&["hosts", "show", "vps1", "-o", "json"]);
            let stacks =
                |host: &serde_json::Value| host["state"]["stacks"].as_array().cloned().unwrap_or_default();
            host.code == 0 && stacks(&host.json()).iter().any(|stack| stack["name"] == "shop")
        });
    }

    /// Orders the flush, with ctl dying at a place where one is named.
    fn order(&self, dies_at: Option<&str>) -> Child {
        let mut ctl = self.fleet.ctl();
        ctl.args(["do", "redis_flush", "-H", "vps1", "--stack", "shop", "--yes", "--yes-destroy"]);
        ctl.envs(dies_at.map(|point| ("VIGIE_DIE_AT", point)));
        ctl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn newest(&self) -> serde_json::Value {
        let listed = self.fleet.vigiectl(&["runs", "list", "-o", "json"]);
        if listed.code == 0 { listed.json()["runs"][0].clone() } else { serde_json::Value::Null }
    }

    /// The one run's verdict once it is closed.
    fn verdict(&self) -> String {
        wait_until("the run closes", || self.newest()["phase"] == "closed");
        self.newest()["verdict"].as_str().unwrap().to_owned()
    }
}

/// How the run may end, and how often Redis was flushed then.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// It is carried out: once.
    Done,
    /// The agent cannot have done it, and says so; nothing happened.
    NotDone,
}

/// Ends `order` by `resume` where its ctl is gone or has given up, and insists on the end.
fn ends(scene: &Scene, ctl: Child, expected: Ends, point: &str) {
    let said = ctl.wait_with_output().unwrap();
    if scene.newest()["phase"] != "closed" {
        let runs: Vec<PathBuf> = ledger(scene);
        let [run] = &runs[..] else { panic!("{point}: the ledger holds {runs:?}: {said:?}") };
        let id = run.file_stem().unwrap().to_str().unwrap();
        let resumed = scene.fleet.vigiectl(&["runs", "resume", id, "--yes", "--yes-destroy"]);
        assert!([0, 1].contains(&resumed.code), "{point}: {resumed:?}");
    }
    let verdict = scene.verdict();
    let flushes = scene.redis.flushes();
    match expected {
        Ends::Done => assert_eq!((verdict.as_str(), flushes), ("ok", 1), "{point}: {said:?}"),
        Ends::NotDone => {
            assert!(["failed", "refused"].contains(&verdict.as_str()), "{point}: {verdict}: {said:?}");
            assert_eq!(flushes, 0, "{point}: {said:?}");
        }
    }
    let runs = scene.fleet.vigiectl(&["runs", "list", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{point}: one run, whatever was sent again");
}

/// The requests that ctl wrote down.
fn ledger(scene: &Scene) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![scene.fleet.path("operator")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path if path.extension().is_some_and(|extension| extension == "pb") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

fn a_ctl_dies(point: &str) {
    let scene = Scene::new();
    let ctl = scene.order(Some(point));
    ends(&scene, ctl, Ends::Done, point);
}

fn a_controller_dies(point: &str) {
    let mut scene = Scene::new();
    scene.fleet.stop_controller();
    scene.fleet.start_controller_dying_at(point);
    scene.wait_ready();
    let ctl = scene.order(None);
    scene.fleet.await_controllers_death();
    scene.fleet.start_controller();
    scene.wait_ready();
    ends(&scene, ctl, Ends::Done, point);
}

fn an_agent_dies(point: &str, expected: Ends) {
    let mut scene = Scene::new();
    scene.agent.kill();
    scene.agent.start_dying_at(point);
    scene.wait_ready();
    let ctl = scene.order(None);
    scene.agent.await_death();
    scene.agent.start();
    ends(&scene, ctl, expected, point);
    // Nothing is left that the agent would still have to tell, and nothing runs again.
    wait_until("the agent is acknowledged", || {
        let journal = Command::new(vigie_tests::binary("vigie-agent"))
            .args(["journal", "--state"])
            .arg(scene.agent.state())
            .output()
            .unwrap();
        String::from_utf8_lossy(&journal.stdout).contains("acknowledged")
    });
}

#[test]
fn a_ctl_before_it_sends() {
    a_ctl_dies("ctl.submitting");
}

#[test]
fn a2_ctl_before_it_sends_its_signature() {
    a_ctl_dies("ctl.signing");
}

#[test]
fn b_controller_before_it_commits_a_run() {
    a_controller_dies("controller.before.opened");
}

#[test]
fn b2_controller_before_it_commits_a_signature() {
    a_controller_dies("controller.before.signed");
}

#[test]
fn c_controller_after_its_commit_and_before_it_sends() {
    a_controller_dies("controller.after.sent");
}

#[test]
fn d_agent_before_its_journal() {
    an_agent_dies("agent.received", Ends::NotDone);
}

#[test]
fn f_agent_after_its_journal_and_before_the_effect() {
    an_agent_dies("agent.started", Ends::NotDone);
}

#[test]
fn g_controller_while_the_agent_acts() {
    a_controller_dies("controller.after.started");
}

#[test]
fn h_agent_after_the_effect_and_before_its_record() {
    an_agent_dies("agent.done", Ends::Done);
}

#[test]
fn i_agent_after_its_record_and_before_its_report() {
    an_agent_dies("agent.finished", Ends::Done);
}

#[test]
fn j_controller_before_it_commits_the_outcome() {
    a_controller_dies("controller.before.ended");
}

#[test]
fn k_controller_after_that_and_before_it_acknowledges() {
    a_controller_dies("controller.after.ended");
}

#[test]
fn l_agent_when_it_is_acknowledged() {
    an_agent_dies("agent.acknowledged", Ends::Done);
}

/// Kills at random for `VIGIE_KILL_SECONDS` (10 by itself): the controller or the agent, at any moment of a flush. Prints
/// what it saw.
#[test]
fn at_random_nothing_happens_twice_and_nothing_is_lost() {
    let seconds = std::env::var("VIGIE_KILL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut scene = Scene::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut flushes, mut runs, mut kills, mut not_done, mut not_opened) = (0, 0, 0, 0, 0);
    let mut latest = serde_json::Value::Null;
    // A full period of a linear congruence: every delay comes, in no order.
    let mut random = u64::from(std::process::id());
    while Instant::now() < until {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        scene.redis.fill();
        let mut ctl = scene.order(None);
        std::thread::sleep(Duration::from_millis((random >> 40) % 700));
        kills += 1;
        if random >> 63 == 0 {
            scene.agent.kill();
            scene.agent.start();
        } else {
            scene.fleet.kill_controller();
            scene.fleet.start_controller();
        }
        scene.wait_ready();
        let _ = ctl.wait();
        if scene.newest()["run"] == latest {
            // The controller was gone before it had the request, and ctl gave up and said so.
            not_opened += 1;
            assert_eq!(scene.redis.flushes(), flushes, "no run was opened, and the server was flushed");
            continue;
        }
        runs += 1;
        latest = scene.newest()["run"].clone();
        if scene.newest()["phase"] != "closed" {
            let id = scene.newest()["run"].as_str().unwrap().to_owned();
            let resumed = scene.fleet.vigiectl(&["runs", "resume", &id, "--yes", "--yes-destroy"]);
            assert!([0, 1, 3].contains(&resumed.code), "{resumed:?}");
        }
        let verdict = scene.verdict();
        let now = scene.redis.flushes();
        match verdict.as_str() {
            "ok" => assert_eq!(now, flushes + 1, "run {runs}: done, and seen by the server once"),
            "failed" | "refused" | "unreachable" => {
                not_done += 1;
                assert_eq!(now, flushes, "run {runs} was {verdict}, and the server was flushed");
            }
            other => panic!("run {runs} ended {other}"),
        }
        flushes = now;
    }
    println!(
        "{runs} runs, {kills} kills, {flushes} flushes, {not_done} told as not done, {not_opened} never opened, \
         0 twice, 0 lost, 0 in doubt"
    );
}
