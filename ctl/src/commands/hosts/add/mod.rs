//! `vigiectl hosts add root@host`: a host joins over the ssh that people already have.
//!
//! Every step can be repeated: a host that is enrolled keeps its identity and its policy, and gets the newer agent.
//! The token travels on stdin, never in an argument.

mod policy;
mod ssh;
mod steps;

use std::{path::PathBuf, time::Duration};

use tonic::Code;
use vigie_proto::{
    selector::is_host_name,
    text::escape,
    v1::{GetHostRequest, Host},
};

use super::token;
use crate::{
    cli::{HostsAdd, Joining},
    client::Client,
    error::Error,
    exit::Exit,
    invocation::Invocation,
    output::look::duration_ms,
    view,
};
use policy::{Exec, Wanted};
use ssh::Ssh;
use steps::{Binary, Machine};

/// An agent that has started connects within a second; a slow host gets thirty.
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);

pub(in crate::commands) async fn run(invocation: &mut Invocation, add: HostsAdd) -> Result<Exit, Error> {
    let name = host_name(&add)?;
    let wanted = Wanted::of(&add.allow_exec, &add.allow)?;
    let binary = Binary::read(&agent_path(add.agent_binary.clone())?)?;
    let client = invocation.connect().await?;
    let ssh = Ssh::new(&add)?;
    let added = install(invocation, &client, &ssh, &name, add.joining, &binary, wanted).await;
    ssh.close().await;
    let host = added?;
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::status::text(std::slice::from_ref(&host), &output.look);
        output.text(&text)?;
    } else {
        output.value(&crate::output::json::json(&host, "Host"))?;
    }
    Ok(Exit::Ok)
}

/// All steps, each said when it is done.
async fn install(
    invocation: &mut Invocation,
    client: &Client,
    ssh: &Ssh,
    name: &str,
    joining: Joining,
    binary: &Binary,
    wanted: Wanted,
) -> Result<Host, Error> {
    let replace = joining.replace;
    let machine = step(invocation, "looking at the host", steps::look(ssh, binary)).await?;
    done(invocation, &format!("{}: {}", ssh.destination(), machine.system));

    let version = step(invocation, "copying the agent", steps::install_agent(ssh, binary)).await?;
    done(invocation, &format!("{version} is in {}", steps::AGENT));

    step(invocation, "installing the unit", steps::install_unit(ssh)).await?;
    done(invocation, &format!("{} is installed", steps::UNIT));

    let known = is_known(client, name).await?;
    match (machine.enrolled, replace) {
        (true, false) if known => {
            done(invocation, "enrolled before; its identity stays (--replace makes a new one)");
        }
        (true, false) => {
            return Err(Error::Step {
                message: format!(
                    "the agent there is enrolled already, and not as {name} with this controller"
                ),
                hint: "give the name that it has with --name, or say --replace to enrol it here".to_owned(),
            });
        }
        _ => {
            let enrolling = async {
                // Only a name that the controller knows can be replaced there; the agent may have been anybody's.
                let joining = Joining { replace: replace && known, ..joining };
                let (token, _) = token::make(client, name, joining).await?;
                steps::enroll(ssh, &token, machine.enrolled).await
            };
            step(invocation, "enrolling", enrolling).await?;
            done(invocation, &format!("enrolled as {name}"));
        }
    }
    standard_policy(invocation, ssh, &machine, wanted).await?;

    step(invocation, "starting the agent", steps::start(ssh)).await?;
    let begun = invocation.now_ms();
    let host = step(invocation, "waiting for the agent's session", connected(client, ssh, name)).await?;
    let took_ms = invocation.now_ms() - begun;
    done(invocation, &format!("connected after {}", duration_ms(took_ms)));
    Ok(host)
}

/// Whether the controller has a host of this name.
async fn is_known(client: &Client, name: &str) -> Result<bool, Error> {
    match client.hosts().get_host(GetHostRequest { host: name.to_owned() }).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(Error::rpc("asking for the host")(status)),
    }
}

/// Does a step under its name, and says which one it was that failed.
async fn step<T>(
    invocation: &mut Invocation,
    name: &str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    invocation.output.progress(&format!("… {name}"));
    let result = work.await;
    if result.is_err() {
        let mark = invocation.output.talk.red("✗");
        invocation.output.say(format!("{mark} {name}"));
    }
    result
}

fn done(invocation: &mut Invocation, what: &str) {
    let mark = invocation.output.talk.green("✓");
    invocation.output.say(format!("{mark} {}", escape(what, false)));
}

/// Writes the standard policy where there is none, with what the person asks for beside it.
async fn standard_policy(
    invocation: &mut Invocation,
    ssh: &Ssh,
    machine: &Machine,
    wanted: Wanted,
) -> Result<(), Error> {
    if machine.has_policy {
        done(invocation, &format!("{} was there and stays", steps::POLICY));
        return Ok(());
    }
    let Wanted { mut exec, mut operations } = wanted;
    // --yes agrees to the installation, not to these: they have flags of their own.
    if invocation.asks() && !invocation.yes {
        let rare: Vec<_> = policy::rare().map(|operation| operation.name).collect();
        let question = format!(
            "May orders that you sign also do what can lose data or costs ({}) on this host?",
            rare.join(", ")
        );
        if operations.is_empty() && !rare.is_empty() && invocation.agrees(&question, None).await? {
            operations = rare;
        }
        let question = "May orders that you sign run any program on this host (vigiectl exec)?";
        if exec == Exec::Nothing && invocation.agrees(question, None).await? {
            exec = Exec::Anything;
        }
    }
    let wanted = Wanted { exec, operations };
    step(invocation, "writing the standard policy", steps::write_policy(ssh, &wanted)).await?;
    done(invocation, &format!("standard policy in {}: {}", steps::POLICY, wanted.words()));
    Ok(())
}

/// Waits until the controller has the host's session.
async fn connected(client: &Client, ssh: &Ssh, name: &str) -> Result<Host, Error> {
    let deadline = tokio::time::Instant::now() + CONNECTS_WITHIN;
    let mut pause = Duration::from_millis(100);
    loop {
        let answer = client.hosts().get_host(GetHostRequest { host: name.to_owned() }).await;
        let host = answer.map_err(Error::rpc("asking for the host"))?.into_inner();
        if host.connected && host.state.is_some() {
            return Ok(host);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Step {
                message: format!("the agent did not connect within {} s", CONNECTS_WITHIN.as_secs()),
                hint: steps::why_silent(ssh).await,
            });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// The name that was given, or the destination's own.
fn host_name(add: &HostsAdd) -> Result<String, Error> {
    let host = add.destination.rsplit_once('@').map_or(add.destination.as_str(), |(_, host)| host);
    let is_ip = host.parse::<std::net::IpAddr>().is_ok();
    let own = if is_ip { host } else { host.split('.').next().unwrap_or(host) };
    let name = add.name.clone().unwrap_or_else(|| own.to_ascii_lowercase());
    if is_host_name(&name) {
        return Ok(name);
    }
    Err(Error::usage(
        format!("{name:?} cannot be a host's name"),
        "give it one with --name: lower-case letters, digits, `.`, `-` and `_`",
    ))
}

/// The agent to install: named, or beside this program.
fn agent_path(named: Option<PathBuf>) -> Result<PathBuf, Error> {
    let beside = || std::env::current_exe().ok().map(|ctl| ctl.with_file_name("vigie-agent"));
    named.or_else(beside).filter(|path| path.is_file()).ok_or_else(|| {
        Error::usage(
            "there is no vigie-agent beside vigiectl to install",
            "say where it is with --agent-binary PATH (a Linux binary for the host's processor)",
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, Hosts};

    fn add(line: &str) -> HostsAdd {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Hosts(Hosts::Add(add)) => *add,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_host_is_named_after_its_destination() {
        let name = |line: &str| host_name(&add(line)).unwrap();
        assert_eq!(name("vigiectl hosts add root@VPS1.example.com"), "vps1");
        assert_eq!(name("vigiectl hosts add root@192.0.2.7"), "192.0.2.7");
        assert_eq!(name("vigiectl hosts add vps2 --name web-2"), "web-2");
        assert!(host_name(&add("vigiectl hosts add root@2001:db8::1")).is_err());
    }
}
