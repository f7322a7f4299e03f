//! Live output: a stream of its own for each running task, so that a flood of it never delays a result.

use std::collections::HashMap;

use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use vigie_proto::v1::{OutputChunk, link_client::LinkClient};

/// Chunks of one task that wait for the network; a chunk has at most 16 KiB.
const WAITING: usize = 16;

/// Streams at once. The controller admits 64 on a connection, and the session is one of them.
const STREAMS: usize = 32;

/// The output streams of one session; they end with it.
pub(super) struct Outputs {
    client: LinkClient<Channel>,
    open: HashMap<String, mpsc::Sender<OutputChunk>>,
    streams: JoinSet<()>,
}

impl Outputs {
    pub(super) fn new(client: LinkClient<Channel>) -> Self {
        Self { client, open: HashMap::new(), streams: JoinSet::new() }
    }

    /// Sends a chunk on, or drops it where it would have to wait.
    pub(super) fn push(&mut self, chunk: OutputChunk) {
        while self.streams.try_join_next().is_some() {}
        if !self.open.contains_key(&chunk.task) {
            if self.streams.len() >= STREAMS {
                return;
            }
            let (sender, chunks) = mpsc::channel(WAITING);
            self.open.insert(chunk.task.clone(), sender);
            let (mut client, task) = (self.client.clone(), chunk.task.clone());
            self.streams.spawn(async move {
                if let Err(status) = client.output(ReceiverStream::new(chunks)).await {
                    tracing::debug!(task, code = ?status.code(), reason = status.message(), "live output ended early");
                }
            });
        }
        if let Some(sender) = self.open.get(&chunk.task) {
            // A gap shows in the next chunk's offset; the outcome carries what is kept. Where the controller ended the
            // stream, all the rest is dropped.
            let _ = sender.try_send(chunk);
        }
    }

    /// The task ended: what waits is still sent, then its stream ends.
    pub(super) fn close(&mut self, task: &str) {
        self.open.remove(task);
    }
}
