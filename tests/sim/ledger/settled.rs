//! Everything is over: what is known at each place agrees.

use std::collections::BTreeMap;

use vigie_agent::host::journal::Entry;
use vigie_controller::audit;
use vigie_proto::v1::{Outcome, OutcomeStatus};
use vigie_runbook::run::State;

use super::{is_guess, looked_back, never_began};
use crate::world::World;

impl World {
    /// Everything is over: what is known at each place agrees.
    pub(crate) fn settled(&self) {
        let mut wrong = Vec::new();
        if let Err(broken) = audit::verify(&self.disk.audit()) {
            wrong.push(format!("the audit: {broken}"));
        }
        let mut counts = Vec::new();
        let mut ledger = self.ledger();
        let mut believed = BTreeMap::new();
        for run in self.disk.runs() {
            let events = self.disk.events(run);
            let state = State::fold(run, &events).unwrap();
            if let Some(model) = ledger.runs.get(&run)
                && format!("{state:?}") != format!("{:?}", model.state)
            {
                wrong.push(format!("{}: its log folds to something else", self.name("r", &run.to_string())));
            }
            counts.push(state.closed().map_or("waiting", |(verdict, _, _)| verdict.as_str_name()));
            for task in state.tasks() {
                let word = (task.outcome.clone(), !task.resolved_by.is_empty());
                believed.insert(task.leaf.order.clone(), word);
            }
        }
        for (order, (outcome, by_a_person)) in &believed {
            let name = self.name("o", order);
            let Some(outcome) = outcome else { continue };
            let deed = ledger.deeds.get(order);
            let (effects, returned) = deed.map_or((0, None), |deed| (deed.effects, deed.returned.as_ref()));
            counts.push(outcome.status().word());
            match outcome.status() {
                // A person's word is as good as their look, and what happens after it is seen by nobody.
                _ if *by_a_person => {
                    match deed.is_some_and(|deed| deed.looks.contains(&outcome.is_success())) {
                        true if outcome.is_success() == (effects > 0) => {}
                        true => counts.push("done after somebody had looked"),
                        false => wrong.push(format!("{name} is resolved otherwise than a person saw it")),
                    }
                }
                // Nobody saw it end, and a look at the host told.
                OutcomeStatus::Succeeded | OutcomeStatus::Failed
                    if !outcome.found.is_empty() && outcome.is_success() != (effects > 0) =>
                {
                    wrong.push(format!(
                        "{name} is told as {} by a witness, and was not",
                        outcome.status().word()
                    ));
                }
                OutcomeStatus::Succeeded | OutcomeStatus::Failed if !outcome.found.is_empty() => {}
                OutcomeStatus::Succeeded | OutcomeStatus::Failed => {
                    let same = returned.is_some_and(|returned| {
                        (returned.status, &returned.result, &returned.failure)
                            == (outcome.status, &outcome.result, &outcome.failure)
                    });
                    if !same {
                        wrong.push(format!(
                            "{name} is told as {}, and that is not what it returned",
                            outcome.status().word()
                        ));
                    }
                }
                OutcomeStatus::InDoubt => {}
                _ if effects > 0 => {
                    wrong.push(format!("{name} is told as {}, and it was done", outcome.status().word()));
                }
                _ => {}
            }
        }
        for host in &self.hosts {
            let (records, broken) = host.platter.certain();
            if let Some(seq) = broken
                && !host.sync_failed.load(std::sync::atomic::Ordering::SeqCst)
            {
                wrong.push(format!("{}: the journal is corrupt from record {seq} on", host.name));
            }
            for record in &records {
                let Some(Entry::Finished(finished)) = &record.entry else { continue };
                let name = self.name("o", &finished.order);
                let told: Outcome = prost::Message::decode(finished.outcome.as_slice()).unwrap();
                match believed.get(&finished.order).map(|(outcome, _)| outcome) {
                    Some(Some(outcome)) if *outcome == told => {}
                    Some(Some(outcome)) if is_guess(outcome) && self.came_late(&finished.order) => {}
                    // Refused twice: for want of a journal, and when it had one again, for another reason.
                    Some(Some(outcome)) if never_began(outcome) && never_began(&told) => {}
                    // Its end was told, and the journal could not have it any more: a look at the host is all that a
                    // later process had.
                    Some(Some(outcome))
                        if looked_back(&told)
                            && (looked_back(outcome) || ledger.returned(&finished.order)) => {}
                    other => {
                        let other = other
                            .and_then(Option::as_ref)
                            .map_or("nothing", |outcome| outcome.status().word());
                        wrong.push(format!(
                            "{name} ended as {} on {}, and is told as {other}",
                            told.status().word(),
                            host.name
                        ));
                    }
                }
            }
        }
        for what in counts {
            ledger.count(what);
        }
        drop(ledger);
        for what in wrong {
            self.violated(what);
        }
    }
}
