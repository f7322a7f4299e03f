use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// A disk that fills fast is found by the write that meets it; this one finds the room that came back.
const EVERY: Duration = Duration::from_secs(2);

/// Has the store look after itself.
pub(crate) async fn tend(store: Arc<dyn Store>, stop: CancellationToken) {
    loop {
        store.tend().await;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => {}
        }
    }
}
