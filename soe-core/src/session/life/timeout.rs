//! The actions of expired timers.

use std::time::{Duration, Instant};

use super::timer::Timer;
use crate::{
    error::{Closed, Origin},
    recording::log,
    session::{Session, State},
    timestamp::Timestamp,
    wire::DisconnectReason,
};

impl Session {
    /// Handles expired timers. Call it at [`poll_timeout`](Self::poll_timeout); a call at any other time is harmless.
    ///
    /// Pass in all datagrams that have arrived before this call: a datagram that waits in a socket's buffer is not
    /// silence. A call much later than [`poll_timeout`](Self::poll_timeout) shows that the session was not driven, for
    /// example because the process was stopped. Then the peer is probed and has a quarter of the time-out to answer
    /// before the session ends. This is granted at most eight times in one silence.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = Timestamp::from(now);
        if let Some(recorder) = self.recorder() {
            recorder.call_at(log::TIMEOUT, now);
        }
        if let Some(late) = self.timers.next().and_then(|due| now.checked_duration_since(due)) {
            // Measured before the timers move. `late` is zero for a timer served in time, which lets the estimate
            // decay.
            self.lateness.served(late);
            if !late.is_zero() {
                self.called_late(now, late);
            }
        }
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Handshake if matches!(self.state, State::Closed(_)) => self.repeat_disconnect(now),
                Timer::Handshake => self.handshake_timer(now),
                Timer::Connect => self.connect_timer(now),
                // They leave with the next data, or in a datagram of their own.
                Timer::Ack => self.outbox.acks_due = true,
                Timer::Resend => self.resend_timer(now),
                Timer::Heartbeat => self.heartbeat_timer(now),
                Timer::Inactivity => self.inactivity_timer(now),
                Timer::NetStatus => {
                    self.outbox.net_status_due = true;
                    let next = now + self.question_interval();
                    self.timers.set(Timer::NetStatus, next);
                }
                // Refilled here because `has_transmit` only checks the tokens that are there.
                Timer::Pace => self.fill_pacers(now),
                Timer::PortAlive => self.port_alive_timer(now),
                Timer::Quiet => self.quiet_timer(now),
                Timer::Icmp => self.unanswered(now, DisconnectReason::IcmpError),
                Timer::Remap => self.remap_timer(now),
                Timer::Healing => self.healing_timer(now),
                Timer::Close if matches!(self.state, State::Closing(_)) => self.close_deadline(now),
                Timer::Close => self.forget(),
            }
        }
    }

    /// Ends the session without a Disconnect: the peer does not answer.
    pub(in crate::session) fn unanswered(&mut self, now: Timestamp, reason: DisconnectReason) {
        self.end(now, Closed::new(Origin::Transport, reason), false);
    }

    fn handshake_timer(&mut self, now: Timestamp) {
        match &mut self.state {
            State::Connecting(connecting) => connecting.request_due = true,
            State::Open | State::Closing(_) if !self.confirmed => {
                // Two lengths: at the address of a live session one proves nothing.
                self.outbox.question_due = true;
                self.open(now);
            }
            _ => {}
        }
    }

    /// Frees memory that traffic has left behind when nothing is under way. Not after each message: the next one would
    /// allocate it again.
    fn quiet_timer(&mut self, now: Timestamp) {
        if self.is_idle() {
            self.shrink(now);
        } else {
            self.timers.set(Timer::Quiet, now + QUIET);
        }
    }

    /// Starts the timer that frees memory after traffic.
    pub(in crate::session) fn watch_quiet(&mut self, now: Timestamp) {
        if !self.timers.is_set(Timer::Quiet) && !matches!(self.state, State::Closed(_)) {
            self.timers.set(Timer::Quiet, now + QUIET);
        }
    }

    fn port_alive_timer(&mut self, now: Timestamp) {
        let interval = self.config.port_alive_interval;
        let deadline = self.outbox.last_port_alive.max(Some(self.last_sent)).unwrap_or(self.last_sent) + interval;
        self.outbox.port_alive_due = deadline <= now;
        self.timers.set(Timer::PortAlive, if deadline <= now { now + interval } else { deadline });
    }

    /// Probes the peer. Call it when another peer sends from the session's address, which may have been reassigned.
    pub fn ask_for_life(&mut self) {
        if let Some(recorder) = self.recorder() {
            recorder.call(log::ASK_FOR_LIFE);
        }
        if matches!(self.state, State::Open | State::Closing(_)) {
            // All that peers of any kind answer.
            (self.outbox.net_status_due, self.outbox.question_due, self.outbox.repeat_due) = (true, true, true);
        }
    }
}

/// The interval at which a session with traffic checks whether it can free memory.
const QUIET: Duration = Duration::from_secs(5);
