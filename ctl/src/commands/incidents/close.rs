//! `vigiectl incidents close INCIDENT`.

use vigie_proto::v1::{CheckState, CloseIncidentRequest};

use super::give;
use crate::{error::Error, exit::Exit, invocation::Invocation};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    incident: String,
    force: bool,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let closed = client.incidents().close_incident(CloseIncidentRequest { incident, force }).await;
    let incident = closed.map_err(Error::rpc("closing the incident"))?.into_inner();
    let open = incident.checklist.iter().filter(|line| line.state() != CheckState::Done).count();
    if open > 0 {
        invocation.output.say(format_args!("closed with {open} lines of the checklist not done"));
    }
    give(invocation, &incident)?;
    Ok(Exit::Ok)
}
