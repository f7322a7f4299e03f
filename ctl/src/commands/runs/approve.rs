//! `vigiectl runs approve RUN`: a person has done what no agent can do.

use vigie_proto::v1::AcknowledgeRunRequest;

use super::find;
use crate::{error::Error, exit::Exit, invocation::Invocation, output::json, view};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    run: &str,
    hosts: Vec<String>,
    note: String,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let request = AcknowledgeRunRequest { run: run.to_string(), hosts, note };
    let answer = client.runs().acknowledge_run(request).await;
    let summary = answer.map_err(Error::rpc(format!("run {run} did not take it")))?.into_inner();
    let output = &mut invocation.output;
    if output.format.is_text() {
        output.say(format!("run {run} goes on: {}", view::runs::phase_word(summary.phase())));
    } else {
        output.value(&json::json(&summary, "RunSummary"))?;
    }
    Ok(Exit::Ok)
}
