//! What the world should be asked to do, where a run stands.

use vigie_proto::{
    descriptors,
    id::HostId,
    operation::Operation,
    v1::{ProbePurpose, Request, RunPhase, request, run_spec::Kind},
};

use super::{Effect, ProbeKey, State, TaskState, act, beside, plan, waits};
use crate::Vantage;

/// How long a host without a session may take to come back before its probes are given up, in milliseconds.
const GRACE_MS: i64 = 1_000;

/// The same after the controller itself was away: every agent then has to find it again, within its longest backoff.
const GRACE_AFTER_RESTART_MS: i64 = 35_000;

/// How much longer than its timeout a probe's answer may take on the way.
const TRAVEL_MS: i64 = 5_000;

/// A probe that the run asks, answered or not.
pub(super) struct Asked {
    pub(super) key: ProbeKey,
    pub(super) from: Vantage,
    pub(super) request: Request,
    pub(super) timeout_ms: u32,
    /// Probes of the same target that are answered first.
    pub(super) after: Vec<String>,
    /// Not before this, Unix milliseconds.
    pub(super) not_before_ms: i64,
}

impl Asked {
    pub(super) fn is_answered(&self, state: &State) -> bool {
        state.targets[self.key.target].has(&self.key)
    }

    /// Whether those that come before it are answered.
    pub(super) fn is_due(&self, state: &State) -> bool {
        self.after.iter().all(|before| {
            state.targets[self.key.target].has(&ProbeKey { probe: before.clone(), ..self.key.clone() })
        })
    }

    /// Whether somebody is there to answer. From elsewhere a host can be looked at whether it is connected or not.
    pub(super) fn gets_through(&self, connected: bool) -> bool {
        connected || self.from != Vantage::Host
    }

    /// Since when an answer has been waited for, as far as the events tell.
    pub(super) fn since_ms(&self, state: &State) -> i64 {
        state.targets[self.key.target].last_seen_ms.max(state.owned_at_ms).max(self.not_before_ms)
    }

    /// When it is given up.
    pub(super) fn deadline_ms(&self, state: &State, connected: bool) -> i64 {
        let patience = match connected {
            true => i64::from(self.timeout_ms) + TRAVEL_MS,
            false => grace_ms(state),
        };
        let until = self.since_ms(state) + patience;
        if self.is_beside() { self.beside_until_ms(state, connected, until) } else { until }
    }
}

/// How long a host without a session is waited for.
pub(super) fn grace_ms(state: &State) -> i64 {
    if state.epoch > 1 { GRACE_AFTER_RESTART_MS } else { GRACE_MS }
}

/// The probes of the diagnosis, or of a single operation that needs no order.
pub(super) fn diagnosis(state: &State) -> Vec<Asked> {
    if let Some(whole) = &state.whole {
        return whole.asks(state);
    }
    let targets = state.targets.iter().enumerate();
    match (&state.runbook, &state.spec().kind) {
        (Some(runbook), _) => targets
            // Where everything is answered, nothing has to be put together.
            .filter(|(_, target)| target.conclusion.is_none())
            .flat_map(|(place, target)| {
                runbook.probes(&target.target.stack).into_iter().map(move |probe| Asked {
                    key: ProbeKey {
                        target: place,
                        probe: probe.id,
                        purpose: ProbePurpose::Diagnosis,
                        round: 0,
                    },
                    from: probe.from,
                    request: probe.request,
                    timeout_ms: probe.timeout_ms,
                    after: probe.after,
                    not_before_ms: 0,
                })
            })
            .collect(),
        (None, Some(Kind::Operation(request))) => targets
            .map(|(place, target)| Asked {
                key: ProbeKey {
                    target: place,
                    probe: String::new(),
                    purpose: ProbePurpose::Diagnosis,
                    round: 0,
                },
                from: Vantage::Host,
                request: descriptors::with_stack(request, &target.target.stack),
                timeout_ms: timeout(request, state.spec().timeout_ms),
                after: Vec::new(),
                not_before_ms: 0,
            })
            .collect(),
        (None, _) => Vec::new(),
    }
}

/// The caller's timeout, or the catalogue's.
pub(super) fn timeout(request: &Request, asked_for: u32) -> u32 {
    if asked_for != 0 {
        return asked_for;
    }
    Operation::of(request)
        .map_or(10_000, |operation| u32::try_from(operation.timeout().as_millis()).unwrap_or(u32::MAX))
}

/// Of logs, a verification reads what was written after the remedy's last action and no more: what was wrong before it
/// is what it was for. The time is told as a duration, so that the clocks of two machines need not agree.
fn since_it_acted(mut request: Request, acted_at_ms: i64, now_ms: i64) -> Request {
    let ago_s = u32::try_from((now_ms - acted_at_ms).max(0) / 1000 + 1).unwrap_or(u32::MAX);
    let since_s = match &mut request.operation {
        Some(request::Operation::ContainerLogs(logs)) => &mut logs.since_s,
        Some(request::Operation::StackLogs(logs)) => &mut logs.since_s,
        _ => return request,
    };
    if acted_at_ms > 0 && (*since_s == 0 || *since_s > ago_s) {
        *since_s = ago_s;
    }
    request
}

/// Everything that the run waits for the world to do. Empty for a closed run, and for one that waits for a person.
pub fn wanted(state: &State, now_ms: i64, connected: &dyn Fn(HostId) -> bool) -> Vec<Effect> {
    let (mut asked, tasks) = match state.phase() {
        RunPhase::Observing => (diagnosis(state), false),
        RunPhase::Previewing => (plan::previews(state), false),
        RunPhase::Acting | RunPhase::AwaitingPerson | RunPhase::Verifying => {
            let mut asked = act::verification(state);
            asked.extend(waits::asked(state));
            (asked, true)
        }
        RunPhase::AwaitingSignature | RunPhase::Closed | RunPhase::Unspecified => return Vec::new(),
    };
    asked.extend(beside::asks(state));
    let mut effects = Vec::new();
    let mut wake_at = None;
    let mut wake = |at: i64| wake_at = Some(wake_at.map_or(at, |earliest: i64| earliest.min(at)));
    for asked in asked {
        if asked.is_answered(state) || !asked.is_due(state) {
            continue;
        }
        if asked.not_before_ms > now_ms {
            wake(asked.not_before_ms);
            continue;
        }
        let target = &state.targets[asked.key.target];
        let host = target.host;
        wake(asked.deadline_ms(state, asked.gets_through(connected(host))));
        let request = match asked.key.purpose {
            ProbePurpose::Verification => since_it_acted(asked.request, target.acted_at_ms, now_ms),
            _ => asked.request,
        };
        let (key, from, timeout_ms) = (asked.key, asked.from, asked.timeout_ms);
        effects.push(Effect::Probe { key, host, from, request, timeout_ms });
    }
    if tasks {
        if let Some(plan) = state.plan() {
            for (index, task) in plan.tasks.iter().enumerate() {
                match task.state {
                    TaskState::Sent | TaskState::Running => {
                        // An agent that is asked to stop an order and never had it will not take it any more.
                        let (order, host) = (task.order, task.host);
                        if state.cancelled.is_some() {
                            effects.push(Effect::Cancel { order, host });
                        } else if let Some(execute) = plan.execute(index, state.epoch) {
                            effects.push(Effect::Execute { order, host, execute });
                        }
                        wake(act::lost_sight_at_ms(plan, task));
                    }
                    TaskState::Pending | TaskState::Ended => {}
                }
            }
            for (_, task) in act::turns(state, plan) {
                // Who is there is not given up: what is waited for then is the stack, or the window's end.
                let gone_at =
                    if connected(task.host) { i64::MAX } else { act::gone_at_ms(state, plan, task) };
                wake(gone_at.min(plan.manifest.not_after_ms + 1));
            }
        }
        for at in [act::verification_ends_at_ms(state), waits::ends_at_ms(state)].into_iter().flatten() {
            wake(at);
        }
    }
    if let Some(at) = wake_at {
        effects.push(Effect::WakeAt(at.max(now_ms + 1)));
    }
    effects
}
