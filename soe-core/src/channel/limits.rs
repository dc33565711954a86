//! The limits for a packet that is written, and the result.

use super::packet::Cause;
use crate::timestamp::Timestamp;

/// Op code and sequence.
pub(crate) const HEADER: usize = 4;

/// The limits for one packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendLimits {
    /// Packets from the oldest unacknowledged on.
    pub(crate) window_packets: usize,
    /// The peer has named its window. It counts from the last `AcknowledgeAll`, which names what its application has room
    /// for; packets acknowledged one by one still take their place.
    pub(crate) is_named: bool,
    /// Bytes under way.
    pub(crate) window_bytes: usize,
    /// The largest packet that fits a datagram.
    pub(crate) packet: usize,
    /// The largest packet that may combine several messages.
    pub(crate) group: usize,
}

impl SendLimits {
    /// The most payload of one packet.
    pub(super) fn payload(&self) -> usize {
        self.packet - HEADER
    }
}

/// The time and the space that a packet is written for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) now: Timestamp,
    /// The number of the datagram, counted over the session.
    pub(crate) datagram: u64,
    /// Bytes that the packet may take.
    pub(crate) room: usize,
    /// The free part of the congestion window, in bytes.
    pub(crate) budget: usize,
}

/// A packet that has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) resend: Option<Cause>,
    pub(crate) messages: usize,
}
