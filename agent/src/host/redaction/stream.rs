//! The search itself, over whole texts and over output that comes in pieces.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, BuildError, MatchKind};
use zeroize::Zeroizing;

/// What stands where a secret stood. Nothing of its length or of which one it was.
const REPLACEMENT: &[u8] = b"[redacted]";

/// What to look for.
#[derive(Default)]
pub struct Patterns {
    /// `None` when there is nothing to look for.
    search: Option<AhoCorasick>,
    /// The length of the longest pattern.
    longest: usize,
}

impl Patterns {
    pub(super) fn new(forms: impl Iterator<Item = Zeroizing<Vec<u8>>>) -> Result<Self, BuildError> {
        let forms: Vec<_> = forms.collect();
        let longest = forms.iter().map(|form| form.len()).max().unwrap_or(0);
        if longest == 0 {
            return Ok(Self::default());
        }
        let search = AhoCorasick::builder()
            // The only kind that can be asked for every occurrence, overlapping ones too: of two secrets that share
            // bytes, the second must not keep its tail.
            .match_kind(MatchKind::Standard)
            // An automaton of a few kilobytes; the fastest kind would take megabytes.
            .kind(Some(aho_corasick::AhoCorasickKind::ContiguousNFA))
            .build(forms.iter().map(|form| form.as_slice()))?;
        Ok(Self { search: Some(search), longest })
    }

    /// A text without secrets.
    pub fn text(self: &Arc<Self>, text: &str) -> String {
        if !self.search.as_ref().is_some_and(|search| search.is_match(text)) {
            return text.to_owned();
        }
        let mut stream = Stream::new(Arc::clone(self));
        let mut clean = stream.push(text.as_bytes());
        clean.extend(stream.finish());
        String::from_utf8_lossy(&clean).into_owned()
    }

    /// Where secrets are, in order and merged.
    fn find(&self, bytes: &[u8], covered: usize) -> Vec<(usize, usize)> {
        let mut found: Vec<_> = self
            .search
            .iter()
            .flat_map(|search| search.find_overlapping_iter(bytes))
            .map(|found| (found.start(), found.end()))
            .chain((covered > 0).then_some((0, covered)))
            .collect();
        found.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(found.len());
        for (start, end) in found {
            match merged.last_mut() {
                Some(last) if start < last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        merged
    }
}

/// Output that comes in pieces, with secrets split over any number of them. What it gives is what the whole text would
/// have given; it holds back as many bytes as the longest secret has, less one.
pub struct Stream {
    patterns: Arc<Patterns>,
    held: Vec<u8>,
    /// So many of the first held bytes belong to a secret whose replacement is already out.
    covered: usize,
}

impl Stream {
    pub fn new(patterns: Arc<Patterns>) -> Self {
        Self { patterns, held: Vec::new(), covered: 0 }
    }

    /// Takes the next piece and gives what is certain by now.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        self.release(self.held.len().saturating_sub(self.patterns.longest.saturating_sub(1)))
    }

    /// Gives the rest: nothing comes after it.
    pub fn finish(&mut self) -> Vec<u8> {
        self.release(self.held.len())
    }

    /// Every secret that begins before `until` is in the held bytes whole.
    fn release(&mut self, until: usize) -> Vec<u8> {
        let mut clean = Vec::with_capacity(until);
        let (mut at, mut covered) = (0, self.covered.saturating_sub(until));
        for (start, end) in self.patterns.find(&self.held, self.covered) {
            if start >= until && !(start == 0 && self.covered > 0) {
                break;
            }
            clean.extend_from_slice(&self.held[at..start]);
            if start > 0 || self.covered == 0 {
                clean.extend_from_slice(REPLACEMENT);
            }
            at = end.min(until);
            covered = end.saturating_sub(until);
        }
        clean.extend_from_slice(&self.held[at..until]);
        self.held.drain(..until);
        self.covered = covered;
        clean
    }
}
