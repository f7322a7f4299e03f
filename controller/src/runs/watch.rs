//! Watching a run: what the store has, then what comes, without a gap between them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vigie_proto::{
    id::RunId,
    v1::{OutputChunk, RunEvent, WatchRunResponse, run_event::Event, watch_run_response::Item},
};

use super::{PAGE, Runs};
use crate::{error::RunsError, permit::Permit};

/// Items that wait for the watcher's connection.
const AHEAD: usize = 64;

/// How long a watcher may take to hear why its stream ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// The stream that a watcher gets. It ends after the run's last event, or with what is there when it does not follow.
pub type Watching = ReceiverStream<Result<WatchRunResponse, Status>>;

type Sender = mpsc::Sender<Result<WatchRunResponse, Status>>;

/// What a live run sends to those who watch.
type Feeds = (broadcast::Receiver<Arc<RunEvent>>, broadcast::Receiver<Arc<OutputChunk>>);

/// Why a watcher is served no longer, beside the end.
enum Left {
    /// It went away.
    Gone,
    Failed(RunsError),
}

impl From<crate::store::StoreError> for Left {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Runs {
    /// The events of a run after a sequence number and, to follow, those to come, with live output between them.
    ///
    /// # Errors
    /// When there is no such run.
    pub async fn watch(
        &self,
        _: &Permit,
        run: &str,
        after: u64,
        follow: bool,
    ) -> Result<Watching, RunsError> {
        let run = self.find(run).await?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let runs = self.clone();
        self.0.tasks.spawn(async move {
            let served = tokio::select! {
                // Each branch lasts as long as the watch.
                biased;
                served = runs.serve(run, after, follow, &sender) => served,
                () = sender.closed() => Err(Left::Gone),
                () = runs.0.stop.cancelled() => Err(Left::Failed(RunsError::Stopping)),
            };
            if let Err(Left::Failed(error)) = served {
                // Whoever watches may have gone too, or may not read.
                let _ = timeout(FAREWELL, sender.send(Err(error.into()))).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn serve(&self, run: RunId, after: u64, follow: bool, to: &Sender) -> Result<(), Left> {
        let mut last = after;
        loop {
            // Subscribed before the store is read, so that nothing falls between the two.
            let feeds = if follow { self.live().get(&run).map(super::Live::subscribe) } else { None };
            if self.catch_up(run, &mut last, to).await? {
                return Ok(());
            }
            let Some(feeds) = feeds else { return Ok(()) };
            if relay(feeds, &mut last, to).await? {
                return Ok(());
            }
        }
    }

    /// Sends what the store has; true when that was the run's last event.
    async fn catch_up(&self, run: RunId, last: &mut u64, to: &Sender) -> Result<bool, Left> {
        let mut closed = false;
        loop {
            let page = self.0.store.events(run, *last, PAGE).await?;
            if page.is_empty() {
                return Ok(closed);
            }
            for event in page {
                *last = event.seq;
                // What was in doubt may have been resolved after it.
                closed |= send_event(event, to).await?;
            }
        }
    }
}

/// Sends what comes; true after the run's last event, false when the store has to be read again: the watcher fell
/// behind, or the driver stopped.
async fn relay((mut events, mut outputs): Feeds, last: &mut u64, to: &Sender) -> Result<bool, Left> {
    use broadcast::error::RecvError;
    loop {
        tokio::select! {
            // Events first: output is a view, and the last event ends both.
            biased;
            event = events.recv() => match event {
                Ok(event) if event.seq <= *last => {}
                Ok(event) if event.seq == *last + 1 => {
                    *last = event.seq;
                    if send_event(RunEvent::clone(&event), to).await? {
                        return Ok(true);
                    }
                }
                Ok(_) | Err(RecvError::Lagged(_) | RecvError::Closed) => return Ok(false),
            },
            Ok(chunk) = outputs.recv() => send(Item::Output(OutputChunk::clone(&chunk)), to).await?,
        }
    }
}

/// True for the event after which none comes by itself.
async fn send_event(event: RunEvent, to: &Sender) -> Result<bool, Left> {
    let last = matches!(event.event, Some(Event::Closed(_)));
    send(Item::Event(event), to).await?;
    Ok(last)
}

async fn send(item: Item, to: &Sender) -> Result<(), Left> {
    to.send(Ok(WatchRunResponse { item: Some(item) })).await.map_err(|_| Left::Gone)
}
