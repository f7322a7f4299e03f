//! A session's beginning and end.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::{mpsc, watch};
use vigie_proto::{
    id::HostId,
    v1::{Hello, ToAgent, Welcome, to_agent},
};

use super::{Fleet, QUEUE, Session, liveness::Pulse};
use crate::{error::LinkError, permit::Permit};

/// Tells one session of a host from the next. Never used again while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

impl SessionId {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a session is to end although both sides are well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The host opened a newer one.
    Superseded,
    /// The host was enrolled anew.
    Replaced,
    /// The controller stops.
    Stopping,
}

/// A host's session, for whoever serves it. Dropping it ends the session.
pub struct Attached {
    pub host: HostId,
    pub name: String,
    pub id: SessionId,
    /// What to send, the welcome first. What is queued when the session ends is still to be sent.
    pub outbound: mpsc::Receiver<ToAgent>,
    /// Says when the session is to end, and why.
    pub end: watch::Receiver<Option<End>>,
    /// Detaches the host when it is dropped.
    pub held: Held,
}

/// Keeps a host's session in the registry.
pub struct Held {
    host: HostId,
    id: SessionId,
    fleet: Fleet,
}

impl Fleet {
    /// Opens an agent's session. Whose it is comes from the certificate, and so does the incarnation: a machine that was
    /// replaced cannot claim to be its successor.
    ///
    /// # Errors
    /// When the host is not known, was enrolled anew since, or the store fails.
    pub(crate) async fn attach(
        &self,
        permit: &Permit,
        controller: &str,
        hello: Hello,
    ) -> Result<Attached, LinkError> {
        let host = permit.caller().host().map_err(|_| LinkError::UnknownHost)?;
        let incarnation = self.entitled(permit).await?;
        if hello.incarnation != incarnation {
            return Err(LinkError::Malformed("the hello's incarnation is not the certificate's"));
        }
        let (sender, outbound) = mpsc::channel(QUEUE);
        let (id, (end, ending)) = (SessionId::next(), watch::channel(None));
        let now_ms = self.now_ms();
        let name = {
            let mut hosts = self.hosts();
            let known = hosts.get_mut(&host).ok_or(LinkError::UnknownHost)?;
            if known.row.incarnation != incarnation {
                return Err(LinkError::Replaced);
            }
            let seen = known.journal.clone();
            let welcome = Welcome { controller: controller.to_owned(), now_ms, seen };
            // A new channel has room for one.
            sender
                .try_send(ToAgent { message: Some(to_agent::Message::Welcome(welcome)) })
                .map_err(|_| LinkError::Stuck)?;
            // Its hello came from the part of it that answers.
            let session = Session { id, outbound: sender, end, pulse: Pulse::new(now_ms) };
            if let Some(older) = known.session.replace(session) {
                older.end.send_replace(Some(End::Superseded));
            }
            known.row.connected_since_ms = now_ms;
            known.row.last_seen_ms = known.row.connected_since_ms;
            if let Some(state) = hello.state {
                known.reported(state);
            }
            if let Some(head) = hello.audit_head {
                known.journal_greeted(head);
            }
            known.dirty = true;
            known.row.name.clone()
        };
        self.ring();
        self.changed(host);
        Ok(Attached { host, name, id, outbound, end: ending, held: Held { host, id, fleet: self.clone() } })
    }

    /// The incarnation that a caller's certificate was issued to.
    pub(crate) async fn entitled(&self, permit: &Permit) -> Result<u64, LinkError> {
        let certificate = permit.caller().certificate().ok_or(LinkError::UnknownHost)?;
        let issued = self.0.store.certificate(&certificate.serial).await?.ok_or(LinkError::UnknownHost)?;
        if issued.identity != certificate.identity.to_string() {
            return Err(LinkError::UnknownHost);
        }
        Ok(issued.incarnation)
    }

    fn detach(&self, host: HostId, session: SessionId) {
        let now_ms = self.now_ms();
        {
            let mut hosts = self.hosts();
            let Some(known) = hosts.get_mut(&host).filter(|known| known.is_in(session)) else {
                return;
            };
            known.session = None;
            known.row.connected_since_ms = now_ms;
            known.dirty = true;
        }
        self.ring();
        self.changed(host);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fleet.detach(self.host, self.id);
    }
}
