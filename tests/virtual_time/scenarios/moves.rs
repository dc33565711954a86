//! Routers that give clients other ports, other people's among them.

use soe_testing::{Fault, Network};
use soe_tokio::{DisconnectReason, SoeSession};
use tokio::time::{sleep, timeout};

use super::{MILLISECOND, SECOND, Server};
use crate::{
    checker::Habit,
    support::{SERVER, client, config, connector, receive, serve_echo},
};

async fn exchange(session: &mut SoeSession, text: &'static str) {
    session.send(text).await.expect("open");
    let back = timeout(10 * SECOND, receive(session)).await.unwrap_or_else(|_| panic!("nobody answers {text:?}"));
    assert_eq!(back, text.as_bytes());
}

/// Clients of one router: their addresses differ in the port alone.
async fn neighbours(network: &Network, count: u16) -> Vec<SoeSession> {
    let mut sessions = Vec::new();
    for number in 0..count {
        let connector = connector(network, port(number));
        sessions.push(connector.connect(SERVER, config()).await.expect("the server answers"));
    }
    sessions
}

fn port(number: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(client(0).ip(), 40_000 + number)
}

#[tokio::test(start_paused = true)]
async fn two_clients_whose_ports_are_swapped_keep_their_sessions() {
    for seed in 0..4 {
        let network = Network::new(seed);
        serve_echo(network.listener(config()).expect("bound"));
        let mut sessions = neighbours(&network, 3).await;
        for (session, text) in sessions.iter_mut().zip(["one", "two", "three"]) {
            exchange(session, text).await;
        }
        network.swap(port(0), port(1));
        sleep(100 * u32::try_from(seed).expect("small") * MILLISECOND).await;
        for (session, text) in sessions.iter_mut().zip(["still one", "still two", "still three"]) {
            exchange(session, text).await;
        }
        network.swap(port(1), port(2));
        for (session, text) in sessions.iter_mut().rev().zip(["and three", "and two", "and one"]) {
            exchange(session, text).await;
        }
        network.stats().assert_happened_at_least(Fault::Moved, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_the_port_of_one_who_vanished_a_moment_ago_and_keeps_its_session() {
    for wait in [0, 50, 1000, 20_000] {
        let network = Network::new(wait);
        serve_echo(network.listener(config()).expect("bound"));
        let mut sessions = neighbours(&network, 2).await;
        for (session, text) in sessions.iter_mut().zip(["one", "two"]) {
            exchange(session, text).await;
        }
        let (mut stays, vanishes) = (sessions.remove(1), sessions.remove(0));
        network.unplug(port(0));
        vanishes.abort(DisconnectReason::Application, false);
        sleep(u32::try_from(wait).expect("small") * MILLISECOND).await;
        network.rebind(port(1), port(0));
        exchange(&mut stays, "from the port of another").await;
        sleep(60 * SECOND).await;
        exchange(&mut stays, "a minute later").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_moves_while_the_accept_queue_is_full_keeps_its_session() {
    let network = Network::new(1);
    let config = soe_tokio::AdmissionConfig::builder(config()).accept_backlog(2).build().expect("valid");
    let listener = network.listener(config).expect("bound");
    let (player, incoming) = tokio::join!(network.client(self::config()), listener.accept());
    let (mut player, server) = (player.expect("the server answers"), incoming.expect("it lives").accept());
    tokio::spawn(crate::support::echo(server));
    exchange(&mut player, "in the game").await;
    // Nobody accepts these.
    let mut waiting = Vec::new();
    for _ in 0..6 {
        let network = network.clone();
        waiting.push(tokio::spawn(async move { network.client(self::config()).await }));
        sleep(100 * MILLISECOND).await;
    }
    network.rebind(client(0), std::net::SocketAddr::new(client(0).ip(), 555));
    exchange(&mut player, "from another port").await;
    waiting.iter().for_each(|task| task.abort());
}

#[tokio::test(start_paused = true)]
async fn clients_that_move_again_and_again_lose_nothing() {
    let network = Network::new(4);
    network.link(soe_testing::LinkProfile::transatlantic().loss(soe_testing::Loss::Uniform(0.02)));
    let server = Server::start(&network, config(), Habit::talker(100, 300 * MILLISECOND));
    for _ in 0..4 {
        server.join(config(), Habit::talker(100, 300 * MILLISECOND).closes_after(10 * SECOND)).await;
    }
    for round in 0..20_u16 {
        for number in 0..4 {
            network.rebind(client(number), std::net::SocketAddr::new(client(number).ip(), 1000 + round));
            sleep(150 * MILLISECOND).await;
        }
    }
    server.expect_end(200 * SECOND).await;
    server.checker.verify_all_lived();
    network.stats().assert_happened_at_least(Fault::Moved, 80);
}
