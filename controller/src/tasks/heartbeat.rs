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
            Ok(_) if store.health().borrow().stale().is_some() => {
                Err("the store takes no changes".to_owned())
            }
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

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Mutex, PoisonError,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::store::Sqlite;

    /// What is logged in this thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).into_owned()
        }

        fn listen(&self) -> tracing::subscriber::DefaultGuard {
            let log = self.clone();
            // INFO and above, as the controller logs.
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone());
            tracing::subscriber::set_default(subscriber.finish())
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn until(what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..500 {
            if holds() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("it never came to this: {what}");
    }

    fn settings(url: String) -> HeartbeatSettings {
        HeartbeatSettings { url, every_s: 1 }
    }

    async fn store(folder: &tempfile::TempDir) -> Arc<dyn Store> {
        Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap())
    }

    #[tokio::test]
    async fn it_beats_while_the_store_answers_and_is_silent_when_it_does_not() {
        let log = Log::default();
        let _listening = log.listen();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/s3cret-uuid", listener.local_addr().unwrap());
        let beats = Arc::new(AtomicUsize::new(0));
        let heard = Arc::clone(&beats);
        let serving = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 1024];
                let read = stream.read(&mut asked).await.unwrap();
                assert!(asked[..read].starts_with(b"GET /s3cret-uuid HTTP/1.1"));
                // The third is refused.
                let status = if heard.fetch_add(1, Ordering::SeqCst) == 2 { "503" } else { "200" };
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let (store, stop) = (store(&folder).await, CancellationToken::new());
        let beating = tokio::spawn(heartbeat(settings(url), Arc::clone(&store), stop.clone()));
        until("it beats", || beats.load(Ordering::SeqCst) >= 3).await;
        until("a refusal is said", || log.text().contains("it answers 503")).await;
        until("and that it passed", || log.text().contains("the heartbeat is heard again")).await;
        store.close().await;
        until("the store's silence is said", || log.text().contains("the store does not answer")).await;
        let last = beats.load(Ordering::SeqCst);
        sleep(Duration::from_millis(2_200)).await;
        assert_eq!(beats.load(Ordering::SeqCst), last, "a controller that can do nothing is not well");
        assert_eq!(log.text().matches("is not heard").count(), 2, "each is said once:\n{}", log.text());
        assert!(!log.text().contains("s3cret"), "{}", log.text());
        stop.cancel();
        beating.await.unwrap();
        serving.abort();
    }

    #[tokio::test]
    async fn a_url_that_nobody_answers_stays_out_of_the_log() {
        let log = Log::default();
        let _listening = log.listen();
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (store, stop) = (store(&folder).await, CancellationToken::new());
        let url = format!("http://{free}/s3cret-uuid?key=s3cret");
        let beating = tokio::spawn(heartbeat(settings(url), store, stop.clone()));
        until("it is said", || log.text().contains("the heartbeat is not heard")).await;
        assert!(!log.text().contains("s3cret"), "{}", log.text());
        stop.cancel();
        beating.await.unwrap();
    }
}
