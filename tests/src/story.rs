//! What a simulation saw to happen, in words that are the same each time.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

/// A trace, and what in it must not have happened.
#[derive(Debug, Default)]
pub struct Story {
    pub trace: Vec<String>,
    pub violations: Vec<String>,
    /// Short names for ids, in the order in which they were first seen: the ids differ each time.
    names: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, u32>,
}

impl Story {
    /// Writes something into the trace, at a simulated time.
    pub fn note(&mut self, at: Duration, what: impl Display) {
        self.trace.push(format!("{:>9.3}  {what}", at.as_secs_f64()));
    }

    /// An id's short name.
    pub fn name(&mut self, kind: &'static str, id: &str) -> String {
        if let Some(name) = self.names.get(id) {
            return name.clone();
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        let name = format!("{kind}{count}");
        self.names.insert(id.to_owned(), name.clone());
        name
    }
}
