//! With what claim on the disk's room a run is written down. The controller may live on the very machine whose disk is
//! full, and must still take the run that frees it.
//!
//! What a run begins is written with the run's own claim. How it ends is written on the reserve, whatever run it is: a run that
//! was begun when there was room can be ended when there is none.
//!
//! What frees room is not listed here: it is the catalogue's disk family, and what runbooks that use it do beside.

use std::{collections::BTreeSet, sync::LazyLock};

use vigie_proto::{
    descriptors,
    operation::Operation,
    v1::{RunMode, run_spec::Kind},
};
use vigie_runbook::{
    Runbook,
    run::{Decision, State},
};

use crate::store::{Claim, Mandate};

/// Where the disk family's messages stand.
const FAMILY: &str = "vigie/v1/disk.proto";

/// What a run may write on when the disk is full.
pub(super) fn of(state: &State) -> Claim {
    match &state.spec().kind {
        Some(Kind::Operation(request)) => match Operation::of(request) {
            Ok(operation) if !operation.needs_order() => Claim::Observing,
            Ok(operation) if frees(operation) || BESIDE.contains(operation.name) => Claim::Freeing,
            Ok(_) | Err(_) => Claim::Ordinary,
        },
        Some(Kind::Runbook(_)) if matches!(state.mode(), RunMode::Diagnose | RunMode::Plan) => {
            Claim::Observing
        }
        Some(Kind::Runbook(_)) => match state.runbook() {
            Some(bound) if is_freeing(bound.runbook()) => Claim::Freeing,
            Some(_) | None => Claim::Ordinary,
        },
        None => Claim::Ordinary,
    }
}

/// The mandate to write a decision of a run with. Where it begins nothing, `ending` will do where the run's own claim does
/// not.
pub(super) fn for_decision(mandate: &Mandate, decided: &Decision, ending: Claim) -> Mandate {
    let claim = if decided.begins() { mandate.claim() } else { mandate.claim().max(ending) };
    mandate.clone().claiming(claim)
}

fn frees(operation: &Operation) -> bool {
    operation.needs_order()
        && descriptors::request(operation.name).is_some_and(|request| request.parent_file().name() == FAMILY)
}

fn is_freeing(runbook: &Runbook) -> bool {
    runbook.remedies.iter().any(|remedy| remedy.operations().any(frees))
}

/// What the shipped runbooks that free a disk do in those remedies and in their others: prune backups, restart who holds a deleted
/// file.
static BESIDE: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    let shipped = vigie_runbook::shipped().iter();
    let runbooks = shipped.filter_map(|(id, text)| Runbook::parse(text, id).ok());
    let freeing = runbooks.filter(is_freeing);
    freeing
        .flat_map(|runbook| {
            let operations = runbook.remedies.iter().flat_map(|remedy| remedy.operations());
            operations.map(|operation| operation.name).collect::<Vec<_>>()
        })
        .collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_family_frees_and_what_disk_full_does_beside_goes_with_it() {
        let find = |name: &str| Operation::find(name).unwrap();
        for name in
            ["container_log_truncate", "apt_clean", "journal_vacuum", "docker_prune", "docker_volume_prune"]
        {
            assert!(frees(find(name)), "{name}");
        }
        assert!(BESIDE.contains("backup_prune"), "{BESIDE:?}");
        for name in ["exec", "backup_restore", "redis_flush", "backup_create", "postgres_terminate"] {
            assert!(!frees(find(name)) && !BESIDE.contains(name), "{name}");
        }
        let parse = |wanted: &str| {
            let (id, text) = vigie_runbook::shipped().iter().find(|(id, _)| *id == wanted).unwrap();
            Runbook::parse(text, id).unwrap()
        };
        assert!(is_freeing(&parse("disk-full")));
        assert!(!is_freeing(&parse("db-migration")));
    }
}
