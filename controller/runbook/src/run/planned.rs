//! A plan as its event tells it, with what became of its orders.

use std::sync::Arc;

use vigie_proto::{
    id::HostId,
    order::Batch,
    v1::{Manifest, PlanEntry, Planned, Signature, run_event::Event, run_spec::Kind},
};

use super::{
    plan,
    state::{Corrupt, State, Task, TaskState},
};

/// A plan that a run waits with, carries out, or has carried out.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) batch: Arc<Batch>,
    pub(super) manifest: Manifest,
    pub(super) entries: Vec<PlanEntry>,
    pub(super) signatures: Vec<Signature>,
    /// When it was signed; 0 before.
    pub(super) signed_at_ms: i64,
    /// After this it can be signed no more: its window, or the first of its challenges, is over.
    pub(super) lapses_at_ms: i64,
    /// It is one wave of a rollout, and not the whole of it.
    pub(super) is_wave: bool,
    /// In the order of the leaves.
    pub(super) tasks: Vec<Task>,
}

impl Plan {
    pub(super) fn read(planned: &Planned, state: &State, seq: u64) -> Result<Self, Corrupt> {
        let (batch, manifest, leaves) = Batch::from_parts(planned.manifest.clone(), planned.leaves.clone())
            .map_err(|source| Corrupt::Plan { seq, source })?;
        let mut owner = vec![None; leaves.len()];
        for entry in &planned.entries {
            if entry.target as usize >= state.targets.len() {
                return Err(Corrupt::Target { seq, target: entry.target });
            }
            for leaf in &entry.leaves {
                *owner.get_mut(*leaf as usize).ok_or(Corrupt::Target { seq, target: entry.target })? =
                    Some(entry.target);
            }
        }
        let tasks = leaves
            .into_iter()
            .zip(owner)
            .map(|(leaf, target)| {
                let id = |source| Corrupt::Id { seq, source };
                Ok(Task {
                    order: leaf.order.parse().map_err(id)?,
                    host: leaf.host.parse().map_err(id)?,
                    target: target.ok_or(Corrupt::Target { seq, target: u32::MAX })? as usize,
                    leaf,
                    state: TaskState::Pending,
                    started_at_ms: 0,
                    heard_at_ms: 0,
                    is_lost: false,
                    resolved_by: String::new(),
                    outcome: None,
                })
            })
            .collect::<Result<Vec<Task>, Corrupt>>()?;
        let challenged = tasks.iter().filter(|task| !task.leaf.challenge.is_empty());
        let valid_until_ms = challenged.filter_map(|task| {
            let mut previews = state.targets[task.target].previews.values();
            let preview = previews.find(|preview| preview.challenge == task.leaf.challenge)?;
            Some(preview.valid_until_ms - plan::LAST_MOMENT_MS)
        });
        Ok(Self {
            batch: Arc::new(batch),
            lapses_at_ms: valid_until_ms.fold(manifest.not_after_ms, i64::min),
            is_wave: plan::goes_by_waves(state),
            manifest,
            entries: planned.entries.clone(),
            signatures: Vec::new(),
            signed_at_ms: 0,
            tasks,
        })
    }

    /// Whether it may be carried out: it is signed, or holds nothing that could be.
    pub(super) fn is_agreed(&self) -> bool {
        !self.signatures.is_empty() || self.entries.iter().all(|entry| entry.refused.is_some())
    }

    /// Whether any of its orders loses something, so that it cannot be signed anew without being prepared anew.
    pub(super) fn is_challenged(&self) -> bool {
        self.tasks.iter().any(|task| !task.leaf.challenge.is_empty())
    }

    /// The envelope for one of its tasks.
    pub(super) fn execute(&self, index: usize, epoch: u64) -> Option<vigie_proto::v1::Execute> {
        self.batch.execute(index, &self.signatures, epoch)
    }

    /// Whether this is the plan that a manifest stands for.
    pub(super) fn is(&self, manifest: &[u8]) -> bool {
        self.batch.manifest() == manifest
    }
}

impl State {
    /// The remedies whose first orders an event sends: each with its host and stack. What is no remedy is none.
    pub fn remedies_begun(&self, event: &Event) -> Vec<(HostId, String, String)> {
        let (Event::Sent(sent), Some(Kind::Runbook(call))) = (event, &self.spec().kind) else {
            return Vec::new();
        };
        let mut begun: Vec<_> = self
            .plans
            .iter()
            .flat_map(|plan| plan.entries.iter().map(move |entry| (plan, entry)))
            .filter(|(plan, entry)| {
                let tasks = entry.leaves.iter().filter_map(|leaf| plan.tasks.get(*leaf as usize));
                tasks.into_iter().any(|task| sent.orders.contains(&task.leaf.order))
            })
            .map(|(_, entry)| {
                let target = &self.targets[entry.target as usize];
                (target.host, target.target.stack.clone(), plan::remedy_name(&call.id, &entry.remedy))
            })
            .collect();
        begun.dedup();
        begun
    }
}
