//! A run as its committed events tell it, and what may not follow what.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use vigie_proto::{
    id::RunId,
    v1::{
        Outcome, OutcomeStatus, PlanEntry, ProbePurpose, Resolved, RunEvent, TaskEnded, WaitEnd,
        run_event::Event, run_spec::Kind,
    },
};
use vigie_runbook::run::{State, TargetState};

use super::{Ledger, is_guess, never_began};

/// A run as its committed events tell it.
pub(super) struct Model {
    pub(super) state: State,
    plans: Vec<PlanSeen>,
    ended: BTreeMap<String, Outcome>,
    verified: BTreeMap<u32, bool>,
    /// The targets on which a step that waited was given up.
    stopped: BTreeSet<u32>,
    /// The orders whose agent the controller lost sight of, and those of which a person had the last word.
    lost: BTreeSet<String>,
    resolved: BTreeSet<String>,
}

/// A plan, and whether it was agreed to.
struct PlanSeen {
    agreed: bool,
    entries: Vec<PlanEntry>,
    orders: Vec<String>,
}

/// How an entry of a plan stands.
#[derive(Debug, PartialEq, Eq)]
enum Stands {
    Good,
    Bad,
    /// Begun, or to begin.
    Open,
}

impl Model {
    pub(super) fn read(run: RunId, events: &[RunEvent]) -> Option<Self> {
        let (first, rest) = events.split_first()?;
        let state = State::fold(run, [first]).ok()?;
        let mut model = Self {
            state,
            plans: Vec::new(),
            ended: BTreeMap::new(),
            verified: BTreeMap::new(),
            stopped: BTreeSet::new(),
            lost: BTreeSet::new(),
            resolved: BTreeSet::new(),
        };
        for event in rest {
            model.follow(event).ok()?;
        }
        Some(model)
    }

    /// Folds an event, and says what it breaks.
    pub(super) fn follow(&mut self, event: &RunEvent) -> Result<(), String> {
        // What was in doubt may be resolved behind it.
        if self.state.closed().is_some() && !matches!(event.event, Some(Event::Resolved(_))) {
            return Err("an event follows the run's end".to_owned());
        }
        match &event.event {
            Some(Event::Planned(planned)) => {
                self.plans.retain(|plan| plan.agreed);
                self.plans.push(PlanSeen {
                    agreed: planned.entries.iter().all(|entry| entry.refused.is_some()),
                    entries: planned.entries.clone(),
                    orders: Vec::new(),
                });
            }
            Some(Event::Lapsed(_)) => self.plans.retain(|plan| plan.agreed),
            Some(Event::Signed(_)) => {
                if let Some(plan) = self.plans.last_mut() {
                    plan.agreed = true;
                }
            }
            Some(Event::Ended(ended)) => {
                for task in &ended.tasks {
                    let outcome = task.outcome.clone().unwrap_or_default();
                    if is_guess(&outcome) {
                        self.lost.insert(task.order.clone());
                    }
                    if self.ended.insert(task.order.clone(), outcome).is_some() {
                        return Err("an order ends that had ended".to_owned());
                    }
                }
            }
            Some(Event::Resolved(resolved)) => {
                for task in &resolved.tasks {
                    self.resolve(resolved, task)?;
                }
            }
            Some(Event::WaitsClosed(closed)) => {
                let stopped = closed.waits.iter().filter(|wait| wait.end() != WaitEnd::Held);
                self.stopped.extend(stopped.map(|wait| wait.target));
            }
            Some(Event::Concluded(concluded)) => {
                let verified =
                    concluded.conclusions.iter().filter(|c| c.purpose() == ProbePurpose::Verification);
                self.verified.extend(verified.map(|conclusion| (conclusion.target, conclusion.verified)));
            }
            Some(Event::Sent(sent)) => self.budget(&sent.orders)?,
            _ => {}
        }
        self.state.apply(event).map_err(|corrupt| format!("the log does not fold: {corrupt}"))?;
        if let Some(Event::Planned(_)) = &event.event
            && let Some(plan) = self.plans.last_mut()
        {
            let orders: Vec<_> = self.state.tasks().map(|task| task.leaf.order.clone()).collect();
            let own = plan.entries.iter().map(|entry| entry.leaves.len()).sum::<usize>();
            plan.orders = orders[orders.len() - own..].to_vec();
        }
        Ok(())
    }

    /// A word about an order that has ended: a person's where nobody knows, and once; its agent's where the controller had
    /// only lost sight of it, where the agent had said that it would not begin, and over a person's word only when the agent
    /// knows.
    fn resolve(&mut self, resolved: &Resolved, task: &TaskEnded) -> Result<(), String> {
        let outcome = task.outcome.clone().unwrap_or_default();
        let before = self.ended.get(&task.order);
        let knows = outcome.status() != OutcomeStatus::InDoubt;
        let by_a_person = !resolved.operator.is_empty();
        let is_news = match by_a_person {
            true => knows && before.is_some_and(|before| before.status() == OutcomeStatus::InDoubt),
            false => {
                let spoken_for = self.resolved.contains(&task.order) && self.lost.contains(&task.order);
                let began_after_all = before.is_some_and(never_began) && !never_began(&outcome);
                before.is_some_and(is_guess) || (spoken_for && knows) || began_after_all
            }
        };
        if !is_news {
            return Err("what was resolved, or never in doubt, is resolved".to_owned());
        }
        match by_a_person {
            true => self.resolved.insert(task.order.clone()),
            false => self.resolved.remove(&task.order),
        };
        self.ended.insert(task.order.clone(), outcome);
        Ok(())
    }

    fn stands(&self, plan: &PlanSeen, entry: &PlanEntry) -> Stands {
        if self.stopped.contains(&entry.target) {
            return Stands::Bad;
        }
        let outcomes: Vec<_> =
            entry.leaves.iter().map(|leaf| self.ended.get(&plan.orders[*leaf as usize])).collect();
        if outcomes.iter().any(Option::is_none) {
            return if entry.refused.is_some() { Stands::Bad } else { Stands::Open };
        }
        let succeeded =
            entry.refused.is_none() && outcomes.iter().flatten().all(|outcome| outcome.is_success());
        match (succeeded, self.verified.get(&entry.target)) {
            (false, _) | (_, Some(false)) => Stands::Bad,
            (true, Some(true)) => Stands::Good,
            (true, None) => Stands::Open,
        }
    }

    /// A rollout's next orders: everything before their wave is settled, and no more of it went wrong than may.
    fn budget(&self, orders: &[String]) -> Result<(), String> {
        let Some(runbook) = self.state.runbook() else { return Ok(()) };
        let rollout = &runbook.runbook().rollout;
        let Some(plan) = self.plans.last() else { return Err("orders are sent without a plan".to_owned()) };
        // What loses something has a plan for each wave.
        let by_waves = plan.entries.iter().any(|entry| !entry.prepared.is_empty());
        let sizes = match by_waves {
            true => vec![plan.entries.len()],
            false => rollout.waves(plan.entries.len()),
        };
        let mut begins = 0;
        let (mut earlier, mut until) = (0, 0);
        for size in sizes {
            let wave = &plan.entries[begins..begins + size];
            let sends = wave.iter().flat_map(|entry| &entry.leaves);
            if sends.into_iter().any(|leaf| orders.contains(&plan.orders[*leaf as usize])) {
                (earlier, until) = (begins, begins + size);
            }
            begins += size;
        }
        let before = self.plans[..self.plans.len() - 1]
            .iter()
            .flat_map(|plan| plan.entries.iter().map(move |e| (plan, e)));
        let own = plan.entries.iter().map(|entry| (plan, entry));
        let (mut bad, mut open) = (0, 0);
        for (plan, entry) in before.chain(own.clone().take(earlier)) {
            match self.stands(plan, entry) {
                Stands::Good => {}
                Stands::Bad => bad += 1,
                Stands::Open => open += 1,
            }
        }
        if open > 0 {
            return Err(format!("a wave begins while {open} targets before it are under way"));
        }
        // What was refused of later waves from the first goes wrong when their turn comes.
        let wave = own.take(until).skip(earlier);
        bad += wave.filter(|(plan, entry)| self.stands(plan, entry) == Stands::Bad).count();
        if bad > rollout.max_failures {
            return Err(format!("{bad} targets went wrong, {} may, and more is sent", rollout.max_failures));
        }
        Ok(())
    }
}

impl Ledger {
    /// A run that tries another again does so where that run left something undone, and nowhere past a doubt.
    pub(super) fn tries_again(&self, model: &Model) -> Result<(), String> {
        let spec = model.state.spec();
        if spec.retry_of.is_empty() {
            return Ok(());
        }
        let before = spec.retry_of.parse().ok().and_then(|run: RunId| self.runs.get(&run));
        let Some(before) = before.filter(|before| before.state.closed().is_some()) else {
            return Err("it tries a run again that is not over".to_owned());
        };
        for target in model.state.targets() {
            let (host, stack) = (&target.target.host_name, &target.target.stack);
            let same =
                |seen: &Arc<TargetState>| (&seen.target.host_name, &seen.target.stack) == (host, stack);
            let Some(place) = before.state.targets().iter().position(same) else {
                return Err(format!("{host} {stack} is tried again, and was not asked before"));
            };
            let orders = before.state.tasks().filter(|task| task.target == place);
            let ended: Vec<_> = orders.filter_map(|task| before.ended.get(&task.leaf.order)).collect();
            if ended.iter().any(|outcome| outcome.status() == OutcomeStatus::InDoubt) {
                return Err(format!("{host} {stack} is tried again past a doubt"));
            }
            let well = match &spec.kind {
                Some(Kind::Operation(_)) => ended.last().is_some_and(|outcome| outcome.is_success()),
                _ => u32::try_from(place).ok().and_then(|place| before.verified.get(&place)) == Some(&true),
            };
            if well {
                return Err(format!("{host} {stack} is tried again, and went well"));
            }
            let beside = |other: &&Model| {
                let retries =
                    other.state.run() != model.state.run() && other.state.spec().retry_of == spec.retry_of;
                retries && other.state.targets().iter().any(same)
            };
            if self.runs.values().find(beside).is_some() {
                return Err(format!("{host} {stack} is tried again beside another retry"));
            }
        }
        Ok(())
    }

    /// The orders of a plan are new: no other run has one of them.
    pub(super) fn are_new(&self, run: RunId) -> Result<(), String> {
        let orders = |model: &Model| model.state.tasks().map(|task| task.order).collect::<BTreeSet<_>>();
        let own = self.runs.get(&run).map(orders).unwrap_or_default();
        let others = self.runs.iter().filter(|(other, _)| **other != run);
        match others.map(|(_, model)| orders(model)).any(|other| !other.is_disjoint(&own)) {
            true => Err("an order of another run is planned again".to_owned()),
            false => Ok(()),
        }
    }
}
