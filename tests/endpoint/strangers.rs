//! What strangers can and cannot do.

use std::time::Duration;

use soe_core::{AdmissionConfig, Dialect, Message, RequestFilter, SessionConfig, StatusReply, wire::Packet};

use super::*;
use crate::net::{Direction, MS, Net, SECOND};

#[test]
fn a_live_session_is_replaced_only_after_datagrams_of_two_lengths_with_right_crcs() {
    let mut net = Net::new(config(), 20 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    let resident = net.server.endpoint.at(player(0)).unwrap();
    let framing = ask(&mut net, player(0), 77);
    let [hit, longer] = [1, 2].map(|times| sealed(&framing, &heartbeats(times)));
    let miss = [0, 6, 1, 1];
    for _ in 0..50 {
        net.forge(player(0), &hit);
        net.forge(player(0), &hit);
        net.forge(player(0), &miss);
        net.forge(player(0), &longer);
        net.forge(player(0), &miss);
        assert_eq!(net.server.endpoint.at(player(0)), Some(resident), "a stranger has taken the place");
    }
    net.run(SECOND);
    assert!(net.client(player(0)).is_connected() && net.session_of(1).is_some());
    net.forge(player(0), &hit);
    net.forge(player(0), &longer);
    assert!(net.session_of(77).is_some() && net.session_of(1).is_none());
    assert_eq!(net.server.endpoint.stats().replaced, 1);
}

/// Whoever guesses a CRC for one content has guessed it for all of the same length.
#[test]
fn no_number_of_datagrams_of_one_length_replaces_a_live_session() {
    for crc_length in [1, 2, 3] {
        let config = SessionConfig::builder("LoginUdp_9").crc_length(crc_length).build().unwrap();
        let mut net = Net::new(config.clone(), 20 * MS);
        net.join(player(0), &config, 1);
        net.run(SECOND);
        let framing = ask(&mut net, player(0), 77);
        for n in 0..300u16 {
            let [high, low] = n.to_be_bytes();
            net.forge(player(0), &sealed(&framing, &[0, 9, high, low, 1]));
            net.forge(player(0), &sealed(&framing, &[0, 9, low, high, 2, 3]));
        }
        net.run(SECOND);
        assert!(net.client(player(0)).is_connected() && net.session_of(1).is_some(), "{crc_length} bytes");
        assert_eq!(net.server.endpoint.stats().replaced, 0);
    }
}

/// A client that sends one length only comes in when the session that has its address is silent and does not answer.
#[test]
fn a_silent_session_that_does_not_answer_gives_its_address_to_whoever_asks_for_it() {
    let mut net = Net::new(config(), 20 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    net.clients.clear();
    let framing = ask(&mut net, player(0), 77);
    let mut waited = Duration::ZERO;
    while net.session_of(77).is_none() {
        assert!(waited < 20 * SECOND, "nobody gets in");
        net.run(500 * MS);
        waited += 500 * MS;
        net.forge(player(0), &sealed(&framing, &HEARTBEAT));
    }
    assert!((9 * SECOND..=11 * SECOND).contains(&waited), "{waited:?}");
    assert!(net.session_of(1).is_none() && net.server.endpoint.stats().probes >= 1);
}

/// A player that has nothing to say answers when its session is asked, and stays.
#[test]
fn a_quiet_player_that_answers_keeps_its_address() {
    let mut net = Net::new(config(), 20 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    let framing = ask(&mut net, player(0), 77);
    for _ in 0..600 {
        net.run(100 * MS);
        net.forge(player(0), &sealed(&framing, &HEARTBEAT));
        if net.server.endpoint.stats().admission.more_proof_wanted.is_multiple_of(100) {
            // Handshakes are forgotten in time.
            ask(&mut net, player(0), 77);
        }
    }
    assert!(net.client(player(0)).is_connected() && net.session_of(1).is_some() && net.session_of(77).is_none());
    assert_eq!(net.server.endpoint.stats().admission.more_proof_wanted, 600, "each was valid");
}

#[test]
fn an_address_under_proof_is_as_well_kept_as_a_live_one() {
    let mut net = Net::new(config(), 20 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    let seed = net.client(player(0)).crc_seed();
    let mut claim = Vec::new();
    Packet::RemapConnection(soe_core::wire::RemapConnection { session_id: 1, crc_seed: seed }).encode(&mut claim);
    net.forge(player(1), &claim);
    let framing = ask(&mut net, player(1), 77);
    net.forge(player(1), &sealed(&framing, &HEARTBEAT));
    net.forge(player(1), &sealed(&framing, &HEARTBEAT));
    assert!(net.session_of(77).is_none(), "one hit of two bytes was enough");
    net.forge(player(1), &sealed(&framing, &heartbeats(2)));
    assert!(net.session_of(77).is_some() && net.session_of(1).is_some());
}

#[test]
fn garbage_in_a_live_players_name_never_makes_the_server_call_it_unknown() {
    let mut net = Net::new(config(), 150 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    for n in 0..1_200u32 {
        let mut garbage = vec![0, 9];
        garbage.extend(n.to_be_bytes());
        net.server.arrive(player(0), &garbage);
        net.run(50 * MS);
    }
    let stats = net.server.endpoint.stats();
    assert!((10..=100).contains(&stats.probes), "{stats:?}");
    assert_eq!(stats.admission.unknown_sender_replies, 0);
    assert_eq!(net.clients[&player(0)].stats(net.now).unknown_sender, 0);
    assert!(net.client(player(0)).is_connected() && net.session_of(1).is_some());
}

#[test]
fn a_silent_sessions_address_is_asked_first_and_told_rarely() {
    let mut net = Net::new(config(), 20 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    net.clients.clear();
    net.run(2 * SECOND);
    let mut told = Vec::new();
    for n in 0..120u32 {
        net.server.handle(net.now, player(0), &[0, 9, 0, 0, 1, 2, n as u8]);
        let sent = std::mem::take(&mut net.server.sent);
        if sent.iter().any(|(_, datagram)| datagram[..] == UNKNOWN_SENDER) {
            told.push(n);
        }
        assert!(n > 0 || sent.iter().any(|(_, datagram)| datagram[..2] == [0, 7]), "its session is asked");
        net.now += 100 * MS;
    }
    assert_eq!(told, [20, 70], "tenths of a second after the question");
}

#[test]
fn forged_datagrams_between_request_and_first_datagram_keep_nobody_out() {
    for forged in [1, 15, 16, 500u32] {
        let mut net = Net::new(config(), 50 * MS);
        net.join(player(0), &config(), 1);
        net.run(60 * MS);
        for n in 0..forged {
            net.forge(player(0), &[&[0, 9][..], &n.to_be_bytes()].concat());
        }
        net.run(3 * SECOND);
        assert!(net.session_of(1).is_some(), "{forged} forged datagrams kept a client out");
        assert!(net.client(player(0)).is_connected());
    }
}

#[test]
fn where_somebody_seems_to_be_guessing_one_hit_opens_nothing() {
    for (misses, opens) in [(14, true), (15, false), (1_000u32, false)] {
        let mut net = Net::new(config(), 20 * MS);
        let framing = ask(&mut net, player(0), 7);
        for n in 0..misses {
            net.server.handle(net.now, player(0), &[&[0, 9][..], &n.to_be_bytes()].concat());
        }
        net.server.handle(net.now, player(0), &sealed(&framing, &HEARTBEAT));
        assert_eq!(net.server.endpoint.sessions() == 1, opens, "after {misses} misses");
        // Some clients repeat one datagram.
        net.server.handle(net.now, player(0), &sealed(&framing, &HEARTBEAT));
        assert_eq!(net.server.endpoint.sessions(), 1);
    }
}

/// Requests are free: a new one must not make what is held against an address be forgotten.
#[test]
fn a_fresh_request_forgets_no_misses() {
    let mut net = Net::new(config(), 20 * MS);
    for id in 1..=3 {
        ask(&mut net, player(0), id);
        for n in 0..8u32 {
            net.forge(player(0), &[&[0, 9][..], &n.to_be_bytes()].concat());
        }
    }
    let framing = ask(&mut net, player(0), 4);
    net.forge(player(0), &sealed(&framing, &HEARTBEAT));
    assert_eq!(net.server.endpoint.sessions(), 0, "one hit was enough");
    net.forge(player(0), &sealed(&framing, &HEARTBEAT));
    assert_eq!(net.server.endpoint.sessions(), 1);
}

/// The same at the address of a session that is silent because its link is down: there the hit would end it.
#[test]
fn guesses_and_fresh_requests_take_no_address_of_a_player_whose_link_is_down() {
    let mut net = Net::new(config(), 20 * MS);
    net.join(player(0), &config(), 1);
    net.run(SECOND);
    net.clients.clear();
    for second in 0..25 {
        // More than one answer in fifteen misses, and a hit of each length now and then.
        let framing = ask(&mut net, player(0), 100 + second);
        for n in 0..14u32 {
            net.forge(player(0), &[&[0, 9][..], &n.to_be_bytes()].concat());
        }
        net.forge(player(0), &sealed(&framing, &HEARTBEAT));
        net.forge(player(0), &[0, 9, 1, 2, 3, 4]);
        net.forge(player(0), &sealed(&framing, &heartbeats(2)));
        net.run(SECOND);
    }
    assert!(net.session_of(1).is_some(), "a single hit took the address");
    assert_eq!(net.server.endpoint.stats().replaced, 0);
}

#[test]
fn a_request_in_a_live_clients_name_opens_no_session_where_the_server_speaks_first() {
    let everquest2 = SessionConfig::with_dialect(Dialect::everquest2()).build().unwrap();
    let mut net = Net::new(everquest2.clone(), 20 * MS);
    net.join(player(0), &everquest2, 1);
    net.run(SECOND);
    let mut forged = Vec::new();
    SessionRequest { version: 2, session_id: 9, udp_length: 512, protocol_name: None }.encode(&mut forged);
    net.forge(player(0), &forged);
    let stats = net.server.endpoint.stats();
    assert_eq!((stats.admission.opened, stats.admission.opening_deferred, stats.replaced), (1, 1, 0));
    net.forge(player(1), &forged);
    assert_eq!(net.server.endpoint.stats().admission.opened, 2, "the dialect opens with the response");
}

#[test]
fn at_most_three_bytes_are_sent_for_each_that_came_before_an_address_has_proved_itself() {
    let everquest2 = SessionConfig::with_dialect(Dialect::everquest2()).build().unwrap();
    let mut net = Net::new(everquest2, 20 * MS);
    let mut forged = Vec::new();
    SessionRequest { version: 2, session_id: 9, udp_length: 512, protocol_name: None }.encode(&mut forged);
    net.forge(player(0), &forged);
    let key = net.server.accepted[0];
    let session = &mut net.server.peer_mut(key).unwrap().resident;
    for n in 0..100 {
        session.send(Message::reliable(vec![n | 1; 2_000])).unwrap();
    }
    net.server.touch(key);
    net.run(60 * SECOND);
    let [from, to] = net.bytes[&player(0)];
    assert_eq!(from, forged.len());
    assert!(to > 0 && to <= 3 * from, "{to} bytes for {from}");
}

#[test]
fn what_waited_for_the_proof_of_an_address_is_delivered_after_it() {
    let everquest2 = SessionConfig::with_dialect(Dialect::everquest2()).build().unwrap();
    let mut net = Net::new(everquest2.clone(), 20 * MS);
    net.join(player(0), &everquest2, 9);
    net.run(30 * MS);
    let key = net.server.accepted[0];
    let session = &mut net.server.peer_mut(key).unwrap().resident;
    for n in 0..100 {
        session.send(Message::reliable(vec![n | 1; 2_000])).unwrap();
    }
    net.server.touch(key);
    net.run(10 * SECOND);
    assert_eq!(std::iter::from_fn(|| net.client(player(0)).recv()).count(), 100);
}

#[test]
fn a_client_that_repeats_its_request_is_answered_every_time() {
    let mut net = Net::new(config(), 20 * MS);
    for second in 0..1_200 {
        net.now += SECOND;
        net.server.handle(net.now, player(0), &request(5));
        let sent = std::mem::take(&mut net.server.sent);
        assert!(sent.iter().any(|(_, datagram)| datagram[..2] == [0, 2]), "not answered after {second} s");
    }
}

#[test]
fn whoever_asked_hours_ago_is_not_known_again() {
    let mut net = Net::new(config(), 20 * MS);
    net.server.handle(net.now, player(0), &request(5));
    for step in 0..4_000 {
        net.now += 5 * SECOND;
        net.server.handle(net.now, player(0), &[0, 9, 0, 0, 1, 2, 3]);
        let rejected = net.server.endpoint.stats().admission.crc_rejects;
        assert!(rejected <= 10, "known again after {} s", 5 * step);
    }
}

#[test]
fn a_status_reply_is_at_most_three_times_its_query() {
    let status = StatusReply::new(|_| Some(vec![b'x'; 400].into()));
    let mut net = Net::new(AdmissionConfig::builder(config()).server_status(Some(status)).build().unwrap(), MS);
    for length in [2, 50, 133, 134, 300] {
        let mut query = vec![0; length];
        query[1] = 0x20;
        net.server.handle(net.now, player(0), &query);
        let sent: usize = net.server.sent.drain(..).map(|(_, datagram)| datagram.len()).sum();
        assert!(sent <= 3 * length, "{sent} bytes for {length}");
        assert_eq!(sent > 0, length >= 134);
    }
}

#[test]
fn a_filter_that_panics_costs_its_request_and_nothing_else() {
    let filter = RequestFilter::Predicate(std::sync::Arc::new(|_| true));
    let mut net = Net::new(AdmissionConfig::builder(config()).filter(filter).build().unwrap(), 20 * MS);
    net.server.panics = true;
    net.join(player(0), &config(), 1);
    net.run(500 * MS);
    assert_eq!(net.server.endpoint.stats().admission.responses, 0);
    net.server.panics = false;
    net.run(2 * SECOND);
    assert!(net.client(player(0)).is_connected());
}

#[test]
fn the_filter_decides_by_the_request() {
    let filter = RequestFilter::Predicate(std::sync::Arc::new(|request| request.session_id == 2));
    let mut net = Net::new(AdmissionConfig::builder(config()).filter(filter).build().unwrap(), 20 * MS);
    for n in 1..=3 {
        net.join(player(n), &config(), n.into());
    }
    net.run(8 * SECOND);
    let connected: Vec<_> = (1..=3).filter(|&n| net.client(player(n)).is_connected()).collect();
    assert_eq!(connected, [2]);
    assert_eq!(net.server.endpoint.stats().admission.mismatched, 2);
}

#[test]
fn players_learn_within_two_seconds_that_a_restarted_server_does_not_know_them() {
    let mut net = Net::new(config(), 20 * MS);
    net.tick = 10 * MS;
    for n in 0..500 {
        net.join(player(n), &config(), n.into());
    }
    net.run(3 * SECOND);
    assert_eq!(net.server.endpoint.sessions(), 500);
    net.server = server::Server::plain(net.now, config(), [6; 16]);
    for client in net.clients.values_mut() {
        client.send(Message::reliable(&b"still here"[..])).unwrap();
    }
    net.run(2 * SECOND);
    let told = net.clients.values().filter(|client| client.stats(net.now).unknown_sender > 0).count();
    assert_eq!(told, 500);
}

#[test]
fn a_report_of_an_unreachable_address_concerns_the_session_there_and_no_other() {
    let grace = SessionConfig::builder("LoginUdp_9").icmp_grace(SECOND).build().unwrap();
    let mut net = Net::new(grace, 20 * MS);
    for n in 0..3 {
        net.join(player(n), &config(), n.into());
    }
    net.run(SECOND);
    let now = net.now;
    soe_core::host::unreachable(&mut net.server, now, None);
    soe_core::host::unreachable(&mut net.server, now, Some(player(99)));
    soe_core::host::unreachable(&mut net.server, now, Some(player(1)));
    net.poll_server();
    net.clients.remove(&player(1));
    net.run(3 * SECOND);
    assert_eq!([0, 1, 2].map(|id| net.session_of(id).is_some()), [true, false, true]);
    assert_eq!(net.server.endpoint.stats().unreachable_ignored, 2);
}

#[test]
fn a_disconnect_from_a_stranger_is_not_answered() {
    let mut net = Net::new(config(), 20 * MS);
    net.server.handle(net.now, player(0), &[0, 5, 0, 0, 0, 1, 0, 6, 1, 2]);
    assert!(net.server.sent.is_empty());
    net.server.handle(net.now, player(0), &[0, 9, 0, 0, 1, 2, 3]);
    assert_eq!(net.server.sent.len(), 1);
}

#[test]
fn a_refusal_that_was_lost_is_told_again() {
    let mut lost = false;
    let fate = move |direction, _, datagram: &[u8]| {
        let is_first_disconnect = direction == Direction::ToClient && datagram[..2] == [0, 5] && !lost;
        lost |= is_first_disconnect;
        (!is_first_disconnect).then_some(Duration::from_millis(10))
    };
    let mut net = Net::with_fate(SessionConfig::new("Other").unwrap(), Box::new(fate));
    net.join(player(0), &config(), 1);
    net.run(5 * SECOND);
    let closed = net.client(player(0)).closed().expect("it is told");
    assert_eq!(closed.reason, soe_core::DisconnectReason::ProtocolMismatch);
}

/// Gives the table of handshakes another size, for the time being.
fn resize(net: &mut Net, places: usize) {
    let limits = AdmissionConfig::builder(config()).max_pending_handshakes(places).build().unwrap();
    net.server.endpoint.set_limits(net.now, &limits);
}

/// The time stamps of handshakes wrap after 2 h 16 min, and old ones are cleared when the key of the seeds changes, once a
/// minute.
#[test]
fn handshakes_under_way_survive_new_limits_after_any_time() {
    for hours in [0, 1, 3, 10] {
        let mut net = Net::new(config(), 20 * MS);
        net.run(SECOND * (3_600 * hours + 59));
        let before = ask(&mut net, player(0), 1);
        resize(&mut net, 32_768);
        let between = ask(&mut net, player(1), 2);
        resize(&mut net, 64);
        let after = ask(&mut net, player(2), 3);
        net.run(5 * SECOND);
        for (n, framing) in [before, between, after].iter().enumerate() {
            net.forge(player(n as u16), &sealed(framing, &HEARTBEAT));
        }
        let opened = [1, 2, 3].map(|id| net.session_of(id).is_some());
        assert_eq!(opened, [true; 3], "after {hours} h");
    }
}

#[test]
fn new_limits_change_neither_the_age_of_a_handshake_nor_what_is_held_against_it() {
    let mut net = Net::new(config(), 20 * MS);
    let guessed = ask(&mut net, player(0), 1);
    let silent = ask(&mut net, player(1), 2);
    for _ in 0..20 {
        net.forge(player(0), &[0, 6, 1, 1]);
    }
    net.run(40 * SECOND);
    resize(&mut net, 32_768);
    net.forge(player(0), &sealed(&guessed, &HEARTBEAT));
    assert!(net.session_of(1).is_none(), "its seed is being guessed");
    net.forge(player(0), &sealed(&guessed, &heartbeats(2)));
    assert!(net.session_of(1).is_some());
    net.run(10 * SECOND);
    net.forge(player(1), &sealed(&silent, &HEARTBEAT));
    assert!(net.session_of(2).is_none(), "it has asked 50 s ago");
}

/// Those that asked last find room.
#[test]
fn a_smaller_table_keeps_the_handshakes_that_it_has_places_for() {
    let mut net = Net::new(config(), 20 * MS);
    let framings = [0, 1, 2, 3].map(|n| {
        net.run(SECOND);
        ask(&mut net, player(n), u32::from(n) + 1)
    });
    resize(&mut net, 2);
    for (n, framing) in framings.iter().enumerate() {
        net.forge(player(n as u16), &sealed(framing, &HEARTBEAT));
    }
    let opened = [1, 2, 3, 4].map(|id| net.session_of(id).is_some());
    assert_eq!(opened, [false, false, true, true]);
    assert_eq!(net.server.endpoint.stats().admission.evicted, 2);
}
