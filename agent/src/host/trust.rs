//! Whose orders this host takes, and as whom it takes them. Read from what enrolment left behind; nothing that comes
//! over the network changes it.

use vigie_proto::{
    id::HostId,
    order::{Refusal, TrustedKeys, Verified, verify},
    v1::Execute,
};

/// This host, as orders name it, and the keys that may sign them.
#[derive(Debug, Clone)]
pub struct Trust {
    pub host: HostId,
    /// Grows with each enrolment.
    pub incarnation: u64,
    pub keys: TrustedKeys,
}

impl Trust {
    /// Believes an order or says why not.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(&self, execute: &Execute, now_ms: i64) -> Result<Verified, Refusal> {
        verify(execute, &self.keys, self.host, self.incarnation, now_ms)
    }
}
