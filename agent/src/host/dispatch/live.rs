//! An order's output while it runs: redacted, and dropped where it would have to wait.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use vigie_proto::{
    id::TaskId,
    v1::{OutputChunk, OutputSource},
};

use crate::host::{
    child::OutputSink,
    message::Outbox,
    redaction::{Patterns, RedactionError, Stream, withheld},
};

/// Sends output on.
pub(super) struct Live {
    task: String,
    outbox: mpsc::Sender<Outbox>,
    /// `None` when the secrets are not known: nothing is sent then but the reason.
    streams: Mutex<Option<[Source; 2]>>,
}

struct Source {
    source: OutputSource,
    stream: Stream,
    /// Bytes given so far, those that were dropped included: a gap shows in the next chunk's offset.
    offset: u64,
}

impl Live {
    pub(super) fn new(
        task: TaskId,
        secrets: Result<Arc<Patterns>, RedactionError>,
        outbox: mpsc::Sender<Outbox>,
    ) -> Self {
        let (streams, reason) = match secrets {
            Ok(patterns) => {
                let source =
                    |source| Source { source, stream: Stream::new(Arc::clone(&patterns)), offset: 0 };
                (Some([source(OutputSource::Stdout), source(OutputSource::Stderr)]), None)
            }
            Err(error) => (None, Some(withheld(&error))),
        };
        let live = Self { task: task.to_string(), outbox, streams: Mutex::new(streams) };
        if let Some(reason) = reason {
            live.send(OutputSource::Stderr, 0, reason.into_bytes());
        }
        live
    }

    /// Sends what the redaction held back. Called once the operation ended.
    pub(super) fn finish(&self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for source in streams.iter_mut().flatten() {
            let clean = source.stream.finish();
            self.give(source, clean);
        }
    }

    fn give(&self, source: &mut Source, clean: Vec<u8>) {
        let offset = source.offset;
        source.offset += clean.len() as u64;
        if !clean.is_empty() {
            self.send(source.source, offset, clean);
        }
    }

    fn send(&self, source: OutputSource, offset: u64, data: Vec<u8>) {
        let chunk = OutputChunk { task: self.task.clone(), source: source.into(), offset, data };
        // Dropped when the way is full: the outcome carries what is kept.
        let _ = self.outbox.try_send(Outbox::Output(chunk));
    }
}

impl OutputSink for Live {
    fn write(&self, source: OutputSource, data: &[u8]) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(own) = streams.iter_mut().flatten().find(|own| own.source == source) else { return };
        let clean = own.stream.push(data);
        self.give(own, clean);
    }
}
