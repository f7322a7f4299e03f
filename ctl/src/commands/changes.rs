//! `vigiectl changes`: what changed on every host, as one list.

use vigie_proto::v1::{HostChangesRequest, Request, RunSpec, request::Operation, run_spec::Kind};

use crate::{cli::Changes, error::Error, exit::Exit, invocation::Invocation, runs::follow, view};

pub(super) async fn run(invocation: &mut Invocation, asked: Changes) -> Result<Exit, Error> {
    let selector = asked.selection.observing()?;
    let client = invocation.connect().await?;
    let request = HostChangesRequest {
        stack: asked.selection.stack.unwrap_or_default(),
        since_s: u32::try_from(asked.since.as_secs()).unwrap_or(u32::MAX).max(1),
        count: asked.limit,
    };
    let kind = Kind::Operation(Request { operation: Some(Operation::HostChanges(request)) });
    let spec = RunSpec { selector: Some(selector), kind: Some(kind), ..RunSpec::default() };
    let run = follow::open(invocation, &client, spec).await?;
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::changes::text(&run, &output.look);
        output.text(&text)?;
    } else {
        output.document(&view::changes::document(&run), "changes")?;
    }
    Ok(run.exit())
}
