//! How an endpoint closes.

use soe_core::{Action, AdmissionConfig, DisconnectReason, Endpoint, SessionKey, host};

use super::*;
use crate::net::{Direction, MS, Net, SECOND};

fn reason(net: &mut Net, n: u16) -> Option<DisconnectReason> {
    net.client(player(n)).closed().map(|closed| closed.reason)
}

#[test]
fn a_closed_endpoint_refuses_whoever_waits_and_whoever_knocks_and_keeps_whoever_is_in() {
    let admission = AdmissionConfig::builder(config()).accept_backlog(3).build().unwrap();
    let mut net = Net::new(admission, 10 * MS);
    net.join(player(0), &config(), 0);
    net.run(500 * MS);
    net.server.accepts = false;
    // Some wait in the queue, some before it, some have their response only, some have nothing.
    for n in 1..=8 {
        net.join(player(n), &config(), n.into());
    }
    net.run(500 * MS);
    net.join(player(9), &config(), 9);
    net.run(15 * MS);
    let now = net.now;
    net.server.close(now);
    net.join(player(10), &config(), 10);
    net.run(100 * MS);
    for n in 1..=8 {
        assert!(reason(&mut net, n).is_some(), "player {n}, who waited, learns it by repeating itself only");
    }
    net.run(5 * SECOND);
    for n in 1..=10 {
        assert_eq!(reason(&mut net, n), Some(DisconnectReason::ConnectionRefused), "player {n}");
    }
    assert_eq!(net.server.endpoint.sessions(), 1);
    assert!(net.client(player(0)).is_connected() && !net.server.endpoint.is_finished());
    let now = net.now;
    net.client(player(0)).close(now, DisconnectReason::Application);
    net.run(60 * SECOND);
    assert!(net.server.endpoint.is_finished() && net.server.all().count() == 0);
}

#[test]
fn a_session_that_opens_while_the_endpoint_closes_is_refused() {
    let mut net = Net::new(config(), 10 * MS);
    net.server.accepts = false;
    net.join(player(0), &config(), 0);
    net.run(100 * MS);
    let (key, _) =
        host::call(&mut net.server, Instant::now(), |endpoint| endpoint.poll_accept(Instant::now())).unwrap();
    let now = net.now;
    net.server.close(now);
    // It was taken from the queue before, and nobody has decided yet.
    assert!(net.session_of(0).is_some());
    host::call(&mut net.server, now, |endpoint| endpoint.refuse(key, DisconnectReason::ConnectionRefused));
    net.run(60 * SECOND);
    assert_eq!(reason(&mut net, 0), Some(DisconnectReason::ConnectionRefused));
    assert!(net.server.endpoint.is_finished());
}

/// The response is under way, or the client's first datagram is, and either may be lost.
#[test]
fn a_client_that_was_answered_just_before_the_close_is_refused_and_the_endpoint_waits_no_longer_than_that() {
    for (answered, lost) in [(60, false), (110, false), (140, false), (60, true)] {
        let mut disconnects = 0;
        let fate = move |direction, _, datagram: &[u8]| {
            let is_disconnect = direction == Direction::ToClient && datagram[..2] == [0, 5];
            disconnects += u32::from(is_disconnect);
            (!lost || disconnects != 1 || !is_disconnect).then_some(50 * MS)
        };
        let mut net = Net::with_fate(config(), Box::new(fate));
        net.join(player(0), &config(), 7);
        net.run(answered * MS);
        assert_eq!(net.server.endpoint.stats().admission.responses, 1);
        let now = net.now;
        net.server.close(now);
        assert!(net.server.endpoint.is_lingering() && !net.server.endpoint.is_finished());
        net.run(if lost { 1_300 } else { 200 } * MS);
        assert_eq!(reason(&mut net, 0), Some(DisconnectReason::ConnectionRefused), "closed after {answered} ms");
        // Whoever knocks meanwhile is refused too, and keeps nobody waiting.
        for n in 1..100 {
            net.join(player(n), &config(), n.into());
            net.run(40 * MS);
        }
        assert!(net.server.endpoint.is_finished());
        net.run(2 * SECOND);
        assert_eq!(reason(&mut net, 1), Some(DisconnectReason::ConnectionRefused));
    }
}

#[test]
fn an_endpoint_that_has_answered_nobody_lately_is_finished_at_once() {
    let mut net = Net::new(config(), 10 * MS);
    net.join(player(0), &config(), 7);
    net.run(15 * MS);
    net.clients.clear();
    net.run(4 * SECOND);
    let now = net.now;
    net.server.close(now);
    assert!(net.server.endpoint.is_finished());
}

#[test]
fn a_refused_client_is_told_why_and_an_ignored_one_is_not_told() {
    for tells in [true, false] {
        let mut net = Net::new(config(), 10 * MS);
        net.server.accepts = false;
        net.join(player(0), &config(), 0);
        net.run(100 * MS);
        let now = net.now;
        host::call(&mut net.server, now, |endpoint| {
            let (key, request) = endpoint.poll_accept(now).unwrap();
            assert_eq!((request.session_id, &request.protocol_name[..]), (0, "LoginUdp_9"));
            match tells {
                true => endpoint.refuse(key, DisconnectReason::ConnectError),
                false => endpoint.ignore(key),
            }
        });
        net.run(SECOND);
        assert_eq!(reason(&mut net, 0), tells.then_some(DisconnectReason::ConnectError));
        net.run(60 * SECOND);
        assert_eq!(net.server.all().count(), 0);
    }
}

#[test]
fn after_all_sessions_have_ended_nothing_is_left() {
    let mut net = Net::new(config(), 10 * MS);
    for round in 0..3u16 {
        for n in 0..100 {
            net.join(player(n), &config(), (round * 100 + n).into());
        }
        net.run(2 * SECOND);
        assert_eq!(net.server.endpoint.sessions(), 100);
        // A third leaves, a third crashes, a third moves and then crashes.
        let now = net.now;
        (0..33).for_each(|n| net.client(player(n)).close(now, DisconnectReason::Application));
        (66..100).for_each(|n| net.readdress(player(n), player(n + 1_000)));
        net.run(3 * SECOND);
        net.clients.clear();
        net.run(60 * SECOND);
        let stats = net.server.endpoint.stats();
        assert_eq!((stats.sessions, stats.waiting, stats.lingering), (0, 0, 0));
        assert_eq!(net.server.all().count(), 0);
        net.server.accepted.clear();
    }
    let now = net.now;
    net.server.close(now);
    assert!(net.server.endpoint.is_finished());
}

/// A short name makes a short request, which must not be answered with a response and a Disconnect before proof.
#[test]
fn who_was_answered_by_a_closed_endpoint_is_refused_though_the_endpoint_has_nothing_else_to_do() {
    let (start, config) = (Instant::now(), SessionConfig::new("Adv").unwrap());
    let mut endpoint = Endpoint::new(start, config.clone().into(), [1; 16]);
    let sent = |endpoint: &mut Endpoint| {
        let mut sent = Vec::new();
        while let Some(action) = endpoint.poll_action() {
            let Action::Send { datagram, .. } = action else { panic!("{action:?}") };
            sent.push(datagram);
        }
        sent
    };
    endpoint.close(start);
    assert!(endpoint.is_finished(), "nobody is there");
    // A request that was in the socket's buffer.
    let ask = |endpoint: &mut Endpoint, now: Instant, n: u16| {
        let mut request = Vec::new();
        let protocol_name = Some(&b"Adv"[..]);
        SessionRequest { version: 3, session_id: n.into(), udp_length: 512, protocol_name }.encode(&mut request);
        endpoint.handle_datagram(now, player(n).into(), request[..].into());
    };
    let now = start + 5 * MS;
    ask(&mut endpoint, now, 1);
    let [answer] = &sent(&mut endpoint)[..] else { panic!("one response") };
    let Ok(Packet::SessionResponse(response)) = Packet::decode(answer) else { panic!("{answer:x?}") };
    assert!(!endpoint.is_finished() && endpoint.is_lingering(), "its client is about to speak");
    let framing = framing(&config, response.crc_seed);
    endpoint.handle_datagram(now + 2 * SECOND, player(1).into(), sealed(&framing, &HEARTBEAT)[..].into());
    let [refusal] = &sent(&mut endpoint)[..] else { panic!("one refusal") };
    assert!(matches!(Packet::decode(&refusal[..refusal.len() - 2]), Ok(Packet::Disconnect(_))), "{refusal:x?}");
    // A flood of requests does not keep it up for ever, and nobody is answered whom it will not refuse.
    let mut last_answer = start;
    for time in (10..20_000).step_by(10) {
        let now = start + time * MS;
        endpoint.handle_timeout(now);
        ask(&mut endpoint, now, 100 + time as u16);
        if !sent(&mut endpoint).is_empty() {
            last_answer = now;
        }
        if endpoint.is_finished() {
            assert!(now - last_answer >= 3 * SECOND && now - start < 7 * SECOND, "{:?}", now - start);
            return;
        }
    }
    panic!("it never ends");
}

/// A session that has been opened, and that its host has not reported as stored yet.
fn opened(net: &mut Net) -> SessionKey {
    let framing = ask(net, player(0), 7);
    let (now, endpoint) = (net.now, &mut net.server.endpoint);
    endpoint.handle_datagram(now, player(0).into(), sealed(&framing, &HEARTBEAT)[..].into());
    let opened = std::iter::from_fn(|| endpoint.poll_action()).find_map(|action| match action {
        Action::Open(opened) => Some(opened),
        _ => None,
    });
    opened.expect("it has proved itself").key
}

/// Two sockets share an endpoint, and each performs actions: one may end a session that the other is about to store.
#[test]
fn a_session_that_is_refused_before_its_host_has_it_is_ended_as_soon_as_it_has() {
    let mut net = Net::new(config(), 10 * MS);
    let key = opened(&mut net);
    let endpoint = &mut net.server.endpoint;
    endpoint.close(net.now);
    // What the other socket does: nobody has this session yet.
    while endpoint.poll_action().is_some() {}
    endpoint.handle_opened(key);
    let Some(Action::End { key: ended, tell_peer: true, .. }) = endpoint.poll_action() else {
        panic!("a session that nobody will ever accept or refuse")
    };
    assert_eq!(ended, key);
}

/// The same a moment later: the other socket finds the session, ends it, and reports that before the first one comes to say that
/// it has stored it. An end that tells nobody would take back the Disconnect that is about to be sent.
#[test]
fn a_refusal_before_its_host_has_reported_the_session_is_not_taken_back() {
    let mut net = Net::new(config(), 10 * MS);
    let key = opened(&mut net);
    let endpoint = &mut net.server.endpoint;
    endpoint.close(net.now);
    let refused = std::iter::from_fn(|| endpoint.poll_action())
        .any(|action| matches!(action, Action::End { key: ended, tell_peer: true, .. } if ended == key));
    assert!(refused);
    endpoint.handle_session_ended(net.now, key, false);
    endpoint.handle_opened(key);
    while let Some(action) = endpoint.poll_action() {
        assert!(!matches!(action, Action::End { tell_peer: false, .. }), "{action:?}");
    }
}

/// And a client that is replaced before its session is stored: that one ends, and its client hears nothing of it.
#[test]
fn a_session_that_is_replaced_before_its_host_has_it_is_ended_in_silence() {
    let mut net = Net::new(config(), 10 * MS);
    let key = opened(&mut net);
    let (now, endpoint) = (net.now, &mut net.server.endpoint);
    let mut returned = |datagram: &[u8]| {
        endpoint.handle_returned(now, player(0).into(), key, now, datagram.into());
        std::iter::from_fn(|| endpoint.poll_action()).collect::<Vec<_>>()
    };
    let answer = returned(&request(8));
    let Some(Action::Send { datagram, .. }) = answer.last() else { panic!("no response: {answer:?}") };
    let Ok(Packet::SessionResponse(response)) = Packet::decode(datagram) else { panic!("no response: {datagram:x?}") };
    let newcomer = framing(&config(), response.crc_seed);
    for number in [1, 2] {
        returned(&sealed(&newcomer, &heartbeats(number)));
    }
    let endpoint = &mut net.server.endpoint;
    assert_ne!(endpoint.at(player(0)), Some(key), "nothing was tested");
    endpoint.handle_opened(key);
    let Some(Action::End { key: ended, tell_peer: false, .. }) = endpoint.poll_action() else {
        panic!("a session without an address that nobody ends")
    };
    assert_eq!(ended, key);
}
