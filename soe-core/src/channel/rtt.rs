//! The round-trip estimate, and the resend timer and loss delay derived from it.

use std::time::Duration;

use super::packet::LossDelay;
use crate::timestamp::{Micros, Timestamp};

/// The resend timer before the first sample: the acknowledgement delay of the slowest known peer (500 ms) and a network
/// round trip.
const INITIAL_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Added to the handshake's round trip, which does not contain the peer's acknowledgement delay.
const UNSEEN_ACK_DELAY: Duration = Duration::from_millis(600);
/// The shortest resend timer: below it, a peer on a busy processor looks like a lossy link.
const MIN_TIMEOUT: Duration = Duration::from_millis(50);
/// The longest resend timer before back-off.
const MAX_TIMEOUT: Duration = Duration::from_secs(4);
/// The least allowance for variance: the granularity of ordinary timers on either side.
const GRANULARITY: Duration = Duration::from_millis(2);
/// The decay of the acknowledgement delay per event: 1/16.
const ACK_DELAY_DECAY: u32 = 16;
/// A longer acknowledgement delay means a lost acknowledgement, not a peer that delays them.
const MAX_ACK_DELAY: Duration = Duration::from_secs(1);
/// The gain of the reordering estimate: 1/8 of the difference up for a packet that was reordered further, 1/8 down for
/// one that was lost. Only the ratio of the two distinguishes a link that reorders from one that loses
/// acknowledgements.
const REORDERING_GAIN: u32 = 8;
/// Acknowledgements within this time are one event: some peers acknowledge in bursts.
const EVENT: Duration = Duration::from_millis(1);

/// The round-trip estimate of RFC 6298, and an estimate of the peer's acknowledgement delay.
///
/// Samples come only from packets sent once (Karn's rule).
#[derive(Clone, Debug, Default)]
pub(crate) struct RttEstimator {
    /// Smoothed; before the first sample, the handshake's, since handshakes are answered without delay.
    round_trip: Option<Micros>,
    /// `None` before the first sample.
    variance: Option<Micros>,
    minimum: Option<Micros>,
    latest: Micros,
    /// The recent age difference between the oldest and the newest packet of one event.
    ack_delay: Micros,
    /// The current event: its start, and the ages of the newest and the oldest packet that it has acknowledged.
    event: Option<(Timestamp, Micros, Micros)>,
    /// How much longer than the round trip a reordered packet takes; at most the round trip.
    reordering: Micros,
}

impl RttEstimator {
    /// Sets the round trip of the handshake, which the first sample replaces.
    pub(crate) fn seed(&mut self, round_trip: Duration) {
        let round_trip = Micros::from(round_trip);
        if self.variance.is_none() {
            self.round_trip = Some(round_trip);
        }
        self.minimum = Some(self.minimum.map_or(round_trip, |minimum| minimum.min(round_trip)));
    }

    /// An acknowledgement came `newest` after the newest packet that it covers was sent and `oldest` after the oldest.
    pub(crate) fn sample(&mut self, now: Timestamp, newest: Duration, oldest: Duration) {
        let (newest, oldest) = (Micros::from(newest), Micros::from(oldest));
        self.latest = newest;
        self.minimum = Some(self.minimum.map_or(newest, |minimum| minimum.min(newest)));
        self.event = match self.event {
            Some((began, event_newest, event_oldest)) if now < began + EVENT => {
                Some((began, event_newest.min(newest), event_oldest.max(oldest)))
            }
            last => {
                if let Some((_, newest, oldest)) = last {
                    self.learn(newest.duration(), oldest.duration());
                }
                Some((now, newest, oldest))
            }
        };
        if self.variance.is_none() {
            // At once, not at the end of the event: the resend timer needs a value.
            (self.round_trip, self.variance) = (Some(newest), Some((newest.duration() / 2).into()));
        }
    }

    /// Updates the estimates with a finished event.
    fn learn(&mut self, newest: Duration, oldest: Duration) {
        let (smoothed, variance) = self.measured().unwrap_or((newest, Duration::ZERO));
        self.variance = Some(((variance * 3 + smoothed.abs_diff(newest)) / 4).into());
        self.round_trip = Some(((smoothed * 7 + newest) / 8).into());
        let delay = oldest.saturating_sub(newest).min(MAX_ACK_DELAY);
        // A delay above half of a round trip counts at once, because the resend timer would fire before it. A smaller
        // one may be a lost acknowledgement and counts only if it repeats.
        let before = self.ack_delay.duration();
        let ack_delay = if delay > before && delay > smoothed / 2 {
            delay
        } else if delay > before {
            before + (delay - before) / 8
        } else {
            before - (before - delay) / ACK_DELAY_DECAY
        };
        self.ack_delay = ack_delay.into();
    }

    /// A resend was spurious: the acknowledgement of the first transmission arrived `age` after it. The timer was too
    /// short, or an earlier acknowledgement was lost. The gain is small, because only repetition shows that the link
    /// has become slower.
    pub(crate) fn late(&mut self, age: Duration) {
        match self.measured() {
            // A packet that was resent often may have been acknowledged for any of its transmissions but the last. On a path
            // that drops large datagrams it has been resent for minutes, and its age says nothing about the link.
            Some((smoothed, variance)) => {
                let excess = age.saturating_sub(smoothed).min(self.timeout() * 2);
                self.variance = Some((variance + excess / 16).into());
            }
            // On a link that is slower than the initial timer every packet is resent before its acknowledgement
            // arrives, so there would never be a sample (Karn's rule). `age` is at least the round trip: with it the
            // next packets are sent once.
            None => self.round_trip = self.round_trip.max(Some(age.min(MAX_TIMEOUT).into())),
        }
    }

    /// A reordered packet was acknowledged at this age, without a resend.
    pub(crate) fn reordered(&mut self, age: Duration) {
        let Some((smoothed, _)) = self.measured() else { return };
        let (excess, before) = (age.saturating_sub(smoothed).min(smoothed), self.reordering.duration());
        if excess > before {
            self.reordering = (before + (excess - before) / REORDERING_GAIN).into();
        }
    }

    /// This many packets that seemed reordered were really lost.
    pub(crate) fn repaired(&mut self, packets: u32) {
        for _ in 0..packets.min(REORDERING_GAIN) {
            let before = self.reordering.duration();
            self.reordering = (before - before / REORDERING_GAIN).into();
        }
    }

    /// The resend timer: after this long without an acknowledgement a packet is sent again.
    pub(crate) fn timeout(&self) -> Duration {
        // In microseconds: this runs for every acknowledgement and every transmit, and `Duration` arithmetic is slower.
        let (Some(smoothed), Some(variance)) = (self.round_trip, self.variance) else {
            return self.round_trip.map_or(INITIAL_TIMEOUT, |round_trip| round_trip.duration() + UNSEEN_ACK_DELAY);
        };
        let (smoothed, variance) = (smoothed.count(), variance.count());
        // The current event counts too: the next acknowledgement may be as late.
        let pending = self.event.map_or(0, |(_, newest, oldest)| oldest.count().saturating_sub(newest.count()));
        let habit = if pending > smoothed / 2 { pending.min(micros(MAX_ACK_DELAY)) } else { 0 };
        let ack_delay = self.ack_delay.count().max(habit);
        let timeout = smoothed + (variance * 4).max(micros(GRANULARITY)) + ack_delay + ack_delay / 8;
        Duration::from_micros(timeout.clamp(micros(MIN_TIMEOUT), micros(MAX_TIMEOUT)))
    }

    /// The age at which a packet counts as lost once later ones have been acknowledged (RFC 9002, section 6.1): by
    /// count at once, by time after 9/8 of a round trip. Both are longer on a link that reorders more than that.
    pub(crate) fn loss_delay(&self) -> LossDelay {
        let smoothed =
            self.round_trip.filter(|_| self.variance.is_some()).map_or(micros(INITIAL_TIMEOUT), Micros::count);
        let (round_trip, reordering) = (smoothed.max(self.latest.count()), self.reordering.count());
        let by_time = round_trip + (round_trip / 8).max(reordering);
        let by_count = if reordering > smoothed / 8 { smoothed + reordering } else { 0 };
        LossDelay { by_count: Duration::from_micros(by_count), by_time: Duration::from_micros(by_time.max(1_000)) }
    }

    /// The smoothed round trip, or the handshake's before there is one.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.round_trip.map(Micros::duration)
    }

    /// The smoothed round trip and its variance, once there has been a sample.
    fn measured(&self) -> Option<(Duration, Duration)> {
        Some((self.round_trip?.duration(), self.variance?.duration()))
    }

    /// An acknowledgement earlier than this after a resend is for an earlier transmission: no recent round trip was as
    /// short.
    pub(crate) fn soonest(&self) -> Option<Duration> {
        self.minimum().max(self.measured().map(|(smoothed, _)| smoothed / 4 * 3))
    }

    pub(crate) fn minimum(&self) -> Option<Duration> {
        self.minimum.map(Micros::duration)
    }

    pub(crate) fn latest(&self) -> Option<Duration> {
        self.variance.map(|_| self.latest.duration())
    }
}

const fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_link_slower_than_the_first_guess_is_learnt_from_packets_that_were_sent_again() {
        let mut rtt = RttEstimator::default();
        let round_trip = Duration::from_millis(1_600);
        assert!(rtt.timeout() < round_trip);
        rtt.late(round_trip);
        assert!(rtt.timeout() > round_trip && rtt.minimum().is_none());
        rtt.late(Duration::from_secs(60));
        assert!(rtt.timeout() <= MAX_TIMEOUT + UNSEEN_ACK_DELAY);
    }

    /// On a path that drops large datagrams a packet is resent for minutes, until the path takes it.
    #[test]
    fn the_age_of_a_packet_that_was_resent_for_a_minute_does_not_slow_the_timer() {
        let mut rtt = RttEstimator::default();
        let start = Timestamp::now();
        for n in 0..50u32 {
            rtt.sample(start + 100 * MS * n, 60 * MS, 60 * MS);
        }
        let before = rtt.timeout();
        rtt.late(Duration::from_secs(60));
        assert!(rtt.timeout() > before && rtt.timeout() < 2 * before, "{before:?}, then {:?}", rtt.timeout());
    }

    #[test]
    fn reordering_is_waited_for_and_forgotten_when_packets_are_lost_in_fact() {
        let mut rtt = RttEstimator::default();
        rtt.sample(Timestamp::now(), 100 * MS, 100 * MS);
        assert_eq!(rtt.loss_delay().by_count, Duration::ZERO);
        (0..50).for_each(|_| rtt.reordered(160 * MS));
        assert!((155 * MS..=160 * MS).contains(&rtt.loss_delay().by_count), "{:?}", rtt.loss_delay());
        assert!(rtt.loss_delay().by_time >= rtt.loss_delay().by_count);
        (0..200).for_each(|_| rtt.reordered(10_000 * MS));
        assert!(rtt.loss_delay().by_time <= 200 * MS, "no more than a round trip: {:?}", rtt.loss_delay());
        (0..20).for_each(|_| rtt.repaired(1));
        assert_eq!(rtt.loss_delay().by_count, Duration::ZERO);
    }

    #[test]
    fn the_first_sample_sets_the_estimate() {
        let mut rtt = RttEstimator::default();
        rtt.sample(Timestamp::now(), 100 * MS, 100 * MS);
        assert_eq!(rtt.smoothed(), Some(100 * MS));
        assert_eq!(rtt.timeout(), 300 * MS);
    }

    #[test]
    fn a_steady_link_gets_a_tight_timer() {
        let (mut rtt, start) = (RttEstimator::default(), Timestamp::now());
        for n in 0..100 {
            rtt.sample(start + n * 20 * MS, 50 * MS, 50 * MS);
        }
        assert!(rtt.timeout() < 60 * MS, "{:?}", rtt.timeout());
    }

    #[test]
    fn a_peer_that_acknowledges_every_half_second_is_waited_for() {
        for acks in [1, 5, 50] {
            let (mut rtt, start) = (RttEstimator::default(), Timestamp::now());
            for n in 0..3 {
                let now = start + n * 500 * MS;
                for ack in 0..acks {
                    let age = 550 * MS - 500 * MS * ack / acks;
                    rtt.sample(now, if acks == 1 { 50 * MS } else { age }, age);
                }
                assert!(rtt.timeout() > 550 * MS, "{:?} with {acks}", rtt.timeout());
            }
        }
    }

    #[test]
    fn a_lost_acknowledgement_now_and_then_hardly_moves_the_timer() {
        let (mut rtt, start) = (RttEstimator::default(), Timestamp::now());
        for n in 0..1_000 {
            let lost = n % 50 == 49;
            rtt.sample(start + n * 20 * MS, 50 * MS, if lost { 70 * MS } else { 50 * MS });
            if n > 50 {
                assert!(rtt.timeout() < 58 * MS, "{:?}", rtt.timeout());
            }
        }
    }

    #[test]
    fn before_any_sample_the_timer_allows_for_a_slow_acknowledger() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.timeout(), INITIAL_TIMEOUT);
        rtt.seed(20 * MS);
        assert_eq!(rtt.timeout(), 620 * MS);
    }
}
