//! What a lucky guess can reach: less than 32 bits of proof end nothing.

use std::time::Instant;

use bytes::BytesMut;
use soe_core::{DisconnectReason, SessionConfig};

use crate::{
    config,
    world::{Script, World},
};

const CALM: Script = Script { close: crate::SILENCE.close, silence: crate::WHOLE_LIFE.silence, ..crate::SILENCE };

/// A world whose session is open.
fn open(config: &SessionConfig) -> World {
    let mut world = World::new(Instant::now(), config, CALM, 1);
    while !world.client.is_connected() || world.session().is_none() {
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
    let _ = world.session_mut().unwrap().handle_datagram(now, datagram);
}

fn miss(world: &mut World) {
    let now = world.now;
    let _ = world.session_mut().unwrap().handle_datagram(now, BytesMut::from(&[0, 3, 200, 1, 2, 0, 0, 0, 0][..]));
}

fn reason(world: &World) -> Option<DisconnectReason> {
    world.session().unwrap().closed().map(|closed| closed.reason)
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
    let stats = world.session().unwrap().stats(world.now);
    assert_eq!((stats.malformed, stats.crc_rejects), (100, 100));
}
