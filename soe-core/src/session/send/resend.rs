//! Resends: the resend timer, loss detection, and what follows from missing acknowledgements.

use std::time::Duration;

use super::sizes::Sizes;
use crate::{
    channel::send::Sender,
    error::{Closed, Origin},
    message::ReliableChannel,
    session::{Session, State, life::Timer, types::Event},
    timestamp::{Timestamp, earlier},
    wire::DisconnectReason,
};

/// The longest resend interval after doubling, so that a restored link is noticed soon.
const MAX_RESEND_INTERVAL: Duration = Duration::from_secs(2);
/// Packets resent when the resend timer fires (the probes of RFC 9002, section 6.2.4): enough to provoke an acknowledgement, too few to congest the path.
const PROBES: usize = 2;
/// How often that number doubles at most.
const MAX_PROBE_SHIFT: u8 = 2;
/// Resend timers in a row without any acknowledgement after which the path is treated as a new one.
const PERSISTENT: u8 = 3;
/// The longest resend interval of a closing session, unless two round trips are longer.
const CLOSING_RESEND_INTERVAL: Duration = Duration::from_millis(300);
/// The round trip assumed for that before one has been measured.
const UNMEASURED_ROUND_TRIP: Duration = Duration::from_millis(200);
/// A peer that acknowledges this long after a packet was sent, but not that packet, does not read.
const UNREAD: Duration = Duration::from_secs(5);
/// The interval at which one large packet is tried while large ones are lost.
const LARGE_PROBE_INTERVAL: Duration = Duration::from_secs(1);

impl Session {
    pub(in crate::session) fn resend_timer(&mut self, now: Timestamp) {
        self.report_unread();
        if let Some(reason) = self.given_up(now) {
            self.end(now, Closed::new(Origin::Transport, reason), true);
            return;
        }
        let interval = self.resend_interval();
        // More packets for each timer without an answer: a whole tail may be lost, and one packet per timer would take
        // long to repair it.
        let most = PROBES << self.backoff.min(MAX_PROBE_SHIFT);
        let mut probes = 0;
        let cold = &mut self.cold;
        for reliable in self.channels.iter_mut().flatten() {
            // An answer shows that the packet arrived and was not accepted.
            let may_be_size = reliable.is_unanswered(now, UNREAD);
            if let Some(deadline) = now.checked_sub(interval) {
                probes += reliable.sender.flight().time_out(now, deadline, most, |bytes, datagram| {
                    let sizes = cold.get_or_insert_default().sizes.get_or_insert_default();
                    match may_be_size && sizes.is_overtaken(datagram) {
                        true => sizes.lost(bytes),
                        false => sizes.timed_out(bytes),
                    }
                });
            }
        }
        if probes > 0 {
            self.backoff = self.backoff.saturating_add(1);
            self.stats.cold().resend_timeouts += 1;
            self.outbox.probes = u32::try_from(probes).unwrap_or(u32::MAX);
            if self.backoff == PERSISTENT {
                // RFC 9002, section 7.6: persistent congestion.
                self.congestion.persistent();
            }
            // A small probe that every peer answers distinguishes a dead path from one that drops large datagrams.
            self.outbox.net_status_due |= self.backoff >= PERSISTENT;
        }
        if let Some(sizes) = self.cold.as_mut().and_then(|cold| cold.sizes.as_mut())
            && sizes.probe_at.is_some_and(|at| at <= now)
        {
            sizes.probe_at = Some(now + LARGE_PROBE_INTERVAL);
            sizes.probe_due = true;
        }
        self.detect_losses(now);
    }

    /// The peer's application reads again, and its window has moved by this many packets. While the window was closed the peer
    /// dropped what was sent beyond it. That is sent again now: the resend timer has doubled each time the peer accepted
    /// nothing, and may be seconds away.
    pub(in crate::session) fn window_moved(&mut self, now: Timestamp, channel: ReliableChannel, packets: usize) {
        self.backoff = 0;
        // What was sent later may have met the open window.
        let deadline = now.checked_sub(self.rtt.loss_delay().by_time);
        let (Some(deadline), Some(reliable)) = (deadline, &mut self.channels[channel.index()]) else { return };
        let dropped = reliable.sender.flight().dropped(deadline, packets);
        self.outbox.probes = self.outbox.probes.max(dropped.min(PROBES << MAX_PROBE_SHIFT) as u32);
        self.outbox.acked = true;
    }

    /// The reason to end the session for an unacknowledged packet, if there is one. A peer that repeats
    /// acknowledgements is alive; its application does not read.
    fn given_up(&self, now: Timestamp) -> Option<DisconnectReason> {
        if self.is_in_grace(now) {
            return None;
        }
        let (unanswered, unread) = (self.config.unacknowledged_timeout, self.config.unread_timeout);
        let is_narrow = self.is_narrow();
        let is_over = |since: Timestamp, timeout: Duration| !timeout.is_zero() && now >= since + timeout;
        self.channels.iter().flatten().find_map(|reliable| {
            let sent = reliable.sender.oldest_first_sent()?;
            // On a path that drops large datagrams, acknowledgements of small packets say nothing about the large ones.
            let answered = reliable.answered.filter(|_| !is_narrow);
            let answered = answered.map_or(sent, |answered| sent.max(answered));
            // Before `unread`: a peer that does not answer at all is not one that does not read.
            if is_over(answered, unanswered) {
                return Some(DisconnectReason::UnacknowledgedTimeout);
            }
            is_over(sent, unread).then_some(DisconnectReason::PeerNotReading)
        })
    }

    /// Reports channels on which the peer acknowledges but accepts nothing new.
    fn report_unread(&mut self) {
        if self.is_narrow() {
            return;
        }
        let mut channels = ReliableChannel::ALL.into_iter().zip(&mut self.channels);
        let unread = channels.find_map(|(channel, reliable)| {
            let reliable = reliable.as_mut().filter(|reliable| !reliable.is_unread)?;
            let since = reliable.sender.oldest_first_sent()? + UNREAD;
            reliable.is_unread = reliable.answered.is_some_and(|answered| answered >= since);
            reliable.is_unread.then_some(channel)
        });
        if let Some(channel) = unread {
            self.push_event(Event::PeerNotReading(channel));
        }
    }

    /// Whether the path drops datagrams that are smaller than the agreed length.
    fn is_narrow(&self) -> bool {
        self.cold.as_ref().and_then(|cold| cold.sizes.as_ref()?.limit()).is_some()
    }

    fn resend_interval(&self) -> Duration {
        let timeout = self.rtt.timeout() + self.lateness.allowance();
        let interval = match self.backoff {
            0 => timeout,
            backoff => (timeout * 2u32.pow(u32::from(backoff.min(8)))).min(MAX_RESEND_INTERVAL.max(timeout)),
        };
        match &self.state {
            // A closing session has a deadline. It does not wait for slow acknowledgements or a restored link.
            State::Closing(_) => {
                let round_trip = self.rtt.smoothed().unwrap_or(UNMEASURED_ROUND_TRIP);
                interval.min(CLOSING_RESEND_INTERVAL.max(round_trip * 2))
            }
            _ => interval,
        }
    }

    /// Marks packets as lost that later ones have overtaken, and sets the resend timer.
    pub(in crate::session) fn detect_losses(&mut self, now: Timestamp) {
        let mut deadline: Option<Timestamp> = None;
        // Mostly everything has just been acknowledged, and then neither time is needed.
        let is_settled = self.channels.iter().flatten().all(|reliable| reliable.sender.is_settled());
        let (loss_delay, interval) =
            if is_settled { Default::default() } else { (self.rtt.loss_delay(), self.resend_interval()) };
        let (congestion, cold) = (&mut self.congestion, &mut self.cold);
        for reliable in self.channels.iter_mut().flatten().filter(|_| !is_settled) {
            let next = reliable.sender.flight().detect_losses(now, loss_delay, |bytes| {
                let sizes = cold.get_or_insert_default().sizes.get_or_insert_default();
                // A loss by size is no congestion.
                if sizes.limit().is_none_or(|limit| bytes < limit) {
                    congestion.lost(bytes);
                }
                sizes.lost(bytes);
            });
            let resend = reliable.sender.flight().timer_start().map(|start| start + interval);
            deadline = earlier(deadline, earlier(next, resend));
        }
        // What was to be probed for may have been acknowledged before it left: then the congestion window holds again.
        if !self.channels.iter_mut().flatten().any(|reliable| reliable.sender.flight().has_lost()) {
            self.outbox.probes = 0;
        }
        let large_probe = self.large_probe(now);
        self.timers.set(Timer::Resend, earlier(deadline, large_probe));
    }

    /// When the next large packet is tried, if large ones are lost and something waits.
    fn large_probe(&mut self, now: Timestamp) -> Option<Timestamp> {
        let sizes = self.cold.as_mut()?.sizes.as_mut()?;
        let Some(smallest_lost) = sizes.limit() else {
            sizes.probe_at = None;
            return None;
        };
        if sizes.probe_at.is_none() {
            let event = Event::LargeDatagramsLost { smallest_lost, largest_delivered: sizes.passed() };
            sizes.probe_at = Some(now + LARGE_PROBE_INTERVAL);
            self.push_event(event);
        }
        let idle = self.channels.iter().flatten().map(|reliable| &reliable.sender).all(Sender::is_idle);
        self.cold.as_ref()?.sizes.as_ref()?.probe_at.filter(|_| !idle)
    }

    /// A packet of this many bytes was acknowledged, and `newest` is the latest datagram of its channel that has arrived.
    pub(in crate::session) fn passed(&mut self, bytes: usize, newest: u64) {
        if let Some(sizes) = self.cold.as_mut().and_then(|cold| cold.sizes.as_mut()) {
            sizes.arrived(bytes);
            sizes.note_newest(newest);
        }
    }

    /// A NetStatusRequest was answered. If reliable packets have stayed unacknowledged for long, the path passes small
    /// datagrams and drops large ones.
    pub(in crate::session) fn small_passed(&mut self, now: Timestamp) {
        if self.backoff >= PERSISTENT {
            let unanswered = self.channels.iter().flatten().filter(|reliable| reliable.is_unanswered(now, UNREAD));
            let largest = unanswered.filter_map(|reliable| reliable.sender.oldest_size()).max();
            if let Some(largest) = largest {
                self.cold().sizes.get_or_insert_default().answered(largest);
            }
        }
    }

    /// The current size limit of datagrams in bytes, if it is below the negotiated one.
    pub(in crate::session) fn narrowed(&self) -> Option<usize> {
        let sizes = self.cold.as_ref()?.sizes.as_ref()?;
        let limit = sizes.limit().filter(|_| !sizes.probe_due)?;
        Some(limit.saturating_sub(MULTI_OVERHEAD).max(sizes.passed()))
    }

    /// The largest packet that may combine several messages. A packet cannot be split later: if the path drops large
    /// datagrams, all its messages would wait together.
    pub(in crate::session) fn gathers(&self) -> usize {
        let open = self.cold.as_ref().and_then(|cold| cold.sizes.as_ref()).is_some_and(Sizes::is_open);
        let is_known = self.rtt.latest().is_some() && !open;
        self.packet_limit().min(if is_known { usize::MAX } else { SAFE_PACKET })
    }

    /// A datagram was filled. If a large one was due, this was it.
    pub(in crate::session) fn probed(&mut self) {
        if let Some(sizes) = self.cold.as_mut().and_then(|cold| cold.sizes.as_mut()) {
            sizes.probe_due = false;
        }
    }
}

/// The packet size that every path carries, in bytes: 548 of the 576 bytes that every host must accept remain after
/// IPv4 and UDP headers (RFC 1122).
const SAFE_PACKET: usize = 512;
/// The bytes that a Multi adds to its first packet.
const MULTI_OVERHEAD: usize = 8;
