//! Outages, ICMP reports and UnknownSender: what ends an idle session, and what does not.

use bytes::BytesMut;
use soe_core::{DisconnectReason, Session};

use super::link::{Link, MS, Numbers, SECOND, To, config, delay};

fn reason(session: &Session) -> Option<DisconnectReason> {
    session.closed().map(|closed| closed.reason)
}

#[test]
fn no_outage_shorter_than_two_thirds_of_the_time_out_ends_an_idle_session() {
    for seed in 0..300 {
        let mut numbers = Numbers::new(seed);
        let round_trip = 10 + numbers.below(200) as u32;
        let mut link = Link::connected(super::link::plain(), super::link::plain(), delay(round_trip * MS / 2));
        link.run(60 * SECOND + numbers.below(60_000) as u32 * MS);
        let length = [10, 15, 19][seed as usize % 3] * SECOND + 900 * MS;
        let end = link.now + length;
        link.fate = Box::new(move |_, now, _| (now >= end).then_some(round_trip * MS / 2));
        link.run(120 * SECOND);
        assert!(link.client.is_connected() && link.server().is_connected(), "seed {seed}, {length:?}");
    }
}

#[test]
fn an_outage_of_two_thirds_ends_no_session_whose_link_is_also_lossy() {
    for seed in 0..100 {
        let mut numbers = Numbers::new(seed);
        let mut link = Link::plain();
        link.run(numbers.below(60_000) as u32 * MS);
        let end = link.now + 19 * SECOND;
        link.fate = Box::new(move |_, now, _| (now >= end && !numbers.chance(0.1)).then_some(30 * MS));
        link.run(120 * SECOND);
        assert!(link.client.is_connected() && link.server().is_connected(), "seed {seed}");
    }
}

#[test]
fn a_busy_session_is_never_asked() {
    let quiet = config().net_status_interval(std::time::Duration::ZERO).build().unwrap();
    let mut link = Link::connected(quiet.clone(), quiet, delay(10 * MS));
    link.sent = Default::default();
    for n in 0..600 {
        link.client.send(vec![n as u8 | 1].into()).unwrap();
        link.run(200 * MS);
    }
    let asked = |datagram: &&Vec<u8>| datagram[..2] == [0, 6] || datagram[..2] == [0, 7];
    assert_eq!(link.sent.iter().flatten().filter(asked).count(), 0);
}

#[test]
fn an_icmp_report_ends_a_session_whose_peer_has_gone() {
    let mut link = Link::plain();
    link.fate = Box::new(|_, _, _| None);
    let (now, before) = (link.now, link.sent[0].len());
    link.client.handle_unreachable(now);
    link.run(4_900 * MS);
    assert_eq!(reason(&link.client), None);
    assert!(link.sent[0].len() > before + 5, "a sign of life is asked for, more than once");
    link.run(200 * MS);
    assert_eq!(reason(&link.client), Some(DisconnectReason::IcmpError));
}

#[test]
fn a_valid_datagram_refutes_an_icmp_report() {
    let mut link = Link::plain();
    link.fate = Box::new(|_, _, _| None);
    let now = link.now;
    link.client.handle_unreachable(now);
    link.run(2 * SECOND);
    let heartbeat = link.sealed(&[0, 6]);
    let now = link.now;
    let _ = link.client.handle_datagram(now, heartbeat);
    link.run(10 * SECOND);
    assert_eq!(reason(&link.client), None);
}

#[test]
fn icmp_reports_end_no_session_whose_idle_peer_answers() {
    let mut link = Link::plain();
    for _ in 0..100 {
        let now = link.now;
        link.client.handle_unreachable(now);
        link.server().handle_unreachable(now);
        link.run(777 * MS);
    }
    assert!(link.client.is_connected() && link.server().is_connected());
}

#[test]
fn an_icmp_report_asks_even_where_silence_ends_nothing() {
    let endless = config().inactivity_timeout(std::time::Duration::ZERO).build().unwrap();
    let mut link = Link::connected(endless.clone(), endless, delay(10 * MS));
    let now = link.now;
    link.client.handle_unreachable(now);
    link.run(60 * SECOND);
    assert!(link.client.is_connected());
}

#[test]
fn a_server_that_has_restarted_is_unreachable_by_its_own_word_and_not_by_icmp() {
    let mut link = Link::plain();
    // The old server is gone, the network says so, and a new one comes up on the port.
    link.restart_server();
    link.fate = Box::new(|_, _, _| None);
    let now = link.now;
    link.client.handle_unreachable(now);
    link.run(1_500 * MS);
    link.fate = delay(10 * MS);
    for _ in 0..80 {
        link.client.send(vec![7; 10].into()).ok();
        link.run(100 * MS);
    }
    assert_eq!(reason(&link.client), Some(DisconnectReason::UnreachableConnection));
}

#[test]
fn unknown_sender_does_not_keep_a_session_from_its_time_out() {
    let mut link = Link::plain();
    link.fate = Box::new(|to, _, _| (to == To::Client).then_some(MS));
    link.server = None;
    for _ in 0..80 {
        let now = link.now;
        let _ = link.client.handle_datagram(now, BytesMut::from(&[0, 0x1D][..]));
        link.run(500 * MS);
    }
    assert_eq!(reason(&link.client), Some(DisconnectReason::UnreachableConnection));
}

/// Known clients answer one of these or another.
#[test]
fn a_peer_that_is_asked_for_a_sign_of_life_is_asked_in_every_way() {
    let mut link = Link::plain();
    link.server().send(b"heard".to_vec().into()).unwrap();
    link.run(SECOND);
    link.sent[To::Client as usize].clear();
    link.server().ask_for_life();
    link.flush();
    let asked = link.sent[To::Client as usize].iter().map(|datagram| datagram[1]).collect::<Vec<_>>();
    assert!([7, 6].iter().all(|op_code| asked.contains(op_code)), "{asked:x?}");
    assert!(asked.iter().any(|op_code| (9..=12).contains(op_code)), "what was acknowledged, again: {asked:x?}");
}
