//! What changed over the fleet, newest first, and beside a verdict. Hosts that could not tell are named under it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use vigie_proto::{
    text::escape,
    v1::{Change, HostChangesResult, result::Operation},
};
use vigie_runbook::run::CHANGES;

use super::{diagnose::failure, run::RunView};
use crate::{
    json,
    look::{Look, count},
    names,
    table::Table,
};

/// Every change with its host, newest first.
fn folded(view: &RunView) -> Vec<(&str, &Change)> {
    let mut all: Vec<(&str, &Change)> = view
        .targets()
        .filter_map(|index| {
            let host = view.target(index)?.host_name.as_str();
            match view.outcome(index)?.result.as_ref()?.operation.as_ref()? {
                Operation::HostChanges(found) => Some(found.changes.iter().map(move |change| (host, change))),
                _ => None,
            }
        })
        .flatten()
        .collect();
    all.sort_by(|a, b| b.1.at_ms.cmp(&a.1.at_ms).then_with(|| a.0.cmp(b.0)));
    all
}

/// How many changes stand under a verdict.
const LATELY: usize = 3;

/// What changed on the hosts of a diagnosis, as it stands beside their verdicts.
pub(super) struct Lately<'a> {
    view: &'a RunView,
    /// By host, for whichever of its targets it was asked. A host that did not answer has none.
    answers: BTreeMap<&'a str, Vec<&'a HostChangesResult>>,
    /// Hosts that were asked and did not tell.
    silent: BTreeSet<&'a str>,
}

impl<'a> Lately<'a> {
    pub(super) fn of(view: &'a RunView) -> Self {
        let mut lately = Self { view, answers: BTreeMap::new(), silent: BTreeSet::new() };
        for seen in &view.observations {
            let Some(host) = view.target(seen.target).map(|target| target.host_name.as_str()) else {
                continue;
            };
            let result = seen.outcome.as_ref().and_then(|outcome| outcome.result.as_ref());
            match result.and_then(|result| result.operation.as_ref()) {
                Some(Operation::HostChanges(found)) => lately.answers.entry(host).or_default().push(found),
                None if seen.probe == CHANGES => _ = lately.silent.insert(host),
                _ => {}
            }
        }
        lately.silent.retain(|host| !lately.answers.contains_key(host));
        lately
    }

    /// The changes that concern a target, newest first: the host's own, and its stack's or every stack's. Nothing where
    /// nobody told.
    pub(super) fn on(&self, target: u32) -> Option<Vec<&'a Change>> {
        let target = self.view.target(target)?;
        let answers = self.answers.get(target.host_name.as_str())?;
        let concerns = |change: &&Change| {
            target.stack.is_empty() || change.stack.is_empty() || change.stack == target.stack
        };
        let mut found: Vec<&Change> = Vec::new();
        for change in answers.iter().flat_map(|found| &found.changes).filter(concerns) {
            if !found.contains(&change) {
                found.push(change);
            }
        }
        found.sort_by_key(|change| std::cmp::Reverse(change.at_ms));
        Some(found)
    }

    /// The newest of several targets with their hosts, and the hosts that did not tell.
    fn together(&self, targets: &[u32]) -> (Vec<(&'a str, &'a Change)>, BTreeSet<&'a str>) {
        let (mut all, mut silent): (Vec<(&str, &Change)>, _) = (Vec::new(), BTreeSet::new());
        // A host's own changes are told for each of its stacks.
        let mut seen = BTreeSet::new();
        for target in targets {
            let Some(host) = self.view.target(*target).map(|target| target.host_name.as_str()) else {
                continue;
            };
            if self.silent.contains(host) {
                silent.insert(host);
            }
            for change in self.on(*target).unwrap_or_default() {
                if seen.insert((host, change.at_ms, &change.kind, &change.what, &change.says)) {
                    all.push((host, change));
                }
            }
        }
        all.sort_by_key(|(_, change)| std::cmp::Reverse(change.at_ms));
        (all, silent)
    }

    /// The newest changes on targets with the same verdict, in the lines under it.
    pub(super) fn text(&self, targets: &[u32], look: &Look) -> String {
        let (all, silent) = self.together(targets);
        let hosts: BTreeSet<_> = targets
            .iter()
            .filter_map(|target| self.view.target(*target))
            .map(|target| &target.host_name)
            .collect();
        let mut text = String::new();
        let mut line = |words: &str| text.push_str(&look.dim(&format!("    {words}\n")));
        for (host, change) in all.iter().take(LATELY) {
            let host = if hosts.len() > 1 { format!("{host}: ") } else { String::new() };
            let said = format!("{host}{}", says(change));
            line(&format!("changed {} ago: {}", look.ago(change.at_ms), escape(&said, false)));
        }
        if all.len() > LATELY {
            let more = count(all.len() - LATELY, "change");
            match self.view.on_host {
                true => line(&format!("and {more} before that")),
                false => line(&format!("and {more} before that: `vigiectl changes`")),
            }
        }
        if !silent.is_empty() {
            let of = if hosts.len() > 1 { format!(" on {}", names::fold(silent)) } else { String::new() };
            line(&escape(&format!("changes{of}: not known"), false));
        }
        text
    }

    /// The same for scripts; null where nobody told.
    pub(super) fn document(&self, target: u32) -> Value {
        self.on(target).map_or(Value::Null, |found| {
            found.into_iter().map(|change| json::json(change, "Change")).collect()
        })
    }
}

/// One change in a line: `env /srv/shop/.env: added TOKEN`.
fn says(change: &Change) -> String {
    let by = if change.person.is_empty() { String::new() } else { format!(", signed by {}", change.person) };
    format!("{} {}: {}{by}", change.kind, change.what, change.says)
}

pub fn text(view: &RunView, look: &Look) -> String {
    let clean = |text: &str| escape(text, false).into_owned();
    let mut table = Table::new(["WHEN", "HOST", "KIND", "WHAT", "CHANGE"]);
    let all = folded(view);
    for (host, change) in &all {
        let by = if change.person.is_empty() {
            String::new()
        } else {
            format!(", signed by {}", clean(&change.person))
        };
        table.row([
            format!("{} ({} ago)", look.time(change.at_ms), look.ago(change.at_ms)),
            clean(host),
            clean(&change.kind),
            clean(&change.what),
            clean(&change.says) + &by,
        ]);
    }
    let mut text = table.text(look);
    if all.is_empty() {
        text.push_str("nothing changed\n");
    }
    for index in view.targets() {
        let (Some(target), Some(outcome)) = (view.target(index), view.outcome(index)) else { continue };
        let host = clean(&target.host_name);
        if !outcome.is_success() {
            text.push_str(&format!("{host}: {}\n", failure(outcome, view.reason(index, outcome), look)));
        }
        if let Some(Operation::HostChanges(found)) =
            outcome.result.as_ref().and_then(|result| result.operation.as_ref())
        {
            if found.watched_since_ms > found.since_ms {
                let since = look.ago(found.watched_since_ms);
                text.push_str(
                    &look.dim(&format!("{host}: files and containers are watched for {since} only\n")),
                );
            }
            if found.truncated {
                text.push_str(&look.dim(&format!("{host}: older changes are left out (--limit)\n")));
            }
            for source in &found.unread {
                text.push_str(&format!("{host}: could not be read: {}\n", clean(source)));
            }
        }
    }
    text
}

pub fn document(view: &RunView) -> Value {
    let changes: Vec<Value> = folded(view)
        .into_iter()
        .map(|(host, change)| {
            let mut entry = json::json(change, "Change");
            entry["host"] = json!(host);
            entry
        })
        .collect();
    let silent: Vec<&str> = view
        .targets()
        .filter(|index| view.outcome(*index).is_none_or(|outcome| !outcome.is_success()))
        .filter_map(|index| Some(view.target(index)?.host_name.as_str()))
        .collect();
    json!({ "run": view.run, "verdict": view.verdict().word(), "changes": changes, "unanswered": silent })
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use vigie_proto::v1::{
        Failure, FindingState, HostChangesRequest, Outcome, OutcomeStatus, Request, RunMode, RunVerdict,
        request, run_spec::Kind,
    };

    use super::*;
    use crate::{
        diagnose, diagnose_json,
        fixtures::{
            asked, closed, concluded, conclusion, crash_loop, finding, fleet, observed, runbook, seen,
            unreachable,
        },
    };

    const NOW_MS: i64 = 1_700_000_600_000;

    fn change(ago_s: i64, kind: &str, what: &str, says: &str) -> Change {
        Change {
            at_ms: NOW_MS - ago_s * 1000,
            kind: kind.to_owned(),
            what: what.to_owned(),
            says: says.to_owned(),
            ..Change::default()
        }
    }

    fn of(stack: &str, change: Change) -> Change {
        Change { stack: stack.to_owned(), ..change }
    }

    fn told(changes: Vec<Change>) -> Outcome {
        Outcome::succeeded(Operation::HostChanges(HostChangesResult { changes, ..Default::default() }))
    }

    fn env(ago_s: i64) -> Change {
        let change = change(ago_s, "env", "/srv/sylion/.env.prod", "removed JWT_SECRET");
        Change { removed: vec!["JWT_SECRET".to_owned()], ..of("sylion", change) }
    }

    fn silent() -> Outcome {
        Outcome::ended(OutcomeStatus::Failed, Failure::new("no_answer", "vps1 did not answer in time"))
    }

    #[test]
    fn a_fleets_changes_are_one_list_newest_first() {
        let request = request::Operation::HostChanges(HostChangesRequest::default());
        let mut run = fleet(3, Kind::Operation(Request { operation: Some(request) }));
        let restarted = Change {
            person: "ana".to_owned(),
            ..of("sylion", change(30, "action", "compose_restart", "succeeded"))
        };
        let first = HostChangesResult {
            changes: vec![restarted, env(240)],
            watched_since_ms: NOW_MS - 3_600_000,
            unread: vec!["the journal of orders".to_owned()],
            ..Default::default()
        };
        let evil = change(100, "package", "nginx", "upgraded nginx\n✓ nothing changed");
        let second = HostChangesResult { changes: vec![evil], truncated: true, ..Default::default() };
        let answers = [first, second].map(|found| Outcome::succeeded(Operation::HostChanges(found)));
        run.add(observed((0..).zip(answers))).add(observed([(2, unreachable("vps3"))]));
        run.add(closed(RunVerdict::Unreachable, "1 of 3 unreachable"));
        let view = run.view();
        assert_snapshot!(text(&view, &Look::plain()), @r"
        WHEN                                         HOST  KIND     WHAT                   CHANGE
        2023-11-14 23:22:50 +01:00 (30 s ago)        vps1  action   compose_restart        succeeded, signed by ana
        2023-11-14 23:21:40 +01:00 (1 min 40 s ago)  vps2  package  nginx                  upgraded nginx\n✓ nothing changed
        2023-11-14 23:19:20 +01:00 (4 min ago)       vps1  env      /srv/sylion/.env.prod  removed JWT_SECRET
        vps1: files and containers are watched for 1 h only
        vps1: could not be read: the journal of orders
        vps2: older changes are left out (--limit)
        vps3: unreachable: not connected
          hint: is the host up?
        ");
        let document = document(&view);
        assert_eq!(document["unanswered"], json!(["vps3"]));
        assert_eq!(document["changes"][2]["removed"], json!(["JWT_SECRET"]));
        assert_eq!(document["changes"][2]["host"], "vps1");
    }

    #[test]
    fn nothing_changed_is_said() {
        let request = request::Operation::HostChanges(HostChangesRequest::default());
        let mut run = fleet(1, Kind::Operation(Request { operation: Some(request) }));
        run.add(observed([(0, told(Vec::new()))])).add(closed(RunVerdict::Ok, "1 of 1 succeeded"));
        assert_snapshot!(text(&run.view(), &Look::plain()), @"nothing changed");
    }

    #[test]
    fn what_changed_stands_beside_the_verdict_of_those_who_are_not_well() {
        let mut run = fleet(3, runbook(RunMode::Diagnose));
        run.add(observed((0..3).map(|target| (target, seen()))));
        let many = vec![
            change(7200, "reboot", "boot", "the machine started"),
            of("other", change(10, "env", "/srv/other/.env", "added X")),
            env(240),
            of(
                "sylion",
                change(200, "deployment", "sylion-backend", "recreated from the same image backend"),
            ),
            change(9000, "package", "nginx", "upgraded nginx 2 (was 1)"),
        ];
        run.add(asked(CHANGES, [(0, told(many)), (1, silent()), (2, told(vec![env(100)]))]));
        let well = conclusion(2, vec![finding("stopped", FindingState::RuledOut, "the backend is stopped")]);
        run.add(concluded([crash_loop(0, "JWT_SECRET", 9), crash_loop(1, "JWT_SECRET", 9), well]));
        run.add(closed(RunVerdict::Findings, "2 of 3 not well"));
        let view = run.view();
        assert_snapshot!(diagnose::body(&view, &Look::plain()), @r"
        ✗ vps[1-2] (2) · sylion
          the backend crash-loops: JWT_SECRET is missing from .env.prod
              backend.restart_count  9
              env.missing            [JWT_SECRET]
            ↳ nginx answers 502
            do: add the variable, then `compose up -d backend`: a restart would not read it
            remedy: restart the backend [restart]  vigiectl run stopped -H vps[1-2]
            restore a backup? no: no data is touched
            ruled out: PostgreSQL is down · Redis is down
            unknown: the host is overloaded: probe load failed: the host did not answer in time
            changed 3 min 20 s ago: vps1: deployment sylion-backend: recreated from the same image backend
            changed 4 min ago: vps1: env /srv/sylion/.env.prod: removed JWT_SECRET
            changed 2 h ago: vps1: reboot boot: the machine started
            and 1 change before that: `vigiectl changes`
            changes on vps2: not known

        ✓ vps3 · sylion  healthy: the only possible cause is ruled out
        ");
        let document = diagnose_json::document(&view);
        let changes = &document["targets"][0]["changes"];
        assert_eq!(
            changes.as_array().map(Vec::len),
            Some(4),
            "another stack's are not this one's: {changes}"
        );
        assert_eq!(changes[1]["removed"], json!(["JWT_SECRET"]));
        assert_eq!(document["targets"][1]["changes"], Value::Null);
        assert_eq!(document["targets"][2]["changes"], Value::Null, "a healthy host is a line");
    }

    #[test]
    fn every_runbook_together_tells_a_hosts_changes_once() {
        let mut run = fleet(2, runbook(RunMode::Diagnose));
        run.opens(["stopped"]);
        run.add(observed((0..2).map(|target| (target, seen()))));
        run.add(asked(CHANGES, [(0, told(vec![env(240)])), (1, told(vec![env(100)]))]));
        let cause = |id: &str, says: &str| vigie_proto::v1::Finding {
            severity: "critical".to_owned(),
            runbook: "stopped".to_owned(),
            ..finding(id, FindingState::Confirmed, says)
        };
        let causes = vec![cause("stopped", "the backend is stopped"), cause("full", "the disk is full")];
        let well = conclusion(1, vec![finding("stopped", FindingState::RuledOut, "the backend is stopped")]);
        run.add(concluded([conclusion(0, causes), well]))
            .add(closed(RunVerdict::Findings, "1 of 2 not well"));
        let view = run.view();
        let said = diagnose::body(&view, &Look::plain());
        assert_snapshot!(said, @r"
        ✗ vps1 · sylion  critical · stopped
          the backend is stopped
            changed 4 min ago: env /srv/sylion/.env.prod: removed JWT_SECRET

        ✗ vps1 · sylion  critical · stopped
          the disk is full

        ✓ vps2  healthy: 1 possible cause ruled out
        ");
        assert_eq!(said.matches("removed JWT_SECRET").count(), 1);
        let document = diagnose_json::document(&view);
        assert_eq!(document["targets"][0]["changes"][0]["kind"], "env");
    }
}
