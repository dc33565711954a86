//! Events of a session other than messages.

use std::net::SocketAddr;

use soe_core::ReliableChannel;

/// An event of a session other than a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The peer has proved that it has moved to another address (section 9 of `docs/protocol.md`).
    Remapped {
        /// Its previous address.
        from: SocketAddr,
        /// Its current address.
        to: SocketAddr,
    },
    /// Large packets are lost one after another while smaller ones arrive: the path MTU is below the negotiated
    /// datagram size. See [`soe_core::Event::LargeDatagramsLost`] for what happens to the session and what to do.
    LargeDatagramsLost {
        /// The smallest packet that is lost each time, in bytes; CRC and codecs come on top.
        smallest_lost: usize,
        /// The largest packet that arrived in the same time, in bytes.
        largest_delivered: usize,
    },
    /// The peer answers, but accepts nothing more on this channel: its application has not read for five seconds or
    /// more. Reported once, until the channel makes progress again. See [`soe_core::Event::PeerNotReading`] for what
    /// happens to the session.
    PeerNotReading(ReliableChannel),
}
