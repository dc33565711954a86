//! What a session hands out: events, transmits, verdicts.

use std::num::NonZeroU64;

use bytes::BytesMut;

use crate::{error::Closed, message::ReliableChannel};

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum DatagramOutcome {
    /// Its CRC was right: the sender knows the seed, as far as the CRC's length proves it.
    Authentic,
    /// It was handled, or ignored, and proves nothing about its sender.
    Unproven,
    /// Its CRC was wrong. It comes back: behind the same address may be a newcomer, whom [`Endpoint`](crate::Endpoint)
    /// knows.
    Rejected(BytesMut),
    /// A session request with another id than this session's, or a question to the server. It comes back, for
    /// [`Endpoint`](crate::Endpoint).
    ForEndpoint(BytesMut),
}

/// One datagram, or a run of equal ones, appended to the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Transmit {
    /// Bytes appended.
    pub size: usize,
    /// Bytes of each datagram; the last may be shorter. Equal to `size` for a single one. A run leaves in one system call
    /// where the platform segments (UDP GSO).
    pub segment_size: usize,
    /// The time to live to send with, if not the ordinary one.
    pub time_to_live: Option<u8>,
}

impl Transmit {
    pub(crate) fn single(size: usize) -> Self {
        Self { size, segment_size: size, time_to_live: None }
    }

    /// How many datagrams these are.
    pub fn datagrams(&self) -> usize {
        self.size.div_ceil(self.segment_size.max(1))
    }
}

/// Names a message whose delivery is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub(crate) NonZeroU64);

/// What happened to a session, apart from messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A client's session is open: the server has answered and has not refused.
    Connected,
    /// The peer goes on from another address.
    Remapped,
    /// The peer has acknowledged the last byte of the message with this receipt, and all before it on its channel.
    Delivered(Receipt),
    /// Large packets are lost one after another while smaller ones arrive: the path takes smaller datagrams than were agreed on
    /// (an MTU, mostly, and somebody who drops without saying so). Small messages go on; those that take large packets wait, and
    /// are tried again once a second. What stays so ends the session with `UnacknowledgedTimeout`. A smaller
    /// [`udp_length`](crate::Settings::udp_length) on either side helps. Told again when it happens again.
    LargeDatagramsLost {
        /// The smallest packet that is lost each time, in bytes; CRC and codecs come on top.
        smallest_lost: usize,
        /// The largest packet that has arrived meanwhile, in bytes.
        largest_delivered: usize,
    },
    /// The peer is there and acknowledges, but takes nothing more on this channel: its application has not read for five
    /// seconds or more. Reported once, until the channel moves again. Without a change the session ends after
    /// [`unread_timeout`](crate::Settings::unread_timeout).
    PeerNotReading(ReliableChannel),
    /// The session has ended. The last event. A receipt that was not reported before is not known to have been delivered.
    Closed(Closed),
}

/// What has been taken from the application and is not known to have arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undelivered {
    /// Messages, the partly acknowledged included.
    pub messages: usize,
    /// Bytes in wire form: encrypted and escaped.
    pub bytes: usize,
}
