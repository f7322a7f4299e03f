pub(super) mod close;
pub(super) mod list;
pub(super) mod note;
pub(super) mod report;
pub(super) mod show;

use vigie_proto::v1::Incident;

use crate::{error::Error, invocation::Invocation, view};

/// Shows one incident.
fn give(invocation: &mut Invocation, incident: &Incident) -> Result<(), Error> {
    let output = &mut invocation.output;
    if output.format.is_text() {
        let text = view::incidents::one(incident, &output.look);
        output.text(&text)
    } else {
        output.value(&view::incidents::value(incident))
    }
}
