//! What one datagram with a right CRC reaches that tries as many sequences as it has room for: how many of them do harm is
//! what `SECURITY.md` reckons with.

use soe_core::{
    ReliableChannel, SessionConfig, SessionStats,
    wire::{Acknowledge, ReliableData},
};

use crate::{config, guesses::open, rng::Rng, world::World};

const HITS: u32 = 2_048;
/// Packets that a datagram of 512 bytes has room for, about.
const TRIED: u16 = 60;
/// The farthest that a packet may be from the newest one held, and the farthest of one datagram from each other.
const WINDOW: f64 = 256.0;

/// A world somewhere in the midst of its life.
fn somewhere(config: &SessionConfig, rng: &mut Rng) -> World {
    let mut world = open(config);
    for _ in 0..200 + rng.below(200) {
        let _ = world.step();
    }
    world
}

/// Hits the server's session with packets `step` sequences apart, from anywhere on, and tells how many of the hits did
/// something.
fn harm(packet: fn(u16, &mut Vec<u8>), step: u16, has_happened: fn(&SessionStats, &SessionStats) -> bool) -> u32 {
    let (config, mut rng) = (config().build().unwrap(), Rng::new(u64::from(step)));
    let mut world = somewhere(&config, &mut rng);
    let mut harmed = 0;
    for _ in 0..HITS {
        let (now, first) = (world.now, rng.word() as u16);
        let mut datagram = vec![0, 3];
        for n in 0..TRIED {
            let mut piece = Vec::new();
            packet(first.wrapping_add(n.wrapping_mul(step)), &mut piece);
            datagram.push(piece.len() as u8);
            datagram.extend(piece);
        }
        world.framing().expect("an open session").seal(&mut datagram, 0);
        assert!(datagram.len() <= config.udp_length as usize);
        let miss = [0, 6, datagram[0], !datagram[1]];
        world.server.handle(now, World::address(), &miss);
        let before = world.session().expect("open").stats(now);
        world.server.handle(now, World::address(), &datagram);
        let after = world.session().expect("open").stats(now);
        assert_eq!(after.datagrams_authentic, before.datagrams_authentic + 1);
        assert!(world.session().expect("open").closed().is_none(), "one hit ends nothing");
        if has_happened(&before, &after) {
            harmed += 1;
            world = somewhere(&config, &mut rng);
        }
        let _ = world.step();
    }
    harmed
}

/// At most as many as that do harm, where so many sequences are taken for good and a datagram reaches 256 to either side.
fn assert_rare(what: &str, harmed: u32, taken: f64) {
    let most = f64::from(HITS) * (taken + 2.0 * WINDOW) / 65_536.0;
    println!("{what}: {harmed} of {HITS} hits do harm, at most {most:.0} expected");
    assert!(f64::from(harmed) <= most + 4.0 * most.sqrt(), "{what}: {harmed} of {HITS}, {most:.0} expected");
}

#[test]
fn a_hit_that_tries_many_sequences_reaches_a_stream_hardly_more_often_than_one_that_tries_one() {
    let packet = |sequence, out: &mut Vec<u8>| {
        ReliableData { channel: ReliableChannel::ZERO, sequence, payload: b"7" }.encode(out);
    };
    let is_taken = |before: &SessionStats, after: &SessionStats| {
        (before.out_of_order, before.unread_bytes) != (after.out_of_order, after.unread_bytes)
    };
    for step in [1, 8, 256, 1_092] {
        assert_rare(&format!("data, {step} apart"), harm(packet, step, is_taken), WINDOW);
    }
}

#[test]
fn a_hit_that_acknowledges_many_sequences_finds_one_under_way_hardly_more_often_than_one_that_names_one() {
    let packet = |sequence, out: &mut Vec<u8>| Acknowledge { channel: ReliableChannel::ZERO, sequence }.encode(out);
    let is_taken = |before: &SessionStats, after: &SessionStats| before.in_flight_bytes != after.in_flight_bytes;
    for step in [1, 8, 256, 1_092] {
        // Some dozens of packets are under way in these worlds.
        assert_rare(&format!("acknowledgements, {step} apart"), harm(packet, step, is_taken), WINDOW);
    }
}
