//! What a client does when its server does not know it any more, or never did (section 9 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use super::timer::Timer;
use crate::{
    session::{Session, State, types::Event},
    wire::DisconnectReason,
};

/// UnknownSender must have come again within this long before the deadline to count as still coming.
const UNKNOWN_SENDER_FRESH: Duration = Duration::from_secs(2);
/// A request for a remap that nothing valid has followed is repeated after this long.
const REMAP_RETRY: Duration = Duration::from_millis(700);
/// The least time between two requests for a remap.
const REMAP_INTERVAL: Duration = Duration::from_millis(250);

impl Session {
    /// The peer goes on from another address: whoever routes datagrams has moved the path, after one that was
    /// [`Authentic`](crate::DatagramOutcome::Authentic) came from there. The application is told with
    /// [`Event::Remapped`](crate::Event::Remapped).
    pub fn handle_remap(&mut self, now: Instant) {
        if matches!(self.state, State::Open | State::Closing(_)) {
            self.heard(now);
            self.push_event(Event::Remapped);
        }
    }

    /// UnknownSender came. Anybody can send it, so it only makes a client ask: to be remapped, and for a sign of life. A client
    /// that has never heard anything valid asks again for the answer that opens its session.
    pub(in crate::session) fn unknown_sender(&mut self, now: Instant) {
        self.stats.cold().unknown_sender += 1;
        if !matches!(self.state, State::Open | State::Closing(_)) || !self.is_client() {
            return;
        }
        // Somebody is at the address, so it can be reached.
        self.timers.stop(Timer::Icmp);
        let timeout = self.config.remap_timeout;
        let until = now + if self.confirmed { timeout } else { timeout.min(UNKNOWN_SENDER_FRESH) };
        let cold = self.cold();
        cold.remap_until.get_or_insert_with(|| until.into());
        cold.unknown_sender_at = Some(now.into());
        if !self.confirmed {
            // Not reported as connected until it is known what this means.
            self.timers.stop(Timer::Connect);
        }
        // However often the server answers in between: whoever keeps sending these must not keep both sides busy.
        let asked = self.cold().remap_asked_at;
        if asked.is_some_and(|last| now < last.instant() + REMAP_INTERVAL) {
            return;
        }
        self.ask_for_remap(now);
    }

    /// Whether somebody at the peer's address has said of late that it does not know the session, and nobody has contradicted.
    pub(in crate::session) fn is_disowned(&self, now: Instant) -> bool {
        let last = self.cold.as_ref().and_then(|cold| cold.unknown_sender_at);
        last.is_some_and(|last| now < last.instant() + UNKNOWN_SENDER_FRESH)
    }

    fn ask_for_remap(&mut self, now: Instant) {
        let cold = self.cold();
        cold.remap_asked_at = Some(now.into());
        // Either of the two, or the answer, may be lost.
        let again = now + REMAP_RETRY;
        let again = cold.remap_until.map_or(again, |until| until.instant().min(again));
        self.timers.set(Timer::Remap, again);
        if self.confirmed {
            self.outbox.remap_due = true;
            self.outbox.net_status_due = true;
        } else {
            self.open(now);
        }
    }

    /// The server has sent nothing valid since it was asked for a remap: once more, until the time for that is over.
    pub(in crate::session) fn remap_timer(&mut self, now: Instant) {
        let cold = self.cold();
        if cold.remap_until.is_some_and(|until| now < until.instant()) {
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
