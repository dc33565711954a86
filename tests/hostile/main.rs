//! Strangers against live sessions: nothing that anybody sends who does not know a session's seed has an effect on it,
//! beyond counters (section 10 of `docs/protocol.md`).
//!
//! Two worlds live the same life, one of them under attack. What leaves, what is delivered, every event, every timer, the
//! memory and the statistics must be the same, step by step. `SOE_HOSTILE=10000000 cargo test --release --test hostile`
//! sends as many forged datagrams.

mod forge;
mod guesses;
mod hits;
mod provoked;
mod rng;
#[path = "../common/server.rs"]
mod server;
mod world;

use std::time::{Duration, Instant};

use soe_core::{Framing, Pass, SessionConfig, SessionConfigBuilder, wire::opcode};

use self::{
    forge::{Forger, KINDS},
    world::{Script, Side, Situation, Trace, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// Forged datagrams over all tests of this file.
fn forged_in_all() -> u64 {
    std::env::var("SOE_HOSTILE").ok().and_then(|number| number.parse().ok()).unwrap_or(400_000)
}

/// A session is negotiated, carries traffic, and is closed by the client in the midst of it.
const WHOLE_LIFE: Script = Script {
    reachable: Duration::from_millis(800),
    close: Duration::from_secs(4),
    silence: Duration::from_secs(1_000),
    end: Duration::from_secs(8),
};
/// The link goes dead: the session must end by itself, and not one moment later for what strangers send.
const SILENCE: Script = Script {
    reachable: Duration::ZERO,
    close: Duration::from_secs(1_000),
    silence: Duration::from_secs(2),
    end: Duration::from_secs(40),
};
/// Nobody answers.
const NO_SERVER: Script = Script { reachable: Duration::from_secs(1_000), end: Duration::from_secs(12), ..SILENCE };

pub(crate) fn config() -> SessionConfigBuilder {
    SessionConfig::builder("Test")
}

/// What one attack came to.
#[derive(Debug, Default)]
struct Outcome {
    forged: u64,
    /// Forged datagrams that happened to have a right CRC, and were not sent.
    lucky: u64,
    kinds: [u64; KINDS],
    provoked: usize,
    /// Questions to a silent client, and times that whoever is at its address was told that it is unknown.
    probes: usize,
    told: usize,
}

/// Lives the same life twice, once under attack, and compares.
fn attack(config: &SessionConfig, script: Script, situation: Situation, seed: u64, forged: u64) -> Outcome {
    let start = Instant::now();
    let mut quiet = World::in_situation(start, config, script, situation, seed);
    let mut attacked = World::in_situation(start, config, script, situation, seed);
    let mut forger = Forger::new(!seed);
    let mut outcome = Outcome::default();
    let steps = script.end.as_millis() as u64 / world::STEP.as_millis() as u64;
    let mut was_silent = false;
    for step in 0..steps {
        let framing = attacked.framing();
        while outcome.forged < forged * (step + 1) / steps {
            let side = if forger.rng.one_in(2) { Side::Client } else { Side::Server };
            let datagram = forger.forge(side);
            outcome.forged += 1;
            if is_valid(framing.as_ref(), &datagram) {
                outcome.lucky += u64::from(!forger.seen.contains(&datagram));
            } else {
                // Nothing proves anything; without a session the server has nothing to be harmed yet, and tells so. An ended
                // session stops repeating that it has ended for whoever asks for another one: see the tests of reconnects.
                let has_ended = attacked.session().is_some_and(|session| session.closed().is_some());
                let silences = has_ended && opcode::of(&datagram) == Some(opcode::SESSION_REQUEST);
                if side == Side::Client || (attacked.session().is_some() && !silences) {
                    let from = attacked.some_address(&mut forger.rng);
                    assert!(!attacked.inject(side, from, &datagram), "{datagram:x?} passed for authentic");
                }
            }
        }
        was_silent |= attacked.is_silent();
        let (expected, found) = (quiet.step(), attacked.step());
        if was_silent {
            // The client is asked whether it lives. What ends, when, and what is delivered is the same.
            assert_eq!((&expected.events, expected.ended), (&found.events, found.ended), "at step {step}");
            assert_eq!(expected.delivered, found.delivered, "what was delivered at step {step}");
        } else {
            assert_same(&expected, &found, step);
        }
        // Whoever has seen the response to a request, or a claim to have moved, is no stranger: it has the seed.
        let seen = expected.sent.iter().filter(|(_, datagram)| !tells_the_seed(datagram));
        seen.for_each(|(_, datagram)| forger.watch(datagram));
    }
    assert!(quiet.is_over());
    outcome.kinds = forger.counts;
    outcome.provoked = attacked.provoked - quiet.provoked;
    (outcome.probes, outcome.told) = (attacked.probes, attacked.told);
    assert!(outcome.probes <= 2 && outcome.told <= script.end.as_secs() as usize / 5, "{outcome:?}");
    outcome
}

/// Whether the datagram would be taken for the peer's, by chance or because it is the peer's own, sent again.
fn is_valid(framing: Option<&Framing>, datagram: &[u8]) -> bool {
    let exempt = opcode::of(datagram).is_some_and(opcode::is_exempt);
    !exempt && framing.is_some_and(|framing| framing.verify(datagram))
}

fn tells_the_seed(datagram: &[u8]) -> bool {
    matches!(opcode::of(datagram), Some(opcode::SESSION_RESPONSE | opcode::REMAP_CONNECTION))
}

fn assert_same(expected: &Trace, found: &Trace, step: u64) {
    assert_eq!(expected.sent, found.sent, "what left at step {step}");
    assert_eq!(expected.delivered, found.delivered, "what was delivered at step {step}");
    assert_eq!(expected, found, "at step {step}");
}

#[test]
fn no_forged_datagram_has_an_effect_whatever_the_session_is_doing() {
    let zlib = || config().compression(true);
    let configs = [
        ("crc 2", config().crc_length(2)),
        ("crc 4", config().crc_length(4)),
        ("crc 2, zlib", zlib().crc_length(2)),
        ("crc 4, zlib", zlib().crc_length(4)),
        ("crc 2, xor", config().passes([Pass::Xor, Pass::None])),
        ("crc 4, zlib and xor", config().crc_length(4).passes([Pass::UserCodec, Pass::Xor])),
    ];
    use Situation::{Accepted, Closing, Full, Moving, Queued};
    let lives = [
        (WHOLE_LIFE, Accepted),
        (SILENCE, Accepted),
        (NO_SERVER, Accepted),
        (WHOLE_LIFE, Queued),
        (WHOLE_LIFE, Full),
        (WHOLE_LIFE, Closing),
        (WHOLE_LIFE, Moving),
    ];
    // A guess that opens a session at a vacant address is possible where the CRC is short; its price is told elsewhere.
    let suits = |config: &SessionConfig, situation| situation != Moving || config.crc_length == 4;
    let configs = configs.map(|(name, config)| (name, config.build().unwrap()));
    let attacks: Vec<_> = (1..)
        .zip(&configs)
        .flat_map(|(seed, (name, config))| lives.map(|(script, situation)| (seed, *name, config, script, situation)))
        .filter(|(_, _, config, _, situation)| suits(config, *situation))
        .collect();
    let each = forged_in_all().div_ceil(attacks.len() as u64);
    let (mut forged, mut lucky) = (0, 0);
    for (seed, name, config, script, situation) in attacks {
        let outcome = attack(config, script, situation, seed, each);
        println!("{name}, {situation:?}: {outcome:?}");
        forged += outcome.forged;
        lucky += outcome.lucky;
        assert!(outcome.kinds.iter().all(|&count| count > each / KINDS as u64 / 2), "{:?}", outcome.kinds);
    }
    println!("{forged} forged datagrams without an effect, and {lucky} that hit a CRC by chance and were held back");
    assert!(forged >= forged_in_all());
    // Half of the datagrams need a CRC and half of the sessions have 2 bytes of it; damage that repairs itself adds a few.
    assert!(lucky as f64 <= forged as f64 / 65_536.0 + 5.0 * (forged as f64 / 65_536.0).sqrt() + 10.0, "{lucky} hits");
}

#[test]
fn a_guess_succeeds_as_often_as_the_arithmetic_says() {
    for (crc_length, odds) in [(1, 256.0), (2, 65_536.0)] {
        let guesses = 400_000;
        let framing = Framing::new(0x1234_5678, crc_length, [0, 0], &soe_core::Dialect::version3().codecs).unwrap();
        let mut rng = rng::Rng::new(7);
        let lucky = (0..guesses).filter(|_| framing.verify(&rng.bytes(20))).count() as f64;
        let expected = f64::from(guesses) / odds;
        assert!((lucky - expected).abs() < 5.0 * expected.sqrt(), "CRC length {crc_length}: {lucky} of {expected}");
    }
}

#[test]
fn the_worlds_do_what_their_scripts_say() {
    let config = config().build().unwrap();
    for (script, ends) in [(WHOLE_LIFE, 4 * SECOND), (SILENCE, 31 * SECOND), (NO_SERVER, 10 * SECOND)] {
        let start = Instant::now();
        let mut world = World::new(start, &config, script, 3);
        let mut delivered = 0;
        while !world.is_over() {
            delivered += world.step().delivered.len();
            let due = world.now - start >= ends;
            assert!(due || world.client.closed().is_none(), "{script:?} {:?}", world.now - start);
        }
        assert!(world.client.closed().is_some(), "{script:?}");
        assert!(delivered > 100 || script.reachable > SECOND, "{delivered}");
    }
}
