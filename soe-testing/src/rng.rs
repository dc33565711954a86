//! Random numbers that a seed decides.

/// A small generator (SplitMix64): the same seed gives the same numbers on every machine. Not for secrets.
#[derive(Clone, Debug)]
pub struct SimRng(u64);

impl SimRng {
    /// A generator whose numbers `seed` decides.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to `bound`, which it never reaches; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next_u64() % bound }
    }

    /// True with a probability of `share`, which is between 0 and 1. Draws no number if `share` is 0 or less.
    pub fn chance(&mut self, share: f64) -> bool {
        // 53 bits are what a double holds exactly.
        share > 0.0 && ((self.next_u64() >> 11) as f64) < share * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_hit_about_as_often_as_it_says() {
        let mut rng = SimRng::new(7);
        for share in [0.0, 0.001, 0.3, 1.0] {
            let hits = (0..100_000).filter(|_| rng.chance(share)).count() as f64 / 100_000.0;
            assert!((hits - share).abs() < 0.01, "{hits} for {share}");
        }
        assert!(!SimRng::new(1).chance(0.0) && SimRng::new(1).chance(1.0));
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let numbers = |seed| {
            let mut rng = SimRng::new(seed);
            std::array::from_fn::<_, 8, _>(|_| rng.below(1000))
        };
        assert_eq!(numbers(5), numbers(5));
        assert_ne!(numbers(5), numbers(6));
    }
}
