//! The receiving half of a reliable channel: reordering, reassembly and acknowledgements.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    acks::{AckPolicy, AckQueue},
    fragment::{Corrupt, FragmentSeries},
    inbox::Inbox,
    opening::Opening,
    sequence::widen_received,
};
use crate::{
    message::{Channel, ReliableChannel},
    timestamp::Timestamp,
    wire::{MAX_NESTING, Payload, group::GroupElements},
};

/// The kind of a reliable packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Fragment,
}

/// The result of receiving a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// New and in order.
    InOrder,
    /// New, ahead of a gap.
    Ahead,
    /// Seen before.
    Duplicate,
    /// Beyond the window: dropped and not acknowledged.
    BeyondWindow,
}

/// Content that no correct peer sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Of the packet in hand. It was refused and not acknowledged: the peer's own can still come.
    Packet(Corrupt),
    /// Of a packet that was held and that somebody may have guessed. It was dropped, and its place is open again.
    Guess(Corrupt),
    /// Of a packet of the peer's own that has been acknowledged. Nothing can take its place: the channel cannot continue.
    Stream(Corrupt),
}

impl From<Corrupt> for Fault {
    fn from(corrupt: Corrupt) -> Self {
        Self::Packet(corrupt)
    }
}

/// The limits for one packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecvLimits {
    /// Packets held from the expected one on.
    pub(crate) window: usize,
    /// Bytes held ahead of a gap.
    pub(crate) held: usize,
    /// The largest message, escape included.
    pub(crate) message: usize,
    /// Bytes waiting for the application at which delivery stops.
    pub(crate) inbox: usize,
    pub(crate) acks: AckPolicy,
    /// Messages of one packet are delivered on arrival, even ahead of a gap.
    pub(crate) unordered: bool,
    /// No guess can have produced the packet's CRC.
    pub(crate) is_proven: bool,
}

#[derive(Debug)]
enum Slot {
    Missing,
    Held {
        kind: Kind,
        body: Bytes,
        is_proven: bool,
    },
    /// Delivered ahead of the gap, on an unordered channel.
    Delivered,
}

/// One direction of one reliable channel.
#[derive(Debug)]
pub(crate) struct Receiver {
    channel: ReliableChannel,
    /// The sequence of `ring[0]`: everything below has been delivered.
    expected: u64,
    /// Packets from `expected` on. Never ends with `Missing`, never longer than the window.
    ring: VecDeque<Slot>,
    /// Bytes of the packets in `ring`.
    held: usize,
    series: Option<FragmentSeries>,
    acks: AckQueue,
    opening: Opening,
}

impl Receiver {
    /// A receiver that expects this sequence next.
    pub(crate) fn starting_at(channel: ReliableChannel, expected: u64) -> Self {
        let (ring, acks) = (VecDeque::new(), AckQueue::default());
        Self { channel, expected, ring, held: 0, series: None, acks, opening: Opening::default() }
    }

    /// Handles one packet and delivers everything that is now in order.
    pub(crate) fn receive(
        &mut self,
        now: Timestamp,
        sequence: u16,
        kind: Kind,
        body: Bytes,
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<Received, Fault> {
        let Some(sequence) = widen_received(sequence, self.expected).filter(|&sequence| sequence >= self.expected)
        else {
            self.acks.old(now, limits.acks);
            return Ok(Received::Duplicate);
        };
        let index = (sequence - self.expected) as usize;
        if index < self.ring.len() && !matches!(self.ring[index], Slot::Missing) {
            self.acks.ahead_again(now, sequence, limits.acks);
            return Ok(Received::Duplicate);
        }
        let open = self.reach(now);
        // The expected packet has a place whatever is held: it makes room.
        let has_room = index == 0 || self.held + body.len() <= limits.held;
        if index >= limits.window.min(open) || !has_room {
            // Tell the peer that this side is alive but currently accepts nothing new.
            if self.is_stalled() {
                self.acks.held_back(now, self.expected, limits.acks);
            }
            return Ok(Received::BeyondWindow);
        }
        self.opening.accepted();
        if index == 0 && inbox.has_room(limits.inbox) {
            self.deliver(kind, body, limits.is_proven, limits, inbox)?;
            self.ring.pop_front();
            self.expected += 1;
            if self.ring.is_empty() {
                self.acks.in_order(now, limits.acks);
            } else {
                self.acks.passed();
                self.drain(limits, inbox)?;
            }
            return Ok(Received::InOrder);
        }
        self.hold(index, kind, &body, limits, inbox)?;
        self.acks.ahead(sequence);
        Ok(Received::Ahead)
    }

    /// Packets from the expected one on that are taken now.
    pub(crate) fn reach(&mut self, now: Timestamp) -> usize {
        self.ring.len() + self.opening.packets(now)
    }

    /// Delivers packets in order while the application has room.
    ///
    /// # Errors
    /// If a packet that was held is impossible: [`Fault::Guess`] or [`Fault::Stream`].
    pub(crate) fn drain(&mut self, limits: &RecvLimits, inbox: &mut Inbox) -> Result<(), Fault> {
        let before = self.expected;
        let mut result = Ok(());
        while inbox.has_room(limits.inbox) && self.is_stalled() {
            if let Some(Slot::Held { kind, body, is_proven }) = self.ring.pop_front() {
                self.held -= body.len();
                if let Err(corrupt) = self.deliver(kind, body, is_proven, limits, inbox) {
                    result = Err(if is_proven { Fault::Stream(corrupt) } else { Fault::Guess(corrupt) });
                    if !self.ring.is_empty() {
                        self.ring.push_front(Slot::Missing);
                    }
                    break;
                }
            }
            self.expected += 1;
        }
        if self.ring.is_empty() && self.ring.capacity() > 0 {
            self.ring = VecDeque::new();
        }
        if self.expected > before {
            self.acks.passed();
        }
        result
    }

    /// The session has ended, and no packet comes any more: drops what waits for packets that are missing. What waits only for
    /// room is still delivered.
    pub(crate) fn finish(&mut self) {
        let missing = self.ring.iter().position(|slot| matches!(slot, Slot::Missing));
        self.ring.truncate(missing.unwrap_or(self.ring.len()));
        let held = |slot: &Slot| if let Slot::Held { body, .. } = slot { body.len() } else { 0 };
        self.held = self.ring.iter().map(held).sum();
        if self.ring.is_empty() {
            (self.ring, self.series) = (VecDeque::new(), None);
        }
        self.acks = AckQueue::default();
    }

    /// Whether the next packet in order waits for room.
    pub(crate) fn is_stalled(&self) -> bool {
        self.ring.front().is_some_and(|slot| !matches!(slot, Slot::Missing))
    }

    /// Memory in use: packets ahead of a gap and an incomplete message.
    pub(crate) fn memory(&self) -> usize {
        let series = self.series.as_ref().map_or(0, FragmentSeries::bytes);
        self.held + self.ring.capacity() * size_of::<Slot>() + series + self.acks.memory()
    }

    /// The most memory that this takes with packets of this size at most.
    pub(crate) fn memory_ceiling(window: usize, held: usize, packet: usize, message: usize) -> usize {
        // The expected packet may be held in excess. A ring that has just grown is half empty.
        let held = held.saturating_add(packet).min(window * packet);
        held + 2 * window * size_of::<Slot>() + message + AckQueue::memory_ceiling(window)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.ring.is_empty() && self.series.is_none() && self.acks.is_empty()
    }

    pub(crate) fn expected(&self) -> u64 {
        self.expected
    }

    pub(crate) fn acks(&mut self) -> &mut AckQueue {
        &mut self.acks
    }

    pub(crate) fn acks_owed(&self) -> &AckQueue {
        &self.acks
    }

    /// Stores a packet ahead of a gap. It is copied: a slice would keep the whole receive buffer alive.
    fn hold(
        &mut self,
        index: usize,
        kind: Kind,
        body: &[u8],
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<(), Corrupt> {
        let body = Bytes::copy_from_slice(body);
        let slot = if limits.unordered && kind == Kind::Data && inbox.has_room(limits.inbox) {
            self.deliver_data(body, limits, inbox)?;
            Slot::Delivered
        } else {
            self.held += body.len();
            Slot::Held { kind, body, is_proven: limits.is_proven }
        };
        if self.ring.len() <= index {
            self.ring.resize_with(index + 1, || Slot::Missing);
        }
        self.ring[index] = slot;
        Ok(())
    }

    /// Delivers the next packet in order. A packet of the peer's own ends a series that somebody may have begun with a guess
    /// and that it cannot belong to.
    fn deliver(
        &mut self,
        kind: Kind,
        body: Bytes,
        is_proven: bool,
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<(), Corrupt> {
        if kind == Kind::Data {
            self.series.take_if(|series| is_proven && !series.is_proven());
            return match self.series {
                None => self.deliver_data(body, limits, inbox),
                Some(_) => Err(Corrupt("plain data inside a series of fragments")),
            };
        }
        let added = self.series.as_mut().map(|series| series.add(&body, is_proven));
        if added.is_some_and(|added| added.is_err()) {
            self.series.take_if(|series| is_proven && !series.is_proven());
        }
        match (&mut self.series, added) {
            (Some(_), Some(added)) => added?,
            (series, _) => *series = Some(FragmentSeries::open(&body, is_proven, limits.message)?),
        }
        match self.series.take_if(|series| series.is_complete()) {
            Some(series) => self.deliver_data(series.into_message(), limits, inbox),
            None => Ok(()),
        }
    }

    /// Delivers a reliable payload: one message, or a Group. A Group is delivered whole or not at all.
    fn deliver_data(&self, payload: Bytes, limits: &RecvLimits, inbox: &mut Inbox) -> Result<(), Corrupt> {
        let channel = Channel::Reliable(self.channel);
        if let Payload::Message(message) = Payload::classify(&payload) {
            check_length(message.len(), limits)?;
            inbox.push(channel, payload);
            return Ok(());
        }
        let (mut messages, mut longest) = (0, 0);
        walk_group(&payload, |message| {
            messages += 1;
            longest = longest.max(message.len());
        })?;
        check_length(longest, limits)?;
        if messages > 0 {
            inbox.push_group(channel, payload, messages);
        }
        Ok(())
    }
}

/// Checks the size of a message that came in one packet. The first fragment of a longer one is checked separately.
fn check_length(message: usize, limits: &RecvLimits) -> Result<(), Corrupt> {
    if message > limits.message { Err(Corrupt("a message over the limit")) } else { Ok(()) }
}

/// Calls `visit` with every message in a payload, opening Groups in order. The stack has a fixed depth, because the
/// peer chooses the nesting.
pub(crate) fn walk_group(payload: &[u8], mut visit: impl FnMut(&[u8])) -> Result<(), Corrupt> {
    let mut stack: [Option<GroupElements<'_>>; MAX_NESTING] = [const { None }; MAX_NESTING];
    let mut depth = match Payload::classify(payload) {
        Payload::Message(message) => {
            visit(message);
            return Ok(());
        }
        Payload::Group(group) => {
            stack[0] = Some(group.elements());
            1
        }
    };
    while depth > 0 {
        let Some(element) = stack[depth - 1].as_mut().and_then(Iterator::next) else {
            depth -= 1;
            continue;
        };
        let element = element.map_err(|_| Corrupt("group element beyond its packet"))?;
        match Payload::classify(element) {
            Payload::Message(message) => visit(message),
            Payload::Group(group) => {
                let slot = stack.get_mut(depth).ok_or(Corrupt("groups nested too deep"))?;
                *slot = Some(group.elements());
                depth += 1;
            }
        }
    }
    Ok(())
}
