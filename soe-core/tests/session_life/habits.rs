//! Peers that answer only some of what is asked, in models made by hand.

use std::time::{Duration, Instant};

use soe_core::{
    DisconnectReason, Framing, Session,
    wire::{AcknowledgeAll, NetStatusResponse, Packet},
};

use super::link::{Link, MS, SECOND, To};

/// Which packets a peer answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    Heartbeats,
    NetStatus,
    Acknowledgements,
    /// Heartbeats, and those without a CRC.
    BareHeartbeats,
    Nothing,
}

/// Packets of a datagram, unfolded from a Multi.
fn packets<'a>(packet: &'a [u8], visit: &mut dyn FnMut(Packet<'a>)) {
    match Packet::decode(packet) {
        Ok(Packet::Multi(multi)) => multi.pieces().for_each(|piece| packets(piece.unwrap(), visit)),
        Ok(packet) => visit(packet),
        Err(error) => panic!("{error}"),
    }
}

/// What the peer answers to a datagram, unsealed.
fn answer(habit: Habit, datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    packets(&datagram[..datagram.len() - 2], &mut |packet| {
        let mut out = Vec::new();
        match (packet, habit) {
            (Packet::Heartbeat, Habit::Heartbeats | Habit::BareHeartbeats) => out.extend([0, 6]),
            (Packet::NetStatusRequest(request), Habit::NetStatus) => Packet::NetStatusResponse(NetStatusResponse {
                request_clock: request.clock,
                requester_sent: request.sent,
                requester_received: request.received,
                ..NetStatusResponse::default()
            })
            .encode(&mut out),
            (Packet::Reliable(data), Habit::Acknowledgements) => {
                AcknowledgeAll { channel: data.channel, sequence: data.sequence }.encode(&mut out);
            }
            _ => return,
        }
        answers.push(out);
    });
    answers
}

/// Lets a side that has nothing to say talk to a model for so long, with a silent link in the middle of it. Returns the
/// datagrams that it has sent.
fn live(framing: &Framing, session: &mut Session, start: Instant, habit: Habit, outage: Duration) -> usize {
    let is_out = |now: Instant| (start + TIME / 2..start + TIME / 2 + outage).contains(&now);
    let mut wire: Vec<(Instant, Vec<u8>)> = Vec::new();
    let (mut now, mut sent) = (start, 0);
    while now < start + TIME && session.closed().is_none() {
        let mut buf = Vec::new();
        while let Some(transmit) = session.poll_transmit(now, &mut buf) {
            for datagram in std::mem::take(&mut buf).chunks(transmit.segment_size) {
                sent += 1;
                if !is_out(now) {
                    wire.extend(answer(habit, datagram).into_iter().map(|answer| (now + 40 * MS, answer)));
                }
            }
        }
        while session.poll_event().is_some() {}
        let arrival = wire.iter().map(|(at, _)| *at).min();
        now = session.poll_timeout().into_iter().chain(arrival).min().unwrap().max(now);
        wire.retain(|(at, packet)| {
            if *at <= now {
                let mut datagram = packet.clone();
                if habit != Habit::BareHeartbeats {
                    framing.seal(&mut datagram, 0);
                }
                let _ = session.handle_datagram(now, datagram[..].into());
            }
            *at > now
        });
        session.handle_timeout(now);
    }
    sent
}

const TIME: Duration = Duration::from_secs(600);

/// Two sides that have each sent one message, which was acknowledged.
fn used() -> Link {
    let mut link = Link::plain();
    link.client.send(vec![1; 20].into()).unwrap();
    link.server().send(vec![1; 20].into()).unwrap();
    link.run(SECOND);
    assert_eq!(link.received.len(), 1);
    link
}

#[test]
fn a_side_with_nothing_to_say_stays_with_a_peer_that_answers_one_kind_of_packet_only() {
    for habit in [Habit::Heartbeats, Habit::NetStatus, Habit::Acknowledgements] {
        let link = used();
        let (framing, now) = (link.framing(), link.now);
        for mut session in [link.client, link.server.unwrap()] {
            let sent = live(&framing, &mut session, now, habit, Duration::ZERO);
            assert_eq!(session.closed(), None, "{habit:?}");
            assert!(sent < 600, "{sent} datagrams in ten minutes, {habit:?}");
        }
    }
}

#[test]
fn a_peer_that_answers_heartbeats_or_statistics_only_survives_an_outage() {
    for (habit, is_client) in [(Habit::Heartbeats, true), (Habit::NetStatus, true), (Habit::NetStatus, false)] {
        let link = used();
        let (framing, now) = (link.framing(), link.now);
        let mut session = if is_client { link.client } else { link.server.unwrap() };
        live(&framing, &mut session, now, habit, 19 * SECOND);
        assert_eq!(session.closed(), None, "{habit:?}");
    }
}

#[test]
fn a_peer_that_answers_nothing_or_without_a_checksum_has_proved_nothing() {
    for habit in [Habit::Nothing, Habit::BareHeartbeats] {
        let link = used();
        let (framing, now) = (link.framing(), link.now);
        for mut session in [link.client, link.server.unwrap()] {
            live(&framing, &mut session, now, habit, Duration::ZERO);
            let reason = session.closed().map(|closed| closed.reason);
            assert_eq!(reason, Some(DisconnectReason::Timeout), "{habit:?}");
        }
    }
}

#[test]
fn a_repeated_packet_that_asks_for_an_acknowledgement_is_no_message() {
    let mut link = used();
    link.run(60 * SECOND);
    // The server answers nothing but what is reliable.
    link.fate = Box::new(|to, _, datagram| {
        let passes = datagram[1] == if to == To::Server { 0x09 } else { 0x15 };
        passes.then_some(10 * MS)
    });
    link.run(60 * SECOND);
    let now = link.now;
    assert!(link.server().stats(now).duplicates > 0);
    assert_eq!((link.received.len(), link.client.is_connected()), (1, true));
}

#[test]
fn a_server_puts_off_no_heartbeat_of_a_client_that_sends_one_when_it_has_heard_nothing() {
    let Link { mut server, client, now: start, .. } = used();
    let framing = soe_core::Dialect::version3().framing(client.crc_seed(), 2, [0, 0]).unwrap();
    let server = server.as_mut().unwrap();
    let (mut now, mut heard) = (start, start);
    while now < start + TIME {
        let mut buf = Vec::new();
        while server.poll_transmit(now, &mut buf).is_some() {
            heard = now;
        }
        now = server.poll_timeout().unwrap().min(heard + 25 * SECOND + 10 * MS).max(now + MS);
        if now > heard + 25 * SECOND {
            let mut heartbeat = vec![0, 6];
            framing.seal(&mut heartbeat, 0);
            let _ = server.handle_datagram(now, heartbeat[..].into());
        }
        server.handle_timeout(now);
        assert_eq!(server.closed(), None);
    }
}
