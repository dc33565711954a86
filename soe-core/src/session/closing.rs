//! How a session ends, and what is told to whom (section 9 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use super::{Event, Session, State, Timer, Undelivered};
use crate::{Closed, DisconnectReason, NegotiationError, Origin, ReliableChannel, channel::send::Sender};

/// How often the Disconnect is sent, since it is never acknowledged.
const FAREWELLS: u8 = 3;
/// The time between two of them, and the least time between two answers to stragglers.
const FAREWELL_INTERVAL: Duration = Duration::from_millis(150);
/// Bytes of CRC that must vouch for what ends a session: more than guessing reaches.
pub(crate) const PROOF: usize = 4;

/// What is left of a session that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) closed: Closed,
    /// What had not arrived when it ended.
    pub(super) undelivered: Undelivered,
    /// Whether the peer is told.
    tell: bool,
    /// A Disconnect is to leave now.
    farewell_due: bool,
    /// How many more are to follow on their own.
    repetitions: u8,
    last_farewell: Option<Instant>,
    forget_at: Instant,
    over: bool,
}

impl Ending {
    pub(super) fn is_over(&self) -> bool {
        self.over && !self.farewell_due
    }
}

impl Session {
    /// Closes gracefully: nothing more is taken from the application, what was taken is delivered until it is acknowledged
    /// or [`close_timeout`](crate::Settings::close_timeout) is over, then the peer is told with this reason.
    ///
    /// A client that still waits for its server just stops. Does nothing on a session that is closing or closed.
    pub fn close(&mut self, now: Instant, reason: DisconnectReason) {
        match self.state {
            State::Connecting(_) => self.end(now, Closed::new(Origin::Local, reason), false),
            State::Open => {
                self.state = State::Closing(reason);
                self.timers.set(Timer::Close, now + self.config.close_timeout);
                self.finish_closing(now);
            }
            State::Closing(_) | State::Closed(_) => {}
        }
    }

    /// Ends the session at once. What is queued is dropped; the peer is told with this reason if `tell_peer` says so. A session
    /// that has ended already keeps its reason; without `tell_peer` it stops repeating its Disconnect, which must be done when
    /// another session takes its address.
    pub fn abort(&mut self, now: Instant, reason: DisconnectReason, tell_peer: bool) {
        if !tell_peer {
            self.fall_silent();
        }
        self.end(now, Closed::new(Origin::Local, reason), tell_peer);
    }

    /// Ends a session that is closing once everything has arrived.
    pub(super) fn finish_closing(&mut self, now: Instant) {
        let State::Closing(reason) = self.state else { return };
        let delivered = self.channels.iter().flatten().all(|reliable| reliable.sender.is_idle());
        if delivered && !self.outbox.has_unreliable() {
            self.end(now, Closed::new(Origin::Local, reason), true);
        }
    }

    /// The deadline of a graceful close is over.
    pub(super) fn close_deadline(&mut self, now: Instant) {
        if let State::Closing(reason) = self.state {
            self.end(now, Closed::new(Origin::Local, reason), true);
        }
    }

    /// The peer has said that it leaves. That is not answered.
    pub(super) fn disconnected(&mut self, now: Instant, reason: DisconnectReason) {
        // A peer that leaves while we do has only been faster.
        let closed = match self.state {
            State::Closing(own) if self.undelivered() == Undelivered::default() => Closed::new(Origin::Local, own),
            _ => Closed::new(Origin::Peer, reason),
        };
        self.end(now, closed, false);
    }

    /// The server's response asks for something that this side cannot do.
    pub(super) fn refuse_response(&mut self, now: Instant, error: NegotiationError) {
        let mut closed = Closed::new(Origin::Transport, DisconnectReason::ConnectFail);
        closed.negotiation = Some(error);
        self.end(now, closed, false);
    }

    /// Ends the session now for a reason that lies outside of it, and that neither application asked for: the memory of all
    /// sessions is used up, or the network says that an address does not answer. The end counts as the transport's.
    pub fn abandon(&mut self, now: Instant, reason: DisconnectReason, tell_peer: bool) {
        self.end(now, Closed::new(Origin::Transport, reason), tell_peer);
    }

    /// Ends the session for a reason of the transport's own; the peer is told.
    pub(super) fn fail(&mut self, reason: DisconnectReason) {
        // Input and output carry the time; what the application does at other moments is not much later than those.
        let now = self.last_received.max(self.last_sent).instant();
        self.end(now, Closed::new(Origin::Transport, reason), true);
    }

    /// A datagram says what no honest peer sends. It is dropped; the session ends once CRCs of [`PROOF`] bytes in all vouch
    /// for it, none of them wrong in between. A peer that means it sends the next one soon; a stranger who hits a short CRC
    /// by chance does not hit it twice in a row. Without a CRC anybody could have sent it, and it is only dropped.
    pub(super) fn corrupt(&mut self, what: &'static str) {
        tracing::debug!(session_id = self.session_id, what, "corrupt packet");
        self.strikes = self.strikes.saturating_add(1);
        if usize::from(self.strikes) * self.framing.crc_length() < PROOF {
            self.stats.rare().malformed += 1;
        } else {
            self.fail(DisconnectReason::CorruptPacket);
        }
    }

    /// A packet that has been acknowledged turns out to say what no honest peer sends: nothing can fill its place.
    pub(super) fn broken(&mut self, what: &'static str) {
        tracing::debug!(session_id = self.session_id, what, "corrupt stream");
        self.fail(DisconnectReason::CorruptPacket);
    }

    pub(super) fn end(&mut self, now: Instant, closed: Closed, tell: bool) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        tracing::debug!(session_id = self.session_id, %closed, "session ended");
        let undelivered = self.undelivered();
        for (channel, reliable) in ReliableChannel::ALL.into_iter().zip(&mut self.channels) {
            if let Some(reliable) = reliable {
                reliable.sender = Sender::starting_at(channel, 0);
            }
        }
        let forget_at = now + self.config.linger;
        self.outbox.clear();
        self.state = State::Closed(Box::new(Ending {
            closed,
            undelivered,
            tell,
            farewell_due: tell,
            repetitions: if tell { FAREWELLS - 1 } else { 0 },
            last_farewell: None,
            forget_at,
            over: self.config.linger.is_zero(),
        }));
        self.timers.stop_all();
        self.timers.set(Timer::Close, if tell { (now + FAREWELL_INTERVAL).min(forget_at) } else { forget_at });
        self.push_event(Event::Closed(closed));
    }

    /// A session that has ended says no more: its peer has gone on to another one at the same address. Some peers end that one
    /// for a datagram with the CRC of the last.
    pub(super) fn fall_silent(&mut self) {
        if let State::Closed(ending) = &mut self.state {
            (ending.tell, ending.farewell_due, ending.repetitions) = (false, false, 0);
        }
    }

    /// The peer has sent something to a session that has ended: it may not have been told.
    pub(super) fn straggler(&mut self, now: Instant) {
        let State::Closed(ending) = &mut self.state else { return };
        let quiet = ending.last_farewell.is_none_or(|last| now >= last + FAREWELL_INTERVAL);
        if ending.tell && quiet {
            ending.farewell_due = true;
        }
    }

    /// The close timer of a session that has ended.
    pub(super) fn ended_timer(&mut self, now: Instant) {
        let State::Closed(ending) = &mut self.state else { return };
        if ending.repetitions > 0 {
            ending.repetitions -= 1;
            ending.farewell_due = true;
        }
        if now >= ending.forget_at {
            ending.over = true;
        } else {
            let again = ending.repetitions > 0;
            let next = if again { (now + FAREWELL_INTERVAL).min(ending.forget_at) } else { ending.forget_at };
            self.timers.set(Timer::Close, next);
        }
    }

    /// Takes the reason of a Disconnect that is to leave now.
    pub(super) fn take_farewell(&mut self, now: Instant) -> Option<DisconnectReason> {
        let State::Closed(ending) = &mut self.state else { return None };
        let due = std::mem::take(&mut ending.farewell_due);
        due.then(|| {
            ending.last_farewell = Some(now);
            ending.closed.reason
        })
    }

    pub(super) fn farewell_due(&self) -> bool {
        matches!(&self.state, State::Closed(ending) if ending.farewell_due)
    }
}
