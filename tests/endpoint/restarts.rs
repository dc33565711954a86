//! Clients that start again on their port with the session id that they had: a fixed one, or one from a weak generator.

use std::time::{Duration, Instant};

use soe_core::{Action, DisconnectReason, Endpoint, Message, NotRegistered};

use super::*;
use crate::net::{MS, Net, SECOND};

/// Lives a life under session id 7 and expects that the server's application gets all of it, once, and nothing else.
fn live(net: &mut Net, life: u8) {
    net.join(player(0), &config(), 7);
    for n in 0..5 {
        net.client(player(0)).send(Message::reliable(vec![life, n])).unwrap();
    }
    net.run(3 * SECOND);
    let received: Vec<_> = std::mem::take(&mut net.received).into_iter().map(|(_, message)| message.payload).collect();
    assert_eq!(received, (0..5).map(|n| vec![life, n]).collect::<Vec<_>>(), "life {life}");
    assert!(net.client(player(0)).is_connected() && net.client(player(0)).undelivered().messages == 0);
    assert_eq!(net.server.endpoint.sessions(), 1);
}

#[test]
fn a_client_that_starts_again_with_its_session_id_has_a_session_of_its_own() {
    for gap in [Duration::ZERO, 300 * MS, 2 * SECOND, 12 * SECOND, 25 * SECOND, 59 * SECOND, 61 * SECOND, 150 * SECOND]
    {
        let mut net = Net::new(config(), 20 * MS);
        for life in 1..=9 {
            live(&mut net, life);
            net.clients.clear();
            net.run(gap);
        }
        let replaced = net.server.endpoint.stats().replaced;
        assert_eq!(replaced, if gap < 30 * SECOND { 8 } else { 0 }, "after {gap:?}");
    }
}

/// An ended session answers late datagrams with its Disconnect. Under the same seed and id that would end the new session.
#[test]
fn a_session_that_has_ended_does_not_end_the_next_one_of_the_same_id() {
    for wait in [0, 30, 200, 900] {
        let mut net = Net::new(config(), 20 * MS);
        for life in 1..=5 {
            live(&mut net, life);
            net.clients.clear();
            let (now, key) = (net.now, net.server.endpoint.at(player(0)).unwrap());
            net.server.peer_mut(key).unwrap().resident.abort(now, DisconnectReason::Application, true);
            net.server.touch(key);
            net.run(wait * MS);
        }
    }
}

/// A copy of the request that the network has held up, or a forged one.
#[test]
fn a_late_copy_of_its_own_request_changes_nothing_for_a_session() {
    let mut net = Net::new(config(), 20 * MS);
    live(&mut net, 1);
    let resident = net.server.endpoint.at(player(0));
    for n in 0..200u32 {
        net.client(player(0)).send(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
        net.run(50 * MS);
        net.forge(player(0), &request(7));
    }
    net.run(SECOND);
    assert_eq!((net.received.len(), net.server.endpoint.at(player(0))), (200, resident));
    let stats = net.server.endpoint.stats();
    assert_eq!((stats.replaced, stats.admission.opened), (0, 1));
    assert_eq!(stats.admission.responses, 1, "{stats:?}");
    // Who is silent may have started again, and is answered, though not for each request.
    net.clients.clear();
    net.run(SECOND);
    for _ in 0..200 {
        net.forge(player(0), &request(7));
        net.run(50 * MS);
    }
    let responses = net.server.endpoint.stats().admission.responses;
    assert!((30..=60).contains(&responses), "{responses}");
    assert_eq!(net.server.endpoint.at(player(0)), resident);
}

/// A response that is under way when the key of the seeds changes must not be followed by one with another seed.
#[test]
fn a_repeated_request_gets_the_same_seed_across_a_change_of_the_key() {
    let mut net = Net::new(config(), 20 * MS);
    // The key changes each minute. These requests reach the server around the end of the first.
    net.run(59_800 * MS);
    let seed = offered_seed(&mut net, player(0), 7);
    for _ in 0..10 {
        net.run(50 * MS);
        assert_eq!(offered_seed(&mut net, player(0), 7), seed, "after {:?}", net.now - net.start);
    }
}

/// A connector's ended session repeats its Disconnect to late datagrams. From the same socket that would end the next session.
#[test]
fn a_connector_that_connects_again_silences_its_ended_session_first() {
    let now = Instant::now();
    let mut connector = Endpoint::connector(now, [5; 16]);
    let before = connector.connect(player(0), 1).unwrap();
    assert_eq!(connector.connect(player(0), 2), Err(NotRegistered::Occupied));
    while connector.poll_action().is_some() {}
    connector.handle_session_ended(now, before, false);
    let next = connector.connect(player(0), 2).unwrap();
    let actions: Vec<_> = std::iter::from_fn(|| connector.poll_action()).collect();
    let [Action::End { key: ended, tell_peer: false, .. }, Action::Route { key: routed, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!((*ended, *routed), (before, next));
}
