//! The congestion window: the bytes that may be in flight, controlled by delay and delivery rate. Games lose packets on
//! radio links that have spare bandwidth; a controller that takes every loss for congestion starves them. Here a single
//! loss changes nothing. The window shrinks if it is used and the round trip shows a queue, if it is used, packets are
//! lost and sending more did not increase the delivery rate, if most of a round is lost, or if nothing is acknowledged
//! any more. A session that uses little of its window builds no queue. Its round trips then measure the link and the
//! peer: jitter, other traffic, the peer's acknowledgement delay. They do not shrink the window; they set how much of a
//! later delay is ignored as noise.

use std::time::Duration;

use crate::timestamp::{Micros, Timestamp};

/// The window of a new session: enough for a burst of ordinary messages, below what a slow link's queue holds.
const INITIAL_WINDOW: usize = 64 * 512;
/// The window never falls below this, nor below two full datagrams.
const MIN_WINDOW: usize = 4 * 512;
/// Loss in windows of this many full datagrams or fewer is attributed to the link, not to congestion.
const SMALL_WINDOW: usize = 16;
/// A round with less than this share of the window in flight measures the link without a queue of this sender: 1/4.
const LIGHT_USE: usize = 4;
/// The decay of the noise estimate, per sample in light use: 1/64.
const NOISE_DECAY: u32 = 64;
/// The smallest step by which the window grows.
const MIN_STEP: usize = 256;
/// The lifetime of the lowest round trip, after which it is measured again.
const BASE_LIFETIME: Duration = Duration::from_secs(10);
/// Delay above the base that is attributed to timers and scheduling, not to a queue.
const DELAY_SLACK: Duration = Duration::from_millis(10);
/// Losing more than this share of a round is congestion, whatever the delay: 1/4.
const HEAVY_LOSS: usize = 4;
/// Losing more than this share makes a round without growth in delivery count as congested: 1/50.
const LIGHT_LOSS: usize = 50;

/// The value of [`Congestion::calm`] in slow start. Not a field of its own: every session stores these, idle ones too.
const STARTING: u8 = u8::MAX;

/// A delay and delivery-rate controller, one per session, over all channels. It counts bytes in 32 bits: no link needs
/// a window of 4 GiB.
#[derive(Clone, Debug)]
pub(crate) struct Congestion {
    window: u32,
    limit: u32,
    /// A full datagram, in bytes.
    datagram: u16,
    /// The share of packets, in percent, that the link loses even when little is sent.
    link_loss: u8,
    round: Round,
    /// The most bytes in flight in the previous round.
    most: u32,
    /// The window at the last reduction; the window grows slowly near it.
    ceiling: u32,
    /// Consecutive rounds without a sign of congestion. [`STARTING`] in slow start, where the window doubles each round.
    calm: u8,
    /// The lowest round trip within [`BASE_LIFETIME`].
    base: Option<Micros>,
    /// When that was measured.
    base_seen: Option<Timestamp>,
    /// How far recent round trips in light use exceed the lowest one.
    noise: Micros,
    /// The best recent delivery rate, in bytes per second.
    best_rate: f32,
}

/// The measurements of one round trip.
#[derive(Clone, Debug, Default)]
struct Round {
    started: Option<Timestamp>,
    /// The round ends with the acknowledgement of this datagram.
    last_datagram: u64,
    delivered: u32,
    lost: u32,
    lowest: Option<Micros>,
    /// The most bytes in flight at any time in this round.
    most: u32,
}

impl Congestion {
    /// A controller whose window never exceeds `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            window: narrow(INITIAL_WINDOW.min(limit)),
            limit: narrow(limit),
            datagram: 512,
            link_loss: 0,
            round: Round::default(),
            most: 0,
            ceiling: u32::MAX,
            calm: STARTING,
            base: None,
            base_seen: None,
            noise: Micros::ZERO,
            best_rate: 0.0,
        }
    }

    /// Sets the negotiated datagram size, in bytes.
    pub(crate) fn set_datagram(&mut self, bytes: u16) {
        self.datagram = bytes;
        self.limit = self.limit.max(narrow(self.floor()));
        self.window = self.window.max(narrow(self.floor()));
    }

    /// The window may grow to so many bytes from now on: more or less than before.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = narrow(limit.max(self.floor()));
        self.window = self.window.min(self.limit);
    }

    /// The smallest window: two full datagrams, so that a large packet does not block everything else.
    fn floor(&self) -> usize {
        MIN_WINDOW.max(2 * usize::from(self.datagram))
    }

    /// Bytes that may be under way.
    pub(crate) fn window(&self) -> usize {
        self.window as usize
    }

    /// Whether the window still doubles each round.
    pub(crate) fn is_starting(&self) -> bool {
        self.calm == STARTING
    }

    /// This many bytes are in flight, including those just sent.
    pub(crate) fn sent(&mut self, in_flight: usize) {
        self.round.most = self.round.most.max(narrow(in_flight));
    }

    /// A packet waits that the window has no room for: the window counts as full.
    pub(crate) fn blocked(&mut self) {
        self.round.most = self.round.most.max(self.window);
    }

    /// Whether the window is used, so that a larger one probably would be too. While it doubles each round, half of it
    /// in flight counts as full, since pacing spreads the rest over the round.
    fn is_used(&self) -> bool {
        let (most, window) = (self.most_of_late(), self.window());
        if self.is_starting() { most * 2 > window } else { most * 10 > window * 8 }
    }

    /// The most bytes in flight in this round and the previous one.
    fn most_of_late(&self) -> usize {
        self.round.most.max(self.most) as usize
    }

    /// Bytes were acknowledged. `next_datagram` is the number of the next datagram to send, `newest` the newest
    /// acknowledged one, `ages` those of the newest and the oldest acknowledged packet, of those sent only once.
    pub(crate) fn acknowledged(
        &mut self,
        now: Timestamp,
        bytes: usize,
        newest: u64,
        next_datagram: u64,
        ages: Option<(Duration, Duration)>,
    ) {
        self.round.delivered = self.round.delivered.saturating_add(narrow(bytes));
        if let Some((newest, oldest)) = ages {
            self.sample(now, newest.into(), oldest.into());
        }
        if self.is_starting() && self.is_used() {
            self.grow(bytes);
        }
        // A round lasts at least one base round trip: the rate over a burst of acknowledgements would be too high.
        let base = self.base.map_or(Duration::ZERO, Micros::duration);
        let lasted = self.round.started.is_none_or(|started| now.saturating_duration_since(started) >= base);
        if newest >= self.round.last_datagram && lasted {
            self.end_round(now);
            self.most = self.round.most;
            self.round = Round { started: Some(now), last_datagram: next_datagram, ..Round::default() };
        }
    }

    /// A round-trip sample, and the age of the oldest packet acknowledged with it.
    fn sample(&mut self, now: Timestamp, newest: Micros, oldest: Micros) {
        self.round.lowest = Some(self.round.lowest.map_or(newest, |lowest| lowest.min(newest)));
        let expired = self.base_seen.is_none_or(|seen| now > seen + BASE_LIFETIME);
        let base = self.base.filter(|&base| base < newest && !expired).unwrap_or(newest);
        if base == newest {
            (self.base, self.base_seen) = (Some(newest), Some(now));
        }
        if self.most_of_late() * LIGHT_USE <= self.window() {
            let excess = oldest.duration().saturating_sub(base.duration());
            let noise = self.noise.duration();
            self.noise = excess.max(noise - noise / NOISE_DECAY).into();
        }
    }

    /// Bytes were declared lost.
    pub(crate) fn lost(&mut self, bytes: usize) {
        self.round.lost = self.round.lost.saturating_add(narrow(bytes));
    }

    /// Bytes that had been declared lost have arrived.
    pub(crate) fn found(&mut self, bytes: usize) {
        self.round.lost = self.round.lost.saturating_sub(narrow(bytes));
    }

    /// Nothing was acknowledged for several resend timers in a row: what was measured of the path is out of date.
    pub(crate) fn persistent(&mut self) {
        self.window = narrow(self.floor()).min(self.limit);
        self.calm = STARTING;
        self.ceiling = u32::MAX;
        self.best_rate = 0.0;
        (self.base, self.base_seen) = (None, None);
    }

    fn end_round(&mut self, now: Timestamp) {
        let Some(base) = self.base.map(Micros::duration) else { return };
        let Some(started) = self.round.started else { return };
        let (window, ceiling, used) = (self.window(), self.ceiling as usize, self.is_used());
        let (delivered, lost) = (self.round.delivered as usize, self.round.lost as usize);
        let rate = delivered as f32 / now.saturating_duration_since(started).as_secs_f32().max(1e-6);
        let grew = rate > self.best_rate * 1.05;
        self.best_rate = rate.max(self.best_rate * 0.97);
        let total = delivered + lost;
        self.learn_link_loss(lost, total);
        // Up to 1.5 times the average loss of the link is chance.
        let excess = lost.saturating_sub(total * usize::from(self.link_loss) * 3 / 200);
        let queue = self.round.lowest.map_or(Duration::ZERO, |lowest| lowest.duration().saturating_sub(base));
        let slack = DELAY_SLACK.max(base / 4);
        // The noise seen in a few seconds of light use is rarely the maximum.
        let noise = slack.max(self.noise.duration() * 3 / 2);
        // The loss of one packet out of two is no evidence if they are a small part of the window.
        let counts = used || excess >= 4 * usize::from(self.datagram);
        if excess * HEAVY_LOSS > total && counts {
            self.shrink(window * 7 / 10);
        } else if used && (queue > noise + slack || (!grew && excess * LIGHT_LOSS > total)) {
            // The bytes delivered in a base round trip fit the pipe; a smaller window would leave it idle.
            let arrives = 1.0 - f32::from(self.link_loss.min(75)) / 100.0;
            let in_pipe = (self.best_rate * base.as_secs_f32() * 1.25 / arrives) as usize;
            self.shrink((window * 17 / 20).max(in_pipe.min(window)));
        } else if used && queue > noise {
            self.calm = 0;
        } else if used && !self.is_starting() {
            // By 1/8 at first, then faster as long as there is no sign of congestion, so that a link that has become
            // free, or was misjudged, is soon filled again.
            let near = window > ceiling / 5 * 4;
            let step = if near { window / 64 } else { (window / 8) << (self.calm / 2).min(3) };
            self.grow(step.max(MIN_STEP));
            self.calm = if near { 0 } else { (self.calm + 1).min(STARTING - 1) };
            if self.window > (self.ceiling / 4).saturating_mul(5) {
                self.ceiling = u32::MAX;
            }
        }
    }

    /// A window of a few datagrams causes no congestion: loss in it is the link's own. Larger windows can only lower
    /// the estimate.
    fn learn_link_loss(&mut self, lost: usize, total: usize) {
        if total == 0 {
            return;
        }
        let (share, before) = (lost * 100 / total, usize::from(self.link_loss));
        if self.window() <= SMALL_WINDOW * usize::from(self.datagram) {
            self.link_loss = ((before * 3 + share + 2) / 4) as u8;
        } else if share < before {
            self.link_loss = ((before * 15 + share) / 16) as u8;
        }
    }

    fn grow(&mut self, bytes: usize) {
        self.window = self.window.saturating_add(narrow(bytes)).min(self.limit);
    }

    fn shrink(&mut self, window: usize) {
        self.calm = 0;
        self.ceiling = self.window;
        self.window = narrow(window).clamp(narrow(self.floor()).min(self.limit), self.limit);
    }
}

fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that always has something to send, over a link of fixed rate with a queue behind it. Returns the window
    /// after ten seconds.
    fn run(rate: f64, base_ms: u64, loss: usize, limit: usize) -> usize {
        let base = Duration::from_millis(base_ms);
        let mut now = Timestamp::now();
        let end = now + Duration::from_secs(10);
        let mut congestion = Congestion::new(limit);
        let mut datagram = 0u64;
        while now < end {
            let window = congestion.window();
            let round_trip = base.max(Duration::from_secs_f64(window as f64 / rate));
            let packets = (window / 512).max(1);
            now += round_trip;
            for packet in 0..packets {
                congestion.sent(window);
                if loss > 0 && (datagram as usize + packet).is_multiple_of(loss) {
                    congestion.lost(512);
                } else {
                    let number = datagram + packet as u64;
                    let next = datagram + packets as u64;
                    congestion.acknowledged(now, 512, number, next, Some((round_trip, round_trip)));
                }
            }
            datagram += packets as u64;
        }
        congestion.window()
    }

    #[test]
    fn random_loss_alone_leaves_the_window_open() {
        let limit = 128 * 1024;
        assert_eq!(run(100e6, 50, 20, limit), limit);
    }

    #[test]
    fn a_full_link_is_not_filled_without_end() {
        // 1 MB/s at 50 ms: 50 KB fit the pipe.
        let window = run(1e6, 50, 0, 4 << 20);
        assert!((40_000..160_000).contains(&window), "{window}");
    }

    #[test]
    fn silence_closes_the_window() {
        let mut congestion = Congestion::new(1 << 20);
        congestion.persistent();
        assert_eq!(congestion.window(), MIN_WINDOW);
    }

    #[test]
    fn two_full_datagrams_always_fit() {
        let mut congestion = Congestion::new(2048);
        congestion.set_datagram(8192);
        congestion.persistent();
        assert_eq!(congestion.window(), 2 * 8192);
    }
}
