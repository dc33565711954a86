//! How much may be sent now: congestion window, pacing, trickle rates, and the order of the channels.

use std::time::Duration;

use crate::{
    channel::pacer::Pacer,
    message::ReliableChannel,
    session::{Session, life::Timer},
    timestamp::{Timestamp, earlier},
};

/// Below this round trip the link is local. Pacing would only add the granularity of the timers.
const LOCAL: Duration = Duration::from_millis(3);
/// The pacing rate relative to one window per round trip. Above 1, so that the pacer does not limit the window.
const GAIN: f64 = 1.25;
/// The same during slow start, where the window doubles each round trip.
const START_GAIN: f64 = 2.5;
/// A channel is served first if one of its packets is unacknowledged, or if it has not sent, for this long.
const STARVED: Duration = Duration::from_secs(5);
/// Datagrams that may be sent back to back after a pause.
const BURST: usize = 16;

/// The pacer of a session and the trickle limiters of its channels.
#[derive(Debug, Default)]
pub(in crate::session) struct Pacing {
    pacer: Pacer,
    /// Allocated when a channel has a trickle rate.
    trickles: Option<Box<[Pacer; ReliableChannel::COUNT]>>,
}

impl Session {
    /// Whether packets are paced. On a local link they are not.
    fn is_paced(&self) -> bool {
        self.rtt.smoothed().is_some_and(|round_trip| round_trip >= LOCAL)
    }

    /// The pacing rate in bytes per second; `None` on a local link.
    fn pace(&self) -> Option<f64> {
        let round_trip = self.rtt.smoothed().filter(|_| self.is_paced())?;
        let gain = if self.congestion.is_starting() { START_GAIN } else { GAIN };
        Some(gain * self.congestion.window() as f64 / round_trip.as_secs_f64())
    }

    fn trickle(&self, channel: ReliableChannel) -> Option<f64> {
        self.config.channels[channel.index()].trickle_rate.map(|rate| f64::from(rate.get()))
    }

    /// Refills the token buckets.
    pub(in crate::session) fn fill_pacers(&mut self, now: Timestamp) {
        if let Some(rate) = self.pace() {
            self.pacing.pacer.fill(now, rate, BURST * self.udp_length());
        }
        for channel in ReliableChannel::ALL {
            if let Some(rate) = self.trickle(channel) {
                let burst = self.udp_length();
                let pacers = self.pacing.trickles.get_or_insert_default();
                pacers[channel.index()].fill(now, rate, burst);
            }
        }
    }

    /// Whether the pacer and the channel's trickle rate allow a packet now.
    pub(in crate::session) fn may_send(&self, channel: ReliableChannel) -> bool {
        // Probes are few, and waiting for the pacer would delay the detection of a working path.
        let paced = !self.is_paced() || self.pacing.pacer.allows() || self.outbox.probes > 0;
        paced && (self.trickle(channel).is_none() || self.trickle_pacer(channel).is_none_or(Pacer::allows))
    }

    fn trickle_pacer(&self, channel: ReliableChannel) -> Option<&Pacer> {
        self.pacing.trickles.as_ref().map(|pacers| &pacers[channel.index()])
    }

    /// Charges a reliable packet to the pacer and, if it is new, to the channel's trickle rate.
    pub(in crate::session) fn paced(&mut self, channel: ReliableChannel, bytes: usize, resend: bool) {
        if self.is_paced() {
            self.pacing.pacer.take(bytes);
        }
        if let (false, Some(pacers)) = (resend, &mut self.pacing.trickles) {
            pacers[channel.index()].take(bytes);
        }
    }

    /// Returns the channels in the order in which they may send: by priority, alternating among equals. A starved
    /// channel is served first; otherwise it would wait behind new data as long as there is any.
    pub(in crate::session) fn send_order(&mut self, now: Timestamp) -> [ReliableChannel; ReliableChannel::COUNT] {
        let first = usize::from(self.first_channel);
        self.first_channel = self.first_channel.wrapping_add(1);
        let mut order = ReliableChannel::ALL;
        // Most sessions use one channel, and then there is nothing to sort.
        if self.channels.iter().flatten().nth(1).is_none() {
            return order;
        }
        // The sort is stable, so the rotation decides among channels of equal priority.
        order.rotate_left(first % ReliableChannel::COUNT);
        order.sort_by_key(|channel| {
            let reliable = self.channels[channel.index()].as_ref();
            let oldest = reliable.and_then(|reliable| reliable.sender.oldest_first_sent());
            let waiting = reliable.and_then(|reliable| reliable.waiting_since);
            let since = earlier(oldest, waiting);
            let is_starved = since.is_some_and(|since| now.saturating_duration_since(since) >= STARVED);
            (!is_starved, self.config.channels[channel.index()].priority)
        });
        order
    }

    /// Sets the timer for channels that wait only for the pacer or their trickle rate.
    pub(in crate::session) fn set_pace_timer(&mut self) {
        if !self.is_paced() && self.pacing.trickles.is_none() {
            // Without pacing, what waits is limited by the congestion window alone, and an acknowledgement will wake
            // it.
            self.timers.stop(Timer::Pace);
            return;
        }
        let limits = self.send_limits();
        let waiting = |channel: &ReliableChannel| {
            let reliable = self.channels[channel.index()].as_ref();
            reliable.is_some_and(|reliable| reliable.sender.has_work(&limits))
        };
        let pace = self.pace().and_then(|rate| self.pacing.pacer.next(rate));
        let budget = self.budget() > 0;
        let deadlines =
            ReliableChannel::ALL.into_iter().filter(|channel| budget && waiting(channel)).filter_map(|channel| {
                let trickle = self.trickle(channel).and_then(|rate| self.trickle_pacer(channel)?.next(rate));
                pace.max(trickle)
            });
        let deadline = deadlines.min();
        self.timers.set(Timer::Pace, deadline);
    }
}
