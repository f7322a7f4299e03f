use std::sync::Mutex;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
};

use super::*;
use crate::store::Sqlite;

fn settings(kind: Kind) -> ChannelSettings {
    ChannelSettings {
        name: "pager".to_owned(),
        kind,
        severity: None,
        url: None,
        token_file: None,
        server: None,
        tls: None,
        username: None,
        password_file: None,
        from: None,
        to: Vec::new(),
    }
}

/// A web server that answers each request with the next of `statuses`, and hands over what it was sent.
async fn web(statuses: &'static [u16]) -> (String, mpsc::Receiver<(String, serde_json::Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::channel(16);
    tokio::spawn(async move {
        for status in statuses {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            sender.send((head, serde_json::from_slice(&body).unwrap())).await.unwrap();
        }
    });
    (format!("http://{address}"), received)
}

#[tokio::test]
async fn a_webhook_gets_the_notice_with_its_token() {
    use std::os::unix::fs::PermissionsExt as _;
    let (url, mut received) = web(&[204]).await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let settings = ChannelSettings {
        url: Some(format!("{url}/hook?x=1")),
        token_file: Some(token),
        ..settings(Kind::Webhook)
    };
    Channel::open(&settings).unwrap().test().await.unwrap();
    let (head, body) = received.recv().await.unwrap();
    assert!(head.starts_with("POST /hook?x=1 HTTP/1.1"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer s3cret\r\n"), "{head}");
    assert_eq!((&body["kind"], &body["severity"]), (&"test".into(), &"notice".into()));
}

#[tokio::test]
async fn ntfy_gets_its_own_words() {
    let (url, mut received) = web(&[200, 403]).await;
    let settings = ChannelSettings { url: Some(format!("{url}/sub/our-topic")), ..settings(Kind::Ntfy) };
    let channel = Channel::open(&settings).unwrap();
    channel.test().await.unwrap();
    let (head, body) = received.recv().await.unwrap();
    assert!(head.starts_with("POST /sub HTTP/1.1"), "{head}");
    assert_eq!((&body["topic"], &body["priority"]), (&"our-topic".into(), &3.into()));
    let refused = channel.test().await.unwrap_err();
    assert!(refused.to_string().contains("403"), "{refused}");
}

#[tokio::test]
async fn the_end_of_an_outage_rings_at_nobodys_bed() {
    use crate::incidents::NoticeKind;
    let (url, mut received) = web(&[200, 200, 200]).await;
    let settings = ChannelSettings { url: Some(format!("{url}/our-topic")), ..settings(Kind::Ntfy) };
    let channel = Channel::open(&settings).unwrap();
    let told = [(NoticeKind::Opened, 5), (NoticeKind::Eased, 3), (NoticeKind::Resolved, 3)];
    for (kind, priority) in told {
        let notice = Notice { kind, severity: "critical".to_owned(), ..Notice::test() };
        channel.deliver(&notice).await.unwrap();
        assert_eq!(received.recv().await.unwrap().1["priority"], priority, "{kind:?}");
    }
}

/// The other end of a mail delivery, as RFC 5321 has it, on a plain connection.
#[tokio::test]
async fn mail_reaches_everybody() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let serving = tokio::spawn({
        let heard = Arc::clone(&heard);
        async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.write_all(b"220 mail\r\n").await.unwrap();
            let mut in_data = false;
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap() == 0 {
                    return;
                }
                let line = line.trim_end().to_owned();
                let answer = match line.split(' ').next().unwrap() {
                    "." if in_data => {
                        in_data = false;
                        "250 taken"
                    }
                    _ if in_data => "",
                    "DATA" => {
                        in_data = true;
                        "354 go on"
                    }
                    "QUIT" => "221 bye",
                    _ => "250 ok",
                };
                heard.lock().unwrap().push(line);
                if !answer.is_empty() {
                    stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
                }
            }
        }
    });
    let settings = ChannelSettings {
        server: Some(server),
        tls: Some(EmailTls::None),
        from: Some("Vigie <vigie@fleet.example>".to_owned()),
        to: vec!["ada@fleet.example".to_owned(), "bob@fleet.example".to_owned()],
        ..settings(Kind::Email)
    };
    let channel = Channel::open(&settings).unwrap();
    channel.test().await.unwrap();
    drop(channel);
    serving.abort();
    let heard = heard.lock().unwrap();
    for expected in
        ["MAIL FROM:<vigie@fleet.example>", "RCPT TO:<ada@fleet.example>", "RCPT TO:<bob@fleet.example>"]
    {
        assert!(heard.iter().any(|line| line.starts_with(expected)), "{heard:?}");
    }
    assert!(heard.iter().any(|line| line == "Subject: [test] Vigie can reach you"), "{heard:?}");
}

#[tokio::test]
async fn what_was_not_taken_is_tried_again_and_then_leaves_the_store() {
    let (url, mut received) = web(&[500, 200]).await;
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap());
    let channel = Channel::open(&ChannelSettings { url: Some(url), ..settings(Kind::Webhook) }).unwrap();
    let body = serde_json::to_string(&Notice::test()).unwrap();
    let now = now_ms();
    let notices = [("pager".to_owned(), body), ("other".to_owned(), "not ours".to_owned())];
    store.save_incidents(None, &[], &notices, now).await.unwrap();
    assert_eq!(next(&channel, &*store).await.unwrap(), Some(Duration::ZERO));
    received.recv().await.unwrap();
    let pending = store.next_notice("pager").await.unwrap().unwrap();
    assert_eq!(pending.attempts, 1);
    assert!(pending.next_at_ms >= now + FIRST_PAUSE_MS);
    // Not before its time.
    assert!(next(&channel, &*store).await.unwrap().unwrap() > Duration::from_secs(3));
    store.notice_delayed(pending.id, 0).await.unwrap();
    next(&channel, &*store).await.unwrap();
    received.recv().await.unwrap();
    assert_eq!(store.next_notice("pager").await.unwrap(), None);
    assert_eq!(next(&channel, &*store).await.unwrap(), None);
    assert!(store.next_notice("other").await.unwrap().is_some());
    assert_eq!([0, 1, 7, 60].map(pause_ms), [5_000, 10_000, 640_000, LONGEST_PAUSE_MS]);
}

/// A notice of an incident, as it lies in the store.
fn of_incident(incident: &str, subject: &str) -> (String, String) {
    let notice = Notice { incident: incident.to_owned(), subject: subject.to_owned(), ..Notice::test() };
    ("pager".to_owned(), serde_json::to_string(&notice).unwrap())
}

#[tokio::test]
async fn what_is_not_taken_holds_up_its_own_incident_alone() {
    let (url, mut received) = web(&[503, 200, 200, 200]).await;
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap());
    let channel = Channel::open(&ChannelSettings { url: Some(url), ..settings(Kind::Webhook) }).unwrap();
    let notices =
        [of_incident("a", "a opened"), of_incident("a", "a resolved"), of_incident("b", "b opened")];
    store.save_incidents(None, &[], &notices, now_ms()).await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..2 {
        next(&channel, &*store).await.unwrap();
        heard.push(received.recv().await.unwrap().1["subject"].clone());
    }
    assert_eq!(heard, ["a opened", "b opened"], "an end never comes before its beginning");
    let waits = store.next_notice("pager").await.unwrap().unwrap();
    assert!(waits.body.contains("a opened") && waits.attempts == 1, "{waits:?}");
    store.notice_delayed(waits.id, 0).await.unwrap();
    for expected in ["a opened", "a resolved"] {
        next(&channel, &*store).await.unwrap();
        assert_eq!(received.recv().await.unwrap().1["subject"], expected);
    }
    assert_eq!(store.next_notice("pager").await.unwrap(), None);
}

#[tokio::test]
async fn what_will_never_be_taken_is_given_up_and_what_a_person_can_mend_is_not() {
    let (url, mut received) = web(&[413, 401]).await;
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&folder.path().join("store")).await.unwrap());
    let channel = Channel::open(&ChannelSettings { url: Some(url), ..settings(Kind::Webhook) }).unwrap();
    let notices = [of_incident("a", "too large"), of_incident("b", "a wrong token")];
    store.save_incidents(None, &[], &notices, now_ms()).await.unwrap();
    for _ in 0..2 {
        next(&channel, &*store).await.unwrap();
        received.recv().await.unwrap();
    }
    let waits = store.next_notice("pager").await.unwrap().unwrap();
    assert!(waits.body.contains("a wrong token"), "{waits:?}");
    let answer =
        |status: u16| DeliveryError::Answer(reqwest::StatusCode::from_u16(status).unwrap()).is_final();
    assert_eq!(
        [400, 404, 408, 410, 422, 429, 500, 302].map(answer),
        [true, false, false, true, true, false, false, false]
    );
}

#[test]
fn a_channel_takes_what_is_bad_enough() {
    let of = |severity: Option<&str>| {
        let settings = ChannelSettings {
            url: Some("http://127.0.0.1:1/".to_owned()),
            severity: severity.map(str::to_owned),
            ..settings(Kind::Webhook)
        };
        Channel::open(&settings).unwrap()
    };
    let notice = |severity: &str| Notice { severity: severity.to_owned(), ..Notice::test() };
    assert!(of(None).wants(&notice("warning")) && !of(None).wants(&notice("notice")));
    assert!(
        of(Some("critical")).wants(&notice("critical")) && !of(Some("critical")).wants(&notice("warning"))
    );
}
