//! Which images a service ran with, so that there is a way back from a bad deployment.

use bollard::models::ContainerSummary;
use serde::{Deserialize, Serialize};

use super::KnownStack;
use crate::host::docker::{belongs_to_service, container};

/// How many images of a service are remembered: a way back further than this is no way back.
const KEPT: usize = 6;

/// An image that a service was seen with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RanImage {
    /// The engine's id, `sha256:…`.
    pub id: String,
    /// When the service was first seen with it.
    pub since_ms: i64,
    /// Whether the service was ever seen well with it: healthy by its own check, or a minute old for want of one.
    pub well: bool,
}

/// Writes down what the containers run now. An image that a service comes back to is its newest again.
pub(super) fn remember(stack: &mut KnownStack, summaries: &[ContainerSummary], now_ms: i64) {
    for summary in summaries.iter().filter(|summary| belongs_to_service(summary)) {
        let own = container(summary);
        let Some(id) = summary.image_id.clone().filter(|_| own.stack == stack.name) else { continue };
        let well = own.state == "running"
            && match own.health.as_str() {
                "healthy" => true,
                // Without a check of its own, a minute's life is the best sign that there is.
                "none" => !own.status.contains("second"),
                _ => false,
            };
        let known = stack.images.entry(own.service).or_default();
        match known.iter().position(|image| image.id == id) {
            Some(last) if last + 1 == known.len() => known[last].well |= well,
            Some(earlier) => {
                let mut image = known.remove(earlier);
                image.since_ms = now_ms;
                image.well |= well;
                known.push(image);
            }
            None => known.push(RanImage { id, since_ms: now_ms, well }),
        }
        let excess = known.len().saturating_sub(KEPT);
        known.drain(..excess);
    }
}

impl KnownStack {
    /// The image that a service runs, and the newest other one with which it was seen well.
    pub fn images_of(&self, service: &str) -> (Option<&RanImage>, Option<&RanImage>) {
        let known = self.images.get(service).map(Vec::as_slice).unwrap_or_default();
        let Some((current, earlier)) = known.split_last() else { return (None, None) };
        (Some(current), earlier.iter().rev().find(|image| image.well))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(image: &str, status: &str) -> ContainerSummary {
        let mut found: Vec<ContainerSummary> =
            serde_json::from_str(include_str!("fixtures/containers.json")).unwrap();
        let mut own = found
            .drain(..)
            .find(|summary| {
                let own = container(summary);
                (own.stack.as_str(), own.service.as_str()) == ("opstest", "backend")
            })
            .unwrap();
        own.image_id = Some(image.to_owned());
        own.status = Some(status.to_owned());
        own
    }

    #[test]
    fn the_way_back_is_the_newest_image_that_was_well() {
        let mut stack = KnownStack { name: "opstest".to_owned(), ..KnownStack::default() };
        let mut see = |image: &str, status: &str, now_ms| {
            remember(&mut stack, &[summary(image, status)], now_ms);
            let (current, previous) = stack.images_of("backend");
            (current.unwrap().id.clone(), previous.map(|image| image.id.clone()))
        };
        assert_eq!(see("a", "Up 2 minutes (healthy)", 1), ("a".to_owned(), None));
        assert_eq!(
            see("bad", "Up 2 seconds (health: starting)", 2),
            ("bad".to_owned(), Some("a".to_owned()))
        );
        assert_eq!(see("worse", "Up 2 seconds (unhealthy)", 3), ("worse".to_owned(), Some("a".to_owned())));
        // It came back to the first one.
        assert_eq!(see("a", "Up 1 minute (healthy)", 4), ("a".to_owned(), None));
        assert_eq!(see("c", "Up 1 minute", 5), ("c".to_owned(), Some("a".to_owned())));
        assert_eq!(
            stack.images["backend"].iter().map(|image| image.since_ms).collect::<Vec<_>>(),
            [2, 3, 4, 5]
        );
    }
}
