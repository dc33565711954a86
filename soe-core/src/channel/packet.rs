//! A reliable packet that was sent, and what acknowledgements and timers decide about it.

use std::time::Duration;

use bytes::Bytes;

use crate::timestamp::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    InFlight,
    /// Declared lost: waits to be sent again.
    Lost(Cause),
    Acked,
}

/// Why a packet is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Later datagrams have been acknowledged.
    Overtaken,
    /// The resend timer fired.
    Timeout,
}

/// The header of the packet on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Data,
    FirstFragment { total: u32 },
    Fragment,
}

#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) head: Head,
    pub(crate) payload: Bytes,
    pub(crate) state: State,
    /// Messages whose last byte is in this packet.
    pub(crate) ends: u16,
    pub(crate) transmissions: u16,
    /// Redundant copies sent since it was last sent.
    pub(crate) copies: u8,
    /// When it was first sent.
    pub(crate) first_sent: Timestamp,
    /// When it was last sent.
    pub(crate) sent: Timestamp,
    /// The number of the datagram that first carried it.
    pub(crate) first_datagram: u64,
    /// The number of the datagram that last carried it.
    pub(crate) datagram: u64,
}

impl Packet {
    /// Op code, sequence and, on the first fragment, the total length.
    pub(crate) fn size(&self) -> usize {
        let head = if matches!(self.head, Head::FirstFragment { .. }) { 8 } else { 4 };
        head + self.payload.len()
    }

    pub(super) fn is_in_flight(&self) -> bool {
        #[cfg(test)]
        super::flight::tests::visited();
        self.state == State::InFlight
    }

    pub(super) fn is_lost(&self) -> bool {
        #[cfg(test)]
        super::flight::tests::visited();
        matches!(self.state, State::Lost(_))
    }
}

/// The result of an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
    /// The size of the largest packet, in bytes.
    pub(crate) largest: usize,
    /// The age of a packet whose resend was spurious: the acknowledgement of the first transmission was on its way.
    pub(crate) late: Option<Duration>,
    /// The age of a packet whose first transmission was acknowledged after a later datagram.
    pub(crate) overtaken: Option<Duration>,
    /// Bytes of packets that had been declared lost in error.
    pub(crate) found: usize,
    /// Packets that arrived only because they were resent, as far as can be determined.
    pub(crate) repaired: u32,
    /// The ages of the newest and the oldest packet acknowledged that was sent only once.
    pub(crate) ages: Option<(Duration, Duration)>,
    /// How many packets the peer has passed that it had acknowledged one by one before: it had held them, its application reads
    /// again, and its window has moved by as many.
    pub(crate) moved: usize,
}

/// The age at which a packet counts as lost once a later datagram has been acknowledged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LossDelay {
    /// Once a datagram three or more later was acknowledged. At most `by_time`.
    pub(crate) by_count: Duration,
    /// Once any later datagram was acknowledged.
    pub(crate) by_time: Duration,
}
