//! `vigiectl incidents report INCIDENT`: the post-mortem, as far as the record holds it.

use vigie_proto::v1::GetIncidentRequest;

use crate::{error::Error, exit::Exit, invocation::Invocation, view};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    incident: String,
    ticket: bool,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let found = client.incidents().get_incident(GetIncidentRequest { incident }).await;
    let incident = found.map_err(Error::rpc("asking for the incident"))?.into_inner();
    let output = &mut invocation.output;
    let text = match ticket {
        true => view::incidents::ticket(&incident, &output.look),
        false => view::incidents::report(&incident, &output.look),
    };
    output.text(&text)?;
    Ok(Exit::Ok)
}
