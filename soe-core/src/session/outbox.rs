//! What waits to leave, apart from the reliable channels.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use crate::{Channel, wire::NetStatusRequest};

/// What one queued unreliable message costs beside its bytes.
const MESSAGE_OVERHEAD: usize = 64;

/// What waits to leave, apart from the reliable channels.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) unreliable: VecDeque<(Channel, Bytes)>,
    pub(super) unreliable_bytes: usize,
    /// The number of the next datagram.
    pub(super) datagrams: u64,
    /// A sealed datagram that did not fit the run it was made for.
    pub(super) held: Option<Box<[u8]>>,
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
    pub(super) port_alive_due: bool,
    pub(super) last_port_alive: Option<Instant>,
}

impl Outbox {
    pub(super) fn push_unreliable(&mut self, channel: Channel, message: Bytes) {
        self.unreliable_bytes += message.len() + MESSAGE_OVERHEAD;
        self.unreliable.push_back((channel, message));
    }

    pub(super) fn pop_unreliable(&mut self) -> Option<(Channel, Bytes)> {
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

    /// Gives back memory that traffic has left behind.
    pub(super) fn shrink(&mut self) {
        self.unreliable.shrink_to_fit();
    }

    /// Drops everything that waits; the numbering goes on.
    pub(super) fn clear(&mut self) {
        *self = Self { datagrams: self.datagrams, ..Self::default() };
    }
}
