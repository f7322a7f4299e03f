//! Watching from outside: whether a stack answers by its public name, as its customers ask it.
//!
//! Owns the rounds over the fleet's stacks. What agents watch for by themselves is not looked at here, and whom a look may
//! go to is [`outside`]'s to say. Hosts without a session are looked at too: that they answer nobody is then known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::HostId,
    v1::{Outcome, ReachabilityCheckRequest, ReachabilityCheckResult, Stack, Symptom, result},
};
use vigie_runbook::{
    Bound, Evidence, Scope, Showing, Subject, Vantage,
    sightings::{Key, Sightings},
};

use crate::{clock::now_ms, fleet::Fleet, incidents::Incidents, runbooks::Runbooks, runs::outside};

/// Looks that are under way at once. A look at what does not answer takes seconds, so that a round over a thousand dead
/// stacks takes two minutes, and one over living ones a moment.
const AT_ONCE: usize = 32;

/// The pause before a look that is to confirm a change.
const AGAIN: Duration = Duration::from_secs(3);

/// No two rounds are closer, however long one took.
const LEAST: Duration = Duration::from_secs(1);

/// What the watch needs.
pub(crate) struct Outside {
    /// The pause between two rounds; 0 for none.
    pub(crate) every_s: u32,
    pub(crate) fleet: Fleet,
    pub(crate) runbooks: Runbooks,
    pub(crate) incidents: Incidents,
}

/// What is looked at on one host: its name, and its stacks.
type Host = (HostId, String, Vec<Stack>);

/// What a round saw of one host.
type Sight = BTreeMap<Key, Vec<Showing>>;

/// Looks at every stack that has a public name, again and again, and tells the incidents what changed.
pub(crate) async fn watch_outside(parts: Outside, stop: CancellationToken) {
    if parts.every_s == 0 {
        // What was seen before the watch was turned off would show for ever.
        for host in parts.fleet.ids() {
            parts.incidents.shows_outside(host, Vec::new());
        }
        return;
    }
    let every = Duration::from_secs(u64::from(parts.every_s));
    let mut lookout = Lookout::default();
    let mut pause = every;
    loop {
        let rounds = async {
            sleep(pause).await;
            let begun = Instant::now();
            let bound = watched(&parts.runbooks);
            let changed = round(&parts, &bound, &mut lookout, None).await;
            if !changed.is_empty() {
                sleep(AGAIN).await;
                // Those that change without end are looked at again with all others.
                round(&parts, &bound, &mut lookout, Some(&changed)).await;
            }
            every.saturating_sub(begun.elapsed()).max(LEAST)
        };
        pause = tokio::select! {
            () = stop.cancelled() => return,
            pause = rounds => pause,
        };
    }
}

/// One round over all hosts, or over some. The hosts of which another look is to confirm a change.
async fn round(
    parts: &Outside,
    bound: &Arc<Vec<Bound>>,
    lookout: &mut Lookout,
    only: Option<&BTreeSet<HostId>>,
) -> BTreeSet<HostId> {
    let mut hosts = parts.fleet.stacks();
    hosts.retain(|(host, ..)| only.is_none_or(|only| only.contains(host)));
    if only.is_none() {
        let names: BTreeSet<_> =
            hosts.iter().flat_map(|(.., stacks)| stacks).map(|stack| &stack.server_name).collect();
        lookout.resolved.retain(|name| names.contains(name));
    }
    let ask = |asked, timeout_ms| async move { outside::glance(&asked, timeout_ms).await };
    let looked = look(bound, hosts, &mut lookout.resolved, ask).await;
    let mut unsettled = BTreeSet::new();
    for (host, looked) in looked {
        let taken = lookout.take(host, looked, now_ms());
        if let Some(symptoms) = taken.tell {
            parts.incidents.shows_outside(host, symptoms);
        }
        if !taken.settled {
            unsettled.insert(host);
        }
    }
    unsettled
}

/// The runbooks with symptoms that show from here. One that needs parameters which nobody gives here is not watched.
fn watched(runbooks: &Runbooks) -> Arc<Vec<Bound>> {
    let stacks = runbooks.all().into_iter().filter(|runbook| runbook.scope == Scope::Stack);
    let bound = stacks.filter_map(|runbook| runbook.bind(&[]).ok());
    Arc::new(bound.filter(|bound| bound.rest_on(Vantage::Controller).contains(&true)).collect())
}

/// Asks every distinct question once, and lets the runbooks say what they make of the answers. Every host is in the
/// answer, so that one whose stacks are gone shows nothing any more.
async fn look<L, F>(
    bound: &Arc<Vec<Bound>>,
    hosts: Vec<Host>,
    resolved: &mut BTreeSet<String>,
    look: L,
) -> BTreeMap<HostId, Sight>
where
    L: Fn(ReachabilityCheckRequest, u32) -> F,
    F: Future<Output = Outcome>,
{
    let mut questions = BTreeMap::new();
    let mut targets = Vec::new();
    for (host, _, stacks) in &hosts {
        for stack in stacks.iter().filter(|stack| !stack.server_name.is_empty()) {
            for (place, bound) in bound.iter().enumerate() {
                let mut asked = BTreeMap::new();
                for probe in bound.watched(&stack.name, Vantage::Controller) {
                    // What cannot be asked is missing evidence.
                    if let Ok(request) = outside::public(probe.request, Some(stack)) {
                        let question = request.encode_to_vec();
                        asked.insert(probe.id, question.clone());
                        questions.insert(question, (request, probe.timeout_ms));
                    }
                }
                targets.push((*host, stack.name.clone(), place, asked));
            }
        }
    }
    let mut answers: BTreeMap<Vec<u8>, Outcome> = stream::iter(questions)
        .map(|(question, (request, timeout_ms))| {
            let answer = look(request, timeout_ms);
            async move { (question, answer.await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for seen in answers.values_mut().filter_map(reached).filter(|seen| !seen.addresses.is_empty()) {
        resolved.insert(seen.name.clone());
    }
    for seen in answers.values_mut().filter_map(reached) {
        if is_ours_to_resolve(seen, resolved) {
            seen.failing.clear();
            seen.failure.clear();
        }
    }
    let (bound, now_ms) = (Arc::clone(bound), now_ms());
    // Judging is bounded, and still no work for the threads that serve the fleet.
    let judged = tokio::task::spawn_blocking(move || {
        let names: BTreeMap<_, _> = hosts.iter().map(|(host, name, _)| (*host, name.as_str())).collect();
        let mut looked: BTreeMap<_, _> = hosts.iter().map(|(host, ..)| (*host, Sight::new())).collect();
        for (host, stack, place, asked) in targets {
            let evidence: Evidence = asked
                .into_iter()
                .filter_map(|(probe, question)| Some((probe, answers.get(&question)?.clone())))
                .collect();
            let bound: &Bound = &bound[place];
            let subject = Subject { host: names[&host], stack: &stack, now_ms };
            let mut shows = bound.symptoms(&subject, &evidence);
            for (showing, ours) in shows.iter_mut().zip(bound.rest_on(Vantage::Controller)) {
                if !ours {
                    showing.shows = None;
                }
            }
            let key = Key { runbook: bound.runbook().id.clone(), stack };
            looked.entry(host).or_default().insert(key, shows);
        }
        looked
    });
    judged.await.unwrap_or_default()
}

fn reached(answer: &mut Outcome) -> Option<&mut ReachabilityCheckResult> {
    match answer.result.as_mut()?.operation.as_mut()? {
        result::Operation::ReachabilityCheck(seen) => Some(seen),
        _ => None,
    }
}

/// Whether nothing is wrong but that the name does not resolve here, where it never did: a controller in a network of its
/// own may not know the names that customers use, and that is nobody's outage.
fn is_ours_to_resolve(seen: &ReachabilityCheckResult, resolved: &BTreeSet<String>) -> bool {
    seen.failing == "resolve" && seen.status > 0 && !resolved.contains(&seen.name)
}

/// What was seen of every host, and what was told of it.
#[derive(Default)]
struct Lookout {
    hosts: BTreeMap<HostId, Known>,
    /// The public names that have resolved here.
    resolved: BTreeSet<String>,
}

#[derive(Default)]
struct Known {
    sightings: Sightings,
    /// `None` before anything was told.
    told: Option<Vec<Symptom>>,
}

/// What a round says of one host.
struct TakenIn {
    /// All that shows, where that is news.
    tell: Option<Vec<Symptom>>,
    /// False when a look soon is to confirm a change.
    settled: bool,
}

impl Lookout {
    fn take(&mut self, host: HostId, seen: Sight, now_ms: i64) -> TakenIn {
        let known = self.hosts.entry(host).or_default();
        let settled = known.sightings.take(seen, now_ms);
        let shows = known.sightings.told();
        // After a start, what showed before it stands until it is seen whether it still does.
        let is_news = (settled || known.told.is_some()) && known.told.as_ref() != Some(&shows);
        if is_news {
            known.told = Some(shows.clone());
        }
        TakenIn { tell: is_news.then_some(shows), settled }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vigie_runbook::Runbook;

    use super::*;

    fn shipped() -> Arc<Vec<Bound>> {
        let folder = tempfile::tempdir().unwrap();
        watched(&Runbooks::open(folder.path().join("none")))
    }

    fn stack(name: &str, server_name: &str) -> Stack {
        Stack { name: name.to_owned(), server_name: server_name.to_owned(), ..Default::default() }
    }

    fn refused() -> Outcome {
        Outcome::succeeded(result::Operation::ReachabilityCheck(ReachabilityCheckResult {
            name: "api.example.org".to_owned(),
            failing: "connect".to_owned(),
            failure: "refused".to_owned(),
            ..Default::default()
        }))
    }

    fn seen_well() -> ReachabilityCheckResult {
        ReachabilityCheckResult { name: "api.example.org".to_owned(), status: 200, ..Default::default() }
    }

    fn well() -> Outcome {
        Outcome::succeeded(result::Operation::ReachabilityCheck(seen_well()))
    }

    #[tokio::test]
    async fn each_public_name_is_asked_once_and_no_other() {
        let bound = shipped();
        assert!(bound.iter().any(|bound| bound.runbook().id == "api-down"));
        let (one, two, three) = (HostId::new(), HostId::new(), HostId::new());
        let hosts = vec![
            (one, "vps1".to_owned(), vec![stack("shop", "api.example.org"), stack("jobs", "")]),
            (two, "vps2".to_owned(), vec![stack("shop", "api.example.org")]),
            (three, "vps3".to_owned(), Vec::new()),
        ];
        let asked = Mutex::new(Vec::new());
        let looked = look(&bound, hosts, &mut BTreeSet::new(), |request, timeout_ms| {
            assert!(timeout_ms > 0);
            asked.lock().unwrap().push(request.name);
            std::future::ready(refused())
        })
        .await;
        assert_eq!(*asked.lock().unwrap(), ["api.example.org"], "two hosts stand behind one name");
        assert_eq!(looked.len(), 3);
        assert!(looked[&three].is_empty());
        let shop = Key { runbook: "api-down".to_owned(), stack: "shop".to_owned() };
        assert_eq!(looked[&one].keys().collect::<Vec<_>>(), [&shop], "nobody knows a name of `jobs`");
        let shows = &looked[&two][&shop];
        assert_eq!(shows[0].shows, Some(true));
        assert_eq!(shows[0].says, "from outside, api.example.org fails at connect: refused");
        let api = bound.iter().find(|bound| bound.runbook().id == "api-down").unwrap();
        let known: Vec<_> = shows.iter().map(|symptom| symptom.shows.is_some()).collect();
        assert_eq!(known, api.rest_on(Vantage::Controller), "the rest is the agent's to say");
        assert!(known.contains(&false));
    }

    /// A team's rule that needs both ends is settled by neither alone, and one that needs one of them by that one.
    #[tokio::test]
    async fn a_symptom_of_both_ends_is_judged_by_what_is_seen_from_here() {
        let text = r#"
id: both
title: either end
scope: stack
symptoms:
  - when: here.status == 502
    says: "502"
  - when: outside.failing == "connect" || here.status == 502
    says: "one of them"
  - when: outside.failing == "connect" && here.status == 502
    says: "both of them"
diagnose:
  - id: here
    http_check: { target: proxy }
  - id: outside
    from: controller
    reachability_check: {}
findings:
  - id: broken
    title: Broken
    when: here.status == 502
    says: broken
    advise: mend it
restore_backup: [{ answer: never, why: none }]
"#;
        let bound = Runbook::parse(text, "test").unwrap().bind(&[]).unwrap();
        assert_eq!(bound.rest_on(Vantage::Controller), [false, true, true]);
        let host = HostId::new();
        let hosts = vec![(host, "vps1".to_owned(), vec![stack("shop", "api.example.org")])];
        let looked =
            look(&Arc::new(vec![bound]), hosts, &mut BTreeSet::new(), |_, _| std::future::ready(refused()))
                .await;
        let shows: Vec<_> = looked[&host].values().flatten().map(|symptom| symptom.shows).collect();
        assert_eq!(shows, [None, Some(true), None]);
    }

    /// What one host with one stack looks like, when its look ends so.
    async fn seen(resolved: &mut BTreeSet<String>, outcome: Outcome, stacks: Vec<Stack>) -> Sight {
        let host = HostId::new();
        let hosts = vec![(host, "vps1".to_owned(), stacks)];
        let mut looked =
            look(&shipped(), hosts, resolved, move |_, _| std::future::ready(outcome.clone())).await;
        looked.remove(&host).unwrap()
    }

    fn shop() -> Vec<Stack> {
        vec![stack("shop", "api.example.org")]
    }

    #[tokio::test]
    async fn two_looks_tell_and_a_start_takes_nothing_back_by_chance() {
        let (mut lookout, host) = (Lookout::default(), HostId::new());
        let mut take = async |outcome: Outcome, stacks: Vec<Stack>, at_ms: i64| {
            let seen = seen(&mut lookout.resolved, outcome, stacks).await;
            lookout.take(host, seen, at_ms)
        };
        let first = take(refused(), shop(), 1).await;
        assert!(first.tell.is_none() && !first.settled, "what showed before the start may show still");
        let told = take(refused(), shop(), 4).await.tell.unwrap();
        assert_eq!(
            (told.len(), told[0].runbook.as_str(), told[0].severity.as_str()),
            (1, "api-down", "critical")
        );
        assert!(take(refused(), shop(), 9).await.tell.is_none(), "it is no news");
        let chance = take(well(), shop(), 14).await;
        assert!(chance.tell.is_none() && !chance.settled);
        assert_eq!(take(well(), shop(), 17).await.tell, Some(Vec::new()));
        // A stack that is served no more has no symptoms.
        take(refused(), shop(), 20).await;
        assert!(take(refused(), shop(), 23).await.tell.is_some());
        assert_eq!(take(refused(), Vec::new(), 26).await.tell, Some(Vec::new()));
    }

    #[tokio::test]
    async fn a_name_that_never_resolved_here_is_no_outage_and_one_that_did_is() {
        // Dialled by its address it answers; only the name leads nowhere.
        let nameless = || {
            Outcome::succeeded(result::Operation::ReachabilityCheck(ReachabilityCheckResult {
                failing: "resolve".to_owned(),
                failure: "not_found".to_owned(),
                ..seen_well()
            }))
        };
        let (mut lookout, host) = (Lookout::default(), HostId::new());
        let mut take = async |outcome: Outcome, at_ms: i64| {
            let seen = seen(&mut lookout.resolved, outcome, shop()).await;
            lookout.take(host, seen, at_ms).tell
        };
        assert_eq!(take(nameless(), 1).await, Some(Vec::new()));
        // What else is wrong there is seen all the same, and so is its end.
        assert_eq!(take(refused(), 2).await, None);
        assert_eq!(take(refused(), 3).await.unwrap().len(), 1);
        assert_eq!(take(nameless(), 4).await, None);
        assert_eq!(take(nameless(), 5).await, Some(Vec::new()));
        let mut resolves = seen_well();
        resolves.addresses = vec!["192.0.2.7".to_owned()];
        let resolves = Outcome::succeeded(result::Operation::ReachabilityCheck(resolves));
        assert_eq!(take(resolves, 6).await, None);
        assert_eq!(take(nameless(), 7).await, None);
        let told = take(nameless(), 8).await.unwrap();
        assert_eq!(told[0].says, "from outside, api.example.org fails at resolve: not_found");
    }
}
