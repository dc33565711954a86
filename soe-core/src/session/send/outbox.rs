//! What waits to be sent, apart from the reliable channels.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{message::Channel, timestamp::Timestamp, wire::NetStatusRequest};

/// The bytes that a queued unreliable message counts in addition to its payload.
const MESSAGE_OVERHEAD: usize = 64;

/// What waits to be sent, apart from the reliable channels.
#[derive(Debug, Default)]
pub(in crate::session) struct Outbox {
    /// Allocated on first use and freed when the session is idle.
    waiting: Option<Box<Waiting>>,
    pub(in crate::session) net_status_reply: Option<Box<NetStatusRequest>>,
    pub(in crate::session) last_port_alive: Option<Timestamp>,
    /// The number of the next datagram.
    pub(in crate::session) datagrams: u64,
    /// Packets to resend for the resend timer. They ignore the congestion window.
    pub(in crate::session) probes: u32,
    /// The current datagram has acknowledged something new.
    pub(in crate::session) acked: bool,
    pub(in crate::session) acks_due: bool,
    pub(in crate::session) heartbeat_due: bool,
    /// A heartbeat is due that the peer is expected to answer. Other packets do not replace it.
    pub(in crate::session) question_due: bool,
    /// An acknowledged packet is sent again, so that the peer acknowledges it again.
    pub(in crate::session) repeat_due: bool,
    pub(in crate::session) response_due: bool,
    pub(in crate::session) remap_due: bool,
    pub(in crate::session) net_status_due: bool,
    pub(in crate::session) port_alive_due: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    unreliable: VecDeque<(Channel, Bytes)>,
    /// The bytes of `unreliable`, overhead included.
    bytes: usize,
    /// A finished datagram that was too large for its segment run.
    held: Option<Box<[u8]>>,
}

impl Outbox {
    pub(in crate::session) fn push_unreliable(&mut self, channel: Channel, message: Bytes) {
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += message.len() + MESSAGE_OVERHEAD;
        waiting.unreliable.push_back((channel, message));
    }

    pub(in crate::session) fn pop_unreliable(&mut self) -> Option<(Channel, Bytes)> {
        let waiting = self.waiting.as_mut()?;
        let (channel, message) = waiting.unreliable.pop_front()?;
        waiting.bytes -= message.len() + MESSAGE_OVERHEAD;
        Some((channel, message))
    }

    /// The next unreliable message.
    pub(in crate::session) fn first_unreliable(&self) -> Option<&(Channel, Bytes)> {
        self.waiting.as_ref()?.unreliable.front()
    }

    /// Removes all unreliable messages.
    pub(in crate::session) fn take_unreliable(&mut self) -> VecDeque<(Channel, Bytes)> {
        let Some(waiting) = &mut self.waiting else { return VecDeque::new() };
        waiting.bytes = 0;
        std::mem::take(&mut waiting.unreliable)
    }

    /// Bytes of unreliable messages, overhead included.
    pub(in crate::session) fn unreliable_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    pub(in crate::session) fn unreliable_messages(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.unreliable.len())
    }

    pub(in crate::session) fn has_unreliable(&self) -> bool {
        self.first_unreliable().is_some()
    }

    /// Keeps a finished datagram that was too large for its segment run.
    pub(in crate::session) fn hold(&mut self, datagram: &[u8]) {
        self.waiting.get_or_insert_default().held = Some(datagram.into());
    }

    pub(in crate::session) fn take_held(&mut self) -> Option<Box<[u8]>> {
        self.waiting.as_mut()?.held.take()
    }

    pub(in crate::session) fn has_held(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.held.is_some())
    }

    /// Memory in use, in bytes.
    pub(in crate::session) fn memory(&self) -> usize {
        let reply = self.net_status_reply.as_ref().map_or(0, |_| size_of::<NetStatusRequest>());
        reply + self.waiting.as_ref().map_or(0, |waiting| waiting.memory())
    }

    /// The most memory in use with this send buffer and datagram size, in bytes.
    pub(in crate::session) const fn memory_ceiling(buffer: usize, datagram: usize) -> usize {
        // A queue that has just grown is half empty.
        let places = 2 * (buffer / (MESSAGE_OVERHEAD + 1) + 2) * size_of::<(Channel, Bytes)>();
        size_of::<Waiting>() + buffer + places + 2 * datagram + size_of::<NetStatusRequest>()
    }

    /// Frees memory that traffic has left behind.
    pub(in crate::session) fn shrink(&mut self) {
        self.waiting.take_if(|waiting| waiting.unreliable.is_empty() && waiting.held.is_none());
        if let Some(waiting) = &mut self.waiting {
            waiting.unreliable.shrink_to_fit();
        }
    }

    /// Drops everything that waits. The numbering continues.
    pub(in crate::session) fn clear(&mut self) {
        *self = Self { datagrams: self.datagrams, ..Self::default() };
    }
}

impl Waiting {
    fn memory(&self) -> usize {
        let places = self.unreliable.capacity() * size_of::<(Channel, Bytes)>();
        let messages = self.bytes - self.unreliable.len() * MESSAGE_OVERHEAD;
        size_of::<Self>() + messages + places + self.held.as_ref().map_or(0, |held| held.len())
    }
}
