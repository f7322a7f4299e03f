//! `vigiectl runs retry RUN`: the same request again, on the hosts where it did not go well.
//!
//! It is a new run with new orders, which a person agrees to as to any other. Where something is in doubt nothing is tried
//! again before somebody said what they found.

use vigie_proto::{
    id::RunId,
    v1::{RunSpec, Selector},
};

use super::{find, show_outcome};
use crate::{
    error::Error,
    exit::Exit,
    invocation::Invocation,
    runs::follow,
    view::run::{Again, RunView},
};

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    run: &str,
    hosts: Vec<String>,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let before = follow::read(invocation, &client, run).await?;
    let spec = again(&before, run, &hosts)?;
    let names = spec.selector.as_ref().map(|selector| selector.hosts.clone()).unwrap_or_default();
    invocation.output.say(format!("trying again on {names} what run {run} left undone"));
    let view = follow::open(invocation, &client, spec).await?;
    show_outcome(invocation, &client, &view)?;
    Ok(view.exit())
}

/// The request of the new run.
fn again(before: &RunView, run: RunId, hosts: &[String]) -> Result<RunSpec, Error> {
    if before.closed.is_none() {
        return Err(Error::usage(
            format!("run {run} is open"),
            format!("`vigiectl runs watch {run}` waits for its end, `vigiectl runs cancel {run}` ends it"),
        ));
    }
    let targets = before.targets();
    let mut names = Vec::new();
    for target in targets {
        let name = before.host_name(target).to_owned();
        if names.contains(&name) || !hosts.is_empty() && !hosts.contains(&name) {
            continue;
        }
        match before.again(target) {
            Again::Well => {}
            Again::Worth => names.push(name),
            Again::InDoubt => {
                return Err(Error::usage(
                    format!("on {name} nobody knows whether it happened"),
                    format!(
                        "look there, then say what you found: `vigiectl runs resolve {run} -H {name} --done` or `--not-done`"
                    ),
                ));
            }
        }
    }
    if let Some(other) = hosts.iter().find(|host| !names.contains(host)) {
        return Err(Error::usage(
            format!("run {run} left nothing undone on {other}"),
            format!("`vigiectl runs show {run}` tells how it ended on each host"),
        ));
    }
    if names.is_empty() {
        return Err(Error::usage(
            format!("run {run} left nothing undone"),
            format!("`vigiectl runs show {run}` tells how it ended on each host"),
        ));
    }
    let mut spec = before.opened.spec.clone().unwrap_or_default();
    let stack = spec.selector.as_ref().map(|selector| selector.stack.clone()).unwrap_or_default();
    spec.selector = Some(Selector { hosts: names.join(","), stack, ..Selector::default() });
    spec.retry_of = run.to_string();
    Ok(spec)
}
