//! The accept queue, places, and who has one.

use soe_core::{AdmissionConfig, DisconnectReason, Message};

use super::*;
use crate::net::{MS, Net, SECOND};

#[test]
fn what_was_acknowledged_reaches_the_application_though_its_session_ended_before_it_was_accepted() {
    let mut net = Net::new(config(), 10 * MS);
    net.server.accepts = false;
    for n in 0..200 {
        net.join(player(n), &config(), n.into());
        net.client(player(n)).send_with_receipt(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
    }
    net.run(SECOND);
    let now = net.now;
    for client in net.clients.values_mut() {
        assert!(std::iter::from_fn(|| client.poll_event()).any(|event| matches!(event, soe_core::Event::Delivered(_))));
        client.close(now, DisconnectReason::Application);
    }
    // Long after the sessions have ended and drained.
    net.run(60 * SECOND);
    net.clients.clear();
    while net.server.accept(net.now).is_some() {
        net.poll_server();
    }
    let mut heard: Vec<_> = net.received.iter().map(|(id, _)| *id).collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..200).collect::<Vec<_>>());
    net.run(SECOND);
    assert_eq!((net.server.endpoint.stats().sessions, net.server.endpoint.stats().lingering), (0, 0));
    assert_eq!(net.server.all().count(), 0, "all are forgotten");
}

#[test]
fn sessions_that_ended_in_the_queue_with_nothing_to_read_leave_it() {
    let admission = AdmissionConfig::builder(config()).accept_backlog(5).build().unwrap();
    let mut net = Net::new(admission, 10 * MS);
    net.server.accepts = false;
    for n in 0..5 {
        net.join(player(n), &config(), n.into());
    }
    net.run(SECOND);
    assert_eq!(net.server.endpoint.stats().waiting, 5);
    let now = net.now;
    net.clients.values_mut().for_each(|client| client.close(now, DisconnectReason::Application));
    net.run(100 * MS);
    let stats = net.server.endpoint.stats();
    assert_eq!((stats.waiting, stats.sessions, stats.capacity.ended_in_queue), (0, 0, 5));
    net.run(60 * SECOND);
    assert_eq!(net.server.all().count(), 0);
}

#[test]
fn fifty_clients_come_in_by_a_queue_of_four_without_waiting_for_their_resends() {
    let admission = AdmissionConfig::builder(config()).accept_backlog(4).build().unwrap();
    let mut net = Net::new(admission, 10 * MS);
    net.server.accepts = false;
    for n in 0..50 {
        net.join(player(n), &config(), n.into());
    }
    for _ in 0..60 {
        net.run(5 * MS);
        net.server.accept(net.now);
    }
    assert_eq!(net.server.accepted.len(), 50, "after 300 ms, one accepted each 5 ms");
    assert!(net.server.endpoint.stats().capacity.parked >= 40);
    net.run(SECOND);
    assert!(net.clients.values().all(Session::is_connected));
}

#[test]
fn a_client_that_crashed_takes_its_own_place_on_a_full_server() {
    let admission = AdmissionConfig::builder(config()).max_sessions(2).build().unwrap();
    let mut net = Net::new(admission, 10 * MS);
    for n in 0..2 {
        net.join(player(n), &config(), n.into());
    }
    net.run(SECOND);
    net.join(player(0), &config(), 50);
    net.join(player(5), &config(), 5);
    net.run(5 * SECOND);
    assert!(net.client(player(0)).is_connected() && net.session_of(50).is_some());
    assert_eq!(net.client(player(5)).closed().map(|closed| closed.reason), Some(DisconnectReason::ConnectionRefused));
    assert_eq!(net.server.endpoint.sessions(), 2);
}

#[test]
fn whoever_is_replaced_has_no_place_from_that_moment_on() {
    let admission = AdmissionConfig::builder(config()).max_sessions(1).build().unwrap();
    let mut net = Net::new(admission, 10 * MS);
    for id in [7, 8] {
        let framing = ask(&mut net, player(0), id);
        for number in [1, 2] {
            let hit = sealed(&framing, &heartbeats(number));
            // Nothing is performed: the host knows of nothing yet.
            let endpoint = &mut net.server.endpoint;
            match endpoint.at(player(0)) {
                Some(key) => endpoint.handle_returned(net.now, player(0).into(), key, net.now, hit[..].into()),
                None => endpoint.handle_datagram(net.now, player(0).into(), hit[..].into()),
            }
            assert_eq!(endpoint.sessions(), usize::from(id == 8 || endpoint.has_actions()));
            if id == 7 {
                break;
            }
        }
        net.poll_server();
    }
    assert_eq!((net.server.endpoint.sessions(), net.server.endpoint.stats().replaced), (1, 1));
}

#[test]
fn a_place_is_free_as_soon_as_its_player_has_left() {
    let admission = AdmissionConfig::builder(config()).max_sessions(1).build().unwrap();
    let mut net = Net::new(admission, 10 * MS);
    for n in 0..20 {
        net.join(player(n), &config(), n.into());
        net.run(300 * MS);
        assert!(net.client(player(n)).is_connected(), "player {n}");
        let now = net.now;
        net.client(player(n)).close(now, DisconnectReason::Application);
        net.run(100 * MS);
    }
    assert_eq!(net.server.endpoint.stats().admission.over_capacity, 0);
}

#[test]
fn ended_sessions_that_linger_have_a_bound_of_their_own() {
    let session = SessionConfig::builder("LoginUdp_9").linger(60 * SECOND).build().unwrap();
    let admission = AdmissionConfig::builder(session).max_sessions(100).build().unwrap();
    let mut net = Net::new(admission, 5 * MS);
    net.tick = MS;
    for n in 0..1_000 {
        net.join(player(n), &config(), n.into());
        net.run(20 * MS);
        let now = net.now;
        net.client(player(n)).close(now, DisconnectReason::Application);
        net.run(10 * MS);
        net.clients.clear();
        assert!(net.server.all().count() <= 102);
    }
    assert!(net.server.endpoint.stats().capacity.lingering_cut > 500);
    net.run(90 * SECOND);
    assert_eq!((net.server.all().count(), net.server.endpoint.stats().lingering), (0, 0));
}

#[test]
fn a_full_server_says_so_or_keeps_silent() {
    for (refuses, expected) in [(true, DisconnectReason::ConnectionRefused), (false, DisconnectReason::ConnectFail)] {
        let admission = AdmissionConfig::builder(config()).max_sessions(1).refuse_over_capacity(refuses);
        let mut net = Net::new(admission.build().unwrap(), 10 * MS);
        net.join(player(0), &config(), 1);
        net.run(SECOND);
        net.join(player(1), &config(), 2);
        net.run(60 * SECOND);
        assert_eq!(net.client(player(1)).closed().map(|closed| closed.reason), Some(expected));
        assert!(net.server.endpoint.stats().admission.over_capacity > 0);
    }
}
