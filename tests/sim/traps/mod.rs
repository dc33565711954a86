//! What existing implementations get wrong, each with a test that fails on it (`docs/protocol.md` names the traps). One side
//! is a session, the other is made by hand.

mod hand;
mod lengths;
mod resends;

use std::time::Duration;

use bytes::BytesMut;
use hand::{Hand, ID, MS, SECOND, SEED, config, payload};
use soe_core::{
    Channel, DisconnectReason, Message, ReliableChannel,
    wire::{Disconnect, NetStatusResponse, OrderedData, OrderedStream, Packet, SessionResponse},
};

#[test]
fn an_old_duplicate_is_acknowledged_again() {
    let mut hand = Hand::shake(config());
    for sequence in 0..5 {
        hand.data(sequence, b"new");
    }
    let first = hand.wait(100 * MS);
    assert!(first.contains(&vec![0, 0x15, 0, 4]), "{first:x?}");
    for sequence in [0, 4, 2] {
        hand.data(sequence, b"new");
        let again = hand.wait(100 * MS);
        assert!(again.contains(&vec![0, 0x15, 0, 4]), "{sequence}: {again:x?}");
    }
    assert_eq!(hand.messages().len(), 5);
}

#[test]
fn an_acknowledgement_far_below_the_newest_is_not_one_of_the_next_round() {
    let mut hand = Hand::shake(config().window(1_000, 1 << 20));
    let mut sent = 0;
    for n in 0..600u16 {
        hand.send(payload(400));
        sent += hand.taken().len();
        // The congestion window opens with what is acknowledged; the first four stay open.
        if n >= 4 {
            hand.acknowledge(n);
        }
        hand.now += MS;
    }
    assert!(sent >= 600);
    assert_eq!(hand.session.undelivered().messages, 600, "nothing is delivered past the first four");
    hand.acknowledge_all(1);
    assert_eq!(hand.session.undelivered().messages, 598, "what is still missing must not be forgotten");
    let again = hand.wait(2 * SECOND);
    for sequence in [2, 3] {
        assert!(again.iter().any(|packet| packet[..4] == [0, 9, 0, sequence]), "{sequence} is not sent again");
    }
}

#[test]
fn an_acknowledgement_of_something_never_sent_is_ignored_and_counted() {
    let mut hand = Hand::shake(config());
    hand.send(payload(10));
    let _ = hand.taken();
    for sequence in [1, 2, 300, 30_000, 0xFFFF] {
        hand.acknowledge(sequence);
        hand.acknowledge_all(sequence);
    }
    assert_eq!(hand.session.undelivered().messages, 1);
    assert_eq!(hand.session.stats(hand.now).bogus_acks, 10);
}

#[test]
fn what_is_missing_is_never_acknowledged() {
    let mut hand = Hand::shake(config());
    for sequence in [1, 3] {
        hand.data(sequence, b"ahead");
    }
    let mut acks = hand.wait(100 * MS);
    acks.sort();
    assert_eq!(acks, [[0, 0x11, 0, 1], [0, 0x11, 0, 3]]);
    hand.data(300, b"beyond the window");
    assert_eq!(hand.wait(100 * MS), [[0u8; 4]; 0], "what was dropped is not acknowledged");
    assert_eq!(hand.session.stats(hand.now).beyond_window, 1);
}

#[test]
fn stamps_of_ordered_messages_begin_at_one() {
    for (channel, stream, opcode) in
        [(Channel::Ordered, OrderedStream::One, 0x1A), (Channel::Ordered2, OrderedStream::Two, 0x1B)]
    {
        let mut hand = Hand::shake(config());
        hand.send(Message::new(channel, &b"first"[..]));
        let sent = hand.taken();
        assert_eq!(sent[0][..4], [0, opcode, 0, 1]);
        hand.say(&Packet::Ordered(OrderedData { stream, stamp: 1, payload: b"first" }));
        hand.say(&Packet::Ordered(OrderedData { stream, stamp: 1, payload: b"again" }));
        hand.say(&Packet::Ordered(OrderedData { stream, stamp: 0, payload: b"older" }));
        assert_eq!(hand.messages(), [b"first"]);
        assert_eq!(hand.session.stats(hand.now).overtaken, 2);
    }
}

#[test]
fn a_spoofed_unknown_sender_closes_nothing() {
    let mut hand = Hand::shake(config());
    for n in 0..2_000 {
        hand.bare(&Packet::UnknownSender);
        // The server lives, and says so now and then.
        if n % 40 == 0 {
            hand.say(&Packet::Heartbeat);
        }
        let _ = hand.wait(100 * MS);
        assert_eq!(hand.session.closed(), None);
    }
}

#[test]
fn a_wrong_checksum_closes_nothing_and_keeps_nothing_alive() {
    let mut hand = Hand::shake(config());
    let mut silence = Duration::ZERO;
    while hand.session.closed().is_none() {
        let _ = hand.session.handle_datagram(hand.now, BytesMut::from(&[0, 9, 0, 0, 1, 2, 3, 4][..]));
        let _ = hand.session.handle_datagram(hand.now, BytesMut::from(&[0, 6][..]));
        let _ = hand.session.handle_datagram(hand.now, BytesMut::from(&[7][..]));
        let _ = hand.wait(SECOND);
        silence += SECOND;
        assert!(silence < 40 * SECOND, "noise has kept the session alive");
    }
    assert!(silence >= 30 * SECOND);
    assert_eq!(hand.session.closed().map(|closed| closed.reason), Some(DisconnectReason::Timeout));
}

#[test]
fn no_train_has_one_fragment() {
    for (crc_length, passes) in [(0, [0, 0]), (2, [0, 0]), (2, [1, 0]), (4, [1, 4])] {
        for udp_length in [64, 100, 512] {
            let mut hand = Hand::offering(config(), udp_length, crc_length, passes);
            for length in udp_length as usize - 24..udp_length as usize + 8 {
                hand.send(payload(length));
                let mut packets = hand.taken();
                packets.retain(|packet| (0x09..=0x10).contains(&packet[1]));
                let fragments = packets.iter().filter(|packet| packet[1] == 0x0D).count();
                let empty = packets.iter().filter(|packet| packet.len() == 4).count();
                assert!(
                    fragments != 1 && empty == 0,
                    "{length} bytes in datagrams of {udp_length}, CRC {crc_length}, {passes:?}"
                );
                let last = packets.last().map(|packet| u16::from_be_bytes([packet[2], packet[3]])).unwrap();
                hand.acknowledge_all(last);
            }
        }
    }
}

#[test]
fn datagrams_are_as_large_as_the_smaller_offer() {
    for (own, offered) in [(512, 300), (300, 512), (8_192, 64), (64, 8_192)] {
        let mut hand = Hand::offering(config().udp_length(own), offered, 2, [0, 0]);
        hand.send(payload(20_000));
        hand.send(Message::unreliable(payload(40)));
        let largest = hand.taken_bare().iter().map(Vec::len).max();
        assert_eq!(largest, Some(own.min(offered) as usize));
    }
}

#[test]
fn a_message_that_begins_with_zero_is_escaped_both_ways() {
    let mut hand = Hand::shake(config());
    hand.send(&[0, 0x19, 1, 2][..]);
    assert_eq!(hand.taken(), [[0, 9, 0, 0, 0, 0, 0x19, 1, 2]]);
    hand.send(Message::unreliable(&[0, 5, 1, 2][..]));
    assert_eq!(hand.taken(), [[0, 0, 5, 1, 2]]);
    hand.data(0, &[0, 0, 0x19, 1, 2]);
    hand.say_bytes(vec![0, 0, 5, 1, 2]);
    // From peers that do not escape what is not encrypted.
    hand.data(1, &[0, 5, 1, 2]);
    assert_eq!(hand.messages(), [[0, 0x19, 1, 2], [0, 5, 1, 2], [0, 5, 1, 2]]);
}

#[test]
fn a_key_set_between_two_messages_of_one_group_holds_from_the_second_on() {
    let mut other = Hand::shake(config());
    other.session.set_send_key(Some(b"secret")).unwrap();
    other.send(&b"encrypted"[..]);
    let sent = other.taken();
    let mut group = vec![0, 0x19, 5];
    group.extend_from_slice(b"plain");
    group.push((sent[0].len() - 4) as u8);
    group.extend_from_slice(&sent[0][4..]);
    let mut hand = Hand::shake(config());
    hand.data(0, &group);
    assert_eq!(hand.session.recv().unwrap().payload, "plain");
    hand.session.set_recv_key(Some(b"secret")).unwrap();
    assert_eq!(hand.session.recv().unwrap().payload, "encrypted");
}

#[test]
fn each_channel_runs_a_key_stream_of_its_own() {
    let mut hand = Hand::shake(config());
    hand.session.set_send_key(Some(b"secret")).unwrap();
    let mut sent = Vec::new();
    for channel in [ReliableChannel::ZERO, ReliableChannel::ONE, ReliableChannel::ZERO] {
        hand.send(Message::new(channel, &b"the same words"[..]));
        sent.extend(hand.taken());
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
    let mut hand = Hand::shake(config().inactivity_timeout(Duration::ZERO));
    hand.now += 45 * SECOND;
    hand.session.handle_timeout(hand.now);
    let datagrams = hand.taken_bare();
    let asked = datagrams.iter().find(|datagram| datagram[..2] == [0, 7]).unwrap();
    assert_eq!(asked.len(), 42);
    assert!(hand.framing.verify(asked));
}

#[test]
fn a_peer_whose_clock_jumps_changes_no_timer() {
    let mut hand = Hand::shake(config().net_status_interval(SECOND));
    for n in 0..50u32 {
        hand.send(payload(10));
        let _ = hand.wait(20 * MS);
        hand.acknowledge_all(n as u16);
        let request_clock = (n.wrapping_mul(0x9E37_79B9) >> 7) as u16;
        let responder_clock = n.wrapping_mul(0x85EB_CA6B);
        hand.say(&Packet::NetStatusResponse(NetStatusResponse {
            request_clock,
            responder_clock,
            ..Default::default()
        }));
        let _ = hand.wait(SECOND);
    }
    let stats = hand.session.stats(hand.now);
    assert!(stats.rtt.is_some_and(|rtt| rtt < 50 * MS), "{:?}", stats.rtt);
    assert_eq!((stats.resent_lost + stats.resent_timeout, hand.session.closed()), (0, None));
}

#[test]
fn a_disconnect_needs_the_sessions_own_id_and_is_not_answered() {
    let mut hand = Hand::shake(config());
    hand.say(&Packet::Disconnect(Disconnect { session_id: ID + 1, reason: None }));
    assert_eq!(hand.session.closed(), None);
    hand.say(&Packet::Disconnect(Disconnect { session_id: ID, reason: None }));
    assert_eq!(hand.session.closed().map(|closed| closed.reason), Some(DisconnectReason::None));
    assert!(hand.wait(10 * SECOND).is_empty(), "two such peers would never stop");
    assert!(hand.session.is_drained());
}

#[test]
fn heartbeats_are_sent_after_silence_and_not_at_every_tick() {
    let mut hand = Hand::shake(config().inactivity_timeout(Duration::ZERO).net_status_interval(Duration::ZERO));
    hand.say(&Packet::Heartbeat);
    let mut heartbeats = 0;
    for _ in 0..100_000 {
        heartbeats += hand.wait(MS).iter().filter(|packet| packet[..] == [0, 6]).count();
    }
    assert_eq!(heartbeats, 4, "within 100 s, every 25 s");
}

#[test]
fn no_piece_of_a_multi_needs_a_long_length() {
    let mut hand = Hand::shake(config());
    for length in 240..=262 {
        for channel in ReliableChannel::ALL {
            hand.send(Message::new(channel, payload(length)));
            hand.send(Message::new(channel, payload(5)));
        }
        hand.send(Message::unreliable(payload(length)));
    }
    for datagram in hand.taken_bare() {
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
        let mut hand = Hand::offering(config(), 512, crc_length, [0, 0]);
        // A train of a message of no bytes. One alone might be a stranger's lucky guess.
        for _ in 0..2 {
            hand.say_bytes(vec![0, 0x0D, 0, 0, 0, 0, 0, 0, 1]);
        }
        let reason = hand.session.closed().map(|closed| closed.reason);
        assert_eq!(reason, closes.then_some(DisconnectReason::CorruptPacket));
    }
}

#[test]
fn a_second_response_changes_nothing() {
    let mut hand = Hand::shake(config());
    let other =
        SessionResponse { session_id: ID, crc_seed: 1, crc_length: 4, passes: [0, 4], udp_length: 64, version: None };
    hand.bare(&Packet::SessionResponse(other));
    hand.data(0, b"still understood");
    assert_eq!(hand.messages(), [b"still understood"]);
    assert_eq!(hand.session.crc_seed(), SEED);
}

#[test]
fn a_plain_packet_inside_a_train_is_corrupt() {
    let mut hand = Hand::shake(config());
    hand.say_bytes(vec![0, 0x0D, 0, 0, 0, 0, 0, 9, 1, 2]);
    hand.data(1, b"in between");
    hand.data(1, b"in between");
    assert_eq!(hand.session.closed().map(|closed| closed.reason), Some(DisconnectReason::CorruptPacket));
}
