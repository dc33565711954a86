//! Incoming datagrams: CRC check, then each packet in it.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::reach::Reach;
use crate::{
    channel::{
        fragment::Corrupt,
        opening,
        packet::Acked,
        recv::{Fault, Incoming, Kind, Received},
        send::Sender,
    },
    evidence::Evidence,
    framing::OpenError,
    message::{Channel, ReliableChannel},
    session::{
        Role, Session, State,
        life::{Timer, millis},
        problem::Problem,
        types::DatagramOutcome,
    },
    timestamp::Timestamp,
    wire::{DecodeError, MAX_NESTING, MultiPieces, NetStatusResponse, Packet, opcode},
};

/// A server answers a heartbeat if it has sent nothing for this long.
const HEARTBEAT_ANSWER_AFTER: Duration = Duration::from_millis(500);
/// A client that was heard within this time has not started again. One that has repeats its request a second later.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// A wrong CRC casts doubt on what comes within this time. Whoever guesses more rarely, so that each of his guesses is
/// the first of its kind, needs more than a year for a CRC of two bytes.
pub(in crate::session) const DOUBT: Duration = Duration::from_secs(600);
/// A heartbeat without CRC, as some peers send it. It proves nothing. A live peer also answers a probe.
const BARE_HEARTBEAT: [u8; 2] = [0, opcode::HEARTBEAT];

impl Session {
    /// Handles a datagram from the peer's address. The address may be forged.
    ///
    /// The buffer stays allocated while a message in it waits for the application. No input panics. A datagram that
    /// fails the CRC only increments a counter.
    pub fn handle_datagram(&mut self, now: Instant, datagram: BytesMut) -> DatagramOutcome {
        let now = Timestamp::from(now);
        if let Some(recorder) = self.recorder() {
            recorder.datagram(now, &datagram);
        }
        let outcome = self.take_datagram(now, datagram);
        if outcome != DatagramOutcome::Authentic {
            self.record_outcome(&outcome);
        }
        outcome
    }

    fn take_datagram(&mut self, now: Timestamp, datagram: BytesMut) -> DatagramOutcome {
        self.stats.datagrams_received += 1;
        self.stats.bytes_received += datagram.len() as u64;
        if opcode::of(&datagram).is_some_and(opcode::is_exempt) {
            return self.handle_exempt(now, datagram);
        }
        if !self.negotiated || datagram.is_empty() {
            self.stats.cold().ignored += 1;
            return DatagramOutcome::Unproven;
        }
        // Not `Rejected`: the endpoint would take it for another client's datagram.
        if datagram[..] == BARE_HEARTBEAT && self.framing.crc_length() > 0 {
            self.stats.cold().ignored += 1;
            return DatagramOutcome::Unproven;
        }
        // Longer than the peer was told to send. The original cuts it off, so that its CRC is wrong.
        if datagram.len() > self.config.udp_length as usize {
            self.stats.cold().ignored += 1;
            return DatagramOutcome::Unproven;
        }
        if matches!(self.state, State::Closed(_)) {
            return self.take_late_datagram(now, datagram);
        }
        let length = datagram.len();
        match self.framing.open(datagram) {
            Ok(packet) => {
                self.heard(now);
                let reach = Reach::new(!self.is_in_doubt(now));
                if let Err(corrupt) = self.handle_packets(now, &packet, reach) {
                    self.corrupt(length, corrupt);
                }
                self.after_input(now);
                DatagramOutcome::Authentic
            }
            Err(OpenError::Checksum(datagram) | OpenError::TooShort(datagram)) => self.reject(now, datagram),
            Err(OpenError::Corrupt(error)) => {
                self.note(Problem::Pass(error));
                self.heard(now);
                self.corrupt(length, Corrupt("a pass cannot be undone"));
                DatagramOutcome::Authentic
            }
        }
    }

    /// Handles a datagram that reaches a session that is over. What it says makes no difference any more, so the passes
    /// are not undone: op codes stand in front of what they hide.
    fn take_late_datagram(&mut self, now: Timestamp, datagram: BytesMut) -> DatagramOutcome {
        if !self.framing.verify(&datagram) {
            return self.reject(now, datagram);
        }
        self.heard(now);
        if opcode::of(&datagram) != Some(opcode::DISCONNECT) {
            self.late_datagram(now);
        }
        DatagramOutcome::Authentic
    }

    fn reject(&mut self, now: Timestamp, datagram: BytesMut) -> DatagramOutcome {
        self.stats.cold().crc_rejects += 1;
        // Somebody may be guessing CRCs. Content that no honest peer sends may have been a guess that hit: only what
        // comes from here on counts towards the end of the session.
        let cold = self.cold();
        (cold.rejected, cold.corrupt) = (Some(now), Evidence::default());
        DatagramOutcome::Rejected(datagram)
    }

    /// Whether somebody may have guessed the CRC of a datagram: wrong ones have come of late, or there is none.
    pub(in crate::session) fn is_in_doubt(&self, now: Timestamp) -> bool {
        match self.framing.crc_length() {
            0 => true,
            1..4 => {
                let rejected = self.cold.as_deref().and_then(|cold| cold.rejected);
                rejected.is_some_and(|rejected| now < rejected + DOUBT)
            }
            _ => false,
        }
    }

    /// Whether a response is expected: without an outstanding request there is no round trip to measure. While somebody
    /// may be guessing CRCs, only the peer knows when the last request was sent.
    fn expects(&self, now: Timestamp, response: &NetStatusResponse) -> bool {
        self.clock.is_outstanding() && (!self.is_in_doubt(now) || self.clock.has_asked_at(response.request_clock))
    }

    /// Handles packets without a CRC. Anybody can send them.
    fn handle_exempt(&mut self, now: Timestamp, datagram: BytesMut) -> DatagramOutcome {
        match Packet::decode(&datagram) {
            Ok(Packet::SessionRequest(request)) => {
                if matches!(self.state, State::Connecting(_)) {
                    self.handle_own_request(&request);
                } else if self.role == Role::Client {
                    self.stats.cold().ignored += 1;
                } else if request.session_id != self.session_id || matches!(self.state, State::Closed(_)) {
                    // The client has started again: a Disconnect of this session could end the new one. A repeated
                    // request for this session is no sign of a restart.
                    if request.session_id != self.session_id {
                        self.fall_silent();
                    }
                    return DatagramOutcome::ForEndpoint(datagram);
                } else if self.confirmed && now < self.last_received + HEARD_LATELY {
                    // A client that has proved itself has the response: this is a late copy of its request.
                    self.stats.cold().ignored += 1;
                } else if self.may_answer_again(now) {
                    // After some silence the client may have started again with the same id: the endpoint answers with
                    // another seed.
                    if self.confirmed {
                        return DatagramOutcome::ForEndpoint(datagram);
                    }
                    self.outbox.response_due = true;
                }
            }
            Ok(Packet::SessionResponse(response)) if self.role == Role::Client => self.handle_response(now, &response),
            Ok(Packet::UnknownSender) => self.unknown_sender(now),
            // A query to the server, not to this session.
            Ok(Packet::ServerStatus(_)) if self.role == Role::Server => return DatagramOutcome::ForEndpoint(datagram),
            // Another client may now have this address. The endpoint finds its session by id and seed.
            Ok(Packet::RemapConnection(_)) if self.role == Role::Server => {
                return DatagramOutcome::ForEndpoint(datagram);
            }
            _ => self.stats.cold().ignored += 1,
        }
        DatagramOutcome::Unproven
    }

    /// Records a valid datagram: the peer is alive and has the session.
    pub(in crate::session) fn heard(&mut self, now: Timestamp) {
        self.stats.datagrams_authentic += 1;
        self.last_received = now;
        if !self.confirmed {
            self.confirmed = true;
            self.timers.stop(Timer::Handshake);
        }
        // A valid datagram disproves every doubt about the peer: ICMP errors, UnknownSender, late timers.
        self.timers.stop(Timer::Icmp);
        self.timers.stop(Timer::Remap);
        if let Some(cold) = &mut self.cold {
            (cold.unknown_sender_at, cold.remap_until) = (None, None);
            (cold.grace_until, cold.late_calls) = (None, 0);
        }
    }

    /// Handles a packet and the packets nested in it, in order. The stack has a fixed depth.
    fn handle_packets(&mut self, now: Timestamp, packet: &Bytes, mut reach: Reach) -> Result<(), Corrupt> {
        let mut stack: [Option<MultiPieces<'_>>; MAX_NESTING] = [const { None }; MAX_NESTING];
        let mut depth = 0;
        let mut next = Some(Ok(&packet[..]));
        while let Some(piece) = next {
            let decoded = piece.and_then(|piece| match Packet::decode(piece) {
                // A later version may have more op codes.
                Err(DecodeError::UnknownOpCode(_)) => Ok(None),
                other => other.map(Some),
            });
            match decoded {
                Ok(Some(Packet::Multi(multi))) if depth < MAX_NESTING => {
                    stack[depth] = Some(multi.pieces());
                    depth += 1;
                }
                Ok(Some(Packet::Multi(_))) => return Err(Corrupt("packets nested too deep")),
                Ok(Some(decoded)) => self.handle_packet(now, packet, decoded, &mut reach)?,
                Ok(None) => self.stats.cold().malformed += 1,
                Err(error) => {
                    self.note(Problem::Malformed(error));
                    return Err(Corrupt("malformed packet"));
                }
            }
            if matches!(self.state, State::Closed(_)) {
                break;
            }
            next = None;
            // Continue behind the innermost Multi that has pieces left.
            while depth > 0 && next.is_none() {
                next = stack[depth - 1].as_mut().and_then(Iterator::next);
                depth -= usize::from(next.is_none());
            }
        }
        Ok(())
    }

    /// Handles one packet. `datagram` is the buffer that contains it.
    fn handle_packet(
        &mut self,
        now: Timestamp,
        datagram: &Bytes,
        packet: Packet<'_>,
        reach: &mut Reach,
    ) -> Result<(), Corrupt> {
        // A refusal is a Disconnect directly after the response: the session then was never connected.
        if !matches!(packet, Packet::Disconnect(_)) && !self.announced {
            self.announce();
        }
        match packet {
            Packet::Reliable(data) => {
                let body = datagram.slice_ref(data.payload);
                let packet = Incoming { sequence: data.sequence, kind: Kind::Data, body, is_proven: reach.is_proven() };
                return self.handle_reliable(now, data.channel, packet, reach);
            }
            Packet::Fragment(fragment) => {
                let body = datagram.slice_ref(fragment.body);
                let packet =
                    Incoming { sequence: fragment.sequence, kind: Kind::Fragment, body, is_proven: reach.is_proven() };
                return self.handle_reliable(now, fragment.channel, packet, reach);
            }
            Packet::AcknowledgeAll(ack) => {
                self.handle_acknowledge(now, ack.channel, ack.sequence, reach, Sender::acknowledge_all);
            }
            Packet::Acknowledge(ack) => {
                self.handle_acknowledge(now, ack.channel, ack.sequence, reach, Sender::acknowledge);
            }
            Packet::Data(message) => self.deliver_unreliable(Channel::Unreliable, datagram.slice_ref(message)),
            Packet::Ordered(ordered) => self.handle_ordered(now, datagram, &ordered),
            Packet::Group(group) => return self.handle_group(datagram, group.body()),
            // One of a datagram, which has room for dozens: who guesses must not try so many ids at once.
            Packet::Disconnect(disconnect) if reach.is_first_end() && disconnect.session_id == self.session_id => {
                self.disconnected(now, disconnect.reason.unwrap_or(crate::DisconnectReason::None));
            }
            Packet::Heartbeat => {
                let answers = self.role == Role::Server && self.config.dialect.policies.answers_heartbeat;
                if answers && now >= self.last_sent + HEARTBEAT_ANSWER_AFTER {
                    self.outbox.heartbeat_due = true;
                }
            }
            Packet::NetStatusRequest(request) => {
                self.window_in_request(now, request.window());
                self.outbox.net_status_reply = Some(Box::new(request));
            }
            Packet::NetStatusResponse(response) if reach.is_first_answer() && self.expects(now, &response) => {
                self.window_in_response(now, response.window());
                let clock = millis(self.epoch, now);
                self.clock.answered(clock, &response, self.stats.datagrams_authentic);
                self.small_passed(now);
            }
            _ => self.stats.cold().ignored += 1,
        }
        Ok(())
    }

    fn handle_reliable(
        &mut self,
        now: Timestamp,
        channel: ReliableChannel,
        packet: Incoming,
        reach: &mut Reach,
    ) -> Result<(), Corrupt> {
        let limits = self.recv_limits(now, channel);
        self.reliable(channel);
        self.watch_quiet(now);
        let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { return Ok(()) };
        if !reach.has_arrived(channel, packet.sequence, || reliable.receiver.reach(now)) {
            self.stats.cold().beyond_window += 1;
            return Ok(());
        }
        let received = reliable.receiver.receive(now, packet, &limits, &mut self.inbox);
        self.stalled |= reliable.receiver.is_stalled();
        match received {
            Ok(Received::InOrder) => {}
            Ok(Received::Ahead) => {
                self.stats.cold().out_of_order += 1;
                self.watch_healing();
            }
            Ok(Received::Duplicate) => {
                self.stats.cold().duplicates += 1;
                self.watch_healing();
            }
            Ok(Received::BeyondWindow) => self.stats.cold().beyond_window += 1,
            Err(Fault::Packet(corrupt) | Fault::Stream(corrupt)) => return Err(corrupt),
            Err(Fault::Doubtful(corrupt)) => {
                self.watch_healing();
                self.dropped(corrupt);
            }
        }
        Ok(())
    }

    fn handle_acknowledge(
        &mut self,
        now: Timestamp,
        channel: ReliableChannel,
        sequence: u16,
        reach: &mut Reach,
        acknowledge: impl FnOnce(&mut Sender, Timestamp, u16, Option<Duration>) -> Option<Acked>,
    ) {
        let soonest = self.rtt.soonest();
        let acked = match &mut self.channels[channel.index()] {
            Some(reliable) => {
                let sender = &mut reliable.sender;
                let is_meant = reach.is_acknowledged(channel, sequence, || sender.flight().span().max(opening::BASE));
                is_meant.then(|| acknowledge(sender, now, sequence, soonest)).flatten()
            }
            None => self.idle_channels[channel.index()].acknowledge(sequence),
        };
        self.handle_acked(now, channel, acked);
    }

    fn handle_acked(&mut self, now: Timestamp, channel: ReliableChannel, acked: Option<Acked>) {
        let Some(acked) = acked else {
            self.stats.cold().bogus_acks += 1;
            return;
        };
        let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { return };
        reliable.answered = Some(now);
        if acked.packets == 0 {
            if acked.moved > 0 {
                self.window_moved(now, channel, acked.moved);
            }
            return;
        }
        // Only the acknowledgement of something new shows that the application reads.
        reliable.is_unread = false;
        self.backoff = 0;
        if let Some(age) = acked.late {
            self.rtt.late(age);
        }
        if let Some((newest, oldest)) = acked.ages {
            self.rtt.sample(now, newest, oldest);
        }
        if let Some(age) = acked.overtaken {
            self.rtt.reordered(age);
        }
        self.rtt.repaired(acked.repaired);
        self.congestion.found(acked.found);
        let newest = reliable.sender.flight().newest_acked();
        self.congestion.acknowledged(now, acked.bytes, newest, self.outbox.datagrams, acked.ages);
        self.passed(acked.largest, newest);
        self.outbox.acked = true;
    }

    /// Updates losses, receipts, a graceful close and acknowledgements after all packets of a datagram.
    fn after_input(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.outbox.acked) {
            self.poll_receipts();
            self.detect_losses(now);
            // What waited for the congestion window may now wait for the pacer.
            self.fill_pacers(now);
            self.set_pace_timer();
            self.finish_closing(now);
        }
        self.set_ack_timer();
    }
}
