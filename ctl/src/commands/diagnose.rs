//! `vigiectl diagnose`, `plan` and `run`: one runbook, taken to three depths.

use vigie_proto::v1::{RunMode, RunSpec, RunbookCall, run_spec::Kind};

use crate::{
    cli::{Diagnose, Runbook},
    error::Error,
    exit::Exit,
    invocation::Invocation,
    runs::{consent::Plan, follow, record as recording},
    view::{self, run::RunView},
};

pub(super) async fn diagnose(invocation: &mut Invocation, call: Diagnose) -> Result<Exit, Error> {
    let Diagnose { runbook, parameters, selection, record } = call;
    // No id stands for every runbook.
    let runbook = Runbook { runbook: runbook.unwrap_or_default(), parameters, selection };
    let run = open(invocation, runbook, RunMode::Diagnose, None).await?;
    if let Some(path) = &record {
        recording::write(invocation, &run, path)?;
    }
    Ok(run.exit())
}

pub(super) async fn run(
    invocation: &mut Invocation,
    runbook: Runbook,
    mode: RunMode,
    remedy: Option<String>,
) -> Result<Exit, Error> {
    Ok(open(invocation, runbook, mode, remedy).await?.exit())
}

async fn open(
    invocation: &mut Invocation,
    runbook: Runbook,
    mode: RunMode,
    remedy: Option<String>,
) -> Result<RunView, Error> {
    let selector =
        if mode == RunMode::Run { runbook.selection.changing()? } else { runbook.selection.observing()? };
    let client = invocation.connect().await?;
    let call = RunbookCall {
        id: runbook.runbook,
        mode: mode.into(),
        parameters: runbook.parameters,
        remedy: remedy.unwrap_or_default(),
    };
    let spec = RunSpec { selector: Some(selector), kind: Some(Kind::Runbook(call)), ..RunSpec::default() };
    let run = follow::open(invocation, &client, spec).await?;
    show(invocation, &run, &client.context.settings.operator)?;
    Ok(run)
}

/// Gives out what came of a run of a runbook.
pub(super) fn show(invocation: &mut Invocation, run: &RunView, operator: &str) -> Result<(), Error> {
    let now_ms = invocation.now_ms();
    let output = &mut invocation.output;
    if !output.format.is_text() {
        return output.document(&view::diagnose_json::document(run), "targets");
    }
    let look = output.look.clone();
    // The diagnosis was on this screen when the plan was shown: what follows is what became of it.
    let mut text = if run.signed && output.one_screen {
        view::diagnose::aftermath(run, &look) + "\n" + &view::diagnose::footer(run, &look)
    } else {
        view::timeline::outcome(run, &look)
    };
    if run.mode() == RunMode::Plan
        && let Some(planned) = run.plan.as_ref().filter(|planned| !planned.leaves.is_empty())
    {
        // Nobody signs it, and yet it is shown from the bytes: what cannot be read is not shown as if it could.
        let plan = Plan::examine(run, None, operator, now_ms)?;
        text = view::diagnose::body(run, &look);
        text.push_str(&view::plan::text(run, planned, &plan.manifest, &plan.leaves, &look));
        text.push('\n');
        text.push_str(&view::diagnose::footer(run, &look));
    }
    output.text(&text)?;
    if let Some(closed) = run.closed.as_ref().filter(|closed| !closed.reason.is_empty()) {
        let verdict = view::runs::verdict(closed.verdict(), &output.talk);
        let reason = vigie_proto::text::escape(&closed.reason, false).into_owned();
        output.say(format!("{verdict}: {reason}"));
    }
    Ok(())
}
