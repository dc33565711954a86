//! Changes of address, and clients whose server no longer recognizes their address (section 9 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use super::timer::Timer;
use crate::{
    recording::log,
    session::{Session, State, types::Event},
    timestamp::Timestamp,
    wire::DisconnectReason,
};

/// An UnknownSender within this time before the deadline shows that the server still does not recognize the session.
const UNKNOWN_SENDER_FRESH: Duration = Duration::from_secs(2);
/// The time after which a remap request is repeated if nothing valid arrives.
const REMAP_RETRY: Duration = Duration::from_millis(700);
/// The least time between two remap requests.
const REMAP_INTERVAL: Duration = Duration::from_millis(250);

impl Session {
    /// Records that the peer moved to another address. The owner of the routing calls it after a datagram that was
    /// [`Authentic`](crate::DatagramOutcome::Authentic) came from there. The application gets
    /// [`Event::Remapped`](crate::Event::Remapped).
    pub fn handle_remap(&mut self, now: Instant) {
        let now = Timestamp::from(now);
        if let Some(recorder) = self.recorder() {
            recorder.call_at(log::REMAP, now);
        }
        if matches!(self.state, State::Open | State::Closing(_)) {
            self.heard(now);
            self.push_event(Event::Remapped);
        }
    }

    /// Handles UnknownSender, which anyone can forge. A client requests a remap and probes the server. A client that
    /// has received nothing valid yet also repeats the datagram that opens its session.
    pub(in crate::session) fn unknown_sender(&mut self, now: Timestamp) {
        self.stats.cold().unknown_sender += 1;
        if !matches!(self.state, State::Open | State::Closing(_)) || !self.is_client() {
            return;
        }
        // Something answers at the address, so it is reachable.
        self.timers.stop(Timer::Icmp);
        let timeout = self.config.remap_timeout;
        let until = now + if self.confirmed { timeout } else { timeout.min(UNKNOWN_SENDER_FRESH) };
        let cold = self.cold();
        cold.remap_until.get_or_insert(until);
        cold.unknown_sender_at = Some(now);
        if !self.confirmed {
            // Do not report the session as connected until this is resolved.
            self.timers.stop(Timer::Connect);
        }
        // Rate limit: forged UnknownSender datagrams must not keep both sides busy.
        let asked = self.cold().remap_asked_at;
        if asked.is_some_and(|last| now < last + REMAP_INTERVAL) {
            return;
        }
        self.ask_for_remap(now);
    }

    /// Whether the server's address has recently sent UnknownSender, and nothing valid since.
    pub(in crate::session) fn is_disowned(&self, now: Timestamp) -> bool {
        let last = self.cold.as_ref().and_then(|cold| cold.unknown_sender_at);
        last.is_some_and(|last| now < last + UNKNOWN_SENDER_FRESH)
    }

    fn ask_for_remap(&mut self, now: Timestamp) {
        let cold = self.cold();
        cold.remap_asked_at = Some(now);
        // The two requests, or their answer, may be lost.
        let again = now + REMAP_RETRY;
        let again = cold.remap_until.map_or(again, |until| until.min(again));
        self.timers.set(Timer::Remap, again);
        self.outbox.remap_due = true;
        if self.confirmed {
            self.outbox.net_status_due = true;
        } else {
            // Either the datagram that opens the session was lost, or this client's address has changed since and what the
            // server sent went to the old one.
            self.open(now);
        }
    }

    /// Repeats the remap request until its time is over.
    pub(in crate::session) fn remap_timer(&mut self, now: Timestamp) {
        let cold = self.cold();
        if cold.remap_until.is_some_and(|until| now < until) {
            self.ask_for_remap(now);
            return;
        }
        cold.remap_until = None;
        let is_disowned = self.is_disowned(now);
        match self.confirmed {
            true if is_disowned => self.unanswered(now, DisconnectReason::UnreachableConnection),
            // The session never opened: the Disconnect that refused it was lost.
            false if is_disowned => self.unanswered(now, DisconnectReason::ConnectionRefused),
            true => {}
            false => self.announce(),
        }
    }
}
