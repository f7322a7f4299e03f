//! What was done, by whom, in a chain that shows where it was tampered with.
//!
//! An entry opens before the deed, and its failure refuses the deed; another closes it afterwards. Each entry's hash
//! covers the one before, so an edit, a removal or a swap breaks the chain at a sequence number that [`verify`]
//! names. A rewrite of the whole chain is caught only by those who kept an earlier head.
//!
//! Architecture Invariant: an [`Intent`] is made from a [`Permit`], an [`Entry`] from an intent that is on disk. What
//! changes something takes one of them, so that a command which nobody authorised or wrote down does not compile.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::{
    caller::Caller,
    clock::now_ms,
    permit::Permit,
    store::{Claim, Store, StoreError},
};

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something is about to be done.
    Opened,
    /// It ended; `detail` says how.
    Closed,
    /// It was done in the same transaction as this entry was written.
    Done,
    /// It was asked for and not allowed.
    Denied,
}

impl Kind {
    /// The word in the table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::Done => "done",
            Self::Denied => "denied",
        }
    }

    /// The kind of a word in the table.
    pub fn read(word: &str) -> Option<Self> {
        [Self::Opened, Self::Closed, Self::Done, Self::Denied].into_iter().find(|kind| kind.word() == word)
    }
}

/// Who wants to do what. Only a [`Permit`] becomes one, or the controller's own work.
#[derive(Debug, Clone)]
pub struct Intent {
    actor: String,
    address: String,
    action: String,
    subject: String,
    detail: String,
    claim: Claim,
}

/// The longest text in an entry, in characters: what a peer sent must not fill the disk.
const LONGEST: usize = 1024;

impl Intent {
    /// What a caller wants: `subject` is the thing (a run's id, a host's name), `detail` what about it.
    pub fn new(permit: &Permit, subject: &str, detail: &str) -> Self {
        let caller = permit.caller();
        Self::of(caller.actor(), caller.address().to_string(), permit.method(), subject, detail)
    }

    /// What the controller does of itself.
    pub(crate) fn own(action: &str, subject: &str, detail: &str) -> Self {
        Self::of("controller".to_owned(), String::new(), action, subject, detail)
    }

    /// What a caller may not do.
    pub(crate) fn denied(caller: &Caller, method: &str) -> Self {
        Self::of(caller.actor(), caller.address().to_string(), method, "", "")
    }

    fn of(actor: String, address: String, action: &str, subject: &str, detail: &str) -> Self {
        let bounded = |text: &str| text.chars().take(LONGEST).collect();
        Self {
            actor,
            address,
            action: bounded(action),
            subject: bounded(subject),
            detail: bounded(detail),
            claim: Claim::default(),
        }
    }

    /// The same intent, written down with this claim on the disk's room.
    #[must_use]
    pub(crate) fn claiming(self, claim: Claim) -> Self {
        Self { claim, ..self }
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn claim(&self) -> Claim {
        self.claim
    }

    /// The line that is written for it.
    pub(crate) fn line(&self, kind: Kind) -> Line {
        Line {
            at_ms: now_ms(),
            kind,
            about: None,
            actor: self.actor.clone(),
            address: self.address.clone(),
            action: self.action.clone(),
            subject: self.subject.clone(),
            detail: self.detail.clone(),
        }
    }

    /// The same intent with another detail: how it went.
    #[must_use]
    pub(crate) fn with_detail(&self, detail: &str) -> Self {
        Self { detail: detail.chars().take(LONGEST).collect(), ..self.clone() }
    }
}

/// One line of the audit, before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub at_ms: i64,
    pub kind: Kind,
    /// For `Closed`: the sequence number of the entry that it closes.
    pub about: Option<u64>,
    pub actor: String,
    pub address: String,
    pub action: String,
    pub subject: String,
    pub detail: String,
}

/// A line in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// From 1, without gaps.
    pub seq: u64,
    pub line: Line,
    pub hash: [u8; 32],
}

/// The hash before the first entry.
pub const GENESIS: [u8; 32] = [0; 32];

impl Line {
    /// The hash of this line at its place: SHA-256 over the hash before it and every field, each after its length.
    pub fn hash(&self, seq: u64, previous: &[u8; 32]) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        field(b"vigie/audit/v1");
        field(previous);
        field(&seq.to_be_bytes());
        field(&self.at_ms.to_be_bytes());
        field(self.kind.word().as_bytes());
        field(&self.about.unwrap_or(0).to_be_bytes());
        for text in [&self.actor, &self.address, &self.action, &self.subject, &self.detail] {
            field(text.as_bytes());
        }
        hash.finalize().into()
    }
}

/// Where a chain is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("entry {expected} is missing: {found} stands in its place")]
    Missing { expected: u64, found: u64 },
    #[error("entry {seq} is not as it was written, or one before it was replaced")]
    Altered { seq: u64 },
}

/// Walks a chain from the first entry; the head, or the first bad entry.
///
/// # Errors
/// Names the first entry that is missing or altered.
pub fn verify<'a>(records: impl IntoIterator<Item = &'a Record>) -> Result<(u64, [u8; 32]), Broken> {
    verify_from((0, GENESIS), records)
}

/// The same from a head that was verified before.
///
/// # Errors
/// As [`verify`].
pub fn verify_from<'a>(
    head: (u64, [u8; 32]),
    records: impl IntoIterator<Item = &'a Record>,
) -> Result<(u64, [u8; 32]), Broken> {
    records.into_iter().try_fold(head, |(last, previous), record| {
        if record.seq != last + 1 {
            return Err(Broken::Missing { expected: last + 1, found: record.seq });
        }
        if record.line.hash(record.seq, &previous) != record.hash {
            return Err(Broken::Altered { seq: record.seq });
        }
        Ok((record.seq, record.hash))
    })
}

/// Proof that an intent is on disk. Ends with [`Audit::close`].
#[derive(Debug)]
pub struct Entry {
    seq: u64,
    intent: Intent,
}

impl Entry {
    /// Where it stands in the chain.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// The writing end.
#[derive(Clone)]
pub struct Audit {
    store: Arc<dyn Store>,
}

impl Audit {
    /// Writes into this store's chain.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Opens an entry. Its failure refuses the deed.
    ///
    /// # Errors
    /// When it could not be written.
    pub async fn open(&self, intent: Intent) -> Result<Entry, StoreError> {
        let seq = self.store.write_audit(intent.line(Kind::Opened), intent.claim).await?;
        Ok(Entry { seq, intent })
    }

    /// Closes an entry with how the deed ended. A failure is logged, since the deed is done.
    pub async fn close(&self, entry: Entry, ending: &str) {
        let mut line = entry.intent.with_detail(ending).line(Kind::Closed);
        line.about = Some(entry.seq);
        // The deed is done: its end is as small as it is wanted.
        if let Err(error) = self.store.write_audit(line, Claim::Freeing).await {
            tracing::error!(
                seq = entry.seq,
                error = &error as &dyn std::error::Error,
                "an audit entry stays open"
            );
        }
    }

    /// Writes down what already happened.
    ///
    /// # Errors
    /// When it is not in the store.
    pub async fn write(&self, intent: &Intent, kind: Kind) -> Result<(), StoreError> {
        self.store.write_audit(intent.line(kind), intent.claim).await.map(|_| ())
    }

    /// The same, where there is nothing left to refuse: a failure is logged.
    pub async fn note(&self, intent: &Intent, kind: Kind) {
        if let Err(error) = self.write(intent, kind).await {
            tracing::error!(
                action = intent.action,
                actor = intent.actor,
                error = &error as &dyn std::error::Error,
                "an audit entry could not be written"
            );
        }
    }

    /// Closes what a stopped controller left open: the deed may or may not have been done.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn close_abandoned(&self) -> Result<usize, StoreError> {
        let open = self.store.open_audit().await?;
        for record in &open {
            let mut line = record.line.clone();
            line.at_ms = now_ms();
            line.kind = Kind::Closed;
            line.about = Some(record.seq);
            line.detail = "unknown: the controller stopped in between".to_owned();
            self.store.write_audit(line, Claim::Freeing).await?;
        }
        Ok(open.len())
    }

    /// Verifies the whole chain as it stands in the store.
    ///
    /// # Errors
    /// The first bad entry, or the store's failure.
    pub async fn verify(&self) -> Result<Result<(u64, [u8; 32]), Broken>, StoreError> {
        let mut head = (0, GENESIS);
        loop {
            let page = self.store.audit(head.0, PAGE).await?;
            if page.is_empty() {
                return Ok(Ok(head));
            }
            match verify_from(head, &page) {
                Ok(next) => head = next,
                Err(broken) => return Ok(Err(broken)),
            }
        }
    }
}

/// Entries that are read at once.
const PAGE: u32 = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(length: u64) -> Vec<Record> {
        let mut previous = GENESIS;
        (1..=length)
            .map(|seq| {
                let line = Intent::own("test", &format!("subject {seq}"), "detail").line(Kind::Done);
                previous = line.hash(seq, &previous);
                Record { seq, line, hash: previous }
            })
            .collect()
    }

    #[test]
    fn a_sound_chain_gives_its_head() {
        let chain = chain(10);
        assert_eq!(verify(&chain), Ok((10, chain[9].hash)));
        assert_eq!(verify([]), Ok((0, GENESIS)));
    }

    /// Attack 20: edit, delete, swap, insert; each is named by the first bad entry.
    #[test]
    fn tampering_is_named_by_its_first_entry() {
        let good = chain(10);
        let edits: [fn(&mut Line); 8] = [
            |line| line.at_ms += 1,
            |line| line.kind = Kind::Denied,
            |line| line.about = Some(1),
            |line| line.actor.push('x'),
            |line| line.address.push('x'),
            |line| line.action.push('x'),
            |line| line.subject.push('x'),
            |line| line.detail.clear(),
        ];
        for edit in edits {
            let mut bad = good.clone();
            edit(&mut bad[4].line);
            assert_eq!(verify(&bad), Err(Broken::Altered { seq: 5 }));
            // With its own hash made right, the next entry gives it away.
            bad[4].hash = bad[4].line.hash(5, &bad[3].hash);
            assert_eq!(verify(&bad), Err(Broken::Altered { seq: 6 }));
        }
        let mut deleted = good.clone();
        deleted.remove(3);
        assert_eq!(verify(&deleted), Err(Broken::Missing { expected: 4, found: 5 }));
        let mut swapped = good.clone();
        swapped.swap(2, 6);
        assert_eq!(verify(&swapped), Err(Broken::Missing { expected: 3, found: 7 }));
        let mut moved = good;
        let line = moved[2].line.clone();
        moved[2].line = std::mem::replace(&mut moved[6].line, line);
        assert_eq!(verify(&moved), Err(Broken::Altered { seq: 3 }));
    }

    proptest! {
        /// Whatever is done to a chain but cutting its end off is found, at the place or before it.
        #[test]
        fn no_tampering_goes_unseen(at in 0_usize..20, other in 0_usize..20, how in 0_u8..4) {
            let good = chain(20);
            let mut bad = good.clone();
            match how {
                0 => bad[at].line.detail.push('x'),
                1 => bad[at].hash[other] ^= 1,
                2 => bad.swap(at, other),
                _ => { bad.remove(at); }
            }
            let cut = how == 3 && at == 19;
            prop_assert_eq!(verify(&bad).is_ok(), bad == good || cut);
            if let Err(Broken::Missing { expected: seq, .. } | Broken::Altered { seq }) = verify(&bad) {
                prop_assert!(usize::try_from(seq).unwrap() <= at + 1);
            }
        }
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let line = |actor: &str, address: &str| Line {
            actor: actor.to_owned(),
            address: address.to_owned(),
            ..Intent::own("a", "b", "c").line(Kind::Done)
        };
        let (mut one, mut two) = (line("ab", "c"), line("a", "bc"));
        (one.at_ms, two.at_ms) = (0, 0);
        assert_ne!(one.hash(1, &GENESIS), two.hash(1, &GENESIS));
    }
}
