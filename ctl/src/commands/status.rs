//! `vigiectl status`: what is wrong first, then every host in a line.

use vigie_proto::v1::{Host, ListHostsRequest, ListIncidentsRequest};

use crate::{cli::selection::Selection, error::Error, exit::Exit, invocation::Invocation, view};

pub(super) async fn run(invocation: &mut Invocation, selection: &Selection) -> Result<Exit, Error> {
    let selector = selection.observing()?;
    let client = invocation.connect().await?;
    let request = ListHostsRequest { selector: Some(selector) };
    let hosts = client
        .hosts()
        .list_hosts(request)
        .await
        .map_err(Error::rpc("asking for the fleet"))?
        .into_inner()
        .hosts;
    let open = client.incidents().list_incidents(ListIncidentsRequest::default()).await;
    let open = open.map_err(Error::rpc("asking for the incidents"))?.into_inner();
    let (incidents, contacts) = (open.incidents, open.contacts);
    let stale = invocation.stale.get();
    let output = &mut invocation.output;
    if output.format.is_text() {
        let banner = view::incidents::banner(&incidents, &contacts, &output.look);
        let text = view::status::text(&hosts, &output.look);
        let contacts = view::incidents::nobody_to_call(&contacts, &output.look);
        output.text(&(banner + &text + &contacts))?;
    } else {
        let mut document = view::hosts::document(&hosts);
        document["incidents"] = view::incidents::document(&incidents)["incidents"].take();
        document["contacts"] = view::incidents::contacts(&contacts);
        if let Some((since_ms, why)) = stale {
            document["stale"] = serde_json::json!({ "since_ms": since_ms, "why": why });
        }
        output.document(&document, "hosts")?;
    }
    // An agent that is connected and does not answer can be asked nothing either.
    let silent = |host: &Host| host.liveness.as_ref().is_some_and(|liveness| !liveness.answering);
    let gone = hosts.iter().any(|host| !host.connected || silent(host));
    Ok(if gone { Exit::Unreachable } else { Exit::Ok })
}
