//! `vigiectl incidents note INCIDENT`: a person's word.

use vigie_proto::v1::NoteIncidentRequest;

use super::give;
use crate::{error::Error, exit::Exit, invocation::Invocation};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    note: NoteIncidentRequest,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let noted = client.incidents().note_incident(note).await;
    let incident = noted.map_err(Error::rpc("writing the incident up"))?.into_inner();
    give(invocation, &incident)?;
    Ok(Exit::Ok)
}
