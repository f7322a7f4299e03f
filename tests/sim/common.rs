//! What both simulations' hosts answer, and what their traces say.

use vigie_agent::operations::witness::Witness;
use vigie_proto::v1::{
    ComposeRestartResult, ContainerInspectResult, ExecResult, Failure, HostChangesResult, HttpCheckResult,
    Outcome, PostgresTerminatePreviewResult, PostgresTerminateResult, request, result, run_event::Event,
};

/// What a host whose stack is ill, or well, answers to a question.
pub(crate) fn answer(operation: &request::Operation, ill: bool) -> Outcome {
    Outcome::succeeded(match operation {
        request::Operation::ContainerInspect(_) => {
            let state = if ill { "exited" } else { "running" }.to_owned();
            let found = ContainerInspectResult { present: true, state, ..Default::default() };
            result::Operation::ContainerInspect(found)
        }
        request::Operation::HttpCheck(_) => {
            let status = if ill { 502 } else { 200 };
            result::Operation::HttpCheck(HttpCheckResult { status, ..Default::default() })
        }
        request::Operation::PostgresTerminatePreview(_) => {
            let found = PostgresTerminatePreviewResult { present: true, total: 3, ..Default::default() };
            result::Operation::PostgresTerminatePreview(found)
        }
        request::Operation::HostChanges(_) => result::Operation::HostChanges(HostChangesResult::default()),
        _ => return Outcome::refused(Failure::new("simulated", "nobody asks this")),
    })
}

/// What an action that was done shows.
pub(crate) fn done(operation: &request::Operation) -> result::Operation {
    match operation {
        request::Operation::ComposeRestart(_) => {
            result::Operation::ComposeRestart(ComposeRestartResult::default())
        }
        request::Operation::PostgresTerminate(_) => {
            result::Operation::PostgresTerminate(PostgresTerminateResult::default())
        }
        _ => result::Operation::Exec(ExecResult::default()),
    }
}

pub(crate) fn stack_of(operation: &request::Operation) -> Option<String> {
    operation.clone().stack_mut().map(|stack| stack.clone())
}

/// What a look back tells of an order, by what is seen and by chance, out of six.
pub(crate) fn witness(was_done: bool, chance: u64) -> Witness {
    match (was_done, chance) {
        (_, 0) => Witness::Unknown("what is seen fits both".to_owned()),
        (_, 1) => Witness::Silent("nothing answers yet".to_owned()),
        (true, _) => Witness::Done("it is seen".to_owned()),
        (false, _) => Witness::NotDone("it is not seen".to_owned()),
    }
}

/// An event's word in a trace.
pub(crate) fn word(event: &Event) -> &'static str {
    match event {
        Event::Opened(_) => "opened",
        Event::Owned(_) => "owned",
        Event::Observed(_) => "observed",
        Event::Concluded(_) => "concluded",
        Event::Planned(_) => "planned",
        Event::Signed(_) => "signed",
        Event::Sent(_) => "sent",
        Event::Started(_) => "started",
        Event::Ended(_) => "ended",
        Event::Noted(_) => "noted",
        Event::Closed(_) => "closed",
        Event::WaitsOpened(_) => "waits",
        Event::WaitsClosed(_) => "waits no more",
        Event::ManualDone(_) => "done by hand",
        Event::LeftOut(_) => "left out",
        Event::Held(_) => "held",
        Event::Lapsed(_) => "lapsed",
        Event::CancelAsked(_) => "cancel asked",
        Event::Resolved(_) => "resolved",
    }
}
