//! What a session takes, and the most that it can take.

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
    channel::{
        inbox::Inbox,
        recv::Receiver,
        send::{SendLimits, Sender},
    },
    config::SessionConfig,
    framing::{Framing, MAX_INFLATED, Pass},
    message::ReliableChannel,
};

impl Session {
    /// The memory that the session takes at this moment, in bytes: itself, messages that wait, packets under way or ahead of
    /// a gap, half a message, and what keeps account of them. Some hundred bytes that are allocated when first needed count
    /// from the beginning. Not counted: receive buffers of which a few messages that wait
    /// are slices, transforms, and what the allocator adds.
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
    /// About what [`memory`](Self::memory) says without the session itself, found with a few additions: for who watches many
    /// sessions all the time.
    pub fn held(&self) -> usize {
        let channels = self.channels.iter().flatten();
        let reliable: usize = channels
            .map(|reliable| {
                let sender = &reliable.sender;
                sender.queued_bytes() + sender.flying_bytes() + reliable.receiver.memory()
            })
            .sum();
        reliable + self.inbox.bytes() + self.outbox.unreliable_bytes()
    }
}

impl SessionConfig {
    /// The most memory that a session under this configuration can be made to take, in bytes, whatever its peer sends and
    /// whatever its application leaves unread; counted like [`Session::memory`].
    ///
    /// Each of the four channels may hold [`recv_window`](crate::Settings::recv_window) packets ahead of a gap, half a
    /// message of [`max_message_size`](crate::Settings::max_message_size), and as a sender a full
    /// [`send_buffer`](crate::Settings::send_buffer), overshot by one message, with another one under way. All share
    /// [`recv_buffer`](crate::Settings::recv_buffer), overshot by one message. Servers with many sessions lower
    /// `max_message_size`, which rules: only a channel whose peer really sends so much, or whose application does, takes it.
    ///
    /// What happens at each limit: packets beyond the receive window are dropped, and the peer sends them again; a message
    /// over the limit ends the session; with a full receive buffer nothing more is acknowledged, and unreliable messages are
    /// dropped; with a full send buffer messages come back as [`SendError::Blocked`](crate::SendError::Blocked). Events that
    /// nobody takes are not counted: there is one for each receipt that was asked for.
    pub fn memory_ceiling(&self) -> usize {
        let datagram = self.udp_length as usize;
        let codecs = self.dialect.codecs.iter().any(Option::is_some) || self.passes != [Pass::None; 2];
        let packet = if codecs { datagram.max(MAX_INFLATED) } else { datagram };
        let message = self.max_message_size + TRANSFORM_OVERHEAD;
        let limits = SendLimits {
            window_packets: self.send_window,
            window_bytes: self.send_window_bytes,
            packet: datagram,
            group: datagram,
        };
        let channel = size_of::<Reliable>()
            + Sender::memory_ceiling(&limits, self.send_buffer, message)
            + Receiver::memory_ceiling(self.recv_window, packet, message);
        size_of::<Session>()
            + ReliableChannel::COUNT * channel
            + Inbox::memory_ceiling(self.recv_buffer, message.max(packet))
            + Outbox::memory_ceiling(self.send_buffer, datagram)
            + BOXES
            + EVENTS * size_of::<Event>()
    }
}

/// What is made when first needed, and has one size.
const BOXES: usize = size_of::<Cold>() + Timers::BOXED + Counters::BOXED + ClockSync::BOXED + Framing::BOXED;

/// Events that no receipt has caused: connected, closed, and moves that follow each other before anybody looks.
const EVENTS: usize = 16;
