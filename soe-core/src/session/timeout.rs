//! What happens when a timer expires.

use std::time::{Duration, Instant};

use super::{Session, State, Timer};
use crate::{Closed, DisconnectReason, Origin};

/// UnknownSender must have come again within this long before the deadline to count as still coming.
const UNKNOWN_SENDER_FRESH: Duration = Duration::from_secs(2);
/// A peer is asked for a sign of life in this last part of the inactivity time-out: 1/8, so that by default its heartbeat
/// is overdue when it is asked.
const SILENCE_ASKED: u32 = 8;
/// How often it is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(250);

/// How long a peer may be silent before it is asked.
pub(super) fn first_silence(timeout: Duration) -> Duration {
    timeout - timeout / SILENCE_ASKED
}

impl Session {
    /// Does what is due. To be called at [`poll_timeout`](Self::poll_timeout), and harmless at any other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Handshake => self.handshake_timer(now),
                Timer::Connect => self.connect_timer(now),
                // The next datagram takes them along, or is made for them.
                Timer::Ack => self.outbox.acks_due = true,
                Timer::Resend => self.resend_timer(now),
                Timer::Heartbeat => self.heartbeat_timer(now),
                Timer::Inactivity => self.inactivity_timer(now),
                Timer::NetStatus => {
                    self.outbox.net_status_due = true;
                    self.timers.set(Timer::NetStatus, now + self.config.net_status_interval);
                }
                Timer::Pace => self.fill_pacers(now),
                Timer::PortAlive => self.port_alive_timer(now),
                Timer::Quiet => self.quiet_timer(now),
                Timer::Icmp => self.unanswered(now, DisconnectReason::IcmpError),
                Timer::Remap => self.remap_timer(now),
                Timer::Close if matches!(self.state, State::Closing(_)) => self.close_deadline(now),
                Timer::Close => self.ended_timer(now),
            }
        }
    }

    /// Ends the session for want of a peer that could be told.
    pub(super) fn unanswered(&mut self, now: Instant, reason: DisconnectReason) {
        self.end(now, Closed::new(Origin::Transport, reason), false);
    }

    fn handshake_timer(&mut self, now: Instant) {
        match &mut self.state {
            State::Connecting(connecting) => connecting.request_due = true,
            State::Open | State::Closing(_) if !self.confirmed => self.open(now),
            _ => {}
        }
    }

    fn heartbeat_timer(&mut self, now: Instant) {
        let deadline = self.last_sent.instant() + self.config.heartbeat_after;
        if deadline <= now {
            self.outbox.heartbeat_due = true;
        }
        self.timers.set(Timer::Heartbeat, if deadline <= now { now + self.config.heartbeat_after } else { deadline });
    }

    /// Memory that traffic has left behind goes back when nothing is under way; now and then, not between two messages.
    fn quiet_timer(&mut self, now: Instant) {
        if self.is_idle() {
            self.shrink(now);
        } else {
            self.timers.set(Timer::Quiet, now + QUIET);
        }
    }

    /// Some traffic is about to leave memory behind.
    pub(super) fn watch_quiet(&mut self, now: Instant) {
        if !self.timers.is_set(Timer::Quiet) && !matches!(self.state, State::Closed(_)) {
            self.timers.set(Timer::Quiet, now + QUIET);
        }
    }

    fn port_alive_timer(&mut self, now: Instant) {
        let interval = self.config.port_alive_interval;
        let deadline =
            self.outbox.last_port_alive.max(Some(self.last_sent)).unwrap_or(self.last_sent).instant() + interval;
        self.outbox.port_alive_due = deadline <= now;
        self.timers.set(Timer::PortAlive, if deadline <= now { now + interval } else { deadline });
    }

    /// The peer goes on from another address: whoever routes datagrams has moved the path, after one that was
    /// [`Authentic`](super::Verdict::Authentic) came from there. The application is told with
    /// [`Event::Remapped`](super::Event::Remapped).
    pub fn handle_remap(&mut self, now: Instant) {
        if matches!(self.state, State::Open | State::Closing(_)) {
            self.heard(now);
            self.push_event(super::Event::Remapped);
        }
    }

    /// Sends the peer something that it answers: somebody else sends from its address, and it may not be there any more.
    pub fn ask_for_life(&mut self) {
        if matches!(self.state, State::Open | State::Closing(_)) {
            self.outbox.net_status_due = true;
        }
    }

    fn inactivity_timer(&mut self, now: Instant) {
        let timeout = self.config.inactivity_timeout;
        let last = self.last_received.instant();
        let deadline = last + timeout;
        let ask = last + first_silence(timeout);
        if deadline <= now {
            self.end(now, Closed::new(Origin::Transport, DisconnectReason::Timeout), true);
        } else if ask <= now {
            // A lost heartbeat or two must not end an idle session; everybody answers this.
            self.outbox.net_status_due = true;
            self.timers.set(Timer::Inactivity, deadline.min(now + ASK_INTERVAL));
        } else {
            self.timers.set(Timer::Inactivity, ask);
        }
    }

    /// The socket reported that the peer cannot be reached (an ICMP error). Tolerated for
    /// [`icmp_grace`](crate::Settings::icmp_grace) after the first; any valid datagram clears it. Ignored while negotiating:
    /// the server may be about to start.
    pub fn handle_unreachable(&mut self, now: Instant) {
        let open = matches!(self.state, State::Open | State::Closing(_));
        if open && !self.timers.is_set(Timer::Icmp) {
            self.timers.set(Timer::Icmp, now + self.config.icmp_grace);
        }
    }

    /// UnknownSender came. Anybody can send it, so it only makes a client ask: to be remapped, and for a sign of life.
    pub(super) fn unknown_sender(&mut self, now: Instant) {
        self.stats.rare().unknown_sender += 1;
        if !matches!(self.state, State::Open | State::Closing(_)) || !self.is_client() {
            return;
        }
        let until = now + self.config.remap_timeout;
        let rare = self.rare();
        rare.remap_until.get_or_insert_with(|| until.into());
        rare.unknown_sender_at = Some(now.into());
        // However often the server answers in between: whoever keeps sending these must not keep both sides busy.
        if rare.remap_asked_at.is_some_and(|last| now < last.instant() + REMAP_INTERVAL) {
            return;
        }
        self.ask_for_remap(now);
    }

    fn ask_for_remap(&mut self, now: Instant) {
        let rare = self.rare();
        rare.remap_asked_at = Some(now.into());
        // Either of the two, or the answer, may be lost.
        let again = now + REMAP_RETRY;
        let again = rare.remap_until.map_or(again, |until| until.instant().min(again));
        self.outbox.remap_due = true;
        self.outbox.net_status_due = true;
        self.timers.set(Timer::Remap, again);
    }

    /// The server has sent nothing valid since it was asked for a remap: once more, until the time for that is over.
    fn remap_timer(&mut self, now: Instant) {
        let rare = self.rare();
        if rare.remap_until.is_some_and(|until| now < until.instant()) {
            self.ask_for_remap(now);
            return;
        }
        rare.remap_until = None;
        if rare.unknown_sender_at.is_some_and(|last| now < last.instant() + UNKNOWN_SENDER_FRESH) {
            self.unanswered(now, DisconnectReason::UnreachableConnection);
        }
    }
}

/// A request for a remap that nothing valid has followed is repeated after this long.
const REMAP_RETRY: Duration = Duration::from_millis(700);
/// This long after traffic has begun, and again until it rests, a session gives back what it does not need at rest.
const QUIET: Duration = Duration::from_secs(5);
/// The least time between two requests for a remap.
const REMAP_INTERVAL: Duration = Duration::from_millis(250);
