//! `vigiectl probe` and `do`: one operation on many hosts.

use vigie_proto::{
    text::escape,
    v1::{Request, RunSpec, RunVerdict, Selector, run_spec::Kind},
};

use crate::{
    cli::operation::{Change, Observation},
    error::Error,
    exit::Exit,
    invocation::Invocation,
    runs::follow,
    view::{self, run::RunView},
};

pub(super) async fn probe(invocation: &mut Invocation, call: Observation) -> Result<Exit, Error> {
    let call = call.0;
    let selector = call.selection.observing()?;
    run(invocation, selector, call.request, call.limit.ms()).await
}

pub(super) async fn change(invocation: &mut Invocation, call: Change) -> Result<Exit, Error> {
    let call = call.0;
    let selector = call.selection.changing()?;
    run(invocation, selector, call.request, call.limit.ms()).await
}

/// Runs one operation and gives out what came of it.
pub(super) async fn run(
    invocation: &mut Invocation,
    selector: Selector,
    request: Request,
    timeout_ms: u32,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let kind = Some(Kind::Operation(request));
    let spec = RunSpec { selector: Some(selector), kind, timeout_ms, ..RunSpec::default() };
    let run = follow::open(invocation, &client, spec).await?;
    show(invocation, &run)?;
    Ok(run.exit())
}

/// Gives out what came of a run of one operation.
pub(super) fn show(invocation: &mut Invocation, run: &RunView) -> Result<(), Error> {
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::outcomes::text(run, &output.look);
        output.text(&text)?;
        if run.verdict() == RunVerdict::Cancelled {
            let reason = run.closed.as_ref().map_or("", |closed| closed.reason.as_str());
            let reason = escape(reason, false).into_owned();
            output.say(format!("{}: {reason}", view::runs::verdict(RunVerdict::Cancelled, &output.talk)));
        }
        return Ok(());
    }
    output.document(&view::outcomes::document(run), "targets")
}
