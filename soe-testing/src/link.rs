//! What one direction of a link does to datagrams.

use std::time::Duration;

use crate::rng::SimRng;

/// How one direction of a link treats datagrams. The default, [`LinkProfile::lossless`], delivers each one at once.
///
/// Shares are probabilities between 0 and 1, drawn for each datagram.
///
/// ```
/// use std::time::Duration;
/// use soe_testing::{LinkProfile, Loss};
///
/// let link = LinkProfile::lossless()
///     .delay(Duration::from_millis(30))
///     .jitter(Duration::from_millis(10))
///     .loss(Loss::bursty(0.3, 4.0))
///     .rate(250_000, 64_000);
/// # let _ = link;
/// ```
#[derive(Clone, Debug, Default)]
pub struct LinkProfile {
    pub(crate) loss: Loss,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) reordering: (f64, Duration),
    pub(crate) duplication: f64,
    pub(crate) corruption: f64,
    pub(crate) rate: Option<Rate>,
    pub(crate) blackouts: Option<Blackouts>,
}

/// A bottleneck: bytes per second, and the bytes that may wait in front of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) bytes_per_second: u64,
    pub(crate) queue: usize,
}

/// A period without delivery of `length` in every `every`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blackouts {
    pub(crate) every: Duration,
    pub(crate) length: Duration,
}

impl LinkProfile {
    /// Every datagram arrives at once, unchanged and in order.
    pub fn lossless() -> Self {
        Self::default()
    }

    /// A crowded wireless network: 5 % loss in bursts, 8 ms and up to 40 ms of jitter, some datagrams overtaken.
    pub fn wifi_bad() -> Self {
        Self::default()
            .delay(Duration::from_millis(8))
            .jitter(Duration::from_millis(40))
            .loss(Loss::bursty(0.05, 4.0))
            .reordering(0.01, Duration::from_millis(20))
            .duplication(0.001)
            .rate(2_000_000, 256_000)
    }

    /// A moving phone: 40 ms, 30 ms of jitter, 1 % loss in bursts, a second of queue, and a handover of 800 ms every minute.
    pub fn mobile() -> Self {
        Self::default()
            .delay(Duration::from_millis(40))
            .jitter(Duration::from_millis(30))
            .loss(Loss::bursty(0.01, 3.0))
            .rate(1_000_000, 1_000_000)
            .blackouts(Duration::from_secs(60), Duration::from_millis(800))
    }

    /// A good line across an ocean: 45 ms each way, 0.1 % loss.
    pub fn transatlantic() -> Self {
        Self::default()
            .delay(Duration::from_millis(45))
            .jitter(Duration::from_millis(2))
            .loss(Loss::Uniform(0.001))
            .rate(10_000_000, 1_000_000)
    }

    /// A modem: 90 ms, 6,000 bytes per second, and a queue that takes three seconds to drain.
    pub fn dial_up() -> Self {
        Self::default()
            .delay(Duration::from_millis(90))
            .jitter(Duration::from_millis(20))
            .loss(Loss::Uniform(0.002))
            .rate(6_000, 18_000)
    }

    /// Which datagrams are lost.
    #[must_use]
    pub fn loss(mut self, loss: Loss) -> Self {
        self.loss = loss;
        self
    }

    /// How long each datagram is on its way at least.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Adds between zero and `most` to the delay of each datagram. Datagrams stay in order: one that is late makes those
    /// behind it late. See [`LinkProfile::reordering`].
    #[must_use]
    pub fn jitter(mut self, most: Duration) -> Self {
        self.jitter = most;
        self
    }

    /// Holds a `share` of the datagrams back by up to `by`, without those behind them having to wait.
    #[must_use]
    pub fn reordering(mut self, share: f64, by: Duration) -> Self {
        self.reordering = (share, by);
        self
    }

    /// Delivers a `share` of the datagrams twice, each copy with a delay of its own.
    #[must_use]
    pub fn duplication(mut self, share: f64) -> Self {
        self.duplication = share;
        self
    }

    /// Flips one to three bits of a `share` of the datagrams.
    #[must_use]
    pub fn corruption(mut self, share: f64) -> Self {
        self.corruption = share;
        self
    }

    /// Carries at most `bytes_per_second`, at least 1. Up to `queue` bytes wait; what comes on top is lost.
    #[must_use]
    pub fn rate(mut self, bytes_per_second: u64, queue: usize) -> Self {
        self.rate = Some(Rate { bytes_per_second: bytes_per_second.max(1), queue });
        self
    }

    /// Loses everything for `length`, once in every period of `every`, at a moment that the seed chooses.
    #[must_use]
    pub fn blackouts(mut self, every: Duration, length: Duration) -> Self {
        self.blackouts = Some(Blackouts { every, length });
        self
    }
}

/// Which datagrams a link loses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with this probability, whatever happened to the others.
    Uniform(f64),
    /// Every n-th of the path; none if 0.
    Every(u64),
    /// Gilbert-Elliott: a good and a bad state, changed between with these probabilities before each datagram.
    GilbertElliott {
        /// From good to bad.
        enter: f64,
        /// From bad to good.
        leave: f64,
        /// The probability of a loss in the good state.
        good: f64,
        /// The probability of a loss in the bad state.
        bad: f64,
    },
}

impl Loss {
    /// Loses a `share` of the datagrams, in bursts of `burst` datagrams on average (at least 1).
    pub fn bursty(share: f64, burst: f64) -> Self {
        if share >= 1.0 {
            return Self::Uniform(1.0);
        }
        let leave = 1.0 / burst.max(1.0);
        // In balance as often into the bad state as out of it.
        Self::GilbertElliott { enter: leave * share / (1.0 - share), leave, good: 0.0, bad: 1.0 }
    }
}

/// What [`Loss`] remembers of one path.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LossState {
    datagrams: u64,
    is_bad: bool,
}

impl LossState {
    /// Whether the next datagram is lost.
    pub(crate) fn takes(&mut self, loss: Loss, rng: &mut SimRng) -> bool {
        self.datagrams += 1;
        match loss {
            Loss::None => false,
            Loss::Uniform(share) => rng.chance(share),
            Loss::Every(n) => n > 0 && self.datagrams.is_multiple_of(n),
            Loss::GilbertElliott { enter, leave, good, bad } => {
                self.is_bad ^= rng.chance(if self.is_bad { leave } else { enter });
                rng.chance(if self.is_bad { bad } else { good })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_are_as_long_and_as_frequent_as_asked() {
        let (mut rng, mut state) = (SimRng::new(3), LossState::default());
        let fates: Vec<bool> = (0..200_000).map(|_| state.takes(Loss::bursty(0.3, 5.0), &mut rng)).collect();
        let lost = fates.iter().filter(|lost| **lost).count() as f64;
        let bursts = fates.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        assert!((lost / 200_000.0 - 0.3).abs() < 0.02, "{lost} lost");
        assert!((lost / bursts - 5.0).abs() < 0.3, "bursts of {}", lost / bursts);
    }
}
