//! A run of every runbook at once: what it asks, and what it concludes.

use std::{collections::BTreeMap, sync::Arc};

use vigie_proto::v1::{
    Concluded, Conclusion, Opened, OpenedRunbook, ProbePurpose, RunMode, RunSpec, Target,
    request::Operation::HostChanges,
};

use super::{OpenError, ProbeKey, State, beside, decide::place, wanted::Asked};
use crate::{
    Runbook,
    suite::{Layout, Suite},
};

/// The runbooks of a run, and its hosts with what is asked of each.
#[derive(Debug, Clone)]
pub(super) struct Whole {
    suite: Suite,
    hosts: Vec<Host>,
}

/// One host: its targets' places in the run, and what is asked of them.
#[derive(Debug, Clone)]
struct Host {
    targets: Vec<usize>,
    layout: Arc<Layout>,
    /// Whose changes are asked beside its verdict; `None` where a runbook asks by itself.
    changes_of: Option<String>,
}

/// The first event of a run of every runbook: each of them frozen, those named that need parameters.
///
/// # Errors
/// When it should do more than diagnose, or no runbook is left.
pub fn open_all(
    spec: RunSpec,
    operator: &str,
    targets: Vec<Target>,
    runbooks: &[&Runbook],
) -> Result<Opened, OpenError> {
    if let Some(vigie_proto::v1::run_spec::Kind::Runbook(call)) = &spec.kind {
        if call.mode() != RunMode::Diagnose {
            return Err(OpenError::OnlyDiagnose);
        }
        if !call.parameters.is_empty() || !call.remedy.is_empty() {
            return Err(OpenError::Parameters(
                "parameters and a remedy belong to a runbook: name it".to_owned(),
            ));
        }
    }
    let (suite, left_out) = Suite::bind(runbooks.iter().copied());
    let runbooks: Vec<_> = suite
        .runbooks()
        .map(|runbook| OpenedRunbook {
            id: runbook.id.clone(),
            text: runbook.text.clone(),
            digest: runbook.digest.to_vec(),
        })
        .collect();
    if runbooks.is_empty() {
        return Err(OpenError::UnknownRunbook(String::new()));
    }
    let title = "diagnose".to_owned();
    Ok(Opened {
        spec: Some(spec),
        operator: operator.to_owned(),
        targets,
        title,
        runbooks,
        left_out,
        ..Opened::default()
    })
}

impl Whole {
    /// From a run's first event.
    ///
    /// # Errors
    /// When a runbook in it does not read.
    pub(super) fn read(opened: &Opened) -> Result<Self, String> {
        let mut runbooks = Vec::new();
        for OpenedRunbook { id, text, .. } in &opened.runbooks {
            runbooks.push(Runbook::parse(text, id).map_err(|found| found.to_string())?);
        }
        let (suite, _) = Suite::bind(&runbooks);
        let mut by_host: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, target) in opened.targets.iter().enumerate() {
            by_host.entry(&target.host).or_default().push(place);
        }
        // Hosts mostly have the same stacks: what is asked of them is put together once.
        let mut layouts: BTreeMap<Vec<&str>, Arc<Layout>> = BTreeMap::new();
        let hosts = by_host
            .into_values()
            .map(|targets| {
                let stacks: Vec<_> =
                    targets.iter().map(|place| opened.targets[*place].stack.as_str()).collect();
                let layout = layouts.entry(stacks.clone()).or_insert_with(|| Arc::new(suite.layout(&stacks)));
                let asks_itself =
                    layout.asks().iter().any(|ask| matches!(ask.request.operation, Some(HostChanges(_))));
                let changes_of = (!asks_itself).then(|| beside::stack_of(stacks).to_owned());
                Host { targets, layout: Arc::clone(layout), changes_of }
            })
            .collect();
        Ok(Self { suite, hosts })
    }

    /// Every question to the hosts that are not judged yet.
    pub(super) fn asks(&self, state: &State) -> Vec<Asked> {
        let open = self.hosts.iter().filter(|host| !host.is_concluded(state));
        let asks = open.flat_map(|host| {
            host.layout.asks().iter().map(|ask| Asked {
                key: ProbeKey {
                    target: host.targets[ask.target],
                    probe: ask.key.clone(),
                    purpose: ProbePurpose::Diagnosis,
                    round: 0,
                },
                request: ask.request.clone(),
                from: ask.from,
                timeout_ms: ask.timeout_ms,
                after: ask.after.clone(),
                not_before_ms: 0,
            })
        });
        asks.collect()
    }

    /// For each host the target that its changes are asked for, and of which stack.
    pub(super) fn beside(&self) -> impl Iterator<Item = (usize, &str)> {
        self.hosts.iter().filter_map(|host| Some((*host.targets.first()?, host.changes_of.as_deref()?)))
    }

    /// The judgement of every host whose questions are all answered; nothing while there is none.
    pub(super) fn conclude(&self, state: &State, waiting: &[bool], now_ms: i64) -> Option<Concluded> {
        let ready = self
            .hosts
            .iter()
            .filter(|host| !host.is_concluded(state) && !host.targets.iter().any(|target| waiting[*target]));
        let conclusions: Vec<_> = ready.flat_map(|host| self.judge(host, state, now_ms)).collect();
        (!conclusions.is_empty()).then_some(Concluded { conclusions })
    }

    fn judge(&self, host: &Host, state: &State, now_ms: i64) -> Vec<Conclusion> {
        let seen: Vec<_> = host.targets.iter().map(|target| &state.targets[*target]).collect();
        let name = seen.first().map_or("", |target| target.target.host_name.as_str());
        let evidence: Vec<_> =
            seen.iter().map(|target| (target.target.stack.as_str(), &target.evidence)).collect();
        let verdicts = self.suite.judge(&host.layout, name, now_ms, &evidence);
        let verdicts = host.targets.iter().zip(verdicts).map(|(target, verdict)| Conclusion {
            target: place(*target),
            purpose: ProbePurpose::Diagnosis.into(),
            findings: verdict.findings,
            restore: verdict.restore,
            ..Conclusion::default()
        });
        verdicts.collect()
    }
}

impl Host {
    fn is_concluded(&self, state: &State) -> bool {
        self.targets.iter().all(|target| state.targets[*target].conclusion.is_some())
    }
}
