//! `--record`: what a run saw, written as a case for `vigiectl runbooks test`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use vigie_proto::v1::{Parameter, ProbePurpose, run_event::Event, run_spec::Kind};
use vigie_runbook::{
    Evidence, Subject,
    case::{Recording, record},
};

use crate::{error::Error, invocation::Invocation, view::run::RunView};

/// Writes a case for each target of a runbook's run: into `path` where it is one target, as `HOST-STACK.yaml` in it
/// where it is a folder.
pub(crate) fn write(invocation: &mut Invocation, view: &RunView, path: &Path) -> Result<(), Error> {
    let Some(runbook) = &view.runbook else {
        return Err(Error::usage(
            "only a runbook's run can be recorded",
            "`vigiectl diagnose RUNBOOK … --record FILE`",
        ));
    };
    let folder = path.is_dir();
    if view.targets().count() != 1 && !folder {
        let message = format!("the run has {} targets, and a case is about one", view.targets().count());
        return Err(Error::usage(message, "name one host, or a folder that is there for `--record`"));
    }
    let parameters = parameters(view);
    let bound = runbook.bind(parameters).map_err(|errors| {
        Error::usage(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), "")
    })?;
    for index in view.targets() {
        let Some(target) = view.target(index) else { continue };
        let evidence = evidence(view, index, ProbePurpose::Diagnosis);
        let verification = evidence_of_verification(view, index);
        let remedy = view.conclusions.get(&index).map_or("", |conclusion| &conclusion.remedy);
        let recording = Recording {
            title: &view.opened.title,
            subject: Subject {
                host: &target.host_name,
                stack: &target.stack,
                now_ms: concluded_at(view, index),
            },
            parameters,
            evidence: &evidence,
            verification: Some((remedy, &verification)).filter(|(_, seen)| !seen.is_empty()),
        };
        let file = if folder { path.join(name(&target.host_name, &target.stack)) } else { path.to_owned() };
        let written = fs::write(&file, record(&bound, &recording));
        written.map_err(|source| Error::Write { path: file.clone(), source })?;
        invocation.output.say(format!("recorded in {}: read it before you keep it", file.display()));
    }
    Ok(())
}

fn name(host: &str, stack: &str) -> PathBuf {
    let parts: Vec<_> = [host, stack].into_iter().filter(|part| !part.is_empty()).collect();
    PathBuf::from(format!("{}.yaml", parts.join("-").replace('/', "_")))
}

fn parameters(view: &RunView) -> &[Parameter] {
    match view.opened.spec.as_ref().and_then(|spec| spec.kind.as_ref()) {
        Some(Kind::Runbook(call)) => &call.parameters,
        _ => &[],
    }
}

fn evidence(view: &RunView, target: u32, purpose: ProbePurpose) -> Evidence {
    let seen = view.observations.iter().filter(|seen| seen.target == target && seen.purpose() == purpose);
    seen.filter_map(|seen| Some((seen.probe.clone(), seen.outcome.clone()?))).collect()
}

/// The last round's answers.
fn evidence_of_verification(view: &RunView, target: u32) -> Evidence {
    let of_target = || {
        let seen = view.observations.iter().filter(|seen| seen.target == target);
        seen.filter(|seen| seen.purpose() == ProbePurpose::Verification)
    };
    let last = of_target().map(|seen| seen.round).max().unwrap_or(0);
    let seen = of_target().filter(|seen| seen.round == last);
    seen.filter_map(|seen| Some((seen.probe.clone(), seen.outcome.clone()?))).collect()
}

/// When the rules judged the target: they know no other time.
fn concluded_at(view: &RunView, target: u32) -> i64 {
    let judged = view.events.iter().find(|event| match &event.event {
        Some(Event::Concluded(concluded)) => concluded.conclusions.iter().any(|c| c.target == target),
        _ => false,
    });
    judged.map_or(view.opened_at_ms, |event| event.at_ms)
}
