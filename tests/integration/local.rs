//! Without the controller: the host's own root diagnoses and repairs, with an agent that runs or with none, and the
//! controller hears of it later.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use vigie_tests::{AgentProcess, Fleet, Said, binary, wait_until};

use crate::NOTHING;

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// Whether a test shows nothing here, which is said. In CI nothing is left out.
#[allow(clippy::print_stderr, reason = "it says what is left out")]
fn lacks_root() -> bool {
    assert!(is_root() || std::env::var_os("CI").is_none(), "CI runs as root, which may change a host");
    if !is_root() {
        eprintln!("skipped: only root may change a host");
    }
    !is_root()
}

/// A runbook that finds what it looks for on every host, and whose remedy leaves a mark, waits until it is let go, and
/// leaves another.
struct Marked {
    runbook: PathBuf,
    witness: PathBuf,
    gate: PathBuf,
}

impl Marked {
    fn new(folder: &Path) -> Self {
        let (runbook, witness, gate) =
            (folder.join("mark.yaml"), folder.join("witness"), folder.join("gate"));
        let script = format!(
            "echo begin >>{w}; while [ ! -e {g} ]; do sleep 0.05; done; echo end >>{w}",
            w = witness.display(),
            g = gate.display()
        );
        let text = format!(
            r#"
id: mark
title: the host is not marked
scope: host
diagnose:
  - id: facts
    host_facts: {{}}
findings:
  - id: unmarked
    title: the host is not marked
    when: facts.cpus > 0
    says: "the host is not marked"
remedies:
  - id: leave_a_mark
    title: leave a mark
    for: [unmarked]
    risk: low
    steps:
      - exec: {{ program: sh, args: ["-c", "{script}"] }}
verify:
  probes: [facts]
  until: facts.cpus > 0
  within: 10s
  every: 1s
restore_backup:
  - answer: never
    why: no data is touched
"#
        );
        fs::write(&runbook, text).unwrap();
        Self { runbook, witness, gate }
    }

    fn open_gate(&self) {
        fs::write(&self.gate, "").unwrap();
    }

    fn marks(&self) -> String {
        fs::read_to_string(&self.witness).unwrap_or_default()
    }

    fn has_begun(&self) -> bool {
        self.marks().contains("begin")
    }
}

/// `vigie-agent` with these words, on the folder of an agent.
fn here(state: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary("vigie-agent"));
    command.args(words).arg("--state").arg(state);
    // The settings name an engine that is not there, so that the machine of the test does not matter.
    command.arg("--config").arg(state.with_file_name("agent.toml"));
    command.env_remove("SUDO_USER").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn run(agent: &AgentProcess, marked: &Marked, words: &[&str]) -> Command {
    let mut command = here(&agent.state(), &["run"]);
    command.arg("--file").arg(&marked.runbook).args(words);
    command
}

fn begin(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Said {
    child.wait_with_output().unwrap().into()
}

fn interrupt(child: &Child) {
    let id = child.id().to_string();
    let _ = Said::of(Command::new("kill").args(["-INT", &id])).exits(0);
}

fn journal(agent: &AgentProcess) -> String {
    Said::of(Command::new(binary("vigie-agent")).args(["journal", "--state"]).arg(agent.state()))
        .exits(0)
        .stdout
}

/// A host that nobody enrolled, without Docker.
fn bare() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let mut settings = fs::File::create(folder.path().join("agent.toml")).unwrap();
    writeln!(settings, "docker_socket = {:?}", folder.path().join("no.sock")).unwrap();
    (folder, state)
}

#[test]
fn a_bare_host_is_diagnosed_and_says_what_it_lacks() {
    let (folder, state) = bare();
    for words in [&["diagnose"][..], &["diagnose", "backend-502"]] {
        let said = Said::of(&mut here(&state, words)).exits(1);
        assert!(said.stderr.contains("no stack is known on this host"), "{said:?}");
        assert!(said.stderr.contains("hint:") && said.stdout.is_empty(), "{said:?}");
    }
    let marked = Marked::new(folder.path());
    let mut diagnose = here(&state, &["diagnose", "-o", "json"]);
    let document = Said::of(diagnose.arg("--file").arg(&marked.runbook)).exits(6).json();
    assert_eq!(document["targets"][0]["findings"][0]["state"], "confirmed", "{document:#}");
    assert_eq!(document["targets"][0]["remedy"], "leave_a_mark", "{document:#}");
    assert!(!state.exists() && marked.marks().is_empty(), "looking makes nothing");

    let said = Said::of(&mut here(&state, &["diagnose", "nonsense"])).exits(2);
    assert!(said.stderr.contains("no runbook \"nonsense\""), "{said:?}");
    let said = Said::of(&mut here(&state, &["run", "high-load"]));
    match is_root() {
        true => {
            let said = said.exits(1);
            assert!(
                said.stderr.contains("no journal") && said.stderr.contains("vigie-agent enroll"),
                "{said:?}"
            );
        }
        false => assert!(said.exits(4).stderr.contains("sudo"), "it is refused"),
    }
    let help = Said::of(Command::new(binary("vigie-agent")).args(["run", "--help"])).exits(0).stdout;
    for word in ["--yes-destroy", "--remedy", "--stack", "--file", "RUNBOOK"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

/// The common case: the controller is dead, and its agent waits for it.
#[test]
fn root_repairs_a_host_whose_controller_is_gone_and_the_controller_hears_of_it() {
    if lacks_root() {
        return;
    }
    let mut fleet = Fleet::new();
    // The policy bounds operators; this host's own root decides for himself.
    let agent = fleet.add_agent("vps1", NOTHING);
    fleet.kill_controller();
    let marked = Marked::new(&fleet.path("vps1"));
    marked.open_gate();

    let said = Said::of(&mut run(&agent, &marked, &[])).exits(4);
    assert!(said.stderr.contains("nothing was done") && said.stderr.contains("--yes"), "{said:?}");
    assert_eq!(marked.marks(), "");

    let said = Said::of(&mut run(&agent, &marked, &["--yes"])).exits(0);
    assert_eq!(marked.marks(), "begin\nend\n");
    assert!(said.stdout.contains("verified: well again"), "{said:?}");
    assert!(said.stderr.contains("exec --program sh"), "the plan is shown: {said:?}");
    let before = journal(&agent);
    assert!(before.contains("exec, ordered here by root on vps1"), "{before}");
    assert!(!before.contains("acknowledged"), "{before}");

    fleet.start_controller();
    fleet.wait_connected("vps1", true);
    wait_until("the controller has it", || journal(&agent).contains("acknowledged"));
}

/// No agent runs: the command works on the journal itself, alone, and the next agent tells the controller.
#[test]
fn root_repairs_a_host_whose_agent_is_gone() {
    if lacks_root() {
        return;
    }
    let fleet = Fleet::new();
    let mut agent = fleet.add_agent("vps1", NOTHING);
    agent.kill();
    fleet.wait_connected("vps1", false);
    let marked = Marked::new(&fleet.path("vps1"));

    let first = begin(run(&agent, &marked, &["--yes"]));
    wait_until("it begins", || marked.has_begun());
    // One writer of the journal at a time: a second command is refused, an agent waits.
    let second = Said::of(&mut run(&agent, &marked, &["--yes"])).exits(1);
    let process = format!("(process {})", first.id());
    for words in ["this host is busy", "vigie-agent run --file", process.as_str()] {
        assert!(second.stderr.contains(words), "{words}: {second:?}");
    }
    agent.start();
    let state = fleet.vigiectl(&["hosts", "show", "vps1", "-o", "json"]).json();
    assert_eq!(state["connected"], false, "{state}");
    marked.open_gate();
    let said = end(first).exits(0);
    assert!(said.stderr.contains("No agent runs on this host"), "{said:?}");
    assert_eq!(marked.marks(), "begin\nend\n");

    fleet.wait_connected("vps1", true);
    wait_until("the controller has it", || journal(&agent).contains("acknowledged"));
}

/// A person types ahead, and then reads what would be done.
#[test]
fn what_was_typed_before_the_question_is_no_answer_to_it() {
    if lacks_root() {
        return;
    }
    let fleet = Fleet::new();
    let agent = fleet.add_agent("vps1", NOTHING);
    let marked = Marked::new(&fleet.path("vps1"));
    marked.open_gate();
    let command = run(&agent, &marked, &[]);
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let words: Vec<_> = words.iter().map(|word| format!("'{}'", word.display())).collect();
    // On a terminal of its own.
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &words.join(" "), "/dev/null"]).env_remove("SUDO_USER").env("NO_COLOR", "1");
    terminal.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = terminal.spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    keys.write_all(b"y\ny\n").unwrap();
    let mut shown = Vec::new();
    let mut byte = [0];
    while screen.read(&mut byte).unwrap() == 1 {
        shown.push(byte[0]);
        if shown.ends_with(b"Proceed? [y/N] ") {
            keys.write_all(b"n\n").unwrap();
        }
    }
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.find("y\r\n") < shown.find("Proceed?"), "it was typed ahead: {shown}");
    assert_eq!(child.wait().unwrap().code(), Some(4), "{shown}");
    assert_eq!(marked.marks(), "", "{shown}");
}

#[test]
fn what_runs_in_the_agent_outlives_the_command() {
    if lacks_root() {
        return;
    }
    let fleet = Fleet::new();
    let agent = fleet.add_agent("vps1", NOTHING);
    let marked = Marked::new(&fleet.path("vps1"));
    let command = begin(run(&agent, &marked, &["--yes"]));
    wait_until("it begins", || marked.has_begun());
    let second = Said::of(&mut run(&agent, &marked, &["--yes"])).exits(1);
    let process = format!("(process {})", command.id());
    for words in ["this host is busy", "vigie-agent run --file", process.as_str()] {
        assert!(second.stderr.contains(words), "{words}: {second:?}");
    }
    interrupt(&command);
    let said = end(command).exits(130);
    assert!(said.stderr.contains("is under way in the agent and goes on"), "{said:?}");
    marked.open_gate();
    wait_until("the journal has its end", || journal(&agent).contains("succeeded"));
    assert_eq!(marked.marks(), "begin\nend\n");
}

#[test]
fn what_runs_in_the_command_comes_to_its_end_before_it_goes() {
    if lacks_root() {
        return;
    }
    let fleet = Fleet::new();
    let mut agent = fleet.add_agent("vps1", NOTHING);
    agent.kill();
    let marked = Marked::new(&fleet.path("vps1"));
    let command = begin(run(&agent, &marked, &["--yes"]));
    wait_until("it begins", || marked.has_begun());
    interrupt(&command);
    marked.open_gate();
    let said = end(command).exits(130);
    assert!(said.stderr.contains("Waiting for exec"), "{said:?}");
    assert_eq!(marked.marks(), "begin\nend\n");
    assert!(journal(&agent).contains("succeeded"), "{}", journal(&agent));
}

/// The command is killed in the middle, which nobody can clean up after: the next one to open the journal finds out what
/// became of it, and runs nothing again.
#[test]
fn a_command_that_is_killed_in_the_middle_is_no_second_deed() {
    if lacks_root() {
        return;
    }
    let fleet = Fleet::new();
    let mut agent = fleet.add_agent("vps1", NOTHING);
    agent.kill();
    let marked = Marked::new(&fleet.path("vps1"));
    let mut command = begin(run(&agent, &marked, &["--yes"]));
    wait_until("it begins", || marked.has_begun());
    command.kill().unwrap();
    let _ = command.wait();
    marked.open_gate();
    agent.start();
    fleet.wait_connected("vps1", true);
    wait_until("its end is told", || journal(&agent).contains("acknowledged"));
    assert_eq!(marked.marks().matches("begin").count(), 1, "{}", journal(&agent));
}
