//! `vigiectl operations show OPERATION`.

use vigie_proto::operation::Operation;

use crate::{error::Error, exit::Exit, invocation::Invocation, view};

pub(in crate::commands) fn run(invocation: &mut Invocation, name: &str) -> Result<Exit, Error> {
    let operation = Operation::find(name).ok_or_else(|| {
        Error::usage(format!("there is no operation {name:?}"), "`vigiectl operations list` shows them all")
    })?;
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::operations::text(operation, &output.look);
        output.text(&text)?;
    } else {
        output.document(&view::operations::document(&[operation]), "operations")?;
    }
    Ok(Exit::Ok)
}
