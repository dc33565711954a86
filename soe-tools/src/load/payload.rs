//! What a message says: when it was due, its number, and bytes that depend on both.

use std::time::Duration;

use crate::link::mix;

/// Bytes that every message has.
///
/// ```text
/// 0      1                       8          12         16
/// | mark | due time, ns          | number   | check    | bytes that the check decides ...
/// ```
pub(super) const HEADER: usize = 16;
/// Never zero: some servers take messages that begin with 00 for packets.
const MARK: u8 = 0x53;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) number: u32,
    /// When the message was due, counted from the start of the load.
    pub(super) due: Duration,
}

/// A message of a client, whose `secret` nobody else knows. Times of more than two years wrap.
pub(super) fn message(secret: u64, number: u32, due: Duration, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    bytes.push(MARK);
    bytes.extend_from_slice(&(due.as_nanos() as u64).to_le_bytes()[..7]);
    bytes.extend_from_slice(&number.to_le_bytes());
    let check = check(secret, &bytes, size);
    bytes.extend_from_slice(&(check as u32).to_le_bytes());
    bytes.extend(pattern(check).take(size.saturating_sub(HEADER)));
    bytes
}

/// Reads an echo; `None` if a byte is not as it was sent.
pub(super) fn verify(secret: u64, bytes: &[u8]) -> Option<Echo> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let check = check(secret, &header[..12], bytes.len());
    let is_whole = header[0] == MARK
        && header[12..] == (check as u32).to_le_bytes()
        && rest.iter().copied().zip(pattern(check)).all(|(byte, expected)| byte == expected);
    let due = u64::from_le_bytes([header[1], header[2], header[3], header[4], header[5], header[6], header[7], 0]);
    let number = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    is_whole.then_some(Echo { number, due: Duration::from_nanos(due) })
}

fn check(secret: u64, header: &[u8], size: usize) -> u64 {
    let mut check = mix(secret ^ size as u64);
    for word in header.chunks(4) {
        let word = word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        check = mix(check ^ word);
    }
    check
}

fn pattern(check: u64) -> impl Iterator<Item = u8> {
    (1_u64..).flat_map(move |word| mix(check.wrapping_add(word)).to_le_bytes())
}

/// The numbers that came back lately, to tell a repeated datagram from two messages.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    /// The highest so far, and whether it and the 63 below it have come: bit 0 is the highest itself.
    highest: u32,
    seen: u64,
}

impl Numbers {
    /// Whether the number is new. One that is too old to be remembered counts as new: channels overtake each other.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        if self.seen == 0 || number > self.highest {
            let ahead = if self.seen == 0 { 64 } else { number - self.highest };
            self.seen = if ahead < 64 { self.seen << ahead | 1 } else { 1 };
            self.highest = number;
            return true;
        }
        let behind = self.highest - number;
        if behind >= 64 {
            return true;
        }
        let is_new = self.seen >> behind & 1 == 0;
        self.seen |= 1 << behind;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_or_is_found_out() {
        let due = Duration::from_nanos(1_234_567_890_123);
        for size in [HEADER, 17, 64, 1_000] {
            let mut bytes = message(5, 77, due, size);
            assert_eq!(bytes.len(), size);
            assert_eq!(verify(5, &bytes), Some(Echo { number: 77, due }));
            assert_eq!(verify(6, &bytes), None, "another client's");
            assert_eq!(verify(5, &bytes[..size - 1]), None, "cut");
            for at in 0..size {
                bytes[at] ^= 1;
                assert_eq!(verify(5, &bytes), None, "byte {at} of {size}");
                bytes[at] ^= 1;
            }
        }
        assert_eq!(verify(5, &[]), None);
    }

    #[test]
    fn repeated_numbers_are_noticed_and_late_ones_are_not_mistaken_for_them() {
        let mut numbers = Numbers::default();
        let new: Vec<bool> = [0, 0, 1, 3, 2, 3, 2, 100, 3, 99, 99, 36, 37, 37].map(|n| numbers.insert(n)).to_vec();
        let t = true;
        let f = false;
        assert_eq!(new, [t, f, t, t, t, f, f, t, t, t, f, t, t, f]);
    }
}
