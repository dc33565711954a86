//! How long a datagram takes to the peer and its acknowledgement back, and what follows for the resend timer.

use std::time::Duration;

/// Before the first sample: the delay of the slowest acknowledger known (500 ms) and some network.
const INITIAL_TIMEOUT: Duration = Duration::from_millis(1_000);
/// What the handshake's round trip does not show: the delay with which the peer acknowledges.
const UNSEEN_ACK_DELAY: Duration = Duration::from_millis(600);
/// The shortest resend timer: below it, a peer that shares a busy processor is taken for a lossy link.
const MIN_TIMEOUT: Duration = Duration::from_millis(30);
/// The longest resend timer before back-off.
const MAX_TIMEOUT: Duration = Duration::from_secs(4);
/// The least allowance for variance: the granularity of ordinary timers on either side.
const GRANULARITY: Duration = Duration::from_millis(2);
/// How fast the largest seen acknowledgement delay is forgotten, per acknowledgement: 1/16.
const ACK_DELAY_DECAY: u32 = 16;
/// An acknowledgement delay above this is a lost acknowledgement, not a habit.
const MAX_ACK_DELAY: Duration = Duration::from_secs(1);

/// The round-trip estimate of RFC 6298, with the peer's acknowledgement delay learnt beside it.
///
/// Samples come only from packets sent once (Karn's rule).
#[derive(Clone, Debug, Default)]
pub(crate) struct RttEstimator {
    smoothed: Option<Duration>,
    variance: Duration,
    minimum: Option<Duration>,
    latest: Duration,
    /// How much longer than the newest the oldest packet of one acknowledgement has waited, at most, of late.
    ack_delay: Duration,
    /// The handshake's round trip: no sample, since handshakes are answered without delay.
    handshake: Option<Duration>,
}

impl RttEstimator {
    /// The round trip of the handshake: a first idea, replaced by the first real sample.
    pub(crate) fn seed(&mut self, round_trip: Duration) {
        self.handshake = Some(round_trip);
        self.minimum = Some(self.minimum.map_or(round_trip, |minimum| minimum.min(round_trip)));
    }

    /// An acknowledgement came `newest` after the newest packet that it covers was sent and `oldest` after the oldest.
    pub(crate) fn sample(&mut self, newest: Duration, oldest: Duration) {
        self.latest = newest;
        self.minimum = Some(self.minimum.map_or(newest, |minimum| minimum.min(newest)));
        match self.smoothed {
            None => {
                self.smoothed = Some(newest);
                self.variance = newest / 2;
            }
            Some(smoothed) => {
                self.variance = (self.variance * 3 + smoothed.abs_diff(newest)) / 4;
                self.smoothed = Some((smoothed * 7 + newest) / 8);
            }
        }
        let delay = oldest.saturating_sub(newest).min(MAX_ACK_DELAY);
        self.ack_delay = delay.max(self.ack_delay - self.ack_delay / ACK_DELAY_DECAY);
    }

    /// A packet was sent again `age` after the first time, and the acknowledgement of the first came then: the timer was too
    /// short, or an earlier acknowledgement was lost. Once says little, often says that the link has become slower.
    pub(crate) fn late(&mut self, age: Duration) {
        if let Some(smoothed) = self.smoothed {
            self.variance += age.saturating_sub(smoothed) / 16;
        }
    }

    /// After this long without an acknowledgement a packet is worth a second try.
    pub(crate) fn timeout(&self) -> Duration {
        let Some(smoothed) = self.smoothed else {
            return self.handshake.map_or(INITIAL_TIMEOUT, |round_trip| round_trip + UNSEEN_ACK_DELAY);
        };
        let timeout = smoothed + (self.variance * 4).max(GRANULARITY) + self.ack_delay;
        timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT)
    }

    /// A packet older than this is lost once a later one has been acknowledged (RFC 9002, section 6.1.2).
    pub(crate) fn loss_delay(&self) -> Duration {
        let round_trip = self.smoothed.unwrap_or(INITIAL_TIMEOUT).max(self.latest);
        (round_trip + round_trip / 8).max(Duration::from_millis(1))
    }

    /// The smoothed round trip, or the handshake's before there is one.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.or(self.handshake)
    }

    pub(crate) fn minimum(&self) -> Option<Duration> {
        self.minimum
    }

    pub(crate) fn latest(&self) -> Option<Duration> {
        self.smoothed.map(|_| self.latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_sample_sets_the_estimate() {
        let mut rtt = RttEstimator::default();
        rtt.sample(100 * MS, 100 * MS);
        assert_eq!(rtt.smoothed(), Some(100 * MS));
        assert_eq!(rtt.timeout(), 300 * MS);
    }

    #[test]
    fn a_steady_link_gets_a_tight_timer() {
        let mut rtt = RttEstimator::default();
        for _ in 0..100 {
            rtt.sample(50 * MS, 50 * MS);
        }
        assert!(rtt.timeout() < 60 * MS, "{:?}", rtt.timeout());
    }

    #[test]
    fn a_peer_that_acknowledges_every_half_second_is_waited_for() {
        let mut rtt = RttEstimator::default();
        for _ in 0..20 {
            rtt.sample(50 * MS, 550 * MS);
        }
        assert!(rtt.timeout() > 550 * MS, "{:?}", rtt.timeout());
    }

    #[test]
    fn before_any_sample_the_timer_allows_for_a_slow_acknowledger() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.timeout(), INITIAL_TIMEOUT);
        rtt.seed(20 * MS);
        assert_eq!(rtt.timeout(), 620 * MS);
    }
}
