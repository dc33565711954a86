//! Pacing: a token bucket.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// The granularity of timers: bursts of this much of the rate are allowed.
const QUANTUM: Duration = Duration::from_millis(2);

/// A token bucket. The caller passes the rate, since rates follow the congestion window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pacer {
    /// Bytes that may be sent; negative after a datagram larger than the rest.
    tokens: f64,
    filled: Option<Timestamp>,
}

impl Pacer {
    /// Fills the bucket up to `now`. After a pause, `burst` bytes may be sent at once.
    pub(crate) fn fill(&mut self, now: Timestamp, rate: f64, burst: usize) {
        let most = (rate * QUANTUM.as_secs_f64()).max(burst as f64);
        self.tokens = match self.filled {
            None => most,
            Some(filled) => {
                let gained = now.saturating_duration_since(filled).as_secs_f64() * rate;
                (self.tokens + gained).min(most)
            }
        };
        self.filled = Some(now);
    }

    /// Whether another datagram may be sent. It may overdraw the bucket.
    pub(crate) fn allows(&self) -> bool {
        self.tokens > 0.0
    }

    /// Removes sent bytes.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }

    /// When the next datagram may leave, if none may now.
    pub(crate) fn next(&self, rate: f64) -> Option<Timestamp> {
        if self.allows() {
            return None;
        }
        let wait = Duration::try_from_secs_f64((1.0 - self.tokens) / rate).unwrap_or(Duration::from_secs(1));
        self.filled.map(|filled| filled + wait.min(Duration::from_secs(10)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time() {
        let start = Timestamp::now();
        let mut pacer = Pacer::default();
        let (rate, mut now, mut sent) = (100_000.0, start, 0);
        while now < start + Duration::from_secs(10) {
            pacer.fill(now, rate, 1_000);
            while pacer.allows() {
                pacer.take(500);
                sent += 500;
            }
            now = pacer.next(rate).unwrap();
        }
        assert!((990_000..=1_002_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_earns_one_burst_and_no_more() {
        let now = Timestamp::now();
        let mut pacer = Pacer::default();
        pacer.fill(now, 1_000.0, 3_000);
        let burst = |pacer: &mut Pacer| {
            let mut sent = 0;
            while pacer.allows() {
                pacer.take(500);
                sent += 500;
            }
            sent
        };
        assert_eq!(burst(&mut pacer), 3_000);
        pacer.fill(now + Duration::from_secs(3_600), 1_000.0, 3_000);
        assert_eq!(burst(&mut pacer), 3_000);
    }
}
