//! `vigiectl runs watch RUN`.

use super::{find, show_outcome};
use crate::{error::Error, exit::Exit, invocation::Invocation, runs::follow};

pub(in crate::commands) async fn run(invocation: &mut Invocation, run: &str) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let view = follow::watch(invocation, &client, run).await?;
    show_outcome(invocation, &client, &view)?;
    Ok(view.exit())
}
