//! What happens to a session beside its messages.

use std::net::SocketAddr;

use soe_core::ReliableChannel;

/// Something that happened to a session beside its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The peer has proved that it has moved to another address (section 9 of `docs/protocol.md`).
    Remapped {
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    },
    /// Large packets are lost one after another while smaller ones arrive: the path takes smaller datagrams than were agreed on.
    /// What becomes of the session, and what helps, see [`soe_core::Event::LargeDatagramsLost`].
    LargeDatagramsLost {
        /// The smallest packet that is lost each time, in bytes; CRC and codecs come on top.
        smallest_lost: usize,
        /// The largest packet that has arrived meanwhile, in bytes.
        largest_delivered: usize,
    },
    /// The peer is there, but takes nothing more on this channel: its application has not read for five seconds or more.
    /// Told once, until the channel moves again. What becomes of the session, see [`soe_core::Event::PeerNotReading`].
    PeerNotReading(ReliableChannel),
}
