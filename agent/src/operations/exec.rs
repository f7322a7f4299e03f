//! Free-form programs. An order was checked before this is called.

use vigie_proto::v1::{ExecRequest, ExecResult, result};

use super::{Context, Fault, text::captured};
use crate::host::{
    child::{Child, Exit},
    stacks::compose::{cannot_run, timed_out},
};

/// Runs a program. One that fails is a task that fails, with all that it said.
pub(super) async fn exec(request: ExecRequest, cx: &Context) -> Result<ExecResult, Fault> {
    // A bare name is looked up in a fixed path; a relative path means nothing to an agent.
    let child = Child::new(&request.program).map_err(|error| {
        Fault::refused("program_unavailable", error).hint("give a name in that path, or an absolute path")
    })?;
    let child = child.args(request.args).sink(&*cx.output);
    let program = child.program().to_string_lossy().into_owned();
    let exit = cx.act(child).await.map_err(cannot_run)?;
    ended(&program, &exit, cx)
}

/// What a program's end means.
pub(super) fn ended(program: &str, exit: &Exit, cx: &Context) -> Result<ExecResult, Fault> {
    let result = ExecResult {
        program: program.to_owned(),
        exit_code: exit.code,
        signal: exit.signal,
        stdout: Some(captured(&cx.host, &exit.stdout)),
        stderr: Some(captured(&cx.host, &exit.stderr)),
    };
    if exit.success() {
        return Ok(result);
    }
    let fault = if exit.timed_out {
        timed_out(program)
    } else if exit.stopped {
        Fault::stopped(program)
    } else if exit.signal != 0 {
        Fault::failed("program_killed", format!("{program} was ended by signal {}", exit.signal))
    } else {
        Fault::failed("exit_status", format!("{program} ended with status {}", exit.code))
    };
    Err(fault.partial(result::Operation::Exec(result)))
}
