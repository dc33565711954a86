//! Rate limits of answers to unproven addresses: one token bucket for all, and one for each prefix.

use std::time::{Duration, Instant};

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f32,
    /// Milliseconds since the limiter's epoch.
    filled: u32,
}

/// A rate per second and the size of a burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    pub(super) per_second: u32,
    pub(super) burst: u32,
}

impl Bucket {
    const EMPTY: Self = Self { tokens: 0.0, filled: 0 };

    /// Takes a token if there is one.
    fn take(&mut self, millis: u32, rate: Rate) -> bool {
        let elapsed = millis.wrapping_sub(self.filled) as f32 / 1_000.0;
        // A bucket that was never used is full.
        let gained = if self.filled == 0 { rate.burst as f32 } else { elapsed * rate.per_second as f32 };
        self.tokens = (self.tokens + gained).min(rate.burst as f32);
        self.filled = millis.max(1);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

/// The limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limited {
    Prefix,
    All,
}

/// A limit over all addresses and one for each prefix. The prefixes share a fixed number of buckets, selected by a
/// keyed hash.
#[derive(Debug)]
pub(super) struct Limiter {
    epoch: Instant,
    all: Bucket,
    prefixes: Vec<Bucket>,
}

/// Buckets for prefixes, 64 KiB in total. Prefixes that share a bucket share its rate.
const PREFIX_BUCKETS: usize = 8_192;
/// The memory of a limiter, in bytes.
pub(super) const MEMORY: usize = PREFIX_BUCKETS * size_of::<Bucket>();

impl Limiter {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch: epoch - Duration::from_millis(1), all: Bucket::EMPTY, prefixes: Vec::new() }
    }

    /// Whether one more answer may be sent. `place` is the keyed hash of the prefix.
    pub(super) fn allow(&mut self, now: Instant, place: u64, all: Rate, prefix: Rate) -> Result<(), Limited> {
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u32;
        if self.prefixes.is_empty() {
            self.prefixes = vec![Bucket::EMPTY; PREFIX_BUCKETS];
        }
        let bucket = &mut self.prefixes[(place % PREFIX_BUCKETS as u64) as usize];
        if !bucket.take(millis, prefix) {
            return Err(Limited::Prefix);
        }
        if self.all.take(millis, all) { Ok(()) } else { Err(Limited::All) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Rate = Rate { per_second: 1_000_000, burst: 1_000_000 };

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let rate = Rate { per_second: 10, burst: 5 };
        let allowed =
            |limiter: &mut Limiter, now| (0..100).filter(|_| limiter.allow(now, 1, PLENTY, rate).is_ok()).count();
        assert_eq!(allowed(&mut limiter, now), 5);
        assert_eq!(allowed(&mut limiter, now + Duration::from_millis(200)), 2);
        assert_eq!(allowed(&mut limiter, now + Duration::from_secs(60)), 5);
    }

    #[test]
    fn one_prefix_does_not_use_up_what_another_may_have() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let rate = Rate { per_second: 1, burst: 1 };
        assert_eq!(limiter.allow(now, 1, PLENTY, rate), Ok(()));
        assert_eq!(limiter.allow(now, 1, PLENTY, rate), Err(Limited::Prefix));
        assert_eq!(limiter.allow(now, 2, PLENTY, rate), Ok(()));
    }

    #[test]
    fn the_common_limit_holds_over_all_prefixes() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let all = Rate { per_second: 1, burst: 50 };
        let allowed = (0..1_000).filter(|&place| limiter.allow(now, place, all, PLENTY).is_ok()).count();
        assert_eq!(allowed, 50);
    }
}
