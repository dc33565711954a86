//! The sending half of a reliable channel: the queue, the packets under way, and how messages become packets.

use std::{collections::VecDeque, num::NonZeroU64, time::Duration};

use bytes::{BufMut, Bytes};

use super::{
    flight::Flight,
    fragment::TOTAL_LENGTH,
    limits::{HEADER, SendLimits, Slot, Written},
    packet::{Acked, Head, Packet, State},
    push_back,
    sequence::widen_acked,
};
use crate::{
    message::ReliableChannel,
    timestamp::Timestamp,
    wire::{group, opcode},
};

/// The op code of a Group.
const GROUP_HEADER: usize = 2;
/// How often a packet is copied on a redundant channel.
const COPIES: u8 = 1;
/// Receipts of messages that are under way. At this number nothing new is sent until the oldest is acknowledged: the window
/// alone would allow one for every two bytes.
const MAX_RECEIPTS: usize = 16_384;
/// Packets that may be unacknowledged towards a peer whose window is full: they show when it opens again, though the
/// acknowledgement that says so was lost.
const WINDOW_PROBES: usize = 16;
/// The bytes that a queued message counts in addition to its content.
const MESSAGE_OVERHEAD: usize = 64;

/// A message as it will be sent: encrypted and escaped.
#[derive(Debug)]
struct Queued {
    wire: Bytes,
    receipt: Option<NonZeroU64>,
}

/// What would be sent next, and its size.
#[derive(Clone, Copy, Debug)]
enum Next {
    FirstFragment,
    Fragment { data: usize },
    Single,
    Group { messages: usize, payload: usize },
}

/// One direction of one reliable channel.
#[derive(Debug)]
pub(crate) struct Sender {
    channel: ReliableChannel,
    queue: VecDeque<Queued>,
    /// The bytes of `queue` including overhead, without the sent part of the first message.
    queued: usize,
    /// How much of the first message was sent in fragments.
    offset: usize,
    flight: Flight,
    /// The peer has acknowledged everything below this sequence at once.
    passed: u64,
    /// Allocated for the first message with a receipt, or in fragments.
    ends: Option<Box<Ends>>,
}

/// Messages that need an action when their last packet is acknowledged.
#[derive(Debug, Default)]
struct Ends {
    /// Receipts, with the sequence of the last packet of their message.
    receipts: VecDeque<(NonZeroU64, u64)>,
    /// Fragmented messages that were sent completely: the sequence of their last packet, and their bytes, which stay in
    /// memory until it is acknowledged.
    whole: VecDeque<(u64, usize)>,
}

impl Ends {
    fn memory(&self) -> usize {
        let whole: usize = self.whole.iter().map(|(_, bytes)| bytes).sum();
        size_of::<Self>()
            + whole
            + self.receipts.capacity() * size_of::<(NonZeroU64, u64)>()
            + self.whole.capacity() * size_of::<(u64, usize)>()
    }
}

impl Sender {
    /// A sender whose next packet has this sequence.
    pub(crate) fn starting_at(channel: ReliableChannel, sequence: u64) -> Self {
        let (queue, flight) = (VecDeque::new(), Flight::starting_at(sequence));
        Self { channel, queue, queued: 0, offset: 0, flight, passed: sequence, ends: None }
    }

    /// Queues a message in its wire form.
    pub(crate) fn push(&mut self, wire: Bytes, receipt: Option<NonZeroU64>) {
        self.queued += wire.len() + MESSAGE_OVERHEAD;
        push_back(&mut self.queue, Queued { wire, receipt });
    }

    /// Bytes that wait for their first transmission, overhead included.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Messages that wait for their first transmission, one that has left in part included.
    pub(crate) fn queued_messages(&self) -> usize {
        self.queue.len()
    }

    /// Bytes under way.
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.flight.in_flight_bytes()
    }

    /// Whether everything has been acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flight.is_empty()
    }

    /// Whether nothing can be lost: no packet is unacknowledged, and no acknowledgement is ambiguous.
    pub(crate) fn is_settled(&self) -> bool {
        self.flight.is_settled()
    }

    /// When the oldest unacknowledged packet was first sent.
    pub(crate) fn oldest_first_sent(&self) -> Option<Timestamp> {
        self.flight.oldest_first_sent()
    }

    /// The size of the oldest unacknowledged packet.
    pub(crate) fn oldest_size(&self) -> Option<usize> {
        self.flight.oldest_size()
    }

    /// Unacknowledged bytes and messages.
    pub(crate) fn undelivered(&self) -> (usize, usize) {
        let (bytes, messages) = self.flight.unacknowledged();
        let waiting: usize = self.queue.iter().map(|queued| queued.wire.len()).sum();
        (bytes + waiting - self.offset, messages + self.queue.len())
    }

    /// Whether a packet is to be sent again. It goes before new ones.
    pub(crate) fn has_lost(&self) -> bool {
        self.flight.has_lost()
    }

    /// Whether a packet could be written if the congestion window has room.
    pub(crate) fn has_work(&self, limits: &SendLimits) -> bool {
        self.flight.has_lost() || (!self.queue.is_empty() && self.window(limits) > 0)
    }

    /// The bytes of everything that waits, if all of it fits pieces of at most `piece` bytes.
    pub(crate) fn small_backlog(&self, piece: usize) -> Option<usize> {
        if self.flight.has_lost() || self.offset > 0 || self.queued > piece * 16 {
            return None;
        }
        let largest = self.queue.iter().map(|queued| queued.wire.len()).max().unwrap_or(0);
        (largest + HEADER <= piece).then(|| {
            let elements: usize = self.queue.iter().map(|queued| queued.wire.len() + 1).sum();
            let packets = elements.div_ceil((piece - HEADER - GROUP_HEADER).saturating_sub(largest).max(1));
            elements + packets.min(self.queue.len()) * (1 + HEADER + GROUP_HEADER)
        })
    }

    /// Writes the next packet if it fits the slot: a lost one first, then a new one.
    pub(crate) fn write(&mut self, slot: Slot, limits: &SendLimits, out: &mut Vec<u8>) -> Option<Written> {
        if self.flight.has_lost() {
            return self.write_lost(slot, out);
        }
        let window = self.window(limits).min(slot.budget);
        let next = self.next(slot.room.min(limits.packet), limits)?;
        let size = match next {
            Next::FirstFragment => limits.packet,
            Next::Fragment { data } => HEADER + data,
            Next::Single => HEADER + self.queue.front()?.wire.len(),
            Next::Group { payload, .. } => HEADER + payload,
        };
        if size > slot.room || size > window {
            return None;
        }
        let packet = self.take(next, slot, limits)?;
        let messages = usize::from(packet.ends);
        write_packet(self.channel, self.flight.next(), &packet, out);
        self.flight.push(packet);
        Some(Written { resend: None, messages })
    }

    fn write_lost(&mut self, slot: Slot, out: &mut Vec<u8>) -> Option<Written> {
        let channel = self.channel;
        let (sequence, packet) = self.flight.next_lost()?;
        if packet.size() > slot.room || packet.size() > slot.budget {
            return None;
        }
        let State::Lost(cause) = packet.state else { return None };
        write_packet(channel, sequence, packet, out);
        self.flight.resent(sequence, slot.now, slot.datagram);
        Some(Written { resend: Some(cause), messages: 0 })
    }

    /// Writes a copy of a packet under way, if one fits. The peer drops it as a duplicate unless the first was lost.
    pub(crate) fn write_copy(&mut self, slot: Slot, out: &mut Vec<u8>) -> Option<()> {
        let channel = self.channel;
        let (sequence, packet) = self.flight.next_copy(slot.datagram, slot.room.min(slot.budget), COPIES)?;
        write_packet(channel, sequence, packet, out);
        self.flight.copied(sequence, slot.now, slot.datagram);
        Some(())
    }

    /// The free part of the peer's window, in bytes.
    fn window(&self, limits: &SendLimits) -> usize {
        let (span, receipts) = (self.flight.span(), self.ends.as_ref().map_or(0, |ends| ends.receipts.len()));
        let taken = (self.flight.next() - self.passed) as usize;
        let is_full = limits.is_named && taken >= limits.window_packets && span >= WINDOW_PROBES;
        if span >= limits.window_packets || is_full || receipts >= MAX_RECEIPTS {
            return 0;
        }
        limits.window_bytes.max(limits.packet).saturating_sub(self.flight.in_flight_bytes())
    }

    /// The kind of the next packet. A Group can shrink to the room; fragments and single messages cannot.
    fn next(&self, room: usize, limits: &SendLimits) -> Option<Next> {
        let first = self.queue.front()?.wire.len();
        if self.offset > 0 {
            return Some(Next::Fragment { data: (first - self.offset).min(limits.payload()) });
        }
        if first > limits.payload() {
            return Some(Next::FirstFragment);
        }
        let mut payload = GROUP_HEADER;
        let mut messages = 0;
        let room = room.min(limits.group);
        for queued in &self.queue {
            let element = group::length_size(queued.wire.len()) + queued.wire.len();
            if HEADER + payload + element > room {
                break;
            }
            payload += element;
            messages += 1;
        }
        Some(if messages < 2 { Next::Single } else { Next::Group { messages, payload } })
    }

    /// Removes the next packet from the queue.
    fn take(&mut self, next: Next, slot: Slot, limits: &SendLimits) -> Option<Packet> {
        let sequence = self.flight.next();
        let (head, payload, ends) = match next {
            Next::FirstFragment => {
                let message = &self.queue.front()?.wire;
                let total = u32::try_from(message.len()).ok()?;
                let payload = message.slice(..limits.payload() - TOTAL_LENGTH);
                self.advance(payload.len());
                (Head::FirstFragment { total }, payload, 0)
            }
            Next::Fragment { data } => {
                let message = &self.queue.front()?.wire;
                let payload = message.slice(self.offset..self.offset + data);
                let length = message.len();
                let ends = u16::from(self.offset + data == length);
                self.advance(data);
                if ends == 1 {
                    self.pop(sequence);
                    self.ends.get_or_insert_default().whole.push_back((sequence, length));
                }
                (Head::Fragment, payload, ends)
            }
            Next::Single => (Head::Data, self.pop(sequence)?, 1),
            Next::Group { messages, payload } => {
                let mut group = Vec::with_capacity(payload);
                group::put_header(&mut group);
                for _ in 0..messages {
                    let message = self.pop(sequence)?;
                    group::put_element(&mut group, &message);
                }
                (Head::Data, Bytes::from(group), messages as u16)
            }
        };
        let Slot { now, datagram, .. } = slot;
        Some(Packet {
            head,
            payload,
            state: State::InFlight,
            ends,
            transmissions: 1,
            copies: 0,
            first_sent: now,
            sent: now,
            first_datagram: datagram,
            datagram,
        })
    }

    fn advance(&mut self, bytes: usize) {
        self.offset += bytes;
        self.queued -= bytes;
    }

    /// Removes the first message from the queue. Its last byte is in the packet with this sequence.
    fn pop(&mut self, sequence: u64) -> Option<Bytes> {
        let Queued { wire, receipt } = self.queue.pop_front()?;
        self.queued -= wire.len() - self.offset + MESSAGE_OVERHEAD;
        self.offset = 0;
        if let Some(id) = receipt {
            self.ends.get_or_insert_default().receipts.push_back((id, sequence));
        }
        Some(wire)
    }

    /// Everything up to this wire sequence has arrived. `None`: it was never sent.
    pub(crate) fn acknowledge_all(&mut self, now: Timestamp, wire: u16, soonest: Option<Duration>) -> Option<Acked> {
        let sequence = widen_acked(wire, self.flight.next())?;
        let mut acked = self.flight.acknowledge_all(now, sequence, soonest);
        if acked.packets == 0 {
            acked.moved = (sequence + 1).saturating_sub(self.passed) as usize;
        }
        self.passed = self.passed.max(sequence + 1);
        self.release();
        Some(acked)
    }

    /// This wire sequence has arrived. `None`: it was never sent.
    pub(crate) fn acknowledge(&mut self, now: Timestamp, wire: u16, soonest: Option<Duration>) -> Option<Acked> {
        let sequence = widen_acked(wire, self.flight.next())?;
        let acked = self.flight.acknowledge(now, sequence, soonest);
        self.release();
        Some(acked)
    }

    /// Frees messages whose packets have all been acknowledged.
    fn release(&mut self) {
        let (base, Some(ends)) = (self.flight.base(), &mut self.ends) else { return };
        while ends.whole.front().is_some_and(|&(sequence, _)| sequence < base) {
            ends.whole.pop_front();
        }
    }

    /// The next receipt whose message has been acknowledged.
    pub(crate) fn poll_receipt(&mut self) -> Option<NonZeroU64> {
        let receipts = &mut self.ends.as_mut()?.receipts;
        let &(id, sequence) = receipts.front()?;
        if sequence >= self.flight.base() {
            return None;
        }
        receipts.pop_front();
        Some(id)
    }

    pub(crate) fn flight(&mut self) -> &mut Flight {
        &mut self.flight
    }

    /// The next sequence to send.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.flight.next()
    }

    /// Memory in use: messages, and the lists of waiting and sent packets.
    pub(crate) fn memory(&self) -> usize {
        let waiting = self.queued + self.offset - self.queue.len() * MESSAGE_OVERHEAD;
        let ends = self.ends.as_ref().map_or(0, |ends| ends.memory());
        waiting + ends + self.flight.memory() + self.queue.capacity() * size_of::<Queued>()
    }

    /// The most memory that this takes with a send buffer of so many bytes and messages of this size at most.
    pub(crate) const fn memory_ceiling(limits: &SendLimits, buffer: usize, message: usize) -> usize {
        // A list that has just grown is half empty. The buffer may be exceeded by one message, and another may wait for
        // the acknowledgement of its last packet.
        let places = 2 * (buffer / (MESSAGE_OVERHEAD + 1) + 2) * size_of::<Queued>();
        let receipts = (MAX_RECEIPTS + limits.packet / 2) * size_of::<(NonZeroU64, u64)>();
        let ended = receipts + limits.window_packets * size_of::<(u64, usize)>();
        let flight = Flight::memory_ceiling(limits.window_packets, limits.packet);
        buffer + places + 2 * message + flight + 2 * ended + size_of::<Ends>()
    }
}

fn write_packet(channel: ReliableChannel, sequence: u64, packet: &Packet, out: &mut Vec<u8>) {
    let base = if packet.head == Head::Data { opcode::RELIABLE } else { opcode::FRAGMENT };
    out.put_u16(u16::from(base) + channel.index() as u16);
    out.put_u16(sequence as u16);
    if let Head::FirstFragment { total } = packet.head {
        out.put_u32(total);
    }
    out.put_slice(&packet.payload);
}
