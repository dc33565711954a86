//! How a session ends, and what is told to whom (section 9 of `docs/protocol.md`).

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::timer::Timer;
use crate::{
    channel::send::Sender,
    error::{Closed, Origin},
    framing::NegotiationError,
    message::ReliableChannel,
    session::{
        Session, State,
        problem::Problem,
        send::DatagramBuilder,
        types::{Event, Undelivered},
    },
    wire::{AcknowledgeAll, Disconnect, DisconnectReason},
};

/// How many times as long after the one before each repetition of the Disconnect leaves, in units of half as much again as a
/// round trip: some peers end their next session for a datagram of the last, and their request, which ends the repetitions, may
/// come after exactly one. It is never acknowledged: with six in all, seven of 10,000 sessions leave untold where 30 % are lost.
const FAREWELLS: [u32; 5] = [1, 1, 2, 2, 4];
/// What a unit may be.
const FAREWELL_UNIT: RangeInclusive<Duration> = Duration::from_millis(30)..=Duration::from_millis(200);
/// And what it is before a round trip has been measured.
const UNMEASURED: Duration = Duration::from_millis(100);
/// The least time between two answers to stragglers.
const STRAGGLER_INTERVAL: Duration = Duration::from_millis(150);
/// What an acknowledgement and the Disconnect behind it take in a Multi.
const FAREWELL_ROOM: usize = 32;
/// Bytes of CRC that must vouch for what ends a session: more than guessing reaches.
pub(crate) const PROOF: usize = 4;

/// What is left of a session that has ended.
#[derive(Clone, Debug)]
pub(in crate::session) struct Ending {
    pub(in crate::session) closed: Closed,
    /// What had not arrived when it ended.
    pub(in crate::session) undelivered: Undelivered,
    /// Whether the peer is told.
    tell: bool,
    /// A Disconnect is to leave now.
    farewell_due: bool,
    /// Repetitions of it that have fallen due.
    repetitions: u8,
    /// The unit of time between them.
    unit: Duration,
    last_farewell: Option<Instant>,
    forget_at: Instant,
    over: bool,
}

impl Ending {
    pub(in crate::session) fn is_over(&self) -> bool {
        self.over && !self.farewell_due
    }

    /// When the next repetition falls due after one that was due now.
    fn next_repetition(&self, now: Instant) -> Option<Instant> {
        let units = FAREWELLS.get(usize::from(self.repetitions)).filter(|_| self.tell)?;
        Some(now + self.unit * *units).filter(|&next| next < self.forget_at)
    }
}

impl Session {
    /// Closes gracefully: nothing more is taken from the application, what was taken is delivered until it is acknowledged
    /// or [`close_timeout`](crate::Settings::close_timeout) is over, then the peer is told with this reason.
    /// [`Event::Closed`] comes when the first of the Disconnects is ready to leave: keep driving the session until
    /// [`has_told_peer`](Self::has_told_peer), or it may never arrive. [`undelivered`](Self::undelivered) then says what was not
    /// achieved in time.
    ///
    /// A client that still waits for its server just stops. Does nothing on a session that is closing or closed.
    pub fn close(&mut self, now: Instant, reason: DisconnectReason) {
        match self.state {
            State::Connecting(_) => self.end(now, Closed::new(Origin::Local, reason), false),
            State::Open => {
                self.state = State::Closing(reason);
                self.timers.set(Timer::Close, now + self.config.close_timeout);
                self.detect_losses(now);
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

    /// Whether a session that has ended has said so to its peer as often as it is going to by itself, or has nothing to say. A
    /// program that ends before has likely left its peer waiting for a time-out. False while the session lasts; it follows the
    /// end by fifteen round trips at most, two seconds in all and not more than [`linger`](crate::Settings::linger).
    pub fn has_told_peer(&self) -> bool {
        match &self.state {
            State::Closed(ending) => !ending.farewell_due && (ending.over || !self.timers.is_set(Timer::Handshake)),
            _ => false,
        }
    }

    /// Ends a session that is closing once everything has arrived.
    pub(in crate::session) fn finish_closing(&mut self, now: Instant) {
        let State::Closing(reason) = self.state else { return };
        let delivered = self.channels.iter().flatten().all(|reliable| reliable.sender.is_idle());
        if delivered && !self.outbox.has_unreliable() {
            self.end(now, Closed::new(Origin::Local, reason), true);
        }
    }

    /// The deadline of a graceful close is over.
    pub(in crate::session) fn close_deadline(&mut self, now: Instant) {
        if let State::Closing(reason) = self.state {
            self.end(now, Closed::new(Origin::Local, reason), true);
        }
    }

    /// The peer has said that it leaves. That is not answered.
    pub(in crate::session) fn disconnected(&mut self, now: Instant, reason: DisconnectReason) {
        // A peer that leaves while we do has only been faster.
        let closed = match self.state {
            State::Closing(own) if self.undelivered() == Undelivered::default() => Closed::new(Origin::Local, own),
            _ => Closed::new(Origin::Peer, reason),
        };
        self.end(now, closed, false);
    }

    /// The server's response asks for something that this side cannot do.
    pub(in crate::session) fn refuse_response(&mut self, now: Instant, error: NegotiationError) {
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
    pub(in crate::session) fn fail(&mut self, reason: DisconnectReason) {
        // Input and output carry the time; what the application does at other moments is not much later than those.
        let now = self.last_received.max(self.last_sent).instant();
        self.end(now, Closed::new(Origin::Transport, reason), true);
    }

    /// A datagram says what no honest peer sends. It is dropped; the session ends once CRCs of [`PROOF`] bytes in all vouch
    /// for it, none of them wrong in between. A peer that means it sends the next one soon; a stranger who hits a short CRC
    /// by chance does not hit it twice in a row. Without a CRC anybody could have sent it, and it is only dropped.
    pub(in crate::session) fn corrupt(&mut self, what: &'static str) {
        self.note(Problem::Packet(what));
        self.corrupt_since_reject = self.corrupt_since_reject.saturating_add(1);
        if usize::from(self.corrupt_since_reject) * self.framing.crc_length() < PROOF {
            self.stats.cold().malformed += 1;
        } else {
            self.fail(DisconnectReason::CorruptPacket);
        }
    }

    /// A packet that has been acknowledged turns out to say what no honest peer sends: nothing can fill its place.
    pub(in crate::session) fn broken(&mut self, what: &'static str) {
        self.note(Problem::Stream(what));
        self.fail(DisconnectReason::CorruptPacket);
    }

    pub(in crate::session) fn end(&mut self, now: Instant, closed: Closed, tell: bool) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        // What was acknowledged beside the words that end the session has arrived all the same.
        self.poll_receipts();
        let undelivered = self.undelivered();
        for (channel, reliable) in ReliableChannel::ALL.into_iter().zip(&mut self.channels) {
            if let Some(reliable) = reliable {
                reliable.sender = Sender::starting_at(channel, 0);
            }
        }
        let linger = self.config.linger;
        let unit = self
            .rtt
            .smoothed()
            .map_or(UNMEASURED, |round_trip| round_trip * 3 / 2)
            .clamp(*FAREWELL_UNIT.start(), *FAREWELL_UNIT.end());
        let ending = Ending {
            closed,
            undelivered,
            tell,
            farewell_due: tell,
            repetitions: 0,
            unit: unit.min(linger / (FAREWELLS.iter().sum::<u32>() + 1)),
            last_farewell: None,
            forget_at: now + linger,
            over: linger.is_zero(),
        };
        self.outbox.clear();
        self.timers.stop_all();
        self.timers.set(Timer::Close, ending.forget_at);
        self.timers.set(Timer::Handshake, ending.next_repetition(now));
        self.state = State::Closed(Box::new(ending));
        self.push_event(Event::Closed(closed));
    }

    /// A session that has ended says no more: its peer has gone on to another one at the same address. Some peers end that one
    /// for a datagram with the CRC of the last.
    pub(in crate::session) fn fall_silent(&mut self) {
        if let State::Closed(ending) = &mut self.state {
            (ending.tell, ending.farewell_due) = (false, false);
            self.timers.stop(Timer::Handshake);
        }
    }

    /// The peer has sent something to a session that has ended: it may not have been told.
    pub(in crate::session) fn straggler(&mut self, now: Instant) {
        let State::Closed(ending) = &mut self.state else { return };
        let quiet = ending.last_farewell.is_none_or(|last| now >= last + STRAGGLER_INTERVAL);
        if ending.tell && quiet {
            ending.farewell_due = true;
        }
    }

    /// A session that has ended says so again.
    pub(in crate::session) fn repeat_farewell(&mut self, now: Instant) {
        let State::Closed(ending) = &mut self.state else { return };
        ending.farewell_due = true;
        ending.repetitions += 1;
        let next = ending.next_repetition(now);
        self.timers.set(Timer::Handshake, next);
    }

    /// A session that has ended forgets its peer.
    pub(in crate::session) fn forget(&mut self) {
        let State::Closed(ending) = &mut self.state else { return };
        ending.over = true;
        self.timers.stop_all();
    }

    /// Appends the Disconnect if it is due and `most` bytes hold it. What has arrived goes with it in a Multi, so that the peer
    /// learns both or neither: it would otherwise take for lost what its datagrams have brought. The last repetition goes
    /// alone, for peers that look for it only there.
    pub(in crate::session) fn write_farewell(&mut self, now: Instant, most: usize, out: &mut Vec<u8>) -> bool {
        let State::Closed(ending) = &mut self.state else { return false };
        if !std::mem::take(&mut ending.farewell_due) {
            return false;
        }
        let reason = self.config.dialect.policies.disconnect_reason.then_some(ending.closed.reason);
        let disconnect = Disconnect { session_id: self.session_id, reason };
        if disconnect.encoded_len() > most {
            return false;
        }
        ending.last_farewell = Some(now);
        let goes_alone = usize::from(ending.repetitions) == FAREWELLS.len();
        let mut builder = DatagramBuilder::new(out, self.packet_limit().min(most));
        for (channel, reliable) in ReliableChannel::ALL.into_iter().zip(&self.channels) {
            let expected = reliable.as_ref().map_or(0, |reliable| reliable.receiver.expected());
            if expected > 0 && !goes_alone && builder.room() >= FAREWELL_ROOM {
                let sequence = (expected - 1) as u16;
                builder.add(|out| {
                    AcknowledgeAll { channel, sequence }.encode(out);
                    Some(())
                });
            }
        }
        builder.add(|out| {
            disconnect.encode(out);
            Some(())
        });
        true
    }

    pub(in crate::session) fn farewell_due(&self) -> bool {
        matches!(&self.state, State::Closed(ending) if ending.farewell_due)
    }
}
