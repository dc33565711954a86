//! Finds out how datagrams are framed when no handshake says so.

use bytes::Bytes;
use soe_core::framing::{Codec, FlagPosition, ZlibCodec};
use soe_core::wire::{MAX_NESTING, Packet, Payload, opcode};
use soe_core::{Dialect, Framing};

use super::solve;

/// What is known of a session's framing beforehand, from options. `None` is found out.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Given {
    /// The seed of the CRC and the XOR chain.
    pub seed: Option<u32>,
    /// Bytes of CRC, 0 to 4.
    pub crc_length: Option<u8>,
    /// The two passes.
    pub passes: Option<[u8; 2]>,
    /// A preset of [`Dialect`], for its codec.
    pub dialect: Option<Dialect>,
}

impl Given {
    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.seed.is_none() && self.crc_length.is_none() && self.passes.is_none() && self.dialect.is_none()
    }
}

/// How datagrams seem to be framed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Guess {
    /// The seed; `None` where nothing tells it. Datagrams are then cut by the length of the CRC, which is not checked.
    pub seed: Option<u32>,
    /// Bytes of CRC.
    pub crc_length: u8,
    /// The two passes.
    pub passes: [u8; 2],
    /// Whose codec it is.
    pub dialect: Dialect,
    /// What was found out, in words.
    pub notes: Vec<String>,
    /// How many of a hundred datagrams make sense to the last byte.
    pub percent: usize,
    /// Whether a checksum or enough structure confirms it.
    pub is_sure: bool,
    /// How well it explains the datagrams, to compare guesses.
    score: i64,
}

/// A datagram to find out from, and which side sent it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Sample<'a> {
    /// The side, 0 or 1.
    pub side: usize,
    /// The UDP payload.
    pub bytes: &'a [u8],
}

impl<'a> Sample<'a> {
    /// A sample.
    pub const fn new(side: usize, bytes: &'a [u8]) -> Self {
        Self { side, bytes }
    }
}

/// Passes that known games use, and whose codec.
const CANDIDATES: [([u8; 2], &str); 7] = [
    ([0, 0], "version3"),
    ([1, 0], "h1z1"),
    ([1, 0], "everquest-zone"),
    ([4, 0], "everquest-chat"),
    ([1, 4], "star-wars-galaxies"),
    ([1, 0], "star-wars-galaxies"),
    ([1, 4], "everquest-zone"),
];

/// The likeliest framing of these datagrams; `None` if there is no telling. Packets without a CRC are left aside.
pub fn infer(samples: &[Sample<'_>], given: &Given) -> Option<Guess> {
    let samples: Vec<_> = samples.iter().copied().filter(|sample| is_checked(sample.bytes)).collect();
    let datagrams: Vec<_> = samples.iter().map(|sample| sample.bytes).collect();
    if datagrams.is_empty() {
        return None;
    }
    let mut guesses = Vec::new();
    for (seed, crc_length, is_sure, note) in checksums(&datagrams, given) {
        for (passes, name) in candidates(given) {
            let Some(dialect) = given.dialect.clone().or_else(|| Dialect::by_name(name)) else { continue };
            // Without the seed the XOR chain cannot be undone.
            if seed.is_none() && passes.contains(&4) {
                continue;
            }
            let Some((score, percent)) = judge(&samples, seed, crc_length, passes, &dialect) else { continue };
            let notes = note.iter().cloned().collect();
            guesses.push(Guess { seed, crc_length, passes, dialect, notes, percent, is_sure, score });
        }
    }
    // The first of equals is the simplest.
    let mut best = guesses.iter().rev().max_by_key(|guess| guess.score)?.clone();
    let is_rivalled = guesses.iter().any(|guess| guess.passes != best.passes && guess.score >= best.score);
    let structure = best.percent >= 90 && samples.len() >= 8 && best.score > 2 * samples.len() as i64;
    best.is_sure = (best.is_sure || structure) && (!is_rivalled || given.passes.is_some());
    if given.passes.is_none() {
        let [first, second] = best.passes;
        best.notes.push(format!("passes {first}, {second} because {} % of the datagrams make sense", best.percent));
    }
    Some(best)
}

/// Whether a datagram carries CRC and passes.
pub(super) fn is_checked(datagram: &[u8]) -> bool {
    datagram.len() > 1 && opcode::of(datagram).is_none_or(|opcode| !opcode::is_exempt(opcode))
}

/// Seeds and CRC lengths that come into question, whether a checksum confirms them, and what to say about it.
type Checksum = (Option<u32>, u8, bool, Option<String>);

fn checksums(datagrams: &[&[u8]], given: &Given) -> Vec<Checksum> {
    if let (Some(seed), length) = (given.seed, given.crc_length) {
        let valid = |length: u8| solve::valid_under(datagrams, seed, length) * 10 >= datagrams.len() * 8;
        // The longest that holds: a shorter one is contained in none, so a match is no accident but at 1 byte.
        return match length.or_else(|| [4, 3, 2, 1].into_iter().find(|length| valid(*length))) {
            Some(length) => {
                let note = given.crc_length.is_none().then(|| format!("a CRC of {length} bytes holds under the seed"));
                vec![(Some(seed), length, length > 0 && valid(length), note)]
            }
            None => vec![(Some(seed), 0, false, Some("no CRC holds under the seed: taken for none".into()))],
        };
    }
    if given.crc_length != Some(0)
        && let Some((seed, length)) = solve::solve(datagrams, given.crc_length)
    {
        let note =
            format!("the seed {seed:08x} and a CRC of {length} bytes, from the checksums of {}", datagrams.len());
        return vec![(Some(seed), length, true, Some(note))];
    }
    let by_structure =
        |length| (None, length, false, Some(format!("a CRC of {length} bytes, by structure, unchecked")));
    match given.crc_length {
        Some(length) => vec![(None, length, false, None)],
        None => [2, 0, 4, 3, 1].map(by_structure).into(),
    }
}

fn candidates(given: &Given) -> Vec<([u8; 2], &'static str)> {
    let fits = |passes: [u8; 2]| given.passes.is_none_or(|given| given == passes);
    let known: Vec<_> = CANDIDATES.into_iter().filter(|(passes, _)| fits(*passes)).collect();
    match given.passes {
        Some(passes) if known.is_empty() => vec![(passes, "version3")],
        _ => known,
    }
}

/// How well the datagrams make sense so framed, in points and in hundredths of them.
fn judge(
    samples: &[Sample<'_>],
    seed: Option<u32>,
    crc_length: u8,
    passes: [u8; 2],
    dialect: &Dialect,
) -> Option<(i64, usize)> {
    let framing = dialect.framing(seed.unwrap_or(0), 0, passes).ok()?;
    let mut sequences = [[None::<u16>; 8]; 2];
    let (mut score, mut sound) = (0, 0);
    for sample in samples {
        let plain = sample.bytes.len().checked_sub(crc_length.into()).filter(|end| *end > 0).and_then(|end| {
            let bytes = &sample.bytes[..end];
            flag_fits(bytes, seed.unwrap_or(0), passes, dialect).then(|| framing.open(bytes.into()).ok())?
        });
        let points = plain.and_then(|plain| soundness(&plain, 0, &mut sequences[sample.side & 1]));
        sound += usize::from(points.is_some());
        score += points.unwrap_or(-4);
    }
    Some((score, sound * 100 / samples.len().max(1)))
}

/// Whether the flag of a user codec, where the passes name one, has one of its two values.
pub(super) fn flag_fits(bytes: &[u8], seed: u32, passes: [u8; 2], dialect: &Dialect) -> bool {
    let Some(Codec::Zlib(codec)) = &dialect.codecs[0] else { return true };
    let plain: Bytes = match passes {
        [1, 0] | [0, 1] => Bytes::copy_from_slice(bytes),
        [1, 4] => {
            let Ok(outer) = Framing::new(seed, 0, [0, 4], &dialect.codecs) else { return false };
            outer.open(bytes.into()).unwrap_or_default()
        }
        _ => return true,
    };
    let prefix = if plain.first() == Some(&0) { 2 } else { 1 };
    let body = plain.get(prefix..).unwrap_or_default();
    let flag = match codec.flag {
        FlagPosition::Leading => body.first(),
        FlagPosition::Trailing => body.last(),
    };
    flag.is_some_and(|flag| {
        if *flag != codec.deflated {
            return *flag == codec.raw;
        }
        // A zlib stream begins with 78 in every known game; 0 and 1 alone are common bytes.
        let stream = if codec.flag == FlagPosition::Leading { &body[1..] } else { body };
        *codec == ZlibCodec::EVERQUEST || stream.first() == Some(&0x78)
    })
}

/// Points for a packet that makes sense to its last byte; `None` for one that does not.
fn soundness(packet: &[u8], depth: usize, sequences: &mut [Option<u16>; 8]) -> Option<i64> {
    let exactly = |lengths: &[usize], points: i64| lengths.contains(&packet.len()).then_some(points);
    match Packet::decode(packet).ok()? {
        Packet::Data(_) => Some(0),
        Packet::Heartbeat => exactly(&[2], 2),
        Packet::Disconnect(_) => exactly(&[6, 8], 3),
        Packet::NetStatusRequest(_) | Packet::NetStatusResponse(_) => exactly(&[40], 10),
        Packet::Acknowledge(_) | Packet::AcknowledgeAll(_) => exactly(&[4], 4),
        Packet::Ordered(_) => Some(1),
        Packet::Reliable(reliable) => {
            let payload = match Payload::classify(reliable.payload) {
                Payload::Message(_) => 1,
                Payload::Group(group) => group.elements().all(|element| element.is_ok()).then_some(3)?,
            };
            Some(payload + continuity(&mut sequences[reliable.channel.index()], reliable.sequence))
        }
        Packet::Fragment(fragment) => {
            Some(1 + continuity(&mut sequences[4 + fragment.channel.index()], fragment.sequence))
        }
        Packet::Multi(multi) if depth < MAX_NESTING => {
            // An empty piece is legal and nobody sends one: it may be a flag.
            let mut points = if multi.body().first() == Some(&0) { -3 } else { 0 };
            let mut pieces = 0;
            for piece in multi.pieces() {
                points += soundness(piece.ok()?, depth + 1, sequences)?;
                pieces += 1;
            }
            (pieces > 1).then_some(points + 2)
        }
        Packet::Group(group) => group.elements().all(|element| element.is_ok()).then_some(0),
        _ => None,
    }
}

/// Sequence numbers that follow each other speak for a reading, others against it.
fn continuity(last: &mut Option<u16>, sequence: u16) -> i64 {
    match last.replace(sequence) {
        // One that stands still may be a flag and half of a sequence number.
        None => 0,
        Some(last) if last == sequence => 0,
        Some(last) if (sequence.wrapping_sub(last) as i16).unsigned_abs() <= 1000 => 2,
        Some(_) => -3,
    }
}
