//! What happens when a timer expires.

use std::time::{Duration, Instant};

use super::timer::Timer;
use crate::{
    error::{Closed, Origin},
    session::{Session, State},
    wire::DisconnectReason,
};

impl Session {
    /// Does what is due. To be called at [`poll_timeout`](Self::poll_timeout), and harmless at any other time.
    ///
    /// Give the session everything that has arrived before this is called: a datagram that waits in a socket's buffer is no
    /// silence. A call that comes much later than [`poll_timeout`](Self::poll_timeout) asked for shows that nobody has driven
    /// the session in between. Then nothing ends the session before the peer has been asked anew and has had a quarter of the
    /// time-out to answer; a peer that has really gone is still noticed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let late = self.timers.next().map_or(Duration::ZERO, |due| now.saturating_duration_since(due));
        if !late.is_zero() {
            self.called_late(now, late);
        }
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Handshake if matches!(self.state, State::Closed(_)) => self.repeat_farewell(now),
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
                Timer::Close => self.forget(),
            }
        }
    }

    /// Ends the session for want of a peer that could be told.
    pub(in crate::session) fn unanswered(&mut self, now: Instant, reason: DisconnectReason) {
        self.end(now, Closed::new(Origin::Transport, reason), false);
    }

    fn handshake_timer(&mut self, now: Instant) {
        match &mut self.state {
            State::Connecting(connecting) => connecting.request_due = true,
            State::Open | State::Closing(_) if !self.confirmed => self.open(now),
            _ => {}
        }
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
    pub(in crate::session) fn watch_quiet(&mut self, now: Instant) {
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

    /// Sends the peer something that it answers: somebody else sends from its address, and it may not be there any more.
    pub fn ask_for_life(&mut self) {
        if matches!(self.state, State::Open | State::Closing(_)) {
            self.outbox.net_status_due = true;
        }
    }
}

/// This long after traffic has begun, and again until it rests, a session gives back what it does not need at rest.
const QUIET: Duration = Duration::from_secs(5);
