//! What goes into one datagram: acknowledgements, reliable packets, unreliable messages, copies.

use std::time::Instant;

use super::{
    builder::{DatagramBuilder, PIECE_OVERHEAD},
    messages::ORDERED_HEADER,
};
use crate::{
    channel::{
        acks::Ack,
        flight::Cause,
        send::{SendLimits, Slot, Written},
    },
    message::{Channel, ReliableChannel},
    session::Session,
    wire::{self, Acknowledge, AcknowledgeAll, MAX_MULTI_PIECE, OrderedData, OrderedStream},
};

/// An acknowledgement and its length in a Multi.
const ACK_PIECE: usize = 4 + PIECE_OVERHEAD;
/// The largest packet that rides along on a redundant channel: small messages, not bulk.
const MAX_COPY: usize = 200;
/// The op code of a Multi.
const MULTI_HEADER: usize = 2;

/// What holds for the reliable packets of one datagram.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// The largest packet.
    largest: usize,
    /// The largest datagram of several packets.
    shared: usize,
    /// The largest datagram, if the path takes less than was agreed on.
    narrowed: Option<usize>,
}

impl Room {
    /// Bytes that the next packet may have.
    fn left(self, builder: &DatagramBuilder<'_>) -> usize {
        let shared = if builder.is_empty() { usize::MAX } else { self.shared };
        let datagram = self.narrowed.map_or(shared, |limit| limit.min(shared));
        builder.room().min(self.largest).min(datagram.saturating_sub(builder.len()))
    }
}

/// What became of a channel's turn.
#[derive(Clone, Copy, Debug, Default)]
struct Filled {
    wrote: bool,
    /// Its next packet is larger than what the congestion window has left.
    blocked: bool,
}

impl Session {
    /// Puts acknowledgements, reliable packets and unreliable messages into one datagram, of no more than `most` bytes.
    pub(in crate::session) fn fill_datagram(&mut self, now: Instant, most: usize, out: &mut Vec<u8>) -> bool {
        let limit = self.packet_limit().min(most);
        let mut builder = DatagramBuilder::new(out, limit);
        let data = self.has_data();
        if !data && !self.acks_due(now) {
            return false;
        }
        if data && self.goes_alone() {
            let length = self.outbox.first_unreliable().map_or(0, |(_, message)| wire::escaped_len(message));
            return ORDERED_HEADER + length <= most && self.write_ordered(&mut builder);
        }
        // Small things share a datagram as pieces. Where there is more than fits one, full packets go first, by themselves,
        // and what is small shares the last.
        let pieces = !data || self.fits_pieces(limit);
        if pieces {
            self.write_acks(&mut builder);
        }
        if data {
            self.send_interval.sent(now);
        }
        let largest = if pieces { MAX_MULTI_PIECE } else { limit };
        let room = Room { largest, shared: self.gathers(), narrowed: self.narrowed() };
        self.write_reliable(now, &mut builder, room);
        if data {
            self.probed();
        }
        self.write_unreliable(&mut builder, room);
        self.write_acks(&mut builder);
        self.write_copies(now, &mut builder);
        let written = !builder.is_empty();
        if written {
            // What waited for data to ride with, and found no room in it, follows in the same run: waiting for more of the
            // same data would be in vain.
            self.outbox.acks_due |= data && self.owes_acks();
            self.watch_quiet(now);
        }
        written
    }

    /// Whether any message or resend waits.
    pub(in crate::session) fn has_data(&self) -> bool {
        let limits = self.send_limits();
        let reliable = ReliableChannel::ALL.into_iter().any(|channel| {
            let reliable = self.channels[channel.index()].as_ref();
            reliable.is_some_and(|reliable| reliable.sender.has_work(&limits)) && self.may_send(channel)
        });
        reliable && self.budget() > 0 || self.outbox.has_unreliable()
    }

    /// Bytes that the congestion window still takes. Never so few that nothing could be under way.
    pub(in crate::session) fn budget(&self) -> usize {
        let in_flight = self.in_flight();
        if in_flight == 0 || self.outbox.probes > 0 {
            return self.congestion.window().max(self.udp_length());
        }
        self.congestion.window().saturating_sub(in_flight)
    }

    pub(in crate::session) fn acks_due(&self, now: Instant) -> bool {
        // What a session that has ended still owes goes along with its farewell, or not at all: by itself it may meet the next
        // session at this address.
        if self.closed().is_some() && !self.farewell_due() {
            return false;
        }
        let mut receivers = self.channels.iter().flatten().map(|reliable| &reliable.receiver);
        if self.outbox.acks_due { self.owes_acks() } else { receivers.any(|receiver| receiver.acks_owed().is_due(now)) }
    }

    fn owes_acks(&self) -> bool {
        self.channels.iter().flatten().any(|reliable| !reliable.receiver.acks_owed().is_empty())
    }

    /// Whether everything that waits fits one datagram as pieces, where one piece alone would do without them.
    fn fits_pieces(&self, limit: usize) -> bool {
        let mut total = MULTI_HEADER + self.outbox.unreliable_bytes();
        let mut sources = usize::from(self.outbox.has_unreliable());
        for reliable in self.channels.iter().flatten() {
            let acks = reliable.receiver.acks_owed().len();
            let Some(backlog) = reliable.sender.small_backlog(MAX_MULTI_PIECE) else { return false };
            total += backlog + acks * ACK_PIECE;
            sources += usize::from(backlog > 0) + acks;
        }
        sources > 1 && total <= limit
    }

    fn write_acks(&mut self, builder: &mut DatagramBuilder<'_>) {
        let datagram = self.outbox.datagrams;
        for channel in ReliableChannel::ALL {
            let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { continue };
            let expected = reliable.receiver.expected();
            let acks = reliable.receiver.acks();
            while builder.room() >= ACK_PIECE && !acks.is_empty() {
                builder.add(|out| acks.take(expected, datagram).map(|ack| put_ack(channel, ack, out)));
            }
            while builder.room() >= ACK_PIECE && !builder.is_empty() {
                let second = acks.take_second(expected, datagram);
                if builder.add(|out| second.map(|ack| put_ack(channel, ack, out))).is_none() {
                    break;
                }
            }
        }
        self.outbox.acks_due &= self.owes_acks();
    }

    /// Writes reliable packets while there is room.
    fn write_reliable(&mut self, now: Instant, builder: &mut DatagramBuilder<'_>, room: Room) {
        let limits = self.send_limits();
        let mut full = false;
        for channel in self.send_order(now) {
            let filled =
                if full { Filled::default() } else { self.write_channel(now, channel, builder, room, &limits) };
            if filled.blocked {
                // It waits for the congestion window, not for the next datagram. If others put something under way before it,
                // it might wait for as long as they have something: it goes first when there is room.
                full = true;
                self.congestion.blocked();
                self.first_channel = channel.index() as u8;
            }
            if let Some(reliable) = self.channels[channel.index()].as_deref_mut() {
                let waits = !filled.wrote && reliable.sender.has_work(&limits);
                reliable.waiting_since = waits.then(|| reliable.waiting_since.unwrap_or_else(|| now.into()));
            }
        }
    }

    /// Writes reliable packets of one channel.
    fn write_channel(
        &mut self,
        now: Instant,
        channel: ReliableChannel,
        builder: &mut DatagramBuilder<'_>,
        room: Room,
        limits: &SendLimits,
    ) -> Filled {
        let mut filled = Filled::default();
        while self.may_send(channel) {
            let slot = Slot { now, datagram: self.outbox.datagrams, room: room.left(builder), budget: self.budget() };
            let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { break };
            if !reliable.sender.has_work(limits) {
                break;
            }
            let before = builder.len();
            let Some(written) = builder.add(|out| reliable.sender.write(slot, limits, out)) else {
                filled.blocked = slot.budget < slot.room;
                break;
            };
            filled.wrote = true;
            self.paced(channel, builder.len() - before, written.resend.is_some());
            self.count(written);
            self.congestion.sent(self.in_flight());
        }
        filled
    }

    /// Lets packets of redundant channels ride along.
    fn write_copies(&mut self, now: Instant, builder: &mut DatagramBuilder<'_>) {
        for channel in ReliableChannel::ALL {
            let redundant = self.config.channels[channel.index()].redundant;
            let Some(reliable) = self.channels[channel.index()].as_deref_mut().filter(|_| redundant) else { continue };
            let slot = |builder: &DatagramBuilder<'_>| Slot {
                now,
                datagram: self.outbox.datagrams,
                room: builder.room(),
                budget: MAX_COPY,
            };
            while !builder.is_empty() {
                let slot = slot(builder);
                if builder.add(|out| reliable.sender.write_copy(slot, out)).is_none() {
                    break;
                }
                self.stats.cold().redundant_copies += 1;
            }
        }
    }

    fn count(&mut self, written: Written) {
        match written.resend {
            None => self.stats.reliable_sent += 1,
            Some(Cause::Overtaken) => self.stats.cold().resent_lost += 1,
            Some(Cause::Timeout) => self.stats.cold().resent_timeout += 1,
        }
        // Whatever was resent provokes the answer that the probe is for.
        self.outbox.probes -= u32::from(written.resend.is_some() && self.outbox.probes > 0);
    }

    fn write_unreliable(&mut self, builder: &mut DatagramBuilder<'_>, room: Room) {
        while let Some((channel, message)) = self.outbox.first_unreliable() {
            let head = if *channel == Channel::Unreliable { 0 } else { ORDERED_HEADER };
            let length = head + wire::escaped_len(message);
            // What is too large for the path takes nothing else with it.
            let narrowed = !builder.is_empty() && room.narrowed.is_some_and(|limit| builder.len() + length > limit);
            if self.goes_alone() || narrowed || length > builder.room() || !self.write_ordered(builder) {
                break;
            }
        }
    }

    /// Whether the first unreliable message shares its datagram with nothing.
    fn goes_alone(&self) -> bool {
        let first = self.outbox.first_unreliable();
        first.is_some_and(|(channel, _)| *channel == Channel::Ordered2 || !self.config.bundle_unreliable)
    }

    /// Writes the first unreliable message, ordered or not.
    fn write_ordered(&mut self, builder: &mut DatagramBuilder<'_>) -> bool {
        let Some((channel, message)) = self.outbox.pop_unreliable() else { return false };
        let stream = match channel {
            Channel::Ordered => OrderedStream::One,
            Channel::Ordered2 => OrderedStream::Two,
            Channel::Unreliable | Channel::Reliable(_) => {
                builder.add(|out| {
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
        builder.add(|out| {
            OrderedData { stream, stamp, payload: &[] }.encode(out);
            out.extend_from_slice(if escape { &[0] } else { &[] });
            out.extend_from_slice(&message);
            Some(())
        });
        true
    }
}

fn put_ack(channel: ReliableChannel, ack: Ack, out: &mut Vec<u8>) {
    match ack {
        Ack::All(sequence) => AcknowledgeAll { channel, sequence: sequence as u16 }.encode(out),
        Ack::One(sequence) => Acknowledge { channel, sequence: sequence as u16 }.encode(out),
    }
}
