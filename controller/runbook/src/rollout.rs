//! How a remedy goes over many targets: a first one, then more at a time.

/// How many targets act together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    Targets(usize),
    /// Of all targets, rounded up.
    Percent(u8),
}

/// The order of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// The sizes of the waves; the last one goes on until all targets had their turn. Never empty.
    pub batches: Vec<Batch>,
    /// How many targets may go wrong before no further wave begins.
    pub max_failures: usize,
    /// At most so many targets may have gone wrong or be under way at once: whatever happens to those under way, no more
    /// than that go wrong. At least 1; `None` leaves it to the waves.
    pub budget: Option<usize>,
}

impl Default for Rollout {
    /// One target to see that it helps, a few, then a fifth at a time; the first surprise stops it.
    fn default() -> Self {
        Self {
            batches: vec![Batch::Targets(1), Batch::Targets(5), Batch::Percent(20)],
            max_failures: 0,
            budget: None,
        }
    }
}

impl Rollout {
    /// Whether so many that went wrong are too many for anything more to begin.
    pub fn is_spent(&self, bad: usize) -> bool {
        bad > self.max_failures || self.budget.is_some_and(|budget| bad >= budget)
    }

    /// How many more targets may begin while so many have gone wrong and so many are under way.
    pub fn room(&self, bad: usize, under_way: usize) -> usize {
        self.budget.map_or(usize::MAX, |budget| budget.saturating_sub(bad + under_way))
    }

    /// The waves' sizes for so many targets: none is 0, and their sum is `targets`.
    pub fn waves(&self, targets: usize) -> Vec<usize> {
        let mut waves = Vec::new();
        let mut left = targets;
        while left > 0 {
            let size = match self.batches.get(waves.len()).or(self.batches.last()) {
                Some(Batch::Targets(size)) => *size,
                Some(Batch::Percent(share)) => (targets * usize::from(*share)).div_ceil(100),
                None => left,
            };
            let size = size.clamp(1, left);
            waves.push(size);
            left -= size;
        }
        waves
    }
}

impl Batch {
    /// `5` or `20%`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(share) => share.parse().ok().filter(|share| (1..=100).contains(share)).map(Self::Percent),
            None => text.parse().ok().filter(|size| *size > 0).map(Self::Targets),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waves_grow_as_the_runbook_says() {
        let rollout = Rollout::default();
        assert_eq!(rollout.waves(0), Vec::<usize>::new());
        assert_eq!(rollout.waves(1), [1]);
        assert_eq!(rollout.waves(4), [1, 3]);
        assert_eq!(rollout.waves(100), [1, 5, 20, 20, 20, 20, 14]);
        assert_eq!(Batch::parse("20%"), Some(Batch::Percent(20)));
        assert_eq!([Batch::parse("0"), Batch::parse("101%"), Batch::parse("x")], [None; 3]);
    }

    proptest! {
        #[test]
        fn every_target_has_its_turn_once(
            targets in 0_usize..5000,
            batches in prop::collection::vec(prop_oneof![
                (1_usize..100).prop_map(Batch::Targets), (1_u8..=100).prop_map(Batch::Percent)
            ], 0..5),
        ) {
            let waves = Rollout { batches, ..Rollout::default() }.waves(targets);
            prop_assert_eq!(waves.iter().sum::<usize>(), targets);
            prop_assert!(waves.iter().all(|wave| *wave > 0));
        }
    }
}
