//! `vigiectl incidents list`.

use vigie_proto::v1::ListIncidentsRequest;

use crate::{error::Error, exit::Exit, invocation::Invocation, view};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    closed: bool,
    limit: u32,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let listed = client.incidents().list_incidents(ListIncidentsRequest { closed, limit }).await;
    let incidents = listed.map_err(Error::rpc("asking for the incidents"))?.into_inner().incidents;
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::incidents::list(&incidents, &output.look);
        output.text(&text)?;
    } else {
        output.document(&view::incidents::document(&incidents), "incidents")?;
    }
    Ok(Exit::Ok)
}
