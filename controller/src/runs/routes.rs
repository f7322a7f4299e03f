//! Which run a task belongs to, and which host may speak of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vigie_proto::{
    id::{HostId, RunId, TaskId},
    operation::Operation,
    v1::Request,
};
use vigie_runbook::run::{ProbeKey, State};

/// Where reports about a task go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) run: RunId,
    /// The only host whose word counts.
    pub(super) host: HostId,
    /// The operation's name: an answer to another one is none.
    pub(super) operation: &'static str,
    /// For a probe: which, and when it was asked. `None` for an order.
    pub(super) probe: Option<(ProbeKey, i64)>,
}

/// The tasks of all open runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes(Arc<Mutex<HashMap<TaskId, Route>>>);

impl Routes {
    fn table(&self) -> MutexGuard<'_, HashMap<TaskId, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of every order of a run's plan, before the first of them is sent.
    pub(super) fn add_orders(&self, run: RunId, state: &State) {
        let mut table = self.table();
        for task in state.tasks() {
            let operation = task.leaf.operation.as_ref().map_or("", name);
            table.insert(task.order, Route { run, host: task.host, operation, probe: None });
        }
    }

    pub(super) fn add(&self, task: TaskId, route: Route) {
        self.table().insert(task, route);
    }

    pub(super) fn remove(&self, task: TaskId) {
        self.table().remove(&task);
    }

    pub(super) fn find(&self, task: TaskId) -> Option<Route> {
        self.table().get(&task).cloned()
    }

    /// Drops all that belongs to a run.
    pub(super) fn forget(&self, run: RunId) {
        self.table().retain(|_, route| route.run != run);
    }
}

/// The name of the operation that a request asks for; empty for none.
pub(super) fn name(request: &Request) -> &'static str {
    request.operation.as_ref().map_or("", |operation| operation.name())
}

/// The name of the operation that tells what this request would do; empty when there is none.
pub(super) fn preview_name(request: &Request) -> &'static str {
    Operation::of(request).ok().and_then(|operation| operation.preview).unwrap_or_default()
}
