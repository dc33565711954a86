//! Messages that can be made again from where they were sent: who, on which channel, which one.

use bytes::Bytes;
use soe_core::Channel;

use super::rng::{Rng, mix};

/// How long messages are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sizes {
    Fixed(usize),
    Range(usize, usize),
    /// Every order of magnitude up to this is equally likely.
    Orders(usize),
}

impl Sizes {
    fn draw(self, rng: &mut Rng) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Range(low, high) => rng.size(low, high),
            Self::Orders(most) => {
                let bits = rng.range(0, u64::from(most.ilog2()));
                rng.size(1, (1 << bits).min(most))
            }
        }
    }

    pub(crate) fn most(self) -> usize {
        match self {
            Self::Fixed(size) | Self::Range(_, size) | Self::Orders(size) => size,
        }
    }
}

/// A channel's place in tables.
pub(crate) fn index(channel: Channel) -> usize {
    match channel {
        Channel::Reliable(channel) => channel.index(),
        Channel::Unreliable => 4,
        Channel::Ordered => 5,
        Channel::Ordered2 => 6,
    }
}

/// Beginnings that mean something elsewhere on the wire.
const LEADS: [&[u8]; 8] =
    [&[0], &[0, 0], &[0, 0x19], &[0, 0x19, 2, 1], &[0, 9, 0, 0], &[0, 3, 1, 0], &[0, 0, 0x19], &[0xFF, 0xFF]];

/// The bytes of an unreliable message that tell which one it is: two to begin with, four of number.
pub(crate) const NUMBERED: usize = 6;

/// The message that this side sends as the n-th on this channel. `leads`: some begin like packets.
pub(crate) fn message(side: u64, channel: Channel, n: u64, sizes: Sizes, leads: bool) -> Bytes {
    let mut rng = Rng::of(side ^ mix(index(channel) as u64 + 1), n);
    let mut message = vec![0; sizes.draw(&mut rng).max(if channel.is_reliable() { 1 } else { NUMBERED })];
    fill(&mut message, &mut rng);
    if channel.is_reliable() {
        if message.len() >= RELIABLE_NUMBERED {
            message[4..12].copy_from_slice(&n.to_be_bytes());
        }
        if rng.chance(0.2) && leads {
            let lead = rng.pick(&LEADS);
            let length = lead.len().min(message.len());
            message[..length].copy_from_slice(&lead[..length]);
        } else if message[0] == 0 {
            message[0] = 1;
        }
    } else {
        message[0] = if leads { rng.pick(&[0, 0, 7, 255]) } else { 7 };
        message[1] = rng.pick(&[0, 3, 9, 0x19, 0x1D, 200]);
        message[2..NUMBERED].copy_from_slice(&(n as u32).to_be_bytes());
    }
    message.into()
}

/// The least length of reliable messages that tell which one they are.
pub(crate) const RELIABLE_NUMBERED: usize = 17;

/// Which message this claims to be, where the order of arrival does not tell.
pub(crate) fn number(channel: Channel, message: &[u8]) -> Option<u64> {
    let bytes = message.get(if channel.is_reliable() { 4..12 } else { 2..NUMBERED })?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Random bytes, or some that can be compressed.
fn fill(message: &mut [u8], rng: &mut Rng) {
    match rng.below(3) {
        0 => message.fill(rng.next() as u8),
        1 => {
            let word = rng.next().to_le_bytes();
            for (n, byte) in message.iter_mut().enumerate() {
                *byte = word[n % 8] ^ (n >> 5) as u8;
            }
        }
        _ => {
            for chunk in message.chunks_mut(8) {
                let length = chunk.len();
                chunk.copy_from_slice(&rng.next().to_le_bytes()[..length]);
            }
        }
    }
}

/// The key to use behind this message, if it announces one: `Some(None)` switches encryption off.
pub(crate) fn key_behind(side: u64, channel: Channel, n: u64) -> Option<Option<[u8; 16]>> {
    let mut rng = Rng::of(side ^ 0x6B65_7973, n * 8 + index(channel) as u64);
    rng.chance(0.15).then(|| {
        rng.chance(0.8).then(|| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&rng.next().to_le_bytes());
            key[8..].copy_from_slice(&rng.next().to_le_bytes());
            key
        })
    })
}
