//! What leaves: which datagram is next, and what goes into it.

use std::{collections::VecDeque, time::Instant};

use bytes::{BufMut, Bytes};

use super::{
    Event, Receipt, Role, Session, State, Timer, Transmit,
    bundle::{Bundle, PIECE_OVERHEAD},
    clock::millis,
};
use crate::{
    Channel, Oversized, ReliableChannel,
    channel::{
        acks::Ack,
        flight::Cause,
        send::{Slot, Written},
    },
    wire::{
        self, Acknowledge, AcknowledgeAll, Disconnect, MAX_MULTI_PIECE, NetStatusRequest, OrderedData, OrderedStream,
        RemapConnection, opcode,
    },
};

/// The most datagrams in one run: what Linux segments in one call.
const MAX_SEGMENTS: usize = 64;
/// The most bytes in one run: what one UDP payload can have, with room to spare.
const MAX_RUN: usize = 60_000;
/// What one queued unreliable message costs beside its bytes.
const MESSAGE_OVERHEAD: usize = 64;
/// An acknowledgement and its length in a Multi.
const ACK_PIECE: usize = 4 + PIECE_OVERHEAD;
/// The op code of a Multi.
const MULTI_HEADER: usize = 2;

/// What waits to leave, apart from the reliable channels.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    unreliable: VecDeque<(Channel, Bytes)>,
    unreliable_bytes: usize,
    /// The number of the next datagram.
    pub(super) datagrams: u64,
    /// A sealed datagram that did not fit the run it was made for.
    held: Option<Box<[u8]>>,
    /// Packets of which the resend timer wants an answer: they go whatever the congestion window says.
    pub(super) probes: usize,
    /// Something new was acknowledged by the datagram at hand.
    pub(super) acked: bool,
    pub(super) acks_due: bool,
    pub(super) heartbeat_due: bool,
    pub(super) response_due: bool,
    pub(super) remap_due: bool,
    pub(super) net_status_due: bool,
    pub(super) net_status_reply: Option<Box<NetStatusRequest>>,
}

impl Outbox {
    pub(super) fn push_unreliable(&mut self, channel: Channel, message: Bytes) {
        self.unreliable_bytes += message.len() + MESSAGE_OVERHEAD;
        self.unreliable.push_back((channel, message));
    }

    fn pop_unreliable(&mut self) -> Option<(Channel, Bytes)> {
        let (channel, message) = self.unreliable.pop_front()?;
        self.unreliable_bytes -= message.len() + MESSAGE_OVERHEAD;
        Some((channel, message))
    }

    pub(super) fn unreliable_bytes(&self) -> usize {
        self.unreliable_bytes
    }

    /// Memory held at this moment.
    pub(super) fn memory(&self) -> usize {
        let reply = self.net_status_reply.as_ref().map_or(0, |_| size_of::<NetStatusRequest>());
        let places = self.unreliable.capacity() * size_of::<(Channel, Bytes)>();
        let messages = self.unreliable_bytes - self.unreliable.len() * MESSAGE_OVERHEAD;
        messages + places + self.held.as_ref().map_or(0, |held| held.len()) + reply
    }

    /// The most memory that this takes with a send buffer of so many bytes and datagrams of this size.
    pub(super) const fn memory_ceiling(buffer: usize, datagram: usize) -> usize {
        // A queue that has just grown is half empty.
        let places = 2 * (buffer / (MESSAGE_OVERHEAD + 1) + 2) * size_of::<(Channel, Bytes)>();
        buffer + places + 2 * datagram + size_of::<NetStatusRequest>()
    }

    pub(super) fn has_unreliable(&self) -> bool {
        !self.unreliable.is_empty()
    }

    /// Drops everything that waits; the numbering goes on.
    pub(super) fn clear(&mut self) {
        *self = Self { datagrams: self.datagrams, ..Self::default() };
    }
}

/// Whether a packet gets its passes and CRC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seal {
    Sealed,
    Exempt,
}

impl Session {
    /// Appends what is to leave now to `buf`: one datagram, or a run of equal ones. Call until `None`, and send each run to
    /// the peer's address.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        if let Some(held) = self.outbox.held.take() {
            buf.extend_from_slice(&held);
            return Some(Transmit::single(held.len()));
        }
        let Some(segment) = self.next_datagram(now, buf) else {
            self.settle(now);
            return None;
        };
        let mut transmit = Transmit::single(segment);
        // Only full datagrams come in runs; looking further behind a small one would find it larger.
        while segment * 2 >= self.udp_length
            && transmit.datagrams() < MAX_SEGMENTS
            && transmit.size + segment <= MAX_RUN
        {
            let before = buf.len();
            let Some(size) = self.next_datagram(now, buf) else { break };
            if size > segment {
                self.outbox.held = Some(buf[before..].into());
                buf.truncate(before);
                break;
            }
            transmit.size += size;
            if size < segment {
                break;
            }
        }
        Some(transmit)
    }

    /// Sets the timers by what has left.
    fn settle(&mut self, now: Instant) {
        self.set_ack_timer();
        if !matches!(self.state, State::Closed(_)) {
            self.detect_losses(now);
            self.finish_closing(now);
        }
    }

    pub(super) fn set_ack_timer(&mut self) {
        let receivers = self.channels.iter().flatten().map(|reliable| &reliable.receiver);
        let deadline = receivers.filter_map(|receiver| receiver.acks_owed().deadline()).min();
        self.timers.set(Timer::Ack, deadline);
    }

    /// Appends the next datagram. Returns its size.
    fn next_datagram(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<usize> {
        let start = out.len();
        // What carries no CRC proves nothing to the peer, and strangers can provoke it: it is no sign of life, and it takes no
        // number, from which losses are told.
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

    fn write_packet(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Seal> {
        if matches!(self.state, State::Connecting(_)) {
            let request = self.take_request(now)?;
            request.encode(out);
            return Some(Seal::Exempt);
        }
        if std::mem::take(&mut self.outbox.response_due) {
            super::handshake::response(&self.config, self.session_id, self.crc_seed).encode(out);
            return Some(Seal::Exempt);
        }
        if std::mem::take(&mut self.outbox.remap_due) {
            RemapConnection { session_id: self.session_id, crc_seed: self.crc_seed }.encode(out);
            return Some(Seal::Exempt);
        }
        let (clock, sent, received) =
            (millis(self.epoch, now), self.outbox.datagrams + 1, self.stats.datagrams_authentic);
        // Clock sync travels alone: company would delay it, and some peers look for it only there.
        if let Some(request) = self.outbox.net_status_reply.take() {
            self.clock.respond(clock, &request, sent, received).encode(out);
            return Some(Seal::Sealed);
        }
        if std::mem::take(&mut self.outbox.net_status_due) {
            self.clock.request(clock, sent, received).encode(out);
            return Some(Seal::Sealed);
        }
        if self.write_bundle(now, out) {
            return Some(Seal::Sealed);
        }
        if std::mem::take(&mut self.outbox.heartbeat_due) {
            out.put_slice(&[0, opcode::HEARTBEAT]);
            return Some(Seal::Sealed);
        }
        let reason = self.take_farewell(now)?;
        let reason = self.config.dialect.policies.disconnect_reason.then_some(reason);
        Disconnect { session_id: self.session_id, reason }.encode(out);
        Some(Seal::Sealed)
    }

    /// Puts acknowledgements, reliable packets and unreliable messages into one datagram.
    fn write_bundle(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let limit = self.packet_limit();
        let mut bundle = Bundle::new(out, limit);
        let data = self.has_data();
        if !data && !self.acks_due(now) {
            return false;
        }
        if data && self.goes_alone() {
            return self.write_ordered(&mut bundle);
        }
        // Small things share a datagram as pieces. Where there is more than fits one, full packets go first, by themselves,
        // and what is small shares the last.
        let pieces = !data || self.fits_pieces(limit);
        if pieces {
            self.write_acks(&mut bundle);
        }
        self.write_reliable(now, &mut bundle, if pieces { MAX_MULTI_PIECE } else { limit });
        self.write_unreliable(&mut bundle);
        self.write_acks(&mut bundle);
        !bundle.is_empty()
    }

    /// Whether any message or resend waits.
    fn has_data(&self) -> bool {
        let limits = self.send_limits();
        let reliable = self.channels.iter().flatten().any(|reliable| reliable.sender.has_work(&limits));
        reliable && self.budget() > 0 || self.outbox.has_unreliable()
    }

    /// Bytes that the congestion window still takes. Never so few that nothing could be under way.
    fn budget(&self) -> usize {
        let in_flight = self.in_flight();
        if in_flight == 0 || self.outbox.probes > 0 {
            return self.congestion.window().max(self.udp_length);
        }
        self.congestion.window().saturating_sub(in_flight)
    }

    pub(super) fn acks_due(&self, now: Instant) -> bool {
        let mut receivers = self.channels.iter().flatten().map(|reliable| &reliable.receiver);
        if self.outbox.acks_due {
            receivers.any(|receiver| !receiver.acks_owed().is_empty())
        } else {
            receivers.any(|receiver| receiver.acks_owed().is_due(now))
        }
    }

    /// Whether everything that waits fits one datagram as pieces, where one piece alone would do without them.
    fn fits_pieces(&self, limit: usize) -> bool {
        let mut total = MULTI_HEADER + self.outbox.unreliable_bytes;
        let mut sources = usize::from(self.outbox.has_unreliable());
        for reliable in self.channels.iter().flatten() {
            let acks = reliable.receiver.acks_owed().len();
            let Some(backlog) = reliable.sender.small_backlog(MAX_MULTI_PIECE) else { return false };
            total += backlog + acks * ACK_PIECE;
            sources += usize::from(backlog > 0) + acks;
        }
        sources > 1 && total <= limit
    }

    fn write_acks(&mut self, bundle: &mut Bundle<'_>) {
        for channel in ReliableChannel::ALL {
            let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { continue };
            let expected = reliable.receiver.expected();
            let acks = reliable.receiver.acks();
            while bundle.room() >= ACK_PIECE && !acks.is_empty() {
                bundle.add(|out| {
                    match acks.take(expected)? {
                        Ack::All(sequence) => AcknowledgeAll { channel, sequence: sequence as u16 }.encode(out),
                        Ack::One(sequence) => Acknowledge { channel, sequence: sequence as u16 }.encode(out),
                    }
                    Some(())
                });
            }
        }
        let mut receivers = self.channels.iter().flatten();
        self.outbox.acks_due &= receivers.any(|reliable| !reliable.receiver.acks_owed().is_empty());
    }

    /// Writes reliable packets of at most `largest` bytes while there is room.
    fn write_reliable(&mut self, now: Instant, bundle: &mut Bundle<'_>, largest: usize) {
        let limits = self.send_limits();
        for channel in ReliableChannel::ALL {
            loop {
                let slot = Slot {
                    now,
                    datagram: self.outbox.datagrams,
                    room: bundle.room().min(largest),
                    budget: self.budget(),
                };
                let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { break };
                if !reliable.sender.has_work(&limits) {
                    break;
                }
                let Some(written) = bundle.add(|out| reliable.sender.write(slot, &limits, out)) else {
                    if slot.budget < self.udp_length {
                        self.congestion.window_limited();
                    }
                    break;
                };
                self.count(written);
            }
        }
    }

    fn count(&mut self, written: Written) {
        match written.resend {
            None => self.stats.reliable_sent += 1,
            Some(Cause::Overtaken) => self.stats.resent_lost += 1,
            Some(Cause::Timeout) => {
                self.stats.resent_timeout += 1;
                self.outbox.probes = self.outbox.probes.saturating_sub(1);
            }
        }
    }

    fn write_unreliable(&mut self, bundle: &mut Bundle<'_>) {
        while let Some((channel, message)) = self.outbox.unreliable.front() {
            let head = if *channel == Channel::Unreliable { 0 } else { super::ORDERED_HEADER };
            if self.goes_alone() || head + wire::escaped_len(message) > bundle.room() || !self.write_ordered(bundle) {
                break;
            }
        }
    }

    /// Whether the first unreliable message shares its datagram with nothing.
    fn goes_alone(&self) -> bool {
        let first = self.outbox.unreliable.front();
        first.is_some_and(|(channel, _)| *channel == Channel::Ordered2 || !self.config.bundle_unreliable)
    }

    /// Writes the first unreliable message, ordered or not.
    fn write_ordered(&mut self, bundle: &mut Bundle<'_>) -> bool {
        let Some((channel, message)) = self.outbox.pop_unreliable() else { return false };
        let stream = match channel {
            Channel::Ordered => OrderedStream::One,
            Channel::Ordered2 => OrderedStream::Two,
            Channel::Unreliable | Channel::Reliable(_) => {
                bundle.add(|out| {
                    wire::put_escaped(out, &message);
                    Some(())
                });
                return true;
            }
        };
        let (sent, _) = &mut self.ordered[usize::from(stream == OrderedStream::Two)];
        // Stamps begin at 1: receivers count from 0 and take what is ahead.
        *sent = sent.wrapping_add(1);
        let stamp = *sent;
        let escape = self.config.escape_ordered && wire::needs_escape(&message);
        bundle.add(|out| {
            OrderedData { stream, stamp, payload: &[] }.encode(out);
            out.extend_from_slice(if escape { &[0] } else { &[] });
            out.extend_from_slice(&message);
            Some(())
        });
        true
    }

    /// The datagrams turned out smaller than this side assumed while it waited for the response: what no longer fits goes
    /// another way.
    pub(super) fn promote_oversized(&mut self) {
        let waiting = std::mem::take(&mut self.outbox.unreliable);
        self.outbox.unreliable_bytes = 0;
        for (channel, message) in waiting {
            if wire::escaped_len(&message) <= self.unreliable_limit(channel) {
                self.outbox.push_unreliable(channel, message);
            } else if self.config.oversized_unreliable == Oversized::Promote {
                self.push_reliable(ReliableChannel::ZERO, message, None);
            } else {
                self.stats.oversized_dropped += 1;
            }
        }
    }

    /// Whether a call of [`poll_transmit`](Self::poll_transmit) is worth while. If not, it gives nothing; if so, it may still
    /// turn out that the congestion window has no room for the next packet.
    pub fn has_transmit(&self, now: Instant) -> bool {
        let outbox = &self.outbox;
        match &self.state {
            State::Connecting(connecting) => connecting.request_due,
            _ => {
                outbox.held.is_some()
                    || outbox.response_due
                    || outbox.remap_due
                    || outbox.net_status_due
                    || outbox.net_status_reply.is_some()
                    || outbox.heartbeat_due
                    || self.has_data()
                    || self.acks_due(now)
                    || self.farewell_due()
            }
        }
    }

    pub(super) fn poll_receipts(&mut self) {
        for reliable in self.channels.iter_mut().flatten() {
            while let Some(id) = reliable.sender.poll_receipt() {
                self.events.push_back(Event::Delivered(Receipt(id)));
            }
        }
    }

    pub(super) fn is_client(&self) -> bool {
        self.role == Role::Client
    }
}
