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

    pub(super) fn has_unreliable(&self) -> bool {
        !self.unreliable.is_empty()
    }

    /// Drops everything that waits; the numbering goes on.
    pub(super) fn clear(&mut self) {
        *self = Self { datagrams: self.datagrams, ..Self::default() };
    }
}
