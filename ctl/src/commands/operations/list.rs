//! `vigiectl operations list`.

use vigie_proto::operation::OPERATIONS;

use crate::{error::Error, exit::Exit, invocation::Invocation, view};

pub(in crate::commands) fn run(invocation: &mut Invocation) -> Result<Exit, Error> {
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::operations::list(&output.look);
        output.text(&text)?;
    } else {
        let all: Vec<_> = OPERATIONS.iter().collect();
        output.document(&view::operations::document(&all), "operations")?;
    }
    Ok(Exit::Ok)
}
