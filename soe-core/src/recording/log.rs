//! The entries of a recording's log: how they are written and read.
//!
//! ```text
//! entry   tag (1 byte) | fields of the tag
//! time    nanoseconds since the entry before, zigzag and LEB128
//! number  LEB128
//! bytes   length (number) | bytes
//! ```
//!
//! Entries of calls are followed by the entries of what came of them.

use std::net::SocketAddr;

use crate::message::{Channel, ReliableChannel};

/// The version of the log's entries. A reader refuses others.
pub(crate) const VERSION: u8 = 2;

/// What the log begins with: [`super::start`].
pub(crate) const START: u8 = 1;
/// Time, bytes: a datagram was passed in.
pub(crate) const DATAGRAM: u8 = 2;
/// Outcome: what the datagram was found to be, if it was not authentic.
pub(crate) const OUTCOME: u8 = 3;
/// Time.
pub(crate) const TIMEOUT: u8 = 4;
/// Time: an ICMP error.
pub(crate) const UNREACHABLE: u8 = 5;
/// Time: the peer has moved.
pub(crate) const REMAP: u8 = 6;
/// The peer is asked for a sign of life.
pub(crate) const ASK_FOR_LIFE: u8 = 7;
/// Channel, bytes: a message to send.
pub(crate) const SEND: u8 = 8;
/// Channel, bytes: a message to send, with a receipt.
pub(crate) const SEND_WITH_RECEIPT: u8 = 9;
/// Number: why a message was not taken.
pub(crate) const REFUSED: u8 = 10;
/// The oldest unreliable message is to be dropped.
pub(crate) const DROP_OLDEST: u8 = 11;
/// A message is taken.
pub(crate) const RECV: u8 = 12;
/// Channel, length, digest in 8 bytes: that message.
pub(crate) const MESSAGE: u8 = 13;
/// Direction, flag, bytes: a key is set or removed.
pub(crate) const SET_KEY: u8 = 14;
/// Direction, channel, flag: a hook is set or removed.
pub(crate) const SET_HOOK: u8 = 15;
/// Flag, bytes: what a hook of the application made of a message, or its error as text.
pub(crate) const HOOK: u8 = 16;
/// Time, reason: a graceful close.
pub(crate) const CLOSE: u8 = 17;
/// Time, reason, flag.
pub(crate) const ABORT: u8 = 18;
/// Time, reason, flag.
pub(crate) const ABANDON: u8 = 19;
/// Time: datagrams to send are asked for.
pub(crate) const POLL: u8 = 20;
/// Time to live plus one or 0, size of a segment, bytes: they are handed out.
pub(crate) const TRANSMIT: u8 = 21;
/// Text: an event is handed out.
pub(crate) const EVENT: u8 = 22;
/// Text: a problem is handed out.
pub(crate) const PROBLEM: u8 = 23;
/// Two addresses as text: the local one and that of the peer, from here on.
pub(crate) const PATH: u8 = 24;
/// Number, text: something about the recording itself.
pub(crate) const MARK: u8 = 25;
/// Channel, length, digest in 8 bytes, flag, bytes: a message to send that is not written as it is.
pub(crate) const SEND_HIDDEN: u8 = 26;
/// The unreliable message was too large, and goes out on reliable channel 0.
pub(crate) const PROMOTED: u8 = 27;
/// There is room for the next message, whatever the send buffer holds.
pub(crate) const RESERVE: u8 = 28;

/// The most nanoseconds between two entries and in a whole recording: ten years. Times beyond it are not real.
pub(crate) const LONGEST: u64 = 10 * 365 * 24 * 3_600 * 1_000_000_000;

pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// The number that stands for the time `to` in an entry behind one at `from`, both in nanoseconds: the distance, zigzag.
pub(crate) fn time_code(from: u64, to: u64) -> u64 {
    let distance = to.wrapping_sub(from) as i64;
    ((distance << 1) ^ (distance >> 63)) as u64
}

/// A log that is malformed or ends within an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Reads a log.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.rest.split_first().ok_or(Broken)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Broken> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Broken),
        }
    }

    pub(crate) fn number(&mut self) -> Result<u64, Broken> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Broken)
    }

    /// A number that fits the type asked for.
    pub(crate) fn fit<T: TryFrom<u64>>(&mut self) -> Result<T, Broken> {
        T::try_from(self.number()?).map_err(|_| Broken)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Broken> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Broken)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.fit()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Broken> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Broken)
    }

    pub(crate) fn address(&mut self) -> Result<SocketAddr, Broken> {
        self.text()?.parse().map_err(|_| Broken)
    }

    /// The time of an entry, in nanoseconds, behind one at `last`.
    pub(crate) fn time(&mut self, last: u64) -> Result<u64, Broken> {
        let coded = self.number()?;
        let distance = (coded >> 1) as i64 ^ -((coded & 1) as i64);
        last.checked_add_signed(distance).filter(|time| *time <= LONGEST).ok_or(Broken)
    }
}

/// Tells messages apart, not attackers. Two lanes of multiply and fold, 32 bytes at a time: 64 bytes take a few nanoseconds,
/// where a CRC or one lane took most of what recording a message costs.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    let (mut one, mut two) = (KEYS[0] ^ bytes.len() as u64, KEYS[1]);
    let mut mix = |block: &[u8; 32]| {
        one = fold(one ^ word(block, 0), KEYS[2] ^ word(block, 8));
        two = fold(two ^ word(block, 16), KEYS[3] ^ word(block, 24));
    };
    let mut rest = bytes;
    while let Some((block, behind)) = rest.split_first_chunk() {
        mix(block);
        rest = behind;
    }
    if !rest.is_empty() {
        let mut block = [0; 32];
        block[..rest.len()].copy_from_slice(rest);
        mix(&block);
    }
    fold(one ^ KEYS[3], two ^ KEYS[2])
}

#[inline]
fn word(block: &[u8; 32], at: usize) -> u64 {
    block[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn fold(one: u64, other: u64) -> u64 {
    let wide = u128::from(one) * u128::from(other);
    wide as u64 ^ (wide >> 64) as u64
}

/// Odd words without a pattern: the fractions of the golden ratio, e, pi and the root of two.
const KEYS: [u64; 4] = [0x9E37_79B9_7F4A_7C15, 0xB7E1_5162_8AED_2A6B, 0x243F_6A88_85A3_08D3, 0x6A09_E667_F3BC_C909];

/// Whether a message goes out or has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out = 0,
    In = 1,
}

/// The number of a channel in the log.
pub(super) fn channel_number(channel: Channel) -> u8 {
    match channel {
        Channel::Reliable(channel) => channel.index() as u8,
        Channel::Unreliable => 4,
        Channel::Ordered => 5,
        Channel::Ordered2 => 6,
    }
}

/// The channel with this number in the log.
pub(crate) fn channel_of(number: u8) -> Option<Channel> {
    match number {
        4 => Some(Channel::Unreliable),
        5 => Some(Channel::Ordered),
        6 => Some(Channel::Ordered2),
        number => ReliableChannel::new(number).map(Channel::Reliable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_read_as_they_were_written() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(Cursor::new(&out).number(), Ok(number));
        }
        for (from, to) in [(0, 0), (5, 3), (0, LONGEST), (LONGEST, 0), (1_000, 1_001)] {
            let mut out = Vec::new();
            put_number(&mut out, time_code(from, to));
            assert_eq!(Cursor::new(&out).time(from), Ok(to));
        }
    }

    #[test]
    fn what_is_cut_or_impossible_is_an_error() {
        assert_eq!(Cursor::new(&[0x80]).number(), Err(Broken));
        assert_eq!(Cursor::new(&[0xFF; 11]).number(), Err(Broken));
        assert_eq!(Cursor::new(&[5, 1, 2]).bytes(), Err(Broken));
        assert_eq!(Cursor::new(&[1]).time(0), Err(Broken), "before the beginning");
        assert_eq!(Cursor::new(&[2]).flag(), Err(Broken));
    }

    #[test]
    fn a_digest_depends_on_every_byte_and_on_the_length() {
        let text = *b"seventeen bytes !";
        for at in 0..text.len() {
            let mut other = text;
            other[at] ^= 1;
            assert_ne!(digest(&other), digest(&text));
        }
        assert_ne!(digest(&[0; 8]), digest(&[0; 9]));
        assert_ne!(digest(&[]), digest(&[0]));
    }
}
