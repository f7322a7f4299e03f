//! `vigiectl runbooks list`.

use serde_json::json;
use vigie_proto::{text::escape, v1::ListRunbooksRequest};

use crate::{
    error::Error,
    exit::Exit,
    invocation::Invocation,
    output::{json, table::Table},
};

pub(in crate::commands) async fn run(invocation: &mut Invocation) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let listed = client.runbooks().list_runbooks(ListRunbooksRequest {}).await;
    let runbooks = listed.map_err(Error::rpc("asking for the runbooks"))?.into_inner().runbooks;
    let output = &mut invocation.output;
    if !output.format.is_text() {
        let runbooks: Vec<_> = runbooks.iter().map(|runbook| json::json(runbook, "Runbook")).collect();
        output.document(&json!({ "runbooks": runbooks }), "runbooks")?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(["RUNBOOK", "FROM", "TITLE"]);
    for runbook in &runbooks {
        let cell = |text: &str| escape(text, false).into_owned();
        table.row([cell(&runbook.id), cell(&runbook.source), cell(&runbook.title)]);
    }
    let text = table.text(&output.look);
    output.text(if text.is_empty() { "no runbooks\n" } else { &text })?;
    Ok(Exit::Ok)
}
