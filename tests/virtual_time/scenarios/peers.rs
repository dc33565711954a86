//! Peers that answer some kinds of packets alone, and models of implementations in the field (section 13 of
//! `docs/protocol.md`).

use std::time::Duration;

use soe_testing::{Fault, LinkProfile, Loss, Network};
use soe_tokio::DisconnectReason;

use super::{
    MILLISECOND, SECOND, Server,
    model::{Model, ModelPeer},
};
use crate::{
    checker::{Checker, Habit, Side},
    support::{client, config},
};

/// Answers nothing but what is switched on.
fn silent() -> Model {
    Model { answers_heartbeats: false, answers_status: false, ..Model::default() }
}

const QUIET_TIME: Duration = Duration::from_secs(300);

/// A client like this stays with a server of ours for five minutes, in which the server's application has this habit.
async fn stays_with_server(model: Model, habit: Habit) {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(20 * MILLISECOND));
    let server = Server::start(&network, config(), habit);
    let mut peer = ModelPeer::connect(&network, client(0), model, &server.checker).await;
    peer.live(QUIET_TIME, None).await;
    assert_eq!(peer.ended, None, "{model:?}");
    assert!(server.checker.ends(Side::Server).is_empty(), "{model:?}: {:?}", server.checker.ends(Side::Server));
    peer.leave();
    server.expect_end(30 * SECOND).await;
    server.checker.verify();
}

/// A client of ours stays with a server like this for five minutes.
async fn stays_with_client(model: Model, habit: Habit) {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(20 * MILLISECOND));
    let checker = Checker::default();
    let (peer, session) = tokio::join!(ModelPeer::accept(&network, model, &checker), network.client(config()));
    let mut peer = peer;
    let session = session.expect("the server answers");
    let living = tokio::spawn(checker.clone().live(session, Side::Client, habit));
    peer.live(QUIET_TIME, None).await;
    assert_eq!(peer.ended, None, "{model:?}");
    assert!(checker.ends(Side::Client).is_empty(), "{model:?}: {:?}", checker.ends(Side::Client));
    peer.leave();
    living.await.expect("no panic");
    checker.verify();
}

async fn stays(model: Model, habit: Habit) {
    stays_with_server(model, habit).await;
    stays_with_client(model, habit).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_heartbeats_alone_stays() {
    stays(Model { answers_heartbeats: true, ..silent() }, Habit::listener()).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_questions_for_its_statistics_alone_stays() {
    stays(Model { answers_status: true, ..silent() }, Habit::listener()).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_nothing_and_acknowledges_stays() {
    stays(silent(), Habit::talker(1000, 10 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_heartbeats_and_answers_nothing_stays() {
    stays(Model { heartbeat_every: Some(10 * SECOND), ..silent() }, Habit::listener()).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_asks_for_statistics_and_answers_nothing_stays() {
    stays(Model { status_every: Some(20 * SECOND), ..silent() }, Habit::listener()).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_whose_heartbeats_are_not_checked_stays_if_it_answers_something_else() {
    let model = Model { heartbeats_are_checked: false, answers_status: true, ..Model::default() };
    stays_with_client(model, Habit::listener()).await;
    stays(Model { answers_status: false, ..model }, Habit::talker(1000, 10 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_a_heartbeat_in_every_tick_stays() {
    let model = Model { heartbeat_every: Some(16 * MILLISECOND), answers_heartbeats: false, ..Model::default() };
    stays(model, Habit::listener()).await;
}

/// The implementations of section 13 that differ in what a session sees of them.
fn implementations() -> [(&'static str, Model); 7] {
    let plain = Model::default();
    [
        (
            "eq-network-transport",
            Model {
                answers_heartbeats: false,
                ack_delay: 100 * MILLISECOND,
                sends_again_what_is_acknowledged: true,
                resend_after: SECOND,
                reason: None,
                ..plain
            },
        ),
        ("h1z1-server", Model { ack_delay: 24 * MILLISECOND, ..plain }),
        ("PlanetSide 2 client", Model { ack_delay: 500 * MILLISECOND, ..plain }),
        ("EQEmu", Model { reason: None, ..plain }),
        ("EverQuest client", Model { echoes_the_response: true, ..plain }),
        ("old duplicates are not acknowledged again", Model { acknowledges_again: false, ..plain }),
        ("a heartbeat in every tick", Model { heartbeat_every: Some(20 * MILLISECOND), ..plain }),
    ]
}

/// Both sides talk over a link that is not perfect; everything arrives.
async fn converse(name: &str, model: Model, loss: f64) {
    let network = Network::new(7);
    network.link(LinkProfile::lossless().delay(30 * MILLISECOND).jitter(20 * MILLISECOND).loss(Loss::Uniform(loss)));
    let server = Server::start(&network, config(), Habit::talker(100, 200 * MILLISECOND));
    let mut peer = ModelPeer::connect(&network, client(0), model, &server.checker).await;
    peer.live(20 * SECOND, Some(200 * MILLISECOND)).await;
    peer.live(15 * SECOND, None).await;
    assert_eq!((peer.ended, peer.unacknowledged()), (None, 0), "{name}");
    let received = (server.checker.received(Side::Client), server.checker.received(Side::Server));
    assert_eq!(received.0, 100, "{name}");
    assert!(received.1 >= 95, "{name}: {received:?}");
    network.link(LinkProfile::lossless());
    peer.leave();
    server.expect_end(10 * SECOND).await;
    server.checker.verify_all_lived();
    if loss > 0.0 {
        network.stats().assert_happened_at_least(Fault::Lost, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn every_known_implementation_converses_with_a_server() {
    for (name, model) in implementations() {
        converse(name, model, 0.0).await;
        // Who never repeats an acknowledgement is lost where one is lost.
        if model.acknowledges_again {
            converse(name, model, 0.05).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_made_by_hand_that_ends_a_session_without_a_reason_ends_it_cleanly() {
    for (name, model) in implementations() {
        let (network, checker) = (Network::new(3), Checker::default());
        let (peer, session) = tokio::join!(ModelPeer::accept(&network, model, &checker), network.client(config()));
        let mut peer = peer;
        let session = session.expect("the server answers");
        let living = tokio::spawn(checker.clone().live(session, Side::Client, Habit::talker(50, 100 * MILLISECOND)));
        peer.live(10 * SECOND, Some(100 * MILLISECOND)).await;
        peer.leave();
        living.await.expect("no panic");
        checker.verify_all_lived();
        let reason = checker.ends(Side::Client)[0].0.reason;
        assert_eq!(reason, model.reason.unwrap_or(DisconnectReason::None), "{name}");
        assert_eq!(checker.received(Side::Server), 50, "{name}");
    }
}
