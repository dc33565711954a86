//! The memory of a session: what it uses now, and its upper bound.

use super::{
    Session, TRANSFORM_OVERHEAD,
    channels::Reliable,
    cold::Cold,
    life::{ClockSync, Timers},
    send::Outbox,
    stats::Counters,
    types::Event,
};
use crate::{
    channel::{inbox::Inbox, limits::SendLimits, recv::Receiver, send::Sender},
    config::SessionConfig,
    framing::{Framing, MAX_INFLATED, Pass},
    message::ReliableChannel,
};

impl Session {
    /// The memory in use, in bytes: the session itself, waiting messages, packets under way or ahead of a gap,
    /// incomplete messages, and bookkeeping. Small fixed-size allocations count even before they are made.
    ///
    /// Not counted: the rest of a receive buffer of which a waiting message is a slice, the state of hooks, and the
    /// overhead of the allocator.
    pub fn memory(&self) -> usize {
        let channels = self.channels.iter().flatten();
        let reliable: usize = channels
            .map(|reliable| size_of::<Reliable>() + reliable.sender.memory() + reliable.receiver.memory())
            .sum();
        let events = self.cold.as_ref().map_or(0, |cold| cold.events.capacity() * size_of::<Event>());
        size_of::<Self>() + BOXES + reliable + self.inbox.memory() + self.outbox.memory() + events
    }
}

impl Session {
    /// An estimate of [`memory`](Self::memory) without the session itself. It is cheap enough to be called for many
    /// sessions all the time.
    pub fn held(&self) -> usize {
        let channels = self.channels.iter().flatten();
        let reliable: usize = channels
            .map(|reliable| {
                let sender = &reliable.sender;
                sender.queued_bytes() + sender.in_flight_bytes() + reliable.receiver.memory()
            })
            .sum();
        reliable + self.inbox.bytes() + self.outbox.unreliable_bytes()
    }
}

impl SessionConfig {
    /// The most memory that a session with this configuration can use, in bytes, whatever its peer sends and its
    /// application leaves unread. Counted like [`Session::memory`], without the events that the application does not poll.
    ///
    /// Each of the four channels may hold [`recv_window`](crate::Settings::recv_window) packets of together
    /// [`recv_window_bytes`](crate::Settings::recv_window_bytes) ahead of a gap, one incomplete message of [`max_message_size`](crate::Settings::max_message_size), and a full
    /// [`send_buffer`](crate::Settings::send_buffer) plus two messages of that size. The session may hold one more
    /// such message to be sent ([`Session::reserve`]), a full [`recv_buffer`](crate::Settings::recv_buffer) plus one such message, and a full `send_buffer` of unreliable messages. `max_message_size` has the largest effect:
    /// servers with many sessions should lower it. The memory is used only if the peer or the application really sends
    /// that much.
    ///
    /// At each limit: a packet beyond the receive window is dropped and resent by the peer. A message over the size
    /// limit ends the session. With a full receive buffer, nothing is acknowledged and unreliable messages are dropped.
    /// With a full send buffer, messages are returned with [`SendError::Blocked`](crate::SendError::Blocked), or the session
    /// ends ([`Overflow`](crate::Overflow)). There is one event for each receipt.
    pub fn memory_ceiling(&self) -> usize {
        let datagram = self.udp_length as usize;
        let codecs = self.dialect.codecs.iter().any(Option::is_some) || self.passes != [Pass::None; 2];
        let packet = if codecs { datagram.max(MAX_INFLATED) } else { datagram };
        let message = self.max_message_size + TRANSFORM_OVERHEAD;
        let limits = SendLimits {
            window_packets: self.send_window,
            is_named: true,
            window_bytes: self.send_window_bytes,
            packet: datagram,
            group: datagram,
        };
        let channel = size_of::<Reliable>()
            + Sender::memory_ceiling(&limits, self.send_buffer, message)
            + Receiver::memory_ceiling(self.recv_window, self.held_bytes(datagram), packet, message);
        size_of::<Session>()
            + ReliableChannel::COUNT * channel
            + message
            + Inbox::memory_ceiling(self.recv_buffer, message.max(packet))
            + Outbox::memory_ceiling(self.send_buffer, datagram)
            + BOXES
            + EVENTS * size_of::<Event>()
    }
}

/// Fixed-size allocations that are made when first needed.
const BOXES: usize = size_of::<Cold>() + Timers::BOXED + Counters::BOXED + ClockSync::BOXED + Framing::BOXED;

/// Events other than `Delivered`: connected, closed, and several moves before the application polls.
const EVENTS: usize = 16;
