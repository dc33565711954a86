//! Lengths that a peer chooses, and what must hold whatever it says.

use std::{sync::Arc, time::Instant};

use soe_core::{
    Dialect, DisconnectReason, Endpoint, Message, NegotiationError, Pass, ReliableChannel, Session, SessionConfig,
    SessionConfigBuilder,
    framing::{Codec, CodecError, UserCodec},
    wire::{Packet, SessionRequest},
};

use super::manual_peer::{ID, ManualPeer, config, payload};

/// A codec that makes every body longer by so much.
#[derive(Debug)]
struct Longer(usize);

impl UserCodec for Longer {
    fn growth(&self) -> usize {
        self.0
    }

    fn encode(&self, body: &[u8], out: &mut Vec<u8>) {
        out.resize(self.0, 0);
        out.extend_from_slice(body);
    }

    fn decode(&self, body: &[u8], out: &mut Vec<u8>, _: usize) -> Result<(), CodecError> {
        out.extend_from_slice(body.get(self.0..).ok_or(CodecError::Malformed)?);
        Ok(())
    }
}

fn longer(growth: usize) -> SessionConfigBuilder {
    let dialect = Dialect::version3().with_codec(Codec::Custom(Arc::new(Longer(growth))));
    SessionConfig::with_dialect(dialect).protocol_name("Trap".into()).refusal_grace(std::time::Duration::ZERO)
}

#[test]
fn a_message_of_one_packet_over_the_limit_is_never_delivered() {
    let limited = || config().max_message_size(100);
    for length in [101, 164, 165, 400] {
        let mut peer = ManualPeer::connected(limited());
        // One that no transform can have made longer is refused each time that it comes; two lengths vouch for it.
        for length in [length, length, length + 2] {
            peer.data(0, &payload(length));
            assert_eq!(peer.messages(), [[0; 0]; 0], "{length} bytes");
        }
        assert_eq!(peer.session.closed().unwrap().reason, DisconnectReason::CorruptPacket, "{length} bytes");
    }
    let mut peer = ManualPeer::connected(limited());
    let mut group = vec![0, 0x19, 100];
    group.extend_from_slice(&payload(100));
    group.push(101);
    group.extend_from_slice(&payload(101));
    peer.data(0, &payload(100));
    peer.data(1, &group);
    assert_eq!(peer.messages(), [payload(100), payload(100)], "what is within the limit");
    assert_eq!(peer.session.closed().unwrap().reason, DisconnectReason::CorruptPacket);
}

#[test]
fn an_escape_does_not_count_against_the_limit() {
    let mut peer = ManualPeer::connected(config().max_message_size(3));
    peer.data(0, &[0, 0, 5, 6]);
    assert_eq!(peer.messages(), [[0, 5, 6]]);
}

#[test]
fn an_unreliable_message_over_the_limit_is_dropped_and_counted() {
    let mut peer = ManualPeer::connected(config().max_message_size(100));
    for length in [101, 100, 400] {
        peer.say_bytes(payload(length));
    }
    assert_eq!(peer.messages(), [payload(100)]);
    assert_eq!(peer.session.stats(peer.now).oversized_dropped, 2);
    assert_eq!(peer.session.closed(), None);
}

#[test]
fn whatever_a_codec_adds_a_client_works_or_says_why_not() {
    let (mut worked, mut refused) = (0, 0);
    for growth in 0..=80 {
        let mut peer = ManualPeer {
            session: Session::connect(Instant::now(), longer(growth).build().unwrap(), ID),
            ..ManualPeer::connected(config())
        };
        let _ = peer.taken_bare();
        peer.bare(&peer.response(64, 2, [1, 0]));
        if let Some(closed) = peer.session.closed() {
            let overhead = 2 + growth;
            assert_eq!(closed.negotiation, Some(NegotiationError::TooSmall { udp_length: 64, overhead }));
            assert!(64 - 40 < overhead, "growth {growth} leaves room");
            refused += 1;
            continue;
        }
        let channels = ReliableChannel::ALL.map(|channel| Message::new(channel, payload(300)));
        channels.into_iter().for_each(|message| peer.send(message));
        peer.send(Message::unreliable(payload(3)));
        let sent = peer.taken_bare();
        assert!(sent.len() > 4 * 300 / 64 && sent.len() < 4 * 300, "growth {growth}: {} datagrams", sent.len());
        assert!(sent.iter().all(|datagram| datagram.len() <= 64), "growth {growth}");
        worked += 1;
    }
    assert!(worked > 20 && refused > 50, "{worked} worked, {refused} were refused");
}

#[test]
fn a_server_refuses_a_udp_length_that_leaves_no_room() {
    let config = longer(100).passes([Pass::UserCodec, Pass::None]).build().unwrap();
    for (udp_length, fits) in [(64, false), (141, false), (142, true), (512, true)] {
        let now = Instant::now();
        let mut endpoint = Endpoint::new(now, config.clone().into(), [1; 16]);
        let mut request = Vec::new();
        let protocol_name = Some(&b"Trap"[..]);
        Packet::SessionRequest(SessionRequest { version: 3, session_id: ID, udp_length, protocol_name })
            .encode(&mut request);
        endpoint.handle_datagram(now, std::net::SocketAddr::from(([192, 0, 2, 1], 7)).into(), request[..].into());
        assert!(endpoint.poll_action().is_some(), "it is answered");
        assert_eq!(endpoint.stats().admission.mismatched, u64::from(!fits), "{udp_length}");
    }
}
