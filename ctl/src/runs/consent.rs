//! What a plan's bytes have to be before a person is even asked to sign them.
//!
//! The controller assembles plans, and is not believed: it could be somebody else's by now. Everything that this
//! machine knows by itself (what was asked, which hosts were named, who signs) is held against the bytes.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use vigie_proto::{
    descriptors,
    operation::{self, Authority, FieldError, Operation},
    order::{Batch, BatchError, Domain, MAX_WINDOW_MS, SigningKey, digest},
    selector::Selector,
    text::escape,
    v1::{
        Leaf, Manifest, PlanEntry, Request, RunSpec, Signature, Target, plan_step::Kind as Step, request,
        run_spec::Kind,
    },
};

use vigie_runbook::{Bound, Evidence, StepSpec, Subject, run::place_name};

use crate::view::run::RunView;

/// Why a plan is not signed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    #[error("its bytes are no plan: {0}")]
    Batch(BatchError),
    #[error("it holds a task that this vigiectl cannot read: {0}")]
    Unknown(FieldError),
    #[error("it is for another run, {0:?}")]
    OtherRun(String),
    #[error("it is to be signed by {0:?}")]
    OtherPerson(String),
    #[error("it holds a task that is not shown, or shown twice")]
    Hidden,
    #[error("a task shown for {shown} would go to another host ({actual})")]
    OtherHost { shown: String, actual: String },
    #[error("it holds a task for {0}, which was not selected")]
    NotSelected(String),
    #[error("it would do the same more than once on {0}")]
    Twice(String),
    #[error("its orders could start until {0}, which is later than any plan needs")]
    Window(String),
    #[error("{name} is host {told} in it, and was {known} when a plan for it was last signed here")]
    OtherIdentity { name: String, told: String, known: String },
    #[error("a plan of this run is signed already, and its orders may start until {0}")]
    SignedAlready(String),
    #[error("it would run `{0}`, which is not what was asked for")]
    OtherOperation(String),
    #[error("it would lose something on {0} that it does not show")]
    Unprepared(String),
    #[error("it is about another request than the one that was sent")]
    OtherRequest,
    #[error("the runbook that it carries out is not the one that was shown")]
    OtherRunbook,
}

impl Distrust {
    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "upgrade vigiectl: the controller knows more operations than it does",
            Self::OtherPerson(_) => "only who opened a run can sign its plan; open your own",
            Self::SignedAlready(_) => {
                "`vigiectl runs watch` follows it; after that time a new plan can be signed"
            }
            Self::OtherIdentity { .. } => {
                "if the host was set up anew under this name, delete its line from `hosts` in the context's state folder"
            }
            _ => "do not go on: the controller may be broken or in wrong hands; tell whoever runs it",
        }
    }
}

/// A plan that may be shown and signed.
#[derive(Debug)]
pub(crate) struct Plan {
    batch: Batch,
    pub(crate) manifest: Manifest,
    pub(crate) leaves: Vec<Leaf>,
}

impl Plan {
    /// Holds the run's latest plan against all that is known here. `asked` is the request from this machine's own
    /// ledger, where the run was opened here.
    pub(crate) fn examine(
        view: &RunView,
        asked: Option<&RunSpec>,
        operator: &str,
        now_ms: i64,
    ) -> Result<Self, Distrust> {
        let planned = view.plan.clone().unwrap_or_default();
        let (batch, manifest, leaves) =
            Batch::from_parts(planned.manifest, planned.leaves).map_err(Distrust::Batch)?;
        if manifest.run != view.run {
            return Err(Distrust::OtherRun(escape(&manifest.run, false).into_owned()));
        }
        if manifest.person != operator {
            return Err(Distrust::OtherPerson(escape(&manifest.person, false).into_owned()));
        }
        let told = view.opened.spec.as_ref();
        if asked.is_some() && asked != told {
            return Err(Distrust::OtherRequest);
        }
        let spec = asked.or(told).ok_or(Distrust::OtherRequest)?;
        let bound = runbook(view, &manifest, spec)?;
        // A plan that is kept back must not come to life later.
        let (begins, ends) = (manifest.not_before_ms, manifest.not_after_ms);
        if ends.saturating_sub(begins) > MAX_WINDOW_MS || ends > now_ms.saturating_add(MAX_WINDOW_MS) {
            return Err(Distrust::Window(moment(ends)));
        }
        let mut shown = BTreeSet::new();
        let (mut targets, mut orders) = (BTreeSet::new(), BTreeSet::new());
        for entry in &planned.entries {
            let target = view.target(entry.target).ok_or(Distrust::Hidden)?;
            let twice = || Distrust::Twice(escape(&target.host_name, false).into_owned());
            // What is asked for once is done once, and what is refused is not done.
            let one = match entry.refused {
                Some(_) => entry.leaves.is_empty(),
                None => bound.is_some() || entry.leaves.len() == 1,
            };
            if !one || !targets.insert((&target.host, &target.stack)) {
                return Err(twice());
            }
            for leaf in entry.leaves.iter().filter_map(|index| leaves.get(*index as usize)) {
                if !orders.insert(&leaf.order) {
                    return Err(twice());
                }
            }
            for index in &entry.leaves {
                let leaf =
                    leaves.get(*index as usize).filter(|_| shown.insert(*index)).ok_or(Distrust::Hidden)?;
                task(leaf, target, spec)?;
            }
            prepared(entry, &leaves)
                .ok_or_else(|| Distrust::Unprepared(escape(&target.host_name, false).into_owned()))?;
            if let Some(bound) = bound.as_ref().filter(|_| entry.refused.is_none()) {
                remedy(bound, entry, &leaves, target)?;
            }
        }
        if shown.len() != leaves.len() {
            return Err(Distrust::Hidden);
        }
        Ok(Self { batch, manifest, leaves })
    }

    /// The hosts that it names, each with its id and incarnation.
    pub(crate) fn hosts<'a>(&'a self, view: &'a RunView) -> impl Iterator<Item = &'a Target> {
        let planned = view.plan.iter().flat_map(|planned| &planned.entries);
        planned.filter_map(|entry| view.target(entry.target))
    }

    /// Whether it loses something.
    pub(crate) fn loses(&self) -> bool {
        self.leaves.iter().any(loses)
    }

    /// Whether each of its orders loses something, so that none may start once its challenge is over.
    pub(crate) fn loses_by_all(&self) -> bool {
        !self.leaves.is_empty() && self.leaves.iter().all(loses)
    }

    /// The hosts and stacks that it is about, as the ledger keeps them.
    pub(crate) fn places(&self, view: &RunView) -> Vec<String> {
        let planned = view.plan.iter().flat_map(|planned| &planned.entries);
        let planned = planned.filter(|entry| entry.refused.is_none());
        let targets = planned.filter_map(|entry| view.target(entry.target));
        targets.map(|target| format!("{}/{}", target.host, target.stack)).collect()
    }

    /// Signs the plan.
    pub(crate) fn sign(&self, key: &SigningKey) -> Signature {
        key.sign(Domain::Manifest, self.batch.manifest())
    }

    /// The bytes that are signed.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.batch.manifest()
    }
}

/// Whether a request was its own consent: a program written out, on hosts that were named. A plan that passed
/// [`Plan::examine`] then holds exactly what was typed, and asking would only repeat it.
pub(crate) fn was_written_out(asked: Option<&RunSpec>) -> bool {
    let Some(RunSpec { selector: Some(selector), kind: Some(Kind::Operation(request)), retry_of, .. }) =
        asked
    else {
        return false;
    };
    let exec = matches!(request.operation, Some(request::Operation::Exec(_)));
    // Where something is tried again, an earlier run named the hosts and no person did.
    exec && retry_of.is_empty() && !selector.all && selector.labels.is_empty() && !selector.hosts.is_empty()
}

/// The runbook with its parameters, when the manifest speaks of the text that the run was opened with; `None` for a
/// single operation.
fn runbook(view: &RunView, manifest: &Manifest, spec: &RunSpec) -> Result<Option<Bound>, Distrust> {
    let Some(Kind::Runbook(call)) = &spec.kind else {
        return if manifest.runbook_digest.is_empty() { Ok(None) } else { Err(Distrust::OtherRunbook) };
    };
    let runbook =
        view.runbook.as_ref().filter(|runbook| runbook.id == call.id).ok_or(Distrust::OtherRunbook)?;
    if manifest.runbook_digest != digest(view.opened.runbook_text.as_bytes()) {
        return Err(Distrust::OtherRunbook);
    }
    runbook.bind(&call.parameters).map(Some).map_err(|_| Distrust::OtherRunbook)
}

/// The steps of an entry are exactly what the runbook's text makes of its remedy here: nothing is changed, left out or
/// slipped in between.
fn remedy(bound: &Bound, entry: &PlanEntry, leaves: &[Leaf], target: &Target) -> Result<(), Distrust> {
    let expected = bound.steps(&entry.remedy, &target.stack);
    let planned: Vec<_> = entry.leaves.iter().filter_map(|index| leaves.get(*index as usize)).collect();
    let same = |(leaf, step): (&&Leaf, &StepSpec)| {
        leaf.operation.as_ref() == Some(&step.request)
            && (leaf.step, leaf.timeout_ms) == (step.step, step.timeout_ms)
    };
    let actions = planned.len() == expected.len() && planned.iter().zip(&expected).all(same);
    if actions && outlined(bound, entry, target) {
        return Ok(());
    }
    let lines = planned.iter().filter_map(|leaf| crate::view::request::line(leaf.operation.as_ref()?));
    Err(Distrust::OtherOperation(lines.collect::<Vec<_>>().join("; ")))
}

fn loses(leaf: &Leaf) -> bool {
    let operation = leaf.operation.as_ref().and_then(|request| Operation::of(request).ok());
    operation.is_some_and(|operation| operation.authority == Authority::OrderChallenge)
}

/// What an entry would lose is shown, and is what its orders carry: once for each, and for nothing else.
fn prepared(entry: &PlanEntry, leaves: &[Leaf]) -> Option<()> {
    let mut shown: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for prepared in &entry.prepared {
        let found = digest(&prepared.result.as_ref()?.encode_to_vec()).to_vec();
        if shown.insert(prepared.leaf, found).is_some() {
            return None;
        }
    }
    for index in &entry.leaves {
        let leaf = leaves.get(*index as usize)?;
        let whole = match shown.remove(index) {
            Some(found) => loses(leaf) && leaf.challenge.len() == 32 && leaf.prepared == found,
            None => !loses(leaf) && leaf.challenge.is_empty() && leaf.prepared.is_empty(),
        };
        if !whole {
            return None;
        }
    }
    shown.is_empty().then_some(())
}

/// The steps between the actions, and the conditions, are the runbook's. Only the words of those that wait are the
/// controller's: there is evidence in them.
fn outlined(bound: &Bound, entry: &PlanEntry, target: &Target) -> bool {
    let subject = Subject { host: &target.host_name, stack: &target.stack, now_ms: 0 };
    let mut outline = bound.outline(&entry.remedy, &subject, &Evidence::new());
    let first = entry.leaves.first().copied().unwrap_or(0);
    for (step, shown) in outline.iter_mut().zip(&entry.steps) {
        match (&mut step.kind, &shown.kind) {
            (Some(Step::Leaf(leaf)), _) => *leaf += first,
            (Some(Step::Wait(wait)), Some(Step::Wait(shown))) => wait.says.clone_from(&shown.says),
            (Some(Step::Manual(step)), Some(Step::Manual(shown))) => step.says.clone_from(&shown.says),
            _ => {}
        }
    }
    outline == entry.steps
}

/// One task is for the host that is shown, which was selected, and does what was asked.
fn task(leaf: &Leaf, target: &Target, spec: &RunSpec) -> Result<(), Distrust> {
    let request = leaf.operation.as_ref().ok_or(Distrust::Unknown(FieldError::Unknown))?;
    Operation::of(request).map_err(Distrust::Unknown)?;
    operation::check(request).map_err(Distrust::Unknown)?;
    if leaf.host != target.host || leaf.incarnation != target.incarnation {
        let show = |text: &str| escape(text, false).into_owned();
        return Err(Distrust::OtherHost { shown: show(&target.host_name), actual: show(&leaf.host) });
    }
    if matches!(spec.kind, Some(Kind::Operation(_))) && leaf.timeout_ms != time_limit(spec, request) {
        return Err(Distrust::OtherRequest);
    }
    let selector = spec.selector.clone().unwrap_or_default();
    // Labels are the controller's to know; names are ours.
    let names = vigie_proto::v1::Selector {
        hosts: selector.hosts.clone(),
        all: selector.all,
        ..vigie_proto::v1::Selector::default()
    };
    let named = Selector::try_from(&names)
        .map_or(names.hosts.is_empty(), |names| names.matches(&target.host_name, &[]));
    let stack = selector.stack.is_empty() || selector.stack == target.stack;
    let mut places = selector.places.iter();
    let written_out = selector.places.is_empty()
        || places.any(|place| (&place.host, &place.stack) == (&target.host_name, &target.stack));
    if !named || !stack || !written_out {
        return Err(Distrust::NotSelected(escape(&place_name(target), false).into_owned()));
    }
    if let Some(Kind::Operation(asked)) = &spec.kind
        && !fulfils(asked, request, &target.stack)
    {
        let line = crate::view::request::line(request).unwrap_or_default();
        return Err(Distrust::OtherOperation(line));
    }
    Ok(())
}

/// How long a single operation may run: as long as was asked for, or as the catalogue says.
fn time_limit(spec: &RunSpec, request: &Request) -> u32 {
    match spec.timeout_ms {
        0 => Operation::of(request)
            .map_or(0, |operation| u32::try_from(operation.timeout().as_millis()).unwrap_or(u32::MAX)),
        asked => asked,
    }
}

/// A time for an error's sentence.
pub(crate) fn moment(at_ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(at_ms)
        .map_or_else(|| format!("{at_ms} (Unix ms)"), |at| at.with_timezone(&chrono::Local).to_rfc3339())
}

/// Whether a task is what was asked; the controller fills in the stack where none was named.
fn fulfils(asked: &Request, task: &Request, stack: &str) -> bool {
    descriptors::with_stack(asked, stack) == *task
}

#[cfg(test)]
mod tests {
    use vigie_proto::{
        order::{VerifyingKey, digest},
        v1::{
            ComposeRestartRequest, ExecRequest, Place, Planned, RunEvent, request::Operation as Asked,
            run_event::Event,
        },
    };

    use super::*;
    use crate::view::fixtures::{self, Fleet};

    /// The run's plan, with one thing changed before it is put together.
    fn examine(
        fleet: &Fleet,
        change: impl FnOnce(&mut Manifest, &mut Vec<Leaf>, &mut Planned),
    ) -> Result<Plan, Distrust> {
        let mut view = fleet.planned();
        let mut planned = view.plan.clone().unwrap();
        let mut manifest = Manifest::decode(planned.manifest.as_slice()).unwrap();
        let mut leaves: Vec<_> =
            planned.leaves.iter().map(|leaf| Leaf::decode(leaf.as_slice()).unwrap()).collect();
        change(&mut manifest, &mut leaves, &mut planned);
        let batch = Batch::assemble(manifest, &leaves);
        let planned =
            Planned { manifest: batch.manifest().to_vec(), leaves: batch.leaves().to_vec(), ..planned };
        let seq = view.last_seq + 1;
        view.apply(RunEvent { seq, at_ms: 0, event: Some(Event::Planned(planned)) });
        Plan::examine(&view, Some(&fleet.spec), "ana", crate::now_ms())
    }

    fn exec() -> Option<Request> {
        let exec = ExecRequest { program: "rm".to_owned(), args: vec!["-rf".to_owned(), "/".to_owned()] };
        Some(Request { operation: Some(Asked::Exec(exec)) })
    }

    #[test]
    fn an_honest_plan_is_signed_over_its_own_bytes() {
        for fleet in [fixtures::restart_runbook(), fixtures::restart_operation()] {
            let plan = examine(&fleet, |_, _, _| {}).unwrap();
            let key = SigningKey::generate().unwrap();
            let public = VerifyingKey::from_bytes(&key.public().to_bytes()).unwrap();
            assert!(public.verifies(Domain::Manifest, plan.bytes(), &plan.sign(&key)));
            assert_eq!(digest(plan.bytes()), digest(&plan.manifest.encode_to_vec()));
        }
    }

    #[test]
    fn whatever_a_controller_changes_is_noticed() {
        type Change = fn(&mut Manifest, &mut Vec<Leaf>, &mut Planned);
        let changes: &[(&str, Change)] = &[
            ("another run", |manifest, _, _| manifest.run = "0198".to_owned()),
            ("another person", |manifest, _, _| manifest.person = "mallory".to_owned()),
            ("another runbook", |manifest, _, _| manifest.runbook_digest = vec![1; 32]),
            ("another operation", |_, leaves, _| leaves[0].operation = exec()),
            ("no operation", |_, leaves, _| leaves[0].operation = None),
            ("another host", |_, leaves, _| {
                leaves[0].host = "01900000-0000-7000-8000-00000000ffff".to_owned();
            }),
            ("an earlier enrolment", |_, leaves, _| leaves[0].incarnation = 0),
            ("a task that is not shown", |_, leaves, _| {
                leaves.push(Leaf { operation: exec(), ..leaves[0].clone() });
            }),
            ("a task shown twice", |_, _, planned| planned.entries[1].leaves = vec![0]),
            ("the same once more on a host", |_, leaves, planned| {
                planned.entries[0].leaves.push(u32::try_from(leaves.len()).unwrap());
                leaves.push(Leaf {
                    order: "01900000-0000-7000-8000-00000000eeee".to_owned(),
                    ..leaves[0].clone()
                });
            }),
            ("the same host once more", |_, leaves, planned| {
                let again = u32::try_from(leaves.len()).unwrap();
                planned.entries.push(PlanEntry { leaves: vec![again], ..planned.entries[0].clone() });
                leaves.push(Leaf {
                    order: "01900000-0000-7000-8000-00000000eeee".to_owned(),
                    ..leaves[0].clone()
                });
            }),
            ("one order under two tasks", |_, leaves, _| leaves[1].order = leaves[0].order.clone()),
            ("an endless window", |manifest, _, _| manifest.not_after_ms = i64::MAX),
            ("a window that begins tomorrow", |manifest, _, _| {
                manifest.not_before_ms = crate::now_ms() + 24 * 3_600_000;
                manifest.not_after_ms = manifest.not_before_ms + 900_000;
            }),
            ("another time limit", |_, leaves, _| leaves[0].timeout_ms += 1),
            ("a target that is not there", |_, _, planned| planned.entries[0].target = 99),
            ("other services", |_, leaves, _| {
                let restart = ComposeRestartRequest {
                    stack: "sylion".to_owned(),
                    services: vec!["backend".to_owned(), "postgres".to_owned()],
                };
                leaves[0].operation = Some(Request { operation: Some(Asked::ComposeRestart(restart)) });
            }),
            ("another stack", |_, leaves, _| {
                let restart = ComposeRestartRequest {
                    stack: "staging".to_owned(),
                    services: vec!["backend".to_owned()],
                };
                leaves[0].operation = Some(Request { operation: Some(Asked::ComposeRestart(restart)) });
            }),
        ];
        for fleet in [fixtures::restart_runbook(), fixtures::restart_operation()] {
            for (name, change) in changes {
                assert!(examine(&fleet, change).is_err(), "{name} passed");
            }
        }
    }

    #[test]
    fn hosts_that_were_not_named_are_refused() {
        let mut fleet = fixtures::restart_operation();
        fleet.spec.selector =
            Some(vigie_proto::v1::Selector { hosts: "vps1".to_owned(), ..Default::default() });
        let error = examine(&fleet, |_, _, _| {}).unwrap_err();
        assert_eq!(error, Distrust::NotSelected("vps2 · sylion".to_owned()));
    }

    #[test]
    fn a_retry_holds_the_places_that_it_names_and_no_neighbour() {
        let place = |stack: &str| Place { host: "vps1".to_owned(), stack: stack.to_owned() };
        let mut fleet = fixtures::restart_operation();
        fleet.stacks(&["blog", "shop"]);
        let mut examined = |places| {
            fleet.spec.selector = Some(vigie_proto::v1::Selector { places, ..Default::default() });
            examine(&fleet, |_, _, _| {}).map(drop)
        };
        assert_eq!(examined(vec![place("shop"), place("blog")]), Ok(()));
        assert_eq!(examined(vec![place("blog")]), Err(Distrust::NotSelected("vps1 · shop".to_owned())));
    }

    #[test]
    fn only_a_program_on_named_hosts_is_its_own_consent() {
        let on = |hosts: &str, labels: &str, request: Option<Request>| RunSpec {
            selector: Some(vigie_proto::v1::Selector {
                hosts: hosts.to_owned(),
                labels: labels.to_owned(),
                ..Default::default()
            }),
            kind: request.map(Kind::Operation),
            ..RunSpec::default()
        };
        assert!(was_written_out(Some(&on("vps1", "", exec()))));
        let again = RunSpec { retry_of: "a run".to_owned(), ..on("vps1", "", exec()) };
        assert!(!was_written_out(Some(&again)));
        assert!(!was_written_out(Some(&on("vps1", "env=prod", exec()))));
        assert!(!was_written_out(Some(&on("", "", exec()))));
        assert!(!was_written_out(Some(&fixtures::restart_operation().spec)));
        assert!(!was_written_out(None));
    }

    #[test]
    fn another_request_than_ours_is_refused() {
        let fleet = fixtures::restart_operation();
        let asked = RunSpec { timeout_ms: 1, ..fleet.spec.clone() };
        let refused = Plan::examine(&fleet.planned(), Some(&asked), "ana", crate::now_ms()).unwrap_err();
        assert_eq!(refused, Distrust::OtherRequest);
    }

    #[test]
    fn bytes_that_do_not_belong_together_are_refused() {
        let fleet = fixtures::restart_operation();
        let mut view = fleet.planned();
        view.plan.as_mut().unwrap().leaves[0].push(0);
        assert!(matches!(Plan::examine(&view, None, "ana", crate::now_ms()), Err(Distrust::Batch(_))));
    }
}
