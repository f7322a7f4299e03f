//! `vigiectl logs`: the end of what was written, without following: a container's, a service's, a unit's, a file's, or
//! all services of a stack together.

use vigie_proto::{
    operation::check,
    v1::{
        ContainerLogsRequest, FileTailRequest, Request, StackLogsRequest, UnitStatusRequest,
        request::Operation,
    },
};

use super::operation;
use crate::{cli::Logs, error::Error, exit::Exit, invocation::Invocation};

pub(super) async fn run(invocation: &mut Invocation, logs: Logs) -> Result<Exit, Error> {
    let selector = logs.selection.observing()?;
    let timeout_ms = logs.limit.ms();
    let stack = logs.selection.stack.clone().unwrap_or_default();
    let (lines, since_s) = (logs.lines, logs.since.map_or(0, |since| since.as_secs()));
    let since_s = u32::try_from(since_s).unwrap_or(u32::MAX);
    let operation = if let Some(unit) = logs.unit {
        Operation::UnitStatus(UnitStatusRequest { unit, journal_lines: lines })
    } else if let Some(path) = logs.file {
        Operation::FileTail(FileTailRequest { path, lines })
    } else if let Some(container) = logs.container {
        Operation::ContainerLogs(ContainerLogsRequest { container, lines, since_s, ..Default::default() })
    } else if let [service] = logs.services.as_slice() {
        Operation::ContainerLogs(ContainerLogsRequest {
            stack,
            service: service.clone(),
            lines,
            since_s,
            ..Default::default()
        })
    } else {
        Operation::StackLogs(StackLogsRequest { stack, services: logs.services, lines, since_s })
    };
    let request = Request { operation: Some(operation) };
    check(&request).map_err(Error::Arguments)?;
    operation::run(invocation, selector, request, timeout_ms).await
}
