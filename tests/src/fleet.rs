//! A controller, an operator and agents on loopback.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::program::{Said, binary, free_ports, wait_until};

/// A controller with one operator, `ada`, who is logged in.
pub struct Fleet {
    folder: TempDir,
    /// Operators, agents, enrolment.
    pub ports: [u16; 3],
    controller: Option<Child>,
}

/// An enrolled agent that runs.
pub struct AgentProcess {
    pub name: String,
    folder: PathBuf,
    process: Option<Child>,
}

impl Fleet {
    /// Sets a controller up, starts it and logs an operator in.
    ///
    /// # Panics
    /// When any of it fails.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let ports = free_ports();
        let mut fleet = Self { folder, ports, controller: None };
        let [operators, agents, enrolment] = ports.map(|port| port.to_string());
        let token = Said::of(
            Command::new(binary("vigie-controller"))
                .args(["init", "--address", "127.0.0.1", "--bind", "127.0.0.1", "--state"])
                .arg(fleet.path("controller"))
                .args([
                    "--operators-port",
                    &operators,
                    "--agents-port",
                    &agents,
                    "--enrolment-port",
                    &enrolment,
                ]),
        )
        .exits(0);
        fleet.start_controller();
        let file = fleet.path("login-token");
        write(&file, &token.stdout);
        let login = fleet.ctl().args(["login", "--name", "ada", "--token-file"]).arg(&file).output();
        match login {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => panic!("vigiectl: {error}"),
        }
        fleet
    }

    /// A place in the fleet's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the controller and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_controller(&mut self) {
        self.start_controller_that(None);
    }

    /// Starts a controller that dies when it first comes to a place (see `vigie-failpoint`), and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_controller_dying_at(&mut self, point: &str) {
        self.start_controller_that(Some(point));
    }

    /// Waits until the controller has died by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn await_controllers_death(&mut self) {
        await_death(&mut self.controller);
    }

    fn start_controller_that(&mut self, dies_at: Option<&str>) {
        let controller = Command::new(binary("vigie-controller"))
            .args(["serve", "--state"])
            .arg(self.path("controller"))
            .envs(dies_at.map(|point| ("VIGIE_DIE_AT", point)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&self.path("controller.log")))
            .spawn();
        self.controller = Some(controller.unwrap_or_else(|error| panic!("vigie-controller: {error}")));
        for port in self.ports {
            wait_until("the controller listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        }
    }

    /// Ends the controller without warning.
    pub fn kill_controller(&mut self) {
        kill(&mut self.controller);
    }

    /// Ends the controller as systemd would, and waits until it has kept what it knows.
    ///
    /// # Panics
    /// When there is none, or it does not end.
    pub fn stop_controller(&mut self) {
        let Some(mut controller) = self.controller.take() else { panic!("no controller runs") };
        let asked = Command::new("kill").args(["-TERM", &controller.id().to_string()]).status();
        assert!(asked.is_ok_and(|status| status.success()), "the controller cannot be asked to stop");
        let ended = controller.wait();
        assert!(ended.is_ok_and(|status| status.success()), "the controller did not stop as it should");
    }

    /// `vigiectl` as ada.
    pub fn ctl(&self) -> Command {
        let mut ctl = Command::new(binary("vigiectl"));
        ctl.env("VIGIE_HOME", self.path("operator")).env("NO_COLOR", "1").stdin(Stdio::null());
        ctl
    }

    /// Runs `vigiectl` with these words.
    pub fn vigiectl(&self, words: &[&str]) -> Said {
        Said::of(self.ctl().args(words))
    }

    /// Enrols a host of this name with this policy, starts its agent and waits for its session.
    ///
    /// # Panics
    /// When any of it fails.
    pub fn add_agent(&self, name: &str, policy: &str) -> AgentProcess {
        self.add_agent_with(name, policy, "")
    }

    /// The same, with more in its settings.
    ///
    /// # Panics
    /// As there.
    pub fn add_agent_with(&self, name: &str, policy: &str, settings: &str) -> AgentProcess {
        let folder = self.path(name);
        let made = fs::create_dir(&folder)
            .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)));
        made.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let token = self.vigiectl(&["hosts", "token", name]).exits(0);
        write(&folder.join("token"), &token.stdout);
        write(&folder.join("policy.toml"), policy);
        write(&folder.join("agent.toml"), &format!("policy = {:?}\n{settings}", folder.join("policy.toml")));
        let enroll = Command::new(binary("vigie-agent"))
            .args(["enroll", "--token-file"])
            .arg(folder.join("token"))
            .arg("--state")
            .arg(folder.join("state"))
            .output();
        let _ = Said::from(enroll.unwrap_or_else(|error| panic!("vigie-agent: {error}"))).exits(0);
        let mut agent = AgentProcess { name: name.to_owned(), folder, process: None };
        agent.start();
        self.wait_connected(name, true);
        agent
    }

    /// Waits until a host has a session, or has none.
    pub fn wait_connected(&self, name: &str, connected: bool) {
        wait_until(&format!("{name} connected: {connected}"), || {
            let host = self.vigiectl(&["hosts", "show", name, "-o", "json"]);
            host.code == 0 && host.json()["connected"] == serde_json::Value::Bool(connected)
        });
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        kill(&mut self.controller);
        if std::thread::panicking() {
            let logs =
                fs::read_dir(self.folder.path()).into_iter().flatten().flatten().map(|entry| entry.path());
            let logs = logs
                .flat_map(|path| [path.join("agent.log"), path])
                .filter(|path| path.ends_with("agent.log") || path.ends_with("controller.log"));
            for log in logs {
                let Ok(text) = fs::read_to_string(&log) else { continue };
                let lines: Vec<_> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(30)..].join("\n");
                // Shown by the test runner beside the failure; a broken stream has nobody to show it to.
                let _ = writeln!(io::stderr(), "--- {}\n{last}", log.display());
            }
        }
    }
}

impl AgentProcess {
    /// Starts the agent.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&mut self) {
        self.start_that(None);
    }

    /// Starts an agent that dies when it first comes to a place (see `vigie-failpoint`).
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_dying_at(&mut self, point: &str) {
        self.start_that(Some(point));
    }

    /// Waits until the agent has died by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn await_death(&mut self) {
        await_death(&mut self.process);
    }

    fn start_that(&mut self, dies_at: Option<&str>) {
        let agent = Command::new(binary("vigie-agent"))
            .args(["serve", "--state"])
            .arg(self.folder.join("state"))
            .envs(dies_at.map(|point| ("VIGIE_DIE_AT", point)))
            .arg("--config")
            .arg(self.folder.join("agent.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log(&self.folder.join("agent.log")))
            .spawn();
        self.process = Some(agent.unwrap_or_else(|error| panic!("vigie-agent: {error}")));
    }

    /// Ends the agent without warning.
    pub fn kill(&mut self) {
        kill(&mut self.process);
    }

    /// Ends what keeps the programs of orders, and those programs: as a machine does that goes down.
    ///
    /// # Panics
    /// When there is none.
    pub fn kill_keepers(&self) {
        let children = self.state().join("children");
        let folders =
            |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let locks = folders(&children)
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|order| folders(&order).map(|program| program.join("lock")).collect::<Vec<_>>());
        let keepers: Vec<String> = locks.filter_map(|lock| fs::read_to_string(lock).ok()).collect();
        assert!(!keepers.is_empty(), "nothing is kept in {}", children.display());
        for keeper in keepers {
            let tasks =
                fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
            // The keeper first, so that it sees nothing; then each program's group.
            for victim in
                std::iter::once(keeper).chain(tasks.split_whitespace().map(|task| format!("-{task}")))
            {
                let killed = Command::new("kill").args(["-KILL", "--", &victim]).status();
                assert!(killed.is_ok_and(|status| status.success()), "{victim} was not killed");
            }
        }
    }

    /// Stops the agent where it is, as a machine that hangs does: its connections stay.
    pub fn freeze(&self) {
        self.process.iter().for_each(|process| signal(process.id(), "STOP"));
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.iter().for_each(|process| signal(process.id(), "CONT"));
    }

    /// The agent's state folder.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(process: u32, name: &str) {
    let _ = Said::of(Command::new("kill").args(["-s", name, &process.to_string()])).exits(0);
}

fn kill(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        // One that has ended already is as dead as it has to be.
        let _ = process.kill();
        let _ = process.wait();
    }
}

fn await_death(process: &mut Option<Child>) {
    wait_until("a program dies where it was to", || {
        process.as_mut().is_none_or(|process| matches!(process.try_wait(), Ok(Some(_))))
    });
    *process = None;
}

fn write(path: &Path, text: &str) {
    let written =
        fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o600)));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn log(path: &Path) -> Stdio {
    match File::options().create(true).append(true).open(path) {
        Ok(file) => file.into(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}
