//! `vigiectl runs retry RUN`: the same request again, stack by stack, where it did not go well.
//!
//! It is a new run with new orders, which a person agrees to as to any other. Where something is in doubt nothing is tried
//! again before somebody said what they found.

use vigie_proto::{
    id::RunId,
    v1::{Place, RunSpec, Selector, Target},
};
use vigie_runbook::run::{Again, State, place_name};

use super::{find, show_outcome};
use crate::{error::Error, exit::Exit, invocation::Invocation, runs::follow};

/// What a person narrows a retry to.
struct Narrowed<'a> {
    /// Names; none stands for every host of the run.
    hosts: &'a [String],
    stack: Option<&'a str>,
}

impl Narrowed<'_> {
    fn takes(&self, target: &Target) -> bool {
        (self.hosts.is_empty() || self.hosts.contains(&target.host_name))
            && self.stack.is_none_or(|stack| stack == target.stack)
    }
}

/// What of a run is tried again, and what is not.
#[derive(Debug)]
struct Retry {
    spec: RunSpec,
    /// The places of its targets, as people name them.
    on: Vec<String>,
    /// Where somebody has to look first: what to say of each.
    doubts: Vec<(String, String)>,
}

pub(in crate::commands) async fn run(
    invocation: &mut Invocation,
    run: &str,
    hosts: Vec<String>,
    stack: Option<String>,
) -> Result<Exit, Error> {
    let client = invocation.connect().await?;
    let run = find(invocation, &client, run).await?;
    let before = follow::read(invocation, &client, run).await?;
    // Strictly: in what this vigiectl does not know there may be a doubt.
    let before = State::fold(run, &before.events).map_err(|error| {
        Error::usage(format!("how run {run} ended is not clear here: {error}"), "upgrade vigiectl")
    })?;
    let retry = again(&before, &Narrowed { hosts: &hosts, stack: stack.as_deref() })?;
    for (doubt, hint) in &retry.doubts {
        invocation.output.say(format!("left out: {doubt}\nhint: {hint}"));
    }
    invocation.output.say(format!("trying again on {} what run {run} left undone", retry.on.join(", ")));
    let view = follow::open(invocation, &client, retry.spec).await?;
    show_outcome(invocation, &client, &view)?;
    // What was left out is a part of what was asked for.
    let left_out = if retry.doubts.is_empty() { Exit::Ok } else { Exit::InDoubt };
    Ok(view.exit().worst(left_out))
}

/// The request of the new run.
fn again(before: &State, narrowed: &Narrowed<'_>) -> Result<Retry, Error> {
    let run = before.run();
    if before.closed().is_none() {
        return Err(Error::usage(
            format!("run {run} is open"),
            format!("`vigiectl runs watch {run}` waits for its end, `vigiectl runs cancel {run}` ends it"),
        ));
    }
    let targets = || before.targets().iter().map(|seen| &seen.target);
    let strange = narrowed.hosts.iter().find(|host| !targets().any(|target| target.host_name == **host));
    let strange = strange.map(|host| format!("host {host}")).or_else(|| {
        let stack = narrowed.stack?;
        (!targets().any(|target| narrowed.takes(target))).then(|| format!("stack {stack} there"))
    });
    if let Some(strange) = strange {
        return Err(Error::usage(
            format!("run {run} was not about {strange}"),
            format!("`vigiectl runs show {run}` tells what it was about"),
        ));
    }
    let (mut worth, mut doubtful) = (Vec::new(), Vec::new());
    for (index, seen) in before.targets().iter().enumerate() {
        let target = &seen.target;
        match before.again(index) {
            _ if !narrowed.takes(target) => {}
            Again::Well => {}
            Again::Worth => worth.push(target),
            Again::InDoubt => doubtful.push(target),
        }
    }
    // Where a host was named, or nothing is left to do, a doubt is the whole answer.
    let has = |targets: &[&Target], host: &String| targets.iter().any(|target| target.host_name == *host);
    let without = narrowed.hosts.iter().find(|host| !has(&worth, host));
    let refused = doubtful.iter().find(|target| match without {
        Some(host) => target.host_name == *host,
        None => worth.is_empty(),
    });
    if let Some(target) = refused {
        let (doubt, hint) = doubt(run, target);
        return Err(Error::usage(doubt, hint));
    }
    if without.is_some() || worth.is_empty() {
        let on = without.map_or_else(String::new, |host| format!(" on {host}"));
        let of = narrowed.stack.map_or_else(String::new, |stack| format!(" of the stack {stack}"));
        return Err(Error::usage(
            format!("run {run} left nothing undone{on}{of}"),
            format!("`vigiectl runs show {run}` tells how it ended on each host"),
        ));
    }
    let place = |target: &&Target| Place { host: target.host_name.clone(), stack: target.stack.clone() };
    let places = worth.iter().map(place).collect();
    let selector = Some(Selector { places, ..Selector::default() });
    Ok(Retry {
        spec: RunSpec { selector, retry_of: run.to_string(), ..before.spec().clone() },
        on: worth.into_iter().map(place_name).collect(),
        doubts: doubtful.into_iter().map(|target| doubt(run, target)).collect(),
    })
}

/// That a person has to look somewhere first, and how they say what they found.
fn doubt(run: RunId, target: &Target) -> (String, String) {
    let stack = if target.stack.is_empty() { String::new() } else { format!(" --stack {}", target.stack) };
    let resolve = format!("vigiectl runs resolve {run} -H {}{stack}", target.host_name);
    (
        format!("on {} nobody knows whether it happened", place_name(target)),
        format!("look there, then say what you found: `{resolve} --done` or `--not-done`"),
    )
}

#[cfg(test)]
mod tests {
    use vigie_proto::v1::{Failure, Outcome, OutcomeStatus, RunVerdict};

    use super::*;
    use crate::view::fixtures::{self, Fleet};

    fn fine() -> Outcome {
        Outcome { status: OutcomeStatus::Succeeded.into(), ..Outcome::default() }
    }

    fn bad(status: OutcomeStatus) -> Outcome {
        Outcome::ended(status, Failure::new("simulated", "it went wrong"))
    }

    /// A restart of three stacks on vps1 that ended so.
    fn restarted(outcomes: [Outcome; 3]) -> State {
        let mut fleet = fixtures::restart_operation();
        fleet.stacks(&["blog", "shop", "wiki"]);
        let plan = fleet.plan();
        fleet.add(plan).add(fixtures::signed()).add(fixtures::ended(outcomes));
        fleet.add(fixtures::closed(RunVerdict::Failed, ""));
        folded(&fleet)
    }

    fn folded(fleet: &Fleet) -> State {
        State::fold(fixtures::RUN.parse().unwrap(), &fleet.view().events).unwrap()
    }

    fn tried(before: &State, hosts: &[&str], stack: Option<&str>) -> Result<Retry, (String, String)> {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        again(before, &Narrowed { hosts: &hosts, stack }).map_err(|error| match error {
            Error::Usage { message, hint } => (message, hint),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn what_succeeded_is_left_alone_though_its_neighbour_failed() {
        let before = restarted([fine(), bad(OutcomeStatus::Failed), fine()]);
        let retry = tried(&before, &[], None).unwrap();
        let shop = Place { host: "vps1".to_owned(), stack: "shop".to_owned() };
        let selector = Some(Selector { places: vec![shop], ..Selector::default() });
        let expected = RunSpec { selector, retry_of: fixtures::RUN.to_owned(), ..before.spec().clone() };
        assert_eq!((retry.spec, retry.on), (expected, vec!["vps1 · shop".to_owned()]));
        let (message, _) = tried(&before, &["vps1"], Some("blog")).unwrap_err();
        assert!(message.ends_with("left nothing undone on vps1 of the stack blog"), "{message}");
    }

    #[test]
    fn what_the_run_was_not_about_is_said_to_be_so() {
        let before = restarted([fine(), bad(OutcomeStatus::Failed), fine()]);
        for (hosts, stack, strange) in
            [(&["vps1", "vps9"][..], None, "host vps9"), (&["vps1"], Some("shp"), "stack shp there")]
        {
            let (message, _) = tried(&before, hosts, stack).unwrap_err();
            assert!(message.ends_with(&format!("was not about {strange}")), "{message}");
        }
    }

    #[test]
    fn nothing_is_tried_again_past_a_doubt_and_what_merely_failed_is() {
        let before = restarted([bad(OutcomeStatus::InDoubt), bad(OutcomeStatus::Failed), fine()]);
        for narrowed in [tried(&before, &[], None), tried(&before, &["vps1"], None)] {
            let retry = narrowed.unwrap();
            assert_eq!(retry.on, ["vps1 · shop"]);
            assert_eq!(retry.doubts.len(), 1, "and the other is named");
        }
        let (message, hint) = tried(&before, &["vps1"], Some("blog")).unwrap_err();
        assert_eq!(message, "on vps1 · blog nobody knows whether it happened");
        let resolve = format!("`vigiectl runs resolve {} -H vps1 --stack blog --done`", fixtures::RUN);
        assert!(hint.contains(&resolve), "{hint}");
        let doubts = restarted([bad(OutcomeStatus::InDoubt), fine(), fine()]);
        assert_eq!(tried(&doubts, &[], None).unwrap_err().0, message);
    }

    #[test]
    fn a_run_that_is_open_or_went_well_is_not_tried_again() {
        let well = restarted([fine(), fine(), fine()]);
        assert!(tried(&well, &[], None).unwrap_err().0.ends_with("left nothing undone"));
        let open = folded(&fixtures::restart_operation());
        assert!(tried(&open, &[], None).unwrap_err().0.ends_with("is open"));
    }
}
