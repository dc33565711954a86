//! Random words that are named instead of drawn in a row.

/// What a word decides about a datagram.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Loss,
    BurstState,
    BurstLoss,
    Jitter,
    CopyJitter,
    HoldBack,
    HoldBackBy,
    Duplicate,
    Corrupt,
    CorruptBits,
    BlackoutPhase,
}

/// The random words of one direction of one client.
///
/// The word for a purpose of the n-th datagram depends on the seed, the purpose and n alone. So the same seed loses the same
/// datagrams whatever else is set, also when a setting changes in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    seed: u64,
}

impl Words {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed }
    }

    pub(super) fn word(self, datagram: u64, purpose: Purpose) -> u64 {
        mix(mix(self.seed ^ (purpose as u64) << 56) ^ datagram)
    }

    /// True with a probability of `share`, which is between 0 and 1.
    pub(super) fn chance(self, datagram: u64, purpose: Purpose, share: f64) -> bool {
        self.unit(datagram, purpose) < share
    }

    /// A number from 0 up to 1, which it never reaches.
    pub(super) fn unit(self, datagram: u64, purpose: Purpose) -> f64 {
        // 53 bits are what a double holds exactly.
        (self.word(datagram, purpose) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One step of SplitMix64: neighbouring numbers become words that have nothing in common.
pub(crate) fn mix(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_hit_as_often_as_it_says_and_independently_of_other_purposes() {
        let words = Words::new(42);
        for share in [0.0, 0.01, 0.3, 1.0] {
            let hits = (0..100_000).filter(|&n| words.chance(n, Purpose::Loss, share)).count() as f64 / 1e5;
            assert!((hits - share).abs() < 0.005, "{hits} for {share}");
        }
        let hit = |n, purpose| words.chance(n, purpose, 0.5);
        let both = (0..100_000).filter(|&n| hit(n, Purpose::Loss) && hit(n, Purpose::Duplicate)).count();
        assert!((both as f64 / 1e5 - 0.25).abs() < 0.01, "{both}");
    }
}
