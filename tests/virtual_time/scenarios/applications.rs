//! Applications that do not read, read late, drop everything, or exit at once.

use std::{sync::Arc, time::Duration};

use soe_testing::{Fault, LinkProfile, Loss, Machines, Network};
use soe_tokio::{DisconnectReason, SessionConfig};
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, SECOND, Server};
use crate::{
    checker::{Checker, Habit, Side, accept_all, expect_empty, expect_prompt},
    support::{config, serve_echo},
};

/// Loses three datagrams of ten.
fn bad() -> LinkProfile {
    LinkProfile::lossless().delay(20 * MILLISECOND).loss(Loss::Uniform(0.3))
}

fn stubborn() -> SessionConfig {
    SessionConfig::builder("Simulated").connect_timeout(60 * SECOND).build().expect("valid")
}

#[tokio::test(start_paused = true)]
async fn an_application_that_reads_after_five_minutes_finds_everything() {
    let network = Network::new(1);
    let server = Server::start(&network, config(), Habit { reads_after: Some(300 * SECOND), ..Habit::listener() });
    // Six times what the receiver keeps.
    let bulk = Habit { size: 10_000, ..Habit::talker(600, MILLISECOND) };
    server.join(config(), bulk.closes_after(SECOND)).await;
    server.expect_end(400 * SECOND).await;
    server.checker.verify_all_lived();
    assert_eq!(server.checker.received(Side::Server), 600);
}

/// Half a round trip until the sender learns it, and half a round trip back.
#[tokio::test(start_paused = true)]
async fn an_application_that_reads_again_has_new_data_a_round_trip_later() {
    for pause in [5_100, 7_300, 10_000] {
        let network = Network::new(pause);
        network.link(LinkProfile::lossless().delay(10 * MILLISECOND));
        let small = config().to_builder().recv_buffer(20_000).build().expect("valid");
        let listener = network.listener(small).expect("bound");
        let (session, incoming) = tokio::join!(network.client(config()), listener.accept());
        let (mut client, mut server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
        for _ in 0..800 {
            client.try_send(vec![7; 1_000]).expect("there is room");
        }
        sleep(Duration::from_millis(pause)).await;
        for number in 0..800 {
            let start = Instant::now();
            server.recv().await.expect("open").expect("well");
            let waited = start.elapsed();
            assert!(waited <= 25 * MILLISECOND, "message {number} came after {waited:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_application_that_never_reads_holds_up_nobody_else() {
    let network = Network::new(1);
    let listener = Arc::new(network.listener(config()).expect("bound"));
    let checker = Checker::default();
    let mut prompt = Vec::new();
    for number in 0..6 {
        let (session, incoming) = tokio::join!(network.client(config()), listener.accept());
        let (session, server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
        if number % 2 == 0 {
            let never = Habit { reads_after: None, ..Habit::listener() };
            tokio::spawn(checker.clone().live(server, Side::Server, never));
            let bulk = Habit { size: 10_000, ..Habit::talker(1_000, Duration::ZERO) };
            tokio::spawn(checker.clone().live(session, Side::Client, bulk));
        } else {
            tokio::spawn(crate::support::echo(server));
            prompt.push(tokio::spawn(expect_prompt(session, 400, 50 * MILLISECOND)));
        }
    }
    for one in prompt {
        one.await.expect("nobody waits");
    }
    while !checker.is_over() {
        sleep(SECOND).await;
    }
    checker.verify();
    let unread = checker.ends(Side::Client);
    assert!(unread.iter().all(|(closed, _)| closed.reason == DisconnectReason::PeerNotReading), "{unread:?}");
    expect_empty(&listener).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_dropped_tells_its_peer_also_where_three_of_ten_datagrams_are_lost() {
    let network = Network::new(1);
    network.link(bad());
    let listener = network.listener(stubborn()).expect("bound");
    let mut told = Vec::new();
    for _ in 0..60 {
        let (session, incoming) = tokio::join!(network.client(stubborn()), listener.accept());
        drop(incoming.expect("it lives").accept());
        let (session, dropped) = (session.expect("the server answers"), Instant::now());
        told.push(tokio::spawn(async move { (session.closed().await.expect("served"), dropped.elapsed()) }));
    }
    for told in told {
        let (closed, after) = told.await.expect("no panic");
        assert!(closed.is_clean() && after < 6 * SECOND, "{closed} after {after:?}");
    }
    network.stats().assert_happened_at_least(Fault::Lost, 50);
}

#[test]
fn a_client_that_exits_right_after_its_close_has_told_its_server() {
    let mut machines = Machines::new(1);
    let server = machines.add().expect("a runtime");
    let (network, checker) = (machines.network().clone(), Checker::default());
    network.link(bad());
    let listener = machines.enter(server, || Arc::new(network.listener(stubborn()).expect("bound")));
    machines.spawn(server, accept_all(listener, checker.clone(), Habit::listener()));
    for number in 0..40 {
        let client = machines.add().expect("a runtime");
        let network = network.clone();
        let visit = machines.spawn(client, async move {
            let address = Network::client_address(number);
            let mut session = network.client_at(address, stubborn()).await.expect("the server answers");
            session.send(b"\0\0\0\x07 bye".to_vec()).await.expect("open");
            session.close(DisconnectReason::Application).await;
        });
        machines.run_until_done(visit, 100 * SECOND);
        machines.kill(client);
    }
    machines.run_for(8 * SECOND);
    let ends = checker.ends(Side::Server);
    let told = ends.iter().filter(|(closed, _)| closed.is_clean()).count();
    assert_eq!((told, checker.received(Side::Server)), (40, 40), "of 40: {ends:?}");
    checker.verify();
    network.stats().assert_happened_at_least(Fault::Lost, 50);
}

#[test]
fn a_server_that_exits_right_after_its_shutdown_has_told_all_its_clients() {
    let mut machines = Machines::new(1);
    let (server, clients) = (machines.add().expect("a runtime"), machines.add().expect("a runtime"));
    let (network, checker) = (machines.network().clone(), Checker::default());
    network.link(bad());
    let listener = machines.enter(server, || network.listener(stubborn()).expect("bound"));
    let serving = machines.spawn(server, async move {
        let mut sessions = Vec::new();
        for _ in 0..100 {
            sessions.push(listener.accept().await.expect("it lives").accept());
        }
        (listener, sessions)
    });
    for _ in 0..100 {
        let (network, checker) = (network.clone(), checker.clone());
        machines.spawn(clients, async move {
            let session = network.client(stubborn()).await.expect("the server answers");
            checker.live(session, Side::Client, Habit::listener()).await;
        });
    }
    let (listener, sessions) = machines.run_until_done(serving, 100 * SECOND);
    machines.run_for(SECOND);
    let over = machines.spawn(server, async move {
        let report = listener.shutdown(5 * SECOND).await;
        drop(sessions);
        report.sessions.len()
    });
    assert_eq!(machines.run_until_done(over, 20 * SECOND), 100);
    machines.kill(server);
    machines.run_for(8 * SECOND);
    let told = checker.ends(Side::Client).iter().filter(|(closed, _)| closed.is_clean()).count();
    // Each loses all six Disconnects once in 1,370 times.
    assert!(told >= 99, "{told} of 100 clients");
    checker.verify();
}

#[tokio::test(start_paused = true)]
async fn both_ends_close_at_every_moment_of_a_conversation_and_the_receipts_are_true() {
    for seed in 0..60_u64 {
        let network = Network::new(seed);
        network.link(LinkProfile::lossless().delay(10 * MILLISECOND).jitter(5 * MILLISECOND));
        let talk = Habit::talker(20, 5 * MILLISECOND);
        let server = Server::start(&network, config(), talk.closes_after(Duration::from_millis(seed % 7)));
        let stay = Duration::from_millis(seed / 2);
        server.join(config(), talk.closes_after(stay)).await;
        server.expect_end(60 * SECOND).await;
        server.checker.verify();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_delivered_before_the_peer_closes_is_not_reported_as_undelivered() {
    for seed in 0..40_u64 {
        let network = Network::new(seed);
        network.link(LinkProfile::lossless().delay(10 * MILLISECOND));
        let listener = network.listener(config()).expect("bound");
        let (session, incoming) = tokio::join!(network.client(config()), listener.accept());
        let (mut client, mut server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
        let receipt = client.send_with_receipt(vec![7; 2_000]).await.expect("open");
        assert_eq!(server.recv().await.expect("open").expect("well").payload.len(), 2_000);
        sleep(Duration::from_micros(seed * 100)).await;
        server.close(DisconnectReason::Application).await;
        receipt.await.unwrap_or_else(|error| panic!("it was delivered, {seed}: {error}"));
        client.closed().await.expect("served");
        assert_eq!(client.undelivered().messages, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn memory_is_given_back_whatever_was_queued_when_sessions_end() {
    let network = Network::new(1);
    let listener = Arc::new(network.listener(config()).expect("bound"));
    for round in 0..5 {
        for kind in 0..4 {
            let (session, incoming) = tokio::join!(network.client(config()), listener.accept());
            let (mut client, mut server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
            for _ in 0..20 {
                client.send(vec![1; 4_000]).await.expect("open");
                server.send(vec![2; 4_000]).await.expect("open");
            }
            if round % 2 == 0 {
                sleep(50 * MILLISECOND).await;
            }
            match kind {
                0 => server.abort(DisconnectReason::Application, true),
                1 => client.abort(DisconnectReason::Application, true),
                2 => drop(server),
                _ => network.unplug(client.local_addr()),
            }
        }
    }
    sleep(200 * SECOND).await;
    expect_empty(&listener).await;
    let listener = Arc::into_inner(listener).expect("the only handle");
    serve_echo(listener);
    let after = network.client(config()).await.expect("the server answers");
    expect_prompt(after, 10, MILLISECOND).await;
}
