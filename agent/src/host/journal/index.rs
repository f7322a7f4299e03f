//! What the records add up to. A fold: the same records give the same index, live and after a restart.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use vigie_proto::{
    id::{RunId, TaskId},
    v1::{AuditHead, DoneHere},
};

use super::{Entry, Position, Record, Started, frame::Hash};

/// Of so many of the newest records the hash is at hand, for whoever saw the chain's head a while ago: more than a host
/// writes between two sessions, a few hundred kilobytes.
const RECENT: usize = 4096;

/// Where an order stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Begun and not known to have ended.
    Started { at_ms: i64, position: Position },
    /// Ended, or refused; the controller has not said that it knows.
    Finished {
        /// An encoded `Outcome`.
        outcome: Arc<[u8]>,
        position: Position,
    },
    /// And it has.
    Acknowledged { position: Position },
}

/// Everything that the journal knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    orders: BTreeMap<TaskId, Known>,
    /// What the host's own root did and the controller has not said that it knows.
    here: BTreeMap<TaskId, Arc<DoneHere>>,
    /// By run: the highest epoch, and the segment that proves it.
    epochs: HashMap<RunId, (u64, u64)>,
    seq: u64,
    hash: Hash,
    /// The newest records, in their order, as far as their segments are there.
    recent: VecDeque<Position>,
    /// Set when the journal takes no more records; holds the first bad record's number where it is corrupt.
    pub(super) broken: Option<Option<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    standing: Standing,
    /// The last moment at which it may start.
    start_by_ms: i64,
    /// The last segment that tells of it.
    segment: u64,
    run: String,
}

impl Index {
    pub(super) fn apply(&mut self, record: Record, position: Position) {
        (self.seq, self.hash) = (position.seq, position.hash);
        self.recent.push_back(position);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        match record.entry {
            Some(Entry::Started(started)) => {
                self.epoch_seen(&started.run, started.epoch, position.segment);
                if let Ok(order) = started.order.parse() {
                    if let Some(done) = done_here(&started, record.at_ms) {
                        self.here.insert(order, Arc::new(done));
                    }
                    let standing = Standing::Started { at_ms: record.at_ms, position };
                    let (start_by_ms, segment) = (started.start_by_ms, position.segment);
                    self.orders.insert(order, Known { standing, start_by_ms, segment, run: started.run });
                }
            }
            Some(Entry::Finished(finished)) => {
                self.epoch_seen(&finished.run, finished.epoch, position.segment);
                if let Ok(order) = finished.order.parse() {
                    let standing = Standing::Finished { outcome: finished.outcome.into(), position };
                    // An end that is written down at the next start does not know when the order could still start.
                    let begun_by_ms = self.orders.get(&order).map_or(0, |known| known.start_by_ms);
                    let (start_by_ms, segment) = (finished.start_by_ms.max(begun_by_ms), position.segment);
                    self.orders.insert(order, Known { standing, start_by_ms, segment, run: finished.run });
                }
            }
            Some(Entry::Acknowledged(acknowledged)) => {
                for order in acknowledged.orders.iter().filter_map(|order| order.parse().ok()) {
                    self.here.remove(&order);
                    if let Some(known) = self.orders.get_mut(&order)
                        && let Standing::Finished { position, .. } = known.standing
                    {
                        known.standing = Standing::Acknowledged { position };
                    }
                }
            }
            Some(Entry::Opened(_) | Entry::Denied(_)) | None => {}
        }
    }

    fn epoch_seen(&mut self, run: &str, epoch: u64, segment: u64) {
        if let Ok(run) = run.parse() {
            let seen = self.epochs.entry(run).or_default();
            *seen = (seen.0.max(epoch), segment);
        }
    }

    /// Where an order stands; `None` for one that the journal has never seen.
    pub fn standing(&self, order: TaskId) -> Option<&Standing> {
        self.orders.get(&order).map(|known| &known.standing)
    }

    /// The orders that have begun and are not known to have ended.
    pub fn started(&self) -> impl Iterator<Item = TaskId> {
        self.orders
            .iter()
            .filter(|(_, known)| matches!(known.standing, Standing::Started { .. }))
            .map(|(order, _)| *order)
    }

    /// The outcomes that the controller has not acknowledged, encoded, with their orders' runs, oldest order first.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (TaskId, Arc<[u8]>, String)> {
        self.orders.iter().filter_map(|(order, known)| match &known.standing {
            Standing::Finished { outcome, .. } => Some((*order, Arc::clone(outcome), known.run.clone())),
            _ => None,
        })
    }

    /// The run that an order is for, as far as the journal was told.
    pub fn run(&self, order: TaskId) -> String {
        self.orders.get(&order).map(|known| known.run.clone()).unwrap_or_default()
    }

    /// What an order was that no operator signed, as long as the controller has not said that it knows.
    pub fn done_here(&self, order: TaskId) -> Option<Arc<DoneHere>> {
        self.here.get(&order).cloned()
    }

    /// The highest epoch that was seen for a run; 0 for none.
    pub fn epoch(&self, run: RunId) -> u64 {
        self.epochs.get(&run).map_or(0, |(epoch, _)| *epoch)
    }

    /// The last record's number and hash; 0 and zeros before the first.
    pub(super) fn head(&self) -> (u64, Hash) {
        (self.seq, self.hash)
    }

    /// Whether a head that somebody has seen was another journal's: the record of that number is not here, or is another
    /// one. A record that is not at hand any more contradicts nothing.
    pub fn contradicts(&self, seen: &AuditHead) -> bool {
        let here = self.recent.binary_search_by_key(&seen.seq, |position| position.seq);
        let other = here.is_ok_and(|at| self.recent[at].hash[..] != seen.hash[..]);
        other || seen.seq > self.seq
    }

    /// Whether the journal takes no more records.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether nothing in a segment or before it is needed any more: every order acknowledged, and none that could have
    /// started after `before_ms`.
    pub(super) fn settled(&self, segment: u64, before_ms: i64) -> bool {
        self.orders.values().filter(|known| known.segment <= segment).all(|known| {
            matches!(known.standing, Standing::Acknowledged { .. }) && known.start_by_ms < before_ms
        })
    }

    /// Drops what only a removed segment told of.
    pub(super) fn forget(&mut self, segment: u64) {
        self.orders.retain(|_, known| known.segment > segment);
        self.epochs.retain(|_, (_, told)| *told > segment);
        self.recent.retain(|position| position.segment > segment);
    }
}

/// What is told of an order of the host's own root; `None` for an operator's.
fn done_here(started: &Started, at_ms: i64) -> Option<DoneHere> {
    let here = started.here.as_ref()?;
    let mut operation = started.request.clone()?.operation?;
    Some(DoneHere {
        run: started.run.clone(),
        person: started.person.clone(),
        operation: operation.name().to_owned(),
        stack: operation.stack_mut().map(|stack| stack.clone()).unwrap_or_default(),
        remedy: here.remedy.clone(),
        started_at_ms: at_ms,
    })
}
