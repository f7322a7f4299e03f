//! Opening a run: a request is checked once, and frozen.

use vigie_proto::{
    descriptors,
    operation::{self, FieldError, Operation},
    v1::{Opened, Request, RunMode, RunSpec, Target, request, run_spec::Kind},
};

use crate::{Runbook, Scope};

/// Why a request cannot become a run.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the request asks for neither an operation nor a runbook")]
    Nothing,
    #[error("{0}")]
    Request(FieldError),
    #[error("there is no runbook {0:?}")]
    UnknownRunbook(String),
    #[error("the runbook call names no mode")]
    Mode,
    #[error("without a runbook, a run can only diagnose")]
    OnlyDiagnose,
    #[error("{0}")]
    Parameters(String),
    #[error("runbook {runbook:?} has no remedy {remedy:?}; it has {known}")]
    UnknownRemedy { runbook: String, remedy: String, known: String },
}

/// What a run is about: hosts, or the stacks on them.
///
/// # Errors
/// When the request asks for nothing that can be done.
pub fn scope(spec: &RunSpec, runbook: Option<&Runbook>) -> Result<Scope, OpenError> {
    match spec.kind.as_ref().ok_or(OpenError::Nothing)? {
        Kind::Operation(request) => {
            operation::check(request).map_err(OpenError::Request)?;
            let open = match descriptors::stack_of(request) {
                // A container can be named without its stack.
                Some(stack) if stack.is_empty() => !names_container(request),
                _ => false,
            };
            Ok(if open { Scope::Stack } else { Scope::Host })
        }
        Kind::Runbook(call) => Ok(runbook.ok_or_else(|| OpenError::UnknownRunbook(call.id.clone()))?.scope),
    }
}

fn names_container(request: &Request) -> bool {
    match &request.operation {
        Some(request::Operation::ContainerInspect(inspect)) => !inspect.container.is_empty(),
        Some(request::Operation::ContainerLogs(logs)) => !logs.container.is_empty(),
        // These are about the whole host unless a stack is named.
        Some(request::Operation::ContainerList(_) | request::Operation::NginxUpstreams(_)) => true,
        Some(request::Operation::HttpCheck(check)) => !check.url.is_empty(),
        _ => false,
    }
}

/// The first event of a run.
///
/// # Errors
/// When the request is not valid: its operation's fields, its runbook, parameters or remedy.
pub fn open(
    spec: RunSpec,
    operator: &str,
    targets: Vec<Target>,
    runbook: Option<&Runbook>,
) -> Result<Opened, OpenError> {
    scope(&spec, runbook)?;
    let title = match spec.kind.as_ref().ok_or(OpenError::Nothing)? {
        Kind::Operation(request) => title(request).map_err(OpenError::Request)?,
        Kind::Runbook(call) => {
            let runbook = runbook.ok_or_else(|| OpenError::UnknownRunbook(call.id.clone()))?;
            let bound = runbook.bind(&call.parameters).map_err(|errors| {
                OpenError::Parameters(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            })?;
            if !call.remedy.is_empty() && bound.remedy(&call.remedy).is_none() {
                return Err(OpenError::UnknownRemedy {
                    runbook: call.id.clone(),
                    remedy: call.remedy.clone(),
                    known: runbook
                        .remedies
                        .iter()
                        .map(|remedy| remedy.id.as_str())
                        .collect::<Vec<_>>()
                        .join(", "),
                });
            }
            let verb = match call.mode() {
                RunMode::Diagnose => "diagnose",
                RunMode::Plan => "plan",
                RunMode::Run => "run",
                RunMode::Unspecified => return Err(OpenError::Mode),
            };
            format!("{verb} {}", call.id)
        }
    };
    Ok(Opened {
        spec: Some(spec),
        operator: operator.to_owned(),
        targets,
        runbook_text: runbook.map(|runbook| runbook.text.clone()).unwrap_or_default(),
        runbook_digest: runbook.map(|runbook| runbook.digest.to_vec()).unwrap_or_default(),
        title,
        ..Opened::default()
    })
}

fn title(request: &Request) -> Result<String, FieldError> {
    let name = Operation::of(request)?.name;
    Ok(match &request.operation {
        Some(request::Operation::Exec(exec)) => format!("exec {}", exec.program),
        _ => name.to_owned(),
    })
}
