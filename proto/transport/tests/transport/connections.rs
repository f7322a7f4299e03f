//! The listener under bad clients, reloads and limits.

use std::time::{Duration, Instant};

use rustls::AlertDescription;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::body::Body;
use tower::{Service, ServiceExt};
use vigie_transport::client::ConnectError;
use vigie_transport::tls::{ClientAuth, server_config};

use crate::support::{AGENT, Authority, Fleet, Leaf, call, seen};

#[tokio::test]
async fn half_open_connections_block_nobody() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let mut stuck = Vec::new();
    for number in 0..200 {
        let mut tcp = TcpStream::connect(server.socket).await.unwrap();
        if number % 2 == 0 {
            // The beginning of a TLS record that never ends.
            tcp.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
        }
        stuck.push(tcp);
    }
    let began = Instant::now();
    let channel = server.connect(fleet.client(&fleet.agent)).await.unwrap();
    assert_eq!(seen(channel).await, AGENT);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(stuck);
}

#[tokio::test]
async fn a_reload_counts_for_new_connections_and_leaves_old_ones() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let old = server.connect(fleet.client(&fleet.agent)).await.unwrap();

    let successor = Authority::stranger();
    let auth = ClientAuth::Required { roots: vec![successor.root()] };
    server.config.send(server_config(&fleet.controller, auth).unwrap()).unwrap();

    let error = server.connect(fleet.client(&fleet.agent)).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::CertificateRefused { alert: AlertDescription::UnknownCA, .. }),
        "{error:?}"
    );
    let renewed = successor.issue(Leaf::of(&[AGENT]));
    assert_eq!(seen(server.connect(fleet.client(&renewed)).await.unwrap()).await, AGENT);
    assert_eq!(seen(old).await, AGENT);
}

#[tokio::test]
async fn dropping_the_server_closes_its_port() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let socket = server.socket;
    TcpStream::connect(socket).await.unwrap();
    drop(server);
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(socket).await.is_ok() {
        assert!(Instant::now() < deadline, "the port stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_connection_carries_64_calls_at_once() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let channel = server.connect(fleet.client(&fleet.agent)).await.unwrap();
    // The client learns the limit with the server's SETTINGS, which one call makes sure of.
    seen(channel.clone()).await;
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let channel = channel.clone();
        calls.spawn(async move { call(channel, "/slow").await.unwrap() });
    }
    let under_way = |answer: http::Response<Body>| answer.headers()["under-way"].to_str().unwrap().parse();
    let most = calls.join_all().await.into_iter().map(|answer| under_way(answer).unwrap()).max();
    assert_eq!(most, Some(64_u32));
}

#[tokio::test]
async fn long_headers_are_refused_and_the_connection_lives() {
    let fleet = Fleet::new();
    let server = fleet.serve();
    let mut channel = server.connect(fleet.client(&fleet.agent)).await.unwrap();
    for (length, accepted) in [(8 * 1024, true), (32 * 1024, false)] {
        let request =
            http::Request::post("/").header("filler", "a".repeat(length)).body(Body::empty()).unwrap();
        let answer = channel.ready().await.unwrap().call(request).await;
        assert_eq!(answer.is_ok_and(|answer| answer.status().is_success()), accepted, "{length}");
    }
    assert_eq!(seen(channel).await, AGENT);
}
