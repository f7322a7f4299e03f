//! `vigiectl exec`: a program and its words, handed over as they are.

use vigie_proto::{
    operation::check,
    v1::{ExecRequest, Request, request::Operation},
};

use super::operation;
use crate::{cli::Exec, error::Error, exit::Exit, invocation::Invocation};

pub(super) async fn run(invocation: &mut Invocation, exec: Exec) -> Result<Exit, Error> {
    let selector = exec.selection.changing()?;
    let timeout_ms = exec.limit.ms();
    let mut words = exec.words.into_iter();
    let program = words.next().unwrap_or_default();
    let request =
        Request { operation: Some(Operation::Exec(ExecRequest { program, args: words.collect() })) };
    check(&request).map_err(Error::Arguments)?;
    operation::run(invocation, selector, request, timeout_ms).await
}
