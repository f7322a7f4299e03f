//! The team's own monitoring: whether it is green, for the checklist's line of that name.
//!
//! Owns the client and its token. What an incident does with the answer is the board's to say.

use std::{error::Error, path::PathBuf, time::Duration};

use reqwest::{Client, Response, Url};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use vigie_transport::credential::{FileError, read_private};

use crate::incidents::Incidents;

/// How long the other side may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// More of an answer is not read: a status page is short, and a query's result names what fires.
const LONGEST: usize = 1 << 20;

/// Of what fires, so many are named.
const NAMED: usize = 5;

/// `[monitoring]`: either a page, or a query of Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitoringSettings {
    /// A page that answers 2xx while all is green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// With `url`: the page has this text too while all is green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// The root of a server that speaks Prometheus' API (<https://prometheus.io/docs/prometheus/latest/querying/api/>).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<String>,
    /// With `prometheus`: all is green while its result is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// A file that holds a bearer token, which only the controller's user may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The pause between two looks while an incident wants to know, in seconds.
    #[serde(default = "twice_a_minute")]
    pub every_s: u32,
}

fn twice_a_minute() -> u32 {
    30
}

/// Why the monitoring cannot be asked. Each names the key, and what to write.
#[derive(Debug, thiserror::Error)]
pub enum MonitoringError {
    #[error("[monitoring] needs `url`, or `prometheus` with `query`; write one of them")]
    Way,
    #[error("[monitoring]: `{key}` belongs to `{with}`; remove it, or write `{with}`")]
    Stray { key: &'static str, with: &'static str },
    #[error("[monitoring]: `{0}` is no http or https URL")]
    Url(&'static str),
    #[error("[monitoring]: `every_s` is {0}; write 10 to 3600 seconds")]
    Every(u32),
    #[error("[monitoring]: {file} cannot be read")]
    Secret { file: PathBuf, source: FileError },
    #[error("[monitoring]: HTTP cannot be set up")]
    Http(#[source] reqwest::Error),
}

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    /// With what is not.
    Red(String),
}

/// Why one look found nothing out. None of it holds the URL, which may be a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error("the request failed")]
    Request(#[source] reqwest::Error),
    #[error("the answer is longer than {LONGEST} bytes")]
    Long,
    #[error("the query is answered with {0}")]
    Answer(reqwest::StatusCode),
    #[error("the answer is not that of a query")]
    Shape(#[source] serde_json::Error),
    #[error("the query's result is a {0}; write one whose result is a vector")]
    Result(String),
}

/// Where to look.
#[derive(Debug, Clone)]
pub(crate) struct Monitoring {
    client: Client,
    way: Way,
    token: Option<String>,
    every: Duration,
}

#[derive(Debug, Clone)]
enum Way {
    Page { url: Url, contains: Option<String> },
    Query(Url),
}

/// An instant query's answer, as far as it is read.
#[derive(Deserialize)]
struct Answer {
    data: AnswerData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerData {
    result_type: String,
    result: serde_json::Value,
}

impl MonitoringSettings {
    /// Refuses what could not work.
    ///
    /// # Errors
    /// Names the key.
    pub(crate) fn check(&self) -> Result<(), MonitoringError> {
        self.way().map(drop)?;
        if (10..=3600).contains(&self.every_s) { Ok(()) } else { Err(MonitoringError::Every(self.every_s)) }
    }

    fn way(&self) -> Result<Way, MonitoringError> {
        let parsed = |key, text: &str| {
            Url::parse(text)
                .ok()
                .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
                .ok_or(MonitoringError::Url(key))
        };
        let stray = |key, with| MonitoringError::Stray { key, with };
        match (&self.url, &self.prometheus, &self.query) {
            (Some(_), Some(_), _) | (None, None, _) => Err(MonitoringError::Way),
            (Some(_), None, Some(_)) => Err(stray("query", "prometheus")),
            (None, Some(_), _) if self.contains.is_some() => Err(stray("contains", "url")),
            (None, Some(_), None) => Err(MonitoringError::Way),
            (Some(url), None, None) => {
                Ok(Way::Page { url: parsed("url", url)?, contains: self.contains.clone() })
            }
            (None, Some(root), Some(query)) => {
                let mut url = parsed("prometheus", root)?;
                let mut path = url.path_segments_mut().map_err(|()| MonitoringError::Url("prometheus"))?;
                path.pop_if_empty().extend(["api", "v1", "query"]);
                drop(path);
                url.query_pairs_mut().append_pair("query", query);
                Ok(Way::Query(url))
            }
        }
    }
}

impl Monitoring {
    /// Makes it ready: its token is read, nothing is sent.
    ///
    /// # Errors
    /// When the settings or the token's file are not to be used.
    pub(crate) fn open(settings: &MonitoringSettings) -> Result<Self, MonitoringError> {
        settings.check()?;
        let client = Client::builder().timeout(PATIENCE).build().map_err(MonitoringError::Http)?;
        let read = |file: &PathBuf| {
            let failed = |source| MonitoringError::Secret { file: file.clone(), source };
            read_private(file).map_err(failed).map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
        };
        let token = settings.token_file.as_ref().map(read).transpose()?;
        let every = Duration::from_secs(u64::from(settings.every_s));
        Ok(Self { client, way: settings.way()?, token, every })
    }

    /// Looks once.
    ///
    /// # Errors
    /// When it cannot be told whether it is green. A page that does not answer at all is such a case: what is wrong may
    /// be the way to it.
    pub(crate) async fn look(&self) -> Result<Colour, LookError> {
        match &self.way {
            Way::Page { url, contains } => {
                let answer = self.get(url).await?;
                let status = answer.status();
                if !status.is_success() {
                    return Ok(Colour::Red(format!("its page answers {status}")));
                }
                let Some(wanted) = contains else { return Ok(Colour::Green) };
                let page = read(answer).await?;
                let found = String::from_utf8_lossy(&page).contains(wanted.as_str());
                Ok(if found {
                    Colour::Green
                } else {
                    Colour::Red(format!("its page does not say {wanted:?}"))
                })
            }
            Way::Query(url) => {
                let answer = self.get(url).await?;
                let status = answer.status();
                if !status.is_success() {
                    return Err(LookError::Answer(status));
                }
                let answer: Answer =
                    serde_json::from_slice(&read(answer).await?).map_err(LookError::Shape)?;
                match (answer.data.result_type.as_str(), &answer.data.result) {
                    ("vector", serde_json::Value::Array(result)) if result.is_empty() => Ok(Colour::Green),
                    ("vector", serde_json::Value::Array(result)) => Ok(Colour::Red(fires(result))),
                    (kind, _) => Err(LookError::Result(kind.chars().take(32).collect())),
                }
            }
        }
    }

    async fn get(&self, url: &Url) -> Result<Response, LookError> {
        let request = self.client.get(url.clone());
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.map_err(|error| LookError::Request(error.without_url()))
    }
}

/// The body, bounded.
async fn read(mut answer: Response) -> Result<Vec<u8>, LookError> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| LookError::Request(error.without_url()))? {
        if body.len() + chunk.len() > LONGEST {
            return Err(LookError::Long);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `HighErrorRate, DiskFull and 3 more`.
fn fires(result: &[serde_json::Value]) -> String {
    let name = |series: &serde_json::Value| {
        let metric = &series["metric"];
        ["alertname", "__name__"]
            .iter()
            .find_map(|label| metric[*label].as_str())
            .map_or_else(|| metric.to_string(), str::to_owned)
            .chars()
            .take(80)
            .collect::<String>()
    };
    let named: Vec<_> = result.iter().take(NAMED).map(name).collect();
    match result.len() - named.len() {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Looks again and again while an incident wants to know. That it cannot be told is logged once, until it can.
pub(crate) async fn keep_looking(monitoring: Monitoring, incidents: Incidents, stop: CancellationToken) {
    let mut well = true;
    loop {
        if incidents.want_monitoring() {
            match monitoring.look().await {
                Ok(seen) => {
                    well = true;
                    incidents.monitored(seen);
                }
                Err(error) if well => {
                    well = false;
                    tracing::warn!(error = &error as &dyn Error, "the monitoring does not tell how it is");
                }
                Err(_) => {}
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(monitoring.every) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;

    /// A web server that gives each request the next answer; its address, and the first lines that it was sent.
    async fn web(
        answers: &'static [(u16, &'static str)],
    ) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for (status, body) in answers {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    lines.push(line.trim().to_owned());
                }
                let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                let answer = format!("{head}connection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                sender.send(lines.first().cloned().unwrap_or_default()).unwrap();
            }
        });
        (format!("http://{address}"), asked)
    }

    fn settings() -> MonitoringSettings {
        MonitoringSettings {
            url: None,
            contains: None,
            prometheus: None,
            query: None,
            token_file: None,
            every_s: 30,
        }
    }

    #[tokio::test]
    async fn a_page_is_green_by_its_status_and_its_words() {
        let (url, _asked) = web(&[(200, "all systems green"), (200, "3 alerts"), (503, "")]).await;
        let page = MonitoringSettings {
            url: Some(url),
            contains: Some("all systems green".to_owned()),
            ..settings()
        };
        let page = Monitoring::open(&page).unwrap();
        assert_eq!(page.look().await.unwrap(), Colour::Green);
        let red = |seen: Colour| match seen {
            Colour::Red(why) => why,
            Colour::Green => panic!("green"),
        };
        assert!(red(page.look().await.unwrap()).contains("does not say"));
        assert!(red(page.look().await.unwrap()).contains("503"));
        // Nobody listens any more: nothing is known.
        page.look().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_query_is_green_when_nothing_fires() {
        let (url, mut asked) = web(&[
            (200, r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#),
            (
                200,
                r#"{"status":"success","data":{"resultType":"vector","result":[
                    {"metric":{"alertname":"DiskFull"},"value":[1,"1"]},{"metric":{"__name__":"up"},"value":[1,"1"]}]}}"#,
            ),
            (200, r#"{"status":"success","data":{"resultType":"scalar","result":[1,"0"]}}"#),
            (422, r#"{"status":"error"}"#),
        ])
        .await;
        let query = MonitoringSettings {
            prometheus: Some(format!("{url}/prom/")),
            query: Some("ALERTS{alertstate=\"firing\"}".to_owned()),
            ..settings()
        };
        let query = Monitoring::open(&query).unwrap();
        assert_eq!(query.look().await.unwrap(), Colour::Green);
        let first = asked.recv().await.unwrap();
        assert!(
            first.starts_with("GET /prom/api/v1/query?query=ALERTS%7Balertstate%3D%22firing%22%7D "),
            "{first}"
        );
        assert_eq!(query.look().await.unwrap(), Colour::Red("DiskFull, up".to_owned()));
        assert!(matches!(query.look().await, Err(LookError::Result(kind)) if kind == "scalar"));
        assert!(matches!(query.look().await, Err(LookError::Answer(_))));
    }

    #[test]
    fn settings_that_cannot_work_name_the_key() {
        let refused = |settings: MonitoringSettings| settings.check().unwrap_err().to_string();
        let some = |text: &str| Some(text.to_owned());
        assert!(refused(settings()).contains("needs `url`"));
        let both = MonitoringSettings { url: some("http://a/"), prometheus: some("http://b/"), ..settings() };
        assert!(refused(both).contains("one of them"));
        let stray = MonitoringSettings { url: some("http://a/"), query: some("up"), ..settings() };
        assert!(refused(stray).contains("`query` belongs to `prometheus`"));
        let no_query = MonitoringSettings { prometheus: some("http://a/"), ..settings() };
        assert!(refused(no_query).contains("with `query`"));
        let scheme = MonitoringSettings { url: some("ftp://a/"), ..settings() };
        assert!(refused(scheme).contains("no http or https URL"));
        let often = MonitoringSettings { url: some("http://a/"), every_s: 1, ..settings() };
        assert!(refused(often).contains("10 to 3600"));
    }
}
