//! `vigiectl runs list`.

use vigie_proto::v1::ListRunsRequest;

use crate::{error::Error, exit::Exit, invocation::Invocation, view};

pub(in crate::commands) async fn run(invocation: &mut Invocation, limit: u32) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let listed = client.runs().list_runs(ListRunsRequest { limit }).await;
    let runs = listed.map_err(Error::rpc("asking for the runs"))?.into_inner().runs;
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::runs::list(&runs, &output.look);
        output.text(&text)?;
    } else {
        output.document(&view::runs::document(&runs), "runs")?;
    }
    Ok(Exit::Ok)
}
