//! `vigiectl hosts list`.

use vigie_proto::v1::ListHostsRequest;

use crate::{cli::selection::Selection, error::Error, exit::Exit, invocation::Invocation, view};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    selection: &Selection,
) -> Result<Exit, Error> {
    let selector = selection.observing()?;
    let client = invocation.connect().await?;
    let listed = client.hosts().list_hosts(ListHostsRequest { selector: Some(selector) }).await;
    let hosts = listed.map_err(Error::rpc("asking for the hosts"))?.into_inner().hosts;
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::status::table(&hosts, &output.look);
        output.text(if text.is_empty() { "no hosts\n" } else { &text })?;
    } else {
        output.document(&view::hosts::document(&hosts), "hosts")?;
    }
    Ok(Exit::Ok)
}
