//! `vigiectl runbooks show RUNBOOK`.

use vigie_proto::{text::escape, v1::GetRunbookRequest};

use crate::{error::Error, exit::Exit, invocation::Invocation, output::json};

pub(in crate::commands) async fn run(invocation: &mut Invocation, id: String) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let answer = client.runbooks().get_runbook(GetRunbookRequest { id }).await;
    let runbook = answer.map_err(Error::rpc("asking for the runbook"))?.into_inner();
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = escape(&runbook.text, true).into_owned();
        output.text(&text)?;
    } else {
        output.value(&json::json(&runbook, "Runbook"))?;
    }
    Ok(Exit::Ok)
}
