//! The content of one datagram: acknowledgements, reliable packets, unreliable messages, copies.

use super::{
    builder::{DatagramBuilder, PIECE_OVERHEAD},
    messages::ORDERED_HEADER,
};
use crate::{
    channel::{
        acks::Ack,
        limits::{SendLimits, Slot, Written},
        packet::Cause,
    },
    message::{Channel, ReliableChannel},
    session::Session,
    timestamp::Timestamp,
    wire::{self, Acknowledge, AcknowledgeAll, MAX_MULTI_PIECE, OrderedData, OrderedStream},
};

/// An acknowledgement as a piece of a Multi, in bytes.
const ACK_PIECE: usize = 4 + PIECE_OVERHEAD;
/// The largest packet that is copied on a redundant channel, in bytes. Larger ones are bulk data.
const MAX_COPY: usize = 200;
/// The op code of a Multi, in bytes.
const MULTI_HEADER: usize = 2;

/// Size limits for the reliable packets of one datagram.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// The largest packet.
    largest: usize,
    /// The largest datagram that holds several packets.
    shared: usize,
    /// The largest datagram, if the path carries less than was negotiated.
    narrowed: Option<usize>,
}

impl Room {
    /// Bytes available for the next packet.
    fn left(self, builder: &DatagramBuilder<'_>) -> usize {
        let shared = if builder.is_empty() { usize::MAX } else { self.shared };
        let datagram = self.narrowed.map_or(shared, |limit| limit.min(shared));
        builder.room().min(self.largest).min(datagram.saturating_sub(builder.len()))
    }
}

/// The result of serving one channel.
#[derive(Clone, Copy, Debug, Default)]
struct Filled {
    wrote: bool,
    /// The channel's next packet exceeds the remaining congestion window.
    blocked: bool,
}

impl Session {
    /// Writes acknowledgements, reliable packets and unreliable messages into one datagram of at most `most` bytes.
    pub(in crate::session) fn fill_datagram(&mut self, now: Timestamp, most: usize, out: &mut Vec<u8>) -> bool {
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
        // If everything fits one datagram, small packets share it as pieces of a Multi. Otherwise full packets leave
        // alone first, and the rest shares the last datagram.
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
        // Last: copies only use room that would otherwise stay empty.
        self.write_copies(now, &mut builder);
        let written = !builder.is_empty();
        if written {
            // Acknowledgements that found no room in this datagram follow in the same segment run. The next datagrams
            // carry more of the same data and would have no room either.
            self.outbox.acks_due |= data && self.owes_acks();
            self.watch_quiet(now);
        }
        written
    }

    /// Whether a message or resend waits and may be sent.
    pub(in crate::session) fn has_data(&self) -> bool {
        let limits = self.send_limits();
        let reliable = ReliableChannel::ALL.into_iter().any(|channel| {
            let reliable = self.channels[channel.index()].as_ref();
            reliable.is_some_and(|reliable| reliable.sender.has_work(&limits)) && self.may_send(channel)
        });
        reliable && self.budget() > 0 || self.outbox.has_unreliable()
    }

    /// How many bytes may leave now: the free part of the congestion window, but at least one datagram if nothing is under
    /// way. While packets of the resend timer are due it is the whole window: they leave in excess of it.
    pub(in crate::session) fn budget(&self) -> usize {
        if self.outbox.probes > 0 { self.congestion.window().max(self.udp_length()) } else { self.free_window() }
    }

    /// The same for new data.
    fn free_window(&self) -> usize {
        let window = self.congestion.window();
        // One datagram in any case: without anything in flight no acknowledgement would ever reopen the window.
        match self.in_flight() {
            0 => window.max(self.udp_length()),
            in_flight => window.saturating_sub(in_flight),
        }
    }

    pub(in crate::session) fn acks_due(&self, now: Timestamp) -> bool {
        // An ended session sends the acknowledgements it owes only together with its Disconnect. Alone they could reach
        // the next session at this address.
        if self.closed().is_some() && !self.disconnect_due() {
            return false;
        }
        let mut receivers = self.channels.iter().flatten().map(|reliable| &reliable.receiver);
        if self.outbox.acks_due { self.owes_acks() } else { receivers.any(|receiver| receiver.acks_owed().is_due(now)) }
    }

    fn owes_acks(&self) -> bool {
        self.channels.iter().flatten().any(|reliable| !reliable.receiver.acks_owed().is_empty())
    }

    /// Whether everything that waits fits one datagram as two or more pieces.
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
                // Acknowledgements ahead of a gap are repeated in spare room: losing one would cause a needless resend.
                let second = acks.take_second(expected, datagram);
                if builder.add(|out| second.map(|ack| put_ack(channel, ack, out))).is_none() {
                    break;
                }
            }
        }
        self.outbox.acks_due &= self.owes_acks();
    }

    /// Writes reliable packets while there is room.
    fn write_reliable(&mut self, now: Timestamp, builder: &mut DatagramBuilder<'_>, room: Room) {
        let limits = self.send_limits();
        let mut full = false;
        for channel in self.send_order(now) {
            let filled =
                if full { Filled::default() } else { self.write_channel(now, channel, builder, room, &limits) };
            if filled.blocked {
                // The channel waits for the congestion window. If other channels filled the window first, it could wait
                // as long as they have data. So it is sent first when there is room.
                full = true;
                self.congestion.blocked();
                self.first_channel = channel.index() as u8;
            }
            if let Some(reliable) = self.channels[channel.index()].as_deref_mut() {
                let waits = !filled.wrote && reliable.sender.has_work(&limits);
                reliable.waiting_since = waits.then(|| reliable.waiting_since.unwrap_or(now));
            }
        }
    }

    /// Writes reliable packets of one channel.
    fn write_channel(
        &mut self,
        now: Timestamp,
        channel: ReliableChannel,
        builder: &mut DatagramBuilder<'_>,
        room: Room,
        limits: &SendLimits,
    ) -> Filled {
        let mut filled = Filled::default();
        while self.may_send(channel) {
            let is_new = self.channels[channel.index()].as_ref().is_none_or(|reliable| !reliable.sender.has_lost());
            let budget = if is_new { self.free_window() } else { self.budget() };
            let slot = Slot { now, datagram: self.outbox.datagrams, room: room.left(builder), budget };
            let Some(reliable) = self.channels[channel.index()].as_deref_mut() else { break };
            if !reliable.sender.has_work(limits) {
                break;
            }
            let before = builder.len();
            let Some(written) = builder.add(|out| reliable.sender.write(slot, limits, out)) else {
                // Not blocked if only this datagram is full: the next one continues.
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

    /// Adds copies of packets of redundant channels.
    fn write_copies(&mut self, now: Timestamp, builder: &mut DatagramBuilder<'_>) {
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
        // Any resent packet provokes the acknowledgement that the probe is for.
        self.outbox.probes -= u32::from(written.resend.is_some() && self.outbox.probes > 0);
    }

    fn write_unreliable(&mut self, builder: &mut DatagramBuilder<'_>, room: Room) {
        while let Some((channel, message)) = self.outbox.first_unreliable() {
            let head = if *channel == Channel::Unreliable { 0 } else { ORDERED_HEADER };
            let length = head + wire::escaped_len(message);
            // A message too large for the path would take the other packets of the datagram with it.
            let narrowed = !builder.is_empty() && room.narrowed.is_some_and(|limit| builder.len() + length > limit);
            if self.goes_alone() || narrowed || length > builder.room() || !self.write_ordered(builder) {
                break;
            }
        }
    }

    /// Whether the first unreliable message must not share its datagram.
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
        // Stamps begin at 1: receivers begin at 0 and accept what is ahead.
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
