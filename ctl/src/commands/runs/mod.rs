pub(super) mod approve;
pub(super) mod cancel;
pub(super) mod list;
pub(super) mod resolve;
pub(super) mod resume;
pub(super) mod retry;
pub(super) mod show;
pub(super) mod watch;

use vigie_proto::id::RunId;

use super::{diagnose, operation};
use crate::{
    client::Client,
    error::Error,
    invocation::Invocation,
    runs::{find, ledger::Ledger},
    view::run::RunView,
};

/// The run that a person means.
async fn find(invocation: &Invocation, client: &Client, text: &str) -> Result<RunId, Error> {
    let ledger = Ledger::of(&invocation.home.state(&client.context.name)?);
    find::find(client, &ledger, text).await
}

/// Gives out what came of a run.
fn show_outcome(invocation: &mut Invocation, client: &Client, run: &RunView) -> Result<(), Error> {
    match run.runbook_id() {
        Some(_) => diagnose::show(invocation, run, &client.context.settings.operator),
        None => operation::show(invocation, run),
    }
}
