//! What a command asks for, as the first event of a run.

use std::{fs, path::PathBuf};

use vigie_proto::v1::{Opened, Parameter, RunMode, RunSpec, RunbookCall, Selector, Target, run_spec::Kind};
use vigie_runbook::{Runbook, Scope, run};

use super::error::LocalError;
use crate::{config::LocalArgs, host::door::wire::Welcome};

/// What a person typed.
#[derive(Debug)]
pub(super) struct Call {
    /// None stands for every runbook.
    runbook: Option<String>,
    file: Option<PathBuf>,
    remedy: String,
    parameters: Vec<Parameter>,
    stack: String,
    pub(super) mode: RunMode,
}

impl Call {
    pub(super) fn new(
        runbook: Option<String>,
        remedy: Option<String>,
        mode: RunMode,
        args: &LocalArgs,
    ) -> Self {
        Self {
            runbook,
            file: args.file.clone(),
            remedy: remedy.unwrap_or_default(),
            parameters: args.parameters.clone(),
            stack: args.stack.clone().unwrap_or_default(),
            mode,
        }
    }

    /// The runbooks that it means: the one that is named, or every one that this program carries.
    ///
    /// # Errors
    /// When it does not read, or there is none.
    pub(super) fn runbooks(&self) -> Result<Vec<Runbook>, LocalError> {
        if let Some(path) = &self.file {
            let text = fs::read_to_string(path);
            let text = text.map_err(|source| LocalError::File { path: path.clone(), source })?;
            let read = Runbook::parse(&text, &path.display().to_string());
            return Ok(vec![read.map_err(|found| LocalError::Runbook(found.to_string()))?]);
        }
        if self.runbook.is_none() && self.mode == RunMode::Run {
            return Err(LocalError::NoRunbook);
        }
        let wanted = |id: &str| self.runbook.as_deref().is_none_or(|wanted| wanted == id);
        let texts = vigie_runbook::shipped().iter().filter(|(id, _)| wanted(id));
        let read = texts
            .map(|(id, text)| Runbook::parse(text, id))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|found| LocalError::Runbook(found.to_string()))?;
        match read.is_empty() {
            true => Err(LocalError::UnknownRunbook(self.runbook.clone().unwrap_or_default())),
            false => Ok(read),
        }
    }

    /// What it is called by, where it is to change the host; empty where it only looks.
    pub(super) fn words(&self) -> String {
        let file = self.file.as_ref().map(|path| format!("--file {}", path.display()));
        match (self.mode, file.or_else(|| self.runbook.clone())) {
            (RunMode::Run, Some(runbook)) => format!("run {runbook}"),
            _ => String::new(),
        }
    }

    /// Whether every runbook is meant.
    pub(super) fn is_whole(&self) -> bool {
        self.runbook.is_none() && self.file.is_none()
    }
}

/// Opens the run on this host, or on its stacks.
///
/// # Errors
/// When there is nothing that it could be about, or the call does not fit its runbook.
pub(super) fn open(
    call: &Call,
    runbooks: &[Runbook],
    about: &Welcome,
    person: &str,
) -> Result<Opened, LocalError> {
    let whole = call.is_whole();
    let id = runbooks.first().filter(|_| !whole).map(|runbook| runbook.id.clone()).unwrap_or_default();
    let selector = Selector { hosts: about.name.clone(), stack: call.stack.clone(), ..Selector::default() };
    let asked = RunbookCall {
        id,
        mode: call.mode.into(),
        parameters: call.parameters.clone(),
        remedy: call.remedy.clone(),
    };
    let spec = RunSpec { selector: Some(selector), kind: Some(Kind::Runbook(asked)), ..RunSpec::default() };
    let is_about = |scope| runbooks.iter().any(|runbook| runbook.scope == scope);
    let mut targets = Vec::new();
    // Where a stack is named, the host itself is not meant by every runbook.
    if is_about(Scope::Host) && call.stack.is_empty() {
        targets.push(target(about, ""));
    }
    let stacks = about.stacks.iter().filter(|stack| call.stack.is_empty() || **stack == call.stack);
    if is_about(Scope::Stack) || !call.stack.is_empty() {
        targets.extend(stacks.map(|stack| target(about, stack)));
    }
    if targets.is_empty() {
        return Err(LocalError::NoStack(match call.stack.as_str() {
            "" => no_stacks(&about.docker_error),
            stack => format!("no stack {stack:?} is known on this host; it has {}", names(&about.stacks)),
        }));
    }
    Ok(match whole {
        true => run::open_all(spec, person, targets, &runbooks.iter().collect::<Vec<_>>())?,
        false => run::open(spec, person, targets, runbooks.first())?,
    })
}

/// What is said of a host without stacks.
pub(super) fn no_stacks(docker_error: &str) -> String {
    match docker_error {
        "" => "no stack is known on this host".to_owned(),
        why => format!("no stack is known on this host: {}", vigie_proto::text::escape(why, false)),
    }
}

fn names(stacks: &[String]) -> String {
    if stacks.is_empty() { "none".to_owned() } else { stacks.join(", ") }
}

fn target(about: &Welcome, stack: &str) -> Target {
    Target {
        host: about.host.clone(),
        host_name: about.name.clone(),
        incarnation: about.incarnation,
        stack: stack.to_owned(),
    }
}
