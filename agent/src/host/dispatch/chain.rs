//! Whether the journal at hand is the one that the controller has seen.
//!
//! A machine that was put back to a snapshot, or a disk that was restored, has an older copy of it: what was done since could
//! be done again. It may have grown since, so that its length tells nothing; the hashes of its records do,
//! for as many of them as the index has at hand.

use vigie_proto::v1::{AuditHead, Failure, from_agent};

use super::Dispatch;

/// What a comparison with what the controller has seen came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Chain {
    /// In this session the controller has not said yet what it has seen.
    #[default]
    Unasked,
    /// What it has seen is in this journal.
    Agrees,
    /// The last record that it has seen is not: this is an older copy, whatever was written to it since.
    PutBack { seen: u64 },
}

impl Dispatch {
    /// A session begins. What was found of an older copy stands until the controller says again what it has seen.
    pub(super) fn ask_anew(&mut self) {
        if self.chain == Chain::Agrees {
            self.chain = Chain::Unasked;
        }
    }

    /// Compares the journal with what the controller has seen of it. Only where the two agree is the controller told how far
    /// the journal goes, so that an older copy never becomes what was seen.
    pub(super) async fn compare(&mut self, seen: Option<AuditHead>) {
        let put_back = seen.filter(|seen| self.shared.journal.index().contradicts(seen));
        let Some(seen) = put_back else {
            self.chain = Chain::Agrees;
            self.tell_head().await;
            return;
        };
        if !matches!(self.chain, Chain::PutBack { .. }) {
            tracing::error!(
                own = self.shared.journal.audit_head().seq,
                seen = seen.seq,
                "this journal is an older one than the controller has seen: orders are refused until the host is enrolled anew"
            );
        }
        self.chain = Chain::PutBack { seen: seen.seq };
    }

    /// Tells where the chain ends, once it is known to be the one that was seen.
    pub(super) async fn tell_head(&self) {
        if self.chain == Chain::Agrees {
            self.send(from_agent::Message::AuditHead(self.shared.journal.audit_head())).await;
        }
    }

    /// Why an order is refused by a journal that was put back; nothing for any other.
    pub(super) fn is_put_back(&self) -> Option<Failure> {
        let Chain::PutBack { seen } = self.chain else { return None };
        let own = self.shared.journal.audit_head().seq;
        let message = match own < seen {
            true => format!(
                "the journal ends at record {own}, and the controller has seen record {seen}: it was put back"
            ),
            false => format!(
                "the journal's record {seen} is another one than the controller has seen: it was put back, and went on"
            ),
        };
        let hint = "the host does not know what it did since: look at it, then enrol it again with `vigie-agent enroll --replace`";
        Some(Failure::new("journal_put_back", message).hint(hint))
    }
}
