//! What a session remembers of somebody who guesses CRCs (section 10 of `docs/protocol.md`).

use bytes::BytesMut;
use soe_core::{
    Channel, Message, ReliableChannel,
    wire::{NamedWindow, NetStatusResponse},
};

use super::link::{ID, Link, MS, SECOND, To, config, delay, pattern, plain};

/// A wrong CRC at the server.
pub(crate) fn miss(link: &mut Link) {
    let now = link.now;
    let mut datagram = link.sealed(&[0, 6]);
    datagram[2] ^= 1;
    let _ = link.server().handle_datagram(now, datagram);
    assert_eq!(link.server().stats(now).crc_rejects, 1);
}

/// Some traffic, and the time in which a session frees what it has left behind.
fn talk_and_rest(link: &mut Link) {
    link.client.send(b"traffic".to_vec().into()).unwrap();
    link.run(20 * SECOND);
    assert_eq!(link.received.pop().map(|message| message.payload), Some(b"traffic"[..].into()));
}

fn jump(link: &mut Link, stamp: u16) {
    let [high, low] = stamp.to_be_bytes();
    let (now, datagram) = (link.now, link.sealed(&[0, 0x1A, high, low, b'j']));
    let _ = link.server().handle_datagram(now, datagram);
    link.take();
    assert_eq!(link.received.pop().map(|message| message.payload), Some(b"j"[..].into()), "it passes for the newest");
}

/// How many of four ordered messages arrive.
fn ordered(link: &mut Link) -> usize {
    for n in 0..4 {
        link.client.send(Message::new(Channel::Ordered, vec![n])).unwrap();
        link.run(100 * MS);
    }
    std::mem::take(&mut link.received).len()
}

/// Sends stamps of the first ordered stream in one datagram, as a guess that hit would.
fn hit(link: &mut Link, stamps: impl Iterator<Item = u16>) {
    let mut packet = vec![0, 3];
    for stamp in stamps {
        let [high, low] = stamp.to_be_bytes();
        packet.extend([5, 0, 0x1A, high, low, b'j']);
    }
    let (now, datagram) = (link.now, link.sealed(&packet));
    let _ = link.server().handle_datagram(now, datagram);
    link.take();
    assert!(!std::mem::take(&mut link.received).is_empty(), "something passes for the newest");
}

#[test]
fn a_stream_that_was_guessed_ahead_is_set_back_by_its_peer_however_long_it_rests() {
    let jumps: [fn() -> Vec<u16>; 2] = [|| vec![20_000], || (0..80).map(|n| 256 * (n + 1)).collect()];
    for stamps in jumps {
        let mut link = Link::plain();
        assert_eq!(ordered(&mut link), 4);
        miss(&mut link);
        talk_and_rest(&mut link);
        hit(&mut link, stamps().into_iter());
        for _ in 0..40 {
            talk_and_rest(&mut link);
        }
        assert_eq!(ordered(&mut link), 0, "they may be late");
        link.run(SECOND);
        assert_eq!(ordered(&mut link), 4);
        assert_eq!(ordered(&mut link), 4);
    }
}

#[test]
fn a_stream_that_says_little_is_set_back_by_its_second_message() {
    let mut link = Link::plain();
    assert_eq!(ordered(&mut link), 4);
    miss(&mut link);
    for stamp in [20_000, 20_001, 20_002] {
        hit(&mut link, [stamp].into_iter());
        link.run(6 * SECOND);
    }
    for (n, heard) in [0, 1, 1, 1].into_iter().enumerate() {
        link.client.send(Message::new(Channel::Ordered, vec![n as u8])).unwrap();
        link.run(30 * SECOND);
        assert_eq!(std::mem::take(&mut link.received).len(), heard, "message {n}");
    }
}

#[test]
fn late_messages_set_no_stream_back_that_goes_on() {
    let mut link = Link::plain();
    assert_eq!(ordered(&mut link), 4);
    miss(&mut link);
    for n in 0..100 {
        // The peer's newest, and what comes late.
        jump(&mut link, 20_000 + n);
        assert_eq!(ordered(&mut link), 0);
    }
}

#[test]
fn where_no_crc_was_ever_wrong_no_stream_is_set_back() {
    let mut link = Link::plain();
    assert_eq!(ordered(&mut link), 4);
    jump(&mut link, 20_000);
    for _ in 0..20 {
        assert_eq!(ordered(&mut link), 0, "what is overtaken is dropped");
    }
}

/// The peer's own packet is lost on the way, and the acknowledgement of the fake in its place has reached the peer: nobody sends it
/// again.
#[test]
fn a_channel_goes_on_behind_a_place_that_nobody_fills() {
    let mut link = Link::plain();
    let say = |link: &mut Link, number: u8| {
        link.client.send(Message::new(ReliableChannel::ONE, vec![number])).unwrap();
        link.run(SECOND);
        std::mem::take(&mut link.received).iter().map(|message| message.payload[0]).collect::<Vec<_>>()
    };
    assert_eq!(say(&mut link, 10), [10]);
    miss(&mut link);
    let now = link.now;
    let fake = link.sealed(&[0, 0x0E, 0, 2, 7]);
    let _ = link.server().handle_datagram(now, fake);
    assert_eq!(say(&mut link, 11), [11]);
    link.fate = Box::new(|to, _, datagram| (to == To::Client || datagram[..4] != [0, 10, 0, 2]).then_some(10 * MS));
    link.client.send(Message::new(ReliableChannel::ONE, vec![12])).unwrap();
    link.flush();
    let (now, acknowledgement) = (link.now, link.sealed(&[0, 0x12, 0, 2]));
    let _ = link.client.handle_datagram(now, acknowledgement);
    link.fate = delay(10 * MS);
    for (number, heard) in [(13, vec![]), (14, vec![]), (15, vec![])] {
        assert_eq!(say(&mut link, number), heard);
    }
    link.run(3 * SECOND);
    assert_eq!(say(&mut link, 16), [13, 14, 15, 16]);
}

/// A peer of which everything has been acknowledged asks for a sign of life by a sequence that it has sent before, with other
/// content.
#[test]
fn a_repeated_sequence_that_asks_for_a_sign_of_life_is_no_message() {
    let mut link = Link::connected(plain(), config().recv_buffer(1).build().unwrap(), delay(10 * MS));
    miss(&mut link);
    link.server_reads = false;
    let sent: Vec<_> = (0..5).map(|number| pattern(400, number)).collect();
    for message in &sent {
        link.client.send(message.clone().into()).unwrap();
        link.run(100 * MS);
    }
    assert!(link.server().is_held_back() && link.client.is_idle(), "all are acknowledged, and most wait for room");
    link.client.ask_for_life();
    link.run(SECOND);
    let is_repeated = |datagram: &Vec<u8>| datagram.starts_with(&[0, 9, 0, 4, 1]);
    assert!(link.sent[To::Server as usize].iter().any(is_repeated), "it asks in this way as well");
    link.server_reads = true;
    link.run(SECOND);
    let received: Vec<_> = link.received.drain(..).map(|message| message.payload).collect();
    assert_eq!(received, sent);
}

/// A datagram has room for dozens of guesses of a session id.
#[test]
fn one_disconnect_of_a_datagram_counts() {
    let mut link = Link::plain();
    let leave = |id: u32| {
        let mut packet = vec![8, 0, 5];
        packet.extend(id.to_be_bytes());
        packet.extend([0, 6]);
        packet
    };
    let now = link.now;
    let several = [vec![0, 3], leave(ID ^ 1), leave(ID), leave(ID ^ 2)].concat();
    let datagram = link.sealed(&several);
    let _ = link.server().handle_datagram(now, datagram);
    assert!(link.server().closed().is_none());
    let datagram = link.sealed(&[vec![0, 3], leave(ID)].concat());
    let _ = link.server().handle_datagram(now, datagram);
    assert!(link.server().closed().is_some());
}

/// A response to a question that nobody has asked at that time, and that names a window of one packet.
fn forged_response(link: &Link) -> BytesMut {
    let (mut packet, window) = (Vec::new(), NamedWindow { by_client: false, packets: 1 });
    NetStatusResponse {
        request_clock: 60_000,
        responder_clock: 1 << 30,
        requester_sent: 0,
        requester_received: 0,
        responder_sent: 0,
        responder_received: 0,
    }
    .with_window(window)
    .encode(&mut packet);
    link.sealed(&packet)
}

#[test]
fn a_response_that_was_guessed_changes_nothing_and_puts_off_no_question() {
    let lost = || Box::new(|_, _, datagram: &[u8]| (datagram[..2] != [0, 8]).then_some(10 * MS));
    let [mut quiet, mut attacked] = [(); 2].map(|()| {
        let mut link = Link::new(plain(), plain(), lost());
        // Something else opens the session.
        link.client.send(b"open".to_vec().into()).unwrap();
        link.run(6 * SECOND);
        link
    });
    for link in [&mut quiet, &mut attacked] {
        let mut wrong = link.sealed(&[0, 6]);
        wrong[2] ^= 1;
        let _ = link.client.handle_datagram(link.now, wrong);
    }
    let forged = forged_response(&attacked);
    let _ = attacked.client.handle_datagram(attacked.now, forged);
    let known = |link: &Link| {
        let stats = link.client.stats(link.now);
        let questions = link.sent[0].iter().filter(|datagram| datagram[..2] == [0, 7]).count();
        (stats.peer_window, stats.ping, stats.clock_offset, link.client.server_clock(link.now), questions)
    };
    assert_eq!(known(&attacked), known(&quiet));
    for link in [&mut quiet, &mut attacked] {
        link.fate = delay(10 * MS);
        // The next question is due 45 s after the last.
        link.run(42 * SECOND);
    }
    assert_eq!(known(&attacked), known(&quiet));
    assert_eq!(known(&attacked).0, Some(6_144));
}
