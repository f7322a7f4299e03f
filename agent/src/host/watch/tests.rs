use std::sync::{
    Mutex,
    atomic::{AtomicU16, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use vigie_proto::{
    id::TaskId,
    v1::{Failure, HostFactsResult, HttpCheckResult, Stack, Symptom, request, result},
};

use super::*;
use crate::{
    host::{
        executor::{Ordered, Permitted},
        journal::Started,
        redaction::{Patterns, Redaction, RedactionError},
    },
    operations::witness::Witness,
};

const RUNBOOK: &str = r#"
id: gateway
title: nginx answers 502
scope: stack
symptoms:
  - when: proxy.status == 502
    says: "{{ proxy.url }} answers {{ proxy.status }}"
  - when: again.status == 502
    severity: warning
    says: "still"
diagnose:
  - id: proxy
    http_check: { target: proxy }
  - id: again
    http_check: { target: proxy }
  - id: dear
    file_tail: { path: /var/log/nginx/error.log }
findings:
  - id: broken
    title: Broken
    when: proxy.status == 502 && size(dear.lines) > 0 && again.status == 502
    says: broken
    advise: mend it
restore_backup: [{ answer: never, why: none }]
"#;

/// Answers every HTTP check with one status, and counts.
struct Web {
    status: AtomicU16,
    asked: AtomicUsize,
    others: Mutex<Vec<&'static str>>,
}

#[async_trait]
impl Executor for Arc<Web> {
    async fn permits(&self, _: &request::Operation) -> Result<Permitted, Failure> {
        Err(Failure::new("policy_denied", "nothing is ordered here"))
    }

    async fn run(
        &self,
        operation: &request::Operation,
        _: Instant,
        _: Arc<dyn OutputSink>,
        ordered: Option<Ordered>,
    ) -> Outcome {
        assert!(ordered.is_none());
        let request::Operation::HttpCheck(asked) = operation else {
            self.others.lock().unwrap().push(operation.name());
            return Outcome::default();
        };
        assert_eq!(asked.stack, "shop");
        self.asked.fetch_add(1, Ordering::SeqCst);
        let status = u32::from(self.status.load(Ordering::SeqCst));
        let url = "https://shop.example/health".to_owned();
        Outcome::succeeded(result::Operation::HttpCheck(HttpCheckResult {
            url,
            status,
            ..Default::default()
        }))
    }

    async fn look_back(&self, order: TaskId, _: &Started, _: i64, _: CancellationToken) -> Witness {
        panic!("nothing is ordered here: {order}")
    }

    fn forget(&self, order: TaskId) {
        panic!("nothing is ordered here: {order}")
    }

    fn secrets(&self) -> Result<Arc<Patterns>, RedactionError> {
        Redaction::default().patterns(&[], &[])
    }
}

struct Noon;

impl Clock for Noon {
    fn now_ms(&self) -> i64 {
        42
    }
}

fn only_ours(texts: &[String]) -> Readers {
    let bound = texts.iter().map(|text| Runbook::parse(text, "test").unwrap().bind(&[]).unwrap()).collect();
    Readers { texts: Some(texts.to_vec()), bound: Arc::new(bound), unwatched: Vec::new() }
}

fn shop() -> HostState {
    let facts = HostFactsResult { hostname: "vps1".to_owned(), ..Default::default() };
    let stack = Stack { name: "shop".to_owned(), ..Default::default() };
    HostState { facts: Some(facts), stacks: vec![stack], ..Default::default() }
}

fn web(status: u16) -> Arc<Web> {
    Arc::new(Web { status: status.into(), asked: AtomicUsize::new(0), others: Mutex::default() })
}

#[tokio::test]
async fn a_question_is_asked_once_and_only_those_that_symptoms_rest_on() {
    let web = web(502);
    let executor: Arc<dyn Executor> = Arc::new(Arc::clone(&web));
    let looked = look(&executor, &only_ours(&[RUNBOOK.to_owned()]), &shop(), 1).await;
    assert_eq!(web.asked.load(Ordering::SeqCst), 1, "two probes ask the same");
    assert!(web.others.lock().unwrap().is_empty(), "no symptom rests on the log");
    let shows = looked.values().next().unwrap();
    assert_eq!(shows.iter().map(|symptom| symptom.shows).collect::<Vec<_>>(), [Some(true), Some(true)]);
    assert_eq!(shows[0].says, "https://shop.example/health answers 502");
}

#[test]
fn what_is_carried_is_watched_and_what_does_not_read_is_named() {
    let (bound, unwatched) = read(&[RUNBOOK.to_owned(), "id: [".to_owned()]);
    let ids: Vec<_> = bound.iter().map(|bound| bound.runbook().id.as_str()).collect();
    assert!(ids.contains(&"gateway") && ids.contains(&"backend-502"), "{ids:?}");
    assert_eq!(unwatched.len(), 1);
    // Every shipped runbook that has symptoms can be watched as it is.
    assert!(read(&[]).1.is_empty());
}

/// Asks for a look now, again and again, until what shows is as expected: what the controller asks anew is looked at at
/// once, so that no pause has to be waited out.
async fn shows(watching: &mut Watching, count: usize) -> Vec<Symptom> {
    // backend-502 is carried and asks this web too; only ours is looked at here.
    let ours = |symptoms: &Option<Arc<Symptoms>>| -> Option<Vec<Symptom>> {
        let symptoms = &symptoms.as_deref()?.symptoms;
        Some(symptoms.iter().filter(|symptom| symptom.runbook == "gateway").cloned().collect())
    };
    for every_s in 30.. {
        watching.asked.send(Watch { every_s, runbooks: vec![RUNBOOK.to_owned()] }).unwrap();
        let expected = |shown: &Option<Arc<Symptoms>>| ours(shown).is_some_and(|shown| shown.len() == count);
        let shown = timeout(Duration::from_millis(50), watching.shown.wait_for(expected)).await;
        if let Ok(shown) = shown {
            return ours(&shown.unwrap()).unwrap();
        }
    }
    unreachable!("it goes on until they show")
}

#[tokio::test]
async fn a_symptom_is_told_and_taken_back() {
    let web = web(200);
    let (mut watching, line) = line();
    let (_state, state) = watch::channel(Some(Arc::new(shop())));
    let parts = Parts { executor: Arc::new(Arc::clone(&web)), clock: Arc::new(Noon), state, line };
    let serving = tokio::spawn(watch(parts));
    shows(&mut watching, 0).await;
    web.status.store(502, Ordering::SeqCst);
    let told = shows(&mut watching, 2).await;
    assert_eq!((told[0].stack.as_str(), told[0].severity.as_str(), told[0].place), ("shop", "critical", 0));
    assert_eq!((told[1].severity.as_str(), told[1].since_ms), ("warning", 42));
    web.status.store(200, Ordering::SeqCst);
    shows(&mut watching, 0).await;
    drop(watching);
    serving.await.unwrap();
}
