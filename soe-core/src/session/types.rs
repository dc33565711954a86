//! The values that a session returns: events, transmits, outcomes.

use std::num::NonZeroU64;

use bytes::BytesMut;

use crate::{error::Closed, message::ReliableChannel};

/// What a datagram was found to be.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum DatagramOutcome {
    /// Its CRC was right. This proves that the sender has the seed, as far as the length of the CRC allows.
    Authentic,
    /// It was handled or ignored. It proves nothing about its sender.
    Unproven,
    /// Its CRC was wrong. Give it to [`Endpoint`](crate::Endpoint): a new client may use the same address.
    Rejected(BytesMut),
    /// A session request with another id, or a query to the server. Give it to [`Endpoint`](crate::Endpoint).
    ForEndpoint(BytesMut),
}

/// One datagram, or several datagrams of one size, appended to the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Transmit {
    /// Bytes appended.
    pub size: usize,
    /// Bytes of each datagram; the last may be shorter. Equal to `size` for a single datagram. Several datagrams can
    /// leave in one system call where the platform has UDP GSO.
    pub segment_size: usize,
    /// The time to live to send with, in hops; `None` is the system's default.
    pub time_to_live: Option<u8>,
}

impl Transmit {
    pub(crate) fn single(size: usize) -> Self {
        Self { size, segment_size: size, time_to_live: None }
    }

    /// The number of datagrams.
    pub fn datagrams(&self) -> usize {
        self.size.div_ceil(self.segment_size.max(1))
    }
}

/// Identifies a message whose delivery is reported with [`Event::Delivered`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Receipt(pub(crate) NonZeroU64);

/// What happened to a session, apart from messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A client's session is open: the server has answered and has not refused.
    Connected,
    /// The peer now sends from another address.
    Remapped,
    /// The peer has acknowledged the last byte of this message, and all earlier ones on its channel.
    Delivered(Receipt),
    /// Large packets are lost repeatedly while smaller ones arrive. Most likely the path has a smaller MTU than
    /// `udp_length` and drops larger datagrams silently.
    ///
    /// Small messages continue. Large packets wait and are tried once a second; if they never pass, the session ends
    /// with `UnacknowledgedTimeout`. Set a smaller [`udp_length`](crate::Settings::udp_length) on either side. Reported
    /// again when it happens again.
    LargeDatagramsLost {
        /// The smallest packet that is lost each time, in bytes, without CRC and codecs.
        smallest_lost: usize,
        /// The largest packet that arrived in the same time, in bytes.
        largest_delivered: usize,
    },
    /// The peer still acknowledges but has accepted nothing new on this channel for five seconds or more: its
    /// application does not read. Reported once, until the channel makes progress. The session ends after
    /// [`unread_timeout`](crate::Settings::unread_timeout).
    PeerNotReading(ReliableChannel),
    /// The session has ended. This is the last event. Messages whose receipts were not reported before may not have
    /// been delivered.
    Closed(Closed),
}

/// What the application has sent and the peer has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undelivered {
    /// Messages, including partly acknowledged ones.
    pub messages: usize,
    /// Bytes as sent on the wire: encrypted and escaped.
    pub bytes: usize,
}
