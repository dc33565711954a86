//! Finds the seed of a session from its checksums.
//!
//! CRC-32 is linear over bits: each bit of a datagram's checksum is the XOR of some bits of the seed and of bits that the
//! datagram fixes. A checksum of n bytes gives 8n equations for the 32 unknown bits, and datagrams of different lengths give
//! different equations. Two or three datagrams tell the seed, and every further one confirms it.

use crc32fast::Hasher;
use soe_core::Framing;
use soe_core::framing::Codec;

/// Unknown bits.
const BITS: u32 = 32;
/// Lengths that a checksum can have, the likeliest first.
const LENGTHS: [u8; 4] = [2, 4, 3, 1];
/// At least this many datagrams must confirm a seed beyond those that gave it.
const CONFIRMATIONS: usize = 3;

/// The seed and the length of the checksum under which nearly all of these datagrams are valid.
pub(super) fn solve(datagrams: &[&[u8]], crc_length: Option<u8>) -> Option<(u32, u8)> {
    LENGTHS.into_iter().filter(|length| crc_length.is_none_or(|given| given == *length)).find_map(|length| {
        // A damaged datagram among the first would spoil the equations: start anew behind it, a few times.
        (0..datagrams.len().min(4)).find_map(|skipped| {
            let seed = seed_of(&datagrams[skipped..], length)?;
            let valid = valid_under(datagrams, seed, length);
            let given = equations_needed(length);
            (valid >= given + CONFIRMATIONS && valid * 10 >= datagrams.len() * 8).then_some((seed, length))
        })
    })
}

/// How many of the datagrams carry a valid checksum of this length under this seed.
pub(super) fn valid_under(datagrams: &[&[u8]], seed: u32, length: u8) -> usize {
    const NO_CODECS: [Option<Codec>; 2] = [None, None];
    let Ok(framing) = Framing::new(seed, length, [0, 0], &NO_CODECS) else { return 0 };
    datagrams.iter().filter(|datagram| framing.verify(datagram)).count()
}

/// Datagrams that 32 equations take at least.
const fn equations_needed(length: u8) -> usize {
    4usize.div_ceil(length as usize)
}

fn seed_of(datagrams: &[&[u8]], length: u8) -> Option<u32> {
    let mut system = System::default();
    for datagram in datagrams {
        let (content, checksum) = datagram.split_at_checked(datagram.len().checked_sub(length.into())?)?;
        if content.is_empty() {
            continue;
        }
        let wire = checksum.iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let fixed = wire ^ crc32fast::hash(content);
        let columns = shifted_bits(content.len());
        for bit in 0..u32::from(length) * 8 {
            let row = columns.iter().rev().fold(0u32, |row, column| row << 1 | (column >> bit & 1));
            system.add(row, fixed >> bit & 1 == 1)?;
        }
        if let Some(state) = system.solution() {
            return seed_behind(state);
        }
    }
    None
}

/// What each bit of the checksum of a prefix becomes in the checksum of the whole, `length` bytes later.
fn shifted_bits(length: usize) -> [u32; BITS as usize] {
    let zeros = vec![0; length];
    let after = |state| {
        let mut hasher = Hasher::new_with_initial(state);
        hasher.update(&zeros);
        hasher.finalize()
    };
    let constant = after(0);
    std::array::from_fn(|bit| after(1 << bit) ^ constant)
}

/// The seed whose four bytes have this checksum.
fn seed_behind(state: u32) -> Option<u32> {
    let of = |seed: u32| crc32fast::hash(&seed.to_le_bytes());
    let constant = of(0);
    let columns: [u32; BITS as usize] = std::array::from_fn(|bit| of(1 << bit) ^ constant);
    let mut system = System::default();
    for bit in 0..BITS {
        let row = columns.iter().rev().fold(0u32, |row, column| row << 1 | (column >> bit & 1));
        system.add(row, (state ^ constant) >> bit & 1 == 1)?;
    }
    system.solution()
}

/// Linear equations over bits, kept reduced: `rows[i]` has its highest bit at i.
#[derive(Default)]
struct System {
    rows: [Option<(u32, bool)>; BITS as usize],
}

impl System {
    /// Adds an equation; `None` if it contradicts the others.
    fn add(&mut self, mut row: u32, mut value: bool) -> Option<()> {
        while row != 0 {
            let highest = (BITS - 1 - row.leading_zeros()) as usize;
            match self.rows[highest] {
                None => {
                    self.rows[highest] = Some((row, value));
                    return Some(());
                }
                Some((known, known_value)) => {
                    row ^= known;
                    value ^= known_value;
                }
            }
        }
        (!value).then_some(())
    }

    /// The one solution, once there are enough equations.
    fn solution(&self) -> Option<u32> {
        let mut solution = 0u32;
        for (bit, row) in self.rows.iter().enumerate() {
            let (row, value) = (*row)?;
            let lower = (row & solution).count_ones() % 2 == 1;
            solution |= u32::from(value ^ lower) << bit;
        }
        Some(solution)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(seed: u32, length: u8, count: usize) -> Vec<Vec<u8>> {
        let framing = Framing::new(seed, length, [0, 0], &[None, None]).unwrap();
        let packets = (0..count).map(|index| (0..4 + index * 7 % 60).map(|at| (at * index) as u8).collect());
        packets
            .map(|mut packet: Vec<u8>| {
                framing.seal(&mut packet, 0);
                packet
            })
            .collect()
    }

    #[test]
    fn the_seed_and_the_length_of_the_checksum_follow_from_a_dozen_datagrams() {
        for length in 1..=4 {
            for seed in [0, 1, 0xDEAD_BEEF, 0x8000_0000] {
                let datagrams = sealed(seed, length, 12);
                let datagrams: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
                assert_eq!(solve(&datagrams, None), Some((seed, length)));
            }
        }
    }

    #[test]
    fn a_damaged_datagram_does_not_hide_the_seed() {
        let mut datagrams = sealed(7, 2, 16);
        datagrams[0][1] ^= 4;
        let datagrams: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
        assert_eq!(solve(&datagrams, None), Some((7, 2)));
    }

    #[test]
    fn datagrams_without_a_checksum_have_no_seed() {
        let datagrams = sealed(7, 0, 16);
        let datagrams: Vec<&[u8]> = datagrams.iter().map(Vec::as_slice).collect();
        assert_eq!(solve(&datagrams, None), None);
    }
}
