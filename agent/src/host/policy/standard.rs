//! The standard policy: what a host's owner most probably wants, pinned to what is there.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

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
}

/// The unit and the folder that come with nginx.
const NGINX_UNIT: &str = "nginx.service";
const NGINX_LOGS: &str = "/var/log/nginx";

impl Found {
    /// Adds what the host itself tells to the stacks.
    pub fn on_this_host(stacks: Vec<String>) -> Self {
        let nginx = super::super::child::resolve("nginx").is_ok() || Path::new(NGINX_LOGS).is_dir();
        Self { stacks, nginx }
    }
}

/// The policy's text.
pub fn text(found: &Found, exec: &Exec) -> String {
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
    if !found.stacks.is_empty() {
        for operation in ["compose_restart", "compose_up"] {
            allow(operation, format!("stacks = [{}]", strings(&found.stacks)));
        }
    }
    if found.nginx {
        allow("unit_restart", format!("units = [\"{NGINX_UNIT}\"]"));
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
