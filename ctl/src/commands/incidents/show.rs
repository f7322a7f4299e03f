//! `vigiectl incidents show INCIDENT`.

use vigie_proto::v1::GetIncidentRequest;

use super::give;
use crate::{error::Error, exit::Exit, invocation::Invocation};

pub(in crate::commands) async fn run(invocation: &mut Invocation, incident: String) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let found = client.incidents().get_incident(GetIncidentRequest { incident }).await;
    let incident = found.map_err(Error::rpc("asking for the incident"))?.into_inner();
    give(invocation, &incident)?;
    Ok(Exit::Ok)
}
