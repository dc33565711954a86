//! What honest players do, under the default limits: none of it meets a limit.

#[path = "common/net.rs"]
mod net;
#[path = "common/server.rs"]
mod server;

use std::{net::SocketAddr, time::Duration};

use net::{MS, Net, SECOND};
use soe_core::{Event, Message, Session, SessionConfig};

const TICK: Duration = Duration::from_millis(5);

fn config() -> SessionConfig {
    SessionConfig::new("LoginUdp_9").unwrap()
}

/// One of many players behind the same address.
fn player(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 10_000 + n))
}

fn world(delay: Duration) -> Net {
    let mut net = Net::new(config(), delay);
    net.tick = TICK;
    net
}

/// Nothing was refused to anybody for the sake of a limit.
fn assert_no_limit_was_met(net: &Net) {
    let (stats, capacity) = (net.server.endpoint.stats().admission, net.server.endpoint.stats().capacity);
    assert_eq!((stats.rate_limited, stats.evicted, stats.over_capacity, stats.mismatched), (0, 0, 0, 0), "{stats:?}");
    assert_eq!((stats.opening_deferred, stats.crc_rejects), (0, 0), "{stats:?}");
    assert_eq!((capacity.parked, capacity.lingering_cut), (0, 0), "{capacity:?}");
    let sessions = net.server.all().map(|peer| &peer.resident);
    for session in net.clients.values().chain(sessions) {
        let stats = session.stats(net.now);
        assert_eq!((stats.unread_dropped, stats.beyond_window, stats.malformed), (0, 0, 0), "{stats:?}");
    }
}

#[test]
fn two_hundred_players_behind_one_address_join_within_two_seconds() {
    let mut net = world(60 * MS);
    for n in 0..200 {
        net.join(player(n), &config(), 1_000 + u32::from(n));
        net.run(10 * MS);
    }
    net.run(500 * MS);
    assert!(net.clients.values().all(Session::is_connected));
    assert_eq!(net.server.endpoint.sessions(), 200);
    assert_no_limit_was_met(&net);
}

#[test]
fn an_internet_cafe_comes_back_all_at_once_over_a_slow_link() {
    let mut net = world(Duration::from_millis(700));
    for n in 0..300 {
        net.join(player(n), &config(), 1_000 + u32::from(n));
    }
    net.run(Duration::from_secs(5));
    let requests = net.server.endpoint.stats().admission.requests;
    assert!(requests > 300, "some have asked twice: the answer takes longer than a second");
    assert!(net.clients.values().all(Session::is_connected));
    assert_no_limit_was_met(&net);
}

#[test]
fn a_player_whose_client_crashed_is_back_within_a_second_again_and_again() {
    let mut net = world(40 * MS);
    for n in 0..20 {
        // The same port, a new session, and a login right away.
        net.join(player(0), &config(), 500 + n);
        net.client(player(0)).send(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
        net.run(Duration::from_millis(900));
        let heard = net.received.pop().map(|(id, message)| (id, message.payload.to_vec()));
        assert_eq!(heard, Some((500 + n, n.to_be_bytes().to_vec())));
        assert!(net.clients[&player(0)].is_connected());
    }
    assert_eq!(net.server.endpoint.stats().replaced, 19);
    assert_eq!(net.server.endpoint.sessions(), 1);
    assert_no_limit_was_met(&net);
}

#[test]
fn a_player_who_comes_back_and_says_nothing_has_a_session_in_two_seconds() {
    let mut net = world(40 * MS);
    for n in 0..2 {
        net.join(player(0), &config(), 500 + n);
        net.run(2 * SECOND);
        assert!(net.clients[&player(0)].is_connected());
        assert_eq!(net.server.at(player(0)).unwrap().resident.session_id(), 500 + n);
    }
    assert_no_limit_was_met(&net);
}

#[test]
fn a_player_whose_port_changes_goes_on_in_the_same_session() {
    let mut net = world(40 * MS);
    net.join(player(0), &config(), 500);
    net.run(SECOND);
    for n in 1..10u16 {
        // The network gives the player another port; nobody has told the server.
        net.readdress(player(n - 1), player(n));
        net.client(player(n)).send(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
        net.run(3 * SECOND);
        let heard = net.received.pop().map(|(_, message)| message.payload.to_vec());
        assert_eq!(heard, Some(n.to_be_bytes().to_vec()));
    }
    let client = net.client(player(9));
    assert!(client.is_connected() && client.is_idle());
    assert!(!std::iter::from_fn(|| client.poll_event()).any(|event| matches!(event, Event::Closed(_))));
    let stats = net.server.endpoint.stats();
    assert_eq!((stats.moves, stats.admission.opened), (9, 1));
    assert_no_limit_was_met(&net);
}

#[test]
fn two_megabytes_at_once_are_taken_and_delivered() {
    let mut net = world(20 * MS);
    net.join(player(0), &config(), 500);
    net.run(Duration::from_millis(200));
    let sent: Vec<_> = (0..200u8).map(|n| Message::reliable(vec![n | 1; 10_500])).collect();
    let mut waiting = sent.iter();
    let mut refused = None;
    let (mut received, mut rounds) = (Vec::new(), 0);
    let key = net.server.endpoint.at(player(0)).unwrap();
    // The application sends as fast as it may, and keeps what comes back for later.
    while received.len() < sent.len() && rounds < 2_000 {
        rounds += 1;
        let session = &mut net.server.peer_mut(key).unwrap().resident;
        while let Some(message) = refused.take().or_else(|| waiting.next().cloned()) {
            if let Err(error) = session.send(message) {
                refused = Some(error.into_message());
                break;
            }
        }
        net.server.touch(key);
        net.run(TICK);
        let client = net.client(player(0));
        received.extend(std::iter::from_fn(|| client.recv()));
    }
    assert_eq!(received, sent);
    assert_no_limit_was_met(&net);
}
