//! What keeps an idle session alive, and when a silent peer is given up (section 9 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use super::timer::Timer;
use crate::{
    error::{Closed, Origin},
    message::ReliableChannel,
    session::{Role, Session, State},
    wire::{DisconnectReason, ReliableData},
};

/// The least time between two questions, and between two heartbeats that follow from the inactivity time-out.
const LEAST_INTERVAL: Duration = Duration::from_millis(10);
/// The most time between two questions when the time-out is near.
const URGENT_INTERVAL: Duration = Duration::from_millis(250);
/// A call of `handle_timeout` that is later than this part of a time-out, or than `LATE`, leaves that time-out some time to ask.
const LATE_SHARE: u32 = 16;
const LATE: Duration = Duration::from_secs(1);
/// The part of a time-out that is granted then.
const GRACE_SHARE: u32 = 4;
/// How often in one silence. A driver that is always late must not keep a dead session for ever.
const MAX_LATE_CALLS: u8 = 8;

impl Session {
    /// How long the peer may be silent before it is asked. The client asks first, so that one question does for both. A server
    /// asks early only who has answered before: there are clients that answer nothing, and whose own heartbeat leaves when they
    /// have heard nothing for 25 s. Each question would put it off.
    pub(in crate::session) fn first_silence(&self) -> Duration {
        let timeout = self.config.inactivity_timeout;
        match self.role {
            Role::Client => timeout / 4,
            Role::Server if self.clock.has_answers() => timeout / 4 + timeout / 16,
            Role::Server => timeout - timeout / 8,
        }
    }

    /// How long this side may send nothing before a heartbeat leaves; zero: never mind.
    pub(in crate::session) fn heartbeat_interval(&self) -> Duration {
        let (heartbeat, timeout) = (self.config.heartbeat_after, self.config.inactivity_timeout);
        // The peer's time-out is likely to be like this side's. Several heartbeats fit into it, since some may be lost.
        if timeout.is_zero() { heartbeat } else { heartbeat.min(self.first_silence().max(LEAST_INTERVAL)) }
    }

    pub(in crate::session) fn heartbeat_timer(&mut self, now: Instant) {
        let interval = self.heartbeat_interval();
        let deadline = self.last_sent.instant() + interval;
        let timeout = self.config.inactivity_timeout;
        let asked = self.last_received.instant() + self.first_silence();
        // A client that is about to send a heartbeat since it has heard nothing is not kept from it shortly before.
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

    pub(in crate::session) fn inactivity_timer(&mut self, now: Instant) {
        let timeout = self.config.inactivity_timeout;
        let last = self.last_received.instant();
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

    /// Asks the peer for a sign of life. Returns when to ask again if none comes.
    ///
    /// Peers differ in what they answer: some heartbeats, some the question for statistics, some nothing but reliable packets.
    /// The first question is the cheapest that known peers answer, the next ones are all of them.
    fn ask(&mut self, now: Instant) -> Duration {
        let timeout = self.config.inactivity_timeout;
        let silence = now.saturating_duration_since(self.last_received.instant());
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

    /// Appends a packet that the peer has acknowledged before, which makes it acknowledge again: the only sign of life that
    /// some peers give when asked. It counts as a duplicate there, so its content does not matter.
    pub(in crate::session) fn write_repeat(&self, out: &mut Vec<u8>) -> bool {
        let last_sent = |channel: ReliableChannel| match &self.channels[channel.index()] {
            // What is under way is sent again until it is acknowledged.
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

    /// The socket reported that the peer cannot be reached (an ICMP error). That is a hint, and may be forged: the peer is
    /// asked for a sign of life, and the session ends with `IcmpError` if nothing valid comes within
    /// [`icmp_grace`](crate::Settings::icmp_grace) after the first report. Ignored while negotiating, since the server may be
    /// about to start, and while somebody at the address answers that it does not know the session.
    pub fn handle_unreachable(&mut self, now: Instant) {
        let open = matches!(self.state, State::Open | State::Closing(_));
        if !open || self.timers.is_set(Timer::Icmp) || self.is_disowned(now) {
            return;
        }
        self.timers.set(Timer::Icmp, now + self.config.icmp_grace);
        let again = now + self.ask(now);
        self.timers.set(Timer::Inactivity, again);
    }

    /// Until when nothing is given up, whatever the time-outs say.
    fn grace_until(&self) -> Option<Instant> {
        self.cold.as_ref()?.grace_until.map(|until| until.instant())
    }

    /// Whether reliable packets are not given up yet, since nobody has driven the session for a while.
    pub(in crate::session) fn is_in_grace(&self, now: Instant) -> bool {
        self.grace_until().is_some_and(|until| now < until)
    }

    /// Nobody has driven the session for so long: that the peer was not heard in this time says nothing about it. Whatever
    /// would end the session gets a part of its time-out anew, in which the peer is asked.
    pub(in crate::session) fn called_late(&mut self, now: Instant, late: Duration) {
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
        let last = self.last_received.instant();
        let cold = self.cold();
        if cold.late_calls >= MAX_LATE_CALLS {
            return;
        }
        cold.late_calls += 1;
        let granted = |timeout: Duration| now + timeout / GRACE_SHARE;
        let timeout = settings.inactivity_timeout;
        if timeout.is_zero() && is_late(longest) {
            cold.grace_until = Some(granted(settings.unacknowledged_timeout).into());
        } else if is_late(timeout) {
            // Small delays together must not add up to more than a third of the time-out; a long one is a pause of its own.
            let until = granted(timeout);
            let until = if late < timeout / GRACE_SHARE { until.min(last + timeout + timeout / 3) } else { until };
            cold.grace_until = cold.grace_until.max(Some(until.into()));
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
