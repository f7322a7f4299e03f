//! Opening a run: on disk first, then sent, as often as it takes.

use std::time::Duration;

use tonic::{Code, Status};
use vigie_proto::{
    id::RunId,
    v1::{RunSpec, SubmitRunRequest},
};
use vigie_transport::client::explain;

use super::ledger::Ledger;
use crate::{client::Client, error::Error, invocation::Invocation};

/// Before each further attempt. The same id is the same run, so that sending it again is safe.
const PAUSES: [Duration; 3] = [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3)];

/// Opens a run under a new id.
pub(crate) async fn submit(
    invocation: &mut Invocation,
    client: &Client,
    spec: RunSpec,
) -> Result<RunId, Error> {
    let run = RunId::new();
    let request = SubmitRunRequest { run: run.to_string(), spec: Some(spec) };
    let ledger = Ledger::of(&invocation.home.state(&client.context.name)?);
    ledger.write(run, &request, invocation.now_ms())?;
    vigie_failpoint::reached("ctl.submitting");
    match send(invocation, client, run, request).await {
        Ok(()) => Ok(run),
        Err(error) => {
            // What was refused never became a run; what nobody answered may have.
            if let Error::Rpc { status, .. } = &error
                && !may_pass(status)
            {
                ledger.forget(run)?;
            }
            Err(error)
        }
    }
}

/// Sends a request that is on disk.
pub(crate) async fn send(
    invocation: &mut Invocation,
    client: &Client,
    run: RunId,
    request: SubmitRunRequest,
) -> Result<(), Error> {
    let mut pauses = PAUSES.iter();
    loop {
        let mut interrupt = invocation.interrupt.clone();
        let mut runs = client.runs();
        let sent = tokio::select! {
            sent = runs.submit_run(request.clone()) => sent,
            () = interrupt.wait() => return Err(Error::Interrupted { run: Some(run.to_string()) }),
        };
        let status = match sent {
            Ok(_) => return Ok(()),
            Err(status) => status,
        };
        let pause = pauses.next().filter(|_| may_pass(&status));
        let Some(pause) = pause else {
            if may_pass(&status) {
                invocation.output.say(format!(
                    "run {run}: nobody answered, so it may or may not be open; `vigiectl runs resume {run}` takes it up"
                ));
            }
            return Err(Error::rpc("the run was not opened")(status));
        };
        invocation.output.progress("the controller does not answer; trying again");
        tokio::time::sleep(*pause).await;
    }
}

/// Whether the same call may succeed a moment later.
pub(crate) fn may_pass(status: &Status) -> bool {
    match explain(status) {
        Some(connect) => connect.is_transient(),
        None => {
            let broken = std::error::Error::source(status).is_some();
            matches!(status.code(), Code::Unavailable | Code::Aborted | Code::DeadlineExceeded)
                || (broken && matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled))
        }
    }
}
