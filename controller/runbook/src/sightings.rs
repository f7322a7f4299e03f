//! What a watch saw in its last rounds, and what is told of it. One rule for everybody who watches: what is seen once may
//! be chance, so that a symptom is told, and taken back, when two looks in a row agree; missing evidence changes nothing.

use std::collections::BTreeMap;

use vigie_proto::v1::Symptom;

use crate::judge::Showing;

/// A runbook on a stack; the stack is empty for a runbook about hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub runbook: String,
    pub stack: String,
}

/// One symptom of one runbook on one stack.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: Key,
    symptom: usize,
}

/// What is known of a symptom.
#[derive(Debug, Clone)]
struct Sighting {
    /// What was told of it; `None` when it is not told.
    told: Option<Symptom>,
    /// What the last look said, where it said something.
    last: bool,
    since_ms: i64,
}

/// Every symptom that showed lately.
#[derive(Debug, Default)]
pub struct Sightings(BTreeMap<Place, Sighting>);

impl Sightings {
    /// Takes a round's answers. False when a look soon is to confirm a change.
    pub fn take(&mut self, looked: BTreeMap<Key, Vec<Showing>>, now_ms: i64) -> bool {
        let mut settled = true;
        // A runbook or a stack that is gone has no symptoms any more.
        self.0
            .retain(|place, _| looked.get(&place.key).is_some_and(|symptoms| place.symptom < symptoms.len()));
        for (key, symptoms) in looked {
            for (symptom, showing) in symptoms.into_iter().enumerate() {
                let place = Place { key: key.clone(), symptom };
                let Some(shows) = showing.shows else { continue };
                if !shows && !self.0.contains_key(&place) {
                    continue;
                }
                let sighting = self.0.entry(place.clone()).or_insert(Sighting {
                    told: None,
                    last: false,
                    since_ms: now_ms,
                });
                let agrees = sighting.last == shows;
                if shows && !sighting.last && sighting.told.is_none() {
                    sighting.since_ms = now_ms;
                }
                sighting.last = shows;
                match (shows, agrees, &mut sighting.told) {
                    // The words that were told first stay: numbers in them tremble.
                    (true, _, Some(_)) => {}
                    (true, true, told @ None) => *told = Some(symptom_of(&place, showing, sighting.since_ms)),
                    (false, true, _) => _ = self.0.remove(&place),
                    (_, false, _) => settled = false,
                }
            }
        }
        settled
    }

    /// What shows, for the controller.
    #[must_use]
    pub fn told(&self) -> Vec<Symptom> {
        self.0.values().filter_map(|sighting| sighting.told.clone()).collect()
    }
}

fn symptom_of(place: &Place, showing: Showing, since_ms: i64) -> Symptom {
    Symptom {
        runbook: place.key.runbook.clone(),
        stack: place.key.stack.clone(),
        place: u32::try_from(place.symptom).unwrap_or(u32::MAX),
        severity: showing.severity.word().to_owned(),
        says: showing.says,
        since_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FindingSeverity;

    fn round(shows: Option<bool>, says: &str) -> BTreeMap<Key, Vec<Showing>> {
        let key = Key { runbook: "backend-502".to_owned(), stack: "sylion".to_owned() };
        let showing = Showing { severity: FindingSeverity::Critical, shows, says: says.to_owned() };
        BTreeMap::from([(key, vec![showing])])
    }

    #[test]
    fn two_looks_tell_and_two_looks_take_back() {
        let mut sightings = Sightings::default();
        assert!(sightings.take(round(Some(false), ""), 0));
        assert!(!sightings.take(round(Some(true), "502"), 10), "a change is looked at again soon");
        assert!(sightings.told().is_empty());
        assert!(sightings.take(round(Some(true), "502 after 3 s"), 13));
        let told = sightings.told();
        assert_eq!((told.len(), told[0].since_ms, told[0].says.as_str()), (1, 10, "502 after 3 s"));
        assert!(sightings.take(round(Some(true), "other words"), 20));
        assert_eq!(sightings.told(), told, "the words stay");
        assert!(!sightings.take(round(Some(false), ""), 30));
        assert_eq!(sightings.told(), told);
        assert!(sightings.take(round(Some(false), ""), 33));
        assert!(sightings.told().is_empty());
    }

    #[test]
    fn chance_is_not_told() {
        let mut sightings = Sightings::default();
        for at in 0..10 {
            sightings.take(round(Some(at % 2 == 0), "flickers"), at);
            assert!(sightings.told().is_empty());
        }
    }

    #[test]
    fn missing_evidence_changes_nothing() {
        let mut sightings = Sightings::default();
        sightings.take(round(Some(true), "502"), 1);
        assert!(sightings.take(round(None, ""), 2));
        assert!(sightings.told().is_empty());
        sightings.take(round(Some(true), "502"), 3);
        assert_eq!(sightings.told().len(), 1);
        sightings.take(round(None, ""), 4);
        assert_eq!(sightings.told().len(), 1);
        sightings.take(BTreeMap::new(), 5);
        assert!(sightings.told().is_empty(), "the stack is gone");
    }
}
