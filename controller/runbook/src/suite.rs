//! Every runbook at once: each distinct question is asked once, and causes are found across runbooks.
//!
//! A host is judged with all its stacks together, since what fills its disk is what stops its database. What runbooks
//! about hosts need is asked for the host, what runbooks about stacks need for each stack; a request that is the same
//! for both is asked for whoever comes first. Probes that are `deep` are not asked here: what rests on them is left to
//! a run of its runbook alone.

use std::collections::{BTreeMap, HashMap};

use prost::Message as _;
use vigie_proto::v1::{Finding, FindingState, Outcome, Request, RestoreAdvice};

use crate::{
    bound::{Bound, Evidence, Subject},
    model::{Runbook, Scope, Vantage},
};

/// Runbooks with their default parameters, judged together.
#[derive(Debug, Clone)]
pub struct Suite {
    runbooks: Vec<Bound>,
}

/// What is asked of one host and its stacks, and where each runbook finds its answers.
#[derive(Debug, Clone)]
pub struct Layout {
    asks: Vec<Ask>,
    /// For each target: the runbooks that judge it, with the place and key of each of their probes' answers.
    sources: Vec<Vec<Sources>>,
}

/// A question to a host.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The target that it is asked for: its place among the host's.
    pub target: usize,
    /// `runbook/probe`, of the runbook that asks first.
    pub key: String,
    pub request: Request,
    pub from: Vantage,
    pub timeout_ms: u32,
    /// Keys of the same target that are answered first.
    pub after: Vec<String>,
}

#[derive(Debug, Clone)]
struct Sources {
    runbook: usize,
    /// By probe: the target that the answer is kept for, and its key there.
    answers: BTreeMap<String, (usize, String)>,
}

/// What all runbooks together say of one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Confirmed and unknown ones in full, those that are ruled out without their evidence; in the runbooks' order.
    pub findings: Vec<Finding>,
    /// The gravest answer of the runbooks that found a root cause; nothing where none did.
    pub restore: Option<RestoreAdvice>,
}

impl Suite {
    /// The runbooks that need no parameter, in this order, and the ids of those that do.
    pub fn bind<'a>(runbooks: impl IntoIterator<Item = &'a Runbook>) -> (Self, Vec<String>) {
        let (mut bound, mut left_out) = (Vec::new(), Vec::new());
        for runbook in runbooks {
            match runbook.bind(&[]) {
                Ok(runbook) => bound.push(runbook),
                Err(_) => left_out.push(runbook.id.clone()),
            }
        }
        (Self { runbooks: bound }, left_out)
    }

    /// The runbooks in it.
    pub fn runbooks(&self) -> impl Iterator<Item = &Runbook> {
        self.runbooks.iter().map(Bound::runbook)
    }

    /// What to ask of a host. `stacks` names its targets: one with an empty name for the host itself, and its stacks.
    pub fn layout(&self, stacks: &[&str]) -> Layout {
        let mut asks: Vec<Ask> = Vec::new();
        let mut known: HashMap<(Vantage, Vec<u8>), usize> = HashMap::new();
        let mut sources = Vec::new();
        for (target, stack) in stacks.iter().enumerate() {
            let scope = if stack.is_empty() { Scope::Host } else { Scope::Stack };
            let mut of_target = Vec::new();
            for (place, bound) in self.runbooks.iter().enumerate() {
                if bound.runbook().scope != scope {
                    continue;
                }
                let mut answers: BTreeMap<String, (usize, String)> = BTreeMap::new();
                for (probe, spec) in bound.runbook().probes.iter().zip(bound.probes(stack)) {
                    if probe.deep {
                        continue;
                    }
                    let after: Vec<_> = spec.after.iter().filter_map(|id| answers.get(id)).cloned().collect();
                    let ask = *known.entry((spec.from, spec.request.encode_to_vec())).or_insert_with(|| {
                        asks.push(Ask {
                            target,
                            key: format!("{}/{}", bound.runbook().id, spec.id),
                            request: spec.request.clone(),
                            from: spec.from,
                            timeout_ms: spec.timeout_ms,
                            // What the host was asked for comes first anyway.
                            after: after
                                .into_iter()
                                .filter(|(of, _)| *of == target)
                                .map(|(_, key)| key)
                                .collect(),
                        });
                        asks.len() - 1
                    });
                    let ask = &mut asks[ask];
                    ask.timeout_ms = ask.timeout_ms.max(spec.timeout_ms);
                    answers.insert(spec.id, (ask.target, ask.key.clone()));
                }
                of_target.push(Sources { runbook: place, answers });
            }
            sources.push(of_target);
        }
        Layout { asks, sources }
    }

    /// Judges a host with all its targets: their stacks in the layout's order, and what was answered for each.
    pub fn judge(
        &self,
        layout: &Layout,
        host: &str,
        now_ms: i64,
        targets: &[(&str, &BTreeMap<String, Outcome>)],
    ) -> Vec<Verdict> {
        let mut judged = Vec::new();
        for (target, (stack, _)) in targets.iter().enumerate() {
            for Sources { runbook, answers } in layout.sources.get(target).into_iter().flatten() {
                let evidence: Evidence = answers
                    .iter()
                    .filter_map(|(probe, (of, key))| {
                        Some((probe.clone(), targets.get(*of)?.1.get(key)?.clone()))
                    })
                    .collect();
                let bound = &self.runbooks[*runbook];
                let judgement = bound.judge(&Subject { host, stack, now_ms }, &evidence);
                judged.push((target, bound, judgement));
            }
        }
        let mut found = self.confirmed(&judged);
        explain(&mut found);
        let mut verdicts: Vec<_> =
            targets.iter().map(|_| Verdict { findings: Vec::new(), restore: None }).collect();
        for (place, (target, bound, judgement)) in judged.into_iter().enumerate() {
            let rules = &bound.runbook().findings;
            let mut rooted = false;
            for (index, (rule, mut finding)) in rules.iter().zip(judgement.findings).enumerate() {
                finding.runbook.clone_from(&bound.runbook().id);
                match finding.state() {
                    FindingState::Confirmed => {
                        let confirmed = found.iter().position(|c| (c.judged, c.index) == (place, index));
                        finding.explained_by = confirmed.map(|at| cause(&found, at)).unwrap_or_default();
                        if finding.explained_by.is_empty() {
                            rooted = true;
                        } else {
                            finding.remedy.clear();
                        }
                    }
                    FindingState::Unknown if bound.is_deep(rule) => {
                        finding.set_state(FindingState::NotAsked);
                        finding.missing.clear();
                    }
                    FindingState::RuledOut => finding.evidence.clear(),
                    _ => {}
                }
                verdicts[target].findings.push(finding);
            }
            let restore = &mut verdicts[target].restore;
            if rooted && restore.as_ref().is_none_or(|so_far| grave(&judgement.restore) > grave(so_far)) {
                *restore = Some(judgement.restore);
            }
        }
        verdicts
    }

    fn confirmed<'a>(&self, judged: &[(usize, &'a Bound, crate::Judgement)]) -> Vec<Confirmed<'a>> {
        let mut found = Vec::new();
        for (place, (target, bound, judgement)) in judged.iter().enumerate() {
            let on_host = bound.runbook().scope == Scope::Host;
            for (index, finding) in judgement.findings.iter().enumerate() {
                if finding.state() == FindingState::Confirmed {
                    let rule = &bound.runbook().findings[index];
                    let runbook = bound.runbook().id.as_str();
                    let explains = rule.explains.as_slice();
                    found.push(Confirmed {
                        judged: place,
                        index,
                        target: *target,
                        on_host,
                        runbook,
                        id: &rule.id,
                        explains,
                        cause: None,
                    });
                }
            }
        }
        found
    }
}

impl Layout {
    /// Every question, once.
    pub fn asks(&self) -> &[Ask] {
        &self.asks
    }
}

/// A confirmed finding among those of a whole host.
struct Confirmed<'a> {
    judged: usize,
    index: usize,
    target: usize,
    on_host: bool,
    runbook: &'a str,
    id: &'a str,
    explains: &'a [String],
    /// What explains it: a place among the confirmed.
    cause: Option<usize>,
}

impl Confirmed<'_> {
    /// Whether this one explains another: by its id within a runbook, by `runbook.id` or `runbook.*` across them. A
    /// stack's trouble explains its own and the host's, never another stack's.
    fn explains(&self, other: &Self) -> bool {
        if self.target != other.target && !self.on_host && !other.on_host {
            return false;
        }
        if (self.judged, self.index) == (other.judged, other.index) {
            return false;
        }
        self.explains.iter().any(|reference| match reference.split_once('.') {
            None => self.judged == other.judged && reference == other.id,
            Some((runbook, id)) => {
                runbook == other.runbook && runbook != self.runbook && (id == "*" || id == other.id)
            }
        })
    }
}

/// Gives each confirmed finding its cause. A root cause is the better explanation where there are several.
fn explain(found: &mut [Confirmed<'_>]) {
    let causes: Vec<Vec<usize>> = (0..found.len())
        .map(|at| (0..found.len()).filter(|cause| found[*cause].explains(&found[at])).collect())
        .collect();
    for (at, causes_of) in causes.iter().enumerate() {
        let root = causes_of.iter().find(|cause| causes[**cause].is_empty());
        found[at].cause = root.or(causes_of.first()).copied();
    }
    // Runbooks that explain each other in a circle would leave no root: the first of the circle is one then.
    for at in 0..found.len() {
        let mut next = found[at].cause;
        for _ in 0..found.len() {
            match next {
                Some(cause) if cause == at => {
                    found[at].cause = None;
                    break;
                }
                Some(cause) => next = found[cause].cause,
                None => break,
            }
        }
    }
}

/// What explains a finding, as it is written: its id within a runbook, `runbook.id` across them.
fn cause(found: &[Confirmed<'_>], at: usize) -> String {
    match found[at].cause.map(|cause| &found[cause]) {
        None => String::new(),
        Some(cause) if cause.runbook == found[at].runbook => cause.id.to_owned(),
        Some(cause) => format!("{}.{}", cause.runbook, cause.id),
    }
}

fn grave(restore: &RestoreAdvice) -> usize {
    ["never", "maybe", "yes"].iter().position(|answer| *answer == restore.answer).unwrap_or(0)
}
