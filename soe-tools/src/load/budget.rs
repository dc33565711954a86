//! What keeps a load below its cap, also while it catches up with its schedule.

use std::time::{Duration, Instant};

/// Messages that may be sent now: a bucket that fills at the speed of the cap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Messages per second.
    rate: f64,
    left: f64,
    since: Instant,
}

impl Budget {
    /// Nothing may be sent at once.
    pub(super) fn new(now: Instant, rate: f64) -> Self {
        Self { rate, left: 0.0, since: now }
    }

    /// Adds what has become free since the last call.
    pub(super) fn refill(&mut self, now: Instant) {
        let fresh = now.saturating_duration_since(self.since).as_secs_f64() * self.rate;
        let most = (self.rate * BURST.as_secs_f64()).max(1.0);
        (self.left, self.since) = ((self.left + fresh).min(most), now);
    }

    /// Whether a message may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.left >= 1.0
    }

    /// A message has been sent.
    pub(super) fn spend(&mut self) {
        self.left -= 1.0;
    }
}

/// After a pause, this much may be sent at once.
const BURST: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages sent by somebody who always has more.
    fn sent(budget: &mut Budget, now: Instant) -> u32 {
        budget.refill(now);
        let mut sent = 0;
        while budget.has_room() {
            budget.spend();
            sent += 1;
        }
        sent
    }

    #[test]
    fn whoever_catches_up_does_so_at_the_speed_of_the_cap() {
        let start = Instant::now();
        let mut budget = Budget::new(start, 1_000.0);
        assert_eq!(sent(&mut budget, start), 0);
        let mut all = 0;
        for millisecond in 1..=10_000 {
            all += sent(&mut budget, start + Duration::from_millis(millisecond));
        }
        assert!((9_990..=10_000).contains(&all), "{all}");
        // A pause of an hour gives no more than the burst.
        let later = start + Duration::from_secs(3_610);
        assert_eq!(sent(&mut budget, later), 20);
    }

    #[test]
    fn a_cap_below_one_message_a_burst_lets_them_pass_one_by_one() {
        let start = Instant::now();
        let mut budget = Budget::new(start, 2.0);
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!([at(499), at(501), at(900), at(1_001)].map(|now| sent(&mut budget, now)), [0, 1, 0, 1]);
    }
}
