//! The end of a session: graceful close, abort, and the Disconnects to the peer (section 9 of `docs/protocol.md`).

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use super::timer::Timer;
use crate::{
    channel::{fragment::Corrupt, send::Sender},
    error::{Closed, Origin},
    framing::NegotiationError,
    message::ReliableChannel,
    recording::log,
    session::{
        Session, State,
        problem::Problem,
        send::DatagramBuilder,
        types::{Event, Undelivered},
    },
    timestamp::Timestamp,
    wire::{AcknowledgeAll, Disconnect, DisconnectReason},
};

/// Delays between the six Disconnects, in units of 1.5 round trips.
///
/// A Disconnect is never acknowledged. With six of them and 30 % loss, 7 of 10,000 peers miss all. The first two delays
/// are short because of peers that end their next session on a datagram of the last one: their new session request
/// stops the repetitions, and may come after the first Disconnect.
const FAREWELLS: [u32; 5] = [1, 1, 2, 2, 4];
/// The range of a unit.
const FAREWELL_UNIT: RangeInclusive<Duration> = Duration::from_millis(30)..=Duration::from_millis(200);
/// The unit before a round trip has been measured.
const UNMEASURED: Duration = Duration::from_millis(100);
/// The least time between two answers to late datagrams.
const LATE_ANSWER_INTERVAL: Duration = Duration::from_millis(150);
/// The bytes of an acknowledgement and a Disconnect in a Multi.
const FAREWELL_ROOM: usize = 32;

/// The state of a session that has ended.
#[derive(Clone, Debug)]
pub(in crate::session) struct Ending {
    pub(in crate::session) closed: Closed,
    /// What had not been acknowledged when it ended.
    pub(in crate::session) undelivered: Undelivered,
    /// Whether the peer gets a Disconnect.
    tell: bool,
    /// A Disconnect must be sent now.
    disconnect_due: bool,
    /// Repetitions of the Disconnect so far.
    repetitions: u8,
    /// The unit of time between them.
    unit: Duration,
    last_disconnect: Option<Timestamp>,
    forget_at: Timestamp,
    over: bool,
}

impl Ending {
    pub(in crate::session) fn is_over(&self) -> bool {
        self.over && !self.disconnect_due
    }

    /// When the next repetition is due.
    fn next_repetition(&self, now: Timestamp) -> Option<Timestamp> {
        let units = FAREWELLS.get(usize::from(self.repetitions)).filter(|_| self.tell)?;
        Some(now + self.unit * *units).filter(|&next| next < self.forget_at)
    }
}

impl Session {
    /// Closes gracefully, with this reason for the peer. New messages are refused. Queued messages are delivered until
    /// they are acknowledged or [`close_timeout`](crate::Settings::close_timeout) has passed. Then Disconnects are
    /// sent.
    ///
    /// [`Event::Closed`] comes when the first Disconnect is ready to be sent. Drive the session until
    /// [`has_told_peer`](Self::has_told_peer) returns true, or the peer may never learn of the end.
    /// [`undelivered`](Self::undelivered) returns what was not acknowledged in time.
    ///
    /// A client that still connects stops without a Disconnect. On a session that is closing or closed this does
    /// nothing.
    pub fn close(&mut self, now: Instant, reason: DisconnectReason) {
        let now = Timestamp::from(now);
        self.record_ending(log::CLOSE, now, reason, None);
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

    /// Ends the session at once and drops queued messages. With `tell_peer`, the peer gets a Disconnect with this
    /// reason.
    ///
    /// A session that has already ended keeps its reason. Without `tell_peer` it stops repeating its Disconnect; this
    /// is required when another session takes its address.
    pub fn abort(&mut self, now: Instant, reason: DisconnectReason, tell_peer: bool) {
        let now = Timestamp::from(now);
        self.record_ending(log::ABORT, now, reason, Some(tell_peer));
        if !tell_peer {
            self.fall_silent();
        }
        self.end(now, Closed::new(Origin::Local, reason), tell_peer);
    }

    /// Whether an ended session has sent all repetitions of its Disconnect, or has none to send. A program that exits
    /// before this may leave the peer waiting for a time-out.
    ///
    /// False while the session lasts. It becomes true at most fifteen round trips after the end, and not later than two
    /// seconds or [`linger`](crate::Settings::linger).
    pub fn has_told_peer(&self) -> bool {
        match &self.state {
            State::Closed(ending) => !ending.disconnect_due && (ending.over || !self.timers.is_set(Timer::Handshake)),
            _ => false,
        }
    }

    /// Ends a closing session when everything is acknowledged.
    pub(in crate::session) fn finish_closing(&mut self, now: Timestamp) {
        let State::Closing(reason) = self.state else { return };
        let delivered = self.channels.iter().flatten().all(|reliable| reliable.sender.is_idle());
        if delivered && !self.outbox.has_unreliable() {
            self.end(now, Closed::new(Origin::Local, reason), true);
        }
    }

    /// Ends a closing session at its deadline.
    pub(in crate::session) fn close_deadline(&mut self, now: Timestamp) {
        if let State::Closing(reason) = self.state {
            self.end(now, Closed::new(Origin::Local, reason), true);
        }
    }

    /// Handles the peer's Disconnect. It is not answered.
    pub(in crate::session) fn disconnected(&mut self, now: Timestamp, reason: DisconnectReason) {
        // Both sides closed at the same time: the reason of this side counts if everything was delivered.
        let closed = match self.state {
            State::Closing(own) if self.undelivered() == Undelivered::default() => Closed::new(Origin::Local, own),
            _ => Closed::new(Origin::Peer, reason),
        };
        self.end(now, closed, false);
    }

    /// Ends the session because the server's response requires something that this side does not support.
    pub(in crate::session) fn refuse_response(&mut self, now: Timestamp, error: NegotiationError) {
        let mut closed = Closed::new(Origin::Transport, DisconnectReason::ConnectFail);
        closed.negotiation = Some(error);
        self.end(now, closed, false);
    }

    /// Ends the session at once for an external reason, such as a memory limit over all sessions or a report that the
    /// address is unreachable. The origin is [`Origin::Transport`].
    ///
    /// With [`DisconnectReason::ReliableOverflow`] the messages that wait for the application are dropped as well and counted
    /// in [`SessionStats::unread_dropped`](crate::SessionStats::unread_dropped): their memory is what is wanted. With any other
    /// reason they can still be received.
    pub fn abandon(&mut self, now: Instant, reason: DisconnectReason, tell_peer: bool) {
        let now = Timestamp::from(now);
        self.record_ending(log::ABANDON, now, reason, Some(tell_peer));
        self.end(now, Closed::new(Origin::Transport, reason), tell_peer);
        if reason == DisconnectReason::ReliableOverflow {
            self.stats.cold().unread_dropped += self.inbox.clear();
        }
    }

    /// Ends the session for a reason of the transport, and sends a Disconnect.
    pub(in crate::session) fn fail(&mut self, reason: DisconnectReason) {
        // The callers have no `now`. The time of the last datagram is close enough.
        let now = self.last_received.max(self.last_sent);
        self.end(now, Closed::new(Origin::Transport, reason), true);
    }

    /// Handles a datagram of this length with a valid CRC and invalid content. The rest of it is dropped. The session ends
    /// when such datagrams are a proof, with no wrong CRC in between.
    ///
    /// A faulty peer sends the next one soon. An attacker who guesses a short CRC once does not guess it for another length
    /// as well. Without a CRC anyone can forge such a datagram, so it never ends the session.
    pub(in crate::session) fn corrupt(&mut self, length: usize, what: Corrupt) {
        self.note(Problem::Packet(what.0));
        let crc_length = self.framing.crc_length();
        let evidence = &mut self.cold().corrupt;
        *evidence = evidence.with(length);
        if evidence.is_proof(crc_length) {
            self.fail(DisconnectReason::CorruptPacket);
        } else {
            self.stats.cold().malformed += 1;
        }
    }

    /// Counts a reliable packet that was dropped because it is impossible: it, or another one before it, may have been guessed.
    /// It says nothing about the peer.
    pub(in crate::session) fn dropped(&mut self, what: Corrupt) {
        self.note(Problem::Stream(what.0));
        self.stats.cold().malformed += 1;
    }

    pub(in crate::session) fn end(&mut self, now: Timestamp, closed: Closed, tell: bool) {
        if matches!(self.state, State::Closed(_)) {
            return;
        }
        // The datagram that ends the session may also have carried acknowledgements. They count.
        self.poll_receipts();
        let undelivered = self.undelivered();
        for (channel, reliable) in ReliableChannel::ALL.into_iter().zip(&mut self.channels) {
            if let Some(reliable) = reliable {
                // Frees queued messages now; the receiver keeps its sequence for the acknowledgements of
                // `write_disconnect`.
                reliable.sender = Sender::starting_at(channel, 0);
                reliable.receiver.finish();
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
            disconnect_due: tell,
            repetitions: 0,
            // All repetitions must fit into the linger time, after which the session is dropped.
            unit: unit.min(linger / (FAREWELLS.iter().sum::<u32>() + 1)),
            last_disconnect: None,
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

    /// Stops all Disconnects of an ended session: its peer has a new session at the same address. Some peers end that
    /// one on a datagram with the CRC of the old one.
    pub(in crate::session) fn fall_silent(&mut self) {
        if let State::Closed(ending) = &mut self.state {
            (ending.tell, ending.disconnect_due) = (false, false);
            self.timers.stop(Timer::Handshake);
        }
    }

    /// Handles a datagram that arrives after the end: the peer may have missed the Disconnect.
    pub(in crate::session) fn late_datagram(&mut self, now: Timestamp) {
        let State::Closed(ending) = &mut self.state else { return };
        let quiet = ending.last_disconnect.is_none_or(|last| now >= last + LATE_ANSWER_INTERVAL);
        // Rate-limited: a peer that is still sending gets few answers.
        if ending.tell && quiet {
            ending.disconnect_due = true;
        }
    }

    /// Repeats the Disconnect.
    pub(in crate::session) fn repeat_disconnect(&mut self, now: Timestamp) {
        let State::Closed(ending) = &mut self.state else { return };
        ending.disconnect_due = true;
        ending.repetitions += 1;
        let next = ending.next_repetition(now);
        self.timers.set(Timer::Handshake, next);
    }

    /// Stops answering late datagrams.
    pub(in crate::session) fn forget(&mut self) {
        let State::Closed(ending) = &mut self.state else { return };
        ending.over = true;
        self.timers.stop_all();
    }

    /// Appends the Disconnect if it is due and fits `most` bytes. Owed acknowledgements go into the same datagram, so
    /// that the peer gets both or neither; it would otherwise report delivered messages as lost. The last repetition
    /// has no other piece, because some peers ignore a Disconnect in a Multi.
    pub(in crate::session) fn write_disconnect(&mut self, now: Timestamp, most: usize, out: &mut Vec<u8>) -> bool {
        let State::Closed(ending) = &mut self.state else { return false };
        if !std::mem::take(&mut ending.disconnect_due) {
            return false;
        }
        let reason = self.config.dialect.policies.disconnect_reason.then_some(ending.closed.reason);
        let disconnect = Disconnect { session_id: self.session_id, reason };
        if disconnect.encoded_len() > most {
            return false;
        }
        ending.last_disconnect = Some(now);
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

    pub(in crate::session) fn disconnect_due(&self) -> bool {
        matches!(&self.state, State::Closed(ending) if ending.disconnect_due)
    }
}
