//! What a lucky guess can reach: less than 32 bits of proof end nothing.

use std::time::Instant;

use bytes::BytesMut;
use soe_core::{DisconnectReason, SessionConfig};

use crate::{
    config, forged_in_all,
    provoked::request,
    rng::Rng,
    world::{Script, World},
};

const CALM: Script = Script { close: crate::SILENCE.close, silence: crate::WHOLE_LIFE.silence, ..crate::SILENCE };

/// A world whose session is open.
pub(crate) fn open(config: &SessionConfig) -> World {
    let mut world = World::new(Instant::now(), config, CALM, 1);
    while !world.client.is_connected() || world.session().is_none() {
        let _ = world.step();
    }
    world
}

/// A packet that no honest peer sends, with a right CRC: what a guess would have to hit.
fn corrupt(world: &World, length: usize) -> BytesMut {
    let mut datagram = vec![0, 3, 200];
    datagram.resize(length, 1);
    world.framing().unwrap().seal(&mut datagram, 0);
    BytesMut::from(&datagram[..])
}

fn hit(world: &mut World, length: usize) {
    let (now, datagram) = (world.now, corrupt(world, length));
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
        for length in (5..).step_by(2).take(needed - 1) {
            for _ in 0..5 {
                hit(&mut world, length);
                assert_eq!(reason(&world), None, "CRC length {crc_length}, {length} bytes");
            }
        }
        hit(&mut world, 5 + 2 * needed);
        assert_eq!(reason(&world), Some(DisconnectReason::CorruptPacket), "CRC length {crc_length}");
    }
}

#[test]
fn hits_among_misses_close_nothing() {
    let mut world = open(&config().build().unwrap());
    for n in 0..100 {
        hit(&mut world, 5 + n);
        miss(&mut world);
        assert_eq!(reason(&world), None);
    }
    let stats = world.session().unwrap().stats(world.now);
    assert_eq!((stats.malformed, stats.crc_rejects), (100, 100));
}

#[test]
fn guesses_at_the_address_of_a_live_session_hit_as_often_as_the_arithmetic_says_and_replace_nobody() {
    for (crc_length, odds) in [(1, 256.0), (2, 65_536.0)] {
        let mut world = open(&config().crc_length(crc_length).build().unwrap());
        let (now, guesses, mut rng) = (world.now, forged_in_all(), Rng::new(5));
        // So many are remembered of one address: each guess is held against the seeds of four requests.
        (1..=9).for_each(|id| world.server.handle(now, World::address(), &request(id)));
        for _ in 0..guesses {
            let guess = [&[0, 6][..], &rng.bytes(usize::from(crc_length))].concat();
            world.server.handle(now, World::address(), &guess);
        }
        let (hits, expected) = (world.server.endpoint.stats().admission.more_proof_wanted, 4.0 * guesses as f64 / odds);
        println!("CRC length {crc_length}: {guesses} guesses, {hits} hits, {expected:.0} expected");
        // One in `odds` hits the session itself.
        assert!((hits as f64 - expected).abs() < 5.0 * expected.sqrt() + expected / 100.0, "{hits} of {expected}");
        assert_eq!(world.server.endpoint.stats().replaced, 0);
        assert!(world.session().is_some_and(|session| session.closed().is_none()));
    }
}
