//! `vigiectl hosts show HOST`.

use vigie_proto::v1::GetHostRequest;

use crate::{error::Error, exit::Exit, invocation::Invocation, output::json, view};

pub(in crate::commands) async fn run(invocation: &mut Invocation, host: String) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let answer = client.hosts().get_host(GetHostRequest { host }).await;
    let host = answer.map_err(Error::rpc("asking for the host"))?.into_inner();
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::hosts::text(&host, &output.look);
        output.text(&text)?;
    } else {
        output.value(&json::json(&host, "Host"))?;
    }
    Ok(Exit::Ok)
}
