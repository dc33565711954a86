//! Players whose port changes.

use std::{cell::Cell, rc::Rc};

use soe_core::{Action, AdmissionConfig, Endpoint, Message, RemapPolicy, wire::RemapConnection};

use super::*;
use crate::net::{Direction, MS, Net, SECOND};

/// A client says something, and the server's application hears it.
fn speaks(net: &mut Net, at: SocketAddr, id: u32, within_ms: u32) {
    net.received.clear();
    net.client(at).send(Message::reliable(id.to_be_bytes().to_vec())).unwrap();
    for _ in 0..within_ms / 50 {
        net.run(50 * MS);
        if net.received.iter().any(|(from, message)| *from == id && message.payload[..] == id.to_be_bytes()) {
            return;
        }
    }
    panic!("session {id} at {at} is not heard within {within_ms} ms");
}

/// Servers do not move, and the endpoint does not know the seed of a session that it has opened.
#[test]
fn a_session_that_was_opened_from_this_side_moves_nowhere() {
    let now = Instant::now();
    let config = AdmissionConfig::builder(config()).remap(RemapPolicy::AnyAddress).build().unwrap();
    let mut endpoint = Endpoint::new(now, config, [1; 16]);
    let key = endpoint.connect(player(1), 77).unwrap();
    while endpoint.poll_action().is_some() {}
    for seed in [0, 77] {
        let remap = [&[0, 0x1E][..], &77_u32.to_be_bytes(), &u32::to_be_bytes(seed)].concat();
        endpoint.handle_datagram(now, player(2).into(), remap[..].into());
        endpoint.handle_datagram(now, player(2).into(), [0, 6, 0, 0][..].into());
    }
    while let Some(action) = endpoint.poll_action() {
        assert!(!matches!(action, Action::Feed { .. } | Action::Move { .. }), "{key:?}: {action:?}");
    }
}

fn two_players() -> Net {
    let mut net = Net::new(config(), 20 * MS);
    for n in 1..=2 {
        net.join(player(n), &config(), n.into());
    }
    net.run(SECOND);
    net
}

#[test]
fn a_player_whose_port_changes_goes_on_in_the_same_session() {
    let mut net = two_players();
    net.readdress(player(1), player(11));
    speaks(&mut net, player(11), 1, 1_000);
    assert_eq!(net.server.at(player(11)).unwrap().moves, [(player(1), player(11))]);
    assert!(net.server.at(player(1)).is_none());
    assert_eq!((net.server.endpoint.stats().moves, net.server.endpoint.stats().admission.opened), (1, 2));
}

/// What the server has sent went to the old port: the client cannot know whether it has a session there.
#[test]
fn a_player_whose_port_changes_before_he_has_heard_anything_valid_has_one_session() {
    for after in [30, 55, 90, 300, 900] {
        let fate = |direction, to, datagram: &[u8]| {
            let is_lost = direction == Direction::ToClient && to == player(1) && datagram[..2] != [0, 2];
            (!is_lost).then_some(20 * MS)
        };
        let mut net = Net::with_fate(config(), Box::new(fate));
        net.join(player(1), &config(), 1);
        net.run(after * MS);
        net.readdress(player(1), player(11));
        net.run(200 * MS);
        speaks(&mut net, player(11), 1, 4_000);
        net.run(10 * SECOND);
        assert!(net.client(player(11)).is_connected(), "moved after {after} ms");
        assert_eq!(net.server.endpoint.stats().admission.opened, 1, "moved after {after} ms");
    }
}

#[test]
fn requests_forged_in_the_name_of_the_new_port_do_not_hide_from_a_client_that_it_has_moved() {
    let mut net = two_players();
    for id in 50..60 {
        net.forge(player(11), &request(id));
    }
    net.readdress(player(1), player(11));
    for _ in 0..5 {
        net.client(player(11)).send(Message::reliable(&b"move"[..])).unwrap();
        net.run(100 * MS);
    }
    speaks(&mut net, player(11), 1, 2_000);
}

#[test]
fn a_request_with_a_sessions_own_id_from_where_it_was_before_does_not_end_it_when_it_comes_back() {
    for version in [3, 99] {
        let mut net = two_players();
        net.readdress(player(1), player(11));
        speaks(&mut net, player(11), 1, 1_000);
        // The id was on the wire. The seed for it, here and now, is the session's.
        let mut forged = request(1);
        forged[5] = version;
        net.forge(player(1), &forged);
        net.readdress(player(11), player(1));
        speaks(&mut net, player(1), 1, 1_000);
        assert_eq!(net.server.endpoint.stats().admission.opened, 2);
    }
}

#[test]
fn two_players_whose_ports_are_swapped_go_on_in_their_sessions() {
    let mut net = two_players();
    net.readdress(player(1), player(3));
    net.readdress(player(2), player(1));
    net.readdress(player(3), player(2));
    net.client(player(1)).send(Message::reliable(&b"x"[..])).unwrap();
    speaks(&mut net, player(2), 1, 6_000);
    speaks(&mut net, player(1), 2, 6_000);
    let ids = [1, 2].map(|n| net.server.at(player(n)).unwrap().resident.session_id());
    assert_eq!(ids, [2, 1]);
    net.run(60 * SECOND);
    assert!(net.clients.values().all(Session::is_connected));
    assert_eq!(net.server.endpoint.stats().admission.opened, 2);
}

/// What a session has claimed already holds when another one takes its address before it has proved the claim.
#[test]
fn a_session_that_is_displaced_keeps_its_claim_to_another_address() {
    let mut net = two_players();
    let [first, second] = [1, 2].map(|n| {
        let session = net.client(player(n));
        (remap(session), sealed(&framing_of(session), &HEARTBEAT))
    });
    net.clients.clear();
    for _ in 0..20 {
        net.forge(player(2), &first.0);
        net.forge(player(1), &second.0);
        net.run(300 * MS);
    }
    net.forge(player(2), &first.1);
    net.forge(player(1), &second.1);
    let ids = [1, 2].map(|n| net.server.at(player(n)).unwrap().resident.session_id());
    assert_eq!(ids, [2, 1]);
}

fn remap(session: &Session) -> Vec<u8> {
    let mut claim = Vec::new();
    let remap = RemapConnection { session_id: session.session_id(), crc_seed: session.crc_seed() };
    Packet::RemapConnection(remap).encode(&mut claim);
    claim
}

/// A peer that shares its IP address with a player (or any peer, under `RemapPolicy::AnyAddress`) and can forge source addresses:
/// what it sends in that player's name, again and again.
fn usurper(net: &mut Net) -> [Vec<u8>; 3] {
    let session = net.client(player(2));
    let (claim, framing) = (remap(session), framing_of(session));
    net.clients.remove(&player(2));
    [claim, sealed(&framing, &HEARTBEAT), b"garbage in the player's name".to_vec()]
}

#[test]
fn a_peer_that_claims_the_address_of_a_live_player_takes_it_from_nobody() {
    // One that speaks all the time, and one that has nothing to say for a minute at a time.
    for interval in [200, 60_000] {
        let mut net = two_players();
        let forged = usurper(&mut net);
        for time in (0..150_000).step_by(100) {
            if time % 300 == 0 {
                forged.iter().for_each(|datagram| net.forge(player(1), datagram));
            }
            if time % interval == 0 {
                net.client(player(1)).send(Message::reliable(&b"I am here"[..])).unwrap();
            }
            net.run(100 * MS);
            assert_eq!(net.server.at(player(1)).unwrap().resident.session_id(), 1, "after {time} ms");
        }
        let said = 150_000_usize.div_ceil(interval);
        let heard = net.received.iter().filter(|(from, _)| *from == 1).count();
        assert_eq!((heard, net.server.endpoint.stats().moves), (said, 0));
        assert!(net.client(player(1)).is_connected());
    }
}

/// Two players, and a switch that cuts off both.
fn two_players_who_may_be_away() -> (Net, Rc<Cell<bool>>) {
    let is_away = Rc::new(Cell::new(false));
    let asks = Rc::clone(&is_away);
    let mut net = Net::with_fate(config(), Box::new(move |_, _, _| (!asks.get()).then_some(20 * MS)));
    for n in 1..=2 {
        net.join(player(n), &config(), n.into());
    }
    net.run(SECOND);
    (net, is_away)
}

/// A claim that was made while its owner was away waits for a valid datagram; the owner's return makes it void.
#[test]
fn who_comes_back_in_time_loses_its_address_to_no_claim_from_before() {
    let (mut net, is_away) = two_players_who_may_be_away();
    let [claim, valid, garbage] = usurper(&mut net);
    is_away.set(true);
    for _ in 0..50 {
        [&claim, &garbage].iter().for_each(|datagram| net.forge(player(1), datagram));
        net.run(300 * MS);
    }
    is_away.set(false);
    speaks(&mut net, player(1), 1, 2_500);
    net.forge(player(1), &valid);
    net.run(SECOND);
    assert_eq!(net.server.at(player(1)).unwrap().resident.session_id(), 1);
    assert_eq!(net.server.endpoint.stats().moves, 0);
    speaks(&mut net, player(1), 1, 2_500);
}

#[test]
fn who_was_away_while_a_peer_took_its_address_has_it_back_with_its_next_datagram() {
    let (mut net, is_away) = two_players_who_may_be_away();
    let forged = usurper(&mut net);
    let mut has_lost_it = false;
    is_away.set(true);
    for time in (0..15_000).step_by(100) {
        if time % 300 == 0 {
            forged.iter().for_each(|datagram| net.forge(player(1), datagram));
        }
        net.run(100 * MS);
        has_lost_it |= net.server.at(player(1)).unwrap().resident.session_id() == 2;
    }
    assert!(has_lost_it, "nothing was tested");
    is_away.set(false);
    speaks(&mut net, player(1), 1, 2_500);
    let moves = net.server.endpoint.stats().moves;
    for time in (0..60_000).step_by(100) {
        if time % 300 == 0 {
            forged.iter().for_each(|datagram| net.forge(player(1), datagram));
        }
        if time % 5_000 == 0 {
            net.client(player(1)).send(Message::reliable(&b"I am back"[..])).unwrap();
        }
        net.run(100 * MS);
    }
    assert!(net.client(player(1)).is_connected());
    assert_eq!(net.received.iter().filter(|(from, _)| *from == 1).count(), 13);
    assert_eq!(net.server.endpoint.stats().moves, moves, "the two do not fight over the address");
}

/// What the peer may try so that the owner does not get its address back: to leave and to come again, to have the network say
/// that nobody is there, to claim the address for another session of its own, and to wait.
#[test]
fn who_lost_its_address_to_a_peer_has_it_back_whatever_that_peer_does() {
    for trick in 0..4 {
        let (mut net, is_away) = two_players_who_may_be_away();
        net.join(player(3), &config(), 3);
        net.run(SECOND);
        let other = remap(net.client(player(3)));
        net.clients.remove(&player(3));
        let [claim, valid, _] = usurper(&mut net);
        is_away.set(true);
        let resident = |net: &Net| net.server.at(player(1)).unwrap().resident.session_id();
        while resident(&net) != 2 {
            assert!(net.now - net.start < 15 * SECOND, "nothing was tested");
            [&claim, &valid].iter().for_each(|datagram| net.forge(player(1), datagram));
            net.run(300 * MS);
        }
        let waits = if trick == 3 { 20 } else { 5 };
        for _ in 0..waits {
            match trick {
                0 => {
                    [player(2), player(1)].iter().for_each(|&at| {
                        net.forge(at, &claim);
                        net.forge(at, &valid);
                    });
                }
                1 => {
                    net.server.endpoint.handle_unreachable(Some(player(1)));
                    net.poll_server();
                }
                2 => net.forge(player(1), &other),
                _ => net.forge(player(1), &valid),
            }
            net.run(SECOND);
        }
        is_away.set(false);
        speaks(&mut net, player(1), 1, 2_500);
        assert_eq!(resident(&net), 1, "trick {trick}");
    }
}

#[test]
fn a_new_port_may_have_been_somebodys_who_vanished_a_moment_ago() {
    let mut net = two_players();
    net.clients.remove(&player(2));
    net.readdress(player(1), player(2));
    speaks(&mut net, player(2), 1, 6_000);
    assert_eq!(net.server.at(player(2)).unwrap().resident.session_id(), 1);
    assert!(net.client(player(2)).is_connected());
}

#[test]
fn a_new_port_may_have_been_somebodys_who_has_just_left() {
    let mut net = two_players();
    let now = net.now;
    net.client(player(2)).close(now, soe_core::DisconnectReason::Application);
    net.run(200 * MS);
    net.clients.remove(&player(2));
    net.readdress(player(1), player(2));
    speaks(&mut net, player(2), 1, 3_000);
}

#[test]
fn a_claim_moves_nobody_before_a_valid_datagram_comes_from_there() {
    let mut net = two_players();
    let seed = net.client(player(1)).crc_seed();
    let mut claim = Vec::new();
    Packet::RemapConnection(RemapConnection { session_id: 1, crc_seed: seed }).encode(&mut claim);
    net.forge(player(9), &claim);
    net.forge(player(9), &[0, 9, 0, 0, 1, 2]);
    net.forge(player(2), &claim);
    net.forge(player(2), &[0, 9, 0, 0, 1, 2]);
    for n in 1..=2 {
        speaks(&mut net, player(n), n.into(), 500);
    }
    assert_eq!(net.server.endpoint.stats().moves, 0);
    // Neither id nor seed may be wrong.
    for (session_id, crc_seed) in [(1, seed ^ 1), (2, seed)] {
        let mut claim = Vec::new();
        Packet::RemapConnection(RemapConnection { session_id, crc_seed }).encode(&mut claim);
        net.forge(player(8), &claim);
        let valid = sealed(&framing_of(net.session_of(1).unwrap()), &HEARTBEAT);
        net.forge(player(8), &valid);
    }
    assert_eq!(net.server.endpoint.stats().moves, 0);
}

/// A busy session gets its datagrams late: its claim may have lapsed by then, or another session may have made one.
#[test]
fn a_valid_datagram_moves_its_session_only_while_that_has_the_claim() {
    let mut net = two_players();
    let keys = [1, 2].map(|n| net.server.endpoint.at(player(n)).unwrap());
    let claim = |net: &Net| {
        let (mut claim, crc_seed) = (Vec::new(), net.session_of(1).unwrap().crc_seed());
        Packet::RemapConnection(RemapConnection { session_id: 1, crc_seed }).encode(&mut claim);
        claim
    };
    let forged = claim(&net);
    net.forge(player(9), &forged);
    let (now, there) = (net.now, player(9).into());
    net.server.endpoint.handle_moved(now, there, keys[1]);
    net.server.endpoint.handle_moved(now + 31 * SECOND, there, keys[0]);
    assert_eq!((net.server.endpoint.poll_action().is_none(), net.server.endpoint.stats().moves), (true, 0));
    // An ICMP report says that nobody is there.
    net.forge(player(9), &forged);
    net.server.endpoint.handle_unreachable(Some(player(9)));
    net.server.endpoint.handle_moved(now, there, keys[0]);
    assert_eq!((net.server.endpoint.poll_action().is_none(), net.server.endpoint.stats().moves), (true, 0));
    net.forge(player(9), &forged);
    net.server.endpoint.handle_moved(now, there, keys[0]);
    assert_eq!(net.server.endpoint.stats().moves, 1);
}

#[test]
fn a_session_moves_only_as_far_as_the_policy_allows() {
    for (policy, same, other) in [
        (RemapPolicy::Refuse, false, false),
        (RemapPolicy::SamePeerAddress, true, false),
        (RemapPolicy::AnyAddress, true, true),
    ] {
        let elsewhere = SocketAddr::from(([198, 51, 100, 1], 7));
        for (to, moves) in [(player(11), same), (elsewhere, other)] {
            let admission = AdmissionConfig::builder(config()).remap(policy).build().unwrap();
            let mut net = Net::new(admission, 20 * MS);
            net.join(player(1), &config(), 1);
            net.run(SECOND);
            net.readdress(player(1), to);
            net.client(to).send(Message::reliable(&b"here"[..])).unwrap();
            net.run(2 * SECOND);
            let stats = net.server.endpoint.stats();
            assert_eq!((stats.moves == 1, stats.moves_refused == 0), (moves, moves), "{policy:?} to {to}");
        }
    }
}

#[test]
fn players_move_while_the_accept_queue_is_full_and_the_status_is_answered() {
    let status = soe_core::StatusReply::new(|_| Some((&b"up"[..]).into()));
    let admission = AdmissionConfig::builder(config()).accept_backlog(2).server_status(Some(status));
    let mut net = Net::new(admission.build().unwrap(), 20 * MS);
    net.join(player(1), &config(), 1);
    net.run(SECOND);
    net.server.accepts = false;
    for n in 20..30 {
        net.join(player(n), &config(), n.into());
    }
    net.run(SECOND);
    assert_eq!(net.server.endpoint.stats().waiting, 2);
    net.readdress(player(1), player(11));
    speaks(&mut net, player(11), 1, 1_000);
    net.server.handle(net.now, player(60), &[0, 0x20]);
    assert!(net.server.sent.iter().any(|(_, datagram)| datagram[..] == *b"\0\x20up"));
}
