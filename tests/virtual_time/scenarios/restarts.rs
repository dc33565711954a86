//! Servers that are killed and start again under their clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use soe_testing::{Fault, LinkProfile, Machines, Network};
use soe_tokio::{SessionConfig, SoeSession};

use super::{
    MILLISECOND, SECOND,
    model::{Model, ModelPeer},
};
use crate::{
    checker::{Checker, Habit, Side, accept_all, expect_empty},
    support::{SERVER, config, connector},
};

/// Talks until the session ends, then opens another.
async fn come_back(network: Network, address: SocketAddr, [before, after]: [Checker; 2], habit: Habit) {
    let connector = connector(&network, address);
    let first = connector.connect(SERVER, config()).await.expect("the server answers");
    before.live(first, Side::Client, habit).await;
    let again = reconnect(&connector).await;
    after.live(again, Side::Client, Habit::talker(5, SECOND).closes_after(SECOND)).await;
}

async fn reconnect(connector: &soe_tokio::SoeConnector) -> SoeSession {
    loop {
        match connector.connect(SERVER, config()).await {
            Ok(session) => return session,
            Err(_) => tokio::time::sleep(500 * MILLISECOND).await,
        }
    }
}

/// Kills a server under its clients, starts it again after a second, and expects that all have noticed in time.
fn restart(clients: u16, address: fn(u16) -> SocketAddr, habit: Habit, noticed_after: Duration) {
    let mut machines = Machines::new(1);
    let (first, others) = (machines.add().expect("a runtime"), machines.add().expect("a runtime"));
    let (network, before, after) = (machines.network().clone(), Checker::default(), Checker::default());
    let start = |machines: &Machines, machine, checker: Checker| {
        let listener = machines.enter(machine, || Arc::new(network.listener(config()).expect("bound")));
        machines.spawn(machine, accept_all(Arc::clone(&listener), checker, Habit::listener()));
        listener
    };
    drop(start(&machines, first, before.clone()));
    let tasks: Vec<_> = (0..clients)
        .map(|number| {
            machines.run_for(5 * MILLISECOND);
            machines.spawn(others, come_back(network.clone(), address(number), [before.clone(), after.clone()], habit))
        })
        .collect();
    machines.run_for(10 * SECOND);
    assert_eq!(before.count(Side::Client), usize::from(clients), "all are in");
    machines.kill(first);
    before.all_killed(Side::Server);
    machines.run_for(SECOND);
    let second = machines.add().expect("a runtime");
    let listener = start(&machines, second, after.clone());
    machines.run_for(noticed_after);
    let noticed = before.ends(Side::Client).len();
    assert!(noticed >= usize::from(clients), "{noticed} of {clients} know after {noticed_after:?}");
    for task in tasks {
        machines.run_until_done(task, 120 * SECOND);
    }
    assert_eq!(after.received(Side::Server), 5 * usize::from(clients), "all are back");
    machines.run_for(SECOND);
    before.verify();
    after.verify_all_lived();
    if habit.messages > 0 {
        network.stats().assert_happened(Fault::NobodyThere);
    }
    let empty = machines.spawn(second, async move { expect_empty(&listener).await });
    machines.run_until_done(empty, 100 * SECOND);
}

fn neighbour(number: u16) -> SocketAddr {
    SocketAddr::new(Network::client_address(0).ip(), 10_000 + number)
}

#[test]
fn talking_clients_notice_a_restart_within_ten_seconds_and_come_back() {
    restart(30, Network::client_address, Habit::talker(10_000, SECOND), 10 * SECOND);
}

#[test]
fn five_hundred_clients_behind_one_address_notice_a_restart_within_fifteen_seconds() {
    restart(500, neighbour, Habit::talker(10_000, SECOND), 15 * SECOND);
}

#[test]
fn idle_clients_notice_a_restart_within_the_time_out_and_a_third() {
    restart(20, Network::client_address, Habit::listener(), config().inactivity_timeout * 4 / 3);
}

#[test]
fn a_client_that_restarts_on_its_port_replaces_its_session_on_a_full_server() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(async {
        let network = Network::new(1);
        let admission = soe_tokio::AdmissionConfig::builder(config()).max_sessions(3).build().expect("valid");
        let listener = network.listener(admission).expect("bound");
        crate::support::serve_echo(listener);
        let mut sessions = Vec::new();
        for _ in 0..3 {
            sessions.push(network.client(config()).await.expect("there is room"));
        }
        let crashed = sessions.remove(0);
        let address = Network::client_address(0);
        network.unplug(address);
        drop(crashed);
        let patient = SessionConfig::builder("Simulated").connect_timeout(3 * SECOND).build().expect("valid");
        let mut back = network.client_at(address, patient).await.expect("the place is its own");
        back.send("back").await.expect("open");
        assert_eq!(crate::support::receive(&mut back).await, b"back");
        let newcomer = SessionConfig::builder("Simulated").connect_timeout(3 * SECOND).build().expect("valid");
        network.client(newcomer).await.expect_err("the server is full");
    });
}

/// Clients with a fixed session id, or one from a weak generator.
#[tokio::test(start_paused = true)]
async fn a_client_that_starts_again_with_the_same_session_id_is_heard() {
    for gap in [0, 500, 3_000, 12_000] {
        let network = Network::new(gap);
        network.link(LinkProfile::lossless().delay(20 * MILLISECOND));
        let listener = network.listener(config()).expect("bound");
        let heard = Arc::new(AtomicU32::new(0));
        let counting = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let (mut session, heard) = (incoming.accept(), Arc::clone(&counting));
                tokio::spawn(async move {
                    while let Some(Ok(_)) = session.recv().await {
                        heard.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        for life in 1..=4 {
            let checker = Checker::default();
            let mut peer = ModelPeer::connect(&network, Network::client_address(0), Model::default(), &checker).await;
            peer.live(2_050 * MILLISECOND, Some(200 * MILLISECOND)).await;
            peer.live(3 * SECOND, None).await;
            assert_eq!((peer.unacknowledged(), peer.ended), (0, None), "life {life}");
            assert_eq!(heard.load(Ordering::Relaxed), 10 * life, "what was acknowledged reached no application");
            checker.verify();
            drop(peer);
            tokio::time::sleep(Duration::from_millis(gap)).await;
        }
    }
}
