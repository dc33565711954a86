//! The receive window that each side names in the exchange of statistics (section 8.1 of `docs/protocol.md`).

use std::time::Duration;

use soe_core::wire::{NamedWindow, NetStatusRequest, NetStatusResponse, Packet};

use super::link::{Link, MS, SECOND, To, config, delay, plain};

const QUESTION: u8 = 7;
const ANSWER: u8 = 8;

fn windows(link: &mut Link) -> [Option<u32>; 2] {
    let now = link.now;
    [link.client.stats(now).peer_window, link.server().stats(now).peer_window]
}

fn count(link: &Link, to: To, op: u8) -> usize {
    link.sent[to as usize].iter().filter(|datagram| datagram[..2] == [0, op]).count()
}

#[test]
fn both_sides_know_the_window_of_the_other_after_one_exchange() {
    let mut link = Link::new(config().recv_window_bytes(512_000).build().unwrap(), plain(), delay(25 * MS));
    link.run(110 * MS);
    assert_eq!(windows(&mut link), [Some(6_144), Some(1_000)]);
    link.run(60 * SECOND);
    assert_eq!(count(&link, To::Server, QUESTION), 2, "one at the start, one after 45 s");
}

#[test]
fn datagrams_that_name_a_window_are_as_long_as_others() {
    let mut link = Link::plain();
    link.run(SECOND);
    for (to, op) in [(To::Server, QUESTION), (To::Client, ANSWER)] {
        let named = link.sent[to as usize].iter().find(|datagram| datagram[..2] == [0, op]).unwrap();
        assert_eq!(named.len(), 42);
    }
}

#[test]
fn a_lost_question_or_answer_is_made_good_before_a_long_link_is_full() {
    // A window that is learned half a second later costs a third of the rate of a transfer of 8 MiB.
    let losses = [(QUESTION, 1, 250 * MS), (ANSWER, 1, 250 * MS), (QUESTION, 4, 3 * SECOND), (ANSWER, 4, 3 * SECOND)];
    for (op, lost, within) in losses {
        let mut left = lost;
        let mut link = Link::new(plain(), plain(), delay(25 * MS));
        link.fate = Box::new(move |_, _, datagram| {
            let is_lost = datagram[..2] == [0, op] && left > 0;
            left -= usize::from(is_lost);
            (!is_lost).then_some(25 * MS)
        });
        // Something else opens the session.
        link.client.send(vec![1; 10].into()).unwrap();
        link.run(within);
        assert_eq!(windows(&mut link), [Some(6_144), Some(6_144)], "{lost} of {op} lost");
        link.run(5 * SECOND);
        assert_eq!(count(&link, To::Server, QUESTION), lost + 1);
    }
}

#[test]
fn who_never_answers_is_asked_four_times_more_and_then_as_ever() {
    let names_nothing = config().window_discovery(false).build().unwrap();
    for (client, questions) in [(plain(), 5), (names_nothing, 1)] {
        let mut link = Link::new(client, plain(), delay(25 * MS));
        link.fate = Box::new(|_, _, datagram| (datagram[..2] != [0, ANSWER]).then_some(25 * MS));
        link.client.send(vec![1; 10].into()).unwrap();
        link.run(40 * SECOND);
        assert_eq!(count(&link, To::Server, QUESTION), questions);
    }
}

/// Gives the server a request, and returns its response.
fn ask(link: &mut Link, request: NetStatusRequest) -> NetStatusResponse {
    let (mut packet, now) = (Vec::new(), link.now);
    request.encode(&mut packet);
    let datagram = link.sealed(&packet);
    let _ = link.server().handle_datagram(now, datagram);
    let mut buf = Vec::new();
    let _ = link.server().poll_transmit(now, &mut buf);
    match Packet::decode(&buf) {
        Ok(Packet::NetStatusResponse(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_names_nothing_is_told_nothing() {
    let client = config().window_discovery(false).build().unwrap();
    let mut link = Link::connected(client, plain(), delay(25 * MS));
    assert_eq!(windows(&mut link), [None, None]);
    for (master, received) in [(0, 0), (65_535, 5), (250, u64::from(u32::MAX)), (u32::MAX, 1)] {
        let request = NetStatusRequest { master, received, ..NetStatusRequest::default() };
        let response = ask(&mut link, request);
        assert_eq!((response.window(), response.requester_received), (None, received));
    }
    // It returns what a server would say.
    let returned = NamedWindow { by_client: false, packets: 6_144 };
    let response = ask(&mut link, NetStatusRequest::default().with_window(returned));
    assert_eq!((response.window(), windows(&mut link)), (None, [None, None]));
}

#[test]
fn a_client_that_names_a_window_is_told_that_of_the_server() {
    let client = config().window_discovery(false).build().unwrap();
    let mut link = Link::connected(client, plain(), delay(25 * MS));
    for packets in [1, 300, 30_000, u16::MAX] {
        let named = NamedWindow { by_client: true, packets };
        let response = ask(&mut link, NetStatusRequest::default().with_window(named));
        assert_eq!(response.window(), Some(NamedWindow { by_client: false, packets: 6_144 }));
        assert_eq!(windows(&mut link)[1], Some(u32::from(packets.min(30_000))));
    }
}

#[test]
fn a_receiver_takes_what_a_bulk_transfer_may_have_under_way_and_little_from_a_stranger() {
    let mut link = Link::plain();
    let now = link.now;
    let beyond = |link: &mut Link| link.server().stats(now).beyond_window;
    let put = |link: &mut Link, sequence: u16| {
        let [high, low] = sequence.to_be_bytes();
        let datagram = link.sealed(&[0, 9, high, low, 1]);
        let _ = link.server().handle_datagram(now, datagram);
    };
    // Guesses: those within 256 are taken, whatever the window.
    for sequence in (300..60_000).step_by(100) {
        put(&mut link, sequence);
    }
    assert!(beyond(&mut link) > 290, "{}", beyond(&mut link));
    let before = beyond(&mut link);
    // Datagrams of a sender that has lost the first: one after the other.
    for sequence in 1..6_144 {
        put(&mut link, sequence);
    }
    assert_eq!(beyond(&mut link), before);
    put(&mut link, 6_144);
    assert_eq!(beyond(&mut link), before + 1);
    assert!(link.server().memory() < 4 << 20);
    assert_eq!(Duration::ZERO, link.now - now);
}

/// Sends as fast as it can for so long, and returns the most bytes that were under way.
fn most_under_way(link: &mut Link, time: Duration) -> usize {
    let (end, mut most) = (link.now + time, 0);
    while link.now < end {
        while link.client.send(vec![1; 480].into()).is_ok() {}
        link.run(5 * MS);
        most = most.max(link.client.stats(link.now).in_flight_bytes);
    }
    most
}

#[test]
fn a_sender_has_no_more_under_way_than_its_own_configuration_allows_whatever_the_peer_names() {
    let client = config().window(64, 1 << 20).build().unwrap();
    let mut link = Link::connected(client, plain(), delay(50 * MS));
    assert_eq!(windows(&mut link)[0], Some(6_144));
    let most = most_under_way(&mut link, 5 * SECOND);
    let packet = most / 64;
    assert!((480..=512).contains(&packet), "{most} bytes under way are not 64 packets");
}

/// Groups hold a message in two bytes, so that a window of packets alone would bound nothing.
#[test]
fn messages_with_receipts_that_are_under_way_are_bounded_and_all_of_them_resolve() {
    const MESSAGES: usize = 100_000;
    let config = config().udp_length(1_400).send_buffer(16 << 20).build().unwrap();
    let mut link = Link::connected(config.clone(), config, delay(25 * MS));
    // Until the congestion window is wide.
    for _ in 0..3_000 {
        link.client.send(vec![1; 1_000].into()).unwrap();
    }
    link.run(5 * SECOND);
    assert_eq!(std::mem::take(&mut link.received).len(), 3_000);
    let fate = std::mem::replace(&mut link.fate, Box::new(|to, _, _| (to == To::Server).then_some(25 * MS)));
    for _ in 0..MESSAGES {
        link.client.send_with_receipt(vec![1].into()).unwrap();
    }
    link.run(100 * MS);
    let arrived = link.received.len();
    assert!((16_384..17_384).contains(&arrived), "{arrived} messages were under way at once");
    link.fate = fate;
    link.run(20 * SECOND);
    assert_eq!((link.received.len(), link.delivered()), (MESSAGES, MESSAGES));
}
