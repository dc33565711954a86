//! Receipts tell the truth, and a Disconnect arrives.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use soe_core::{
    DatagramOutcome, Dialect, DisconnectReason, Event, Message, Origin, Pass, SendError, SessionConfig, Undelivered,
    framing::{Codec, CodecError, UserCodec},
    wire::Packet,
};

use super::link::{Link, MS, Numbers, SECOND, To, config, delay, pattern, plain};

#[test]
fn a_receipt_acknowledged_beside_a_disconnect_is_reported_before_the_end() {
    let mut link = Link::plain();
    let receipt = link.client.send_with_receipt(pattern(10, 1).into()).unwrap();
    link.flush();
    // A Multi of an acknowledgement of packet 0 and a Disconnect.
    let mut packet = vec![0, 3, 4, 0, 0x15, 0, 0, 8, 0, 5];
    packet.extend(super::link::ID.to_be_bytes());
    packet.extend([0, 6]);
    let (datagram, now) = (link.sealed(&packet), link.now + 20 * MS);
    let _ = link.client.handle_datagram(now, datagram);
    link.take();
    let events: Vec<_> = link.events.iter().map(|(_, event)| *event).collect();
    assert!(matches!(events[..], [Event::Connected, Event::Delivered(first), Event::Closed(_)] if first == receipt));
    assert_eq!(link.client.undelivered(), Undelivered::default());
}

#[test]
fn a_side_that_leaves_acknowledges_what_its_application_has_taken() {
    for abort in [false, true] {
        let mut link = Link::plain();
        let receipt = link.client.send_with_receipt(pattern(10, 1).into()).unwrap();
        link.flush();
        link.now += 10 * MS;
        link.arrive();
        assert!(link.server().recv().is_some());
        let now = link.now;
        match abort {
            false => link.server().close(now, DisconnectReason::Application),
            true => link.server().abort(now, DisconnectReason::Application, true),
        }
        link.run(SECOND);
        assert!(link.events.iter().any(|(_, event)| *event == Event::Delivered(receipt)));
        assert_eq!(link.client.undelivered(), Undelivered::default());
    }
}

#[test]
fn what_was_delivered_is_reported_so_though_its_acknowledgements_are_lost() {
    let (mut told, mut wrong) = (0, 0);
    for seed in 0..400 {
        let mut link = Link::plain();
        let mut numbers = Numbers::new(seed);
        link.client.send_with_receipt(pattern(10, 1).into()).unwrap();
        link.flush();
        link.now += 10 * MS;
        link.arrive();
        assert!(link.server().recv().is_some());
        link.fate = Box::new(move |_, _, _| (!numbers.chance(0.3)).then_some(10 * MS));
        let now = link.now;
        link.server().close(now, DisconnectReason::Application);
        link.run(10 * SECOND);
        told += usize::from(link.client.closed().is_some_and(|closed| closed.origin == Origin::Peer));
        wrong += usize::from(link.client.undelivered() != Undelivered::default());
    }
    // Only where everything but the last Disconnect was lost.
    assert!(told >= 398 && wrong <= 2, "{told} of 400 were told, {wrong} wrongly");
}

#[test]
fn closing_carries_the_last_messages_and_the_disconnect_across_thirty_percent_loss() {
    let (mut told, mut delivered) = (0, 0);
    for seed in 0..300 {
        let mut link = Link::plain();
        let mut numbers = Numbers::new(seed + 1_000);
        link.fate = Box::new(move |_, _, _| (!numbers.chance(0.3)).then_some(30 * MS));
        link.client.send(pattern(2_000, 1).into()).unwrap();
        let now = link.now;
        link.client.close(now, DisconnectReason::Application);
        let end = now + link.client.config().close_timeout;
        while !link.client.has_told_peer() && link.now < end {
            link.run(10 * MS);
        }
        // The program ends here.
        link.run(100 * MS);
        told += usize::from(link.server().closed().is_some());
        delivered += usize::from(link.received.len() == 1);
    }
    assert!(delivered >= 299 && told >= 297, "{delivered} messages and {told} Disconnects of 300");
}

#[test]
fn what_closing_could_not_deliver_is_said() {
    let mut link = Link::plain();
    link.fate = Box::new(|_, _, _| None);
    link.client.send_with_receipt(pattern(10, 1).into()).unwrap();
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    link.run(4 * SECOND);
    assert!(!link.client.has_told_peer());
    link.run(4 * SECOND);
    assert_eq!(link.client.undelivered().messages, 1);
    assert_eq!(link.delivered(), 0);
    assert!(link.client.has_told_peer() && link.client.is_drained());
    assert_eq!(link.client.poll_timeout(), None);
}

#[test]
fn a_disconnect_is_repeated_about_a_round_trip_apart_and_a_bounded_number_of_times() {
    for round_trip in [0, 10, 100, 500] {
        let mut link = Link::connected(plain(), plain(), delay(round_trip * MS / 2));
        link.client.send(pattern(10, 1).into()).unwrap();
        link.run(2 * SECOND);
        link.fate = Box::new(|_, _, _| None);
        link.sent = Default::default();
        let now = link.now;
        link.client.close(now, DisconnectReason::Application);
        while !link.client.has_told_peer() {
            link.run(MS);
        }
        let took = link.now - now;
        assert_eq!(link.sent[0].len(), 6);
        assert!(took >= 10 * MS * round_trip.clamp(30, 150) && took <= 2_001 * MS, "{took:?} at {round_trip} ms");
        link.run(10 * SECOND);
        assert_eq!(link.sent[0].len(), 6);
        assert!(link.client.is_drained());
    }
}

#[test]
fn the_last_repetition_of_a_disconnect_goes_alone() {
    let mut link = Link::plain();
    link.server().send(pattern(10, 1).into()).unwrap();
    link.run(SECOND);
    link.sent = Default::default();
    link.fate = Box::new(|_, _, _| None);
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    link.run(5 * SECOND);
    let (last, others) = link.sent[0].split_last().unwrap();
    assert!(others.iter().all(|datagram| datagram[..2] == [0, 3]), "acknowledgements go with it");
    let Ok(Packet::Disconnect(_)) = Packet::decode(&last[..last.len() - 2]) else { panic!("{last:x?}") };
}

#[test]
fn without_memory_of_its_peer_a_session_sends_one_disconnect_and_is_gone() {
    let brief = config().linger(Duration::ZERO).build().unwrap();
    let mut link = Link::connected(brief, plain(), delay(10 * MS));
    link.sent = Default::default();
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    assert!(!link.client.is_drained() && !link.client.has_told_peer());
    link.flush();
    assert!(link.client.is_drained() && link.client.has_told_peer());
    assert_eq!(link.sent[0].len(), 1);
}

#[test]
fn late_datagrams_are_answered_within_a_limit() {
    let mut link = Link::connected(config().linger(20 * SECOND).build().unwrap(), plain(), delay(10 * MS));
    let heartbeat = link.sealed(&[0, 6]);
    link.fate = Box::new(|_, _, _| None);
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    link.run(5 * SECOND);
    link.sent = Default::default();
    for _ in 0..10_000 {
        let now = link.now;
        let _ = link.client.handle_datagram(now, heartbeat.clone());
        link.run(MS);
    }
    let answers = link.sent[0].len();
    assert!((50..=70).contains(&answers), "{answers} answers to 10,000 late datagrams in 10 s");
    let disconnect = link.sealed(&[0, 5, 0x12, 0x34, 0x56, 0x78, 0, 6]);
    link.run(SECOND);
    link.sent = Default::default();
    let now = link.now;
    let _ = link.client.handle_datagram(now, disconnect);
    link.run(SECOND);
    assert!(link.sent[0].is_empty(), "two sides that leave would never stop");
}

#[test]
fn a_peer_that_missed_every_disconnect_is_told_when_it_speaks() {
    let mut link = Link::plain();
    let end = link.now + SECOND;
    link.fate = Box::new(move |to, now, _| (to == To::Client || now > end).then_some(10 * MS));
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    link.run(1_500 * MS);
    assert_eq!(link.server().closed(), None);
    link.server().send(pattern(10, 1).into()).unwrap();
    link.run(200 * MS);
    assert_eq!(link.server().closed().map(|closed| closed.origin), Some(Origin::Peer));
}

#[test]
fn a_receipt_for_an_unreliable_message_is_an_error_and_gives_it_back() {
    let mut link = Link::plain();
    let message = Message::unreliable(pattern(10, 1));
    assert_eq!(link.client.send_with_receipt(message.clone()), Err(SendError::NoReceipt(message)));
    // Too large for a datagram, it is promoted, and its receipt is one.
    link.client.send_with_receipt(Message::unreliable(pattern(3_000, 1))).unwrap();
    link.run(SECOND);
    assert_eq!(link.delivered(), 1);
}

/// A codec that counts what it is asked to undo.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl UserCodec for Counting {
    fn encode(&self, body: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(body);
    }

    fn decode(&self, body: &[u8], out: &mut Vec<u8>, _: usize) -> Result<(), CodecError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        out.extend_from_slice(body);
        Ok(())
    }
}

#[test]
fn a_session_that_is_over_answers_late_datagrams_and_undoes_none_of_their_passes() {
    let codec = Arc::new(Counting::default());
    let counting = || {
        let dialect = Dialect::version3().with_codec(Codec::Custom(codec.clone()));
        SessionConfig::with_dialect(dialect).protocol_name("Test".into()).passes([Pass::UserCodec, Pass::None])
    };
    let [client, server] = [counting(), counting()].map(|config| config.build().unwrap());
    let mut link = Link::connected(client, server, delay(10 * MS));
    link.server().send(pattern(100, 3).into()).unwrap();
    link.run(SECOND);
    let is_data = |datagram: &&Vec<u8>| datagram.get(1) == Some(&9);
    let late = link.sent[1].iter().rfind(is_data).unwrap().clone();
    assert!(codec.0.load(Ordering::Relaxed) > 0);
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    link.run(SECOND);
    assert!(link.client.closed().is_some() && !link.client.is_drained());
    link.sent = Default::default();
    let undone = codec.0.load(Ordering::Relaxed);
    for _ in 0..1_000 {
        let now = link.now;
        assert_eq!(link.client.handle_datagram(now, late[..].into()), DatagramOutcome::Authentic);
    }
    link.run(SECOND);
    assert_eq!(codec.0.load(Ordering::Relaxed), undone, "each datagram would cost its sender less than us");
    assert!(!link.sent[0].is_empty(), "the peer is told again");
}
