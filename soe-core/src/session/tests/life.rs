//! Opening, keep-alive, the clock, and the end of sessions.

use super::*;

#[test]
fn a_client_without_an_answer_times_out() {
    let mut link = Link::new(config().build().unwrap(), config().build().unwrap());
    link.lose = |_, _| true;
    link.run(Duration::from_secs(11));
    assert!(link.sent[0] >= 5, "{} requests", link.sent[0]);
    let closed = link.client.closed().unwrap();
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ConnectFail, crate::Origin::Transport));
}

#[test]
fn another_protocol_is_refused_readably() {
    let other = SessionConfig::new("Other").unwrap();
    let mut link = Link::new(SessionConfig::new("LoginUdp_9").unwrap(), other);
    link.run(Duration::from_secs(1));
    assert!(link.server.is_none());
    let closed = link.client.closed().unwrap();
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ProtocolMismatch, crate::Origin::Peer));
    assert!(!link.events.contains(&Event::Connected));
}

#[test]
fn a_short_request_is_refused_without_amplifying_it() {
    let mut link = Link::new(SessionConfig::new("A").unwrap(), SessionConfig::new("Other").unwrap());
    link.run(Duration::from_secs(1));
    assert!(link.server.is_none());
    assert_eq!(link.client.closed().map(|closed| closed.reason), Some(DisconnectReason::ProtocolMismatch));
}

#[test]
fn closing_delivers_what_is_queued_and_tells_the_peer() {
    let mut link = Link::plain();
    let message = pattern(50_000, 3);
    link.client.send(message.clone().into()).unwrap();
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    assert!(matches!(link.client.send(message.clone().into()), Err(SendError::Closed(_))));
    link.run(Duration::from_secs(1));
    assert_eq!(link.received(), [message]);
    let closed = link.server().closed().unwrap();
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, crate::Origin::Peer));
    assert_eq!(link.client.undelivered(), Undelivered::default());
    link.run(Duration::from_secs(3));
    assert!(link.client.is_drained() && link.server().is_drained());
    assert_eq!(link.client.poll_timeout(), None);
}

#[test]
fn a_silent_peer_times_out() {
    let mut link = Link::plain();
    link.lose = |_, _| true;
    link.run(Duration::from_secs(31));
    for closed in [link.client.closed(), link.server().closed()] {
        assert_eq!(closed.map(|closed| closed.reason), Some(DisconnectReason::Timeout));
    }
}

#[test]
fn heartbeats_keep_an_idle_session_alive_at_little_cost() {
    let mut link = Link::plain();
    let before = link.sent;
    link.run(Duration::from_secs(600));
    assert!(link.client.is_connected());
    assert!(link.sent[0] - before[0] < 90 && link.sent[1] - before[1] < 90, "{:?}", link.sent);
}

#[test]
fn a_port_mapping_is_kept_alive_by_datagrams_that_expire_on_the_way() {
    let mut link = tuned(|config| config.port_alive_interval(Duration::from_secs(5)).port_alive_hops(3));
    let mut buf = Vec::new();
    let now = link.now + Duration::from_secs(6);
    link.client.handle_timeout(now);
    let transmit = link.client.poll_transmit(now, &mut buf).unwrap();
    assert_eq!((transmit.time_to_live, &buf[..]), (Some(3), &[0, 0x1C][..]));
    let received = link.server().stats(now).since_received;
    let outcome = link.server().handle_datagram(now, BytesMut::from(&buf[..]));
    assert_eq!(outcome, DatagramOutcome::Unproven);
    assert_eq!(link.server().stats(now).since_received, received, "it refreshes no timer");
}

#[test]
fn a_client_computes_the_clock_of_its_server() {
    let mut link = Link::plain();
    let now = link.now + Duration::from_secs(1);
    let server = link.server().epoch.instant();
    let expected = now.duration_since(server).as_millis() as u32;
    let clock = link.client.server_clock(now).unwrap();
    assert!(clock.abs_diff(expected) <= 1, "{clock} {expected}");
}

#[test]
fn a_forged_unknown_sender_closes_nothing() {
    let mut link = Link::plain();
    for _ in 0..200 {
        let now = link.now;
        let _ = link.client.handle_datagram(now, BytesMut::from(&[0, 0x1D][..]));
        link.run(50 * MS);
    }
    assert!(link.client.is_connected());
}

#[test]
fn unknown_sender_from_a_server_without_the_session_ends_it() {
    let mut link = Link::plain();
    link.server = None;
    link.endpoint = Endpoint::new(link.now, link.client.config().clone().into(), [8; 16]);
    for n in 0..30 {
        let _ = link.client.send(pattern(10, n).into());
        link.run(500 * MS);
    }
    let closed = link.client.closed().unwrap();
    assert_eq!(closed.reason, DisconnectReason::UnreachableConnection);
}
