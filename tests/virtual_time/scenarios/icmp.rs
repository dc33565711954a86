//! Reports that somebody cannot be reached: true, forged, and without an address.

use soe_testing::{Fault, Network};
use soe_tokio::DisconnectReason;
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, SECOND, Server};
use crate::{
    checker::{Checker, Habit, Side, expect_prompt},
    support::{SERVER, client, config, serve_echo},
};

#[tokio::test(start_paused = true)]
async fn forged_reports_end_no_session_whose_peer_answers() {
    let network = Network::new(1);
    let server = Server::start(&network, config(), Habit::listener());
    // One that only listens, one that only talks, and one of each by and by.
    server.join(config(), Habit::listener().closes_after(100 * SECOND)).await;
    server.join(config(), Habit::talker(100, SECOND).closes_after(SECOND)).await;
    for round in 0..900 {
        for victim in [0, 1] {
            network.forge_unreachable(SERVER, client(victim));
            network.forge_unreachable(client(victim), SERVER);
        }
        sleep(if round < 600 { 100 } else { 60 } * MILLISECOND).await;
    }
    server.expect_end(100 * SECOND).await;
    server.checker.verify_all_lived();
    network.stats().assert_happened_at_least(Fault::Unreachable, 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_single_report_ends_no_session_that_only_listens() {
    let network = Network::new(1);
    let server = Server::start(&network, config(), Habit::listener());
    server.join(config(), Habit::talker(60, SECOND).closes_after(SECOND)).await;
    sleep(500 * MILLISECOND).await;
    network.forge_unreachable(SERVER, client(0));
    server.expect_end(100 * SECOND).await;
    server.checker.verify_all_lived();
}

#[tokio::test(start_paused = true)]
async fn a_true_report_ends_a_session_long_before_its_time_out() {
    let network = Network::new(1);
    network.report_unreachable(true);
    let server = Server::start(&network, config(), Habit::talker(1000, SECOND));
    server.join(config(), Habit::listener()).await;
    sleep(2 * SECOND).await;
    network.unplug(client(0));
    let gone = Instant::now();
    while server.checker.ends(Side::Server).is_empty() {
        assert!(gone.elapsed() < 15 * SECOND, "nobody has noticed");
        sleep(50 * MILLISECOND).await;
    }
    assert_ne!(server.checker.ends(Side::Server)[0].0.reason, DisconnectReason::Timeout);
    server.expect_end(60 * SECOND).await;
    server.checker.verify();
}

#[tokio::test(start_paused = true)]
async fn a_hundred_players_who_are_gone_hold_up_nobody() {
    let network = Network::new(1);
    network.report_unreachable(true);
    let checker = Checker::default();
    let listener = network.listener(config()).expect("bound");
    for number in 0..100 {
        let (session, incoming) = tokio::join!(network.client(config()), listener.accept());
        let (session, server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
        tokio::spawn(checker.clone().live(server, Side::Server, Habit::talker(10_000, 50 * MILLISECOND)));
        checker.killed(session.session_id(), Side::Client);
        network.unplug(client(number));
        std::mem::forget(session);
    }
    serve_echo(listener);
    let innocent = network.client(config()).await.expect("the server answers");
    expect_prompt(innocent, 400, 25 * MILLISECOND).await;
    network.stats().assert_happened_at_least(Fault::Unreachable, 1_000);
    assert_eq!(checker.ends(Side::Server).len(), 100, "the others are noticed");
    checker.verify();
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_resets_in_a_row_hold_up_nobody() {
    let network = Network::new(1);
    serve_echo(network.listener(config()).expect("bound"));
    let (one, other) = (network.client(config()).await, network.client(config()).await);
    let (one, other) = (one.expect("the server answers"), other.expect("the server answers"));
    network.reset(SERVER, 10_000);
    expect_prompt(one, 100, 25 * MILLISECOND).await;
    network.reset(SERVER, 10_000);
    expect_prompt(other, 100, 25 * MILLISECOND).await;
    assert_eq!(network.stats().count(Fault::Reset), 20_000);
}

#[tokio::test(start_paused = true)]
async fn resets_without_an_address_do_not_end_the_only_session() {
    let network = Network::new(1);
    let server = Server::start(&network, config(), Habit::listener());
    server.join(config(), Habit::listener().closes_after(70 * SECOND)).await;
    for _ in 0..60 {
        network.reset(SERVER, 3);
        network.reset(client(0), 3);
        sleep(SECOND).await;
    }
    server.expect_end(100 * SECOND).await;
    server.checker.verify_all_lived();
}
