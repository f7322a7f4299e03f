use std::{error::Error, sync::Arc, time::Duration};

use reqwest::Client;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{config::HeartbeatSettings, store::Store};

/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a URL again and again while the store answers, so that whoever waits for it notices when the controller does not
/// serve any more. Errors are logged once, until it works again.
pub(crate) async fn heartbeat(settings: HeartbeatSettings, store: Arc<dyn Store>, stop: CancellationToken) {
    let client = match Client::builder().timeout(PATIENCE).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error = &error as &dyn Error, "there is no heartbeat: HTTP cannot be set up");
            return;
        }
    };
    let mut well = true;
    loop {
        // A heart that beats without its store would tell that all is well when nothing can be done.
        let beat = match store.runs(1).await {
            Ok(_) => beat(&client, &settings.url).await,
            Err(error) => Err(format!("the store does not answer: {error}")),
        };
        match beat {
            Ok(()) if !well => {
                well = true;
                tracing::info!("the heartbeat is heard again");
            }
            Err(reason) if well => {
                well = false;
                tracing::error!(reason, "the heartbeat is not heard");
            }
            Ok(()) | Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(Duration::from_secs(u64::from(settings.every_s))) => {}
        }
    }
}

async fn beat(client: &Client, url: &str) -> Result<(), String> {
    // The URL is a secret to many services.
    let answer = client.get(url).send().await.map_err(|error| error.without_url().to_string())?;
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answers {}", answer.status())) }
}
