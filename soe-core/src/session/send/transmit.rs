//! The next datagram to send, and several of them as one GSO segment run.

use std::time::Instant;

use bytes::BufMut;

use crate::{
    config::Oversized,
    message::ReliableChannel,
    recording::log,
    session::{
        Role, Session, State,
        life::{Timer, millis, response},
        types::{Event, Receipt, Transmit},
    },
    timestamp::Timestamp,
    wire::{self, NetStatusRequest, RemapConnection, opcode},
};

/// The most datagrams in one segment run: what Linux splits in one system call.
const MAX_SEGMENTS: usize = 64;
/// The most bytes in one segment run, below the limit of one UDP payload.
const MAX_SEGMENT_RUN: usize = 60_000;

const HEARTBEAT: [u8; 2] = [0, opcode::HEARTBEAT];

/// Whether a packet gets passes and a CRC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seal {
    Sealed,
    Exempt,
}

impl Session {
    /// Appends the next datagrams to `buf`: one, or several of one size (a GSO segment run). Call until `None`, and
    /// send each result to the peer's address.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        let now = Timestamp::from(now);
        if let Some(recorder) = self.recorder() {
            recorder.call_at(log::POLL, now);
        }
        let before = buf.len();
        let transmit = self.next_transmit(now, buf);
        if let (Some(transmit), Some(recorder)) = (&transmit, self.recorder()) {
            recorder.transmit(&buf[before..], transmit.segment_size, transmit.time_to_live);
        }
        transmit
    }

    fn next_transmit(&mut self, now: Timestamp, buf: &mut Vec<u8>) -> Option<Transmit> {
        // Already sealed and counted when it was written, as the last datagram of the previous run.
        if let Some(held) = self.outbox.take_held() {
            buf.extend_from_slice(&held);
            return Some(Transmit::single(held.len()));
        }
        // Only to a proven address, for which `credit` is unlimited.
        if self.outbox.port_alive_due && self.credit() == usize::MAX {
            self.outbox.port_alive_due = false;
            return Some(self.port_alive(now, buf));
        }
        self.fill_pacers(now);
        let Some(segment) = self.next_datagram(now, buf) else {
            self.update_timers(now);
            return None;
        };
        let mut transmit = Transmit::single(segment);
        // Only a nearly full datagram starts a run. After a small one, the next is likely larger and would have to be
        // held.
        while segment * 2 >= self.udp_length()
            && transmit.datagrams() < MAX_SEGMENTS
            && transmit.size + segment <= MAX_SEGMENT_RUN
        {
            let before = buf.len();
            let Some(size) = self.next_datagram(now, buf) else { break };
            if size > segment {
                self.outbox.hold(&buf[before..]);
                buf.truncate(before);
                break;
            }
            transmit.size += size;
            // GSO allows only the last segment of a run to be shorter.
            if size < segment {
                break;
            }
        }
        Some(transmit)
    }

    /// Writes a datagram with a small time to live: it refreshes the NAT mapping and does not reach the peer.
    fn port_alive(&mut self, now: Timestamp, buf: &mut Vec<u8>) -> Transmit {
        let before = buf.len();
        wire::Packet::PortAlive.encode(buf);
        self.outbox.last_port_alive = Some(now);
        let mut transmit = Transmit::single(buf.len() - before);
        transmit.time_to_live = Some(self.config.port_alive_hops);
        transmit
    }

    /// Sets the timers after everything has been sent.
    fn update_timers(&mut self, now: Timestamp) {
        if !matches!(self.state, State::Closed(_)) {
            self.set_ack_timer();
            self.detect_losses(now);
            self.set_pace_timer();
            self.finish_closing(now);
        }
    }

    pub(in crate::session) fn set_ack_timer(&mut self) {
        let receivers = self.channels.iter().flatten().map(|reliable| &reliable.receiver);
        let deadline = receivers.filter_map(|receiver| receiver.acks_owed().deadline()).min();
        self.timers.set(Timer::Ack, deadline);
    }

    /// Appends the next datagram. Returns its size.
    fn next_datagram(&mut self, now: Timestamp, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        // A packet without CRC proves nothing to the peer, and forged requests can cause one. It does not delay the
        // next heartbeat and is not counted in the exchange of statistics.
        if self.write_packet(now, out)? == Seal::Sealed {
            self.framing.seal(out, start);
            self.outbox.datagrams += 1;
            self.outbox.heartbeat_due = false;
            self.last_sent = now;
        }
        let size = out.len() - start;
        self.stats.datagrams_sent += 1;
        self.stats.bytes_sent += size as u64;
        Some(size)
    }

    fn write_packet(&mut self, now: Timestamp, out: &mut Vec<u8>) -> Option<Seal> {
        if matches!(self.state, State::Connecting(_)) {
            let request = self.take_request(now)?;
            request.encode(out);
            return Some(Seal::Exempt);
        }
        // An unproven address gets a limited number of bytes. What exceeds it waits for more datagrams from the peer.
        let credit = self.credit();
        if self.outbox.response_due {
            let response = response(&self.config, self.session_id, self.crc_seed());
            if response.encoded_len() <= credit {
                self.outbox.response_due = false;
                response.encode(out);
                return Some(Seal::Exempt);
            }
        }
        let credit = credit.saturating_sub(self.framing.overhead());
        // Before all else: the server ignores everything from this address until the remap is accepted.
        if std::mem::take(&mut self.outbox.remap_due) {
            RemapConnection { session_id: self.session_id, crc_seed: self.crc_seed() }.encode(out);
            return Some(Seal::Exempt);
        }
        let (clock, sent, received) =
            (millis(self.epoch, now), self.outbox.datagrams + 1, self.stats.datagrams_authentic);
        // Clock packets are sent alone: other pieces would delay them, and some peers ignore them in a Multi.
        if let Some(request) = self.outbox.net_status_reply.take() {
            let response = self.clock.respond(clock, &request, sent, received);
            self.return_window(response).encode(out);
            return Some(Seal::Sealed);
        }
        // Before anything longer: lengths that ascend prove that the CRCs are no guesses.
        if self.outbox.question_due && HEARTBEAT.len() <= credit {
            self.outbox.question_due = false;
            out.put_slice(&HEARTBEAT);
            return Some(Seal::Sealed);
        }
        if self.outbox.net_status_due && NetStatusRequest::ENCODED_LEN <= credit {
            self.outbox.net_status_due = false;
            let request = self.clock.request(clock, sent, received);
            self.name_window(request).encode(out);
            return Some(Seal::Sealed);
        }
        if std::mem::take(&mut self.outbox.repeat_due) && self.write_repeat(out) {
            return Some(Seal::Sealed);
        }
        if self.fill_datagram(now, credit, out) {
            return Some(Seal::Sealed);
        }
        if self.outbox.heartbeat_due && HEARTBEAT.len() <= credit {
            self.outbox.heartbeat_due = false;
            out.put_slice(&HEARTBEAT);
            return Some(Seal::Sealed);
        }
        self.write_disconnect(now, credit, out).then_some(Seal::Sealed)
    }

    /// Handles unreliable messages that were queued during the handshake and do not fit the negotiated datagram.
    pub(in crate::session) fn promote_oversized(&mut self) {
        for (channel, message) in self.outbox.take_unreliable() {
            if wire::escaped_len(&message) <= self.unreliable_limit(channel) {
                self.outbox.push_unreliable(channel, message);
            } else if self.config.oversized_unreliable == Oversized::Promote {
                self.push_reliable(ReliableChannel::ZERO, message, None);
            } else {
                self.stats.cold().oversized_dropped += 1;
            }
        }
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) may return something. False is certain. True is not: the
    /// congestion window may have no room for the next packet.
    pub fn has_transmit(&self, now: Instant) -> bool {
        let now = Timestamp::from(now);
        let outbox = &self.outbox;
        match &self.state {
            State::Connecting(connecting) => connecting.request_due,
            // Until more comes from an unproven address, not even a heartbeat may be sent there.
            _ if self.credit() < HEARTBEAT.len() + self.framing.overhead() => false,
            _ => {
                outbox.has_held()
                    || outbox.response_due
                    || outbox.remap_due
                    || outbox.net_status_due
                    || outbox.net_status_reply.is_some()
                    || outbox.heartbeat_due
                    || outbox.question_due
                    || outbox.repeat_due
                    || outbox.port_alive_due
                    || self.has_data()
                    || self.acks_due(now)
                    || self.disconnect_due()
            }
        }
    }

    pub(in crate::session) fn poll_receipts(&mut self) {
        for reliable in self.channels.iter_mut().flatten() {
            while let Some(id) = reliable.sender.poll_receipt() {
                let events = &mut self.cold.get_or_insert_default().events;
                events.push_back(Event::Delivered(Receipt(id)));
            }
        }
    }

    pub(in crate::session) fn is_client(&self) -> bool {
        self.role == Role::Client
    }
}
