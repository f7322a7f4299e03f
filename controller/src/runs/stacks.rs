//! Who changes which stack, and what was tried on it: one run at a time changes a stack, and no remedy is tried again
//! and again.
//!
//! Owned by this process, and rebuilt when it starts: what runs change follows from their logs, and what was tried is in
//! the store.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::broadcast;
use vigie_proto::id::{HostId, RunId};
use vigie_runbook::run::{HOUR_MS, Holder};

use crate::store::RemedyTried;

/// A stack of a host.
type Place = (HostId, String);

/// The stacks of all hosts.
#[derive(Debug, Clone)]
pub(super) struct Stacks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held for moments only, never across an await.
    table: Mutex<Table>,
    /// Tells those who wait, the first of them first, that stacks became free.
    freed: broadcast::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    held: HashMap<Place, Held>,
    /// By stack and remedy: which run began it, and when, Unix milliseconds.
    tries: HashMap<(HostId, String, String), Vec<(RunId, i64)>>,
}

#[derive(Debug)]
struct Held {
    run: RunId,
    says: String,
    /// Another run was told that it is held, and waits to hear that it is free.
    waited_for: bool,
}

impl Stacks {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { table: Mutex::default(), freed: broadcast::Sender::new(1) }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run that holds a stack, when it is another one; otherwise this run holds it from now on. `says` is what the
    /// run does.
    pub(super) fn hold(&self, run: RunId, says: &str, host: HostId, stack: &str) -> Option<Holder> {
        match self.table().held.entry((host, stack.to_owned())) {
            Entry::Occupied(mut held) if held.get().run != run => {
                let held = held.get_mut();
                held.waited_for = true;
                Some(Holder { run: held.run.to_string(), says: held.says.clone() })
            }
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => {
                free.insert(Held { run, says: says.to_owned(), waited_for: false });
                None
            }
        }
    }

    /// Sets free all that a run holds, but for these. Only what somebody waits for is told of: a run that waits for one
    /// stack asks for its others each time it looks, and would wake itself by setting them free again.
    pub(super) fn keep(&self, run: RunId, these: &[Place]) {
        let mut freed = false;
        self.table().held.retain(|place, held| {
            let kept = held.run != run || these.contains(place);
            freed |= !kept && held.waited_for;
            kept
        });
        if freed {
            // Whoever waited may have gone.
            let _ = self.0.freed.send(());
        }
    }

    /// Hears whenever a stack becomes free; one that lags has missed nothing that it does not see when it looks.
    pub(super) fn freed(&self) -> broadcast::Receiver<()> {
        self.0.freed.subscribe()
    }

    /// Takes note of remedies that were begun, a run's first time alone: the next steps of it are no more tries. Forgets
    /// what is too old to count.
    pub(super) fn tried(&self, remedies: &[RemedyTried]) {
        let mut table = self.table();
        for tried in remedies {
            let times =
                table.tries.entry((tried.host, tried.stack.clone(), tried.remedy.clone())).or_default();
            times.retain(|(_, at_ms)| tried.at_ms - at_ms < HOUR_MS);
            if !times.iter().any(|(run, _)| *run == tried.run) {
                times.push((tried.run, tried.at_ms));
            }
        }
    }

    /// When a remedy was tried on a stack lately.
    pub(super) fn tries(&self, host: HostId, stack: &str, remedy: &str) -> Vec<i64> {
        let key = (host, stack.to_owned(), remedy.to_owned());
        self.table().tries.get(&key).into_iter().flatten().map(|(_, at_ms)| *at_ms).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_run_holds_a_stack_until_it_is_done() {
        let stacks = Stacks::new();
        let (first, second, host) = (RunId::new(), RunId::new(), HostId::new());
        let mut freed = stacks.freed();
        assert_eq!(stacks.hold(first, "run a by ada", host, "shop"), None);
        assert_eq!(stacks.hold(first, "run a by ada", host, "shop"), None);
        assert_eq!(stacks.hold(second, "run b by bob", host, "other"), None);
        let holder = stacks.hold(second, "run b by bob", host, "shop").unwrap();
        assert_eq!((holder.run, holder.says), (first.to_string(), "run a by ada".to_owned()));
        stacks.keep(first, &[(host, "shop".to_owned())]);
        assert!(freed.is_empty());
        stacks.keep(first, &[]);
        freed.recv().await.unwrap();
        assert_eq!(stacks.hold(second, "run b by bob", host, "shop"), None);
    }

    /// Otherwise a run that waits for one stack, and whose other host is away, would never rest.
    #[tokio::test]
    async fn what_nobody_waits_for_wakes_nobody() {
        let stacks = Stacks::new();
        let (run, other, host) = (RunId::new(), RunId::new(), HostId::new());
        let freed = stacks.freed();
        assert_eq!(stacks.hold(run, "run a by ada", host, "shop"), None);
        stacks.keep(run, &[]);
        assert!(freed.is_empty());
        assert_eq!(stacks.hold(run, "run a by ada", host, "shop"), None);
        assert!(stacks.hold(other, "run b by bob", host, "shop").is_some());
        stacks.keep(run, &[]);
        assert!(!freed.is_empty());
    }

    #[test]
    fn only_the_last_hour_counts() {
        let (stacks, host) = (Stacks::new(), HostId::new());
        let tried = |run, at_ms| RemedyTried {
            run,
            host,
            stack: "shop".to_owned(),
            remedy: "a/restart".to_owned(),
            at_ms,
        };
        let (first, second) = (RunId::new(), RunId::new());
        // The second step of a run's remedy is no second try.
        stacks.tried(&[tried(first, 0), tried(first, 500), tried(second, 1_000)]);
        assert_eq!(stacks.tries(host, "shop", "a/restart"), [0, 1_000]);
        stacks.tried(&[tried(RunId::new(), HOUR_MS)]);
        assert_eq!(stacks.tries(host, "shop", "a/restart"), [1_000, HOUR_MS]);
        assert!(stacks.tries(host, "other", "a/restart").is_empty());
    }
}
