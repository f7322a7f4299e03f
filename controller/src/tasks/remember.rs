use std::{error::Error, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;

/// News are gathered for this long: a fleet that comes back after a restart is then a few transactions, not one a host.
const GATHER: Duration = Duration::from_secs(1);

/// Keeps in the store what is known of the fleet, so that a restarted controller still shows it. Once more at the end.
pub(crate) async fn remember(fleet: Fleet, stop: CancellationToken) {
    let mut well = true;
    loop {
        let stopping = tokio::select! {
            biased;
            () = stop.cancelled() => true,
            () = async { fleet.news().await; sleep(GATHER).await } => false,
        };
        let remembered = fleet.remember().await;
        if let Err(error) = &remembered
            && well
        {
            // Once, and not each second: the log may be on the same full disk.
            tracing::error!(error = error as &dyn Error, "what is known of the fleet could not be kept");
        }
        well = remembered.is_ok();
        if !well {
            // What failed is still to be kept: come back without news.
            if !stopping {
                fleet.ring();
            }
        }
        if stopping {
            return;
        }
    }
}
