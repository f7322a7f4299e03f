//! `vigiectl runs cancel RUN`.

use vigie_proto::v1::{CancelRunRequest, RunPhase};

use super::find;
use crate::{error::Error, exit::Exit, invocation::Invocation, output::json, view};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    run: &str,
    reason: String,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let request = CancelRunRequest { run: run.to_string(), reason };
    let answer = client.runs().cancel_run(request).await;
    let summary = answer.map_err(Error::rpc(format!("run {run} was not ended")))?.into_inner();
    let output = &mut invocation.output;
    if !output.format.is_text() {
        output.value(&json::json(&summary, "RunSummary"))?;
    } else if summary.phase() == RunPhase::Closed {
        let verdict = view::runs::verdict(summary.verdict(), &output.talk);
        output.say(format!("run {run} is closed: {verdict}"));
    } else {
        output.say(format!("run {run} is asked to end: {}", view::runs::phase_word(summary.phase())));
    }
    Ok(Exit::Ok)
}
