//! What existing implementations get wrong, each with a test that fails on it (`docs/protocol.md` names the traps). One side
//! is a session, the other is a peer that the test plays.

mod lengths;
mod manual_peer;
mod resends;

use std::time::Duration;

use bytes::BytesMut;
use manual_peer::{ID, MS, ManualPeer, SECOND, SEED, config, payload};
use soe_core::{
    Channel, DisconnectReason, Message, ReliableChannel,
    wire::{Disconnect, NetStatusResponse, OrderedData, OrderedStream, Packet, SessionResponse},
};

#[test]
fn an_old_duplicate_is_acknowledged_again() {
    let mut peer = ManualPeer::connected(config());
    for sequence in 0..5 {
        peer.data(sequence, b"new");
    }
    let first = peer.wait(100 * MS);
    assert!(first.contains(&vec![0, 0x15, 0, 4]), "{first:x?}");
    for sequence in [0, 4, 2] {
        peer.data(sequence, b"new");
        let again = peer.wait(100 * MS);
        assert!(again.contains(&vec![0, 0x15, 0, 4]), "{sequence}: {again:x?}");
    }
    assert_eq!(peer.messages().len(), 5);
}

#[test]
fn an_acknowledgement_far_below_the_newest_is_not_one_of_the_next_round() {
    let mut peer = ManualPeer::connected(config().window(1_000, 1 << 20));
    let mut sent = 0;
    for n in 0..600u16 {
        peer.send(payload(400));
        sent += peer.taken().len();
        // The congestion window opens with what is acknowledged; the first four stay open.
        if n >= 4 {
            peer.acknowledge(n);
        }
        peer.now += MS;
    }
    assert!(sent >= 600);
    assert_eq!(peer.session.undelivered().messages, 600, "nothing is delivered past the first four");
    peer.acknowledge_all(1);
    assert_eq!(peer.session.undelivered().messages, 598, "what is still missing must not be forgotten");
    let again = peer.wait(2 * SECOND);
    for sequence in [2, 3] {
        assert!(again.iter().any(|packet| packet[..4] == [0, 9, 0, sequence]), "{sequence} is not sent again");
    }
}

#[test]
fn an_acknowledgement_of_something_never_sent_is_ignored_and_counted() {
    let mut peer = ManualPeer::connected(config());
    peer.send(payload(10));
    let _ = peer.taken();
    for sequence in [1, 2, 300, 30_000, 0xFFFF] {
        peer.acknowledge(sequence);
        peer.acknowledge_all(sequence);
    }
    assert_eq!(peer.session.undelivered().messages, 1);
    assert_eq!(peer.session.stats(peer.now).bogus_acks, 10);
}

#[test]
fn what_is_missing_is_never_acknowledged() {
    let mut peer = ManualPeer::connected(config());
    for sequence in [1, 3] {
        peer.data(sequence, b"ahead");
    }
    let mut acks = peer.wait(100 * MS);
    acks.sort();
    assert_eq!(acks, [[0, 0x11, 0, 1], [0, 0x11, 0, 3]]);
    peer.data(300, b"beyond the window");
    let mut sent = peer.wait(100 * MS);
    // A client asks for the window until it is answered.
    sent.retain(|packet| packet[..2] != [0, 7]);
    assert_eq!(sent, [[0u8; 4]; 0], "what was dropped is not acknowledged");
    assert_eq!(peer.session.stats(peer.now).beyond_window, 1);
}

#[test]
fn stamps_of_ordered_messages_begin_at_one() {
    for (channel, stream, opcode) in
        [(Channel::Ordered, OrderedStream::One, 0x1A), (Channel::Ordered2, OrderedStream::Two, 0x1B)]
    {
        let mut peer = ManualPeer::connected(config());
        peer.send(Message::new(channel, &b"first"[..]));
        let sent = peer.taken();
        assert_eq!(sent[0][..4], [0, opcode, 0, 1]);
        peer.say(&Packet::Ordered(OrderedData { stream, stamp: 1, payload: b"first" }));
        peer.say(&Packet::Ordered(OrderedData { stream, stamp: 1, payload: b"again" }));
        peer.say(&Packet::Ordered(OrderedData { stream, stamp: 0, payload: b"older" }));
        assert_eq!(peer.messages(), [b"first"]);
        assert_eq!(peer.session.stats(peer.now).overtaken, 2);
    }
}

#[test]
fn a_spoofed_unknown_sender_closes_nothing() {
    let mut peer = ManualPeer::connected(config());
    for n in 0..2_000 {
        peer.bare(&Packet::UnknownSender);
        // The server lives, and says so now and then.
        if n % 40 == 0 {
            peer.say(&Packet::Heartbeat);
        }
        let _ = peer.wait(100 * MS);
        assert_eq!(peer.session.closed(), None);
    }
}

#[test]
fn a_wrong_checksum_closes_nothing_and_keeps_nothing_alive() {
    let mut peer = ManualPeer::connected(config());
    let mut silence = Duration::ZERO;
    while peer.session.closed().is_none() {
        let _ = peer.session.handle_datagram(peer.now, BytesMut::from(&[0, 9, 0, 0, 1, 2, 3, 4][..]));
        let _ = peer.session.handle_datagram(peer.now, BytesMut::from(&[0, 6][..]));
        let _ = peer.session.handle_datagram(peer.now, BytesMut::from(&[7][..]));
        let _ = peer.wait(SECOND);
        silence += SECOND;
        assert!(silence < 40 * SECOND, "noise has kept the session alive");
    }
    assert!(silence >= 30 * SECOND);
    assert_eq!(peer.session.closed().map(|closed| closed.reason), Some(DisconnectReason::Timeout));
}

#[test]
fn no_train_has_one_fragment() {
    for (crc_length, passes) in [(0, [0, 0]), (2, [0, 0]), (2, [1, 0]), (4, [1, 4])] {
        for udp_length in [64, 100, 512] {
            let mut peer = ManualPeer::offering(config(), udp_length, crc_length, passes);
            for length in udp_length as usize - 24..udp_length as usize + 8 {
                peer.send(payload(length));
                let mut packets = peer.taken();
                packets.retain(|packet| (0x09..=0x10).contains(&packet[1]));
                let fragments = packets.iter().filter(|packet| packet[1] == 0x0D).count();
                let empty = packets.iter().filter(|packet| packet.len() == 4).count();
                assert!(
                    fragments != 1 && empty == 0,
                    "{length} bytes in datagrams of {udp_length}, CRC {crc_length}, {passes:?}"
                );
                let last = packets.last().map(|packet| u16::from_be_bytes([packet[2], packet[3]])).unwrap();
                peer.acknowledge_all(last);
            }
        }
    }
}

#[test]
fn datagrams_are_as_large_as_the_smaller_offer() {
    for (own, offered) in [(512, 300), (300, 512), (8_192, 64), (64, 8_192)] {
        let mut peer = ManualPeer::offering(config().udp_length(own), offered, 2, [0, 0]);
        peer.send(payload(20_000));
        peer.send(Message::unreliable(payload(40)));
        let largest = peer.taken_bare().iter().map(Vec::len).max();
        assert_eq!(largest, Some(own.min(offered) as usize));
    }
}

#[test]
fn a_message_that_begins_with_zero_is_escaped_both_ways() {
    let mut peer = ManualPeer::connected(config());
    peer.send(&[0, 0x19, 1, 2][..]);
    assert_eq!(peer.taken(), [[0, 9, 0, 0, 0, 0, 0x19, 1, 2]]);
    peer.send(Message::unreliable(&[0, 5, 1, 2][..]));
    assert_eq!(peer.taken(), [[0, 0, 5, 1, 2]]);
    peer.data(0, &[0, 0, 0x19, 1, 2]);
    peer.say_bytes(vec![0, 0, 5, 1, 2]);
    // From peers that do not escape what is not encrypted.
    peer.data(1, &[0, 5, 1, 2]);
    assert_eq!(peer.messages(), [[0, 0x19, 1, 2], [0, 5, 1, 2], [0, 5, 1, 2]]);
}

#[test]
fn a_key_set_between_two_messages_of_one_group_holds_from_the_second_on() {
    let mut other = ManualPeer::connected(config());
    other.session.set_send_key(Some(b"secret")).unwrap();
    other.send(&b"encrypted"[..]);
    let sent = other.taken();
    let mut group = vec![0, 0x19, 5];
    group.extend_from_slice(b"plain");
    group.push((sent[0].len() - 4) as u8);
    group.extend_from_slice(&sent[0][4..]);
    let mut peer = ManualPeer::connected(config());
    peer.data(0, &group);
    assert_eq!(peer.session.recv().unwrap().payload, "plain");
    peer.session.set_recv_key(Some(b"secret")).unwrap();
    assert_eq!(peer.session.recv().unwrap().payload, "encrypted");
}

#[test]
fn each_channel_runs_a_key_stream_of_its_own() {
    let mut peer = ManualPeer::connected(config());
    peer.session.set_send_key(Some(b"secret")).unwrap();
    let mut sent = Vec::new();
    for channel in [ReliableChannel::ZERO, ReliableChannel::ONE, ReliableChannel::ZERO] {
        peer.send(Message::new(channel, &b"the same words"[..]));
        sent.extend(peer.taken());
    }
    let mut stream = soe_core::Rc4::new(b"secret").unwrap();
    let [first, second] = [(); 2].map(|()| {
        let mut words = *b"the same words";
        stream.apply(&mut words);
        words
    });
    let bodies: Vec<_> = sent.iter().map(|packet| &packet[4..]).collect();
    assert_eq!(bodies, [first, first, second]);
}

#[test]
fn clock_sync_has_a_checksum_and_forty_bytes_before_it() {
    let mut peer = ManualPeer::connected(config().inactivity_timeout(Duration::ZERO));
    peer.now += 45 * SECOND;
    peer.session.handle_timeout(peer.now);
    let datagrams = peer.taken_bare();
    let asked = datagrams.iter().find(|datagram| datagram[..2] == [0, 7]).unwrap();
    assert_eq!(asked.len(), 42);
    assert!(peer.framing.verify(asked));
}

#[test]
fn a_peer_whose_clock_jumps_changes_no_timer() {
    let mut peer = ManualPeer::connected(config().net_status_interval(SECOND));
    for n in 0..50u32 {
        peer.send(payload(10));
        let _ = peer.wait(20 * MS);
        peer.acknowledge_all(n as u16);
        let request_clock = (n.wrapping_mul(0x9E37_79B9) >> 7) as u16;
        let responder_clock = n.wrapping_mul(0x85EB_CA6B);
        peer.say(&Packet::NetStatusResponse(NetStatusResponse {
            request_clock,
            responder_clock,
            ..Default::default()
        }));
        let _ = peer.wait(SECOND);
    }
    let stats = peer.session.stats(peer.now);
    assert!(stats.rtt.is_some_and(|rtt| rtt < 50 * MS), "{:?}", stats.rtt);
    assert_eq!((stats.resent_lost + stats.resent_timeout, peer.session.closed()), (0, None));
}

#[test]
fn a_disconnect_needs_the_sessions_own_id_and_is_not_answered() {
    let mut peer = ManualPeer::connected(config());
    peer.say(&Packet::Disconnect(Disconnect { session_id: ID + 1, reason: None }));
    assert_eq!(peer.session.closed(), None);
    peer.say(&Packet::Disconnect(Disconnect { session_id: ID, reason: None }));
    assert_eq!(peer.session.closed().map(|closed| closed.reason), Some(DisconnectReason::None));
    assert!(peer.wait(10 * SECOND).is_empty(), "two such peers would never stop");
    assert!(peer.session.is_drained());
}

#[test]
fn heartbeats_are_sent_after_silence_and_not_at_every_tick() {
    let mut peer =
        ManualPeer::connected(config().inactivity_timeout(Duration::ZERO).net_status_interval(Duration::ZERO));
    peer.say(&Packet::Heartbeat);
    let mut heartbeats = 0;
    for _ in 0..100_000 {
        heartbeats += peer.wait(MS).iter().filter(|packet| packet[..] == [0, 6]).count();
    }
    assert_eq!(heartbeats, 4, "within 100 s, every 25 s");
}

#[test]
fn no_piece_of_a_multi_needs_a_long_length() {
    let mut peer = ManualPeer::connected(config());
    for length in 240..=262 {
        for channel in ReliableChannel::ALL {
            peer.send(Message::new(channel, payload(length)));
            peer.send(Message::new(channel, payload(5)));
        }
        peer.send(Message::unreliable(payload(length)));
    }
    for datagram in peer.taken_bare() {
        if datagram[..2] == [0, 3] {
            let lengths = Packet::decode(&datagram[..datagram.len() - 2]);
            let Ok(Packet::Multi(multi)) = lengths else { panic!("{datagram:x?}") };
            assert!(multi.pieces().all(|piece| piece.unwrap().len() <= 254));
        }
    }
}

#[test]
fn impossible_content_closes_under_a_checksum_and_is_dropped_without_one() {
    for (crc_length, closes) in [(2, true), (0, false)] {
        let mut peer = ManualPeer::offering(config(), 512, crc_length, [0, 0]);
        // A fragment series of a message of no bytes. One length alone might be a lucky guess of the CRC.
        for length in [9, 9, 11] {
            assert!(peer.session.closed().is_none());
            let mut fragment = vec![0, 0x0D, 0, 0, 0, 0, 0, 0];
            fragment.resize(length, 1);
            peer.say_bytes(fragment);
        }
        let reason = peer.session.closed().map(|closed| closed.reason);
        assert_eq!(reason, closes.then_some(DisconnectReason::CorruptPacket));
    }
}

#[test]
fn a_second_response_changes_nothing() {
    let mut peer = ManualPeer::connected(config());
    let other =
        SessionResponse { session_id: ID, crc_seed: 1, crc_length: 4, passes: [0, 4], udp_length: 64, version: None };
    peer.bare(&Packet::SessionResponse(other));
    peer.data(0, b"still understood");
    assert_eq!(peer.messages(), [b"still understood"]);
    assert_eq!(peer.session.crc_seed(), SEED);
}

#[test]
fn a_plain_packet_inside_a_train_is_corrupt() {
    let mut peer = ManualPeer::connected(config());
    peer.say_bytes(vec![0, 0x0D, 0, 0, 0, 0, 0, 9, 1, 2]);
    peer.data(1, b"in between");
    peer.data(1, b"in between");
    assert!(peer.session.closed().is_none(), "one guess of the CRC may have hit both times");
    peer.data(1, b"in between, and longer");
    assert_eq!(peer.session.closed().map(|closed| closed.reason), Some(DisconnectReason::CorruptPacket));
}
