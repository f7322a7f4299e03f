//! An agent's process: both of its real halves, over a simulated disk, network and hands.

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use vigie_agent::{
    host::{
        Inbox, Outbox,
        dispatch::{Dispatch, Parts},
        journal::Service,
        trust::Trust,
        watch::line,
    },
    net::link::Link,
};
use vigie_proto::v1::{HostState, Stack};
use vigie_transport::client::Keepalive;

use crate::{
    executor::Hands,
    mutants::Mutant,
    network::Simulated,
    world::{ADDRESS, AGENTS_PORT, OneClock, STACKS, World},
};

/// What stands between the two halves, as in the agent's `main`.
const WAITING: usize = 64;

/// Runs an agent until its machine takes it away.
pub(crate) async fn live(world: Arc<World>, host: usize) -> turmoil::Result {
    let place = &world.hosts[host];
    world.note(format_args!("{}: the agent starts", place.name));
    world.ledger().forget_deliveries(host);
    if world.is(Mutant::Amnesia) {
        place.platter.forget();
    }
    let turns = Arc::clone(&world);
    let (serving, journal) = Service::task(place.platter.clone(), move || {
        let world = Arc::clone(&turns);
        async move { world.pause(0..4).await }
    });
    // What goes between the halves is read on its way.
    let (to_host, from_net) = mpsc::channel(WAITING);
    let (to_dispatch, inbox) = mpsc::channel(WAITING);
    let (outbox, from_dispatch) = mpsc::channel(WAITING);
    let (to_net, from_host) = mpsc::channel(WAITING);
    let stack = |name: &&str| Stack { name: (*name).to_owned(), ..Default::default() };
    let state = HostState { stacks: STACKS.iter().map(stack).collect(), ..Default::default() };
    let (_state, seen) = watch::channel(Some(Arc::new(state)));
    let (watching, _line) = line();
    let dispatch = Dispatch::new(Parts {
        trust: Trust { host: place.id, incarnation: 1, keys: world.keys.clone() },
        journal,
        executor: Arc::new(Hands { world: Arc::clone(&world), host }),
        clock: Arc::new(OneClock),
        outbox,
        state: seen,
        watching,
        boot_id: "boot".to_owned(),
    });
    let address = format!("{ADDRESS}:{AGENTS_PORT}").parse()?;
    let chance = Arc::clone(&world);
    let link = Link::new(address, Arc::clone(&place.tls), Keepalive::default(), to_host, from_host)
        .over(Arc::new(Simulated(Arc::clone(&world))), Arc::new(move || chance.chance().next()));
    tokio::select! {
        biased;
        () = serving => {}
        () = dispatch.run(inbox, CancellationToken::new(), Duration::ZERO) => {}
        () = link.run(CancellationToken::new()) => {}
        () = down(&world, host, from_net, to_dispatch) => {}
        () = up(&world, host, from_dispatch, to_net) => {}
    }
    Err("a part of the agent ended by itself".into())
}

async fn down(world: &World, host: usize, mut from: mpsc::Receiver<Inbox>, to: mpsc::Sender<Inbox>) {
    while let Some(next) = from.recv().await {
        world.arrived(host, &next);
        if to.send(next).await.is_err() {
            return;
        }
    }
}

async fn up(world: &World, host: usize, mut from: mpsc::Receiver<Outbox>, to: mpsc::Sender<Outbox>) {
    while let Some(next) = from.recv().await {
        world.told(host, &next);
        if to.send(next).await.is_err() {
            return;
        }
    }
}
