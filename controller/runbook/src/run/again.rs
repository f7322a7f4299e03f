//! What of a run that is over is worth asking for again, stack by stack.

use vigie_proto::{
    id::RunId,
    v1::{Finding, FindingState, Opened, Outcome, OutcomeStatus, RunMode, Target, run_spec::Kind},
};

use super::{State, TargetState};

/// Whether what a run was for is worth asking for again on one of its targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It did what it is for.
    Well,
    Worth,
    /// Somebody has to find out first whether it happened.
    InDoubt,
}

/// Why a run does not try another one again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAgain {
    #[error("run {0} is open")]
    Open(RunId),
    #[error("run {0} asked for something else")]
    OtherRequest(RunId),
    #[error("run {run} was not about {place}")]
    Elsewhere { run: RunId, place: String },
    #[error("run {run} left nothing undone on {place}")]
    Well { run: RunId, place: String },
    #[error("nobody knows whether what run {run} ordered has happened on {place}")]
    InDoubt { run: RunId, place: String },
    #[error("run {run} was tried again on {place} since, by run {by}")]
    Since { run: RunId, place: String, by: RunId },
}

/// A target as people name it: `vps1`, or `vps1 · shop` for one of its stacks.
pub fn place_name(target: &Target) -> String {
    match target.stack.as_str() {
        "" => target.host_name.clone(),
        stack => format!("{} · {stack}", target.host_name),
    }
}

impl State {
    /// Whether the same request is worth making again on a target. Its neighbours on the same host do not count.
    pub fn again(&self, target: usize) -> Again {
        let mut outcomes =
            self.tasks().filter(|task| task.target == target).filter_map(|task| task.outcome.as_ref());
        if outcomes.any(|outcome| outcome.status() == OutcomeStatus::InDoubt) {
            return Again::InDoubt;
        }
        let seen = &self.targets[target];
        let well = match (&self.spec().kind, self.mode()) {
            (Some(Kind::Operation(_)) | None, _) => self.succeeded(target),
            (Some(Kind::Runbook(_)), RunMode::Run) => match self.is_planned(target) {
                true => seen.verified.as_ref().is_some_and(|conclusion| conclusion.verified),
                false => seen.is_well(),
            },
            (Some(Kind::Runbook(_)), _) => is_told(seen),
        };
        if well { Again::Well } else { Again::Worth }
    }

    /// Where a host and stack stand among the targets.
    fn position(&self, target: &Target) -> Option<usize> {
        let is_there = |seen: &Target| (&seen.host, &seen.stack) == (&target.host, &target.stack);
        self.targets.iter().position(|seen| is_there(&seen.target))
    }

    fn is_planned(&self, target: usize) -> bool {
        self.plan_entries().any(|entry| entry.target as usize == target)
    }

    /// How a single operation ended: as its order did or, without one, its probe.
    fn succeeded(&self, target: usize) -> bool {
        match self.tasks().filter(|task| task.target == target).last() {
            Some(task) => task.outcome.as_ref().is_some_and(Outcome::is_success),
            None if self.is_planned(target) => false,
            None => self.targets[target].evidence.get("").is_some_and(Outcome::is_success),
        }
    }
}

/// Whether a diagnosis could tell what it was asked.
fn is_told(seen: &TargetState) -> bool {
    let Some(conclusion) = &seen.conclusion else { return false };
    let unknown =
        |finding: &Finding| matches!(finding.state(), FindingState::Unknown | FindingState::Unspecified);
    let findings = &conclusion.findings;
    !seen.is_unreachable() && (findings.iter().any(Finding::is_trouble) || !findings.iter().any(unknown))
}

/// Whether a run may be opened that tries another again: it asks for the same, where that run left something undone, and
/// nowhere past a doubt.
///
/// # Errors
/// When it may not, with the run and the place.
pub fn may_try_again(before: &State, opened: &Opened) -> Result<(), NotAgain> {
    let run = before.run();
    if before.closed().is_none() {
        return Err(NotAgain::Open(run));
    }
    let (asked, spec) = (before.spec(), opened.spec.clone().unwrap_or_default());
    if (&asked.kind, asked.timeout_ms) != (&spec.kind, spec.timeout_ms) {
        return Err(NotAgain::OtherRequest(run));
    }
    for target in &opened.targets {
        let place = place_name(target);
        match before.position(target).map(|index| before.again(index)) {
            None => return Err(NotAgain::Elsewhere { run, place }),
            Some(Again::Well) => return Err(NotAgain::Well { run, place }),
            Some(Again::InDoubt) => return Err(NotAgain::InDoubt { run, place }),
            Some(Again::Worth) => {}
        }
    }
    Ok(())
}

/// Whether a run may be opened that tries another again, which `since` has tried again as well: not where that one did, since
/// what became of it there is what counts.
///
/// # Errors
/// When it may not, with the place.
pub fn may_try_again_beside(since: &State, opened: &Opened) -> Result<(), NotAgain> {
    match opened.targets.iter().find(|target| since.position(target).is_some()) {
        Some(target) => Err(NotAgain::Since {
            run: since.spec().retry_of.parse().unwrap_or_else(|_| since.run()),
            place: place_name(target),
            by: since.run(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use vigie_proto::{
        id::HostId,
        order::{Domain, SigningKey},
        v1::{
            ExecRequest, Failure, HostLoadRequest, ProbePurpose, Request, RunEvent, RunSpec, request,
            run_event::Event,
        },
    };

    use super::*;
    use crate::run::{Challenge, FreshIds, Input, ProbeKey, Surroundings, decide, doubt::LOST_SIGHT, open};

    /// `vps1 · blog`, `vps1 · shop` and `vps2 · shop`.
    fn targets() -> Vec<Target> {
        let hosts = [HostId::new(), HostId::new()];
        let target = |host: usize, stack: &str| Target {
            host: hosts[host - 1].to_string(),
            host_name: format!("vps{host}"),
            incarnation: 1,
            stack: stack.to_owned(),
        };
        vec![target(1, "blog"), target(1, "shop"), target(2, "shop")]
    }

    fn spec(operation: request::Operation) -> RunSpec {
        let kind = Some(Kind::Operation(Request { operation: Some(operation) }));
        RunSpec { kind, ..RunSpec::default() }
    }

    fn exec() -> RunSpec {
        spec(request::Operation::Exec(ExecRequest { program: "uptime".to_owned(), args: Vec::new() }))
    }

    fn retry(before: &State, targets: &[usize]) -> Opened {
        let targets = targets.iter().map(|target| before.opened().targets[*target].clone()).collect();
        let spec = RunSpec { retry_of: before.run().to_string(), ..before.spec().clone() };
        open(spec, "ada", targets, None).unwrap()
    }

    fn input(state: &mut State, input: Input) {
        let mut around = Surroundings {
            now_ms: 1_800_000_000_000,
            ids: &mut FreshIds,
            connected: &|_| true,
            held: &|_, _| None,
            tries: &|_, _, _| Vec::new(),
        };
        let decision = decide(state, [input], &mut around);
        assert!(decision.rejections.iter().all(Option::is_none), "{:?}", decision.rejections);
        *state = decision.state;
    }

    fn opened(spec: RunSpec) -> State {
        let opened = Event::Opened(open(spec, "ada", targets(), None).unwrap());
        let first = RunEvent { seq: 1, at_ms: 1_800_000_000_000, event: Some(opened) };
        let mut state = State::fold(RunId::new(), [&first]).unwrap();
        input(&mut state, Input::Tick);
        state
    }

    fn ended(status: OutcomeStatus) -> Outcome {
        match status {
            OutcomeStatus::Succeeded => Outcome { status: status.into(), ..Outcome::default() },
            other => Outcome::ended(other, Failure::new("simulated", "it went wrong")),
        }
    }

    /// A run of a program whose orders ended so.
    fn closed(statuses: [OutcomeStatus; 3]) -> State {
        closed_with(statuses.map(ended))
    }

    fn closed_with(outcomes: [Outcome; 3]) -> State {
        let mut state = opened(exec());
        let manifest = state.plan().unwrap().batch.manifest().to_vec();
        let signatures = vec![SigningKey::from_seed(&[1; 32]).sign(Domain::Manifest, &manifest)];
        input(&mut state, Input::Signed { manifest, signatures, operator: "ada".to_owned() });
        let orders: Vec<_> = state.tasks().map(|task| task.order).collect();
        for (order, outcome) in orders.into_iter().zip(outcomes) {
            input(&mut state, Input::Ended { order, outcome });
        }
        assert!(state.closed().is_some());
        state
    }

    fn resolve(state: &mut State, stack: &str, done: bool) {
        let (operator, hosts) = ("bob".to_owned(), vec!["vps1".to_owned()]);
        input(state, Input::Resolve { operator, hosts, stack: stack.to_owned(), done, note: String::new() });
    }

    #[test]
    fn each_stack_of_a_host_counts_for_itself() {
        use OutcomeStatus::{Cancelled, Failed, Succeeded};
        let before = closed([Succeeded, Failed, Cancelled]);
        assert_eq!([0, 1, 2].map(|target| before.again(target)), [Again::Well, Again::Worth, Again::Worth]);
        assert_eq!(may_try_again(&before, &retry(&before, &[1, 2])), Ok(()));
        let refused = may_try_again(&before, &retry(&before, &[0, 1])).unwrap_err();
        assert_eq!(refused, NotAgain::Well { run: before.run(), place: "vps1 · blog".to_owned() });
    }

    #[test]
    fn nothing_is_tried_again_past_a_doubt() {
        use OutcomeStatus::{Failed, InDoubt};
        let mut before = closed([InDoubt, Failed, InDoubt]);
        let run = before.run();
        let doubt = |place: &str| Err(NotAgain::InDoubt { run, place: place.to_owned() });
        assert_eq!(may_try_again(&before, &retry(&before, &[0, 1])), doubt("vps1 · blog"));
        assert_eq!(may_try_again(&before, &retry(&before, &[1])), Ok(()), "its neighbour merely failed");
        resolve(&mut before, "blog", false);
        assert_eq!(may_try_again(&before, &retry(&before, &[0, 1])), Ok(()));
        assert_eq!(may_try_again(&before, &retry(&before, &[0, 2])), doubt("vps2 · shop"));
    }

    #[test]
    fn what_became_of_an_earlier_retry_counts() {
        use OutcomeStatus::Failed;
        let before = closed([Failed; 3]);
        let first = RunEvent { seq: 1, at_ms: 0, event: Some(Event::Opened(retry(&before, &[0, 2]))) };
        let since = State::fold(RunId::new(), [&first]).unwrap();
        assert_eq!(may_try_again_beside(&since, &retry(&before, &[1])), Ok(()));
        let refused = may_try_again_beside(&since, &retry(&before, &[1, 2])).unwrap_err();
        let place = "vps2 · shop".to_owned();
        assert_eq!(refused, NotAgain::Since { run: before.run(), place, by: since.run() });
    }

    #[test]
    fn what_a_person_found_done_is_not_tried_again() {
        use OutcomeStatus::InDoubt;
        let mut before = closed([InDoubt; 3]);
        resolve(&mut before, "shop", true);
        assert_eq!([0, 1].map(|target| before.again(target)), [Again::InDoubt, Again::Well]);
    }

    #[test]
    fn an_agent_that_does_not_know_undoes_no_persons_look() {
        let lost = || Outcome::ended(OutcomeStatus::InDoubt, Failure::new(LOST_SIGHT, "not heard of since"));
        let mut before = closed_with([lost(), lost(), lost()]);
        resolve(&mut before, "blog", false);
        let order = before.tasks().next().unwrap().order;
        input(&mut before, Input::Ended { order, outcome: ended(OutcomeStatus::InDoubt) });
        assert_eq!(before.again(0), Again::Worth, "somebody looked");
        input(&mut before, Input::Ended { order, outcome: ended(OutcomeStatus::Succeeded) });
        assert_eq!(before.again(0), Again::Well, "and its agent knows better");
    }

    #[test]
    fn a_retry_asks_for_the_same_of_a_run_that_is_over() {
        let before = closed([OutcomeStatus::Failed; 3]);
        let run = before.run();
        let same = retry(&before, &[0]);
        let longer = RunSpec { timeout_ms: 1, ..exec() };
        let other = Opened { spec: Some(longer), ..same.clone() };
        assert_eq!(may_try_again(&before, &other), Err(NotAgain::OtherRequest(run)));
        let elsewhere = Opened { targets: targets(), ..same.clone() };
        let place = "vps1 · blog".to_owned();
        assert_eq!(may_try_again(&before, &elsewhere), Err(NotAgain::Elsewhere { run, place }));
        let open = opened(exec());
        assert_eq!(may_try_again(&open, &same), Err(NotAgain::Open(open.run())));
    }

    #[test]
    fn the_report_of_a_retry_names_the_run_before() {
        let before = closed([OutcomeStatus::Failed; 3]);
        let opened = Event::Opened(retry(&before, &[0]));
        let first = RunEvent { seq: 1, at_ms: 0, event: Some(opened) };
        let state = State::fold(RunId::new(), [&first]).unwrap();
        let report = crate::report::markdown(&state, &[first]);
        assert!(report.contains(&format!("| Retry of | {} |", before.run())), "{report}");
    }

    #[test]
    fn a_question_is_worth_asking_again_where_nobody_answered() {
        let mut before = opened(spec(request::Operation::HostLoad(HostLoadRequest::default())));
        for (target, status) in [OutcomeStatus::Succeeded, OutcomeStatus::Unreachable, OutcomeStatus::Failed]
            .into_iter()
            .enumerate()
        {
            let key = ProbeKey { target, probe: String::new(), purpose: ProbePurpose::Diagnosis, round: 0 };
            let (outcome, challenge) = (ended(status), Challenge::default());
            input(&mut before, Input::Probed { key, outcome, asked_at_ms: 0, challenge });
        }
        assert_eq!([0, 1, 2].map(|target| before.again(target)), [Again::Well, Again::Worth, Again::Worth]);
    }
}
