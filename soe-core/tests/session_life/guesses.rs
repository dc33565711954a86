//! What a session remembers of somebody who guesses CRCs (section 10 of `docs/protocol.md`).

use bytes::BytesMut;
use soe_core::{
    Channel, Message,
    wire::{NamedWindow, NetStatusResponse},
};

use super::link::{Link, MS, SECOND, delay, plain};

/// A wrong CRC at the server.
fn miss(link: &mut Link) {
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

#[test]
fn a_jump_that_was_guessed_is_undone_however_long_the_stream_rests_before_and_after() {
    let mut link = Link::plain();
    assert_eq!(ordered(&mut link), 4);
    miss(&mut link);
    talk_and_rest(&mut link);
    jump(&mut link, 20_000);
    for _ in 0..10 {
        talk_and_rest(&mut link);
    }
    assert_eq!(ordered(&mut link), 3, "the first one shows that the peer goes on from before the jump");
    assert_eq!(ordered(&mut link), 4);
}

#[test]
fn a_jump_that_nobody_can_have_guessed_stays() {
    let mut link = Link::plain();
    assert_eq!(ordered(&mut link), 4);
    miss(&mut link);
    link.run(61 * SECOND);
    jump(&mut link, 20_000);
    assert_eq!(ordered(&mut link), 0, "what is overtaken is dropped");
}

#[test]
fn a_jump_that_goes_on_for_five_seconds_stays() {
    let mut link = Link::plain();
    assert_eq!(ordered(&mut link), 4);
    miss(&mut link);
    for n in 0..7 {
        jump(&mut link, 20_000 + n);
        link.run(SECOND);
    }
    assert_eq!(ordered(&mut link), 0);
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
