//! `vigiectl runs resume RUN`: takes a run up where its first ctl left it.

use tonic::Code;
use vigie_proto::v1::{SubmitRunRequest, WatchRunRequest};

use super::{find, show_outcome};
use crate::{
    error::Error,
    exit::Exit,
    invocation::Invocation,
    runs::{follow, ledger::Ledger, submit},
};

pub(in crate::commands) async fn run(invocation: &mut Invocation, run: &str) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let request = WatchRunRequest { run: run.to_string(), after_seq: 0, follow: false };
    let known = client.runs().watch_run(request).await;
    if let Err(status) = known {
        let asked = Ledger::of(&invocation.home.state(&client.context.name)?).read(run);
        match asked {
            Some(spec) if status.code() == Code::NotFound => {
                invocation.output.say(format!("run {run} never arrived; sending it"));
                let request = SubmitRunRequest { run: run.to_string(), spec: Some(spec) };
                submit::send(invocation, &client, run, request).await?;
            }
            _ => return Err(Error::rpc("looking for the run")(status)),
        }
    }
    let before = invocation.now_ms();
    let view = follow::resume(invocation, &client, run).await?;
    if view.closed.is_some() && view.closed_at_ms < before {
        let at = invocation.output.talk.time(view.closed_at_ms);
        invocation
            .output
            .say(format!("The run was closed at {at}; nothing was done now. This is how it ended:"));
    }
    show_outcome(invocation, &client, &view)?;
    Ok(view.exit())
}
