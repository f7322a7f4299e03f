//! The answer to "what is wrong with the fleet?": every runbook's causes over all hosts, the gravest first, each with
//! its consequences, its evidence and the command that goes on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{Finding, FindingState},
};

use super::{
    changes::Lately,
    diagnose::{Merged, evidence, only, says, unreachable},
    run::{Health, RunView},
};
use crate::{
    look::{Look, count, duration_ms},
    names,
};

/// A confirmed finding of one target, with its place in the runbooks' order.
#[derive(Clone, Copy)]
struct Found<'a> {
    target: u32,
    order: usize,
    finding: &'a Finding,
}

/// One root cause over the fleet.
struct Cause<'a> {
    of: Vec<Found<'a>>,
}

impl<'a> Cause<'a> {
    fn first(&self) -> &'a Finding {
        self.of[0].finding
    }

    fn merged(&self) -> Merged<'a> {
        Merged { of: self.of.iter().map(|found| (found.target, found.finding)).collect() }
    }

    fn targets(&self) -> Vec<u32> {
        self.of.iter().map(|found| found.target).collect()
    }

    fn hosts(&self, view: &'a RunView) -> BTreeSet<&'a str> {
        self.of.iter().filter_map(|f| view.target(f.target)).map(|target| target.host_name.as_str()).collect()
    }
}

/// The rank of what is no trouble.
const NOTICE: usize = 2;

/// The worst first.
fn rank(severity: &str) -> usize {
    ["critical", "warning", "notice"].iter().position(|known| *known == severity).unwrap_or(0)
}

fn confirmed(view: &RunView) -> Vec<Found<'_>> {
    let mut found = Vec::new();
    for (target, conclusion) in &view.conclusions {
        for (order, finding) in conclusion.findings.iter().enumerate() {
            if finding.state() == FindingState::Confirmed {
                // The runbooks of a host and of its stacks are different ones: their order is the run's.
                let runbook = view.opened.runbooks.iter().position(|runbook| runbook.id == finding.runbook);
                found.push(Found { target: *target, order: runbook.unwrap_or(0) * 1000 + order, finding });
            }
        }
    }
    found
}

/// The root causes: by severity, then by how many hosts have them, then in the runbooks' order.
fn causes<'a>(view: &'a RunView, found: &[Found<'a>]) -> Vec<Cause<'a>> {
    let mut causes: BTreeMap<(&str, &str), Cause<'_>> = BTreeMap::new();
    for found in found.iter().filter(|found| found.finding.explained_by.is_empty()) {
        let cause = causes.entry((&found.finding.runbook, &found.finding.id));
        cause.or_insert_with(|| Cause { of: Vec::new() }).of.push(*found);
    }
    let mut causes: Vec<_> = causes.into_values().collect();
    causes.sort_by_key(|cause| {
        let hosts = std::cmp::Reverse(cause.hosts(view).len());
        (rank(&cause.first().severity), hosts, cause.of[0].order)
    });
    causes
}

/// What a confirmed finding explains directly, on its own target or between a host and its stacks.
fn explained<'a>(view: &RunView, found: &[Found<'a>], cause: &Found<'a>) -> Vec<Found<'a>> {
    let host = |target: u32| view.target(target).map_or("", |target| target.host.as_str());
    let is_host = |target: u32| view.target(target).is_some_and(|target| target.stack.is_empty());
    let explains = |other: &&Found<'a>| match other.finding.explained_by.split_once('.') {
        None => {
            other.target == cause.target
                && other.finding.runbook == cause.finding.runbook
                && other.finding.explained_by == cause.finding.id
        }
        Some((runbook, id)) => {
            let related = other.target == cause.target
                || (host(other.target) == host(cause.target)
                    && (is_host(other.target) || is_host(cause.target)));
            related && runbook == cause.finding.runbook && id == cause.finding.id
        }
    };
    found.iter().filter(explains).copied().collect()
}

/// Consequences under their cause, theirs under them; the same one of several hosts is one.
fn consequences<'a>(
    view: &'a RunView,
    found: &[Found<'a>],
    causes: &[Found<'a>],
    depth: usize,
    told: &mut dyn FnMut(usize, &Cause<'a>),
) {
    // A circle of explanations ends where every finding has been an ancestor once.
    if depth > found.len() {
        return;
    }
    let mut groups: BTreeMap<(usize, &str, &str), Cause<'a>> = BTreeMap::new();
    for consequence in causes.iter().flat_map(|cause| explained(view, found, cause)) {
        let key = (consequence.order, consequence.finding.runbook.as_str(), consequence.finding.id.as_str());
        groups.entry(key).or_insert_with(|| Cause { of: Vec::new() }).of.push(consequence);
    }
    for group in groups.values() {
        told(depth, group);
        consequences(view, found, &group.of, depth + 1, told);
    }
}

/// What is wrong, the gravest first; then what could not be told; then who is well, in one line.
pub fn body(view: &RunView, look: &Look) -> String {
    let found = confirmed(view);
    let (lately, mut told) = (Lately::of(view), BTreeSet::new());
    let mut text = String::new();
    for cause in causes(view, &found) {
        let merged = cause.merged();
        let word = escape(&cause.first().severity, false).into_owned();
        let mark = match rank(&cause.first().severity) {
            0 => look.red("✗"),
            1 => look.yellow("!"),
            _ => look.dim("·"),
        };
        let label = view.label(&cause.targets());
        let runbook = escape(&cause.first().runbook, false);
        text.push_str(&format!(
            "{mark} {}  {}\n",
            look.bold(&label),
            look.dim(&format!("{word} · {runbook}"))
        ));
        text.push_str(&says(view, &merged, "  ", look));
        text.push_str(&evidence(&merged, look));
        consequences(view, &found, &cause.of, 2, &mut |depth, group| {
            let merged = group.merged();
            for (says, targets) in merged.variants(|finding| &finding.says) {
                let indent = "  ".repeat(depth);
                let from = if group.first().runbook == cause.first().runbook {
                    String::new()
                } else {
                    look.dim(&format!("  {}", escape(&group.first().runbook, false)))
                };
                text.push_str(&format!(
                    "{indent}{} {says}{from}{}\n",
                    look.dim("↳"),
                    only(view, &merged, &targets, look)
                ));
            }
        });
        text.push_str(&what_to_do(view, &cause, look));
        // A host's changes stand under the gravest of its causes.
        if rank(&cause.first().severity) < NOTICE {
            let host = |target: &u32| view.target(*target).map(|of| of.host_name.as_str());
            let mut fresh = cause.targets();
            fresh.retain(|target| host(target).is_some_and(|host| !told.contains(host)));
            told.extend(fresh.iter().filter_map(host));
            text.push_str(&lately.text(&fresh, look));
        }
        text.push('\n');
    }
    text.push_str(&unknown(view, look));
    let untold: Vec<u32> = hosts(view)
        .into_iter()
        .filter(|(host, (worst, _))| *worst == Health::Unknown && !told.contains(host))
        .flat_map(|(_, (_, targets))| targets)
        .collect();
    text.push_str(&lately.text(&untold, look));
    text.push_str(&quiet(view, look));
    text.push_str(&left_out(view, look));
    text
}

fn what_to_do(view: &RunView, cause: &Cause<'_>, look: &Look) -> String {
    let mut text = String::new();
    let merged = cause.merged();
    for (advice, targets) in merged.variants(|finding| &finding.advise) {
        if !advice.is_empty() {
            let of = only(view, &merged, &targets, look);
            text.push_str(&format!("    {} {advice}{of}\n", look.cyan("do:")));
        }
    }
    for (remedy, targets) in merged.variants(|finding| &finding.remedy) {
        let command = look.dim(&command(view, cause.first(), &targets));
        if remedy.is_empty() {
            continue;
        }
        let title = match view.remedy_of(&cause.first().runbook, &remedy) {
            "" => look.bold(&remedy),
            title => format!("{} {}", look.bold(&escape(title, false)), look.dim(&format!("[{remedy}]"))),
        };
        text.push_str(&format!("    {} {title}  {command}\n", look.cyan("remedy:")));
    }
    let restores: BTreeSet<_> = cause
        .of
        .iter()
        .filter_map(|found| view.conclusions.get(&found.target)?.restore.as_ref())
        .filter(|restore| restore.answer != "never")
        .map(|restore| (restore.answer.as_str(), restore.why.as_str()))
        .collect();
    for (answer, why) in restores {
        let (answer, why) = (escape(answer, false), escape(why, false));
        text.push_str(&format!("    {} {}: {why}\n", look.cyan("restore a backup?"), look.yellow(&answer)));
    }
    text
}

/// The command that goes on: the remedy where there is one, else the diagnosis by the runbook alone.
fn command(view: &RunView, finding: &Finding, targets: &[u32]) -> String {
    let verb = if finding.remedy.is_empty() { "diagnose" } else { "run" };
    view.command(verb, &finding.runbook, targets)
}

/// What could not be judged, and why; the same on several targets is one line.
fn unknown(view: &RunView, look: &Look) -> String {
    /// Where it is so, and which findings.
    type Unknown<'a> = (Vec<u32>, BTreeSet<&'a str>);
    let mut reasons: BTreeMap<(&str, &str), Unknown<'_>> = BTreeMap::new();
    for (target, conclusion) in &view.conclusions {
        if view.health(*target) == Health::Unreachable {
            continue;
        }
        let unknown = conclusion.findings.iter().filter(|finding| finding.state() == FindingState::Unknown);
        for finding in unknown {
            let (targets, ids) = reasons.entry((&finding.runbook, &finding.missing)).or_default();
            if targets.last() != Some(target) {
                targets.push(*target);
            }
            ids.insert(&finding.says);
        }
    }
    let mut text = String::new();
    for ((runbook, missing), (targets, ids)) in reasons {
        text.push_str(&format!(
            "{} {}  {}: {} cannot be told: {}\n",
            look.yellow("?"),
            look.bold(&view.label(&targets)),
            escape(runbook, false),
            count(ids.len(), "cause"),
            escape(missing, false)
        ));
    }
    text
}

/// Hosts that cannot be asked, and those that are well, in a line each.
fn quiet(view: &RunView, look: &Look) -> String {
    let mut text = String::new();
    let of = |health: Health| -> Vec<u32> {
        let hosts = hosts(view);
        let hosts = hosts.values().filter(|(worst, _)| *worst == health);
        hosts.flat_map(|(_, targets)| targets.iter().copied()).collect()
    };
    let label = |targets: &[u32]| {
        let hosts = targets.iter().filter_map(|target| view.target(*target)).map(|t| t.host_name.as_str());
        look.bold(&escape(&names::counted(hosts.collect::<BTreeSet<_>>()), false))
    };
    let lost = of(Health::Unreachable);
    if !lost.is_empty() {
        let why = unreachable(view, &lost);
        text.push_str(&format!("{} {}  unreachable{why}\n", look.yellow("?"), label(&lost)));
    }
    let well = of(Health::Healthy);
    if !well.is_empty() {
        let per_host = hosts(view).into_values().filter(|(worst, _)| *worst == Health::Healthy);
        let causes = per_host
            .map(|(_, targets)| {
                let conclusions = targets.iter().filter_map(|target| view.conclusions.get(target));
                let findings = conclusions.flat_map(|conclusion| &conclusion.findings);
                findings.filter(|finding| finding.state() == FindingState::RuledOut).count()
            })
            .max()
            .unwrap_or(0);
        let line = format!("healthy: {} ruled out", count(causes, "possible cause"));
        text.push_str(&format!("{} {}  {line}\n", look.green("✓"), label(&well)));
    }
    text
}

/// What this diagnosis did not look at, and how to.
fn left_out(view: &RunView, look: &Look) -> String {
    let mut deep: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for finding in view.conclusions.values().flat_map(|conclusion| &conclusion.findings) {
        if finding.state() == FindingState::NotAsked {
            deep.entry(&finding.runbook).or_default().insert(&finding.id);
        }
    }
    let mut parts: Vec<_> = deep
        .into_iter()
        .map(|(runbook, ids)| format!("{} of {}", count(ids.len(), "cause"), escape(runbook, false)))
        .collect();
    let parameters =
        view.opened.left_out.iter().map(|id| format!("{} (needs parameters)", escape(id, false)));
    parts.extend(parameters);
    if parts.is_empty() {
        return String::new();
    }
    let program = if view.on_host { "vigie-agent" } else { "vigiectl" };
    let line = format!("not looked at: {}; `{program} diagnose RUNBOOK` does", parts.join(", "));
    format!("{}\n", look.dim(&line))
}

/// Each host's targets, and how the worst of them fares.
fn hosts(view: &RunView) -> BTreeMap<&str, (Health, Vec<u32>)> {
    let mut hosts: BTreeMap<&str, (Health, Vec<u32>)> = BTreeMap::new();
    for target in view.targets() {
        let Some(name) = view.target(target).map(|target| target.host_name.as_str()) else { continue };
        let health = view.health(target);
        let host = hosts.entry(name).or_insert((health, Vec::new()));
        host.0 = host.0.min(health);
        host.1.push(target);
    }
    hosts
}

/// The sum, and where to find it again.
pub fn footer(view: &RunView, look: &Look) -> String {
    let hosts = hosts(view);
    let mut tally: BTreeMap<Health, usize> = BTreeMap::new();
    for (health, _) in hosts.values() {
        *tally.entry(*health).or_default() += 1;
    }
    let parts: Vec<_> = tally
        .into_iter()
        .map(|(health, number)| {
            let part = format!("{number} {}", health.word());
            match health {
                Health::Broken => look.red(&part),
                Health::Healthy => look.green(&part),
                _ => look.yellow(&part),
            }
        })
        .collect();
    let took = match view.closed_at_ms {
        0 => "still open".to_owned(),
        closed => duration_ms(closed - view.opened_at_ms),
    };
    let runbooks = count(view.opened.runbooks.len(), "runbook");
    let run = look.dim(&format!("{runbooks} · {took} · run {}", view.run));
    format!("{}, {} · {run}\n", count(hosts.len(), "host"), parts.join(", "))
}

/// The ranked causes as scripts read them.
pub fn document(view: &RunView) -> Vec<Value> {
    let found = confirmed(view);
    let entry = |cause: &Cause<'_>| {
        let finding = cause.first();
        let targets: Vec<_> = cause
            .of
            .iter()
            .filter_map(|f| {
                let target = view.target(f.target)?;
                Some(json!({ "host": target.host_name, "stack": target.stack, "says": f.finding.says }))
            })
            .collect();
        json!({
            "runbook": finding.runbook,
            "finding": finding.id,
            "severity": finding.severity,
            "targets": targets,
        })
    };
    let causes = causes(view, &found);
    let causes = causes.iter().map(|cause| {
        let mut followed = Vec::new();
        consequences(view, &found, &cause.of, 0, &mut |_, group| followed.push(entry(group)));
        let mut document = entry(cause);
        document["advise"] = json!(cause.first().advise);
        document["remedy"] = json!(cause.first().remedy);
        document["command"] = json!(command(view, cause.first(), &cause.targets()));
        document["consequences"] = json!(followed);
        document
    });
    causes.collect()
}
