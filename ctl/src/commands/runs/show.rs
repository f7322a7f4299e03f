//! `vigiectl runs show RUN`: the timeline and what came of it, or the report for the post-mortem.

use std::path::Path;

use vigie_runbook::{report::markdown, run::State};

use super::find;
use crate::{
    error::Error,
    exit::Exit,
    invocation::Invocation,
    runs::{follow, record},
    view,
};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    run: &str,
    report: bool,
    record: Option<&Path>,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let view = follow::read(invocation, &client, run).await?;
    if report {
        let state = State::fold(run, &view.events).map_err(|error| Error::Report(error.to_string()))?;
        let text = markdown(&state, &view.events);
        invocation.output.text(&text)?;
        return Ok(Exit::Ok);
    }
    if let Some(path) = record {
        record::write(invocation, &view, path)?;
        return Ok(Exit::Ok);
    }
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::timeline::text(&view, &output.look);
        output.text(&text)?;
    } else {
        output.document(&view::timeline::document(&view), "events")?;
    }
    Ok(Exit::Ok)
}
