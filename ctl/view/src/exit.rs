//! The exit statuses, and which of several outcomes decides.

use vigie_proto::v1::{OutcomeStatus, RunVerdict};

/// How `vigiectl` ends. Scripts rely on the numbers: they never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All succeeded, and nothing is wrong.
    Ok = 0,
    /// Some or all failed.
    Failed = 1,
    /// Wrong usage: nothing was asked of anyone.
    Usage = 2,
    /// Some hosts could not be reached.
    Unreachable = 3,
    /// Refused: a permission, a host's policy, an order, or a person's no.
    Refused = 4,
    /// Nobody can know whether something happened.
    InDoubt = 5,
    /// A diagnosis confirmed findings.
    Findings = 6,
    /// The controller cannot be reached.
    NoController = 7,
    /// Ended by Ctrl-C; a run goes on without us.
    Interrupted = 130,
}

impl Exit {
    /// The number for the shell.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The worse of two: 5 > 1 > 4 > 3 > 6 > 0. The three that are no host's outcome stand above them all.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    fn rank(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Findings => 1,
            Self::Unreachable => 2,
            Self::Refused => 3,
            Self::Failed => 4,
            Self::InDoubt => 5,
            Self::Usage => 6,
            Self::NoController => 7,
            Self::Interrupted => 8,
        }
    }

    /// What one task's end means for the whole.
    pub fn of_outcome(status: OutcomeStatus) -> Self {
        match status {
            OutcomeStatus::Succeeded => Self::Ok,
            OutcomeStatus::Failed => Self::Failed,
            OutcomeStatus::Refused | OutcomeStatus::Cancelled => Self::Refused,
            // An order expires when its host was not there in time.
            OutcomeStatus::Unreachable | OutcomeStatus::Expired => Self::Unreachable,
            // A status that this ctl has no name for is as good as unknown.
            OutcomeStatus::InDoubt | OutcomeStatus::Unspecified => Self::InDoubt,
        }
    }

    /// What a run's verdict means.
    pub fn of_verdict(verdict: RunVerdict) -> Self {
        match verdict {
            RunVerdict::Ok | RunVerdict::Resolved => Self::Ok,
            RunVerdict::Findings => Self::Findings,
            RunVerdict::Failed | RunVerdict::Unresolved => Self::Failed,
            RunVerdict::Refused | RunVerdict::Cancelled => Self::Refused,
            RunVerdict::Unreachable => Self::Unreachable,
            RunVerdict::InDoubt | RunVerdict::Unspecified => Self::InDoubt,
        }
    }
}

impl FromIterator<Exit> for Exit {
    fn from_iter<I: IntoIterator<Item = Exit>>(exits: I) -> Self {
        exits.into_iter().fold(Self::Ok, Self::worst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The outcomes from the mildest to the worst, as the grammar of the command line has them.
    const ORDER: [Exit; 6] =
        [Exit::Ok, Exit::Findings, Exit::Unreachable, Exit::Refused, Exit::Failed, Exit::InDoubt];

    proptest! {
        #[test]
        fn the_worst_decides_in_whatever_order_they_come(picks in prop::collection::vec(0usize..6, 0..40)) {
            let exits: Vec<_> = picks.iter().map(|pick| ORDER[*pick]).collect();
            let expected = ORDER[picks.iter().copied().max().unwrap_or(0)];
            prop_assert_eq!(exits.iter().copied().collect::<Exit>(), expected);
            prop_assert_eq!(exits.iter().rev().copied().collect::<Exit>(), expected);
        }
    }

    #[test]
    fn numbers_are_the_published_ones() {
        let codes = ORDER.map(Exit::code);
        assert_eq!(codes, [0, 6, 3, 4, 1, 5]);
        assert_eq!([Exit::Usage, Exit::NoController, Exit::Interrupted].map(Exit::code), [2, 7, 130]);
    }

    #[test]
    fn what_nobody_knows_is_in_doubt() {
        assert_eq!(Exit::of_outcome(OutcomeStatus::Unspecified), Exit::InDoubt);
        assert_eq!(Exit::of_verdict(RunVerdict::Unspecified), Exit::InDoubt);
    }
}
