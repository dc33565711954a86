//! What proves that valid CRCs are no guesses (section 10 of `docs/protocol.md`).

/// The bytes of CRC that prove something.
const PROOF: usize = 4;
/// A datagram has to be longer by this than the one before.
const STEP: u16 = 2;
/// The bits of a length: no session has datagrams of 16 KiB.
const LENGTH_BITS: u32 = 14;
const MAX_LENGTH: u16 = (1 << LENGTH_BITS) - 1;
/// The largest count in the 16 bits of [`Evidence::to_bits`].
const MAX_COUNT: u8 = 3;

/// Valid datagrams of different lengths.
///
/// A CRC is affine: whoever guesses it for one content has guessed it for all contents of the same length, and may send two
/// with each guess. Lengths that differ have to be guessed one by one, each 2^-8 for a byte of the CRC. (The CRCs of two lengths
/// are not wholly independent: of two bytes each, 28 to 32 bits are up to chance for datagrams of up to 512 bytes, and 24 or more
/// for any others.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// Datagrams that counted.
    count: u8,
    /// The length of the last one.
    length: u16,
}

impl Evidence {
    /// Counts a valid datagram. One of the same length adds nothing, and a shorter one begins anew.
    pub(crate) fn with(self, length: usize) -> Self {
        let length = length.min(usize::from(MAX_LENGTH)) as u16;
        if self.count == 0 || length < self.length {
            Self { count: 1, length }
        } else if length >= self.length + STEP {
            Self { count: self.count.saturating_add(1), length }
        } else {
            self
        }
    }

    /// Whether nobody can have guessed so many CRCs of this length.
    pub(crate) fn is_proof(self, crc_length: usize) -> bool {
        usize::from(self.count) * crc_length >= PROOF
    }

    /// Whether there was a valid datagram at all.
    pub(crate) fn is_some(self) -> bool {
        self.count > 0
    }

    /// In 16 bits. It counts to three: one more is a proof with any CRC.
    pub(crate) fn to_bits(self) -> u16 {
        u16::from(self.count.min(MAX_COUNT)) << LENGTH_BITS | self.length
    }

    pub(crate) fn from_bits(bits: u16) -> Self {
        Self { count: (bits >> LENGTH_BITS) as u8, length: bits & MAX_LENGTH }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Framing;

    fn of(lengths: &[usize]) -> Evidence {
        lengths.iter().fold(Evidence::default(), |evidence, &length| evidence.with(length))
    }

    #[test]
    fn only_longer_datagrams_add_to_a_proof() {
        for (lengths, count) in [
            (&[][..], 0),
            (&[40], 1),
            (&[40, 40, 40, 40], 1),
            (&[40, 41, 41], 1),
            (&[40, 42], 2),
            (&[40, 42, 40], 1),
            (&[40, 39, 38, 37], 1),
            (&[40, 42, 43, 44, 46], 4),
            (&[4, 8_192], 2),
        ] {
            assert_eq!(of(lengths).count, count, "{lengths:?}");
        }
    }

    #[test]
    fn four_bytes_of_crc_are_a_proof() {
        let longer = |count: usize| of(&(0..count).map(|n| 4 + 2 * n).collect::<Vec<_>>());
        let needed = |crc_length| (0..300).find(|&count| longer(count).is_proof(crc_length));
        assert_eq!([1, 2, 3, 4].map(needed), [4, 2, 2, 1].map(Some));
        assert_eq!(needed(0), None, "anybody can send what has no CRC");
    }

    /// The CRC of a content of this many zeros, as the set of those bits of the seed that each of its bits depends on.
    fn dependence(crc_length: u8, length: usize) -> Vec<u32> {
        let crc = |seed: u32| {
            let codecs = &crate::Dialect::version3().codecs;
            let mut datagram = vec![0; length];
            Framing::new(seed, crc_length, [0, 0], codecs).unwrap().seal(&mut datagram, 0);
            datagram[length..].iter().fold(0_u32, |crc, &byte| crc << 8 | u32::from(byte))
        };
        let effects: Vec<u32> = (0..32).map(|bit| crc(1 << bit) ^ crc(0)).collect();
        let depends = |bit: u32| (0..32).filter(|&n| effects[n] >> bit & 1 == 1).map(|n| 1 << n).sum();
        (0..8 * u32::from(crc_length)).map(depends).collect()
    }

    /// How many bits of the CRCs of these lengths are independent of each other: what remains to be guessed.
    fn bits_to_guess(crc_length: u8, lengths: &[usize]) -> usize {
        let mut rows: Vec<u32> = lengths.iter().flat_map(|&length| dependence(crc_length, length)).collect();
        let mut rank = 0;
        for bit in 0..32 {
            if let Some(pivot) = (rank..rows.len()).find(|&row| rows[row] >> bit & 1 == 1) {
                rows.swap(rank, pivot);
                let pivot = rows[rank];
                let others = rows.iter_mut().enumerate().filter(|&(n, _)| n != rank);
                others.filter(|(_, row)| **row >> bit & 1 == 1).for_each(|(_, row)| *row ^= pivot);
                rank += 1;
            }
        }
        rank
    }

    /// A byte more of content is the same step for any CRC, so that only the difference of two lengths matters.
    #[test]
    fn two_lengths_leave_almost_all_bits_of_their_crcs_to_chance() {
        let least = |lengths: std::ops::RangeInclusive<usize>, step| {
            lengths.step_by(step).map(|length| bits_to_guess(2, &[2, length])).min()
        };
        assert_eq!(bits_to_guess(2, &[2, 2]), 16);
        assert_eq!(bits_to_guess(2, &[2, 3]), 24, "hence the step");
        assert_eq!(least(4..=512, 1), Some(28));
        assert!(least(513..=8_190, 97) >= Some(24));
        assert_eq!(bits_to_guess(2, &[2, 2 + 6_201]), 24, "the least that two lengths leave");
        assert_eq!((4..=512).map(|length| bits_to_guess(3, &[2, length])).min(), Some(32));
        assert_eq!(bits_to_guess(4, &[2]), 32);
        // One byte each.
        for step in [2, 3, 8, 40, 127] {
            assert!(bits_to_guess(1, &[2, 2 + step, 2 + 2 * step, 2 + 3 * step]) >= 24, "{step}");
        }
    }

    #[test]
    fn sixteen_bits_hold_what_a_handshake_needs() {
        for lengths in [&[][..], &[4], &[4, 8_192], &[4, 6, 8_192]] {
            assert_eq!(Evidence::from_bits(of(lengths).to_bits()), of(lengths));
        }
        assert_eq!(Evidence::from_bits(of(&[4, 6, 8, 10]).to_bits()).with(12).count, 4);
    }
}
