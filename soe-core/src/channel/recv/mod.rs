//! The receiving half of a reliable channel: reordering, reassembly and acknowledgements.

mod healing;
mod slot;

use std::collections::VecDeque;

use bytes::Bytes;

use self::{
    healing::Healing,
    slot::{Held, Slot},
};
use super::{
    acks::{AckPolicy, AckQueue},
    fragment::{Corrupt, FragmentSeries},
    inbox::Inbox,
    opening::Opening,
    sequence::widen_received,
    walk::walk_group,
};
use crate::{
    message::{Channel, ReliableChannel},
    timestamp::Timestamp,
    wire::Payload,
};

/// The kind of a reliable packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Fragment,
}

/// A reliable packet that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) sequence: u16,
    pub(crate) kind: Kind,
    pub(crate) body: Bytes,
    /// No guess can have produced the CRC of its datagram.
    pub(crate) is_proven: bool,
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
    /// Of the packet in hand. It was refused and not acknowledged.
    Packet(Corrupt),
    /// On a channel of which somebody may have guessed a part: the packet was dropped or refused, whoever sent it, and
    /// the stream goes on.
    Doubtful(Corrupt),
    /// Of a packet of the peer's own that has been acknowledged. It was dropped.
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
    healing: Healing,
}

impl Receiver {
    /// A receiver that expects this sequence next.
    pub(crate) fn starting_at(channel: ReliableChannel, expected: u64) -> Self {
        let (ring, acks) = (VecDeque::new(), AckQueue::default());
        Self {
            channel,
            expected,
            ring,
            held: 0,
            series: None,
            acks,
            opening: Opening::default(),
            healing: Healing::default(),
        }
    }

    /// Handles one packet and delivers everything that is now in order.
    pub(crate) fn receive(
        &mut self,
        now: Timestamp,
        packet: Incoming,
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<Received, Fault> {
        let Incoming { sequence, kind, body, is_proven } = packet;
        let widened = widen_received(sequence, self.expected);
        let Some(sequence) = widened.filter(|&sequence| sequence >= self.expected) else {
            self.acks.old(now, widened, limits.acks);
            return Ok(Received::Duplicate);
        };
        let index = (sequence - self.expected) as usize;
        if index < self.ring.len() && !matches!(self.ring[index], Slot::Missing) {
            self.note_behind(now, kind, &body, limits);
            self.contest(index, kind, &body, limits);
            self.acks.ahead_again(now, sequence, limits.acks);
            return self.give_up(now, limits, inbox).map(|()| Received::Duplicate);
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
        self.healing.taken(is_proven);
        if index == 0 && inbox.has_room(limits.inbox) {
            let again = self.healing.is_tainted().then(|| body.clone());
            let dropped = match (self.deliver(kind, body, limits, inbox), again) {
                (Ok(()), _) => Ok(()),
                (Err(corrupt), None) => return Err(Fault::Packet(corrupt)),
                (Err(corrupt), Some(body)) => {
                    if !self.healing.is_of_the_peer(now, sequence, kind) {
                        return Err(Fault::Doubtful(corrupt));
                    }
                    self.deliver_anew(kind, body, limits, inbox).map_err(Fault::Doubtful)
                }
            };
            self.ring.pop_front();
            self.passed();
            if self.ring.is_empty() {
                if is_proven && self.series.is_none() && dropped.is_ok() {
                    self.healing.healed();
                }
                self.acks.in_order(now, limits.acks);
            } else {
                self.acks.passed();
                self.drain(now, limits, inbox)?;
            }
            return dropped.map(|()| Received::InOrder);
        }
        self.note_behind(now, kind, &body, limits);
        if let Err(corrupt) = self.hold(index, kind, &body, limits, inbox) {
            return Err(if self.healing.is_tainted() { Fault::Doubtful(corrupt) } else { Fault::Packet(corrupt) });
        }
        self.acks.ahead(sequence);
        self.give_up(now, limits, inbox).map(|()| Received::Ahead)
    }

    /// Packets from the expected one on that are taken now.
    pub(crate) fn reach(&mut self, now: Timestamp) -> usize {
        self.ring.len() + self.opening.packets(now)
    }

    fn passed(&mut self) {
        self.expected += 1;
        self.healing.passed();
        self.acks.advanced();
    }

    /// Delivers packets in order while the application has room.
    ///
    /// # Errors
    /// If a packet that was held is impossible: [`Fault::Doubtful`] or [`Fault::Stream`].
    pub(crate) fn drain(&mut self, now: Timestamp, limits: &RecvLimits, inbox: &mut Inbox) -> Result<(), Fault> {
        let before = self.expected;
        let mut result = Ok(());
        while inbox.has_room(limits.inbox) && self.is_stalled() {
            let Some(slot) = self.ring.pop_front() else { break };
            self.held -= slot.bytes();
            let delivered = match slot {
                Slot::Held(Held { kind, body }) => self.deliver(kind, body, limits, inbox),
                Slot::Contested(both) => self.deliver_contested(*both, limits, inbox),
                Slot::Missing | Slot::Delivered => Ok(()),
            };
            match delivered {
                Ok(()) => {}
                Err(corrupt) if self.healing.is_tainted() => {
                    result = Err(Fault::Doubtful(corrupt));
                    if !self.healing.skips() {
                        self.reopen(now, limits);
                        break;
                    }
                }
                Err(corrupt) => result = Err(Fault::Stream(corrupt)),
            }
            self.passed();
        }
        if self.ring.is_empty() && self.ring.capacity() > 0 {
            self.ring = VecDeque::new();
        }
        if self.expected > before {
            self.acks.passed();
        }
        result
    }

    /// The session has ended, and no packet comes any more: drops what waits for packets that are missing. What waits
    /// only for room is still delivered.
    pub(crate) fn finish(&mut self) {
        let missing = self.ring.iter().position(|slot| matches!(slot, Slot::Missing));
        self.ring.truncate(missing.unwrap_or(self.ring.len()));
        self.held = self.ring.iter().map(Slot::bytes).sum();
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
        // The expected packet may be held in excess. A place may be claimed by two. A ring that has just grown is half
        // empty.
        let held = held.saturating_add(packet).min(window * (2 * packet + Slot::CONTESTED));
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
            Slot::Held(Held { kind, body })
        };
        if self.ring.len() <= index {
            self.ring.resize_with(index + 1, || Slot::Missing);
        }
        self.ring[index] = slot;
        Ok(())
    }

    /// Delivers the next packet in order. If it is impossible, nothing is changed, unless it completes a message that is.
    fn deliver(&mut self, kind: Kind, body: Bytes, limits: &RecvLimits, inbox: &mut Inbox) -> Result<(), Corrupt> {
        match (kind, &mut self.series) {
            (Kind::Data, None) => self.deliver_data(body, limits, inbox)?,
            (Kind::Data, Some(_)) => {
                if !self.series_gives_way() {
                    return Err(Corrupt("plain data inside a series of fragments"));
                }
                self.deliver_data(body, limits, inbox)?;
                self.series = None;
            }
            (Kind::Fragment, None) => self.series = Some(FragmentSeries::open(&body, limits.message)?),
            (Kind::Fragment, Some(series)) => {
                if let Err(corrupt) = series.add(&body) {
                    if !self.series_gives_way() {
                        return Err(corrupt);
                    }
                    self.series = Some(FragmentSeries::open(&body, limits.message)?);
                }
            }
        }
        if let Some(series) = self.series.take_if(|series| series.is_complete()) {
            self.deliver_data(series.into_message(), limits, inbox)?;
        }
        if self.series.is_none() {
            self.healing.delivered();
        }
        Ok(())
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
