use proptest::prelude::*;
use vigie_proto::{
    id::RunId,
    v1::{Failure, OutcomeStatus},
};

use super::{memory::Memory, *};

fn empty() -> Journal<Memory> {
    let mut storage = Memory::default();
    Journal::create(&mut storage).unwrap();
    Journal::open(storage)
}

fn started(order: TaskId, run: RunId, epoch: u64) -> Started {
    Started {
        order: order.to_string(),
        run: run.to_string(),
        epoch,
        start_by_ms: 1_000,
        ..Default::default()
    }
}

fn finished(order: TaskId, words: &str) -> Finished {
    let outcome = Outcome::ended(OutcomeStatus::Failed, Failure::new("x", words)).encode_to_vec();
    Finished { order: order.to_string(), outcome, start_by_ms: 1_000, ..Default::default() }
}

/// The same storage, as a new process finds it.
fn again(journal: &Journal<Memory>) -> Journal<Memory> {
    Journal::open(journal.storage.clone())
}

#[test]
fn an_order_starts_once_and_ends_once() {
    let mut journal = empty();
    let (order, run) = (TaskId::new(), RunId::new());
    journal.started(order, started(order, run, 3), 1).unwrap();
    for journal in [&mut again(&journal), &mut journal] {
        assert!(matches!(journal.started(order, started(order, run, 3), 2), Err(JournalError::Known(_))));
        assert_eq!(journal.index().started().collect::<Vec<_>>(), [order]);
    }
    journal.finished(order, finished(order, "first"), 3).unwrap();
    assert!(matches!(journal.finished(order, finished(order, "second"), 4), Err(JournalError::Known(_))));
    assert!(matches!(journal.started(order, started(order, run, 3), 5), Err(JournalError::Known(_))));
    assert_eq!(again(&journal).outcome(order).unwrap().unwrap().failure.unwrap().message, "first");
}

#[test]
fn outcomes_are_kept_until_they_are_acknowledged_and_can_be_read_afterwards() {
    let mut journal = empty();
    let order = TaskId::new();
    journal.finished(order, finished(order, "refused"), 1).unwrap();
    assert_eq!(
        again(&journal).index().unacknowledged().map(|(order, ..)| order).collect::<Vec<_>>(),
        [order]
    );
    journal.acknowledged(&[order, TaskId::new()], 2).unwrap();
    let mut journal = again(&journal);
    assert_eq!(journal.index().unacknowledged().count(), 0);
    assert_eq!(journal.outcome(order).unwrap().unwrap().failure.unwrap().message, "refused");
}

#[test]
fn a_lower_epoch_is_fenced_off() {
    let mut journal = empty();
    let (run, orders) = (RunId::new(), [TaskId::new(), TaskId::new(), TaskId::new()]);
    journal.started(orders[0], started(orders[0], run, 5), 1).unwrap();
    let mut journal = again(&journal);
    assert!(matches!(
        journal.started(orders[1], started(orders[1], run, 4), 2),
        Err(JournalError::Fenced { epoch: 4, highest: 5 })
    ));
    journal.started(orders[1], started(orders[1], run, 5), 2).unwrap();
    journal.started(orders[2], started(orders[2], RunId::new(), 1), 2).unwrap();
}

#[test]
fn a_missing_journal_is_no_empty_one() {
    let mut journal = Journal::open(Memory::default());
    let order = TaskId::new();
    assert!(matches!(
        journal.started(order, started(order, RunId::new(), 1), 1),
        Err(JournalError::Corrupt { seq: 1 })
    ));
}

#[test]
fn after_a_failed_sync_nothing_is_taken() {
    let mut journal = empty();
    journal.storage.sync_fails = true;
    let order = TaskId::new();
    assert!(matches!(
        journal.started(order, started(order, RunId::new(), 1), 1),
        Err(JournalError::Storage(_))
    ));
    let next = TaskId::new();
    assert!(matches!(journal.started(next, started(next, RunId::new(), 1), 1), Err(JournalError::Failed)));
    assert!(journal.index().is_broken());
}

/// What a failed sync left in the system's cache is read at the next start, and is on the disk before more is.
#[test]
fn a_record_whose_sync_failed_is_no_hole() {
    let mut journal = empty();
    let orders = [TaskId::new(), TaskId::new(), TaskId::new()];
    journal.started(orders[0], started(orders[0], RunId::new(), 1), 1).unwrap();
    journal.storage.sync_fails = true;
    journal.started(orders[1], started(orders[1], RunId::new(), 1), 1).unwrap_err();
    let mut journal = again(&journal);
    journal.started(orders[2], started(orders[2], RunId::new(), 1), 2).unwrap();
    let crashed = Journal::open(journal.storage.crash(|| false));
    assert!(!crashed.index().is_broken());
    assert_eq!(crashed.index().started().collect::<Vec<_>>(), orders);
}

#[test]
fn a_full_disk_leaves_room_for_every_end() {
    let mut journal = empty();
    journal.storage.room = Some(0);
    let big = "x".repeat(log::LONGEST - 200);
    let mut running = Vec::new();
    loop {
        let order = TaskId::new();
        match journal.started(order, started(order, RunId::new(), 1), 1) {
            Ok(()) => running.push(order),
            Err(JournalError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(running.len() >= 8, "{}", running.len());
    for order in running {
        journal.finished(order, finished(order, &big), 2).unwrap();
    }
    assert_eq!(again(&journal).index().started().count(), 0);
}

#[test]
fn a_result_that_is_too_long_is_left_out_and_its_end_is_kept() {
    let mut journal = empty();
    let order = TaskId::new();
    let result = vigie_proto::v1::result::Operation::Exec(vigie_proto::v1::ExecResult {
        program: "x".repeat(log::LONGEST),
        ..Default::default()
    });
    let outcome = Outcome::succeeded(result).encode_to_vec();
    journal.finished(order, Finished { outcome, ..finished(order, "") }, 1).unwrap();
    let kept = again(&journal).outcome(order).unwrap().unwrap();
    assert!(kept.is_success() && kept.result.is_none());
}

#[test]
fn old_segments_go_when_nothing_in_them_matters_any_more() {
    let mut journal = empty();
    let big = "x".repeat(log::LONGEST - 200);
    let open = TaskId::new();
    let fill = |journal: &mut Journal<Memory>, at_ms| {
        for _ in 0..10 {
            let order = TaskId::new();
            journal.finished(order, finished(order, &big), at_ms).unwrap();
            journal.acknowledged(&[order], at_ms).unwrap();
        }
    };
    journal.started(open, started(open, RunId::new(), 1), 1).unwrap();
    fill(&mut journal, 2);
    fill(&mut journal, REMEMBERED_MS + 2_000);
    let count = journal.storage.clone().segments().unwrap().len();
    assert!(count >= 4, "an order that runs keeps its segment: {count}");
    journal.finished(open, finished(open, "done"), REMEMBERED_MS + 2_000).unwrap();
    journal.acknowledged(&[open], REMEMBERED_MS + 2_000).unwrap();
    let mut storage = journal.storage.clone();
    assert_eq!(storage.segments().unwrap().len(), 2);
    let reopened = again(&journal);
    assert_eq!(*reopened.index(), *journal.index());
    assert!(!reopened.index().is_broken());
}

#[test]
fn a_head_that_was_seen_is_known_again_and_another_one_contradicts() {
    let seen = |journal: &Journal<Memory>| journal.index().audit_head();
    let deny = |journal: &mut Journal<Memory>, times: usize| {
        (0..times).for_each(|_| journal.denied(Denied::default(), 1).unwrap());
    };
    let mut journal = empty();
    let nothing = seen(&journal);
    assert!(!journal.index().contradicts(&nothing), "nothing was seen");
    deny(&mut journal, 3);
    let (snapshot, before) = (journal.storage.clone(), seen(&journal));
    journal.denied(Denied { claimed: "x".to_owned(), ..Default::default() }, 2).unwrap();
    let lost = seen(&journal);
    for journal in [&journal, &again(&journal)] {
        assert!(!journal.index().contradicts(&before) && !journal.index().contradicts(&lost));
    }
    // The snapshot knows what was before it; what came after it is never its own, however far it goes on.
    let mut put_back = Journal::open(snapshot);
    for grown in [0, 1, 1, 10] {
        deny(&mut put_back, grown);
        for journal in [&put_back, &again(&put_back)] {
            assert!(!journal.index().contradicts(&before), "{grown}");
            assert!(journal.index().contradicts(&lost), "{grown}");
        }
    }
    // Of what is long past nothing is told.
    deny(&mut put_back, 4096);
    assert!(!put_back.index().contradicts(&lost));
}

#[test]
fn an_order_in_doubt_is_remembered_for_its_real_time() {
    let mut journal = empty();
    let order = TaskId::new();
    let begun = Started { start_by_ms: 5_000, ..started(order, RunId::new(), 1) };
    journal.started(order, begun, 1).unwrap();
    journal.finished(order, Finished { start_by_ms: 0, ..finished(order, "in doubt") }, 2).unwrap();
    journal.acknowledged(&[order], 3).unwrap();
    for journal in [&again(&journal), &journal] {
        assert!(!journal.index().settled(u64::MAX, 5_000));
        assert!(journal.index().settled(u64::MAX, 5_001));
    }
}

#[test]
fn files_hold_what_memory_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    Journal::create(&mut FileStorage::new(&path).unwrap()).unwrap();
    let orders: Vec<_> = (0..20).map(|_| TaskId::new()).collect();
    let big = "x".repeat(log::LONGEST - 200);
    let mut journal = Journal::open(FileStorage::new(&path).unwrap());
    for order in &orders {
        journal.started(*order, started(*order, RunId::new(), 1), 1).unwrap();
        journal.finished(*order, finished(*order, &big), 2).unwrap();
    }
    let mut reopened = Journal::open(FileStorage::new(&path).unwrap());
    assert_eq!(*reopened.index(), *journal.index());
    assert!(reopened.outcome(orders[0]).unwrap().is_some());
    reopened.denied(Denied { code: "bad_signature".to_owned(), ..Default::default() }, 3).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Start(usize),
    Finish(usize, usize),
    Acknowledge(usize),
    Deny,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6usize).prop_map(Step::Start),
        (0..6usize, prop_oneof![0..300usize, Just(200_000)])
            .prop_map(|(order, length)| Step::Finish(order, length)),
        (0..6usize).prop_map(Step::Acknowledge),
        Just(Step::Deny),
    ]
}

/// Takes steps; those that the journal refuses leave no trace. Returns what the journal knew before the last record.
fn take(journal: &mut Journal<Memory>, orders: &[TaskId], steps: &[Step]) -> (Memory, Index) {
    let run = RunId::new();
    let mut before = (journal.storage.clone(), journal.index().clone());
    for (at, step) in steps.iter().enumerate() {
        let at_ms = i64::try_from(at).unwrap();
        let (storage, index) = (journal.storage.clone(), journal.index().clone());
        let done = match step {
            Step::Start(order) => journal.started(orders[*order], started(orders[*order], run, 1), at_ms),
            Step::Finish(order, length) => {
                journal.finished(orders[*order], finished(orders[*order], &"y".repeat(*length)), at_ms)
            }
            Step::Acknowledge(order) => journal.acknowledged(&[orders[*order]], at_ms),
            Step::Deny => journal.denied(Denied::default(), at_ms),
        };
        if done.is_ok() && *journal.index() != index {
            before = (storage, index);
        }
    }
    before
}

fn six() -> Vec<TaskId> {
    (0..6).map(|_| TaskId::new()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn replay_equals_the_live_state(steps in prop::collection::vec(step(), 0..40)) {
        let mut journal = empty();
        take(&mut journal, &six(), &steps);
        let reopened = again(&journal);
        prop_assert_eq!(&*reopened.index(), &*journal.index());
    }

    /// A crash loses nothing that was acknowledged, whatever it does to the sectors under way, and never makes the
    /// journal corrupt.
    #[test]
    fn a_crash_keeps_every_acknowledged_record(
        steps in prop::collection::vec(step(), 1..30),
        sectors in prop::collection::vec(any::<bool>(), 1..64),
    ) {
        let mut journal = empty();
        take(&mut journal, &six(), &steps);
        let mut kept = sectors.iter().cycle();
        let crashed = Journal::open(journal.storage.crash(|| *kept.next().unwrap()));
        prop_assert_eq!(&*crashed.index(), &*journal.index());
    }

    /// A crash in the middle of the last record leaves all before it, and that record whole or not at all.
    #[test]
    fn a_torn_record_is_there_or_not(
        steps in prop::collection::vec(step(), 1..30),
        sectors in prop::collection::vec(any::<bool>(), 1..64),
    ) {
        let mut journal = empty();
        let (before, old) = take(&mut journal, &six(), &steps);
        // The last record's bytes are on their way to the disk as it was before them; the mark that follows the
        // record's sync is not written yet.
        let mut torn = before.clone();
        for segment in journal.storage.segments().unwrap() {
            let new = journal.storage.bytes(segment).to_vec();
            if !before.clone().segments().unwrap().contains(&segment) {
                continue;
            }
            let marks = before.bytes(segment)[512..2048].to_vec();
            torn.write(segment, 0, &new).unwrap();
            torn.write(segment, 512, &marks).unwrap();
        }
        let mut kept = sectors.iter().cycle();
        let crashed = Journal::open(torn.crash(|| *kept.next().unwrap()));
        let index = crashed.index().clone();
        prop_assert!(index == old || index == *journal.index(), "neither before nor after");
        // And the chain goes on from there.
        let reopened = again(&crashed);
        prop_assert_eq!(&*reopened.index(), &index);
    }

    /// A bit that turns is noticed wherever it is, and no record is ever read as another.
    #[test]
    fn a_turned_bit_never_makes_a_wrong_record(
        steps in prop::collection::vec(step(), 4..30),
        places in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let mut journal = empty();
        take(&mut journal, &six(), &steps);
        let used = journal.storage.bytes(1).iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let live = journal.index().clone();
        for place in places {
            let mut storage = journal.storage.clone();
            storage.flip(1, place.index(used * 8));
            let damaged = Journal::open(storage);
            let index = damaged.index().clone();
            if index.broken.is_none() {
                // Only a mark, or a byte that means nothing, was hit.
                prop_assert_eq!(index, live.clone());
            } else {
                prop_assert!(index.head().0 < live.head().0 || index.head() == live.head());
            }
        }
    }
}
