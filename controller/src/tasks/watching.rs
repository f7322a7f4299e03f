use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vigie_proto::v1::Watch;

use crate::{fleet::Fleet, runbooks::Runbooks};

/// How often the team's runbooks are looked at for changes.
const EVERY: Duration = Duration::from_secs(30);

/// What agents are to watch for by themselves.
#[derive(Clone)]
pub(crate) struct Watching {
    every_s: u32,
    runbooks: Runbooks,
}

impl Watching {
    pub(crate) fn new(every_s: u32, runbooks: Runbooks) -> Self {
        Self { every_s, runbooks }
    }

    /// As it stands now.
    pub(crate) fn now(&self) -> Watch {
        Watch { every_s: self.every_s, runbooks: self.runbooks.of_the_team() }
    }
}

/// Tells every agent when the team's runbooks changed. Who comes later is told at the beginning of their session.
pub(crate) async fn keep_watching(watching: Watching, fleet: Fleet, stop: CancellationToken) {
    let mut told = watching.now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        let now = watching.now();
        if now != told {
            tracing::info!(runbooks = now.runbooks.len(), "agents are told to watch for other symptoms");
            for host in fleet.connected() {
                fleet.watch(host, now.clone());
            }
            told = now;
        }
    }
}
