//! What a lucky guess can reach: less than 32 bits of proof end nothing.

use std::time::Instant;

use bytes::BytesMut;
use soe_core::{Admission, Admit, Dialect, DisconnectReason, Framing, Session, SessionConfig, wire::SessionResponse};

use crate::{
    config,
    world::{Script, World},
};

const CALM: Script = Script { close: crate::SILENCE.close, silence: crate::WHOLE_LIFE.silence, ..crate::SILENCE };

/// A world whose session is open.
fn open(config: &SessionConfig) -> World {
    let mut world = World::new(Instant::now(), config, CALM, 1);
    while !world.client.is_connected() || world.server.is_none() {
        let _ = world.step();
    }
    world
}

/// A packet that no honest peer sends, with a right CRC: what a guess would have to hit.
fn corrupt(world: &World) -> BytesMut {
    let mut datagram = vec![0, 3, 200, 1, 2];
    world.framing().unwrap().seal(&mut datagram, 0);
    BytesMut::from(&datagram[..])
}

fn hit(world: &mut World) {
    let (now, datagram) = (world.now, corrupt(world));
    let _ = world.server.as_mut().unwrap().handle_datagram(now, datagram);
}

fn miss(world: &mut World) {
    let now = world.now;
    let _ = world.server.as_mut().unwrap().handle_datagram(now, BytesMut::from(&[0, 3, 200, 1, 2, 0, 0, 0, 0][..]));
}

fn reason(world: &World) -> Option<DisconnectReason> {
    world.server.as_ref().unwrap().closed().map(|closed| closed.reason)
}

#[test]
fn a_corrupt_datagram_is_believed_once_four_bytes_of_crc_vouch_for_it() {
    for (crc_length, needed) in [(1, 4), (2, 2), (3, 2), (4, 1)] {
        let mut world = open(&config().crc_length(crc_length).build().unwrap());
        for n in 0..needed {
            assert_eq!(reason(&world), None, "CRC length {crc_length}, {n} times");
            hit(&mut world);
        }
        assert_eq!(reason(&world), Some(DisconnectReason::CorruptPacket), "CRC length {crc_length}");
    }
}

#[test]
fn hits_among_misses_close_nothing() {
    let mut world = open(&config().build().unwrap());
    for _ in 0..100 {
        hit(&mut world);
        miss(&mut world);
        assert_eq!(reason(&world), None);
    }
    let stats = world.server.as_ref().unwrap().stats(world.now);
    assert_eq!((stats.malformed, stats.crc_rejects), (100, 100));
}

/// Asks for a session in the name of the world's client, and reads what the client would: how to seal datagrams for it.
fn ask(now: Instant, admission: &mut Admission, config: &SessionConfig, session_id: u32) -> Framing {
    let mut request = Session::connect(now, config.clone(), session_id);
    let mut datagram = Vec::new();
    let _ = request.poll_transmit(now, &mut datagram).unwrap();
    assert!(matches!(admission.handle_returned(now, World::address(), datagram[..].into()), Admit::Answered));
    let mut answer = Vec::new();
    let _ = admission.poll_transmit(&mut answer).unwrap();
    let Ok(soe_core::wire::Packet::SessionResponse(SessionResponse { crc_seed, crc_length, passes, .. })) =
        soe_core::wire::Packet::decode(&answer)
    else {
        panic!("no response: {answer:x?}")
    };
    Framing::new(crc_seed, crc_length, passes, &config.dialect.codecs).unwrap()
}

fn sealed(framing: &Framing) -> BytesMut {
    let mut datagram = vec![0, 6];
    framing.seal(&mut datagram, 0);
    BytesMut::from(&datagram[..])
}

#[test]
fn a_live_session_is_replaced_only_by_someone_who_has_proved_the_address_with_four_bytes() {
    let config = config().build().unwrap();
    let mut world = open(&config);
    let now = world.now;
    let framing = ask(now, &mut world.admission, &config, 77);
    let mut present = |datagram| world.admission.handle_returned(now, World::address(), datagram);
    assert!(matches!(present(sealed(&framing)), Admit::Dropped));
    assert!(matches!(present(BytesMut::from(&[0, 6, 1, 1][..])), Admit::Dropped));
    assert!(matches!(present(sealed(&framing)), Admit::Dropped), "a miss in between makes the hit before it worthless");
    assert!(matches!(present(sealed(&framing)), Admit::Opened(_)));
    assert_eq!(world.admission.stats().more_proof_wanted, 2);
}

#[test]
fn an_address_without_a_session_needs_one_datagram() {
    let config = config().build().unwrap();
    let now = Instant::now();
    let mut admission = Admission::new(now, config.clone().into(), [1; 16]);
    let framing = ask(now, &mut admission, &config, 77);
    assert!(matches!(admission.handle_datagram(now, World::address(), sealed(&framing)), Admit::Opened(_)));
}

#[test]
fn a_request_in_a_clients_name_does_not_open_a_session_where_the_server_speaks_first() {
    let config = SessionConfig::with_dialect(Dialect::everquest2()).build().unwrap();
    let now = Instant::now();
    let mut admission = Admission::new(now, config.clone().into(), [1; 16]);
    let mut request = Session::connect(now, config.clone(), 1);
    let mut datagram = Vec::new();
    let _ = request.poll_transmit(now, &mut datagram).unwrap();
    let first = admission.handle_datagram(now, World::address(), datagram[..].into());
    assert!(matches!(first, Admit::Opened(_)), "the dialect opens with the response: {first:?}");
    let _ = ask(now, &mut admission, &config, 2);
    assert_eq!(admission.stats().opened, 1);
    assert_eq!(admission.stats().opening_deferred, 1);
}

#[test]
fn forged_datagrams_between_request_and_first_datagram_do_not_keep_a_newcomer_out() {
    let config = config().build().unwrap();
    for forged in [0, 15, 16, 1_000u32] {
        let now = Instant::now();
        let mut admission = Admission::new(now, config.clone().into(), [1; 16]);
        let framing = ask(now, &mut admission, &config, 77);
        for n in 0..forged {
            let mut datagram = vec![0, 6];
            datagram.extend(n.to_be_bytes());
            let _ = admission.handle_datagram(now, World::address(), datagram[..].into());
        }
        // Once somebody seems to be guessing, one more is wanted.
        for _ in 0..u32::from(forged >= 15) {
            let verdict = admission.handle_datagram(now, World::address(), sealed(&framing));
            assert!(matches!(verdict, Admit::Dropped), "{verdict:?} after {forged}");
            let _ = admission.handle_datagram(now, World::address(), BytesMut::from(&[0, 6, 0, 0, 9][..]));
        }
        let verdict = admission.handle_datagram(now, World::address(), sealed(&framing));
        assert!(matches!(verdict, Admit::Opened(_)), "{verdict:?} after {forged}");
    }
}
