//! The answer to "what is wrong?": targets with the same verdict stand together, the broken ones first, each cause
//! with its evidence, its consequences and what to do.

use std::collections::BTreeMap;

use vigie_proto::{
    text::escape,
    v1::{Failure, Finding, FindingState, Outcome, OutcomeStatus},
};

use super::{
    changes::Lately,
    plan, ranked,
    run::{Health, RunView},
};
use crate::{
    document::text_lines,
    look::{Look, columns, count, duration_ms, pad},
};

/// Targets that a person would say the same sentence about.
struct Group<'a> {
    health: Health,
    targets: Vec<u32>,
    findings: Vec<Merged<'a>>,
    remedy: &'a str,
    restore: Option<(&'a str, &'a str)>,
}

/// One finding over the targets of a group. Its words and values may differ between them.
pub(super) struct Merged<'a> {
    pub(super) of: Vec<(u32, &'a Finding)>,
}

impl<'a> Merged<'a> {
    fn first(&self) -> &'a Finding {
        self.of[0].1
    }

    fn state(&self) -> FindingState {
        self.first().state()
    }

    /// A text of the finding with the targets that have it, the most frequent first.
    pub(super) fn variants(&self, text: impl Fn(&'a Finding) -> &'a str) -> Vec<(String, Vec<u32>)> {
        let mut variants: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for (target, finding) in &self.of {
            variants.entry(text(finding)).or_default().push(*target);
        }
        let mut variants: Vec<_> =
            variants.into_iter().map(|(text, targets)| (escape(text, false).into_owned(), targets)).collect();
        variants.sort_by_key(|(_, targets)| std::cmp::Reverse(targets.len()));
        variants
    }
}

/// What makes two targets belong together: the verdict, not the numbers in it.
type Key = (Health, Vec<(String, i32, String)>, String, String);

fn groups(view: &RunView) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<Key, Group<'_>> = BTreeMap::new();
    for target in view.targets() {
        let health = view.health(target);
        let conclusion = view.conclusions.get(&target).filter(|_| health != Health::Unreachable);
        let findings = conclusion.map_or(&[][..], |conclusion| &conclusion.findings);
        // A healthy target is told by what is ruled out, and nobody reads that: it is one group.
        let told = findings.iter().filter(|_| health != Health::Healthy);
        let identity =
            told.map(|finding| (finding.id.clone(), finding.state, finding.explained_by.clone())).collect();
        let remedy = conclusion.map_or("", |conclusion| conclusion.remedy.as_str());
        let restore = conclusion.and_then(|conclusion| conclusion.restore.as_ref());
        let restore = restore.map(|restore| (restore.answer.as_str(), restore.why.as_str()));
        let answer = restore.filter(|_| health == Health::Broken).map_or("", |(answer, _)| answer);
        let group =
            groups.entry((health, identity, remedy.to_owned(), answer.to_owned())).or_insert_with(|| Group {
                health,
                targets: Vec::new(),
                findings: findings.iter().map(|_| Merged { of: Vec::new() }).collect(),
                remedy,
                restore,
            });
        group.targets.push(target);
        for (merged, finding) in group.findings.iter_mut().zip(findings) {
            merged.of.push((target, finding));
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|group| (group.health, std::cmp::Reverse(group.targets.len())));
    groups
}

/// What is wrong with each target.
pub fn body(view: &RunView, look: &Look) -> String {
    if view.is_whole() {
        return ranked::body(view, look);
    }
    let mut text = String::new();
    let lately = Lately::of(view);
    for group in groups(view) {
        let label = view.label(&group.targets);
        match group.health {
            Health::Broken => {
                text.push_str(&format!("{} {}\n", look.red("✗"), look.bold(&label)));
                text.push_str(&findings(view, &group, look));
                text.push_str(&lately.text(&group.targets, look));
            }
            Health::Noted => {
                let why = "nothing is wrong; worth knowing:";
                text.push_str(&format!("{} {}  {why}\n", look.green("✓"), look.bold(&label)));
                text.push_str(&findings(view, &group, look));
            }
            Health::Unknown => {
                let why = "nothing is confirmed, and not everything is ruled out";
                text.push_str(&format!("{} {}  {why}\n", look.yellow("?"), look.bold(&label)));
                text.push_str(&findings(view, &group, look));
                text.push_str(&lately.text(&group.targets, look));
            }
            Health::Unreachable => {
                let why = unreachable(view, &group.targets);
                text.push_str(&format!("{} {}  unreachable{why}\n", look.yellow("?"), look.bold(&label)));
            }
            Health::Healthy => {
                text.push_str(&format!("{} {}  {}\n", look.green("✓"), look.bold(&label), healthy(&group)));
            }
        }
        text.push('\n');
    }
    text
}

/// The whole answer.
#[cfg(test)]
fn text(view: &RunView, look: &Look) -> String {
    body(view, look) + &footer(view, look)
}

fn healthy(group: &Group<'_>) -> String {
    match group.findings.len() {
        0 => "nothing was found".to_owned(),
        1 => "healthy: the only possible cause is ruled out".to_owned(),
        findings => format!("healthy: all {findings} possible causes are ruled out"),
    }
}

/// Why hosts could not be reached, where all agree.
pub(super) fn unreachable(view: &RunView, targets: &[u32]) -> String {
    let mut reasons: Vec<_> = targets
        .iter()
        .flat_map(|target| view.probes(*target).map(|outcome| view.reason(*target, outcome)))
        .filter(|reason| !reason.is_empty())
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    match reasons[..] {
        [] => String::new(),
        [only] => format!(": {}", escape(only, false)),
        [first, ..] => format!(": {} (and {} other reasons)", escape(first, false), reasons.len() - 1),
    }
}

/// The findings of a group, causes with their consequences first.
fn findings(view: &RunView, group: &Group<'_>, look: &Look) -> String {
    let mut text = String::new();
    let confirmed: Vec<_> = group.findings.iter().filter(|m| m.state() == FindingState::Confirmed).collect();
    let causes = confirmed.iter().filter(|merged| {
        let cause = &merged.first().explained_by;
        cause.is_empty() || !confirmed.iter().any(|other| other.first().id == *cause)
    });
    for cause in causes {
        text.push_str(&says(view, cause, "  ", look));
        text.push_str(&evidence(cause, look));
        consequences(view, &confirmed, cause, 2, &mut text, look);
        for (advice, targets) in cause.variants(|finding| &finding.advise) {
            if !advice.is_empty() {
                text.push_str(&format!(
                    "    {} {advice}{}\n",
                    look.cyan("do:"),
                    only(view, cause, &targets, look)
                ));
            }
        }
    }
    text.push_str(&what_to_do(view, group, look));
    text.push_str(&ruled_out(&group.findings, look));
    text.push_str(&unknown(&group.findings, look));
    text
}

/// The finding in words, with its id where ids are wanted.
pub(super) fn says(view: &RunView, merged: &Merged<'_>, indent: &str, look: &Look) -> String {
    let mut text = String::new();
    for (says, targets) in merged.variants(|finding| &finding.says) {
        let id = if look.wide { format!("  [{}]", escape(&merged.first().id, false)) } else { String::new() };
        text.push_str(&format!(
            "{indent}{}{}{}\n",
            look.red(&says),
            look.dim(&id),
            only(view, merged, &targets, look)
        ));
    }
    text
}

/// Which targets of the group a line is about, where it is not about all.
pub(super) fn only(view: &RunView, merged: &Merged<'_>, targets: &[u32], look: &Look) -> String {
    if targets.len() == merged.of.len() {
        return String::new();
    }
    look.dim(&format!("  [{}]", view.label(targets)))
}

pub(super) fn evidence(merged: &Merged<'_>, look: &Look) -> String {
    let mut references: Vec<&str> = Vec::new();
    for (_, finding) in &merged.of {
        for evidence in &finding.evidence {
            if !references.contains(&evidence.reference.as_str()) {
                references.push(&evidence.reference);
            }
        }
    }
    let width = references.iter().map(|reference| reference.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for reference in references {
        // A rule may look at the same thing twice; the first look is the plainer one.
        let values = merged.of.iter().filter_map(|(_, finding)| {
            finding.evidence.iter().find(|evidence| evidence.reference == reference)
        });
        let values: Vec<_> = values.map(|evidence| evidence.value.as_str()).collect();
        let name = pad(&escape(reference, false), width);
        text.push_str(&format!("      {}  {}\n", look.dim(&name), spread(&values)));
    }
    text
}

/// One value, the span of several numbers, or the different ones with how often each stands there.
fn spread(values: &[&str]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    let show =
        |text: &str| if text.is_empty() { "(empty)".to_owned() } else { escape(text, false).into_owned() };
    if let [only] = counts.keys().copied().collect::<Vec<_>>()[..] {
        return show(only);
    }
    let numbers: Option<Vec<(f64, &str)>> =
        counts.keys().map(|value| Some((value.parse::<f64>().ok()?, *value))).collect();
    if let Some(mut numbers) = numbers {
        numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
        if let [(_, least), .., (_, greatest)] = numbers[..] {
            return format!("{} … {}", show(least), show(greatest));
        }
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let shown: Vec<_> =
        counts.iter().take(3).map(|(value, times)| format!("{} ({times})", show(value))).collect();
    let rest = if counts.len() > 3 { format!(" and {} more", counts.len() - 3) } else { String::new() };
    shown.join(" | ") + &rest
}

/// Consequences under their cause, theirs under them.
fn consequences(
    view: &RunView,
    confirmed: &[&Merged<'_>],
    cause: &Merged<'_>,
    depth: usize,
    text: &mut String,
    look: &Look,
) {
    // A cycle of explanations ends where every finding has been an ancestor once.
    if depth > confirmed.len() + 2 {
        return;
    }
    for merged in confirmed.iter().filter(|merged| merged.first().explained_by == cause.first().id) {
        for (says, targets) in merged.variants(|finding| &finding.says) {
            let indent = "  ".repeat(depth);
            text.push_str(&format!(
                "{indent}{} {says}{}\n",
                look.dim("↳"),
                only(view, merged, &targets, look)
            ));
        }
        consequences(view, confirmed, merged, depth + 1, text, look);
    }
}

/// The remedy and the answer about the backup.
fn what_to_do(view: &RunView, group: &Group<'_>, look: &Look) -> String {
    let mut text = String::new();
    if !group.remedy.is_empty() {
        let id = escape(group.remedy, false);
        let what = match view.remedy_title(group.remedy) {
            "" => look.bold(&id),
            title => format!("{} {}", look.bold(&escape(title, false)), look.dim(&format!("[{id}]"))),
        };
        let how = match (view.mode(), view.runbook_id()) {
            (vigie_proto::v1::RunMode::Diagnose, Some(runbook)) => {
                look.dim(&format!("  {}", view.command("run", runbook, &group.targets)))
            }
            _ => String::new(),
        };
        text.push_str(&format!("    {} {what}{how}\n", look.cyan("remedy:")));
    }
    if let Some((answer, why)) = group.restore.filter(|_| group.health == Health::Broken) {
        let answer = match answer {
            "yes" => look.red("yes"),
            "maybe" => look.yellow("maybe"),
            "never" => "no".to_owned(),
            other => escape(other, false).into_owned(),
        };
        let why = if why.is_empty() { String::new() } else { format!(": {}", escape(why, false)) };
        text.push_str(&format!("    {} {answer}{why}\n", look.cyan("restore a backup?")));
    }
    text
}

fn ruled_out(findings: &[Merged<'_>], look: &Look) -> String {
    let titles: Vec<_> = findings
        .iter()
        .filter(|merged| merged.state() == FindingState::RuledOut)
        .map(|merged| escape(&merged.first().says, false))
        .collect();
    if titles.is_empty() {
        return String::new();
    }
    let mut line = format!("ruled out: {}", titles[0]);
    let mut shown = 1;
    // One line: what was looked at, not a page of it.
    while shown < titles.len() && (look.wide || columns(&line) + columns(&titles[shown]) + 20 < look.width) {
        line.push_str(&format!(" · {}", titles[shown]));
        shown += 1;
    }
    if shown < titles.len() {
        line.push_str(&format!(" · {} more (-o wide)", titles.len() - shown));
    }
    format!("    {}\n", look.dim(&line))
}

fn unknown(findings: &[Merged<'_>], look: &Look) -> String {
    let mut text = String::new();
    for merged in findings {
        if matches!(merged.state(), FindingState::Unknown | FindingState::Unspecified) {
            let reasons: Vec<_> =
                merged.variants(|finding| &finding.missing).into_iter().map(|(why, _)| why).collect();
            let says = escape(&merged.first().says, false);
            text.push_str(&format!("    {} {says}: {}\n", look.yellow("unknown:"), reasons.join("; ")));
        }
    }
    text
}

/// Everything in one line, and where to find it again.
pub fn footer(view: &RunView, look: &Look) -> String {
    if view.is_whole() {
        return ranked::footer(view, look);
    }
    let mut tally: BTreeMap<Health, usize> = BTreeMap::new();
    for target in view.targets() {
        *tally.entry(view.health(target)).or_default() += 1;
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
    let title = escape(&view.opened.title, false);
    let targets = count(view.opened.targets.len(), "target");
    // Once something was done, how it ended says more than what it began with.
    let summary = match view.closed {
        Some(_) if view.signed => super::runs::verdict(view.verdict(), look),
        _ => parts.join(", "),
    };
    let took = match view.closed_at_ms {
        0 => "still open".to_owned(),
        closed => duration_ms(closed - view.opened_at_ms),
    };
    let run = look.dim(&format!("{took} · run {}", view.run));
    format!("{title}: {targets}, {summary} · {run}\n")
}

/// What became of a remedy: each task, the verification, the checklist.
pub fn aftermath(view: &RunView, look: &Look) -> String {
    let mut text = plan::results(view, look);
    /// Whether it is well, the checklist, and what is still wrong.
    type Verified = (bool, Vec<(String, i32)>, Vec<String>);
    let mut groups: BTreeMap<Verified, Vec<u32>> = BTreeMap::new();
    for (target, conclusion) in &view.verifications {
        let lines = conclusion.checklist.iter().map(|line| (line.says.clone(), line.state)).collect();
        let confirmed =
            conclusion.findings.iter().filter(|finding| finding.state() == FindingState::Confirmed);
        let still = confirmed.map(|finding| finding.says.clone()).collect();
        groups.entry((conclusion.verified, lines, still)).or_default().push(*target);
    }
    for ((verified, checklist, still), targets) in groups {
        let label = look.bold(&view.label(&targets));
        let (mark, word) = if verified {
            (look.green("✓"), "verified: well again")
        } else {
            (look.red("✗"), "not well")
        };
        text.push_str(&format!("{mark} {label}  {word}\n"));
        for says in still {
            text.push_str(&format!("  {}\n", look.red(&escape(&says, false))));
        }
        for (says, state) in checklist {
            use vigie_proto::v1::CheckState;
            let mark = match CheckState::try_from(state) {
                Ok(CheckState::Done) => look.green("[x]"),
                Ok(CheckState::NotDone) => look.red("[ ]"),
                _ => look.yellow("[ ]"),
            };
            let open = matches!(CheckState::try_from(state), Ok(CheckState::Open));
            let open = if open { look.dim("  (a person has to look)") } else { String::new() };
            text.push_str(&format!("    {mark} {}{open}\n", escape(&says, false)));
        }
    }
    text
}

/// What people read where a host lacks what was asked about.
pub(super) const ABSENT: &str = "not present";

/// The failure of an outcome in a line: what, and what to do.
///
/// `reason` is what [`RunView::reason`] makes of its message.
pub fn failure(outcome: &Outcome, reason: &str, look: &Look) -> String {
    let status = outcome.status();
    let word = match status {
        _ if outcome.failure.as_ref().is_some_and(Failure::is_absence) => look.dim(ABSENT),
        OutcomeStatus::Succeeded => look.green(status.word()),
        OutcomeStatus::Failed => look.red(status.word()),
        _ => look.yellow(status.word()),
    };
    match &outcome.failure {
        Some(failure) if !reason.is_empty() => {
            let hint = match failure.hint.as_str() {
                "" => String::new(),
                // Lines of their own stay under the hint, so that a host's words cannot pass for another host's.
                hint => format!("\n  {} {}", look.cyan("hint:"), text_lines(hint).join("\n        ")),
            };
            let reason = escape(reason, false);
            // Of what was stopped, what a look told afterwards; of the rest, the reason has it.
            match escape(&outcome.found, false) {
                found if found.is_empty() || *found == *reason => format!("{word}: {reason}{hint}"),
                found => format!("{word}: {reason}; {found}{hint}"),
            }
        }
        _ if !outcome.found.is_empty() => format!("{word}: {}", escape(&outcome.found, false)),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{RunMode, RunVerdict};

    use super::*;
    use crate::{
        exit::Exit,
        fixtures::{
            closed, concluded, conclusion, crash_loop, ended, finding, fleet, observed, restart_runbook,
            runbook, seen, signed, unreachable, verified,
        },
    };

    fn healthy(target: u32) -> vigie_proto::v1::Conclusion {
        conclusion(target, vec![finding("stopped", FindingState::RuledOut, "the backend is stopped")])
    }

    #[test]
    fn the_broken_ones_stand_first_and_nobody_is_missing() {
        let mut run = fleet(8, runbook(RunMode::Diagnose));
        run.add(observed((0..7).map(|target| (target, seen()))));
        run.add(observed([(7, unreachable("vps8"))]));
        let broken = [(0, "DB_PASSWORD", 14), (1, "DB_PASSWORD", 9), (2, "REDIS_URL", 11)];
        let broken = broken.map(|(target, variable, restarts)| crash_loop(target, variable, restarts));
        run.add(concluded(broken.into_iter().chain((3..7).map(healthy)).chain([conclusion(7, Vec::new())])));
        run.add(closed(RunVerdict::Unreachable, "1 targets could not be asked"));
        let view = run.view();
        assert_snapshot!(text(&view, &Look::plain()), @r#"
        ✗ vps[1-3] (3) · sylion
          the backend crash-loops: DB_PASSWORD is missing from .env.prod  [vps[1-2] (2) · sylion]
          the backend crash-loops: REDIS_URL is missing from .env.prod  [vps3 · sylion]
              backend.restart_count  9 … 14
              env.missing            [DB_PASSWORD] (2) | [REDIS_URL] (1)
            ↳ nginx answers 502
            do: add the variable, then `compose up -d backend`: a restart would not read it
            remedy: restart the backend [restart]  vigiectl run stopped -H vps[1-3]
            restore a backup? no: no data is touched
            ruled out: PostgreSQL is down · Redis is down
            unknown: the host is overloaded: probe load failed: the host did not answer in time

        ? vps8 · sylion  unreachable: not connected

        ✓ vps[4-7] (4) · sylion  healthy: the only possible cause is ruled out

        diagnose stopped: 8 targets, 3 broken, 1 unreachable, 4 healthy · 1.2 s · run 01900000-0000-7000-8000-000000000001
        "#);
        assert_eq!(view.exit(), Exit::Unreachable);
    }

    #[test]
    fn a_well_fleet_is_one_line() {
        let mut run = fleet(40, runbook(RunMode::Diagnose));
        run.add(observed((0..40).map(|target| (target, seen())))).add(concluded((0..40).map(healthy)));
        run.add(closed(RunVerdict::Ok, "nothing found"));
        assert_snapshot!(text(&run.view(), &Look::plain()), @r#"
        ✓ vps[1-40] (40) · sylion  healthy: the only possible cause is ruled out

        diagnose stopped: 40 targets, 40 healthy · 900 ms · run 01900000-0000-7000-8000-000000000001
        "#);
        assert_eq!(run.view().exit(), Exit::Ok);
    }

    #[test]
    fn what_could_not_be_judged_is_not_well() {
        let mut run = fleet(1, runbook(RunMode::Diagnose));
        let unknown = Finding {
            missing: "probe backend failed".to_owned(),
            ..finding("stopped", FindingState::Unknown, "the backend is stopped")
        };
        run.add(observed([(0, seen())])).add(concluded([conclusion(0, vec![unknown])]));
        run.add(closed(RunVerdict::Ok, "nothing found"));
        assert_snapshot!(text(&run.view(), &Look::plain()), @r#"
        ? vps1 · sylion  nothing is confirmed, and not everything is ruled out
            unknown: the backend is stopped: probe backend failed

        diagnose stopped: 1 target, 1 unknown · 900 ms · run 01900000-0000-7000-8000-000000000001
        "#);
        assert_eq!(run.view().exit(), Exit::Failed);
    }

    #[test]
    fn a_cycle_of_explanations_ends() {
        let mut run = fleet(1, runbook(RunMode::Diagnose));
        let of = |id: &str, by: &str| Finding {
            explained_by: by.to_owned(),
            ..finding(id, FindingState::Confirmed, &format!("{id} is wrong"))
        };
        let findings = vec![of("root", ""), of("a", "root"), of("b", "a"), of("a", "b")];
        run.add(observed([(0, seen())])).add(concluded([conclusion(0, findings)]));
        assert!(text(&run.view(), &Look::plain()).contains("root is wrong"));
    }

    #[test]
    fn what_a_host_says_cannot_forge_a_line() {
        let mut run = fleet(1, runbook(RunMode::Diagnose));
        let evil = finding("stopped", FindingState::Confirmed, "bad\n✓ vps1 healthy\u{1b}[2J");
        run.add(observed([(0, seen())])).add(concluded([conclusion(0, vec![evil])]));
        let text = text(&run.view(), &Look::plain());
        assert!(text.contains("bad\\n✓ vps1 healthy\\u{1b}[2J"), "{text}");
    }

    #[test]
    fn after_a_remedy_each_step_and_the_checklist_are_told() {
        let mut run = restart_runbook();
        run.add(observed((0..2).map(|target| (target, seen()))));
        run.add(concluded((0..2).map(|target| crash_loop(target, "DB_PASSWORD", 9))));
        let plan = run.plan();
        let failed = Outcome::ended(
            OutcomeStatus::Failed,
            Failure::new("compose_failed", "docker compose exited with 1").hint("look at its output"),
        );
        let fine = Outcome { status: OutcomeStatus::Succeeded.into(), ..Default::default() };
        run.add(plan).add(signed()).add(ended([fine, failed]));
        run.add(concluded([verified(0, true)])).add(closed(RunVerdict::Unresolved, "1 of 2 not repaired"));
        assert_snapshot!(aftermath(&run.view(), &Look::plain()), @r#"
        vps1 · sylion
          ✓ compose-restart --stack sylion --services backend
        vps2 · sylion
          ✗ compose-restart --stack sylion --services backend  failed: docker compose exited with 1
              hint: look at its output
        ✓ vps1 · sylion  verified: well again
            [x] /health answers 200
            [ ] monitoring is green  (a person has to look)
        "#);
        assert_eq!(run.view().exit(), Exit::Failed);
    }
}
