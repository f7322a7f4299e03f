//! The standard policy: what a host's owner most probably wants, pinned to what is there.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use vigie_proto::operation::{Narrowing, Operation};

use super::nameable;

/// What orders may run beside the actions on stacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Exec {
    #[default]
    Nothing,
    Programs(Vec<PathBuf>),
    Anything,
}

/// What the standard policy is pinned to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub stacks: Vec<String>,
    /// Whether nginx is a unit of this host.
    pub nginx: bool,
    /// Whether Docker's engine is.
    pub docker: bool,
}

/// What the world reaches a web server by.
const WEB_PORTS: &str = "\"80/tcp\", \"443/tcp\"";
/// The unit and the folder that come with nginx.
const NGINX_UNIT: &str = "nginx.service";
const DOCKER_UNIT: &str = "docker.service";
const NGINX_LOGS: &str = "/var/log/nginx";

impl Found {
    /// Adds what the host itself tells to the stacks.
    pub fn on_this_host(stacks: Vec<String>) -> Self {
        let nginx = super::super::child::resolve("nginx").is_ok() || Path::new(NGINX_LOGS).is_dir();
        let docker = super::super::child::resolve("dockerd").is_ok();
        Self { stacks, nginx, docker }
    }
}

/// The policy's text: every operation that is allowed unasked, and those that the host's owner asked for.
pub fn text(found: &Found, exec: &Exec, asked: &[&'static Operation]) -> String {
    let mut text = String::from(
        "# What operators' orders may do on this host. Whatever is not named here is refused, whoever signed.\n\
         # `vigie-agent policy check` tells whether the file is sound; the agent reads it again when it changes.\n\
         version = 1\n",
    );
    let strings = |values: &[String]| {
        values.iter().map(|v| toml::Value::from(v.as_str()).to_string()).collect::<Vec<_>>().join(", ")
    };
    let mut allow = |operation: &str, narrowed: String| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n[[allow]]\noperation = \"{operation}\"\n{narrowed}\n");
    };
    let wanted = |operation: &&Operation| {
        !operation.asked_for || asked.iter().any(|asked| asked.name == operation.name)
    };
    for operation in nameable().filter(wanted) {
        match operation.narrowed_by {
            Some(Narrowing::Stacks) if !found.stacks.is_empty() => {
                allow(operation.name, format!("stacks = [{}]", strings(&found.stacks)));
            }
            Some(Narrowing::Units) if found.nginx || found.docker => {
                let units = [(found.nginx, NGINX_UNIT), (found.docker, DOCKER_UNIT)];
                let units: Vec<_> =
                    units.iter().filter(|(there, _)| *there).map(|(_, unit)| (*unit).to_owned()).collect();
                allow(operation.name, format!("units = [{}]", strings(&units)));
            }
            Some(Narrowing::Ports) => allow(operation.name, format!("ports = [{WEB_PORTS}]")),
            Some(Narrowing::Host) => allow(operation.name, "any = true".to_owned()),
            // Programs are `exec`'s, below; the others have nothing here that they could be allowed on.
            _ => {}
        }
    }
    match exec {
        Exec::Nothing => {}
        Exec::Programs(programs) => {
            let programs: Vec<_> = programs.iter().map(|program| program.display().to_string()).collect();
            allow("exec", format!("programs = [{}]", strings(&programs)));
        }
        Exec::Anything => allow("exec", "any = true".to_owned()),
    }
    if found.nginx {
        let _ = write!(
            text,
            "\n# What probes may read beside what the stacks name.\n[read]\nfolders = [\"{NGINX_LOGS}\"]\n"
        );
    }
    text
}
