//! `vigiectl runs resolve RUN`: a person looked where an order was left in doubt.

use vigie_proto::v1::{ResolveRunRequest, RunPhase};

use super::find;
use crate::{error::Error, exit::Exit, invocation::Invocation, output::json, view};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    found: ResolveRunRequest,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, &found.run).await?;
    let request = ResolveRunRequest { run: run.to_string(), ..found };
    let answer = client.runs().resolve_run(request).await;
    let summary = answer.map_err(Error::rpc(format!("run {run} did not take it")))?.into_inner();
    let output = &mut invocation.output;
    if !output.format.is_text() {
        output.value(&json::json(&summary, "RunSummary"))?;
    } else if summary.phase() == RunPhase::Closed {
        let verdict = view::runs::verdict(summary.verdict(), &output.talk);
        output.say(format!("run {run} is written up anew: {verdict}"));
    } else {
        output.say(format!("run {run} goes on: {}", view::runs::phase_word(summary.phase())));
    }
    Ok(Exit::Ok)
}
