//! Webhooks and ntfy: one POST.

use reqwest::{Client, Url};
use serde::Serialize;

use super::{ChannelError, ChannelSettings, DeliveryError, Kind, PATIENCE};
use crate::incidents::Notice;

/// A place that takes a POST.
#[derive(Clone)]
pub(super) struct Web {
    client: Client,
    url: Url,
    token: Option<String>,
    /// ntfy's way of writing it.
    ntfy: bool,
}

/// What ntfy takes as JSON, posted to its root (<https://docs.ntfy.sh/publish/#publish-as-json>): headers could not hold a
/// subject in every language.
#[derive(Serialize)]
struct Ntfy<'a> {
    topic: &'a str,
    title: &'a str,
    message: &'a str,
    priority: u8,
    tags: [&'a str; 1],
}

impl Web {
    pub(super) fn open(settings: &ChannelSettings) -> Result<Self, ChannelError> {
        let bad = || ChannelError::Url { name: settings.name.clone() };
        let url = settings.url.as_deref().and_then(|url| Url::parse(url).ok()).ok_or_else(bad)?;
        let client = Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
        let client = client.map_err(|source| ChannelError::Http { name: settings.name.clone(), source })?;
        let token = settings.token_file.as_deref().map(|file| settings.secret(file)).transpose()?;
        let ntfy = settings.kind == Kind::Ntfy;
        if ntfy && topic(&url).is_none() {
            return Err(bad());
        }
        Ok(Self { client, url, token, ntfy })
    }

    pub(super) async fn deliver(&self, notice: &Notice) -> Result<(), DeliveryError> {
        let request = match topic(&self.url).filter(|_| self.ntfy) {
            Some((root, topic)) => self.client.post(root).json(&Ntfy {
                topic: &topic,
                title: &notice.subject,
                message: &notice.text,
                priority: priority(notice),
                tags: [tag(notice)],
            }),
            None => self.client.post(self.url.clone()).json(notice),
        };
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        // The URL may hold a secret of its own, and errors are logged.
        let answer = request.send().await.map_err(|error| DeliveryError::Request(error.without_url()))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(DeliveryError::Answer(status)) }
    }
}

/// The server and the topic of `https://ntfy.sh/topic`.
fn topic(url: &Url) -> Option<(Url, String)> {
    let mut root = url.clone();
    let topic = url.path_segments()?.rfind(|part| !part.is_empty())?.to_owned();
    root.path_segments_mut().ok()?.pop_if_empty().pop();
    Some((root, topic))
}

/// ntfy's scale: 5 rings until somebody looks, 3 is its default. Good news wake nobody.
fn priority(notice: &Notice) -> u8 {
    if notice.severity == "critical" && !notice.kind.is_relief() { 5 } else { 3 }
}

fn tag(notice: &Notice) -> &'static str {
    match (notice.kind.is_relief(), notice.severity.as_str()) {
        (true, _) => "white_check_mark",
        (false, "critical") => "rotating_light",
        (false, _) => "warning",
    }
}
