//! What this host's own root lets an order do, whoever signed it: `/etc/vigie/policy.toml`.
//!
//! Owns the decision and its words. Whatever needs an order is denied unless the policy names it, and a policy that is
//! missing, does not parse or that others could have written denies every change. It says nothing of who may sign:
//! that is the trust list's.

mod file;
mod parse;
pub mod standard;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Component, Path, PathBuf},
};

use vigie_proto::{
    operation::{Narrowing, OPERATIONS, Operation},
    v1::{Failure, PolicySummary, request},
};

pub use file::{PolicyFile, check};

/// The key of a policy's block that narrows an operation, and what it holds.
fn key(narrowing: Narrowing) -> &'static str {
    match narrowing {
        Narrowing::Stacks => "stacks",
        Narrowing::Units => "units",
        Narrowing::Programs => "programs",
        Narrowing::Ports => "ports",
        Narrowing::Host | Narrowing::Unspecified => "any",
    }
}

/// What one operation is allowed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Allowance {
    /// Stacks, units, programs or ports, by what narrows the operation.
    named: BTreeSet<String>,
    /// Whatever there is; for programs, and for what is about the whole host.
    any: bool,
}

/// What a sound policy file says.
#[derive(Debug, Clone, Default)]
struct Rules {
    /// By operation, in the catalogue's order.
    allow: Vec<(&'static Operation, Allowance)>,
    folders: Vec<PathBuf>,
    urls: BTreeSet<String>,
    /// Public names of other hosts that this one may be asked to look at.
    peers: BTreeSet<String>,
    /// Containers that belong to no stack and may be looked at and read.
    containers: BTreeSet<String>,
}

/// The policy as its file stood when it was read.
#[derive(Debug, Clone)]
pub struct Policy {
    file: PathBuf,
    /// The reason and its remedy when the file is not sound.
    rules: Result<Rules, Unsound>,
}

/// Why a policy file denies everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    /// Names the file and, where there is one, the line.
    pub reason: String,
    pub remedy: String,
}

impl Policy {
    /// What is wrong with the file, when something is.
    pub fn unsound(&self) -> Option<&Unsound> {
        self.rules.as_ref().err()
    }

    /// Whether an order may run this here. `stack` is the stack that the request means, where it means one: a request
    /// may leave it out.
    ///
    /// # Errors
    /// `policy_invalid` or `policy_denied`, with what the host's root can do about it.
    pub fn permits(&self, operation: &request::Operation, stack: Option<&str>) -> Result<(), Failure> {
        let rules = self.sound()?;
        let name = operation.name();
        let Some(narrowing) = Operation::find(name).and_then(|known| known.narrowed_by) else {
            let message = format!("{name} needs no order, and a policy has no way to allow it");
            return Err(Failure::new("policy_denied", message));
        };
        let subject = subject(operation, stack);
        let allowance =
            rules.allow.iter().find(|(allowed, _)| allowed.name == name).map(|(_, allowance)| allowance);
        let allowed = match (narrowing, &subject, allowance) {
            (Narrowing::Host, _, Some(allowance)) => allowance.any,
            (_, Some(subject), Some(allowance)) => allowance.any || allowance.named.contains(subject),
            _ => false,
        };
        if allowed { Ok(()) } else { Err(self.denied(name, narrowing, subject.as_deref())) }
    }

    fn denied(&self, operation: &str, narrowing: Narrowing, subject: Option<&str>) -> Failure {
        let file = self.file.display();
        let key = key(narrowing);
        let add = |line: String| {
            format!(
                "if it should, add as the host's root to {file}:\n[[allow]]\noperation = \"{operation}\"\n{line}"
            )
        };
        let denied = |message: String| Failure::new("policy_denied", message);
        match (narrowing, subject) {
            (Narrowing::Host | Narrowing::Unspecified, _) => {
                denied(format!("this host's policy ({file}) does not let an order run {operation}"))
                    .hint(add("any = true".to_owned()))
            }
            (_, Some(subject)) => {
                denied(format!("this host's policy ({file}) does not let an order run {operation} on {subject}"))
                    .hint(add(format!("{key} = [{}]", toml::Value::from(subject))))
            }
            (Narrowing::Programs, None) => denied(
                "the host has no such program: it is neither in the agent's path nor a file by an absolute path"
                    .to_owned(),
            )
            .hint("name a program that is on the host, best by its absolute path"),
            (_, None) => {
                denied(format!("the order does not say on which of the host's {key} to run {operation}"))
                    .hint("name it in the request")
            }
        }
    }

    /// Whether a probe may read this file. Only the path's text is looked at: whoever opens the file has to ask for the
    /// path that is left once every link in it is followed.
    ///
    /// # Errors
    /// `policy_invalid` or `policy_denied`, with what the host's root can do about it.
    pub fn may_tail(&self, path: &Path) -> Result<(), Failure> {
        let plain = path.is_absolute()
            && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let within = |folder: &PathBuf| {
            path.starts_with(folder) || folder.canonicalize().is_ok_and(|folder| path.starts_with(folder))
        };
        if plain && self.sound()?.folders.iter().any(within) {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(path);
        Err(self.unread(&path.display(), "folders", &folder.to_string_lossy()))
    }

    /// Whether a probe may ask this URL, which is compared as text.
    ///
    /// # Errors
    /// `policy_invalid` or `policy_denied`, with what the host's root can do about it.
    pub fn may_fetch(&self, url: &str) -> Result<(), Failure> {
        if self.sound()?.urls.contains(url) { Ok(()) } else { Err(self.unread(&url, "urls", url)) }
    }

    /// Whether a probe may look at this public name of another host.
    ///
    /// # Errors
    /// `policy_invalid` or `path_forbidden`, with what the host's root can do about it.
    pub fn may_ask_peer(&self, name: &str) -> Result<(), Failure> {
        if self.sound()?.peers.contains(name) { Ok(()) } else { Err(self.unread(&name, "peers", name)) }
    }

    /// Whether a probe may look at a container that belongs to no stack, by its name.
    ///
    /// # Errors
    /// `policy_invalid` or `policy_denied`, with what the host's root can do about it.
    pub fn may_look_into(&self, container: &str) -> Result<(), Failure> {
        if self.sound()?.containers.contains(container) {
            return Ok(());
        }
        let what = format!("container {container}, which belongs to no stack of this host");
        Err(self.unread(&what, "containers", container))
    }

    fn unread(&self, what: &dyn fmt::Display, key: &str, value: &str) -> Failure {
        let file = self.file.display();
        let message = format!("this host's policy ({file}) does not let a probe read {what}");
        Failure::new("policy_denied", message).hint(format!(
            "if it should, the host's root adds {} to the list `{key}` under [read] in {file}{}",
            toml::Value::from(value),
            if key == "folders" { "; probes can then read whatever is below it" } else { "" },
        ))
    }

    fn sound(&self) -> Result<&Rules, Failure> {
        self.rules
            .as_ref()
            .map_err(|unsound| Failure::new("policy_invalid", &unsound.reason).hint(&unsound.remedy))
    }

    /// For the fleet's state.
    pub fn summary(&self) -> PolicySummary {
        match &self.rules {
            Err(unsound) => PolicySummary { error: unsound.reason.clone(), allows: Vec::new() },
            Ok(rules) => PolicySummary {
                error: String::new(),
                allows: rules.allow.iter().map(|(operation, allowance)| allowance.words(operation)).collect(),
            },
        }
    }

    /// The folders, URLs and containers that probes may read beside what the stacks name.
    pub fn reads(&self) -> Vec<String> {
        let Ok(rules) = &self.rules else { return Vec::new() };
        rules
            .folders
            .iter()
            .map(|folder| folder.display().to_string())
            .chain(rules.urls.iter().cloned())
            .chain(rules.containers.iter().map(|name| format!("container {name}")))
            .collect()
    }
}

impl fmt::Display for Policy {
    /// One line for each thing that is allowed, or what is wrong.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let summary = self.summary();
        if !summary.error.is_empty() {
            return f.write_str(&summary.error);
        }
        let allowed = summary.allows.iter().map(|allowed| format!("orders may run {allowed}"));
        let read = self.reads().into_iter().map(|read| format!("probes may read {read}"));
        let lines: Vec<_> = allowed.chain(read).collect();
        f.write_str(if lines.is_empty() { "no order may change anything here" } else { "" })?;
        f.write_str(&lines.join("\n"))
    }
}

impl Allowance {
    /// `compose_restart (stacks sylion)`.
    fn words(&self, operation: &Operation) -> String {
        let key = operation.narrowed_by.map_or("", key);
        if operation.narrowed_by == Some(Narrowing::Host) {
            return operation.name.to_owned();
        }
        if self.any {
            return format!("{} (any of the {key})", operation.name);
        }
        let named: Vec<_> = self.named.iter().map(String::as_str).collect();
        format!("{} ({key} {})", operation.name, named.join(", "))
    }
}

/// What an operation is about, in the words of what narrows it; `None` when it does not say.
fn subject(operation: &request::Operation, stack: Option<&str>) -> Option<String> {
    match operation {
        request::Operation::UnitRestart(request) => Some(request.unit.clone()),
        request::Operation::UnitReload(request) => Some(request.unit.clone()),
        request::Operation::Exec(request) => {
            let program = super::child::resolve(&request.program).ok()?;
            Some(plain_program(&program)?.to_str()?.to_owned())
        }
        request::Operation::FirewallAllow(request) => Some(format!("{}/{}", request.port, request.protocol)),
        request::Operation::FirewallDeny(request) => Some(format!("{}/{}", request.port, request.protocol)),
        // Whatever is narrowed by stacks.
        _ => stack.map(str::to_owned),
    }
}

/// A program's path without links in its folders: `/bin/uptime` and `/usr/bin/uptime` are one program where `/bin` is a
/// link. The last part is kept as it is: one binary can be many programs by its name (busybox), and to allow one of
/// them is not to allow the others.
fn plain_program(path: &Path) -> Option<PathBuf> {
    Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
}

/// The operations that a policy can name.
fn nameable() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().filter(|operation| operation.needs_order())
}

#[cfg(test)]
mod tests;
