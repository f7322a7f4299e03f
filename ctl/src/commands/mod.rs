//! What each command does: `<noun>/<verb>.rs`, or a file of its own for a verb alone.

mod changes;
mod diagnose;
mod exec;
mod hosts;
mod incidents;
mod login;
mod logs;
mod operation;
mod operations;
mod runbooks;
mod runs;
mod status;

use vigie_proto::v1::{ResolveRunRequest, RunMode};

use crate::{
    cli::{Command, Hosts, Incidents, Operations, Runbooks, Runs},
    error::Error,
    exit::Exit,
    invocation::Invocation,
};

/// Does what was asked.
pub(crate) async fn dispatch(command: Command, invocation: &mut Invocation) -> Result<Exit, Error> {
    match command {
        Command::Login(login) => login::run(invocation, login).await,
        Command::Status { selection } => status::run(invocation, &selection).await,
        Command::Changes(changes) => changes::run(invocation, changes).await,
        Command::Diagnose(call) => diagnose::diagnose(invocation, call).await,
        Command::Plan(call) => diagnose::run(invocation, call.runbook, RunMode::Plan, call.remedy).await,
        Command::Run(call) => diagnose::run(invocation, call.runbook, RunMode::Run, call.remedy).await,
        Command::Probe { call } => operation::probe(invocation, call).await,
        Command::Do { call } => operation::change(invocation, call).await,
        Command::Logs(logs) => logs::run(invocation, logs).await,
        Command::Exec(exec) => exec::run(invocation, exec).await,
        Command::Runs(Runs::List { limit }) => runs::list::run(invocation, limit).await,
        Command::Runs(Runs::Show { run, report, record }) => {
            runs::show::run(invocation, &run, report, record.as_deref()).await
        }
        Command::Runs(Runs::Watch { run }) => runs::watch::run(invocation, &run).await,
        Command::Runs(Runs::Resume { run }) => runs::resume::run(invocation, &run).await,
        Command::Runs(Runs::Approve { run, hosts, note }) => {
            runs::approve::run(invocation, &run, hosts, note).await
        }
        Command::Runs(Runs::Resolve { run, hosts, stack, done, not_done: _, note }) => {
            let stack = stack.unwrap_or_default();
            let found = ResolveRunRequest { run, hosts, done, note, stack };
            runs::resolve::run(invocation, found).await
        }
        Command::Runs(Runs::Retry { run, hosts, stack }) => {
            runs::retry::run(invocation, &run, hosts, stack).await
        }
        Command::Runs(Runs::Cancel { run, reason }) => runs::cancel::run(invocation, &run, reason).await,
        Command::Incidents(Incidents::List { closed, limit }) => {
            incidents::list::run(invocation, closed, limit).await
        }
        Command::Incidents(Incidents::Show { incident }) => incidents::show::run(invocation, incident).await,
        Command::Incidents(Incidents::Report { incident, ticket }) => {
            incidents::report::run(invocation, incident, ticket).await
        }
        Command::Incidents(Incidents::Note(note)) => incidents::note::run(invocation, note.request()).await,
        Command::Incidents(Incidents::Close { incident, force }) => {
            incidents::close::run(invocation, incident, force).await
        }
        Command::Runbooks(Runbooks::List) => runbooks::list::run(invocation).await,
        Command::Runbooks(Runbooks::Show { runbook }) => runbooks::show::run(invocation, runbook).await,
        Command::Runbooks(Runbooks::Lint { files }) => runbooks::lint::run(invocation, &files),
        Command::Runbooks(Runbooks::Test { named }) => runbooks::test::run(invocation, &named),
        Command::Operations(Operations::List) => operations::list::run(invocation),
        Command::Operations(Operations::Show { operation }) => operations::show::run(invocation, &operation),
        Command::Hosts(Hosts::Add(add)) => hosts::add::run(invocation, *add).await,
        Command::Hosts(Hosts::List { selection }) => hosts::list::run(invocation, &selection).await,
        Command::Hosts(Hosts::Show { host }) => hosts::show::run(invocation, host).await,
        Command::Hosts(Hosts::Token { name, joining }) => hosts::token::run(invocation, name, joining).await,
    }
}
