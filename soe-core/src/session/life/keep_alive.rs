//! Heartbeats, probes, and time-outs of a silent peer (section 9 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use super::timer::Timer;
use crate::{
    error::{Closed, Origin},
    message::ReliableChannel,
    recording::log,
    session::{Role, Session, State},
    timestamp::Timestamp,
    wire::{DisconnectReason, ReliableData},
};

/// The least time between two probes, and between two heartbeats derived from the inactivity time-out.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
/// The longest time between two probes shortly before the time-out.
const URGENT_INTERVAL: Duration = Duration::from_millis(250);
/// A call of `handle_timeout` later than this share of a time-out, or than `LATE`, extends that time-out.
const LATE_SHARE: u32 = 16;
const LATE: Duration = Duration::from_secs(1);
/// The share of the time-out that is then granted.
const GRACE_SHARE: u32 = 4;
/// How often it is granted in one silence. A driver that is always late must not keep a dead session forever.
const MAX_LATE_CALLS: u8 = 8;

impl Session {
    /// The silence after which the peer is probed. The client probes first, so that one probe serves both sides.
    ///
    /// A server probes early only if the peer has answered a probe before. Some clients answer nothing and send a
    /// heartbeat only when they have received nothing for 25 s: each probe would postpone it.
    pub(in crate::session) fn first_silence(&self) -> Duration {
        let timeout = self.config.inactivity_timeout;
        match self.role {
            Role::Client => timeout / 4,
            Role::Server if self.clock.has_answers() => timeout / 4 + timeout / 16,
            Role::Server => timeout - timeout / 8,
        }
    }

    /// The time without sending after which a heartbeat is sent; zero: none.
    pub(in crate::session) fn heartbeat_interval(&self) -> Duration {
        let (heartbeat, timeout) = (self.config.heartbeat_after, self.config.inactivity_timeout);
        // The peer's time-out is probably the same as this side's. Several heartbeats must fit into it, since some may
        // be lost.
        if timeout.is_zero() { heartbeat } else { heartbeat.min(self.first_silence().max(LEAST_INTERVAL)) }
    }

    pub(in crate::session) fn heartbeat_timer(&mut self, now: Timestamp) {
        let interval = self.heartbeat_interval();
        let deadline = self.last_sent + interval;
        let timeout = self.config.inactivity_timeout;
        let asked = self.last_received + self.first_silence();
        // A heartbeat resets the client's own timer for heartbeats that depend on silence. Do not send one shortly
        // before the probe.
        let waits = self.role == Role::Server && !timeout.is_zero() && now < asked && asked <= deadline + timeout / 8;
        if deadline <= now && waits {
            self.timers.set(Timer::Heartbeat, asked);
        } else if deadline <= now {
            self.outbox.heartbeat_due = true;
            self.timers.set(Timer::Heartbeat, now + interval);
        } else {
            self.timers.set(Timer::Heartbeat, deadline);
        }
    }

    pub(in crate::session) fn inactivity_timer(&mut self, now: Timestamp) {
        let timeout = self.config.inactivity_timeout;
        let last = self.last_received;
        let deadline =
            (!timeout.is_zero()).then(|| self.grace_until().map_or(last + timeout, |until| until.max(last + timeout)));
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.end(now, Closed::new(Origin::Transport, DisconnectReason::Timeout), true);
            return;
        }
        let first = last + self.first_silence();
        if self.timers.is_set(Timer::Icmp) || (deadline.is_some() && first <= now) {
            let next = now + self.ask(now);
            self.timers.set(Timer::Inactivity, deadline.map_or(next, |deadline| deadline.min(next)));
        } else if deadline.is_some() {
            self.timers.set(Timer::Inactivity, first);
        }
    }

    /// Probes the peer. Returns when to probe again.
    ///
    /// Peers differ in what they answer: some only heartbeats, some only NetStatusRequests, some only reliable packets.
    /// The first probe is the cheapest one that known peers of the dialect answer. Later probes use all three.
    fn ask(&mut self, now: Timestamp) -> Duration {
        let timeout = self.config.inactivity_timeout;
        let silence = now.saturating_duration_since(self.last_received);
        let is_doubted = self.timers.is_set(Timer::Icmp);
        let is_urgent = is_doubted || self.grace_until().is_some() || silence >= timeout - timeout / 8;
        let interval = if is_urgent { URGENT_INTERVAL.min(timeout / 64) } else { timeout / 16 };
        let interval = if timeout.is_zero() { URGENT_INTERVAL } else { interval.max(LEAST_INTERVAL) };
        let is_first = !is_urgent && silence < self.first_silence() + interval;
        let heartbeat_suffices = self.is_client() && self.config.dialect.policies.answers_heartbeat;
        self.outbox.net_status_due |= !is_first || !heartbeat_suffices;
        self.outbox.question_due |= !is_first || heartbeat_suffices;
        self.outbox.repeat_due |= silence >= timeout / 2;
        interval
    }

    /// Appends a packet that the peer has already acknowledged. The peer acknowledges it again; for some peers this is
    /// the only probe they answer. The peer drops it as a duplicate, so its content does not matter.
    pub(in crate::session) fn write_repeat(&self, out: &mut Vec<u8>) -> bool {
        let last_sent = |channel: ReliableChannel| match &self.channels[channel.index()] {
            // Packets under way are resent anyway.
            Some(reliable) if !reliable.sender.is_idle() => None,
            Some(reliable) => reliable.sender.next_sequence().checked_sub(1),
            None => self.idle_channels[channel.index()].last_sent(),
        };
        let Some((channel, sequence)) =
            ReliableChannel::ALL.into_iter().find_map(|channel| Some((channel, last_sent(channel)?)))
        else {
            return false;
        };
        ReliableData { channel, sequence: sequence as u16, payload: &[1] }.encode(out);
        true
    }

    /// Handles an ICMP error about the peer's address. It is a hint and may be forged: the peer is probed, and the
    /// session ends with `IcmpError` if nothing valid arrives within [`icmp_grace`](crate::Settings::icmp_grace) after
    /// the first report.
    ///
    /// Ignored while connecting, since the server may be starting, and while the address answers with UnknownSender.
    pub fn handle_unreachable(&mut self, now: Instant) {
        let now = Timestamp::from(now);
        if let Some(recorder) = self.recorder() {
            recorder.call_at(log::UNREACHABLE, now);
        }
        let open = matches!(self.state, State::Open | State::Closing(_));
        if !open || self.timers.is_set(Timer::Icmp) || self.is_disowned(now) {
            return;
        }
        self.timers.set(Timer::Icmp, now + self.config.icmp_grace);
        let again = now + self.ask(now);
        self.timers.set(Timer::Inactivity, again);
    }

    /// Until when no time-out ends the session.
    fn grace_until(&self) -> Option<Timestamp> {
        self.cold.as_ref()?.grace_until
    }

    /// Whether time-outs are suspended because `handle_timeout` was called late.
    pub(in crate::session) fn is_in_grace(&self, now: Timestamp) -> bool {
        self.grace_until().is_some_and(|until| now < until)
    }

    /// Extends the time-outs after a late call of `handle_timeout`: silence in a time when the session was not driven
    /// proves nothing. Each affected time-out gets a share of its length again, in which the peer is probed.
    pub(in crate::session) fn called_late(&mut self, now: Timestamp, late: Duration) {
        if late < LEAST_INTERVAL {
            return;
        }
        let is_late = |timeout: Duration| !timeout.is_zero() && late >= (timeout / LATE_SHARE).min(LATE);
        let settings = self.config.clone();
        let connecting = matches!(self.state, State::Connecting(_));
        let longest = settings.inactivity_timeout.max(settings.unacknowledged_timeout);
        let timeouts = [
            (Timer::Connect, if connecting { settings.connect_timeout } else { Duration::ZERO }),
            (Timer::Close, settings.close_timeout),
            (Timer::Icmp, settings.icmp_grace),
        ];
        let affects = |timer: Timer, timeout: Duration| self.timers.is_set(timer) && is_late(timeout);
        let any = timeouts.into_iter().any(|(timer, timeout)| affects(timer, timeout));
        if matches!(self.state, State::Closed(_)) || !(any || is_late(longest)) {
            return;
        }
        let last = self.last_received;
        let cold = self.cold();
        if cold.late_calls >= MAX_LATE_CALLS {
            return;
        }
        cold.late_calls += 1;
        let granted = |timeout: Duration| now + timeout / GRACE_SHARE;
        let timeout = settings.inactivity_timeout;
        if timeout.is_zero() && is_late(longest) {
            cold.grace_until = Some(granted(settings.unacknowledged_timeout));
        } else if is_late(timeout) {
            // Small delays together must not add more than a third of the time-out. A long delay is a pause of its own.
            let until = granted(timeout);
            let until = if late < timeout / GRACE_SHARE { until.min(last + timeout + timeout / 3) } else { until };
            cold.grace_until = cold.grace_until.max(Some(until));
        }
        for (timer, timeout) in timeouts {
            if let Some(deadline) = self.timers.deadline(timer).filter(|_| is_late(timeout)) {
                self.timers.set(timer, deadline.max(granted(timeout)));
            }
        }
        if connecting {
            self.timers.set(Timer::Handshake, now);
        }
    }
}
