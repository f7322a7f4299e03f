//! A process without descriptors left, which is why this test has a process of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "shared support")]

#[path = "transport/support.rs"]
mod support;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use vigie_transport::server::Listener;
use vigie_transport::tls::server_config;

use support::{AGENT, AGENTS, Fleet, Running, seen};

#[tokio::test]
async fn a_listener_outlives_a_lack_of_descriptors() {
    let fleet = Fleet::new();
    let tls = fleet.client(&fleet.agent);
    let (config, reader) = watch::channel(server_config(&fleet.controller, fleet.required()).unwrap());
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), reader, AGENTS).unwrap();
    let socket = listener.local_address().unwrap();
    let strangers: Vec<_> = (0..50).map(|_| TcpStream::connect(socket).unwrap()).collect();

    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 5), maximum }).unwrap();
    let server = Running::over(listener, config);
    let exhausted = async {
        while fs::File::open("/dev/null").is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), exhausted).await.expect("the strangers use up all descriptors");

    drop(strangers);
    assert_eq!(seen(server.connect(tls).await.unwrap()).await, AGENT);
}
