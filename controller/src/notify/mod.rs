//! Telling people: webhooks, ntfy and e-mail.
//!
//! Owns the channels of the settings, and per channel a loop that delivers what waits in the store, of each incident the
//! oldest first. A notice is delivered at least once: it leaves the store after the other side took it. What cannot be
//! delivered is tried again ever more slowly, while others go past it, and given up after a day, since nobody wants
//! yesterday's alarm, or when the other side says that it will never take it.

mod email;
mod settings;
mod web;

use std::{error::Error, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

pub use settings::{ChannelError, ChannelSettings, EmailTls, Kind};

use crate::{clock::now_ms, incidents::Notice, store::Store};
use email::Email;
use web::Web;

/// Between two attempts, at first and at most.
const FIRST_PAUSE_MS: i64 = 5_000;
const LONGEST_PAUSE_MS: i64 = 15 * 60_000;

/// After so long a notice is given up.
const STALE_MS: i64 = 24 * 3_600_000;

/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where notices go.
#[derive(Clone)]
pub struct Channel {
    name: String,
    /// Notices of incidents that are less bad are not sent here.
    least: u8,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Web(Web),
    Email(Arc<Email>),
}

/// Why a notice was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the other side answered {0}")]
    Answer(reqwest::StatusCode),
    #[error("the message cannot be written")]
    Message(#[source] lettre::error::Error),
    #[error("the mail server did not take it")]
    Mail(#[source] lettre::transport::smtp::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Time,
}

impl DeliveryError {
    /// Whether the other side will not take this notice, ever: what it does not like is the notice. What it does not like
    /// of the channel (its token, its address) a person may mend within the day, and the rest passes by itself.
    fn is_final(&self) -> bool {
        use reqwest::StatusCode as Status;
        let passes = [
            Status::UNAUTHORIZED,
            Status::FORBIDDEN,
            Status::NOT_FOUND,
            Status::PROXY_AUTHENTICATION_REQUIRED,
            Status::REQUEST_TIMEOUT,
            Status::TOO_EARLY,
            Status::TOO_MANY_REQUESTS,
        ];
        matches!(self, Self::Answer(status) if status.is_client_error() && !passes.contains(status))
    }
}

impl Channel {
    /// Makes a channel ready: its secrets are read, nothing is sent.
    ///
    /// # Errors
    /// Names the channel and what is wrong with its settings.
    pub fn open(settings: &ChannelSettings) -> Result<Self, ChannelError> {
        let way = match settings.kind {
            Kind::Webhook | Kind::Ntfy => Way::Web(Web::open(settings)?),
            Kind::Email => Way::Email(Arc::new(Email::open(settings)?)),
        };
        Ok(Self { name: settings.name.clone(), least: settings.least(), way })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether incidents this bad are told here.
    pub(crate) fn wants(&self, notice: &Notice) -> bool {
        crate::incidents::rank(&notice.severity) >= self.least
    }

    /// Sends one notice now.
    ///
    /// # Errors
    /// When the other side did not take it.
    pub(crate) async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let delivery = async {
            match &self.way {
                Way::Web(web) => web.deliver(notice).await,
                Way::Email(email) => email.deliver(notice).await,
            }
        };
        tokio::time::timeout(PATIENCE, delivery).await.map_err(|_| DeliveryError::Time)?
    }

    /// Tries the channel.
    ///
    /// # Errors
    /// When the other side did not take it.
    pub async fn test(&self) -> Result<(), DeliveryError> {
        self.deliver(&Notice::test()).await
    }
}

/// Delivers what waits for a channel, until it is told to stop. `news` changes when there may be something new.
pub(crate) async fn deliver(
    channel: Channel,
    store: Arc<dyn Store>,
    mut news: watch::Receiver<u64>,
    stop: CancellationToken,
) {
    loop {
        news.borrow_and_update();
        let pause = match next(&channel, &*store).await {
            Ok(Some(pause)) => pause,
            Ok(None) => {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = news.changed() => if changed.is_err() { return },
                }
                continue;
            }
            Err(error) => {
                tracing::error!(
                    channel = channel.name,
                    error = &error as &dyn Error,
                    "notices cannot be read"
                );
                Duration::from_secs(30)
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
            changed = news.changed() => if changed.is_err() { return },
        }
    }
}

/// Tries the notice that is due first. How long to wait before the next look, or nothing when none waits.
async fn next(channel: &Channel, store: &dyn Store) -> Result<Option<Duration>, crate::store::StoreError> {
    let Some(pending) = store.next_notice(&channel.name).await? else { return Ok(None) };
    let wait_ms = pending.next_at_ms - now_ms();
    if let Ok(wait) = u64::try_from(wait_ms)
        && wait > 0
    {
        return Ok(Some(Duration::from_millis(wait)));
    }
    let Ok(notice) = serde_json::from_str::<Notice>(&pending.body) else {
        tracing::error!(channel = channel.name, notice = pending.id, "a notice does not read and is dropped");
        store.notice_done(pending.id).await?;
        return Ok(Some(Duration::ZERO));
    };
    match channel.deliver(&notice).await {
        Ok(()) => {
            tracing::info!(channel = channel.name, subject = notice.subject, "told");
            store.notice_done(pending.id).await?;
        }
        Err(error) if error.is_final() || now_ms() - pending.made_at_ms > STALE_MS => {
            tracing::error!(
                channel = channel.name,
                subject = notice.subject,
                error = &error as &dyn Error,
                "a notice is given up: it is not taken"
            );
            store.notice_done(pending.id).await?;
        }
        Err(error) => {
            tracing::warn!(
                channel = channel.name,
                subject = notice.subject,
                error = &error as &dyn Error,
                "a notice was not delivered and is tried again"
            );
            store.notice_delayed(pending.id, now_ms() + pause_ms(pending.attempts)).await?;
        }
    }
    Ok(Some(Duration::ZERO))
}

/// Doubles from the first pause to the longest.
fn pause_ms(attempts: u32) -> i64 {
    FIRST_PAUSE_MS.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE_MS)
}

#[cfg(test)]
mod tests;
