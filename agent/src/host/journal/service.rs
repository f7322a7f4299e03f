//! The journal's own thread, and the handle by which everyone else speaks to it: a disk that hangs holds up orders, and
//! never a probe.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use tokio::sync::{mpsc, oneshot};
use vigie_proto::{
    id::{RunId, TaskId},
    v1::{AuditHead, Outcome},
};

use super::{Denied, Finished, Index, Journal, JournalError, Opened, Standing, Started, Storage};

/// Requests that wait for the disk. Their senders wait in turn.
const WAITING: usize = 64;

type Reply<T> = oneshot::Sender<Result<T, JournalError>>;

enum Request {
    Opened(Opened, i64, Reply<()>),
    Started(TaskId, Started, i64, Reply<()>),
    Finished(TaskId, Finished, i64, Reply<()>),
    Acknowledged(Vec<TaskId>, i64, Reply<()>),
    Denied(Denied, i64, Reply<()>),
    Outcome(TaskId, Reply<Option<Outcome>>),
    Begun(TaskId, Reply<Option<Started>>),
}

/// Owns the thread. It ends when the last handle is dropped.
pub struct Service {
    thread: JoinHandle<()>,
}

/// Speaks to the journal.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    /// What the journal knows; written by the thread after each record.
    index: Arc<Mutex<Index>>,
}

impl Service {
    /// Reads the journal and starts its thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(storage: impl Storage) -> std::io::Result<(Self, Handle)> {
        let journal = Journal::open(storage);
        let (requests, waiting) = mpsc::channel(WAITING);
        let handle = Handle { requests, index: Arc::clone(&journal.index) };
        let thread =
            thread::Builder::new().name("journal".to_owned()).spawn(move || serve(journal, waiting))?;
        Ok((Self { thread }, handle))
    }

    /// The same as a task instead of a thread, for a simulation, in which everything happens in one order: its storage
    /// never blocks, and `turn` is what the disk takes before each request.
    #[cfg(feature = "sim")]
    pub fn task<F: Future<Output = ()> + Send>(
        storage: impl Storage,
        mut turn: impl FnMut() -> F + Send + 'static,
    ) -> (impl Future<Output = ()> + Send, Handle) {
        let mut journal = Journal::open(storage);
        let (requests, mut waiting) = mpsc::channel(WAITING);
        let handle = Handle { requests, index: Arc::clone(&journal.index) };
        let serving = async move {
            while let Some(request) = waiting.recv().await {
                turn().await;
                answer(&mut journal, request);
            }
        };
        (serving, handle)
    }

    /// Waits for the thread's end; every handle has to be dropped before.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the journal's thread died");
        }
    }
}

fn serve<S: Storage>(mut journal: Journal<S>, mut requests: mpsc::Receiver<Request>) {
    while let Some(request) = requests.blocking_recv() {
        answer(&mut journal, request);
    }
}

/// A caller that went away meanwhile needs no reply.
fn answer<S: Storage>(journal: &mut Journal<S>, request: Request) {
    match request {
        Request::Opened(opened, at_ms, reply) => drop(reply.send(journal.opened(opened, at_ms))),
        Request::Started(order, started, at_ms, reply) => {
            drop(reply.send(journal.started(order, started, at_ms)));
        }
        Request::Finished(order, finished, at_ms, reply) => {
            drop(reply.send(journal.finished(order, finished, at_ms)));
        }
        Request::Acknowledged(orders, at_ms, reply) => {
            drop(reply.send(journal.acknowledged(&orders, at_ms)));
        }
        Request::Denied(denied, at_ms, reply) => drop(reply.send(journal.denied(denied, at_ms))),
        Request::Outcome(order, reply) => drop(reply.send(journal.outcome(order))),
        Request::Begun(order, reply) => drop(reply.send(journal.begun(order))),
    }
}

impl Handle {
    /// No journal: for who only looks, and may begin nothing.
    pub fn none() -> Self {
        Self { requests: mpsc::channel(1).0, index: Arc::default() }
    }

    /// What the journal knows at this moment. Must not be held across anything that waits.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        // Whoever panicked while holding the lock only read.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where an order stands.
    pub fn standing(&self, order: TaskId) -> Option<Standing> {
        self.index().standing(order).cloned()
    }

    /// The highest epoch that was seen for a run.
    pub fn epoch(&self, run: RunId) -> u64 {
        self.index().epoch(run)
    }

    /// The chain's head.
    pub fn audit_head(&self) -> AuditHead {
        self.index().audit_head()
    }

    /// See [`Journal::opened`].
    ///
    /// # Errors
    /// As there.
    pub async fn opened(&self, opened: Opened, at_ms: i64) -> Result<(), JournalError> {
        self.ask(|reply| Request::Opened(opened, at_ms, reply)).await
    }

    /// See [`Journal::started`].
    ///
    /// # Errors
    /// As there.
    pub async fn started(&self, order: TaskId, started: Started, at_ms: i64) -> Result<(), JournalError> {
        self.ask(|reply| Request::Started(order, started, at_ms, reply)).await
    }

    /// See [`Journal::finished`].
    ///
    /// # Errors
    /// As there.
    pub async fn finished(&self, order: TaskId, finished: Finished, at_ms: i64) -> Result<(), JournalError> {
        self.ask(|reply| Request::Finished(order, finished, at_ms, reply)).await
    }

    /// See [`Journal::acknowledged`].
    ///
    /// # Errors
    /// As there.
    pub async fn acknowledged(&self, orders: Vec<TaskId>, at_ms: i64) -> Result<(), JournalError> {
        self.ask(|reply| Request::Acknowledged(orders, at_ms, reply)).await
    }

    /// See [`Journal::denied`].
    ///
    /// # Errors
    /// As there.
    pub async fn denied(&self, denied: Denied, at_ms: i64) -> Result<(), JournalError> {
        self.ask(|reply| Request::Denied(denied, at_ms, reply)).await
    }

    /// See [`Journal::outcome`].
    ///
    /// # Errors
    /// As there.
    pub async fn outcome(&self, order: TaskId) -> Result<Option<Outcome>, JournalError> {
        self.ask(|reply| Request::Outcome(order, reply)).await
    }

    /// See [`Journal::begun`].
    ///
    /// # Errors
    /// As there.
    pub async fn begun(&self, order: TaskId) -> Result<Option<Started>, JournalError> {
        self.ask(|reply| Request::Begun(order, reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, JournalError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| JournalError::Gone)?;
        answer.await.map_err(|_| JournalError::Gone)?
    }
}
