//! How a session opens or does not, and what a server sends to whoever has proved nothing.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use soe_core::{
    Dialect, DisconnectReason, Event, Session, SessionConfig,
    wire::{Packet, SessionRequest},
};

use super::link::{ID, Link, MS, SECOND, To, delay, endpoint, knock, pattern, plain};

#[test]
fn a_refusal_whose_disconnect_is_lost_is_told_as_a_refusal() {
    for one_way in [5, 10, 40, 90] {
        let mut lost = false;
        let mut link = Link::new(
            SessionConfig::new("LoginUdp_9").unwrap(),
            SessionConfig::new("OtherUdp_9").unwrap(),
            Box::new(move |to, _, datagram| {
                let is_first = to == To::Client && datagram[1] == 5 && !std::mem::replace(&mut lost, true);
                (!is_first).then_some(one_way * MS)
            }),
        );
        link.run(20 * SECOND);
        assert!(link.events.iter().all(|(_, event)| *event != Event::Connected), "{one_way}: {:?}", link.events);
        let reason = link.client.closed().map(|closed| closed.reason);
        assert_eq!(reason, Some(DisconnectReason::ProtocolMismatch), "{one_way}");
    }
}

#[test]
fn a_server_that_disowns_a_session_which_never_opened_has_refused_it() {
    let mut link = Link::new(
        SessionConfig::new("LoginUdp_9").unwrap(),
        SessionConfig::new("OtherUdp_9").unwrap(),
        Box::new(|_, _, datagram| (datagram[1] != 5).then_some(10 * MS)),
    );
    // The server forgets what it refused, and answers UnknownSender.
    link.run(25 * MS);
    for _ in 0..60 {
        let now = link.now;
        let _ = link.client.handle_datagram(now, BytesMut::from(&[0, 0x1D][..]));
        link.run(100 * MS);
    }
    assert!(link.events.iter().all(|(_, event)| *event != Event::Connected), "{:?}", link.events);
    let reason = link.client.closed().map(|closed| closed.reason);
    assert_eq!(reason, Some(DisconnectReason::ConnectionRefused));
}

#[test]
fn a_forged_unknown_sender_only_delays_that_a_client_reports_itself_connected() {
    // The server says nothing by itself, and its answers to the first datagrams are lost.
    let mut link = Link::new(
        plain(),
        plain(),
        Box::new(|to, _, datagram| (to == To::Server || datagram[1] == 2).then_some(10 * MS)),
    );
    link.run(25 * MS);
    let now = link.now;
    let _ = link.client.handle_datagram(now, BytesMut::from(&[0, 0x1D][..]));
    link.run(1_500 * MS);
    assert!(!link.client.is_connected());
    link.run(3 * SECOND);
    assert!(link.client.is_connected());
    link.fate = delay(10 * MS);
    link.run(60 * SECOND);
    assert!(link.client.is_connected());
}

/// A server's session in a dialect whose server speaks first, and the request that made it.
fn first_speaker(now: Instant) -> (Session, Vec<u8>) {
    let config = SessionConfig::with_dialect(Dialect::everquest2()).build().unwrap();
    let mut endpoint = endpoint(now, config);
    let mut request = Vec::new();
    Packet::SessionRequest(SessionRequest { version: 2, session_id: ID, udp_length: 512, protocol_name: None })
        .encode(&mut request);
    let (session, _) = knock(&mut endpoint, now, &request);
    (session.unwrap(), request)
}

fn bytes_sent(session: &mut Session, now: &mut Instant, time: Duration) -> usize {
    let (end, mut bytes) = (*now + time, 0);
    loop {
        let mut buf = Vec::new();
        while session.poll_transmit(*now, &mut buf).is_some() {}
        bytes += buf.len();
        let Some(next) = session.poll_timeout().filter(|next| *next < end) else { break };
        *now = next.max(*now);
        session.handle_timeout(*now);
    }
    *now = end;
    bytes
}

#[test]
fn before_an_address_has_proved_itself_three_bytes_leave_for_each_that_came() {
    for length in [5, 20, 300, 20_000] {
        let mut now = Instant::now();
        let (mut session, request) = first_speaker(now);
        for seed in 0..50 {
            session.send(pattern(length, seed).into()).unwrap();
        }
        let sent = bytes_sent(&mut session, &mut now, SECOND);
        assert!(sent >= 21, "the response leaves");
        assert!(sent <= 3 * request.len(), "{sent} bytes for {}", request.len());
        for _ in 0..10 {
            let _ = session.handle_datagram(now, request[..].into());
            bytes_sent(&mut session, &mut now, SECOND);
        }
        bytes_sent(&mut session, &mut now, 60 * SECOND);
        let stats = session.stats(now);
        assert!(stats.bytes_sent <= 3 * stats.bytes_received, "{stats:?}");
        assert!(session.closed().is_some() && session.is_drained(), "it ends all the same");
    }
}

#[test]
fn the_first_valid_datagram_lifts_the_limit() {
    let mut now = Instant::now();
    let (mut session, request) = first_speaker(now);
    session.send(pattern(20_000, 1).into()).unwrap();
    bytes_sent(&mut session, &mut now, SECOND);
    let framing = Dialect::everquest2().framing(session.crc_seed(), session.config().crc_length, [0, 0]).unwrap();
    let mut heartbeat = vec![0, 6];
    framing.seal(&mut heartbeat, 0);
    let _ = session.handle_datagram(now, heartbeat[..].into());
    let sent = bytes_sent(&mut session, &mut now, 5 * SECOND);
    assert!(sent > 100 * request.len(), "{sent}");
}
