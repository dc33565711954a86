//! The reliable channels of a session: a full state while packets are under way, two numbers while idle.

use std::time::Duration;

use super::Session;
use crate::{
    channel::{
        packet::Acked,
        recv::Receiver,
        send::Sender,
        sequence::{compact, widen_acked},
    },
    message::ReliableChannel,
    timestamp::Timestamp,
};

/// Both directions of a reliable channel. Allocated when something is sent or received on it.
#[derive(Debug)]
pub(super) struct Reliable {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    /// Since when the channel has had something to send and has sent nothing.
    pub(super) waiting_since: Option<Timestamp>,
    /// When the peer last sent an acknowledgement on this channel, including a repeated one.
    pub(super) answered: Option<Timestamp>,
    /// `Event::PeerNotReading` has been reported.
    pub(super) is_unread: bool,
}

impl Reliable {
    pub(super) fn is_idle(&self) -> bool {
        self.sender.is_idle() && self.receiver.is_idle()
    }

    /// Whether packets are under way and the peer is silent about them: it has acknowledged nothing, new or repeated, since
    /// the oldest was first sent, or for `long`. An answer would show that they arrive, though they may not be accepted.
    pub(super) fn is_unanswered(&self, now: Timestamp, long: Duration) -> bool {
        let sent = self.sender.oldest_first_sent();
        sent.is_some_and(|sent| self.answered.is_none_or(|answered| answered <= sent || now >= answered + long))
    }
}

/// An idle channel: where its sequences continue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdleChannel {
    /// The next sequence to send.
    next: u32,
    /// The next sequence to arrive.
    expected: u32,
}

impl IdleChannel {
    fn of(reliable: &Reliable) -> Self {
        Self { next: compact(reliable.sender.next_sequence()), expected: compact(reliable.receiver.expected()) }
    }

    /// The sequence of the last packet sent, if there was one. Only the lower 16 bits are exact.
    pub(super) fn last_sent(self) -> Option<u64> {
        u64::from(self.next).checked_sub(1)
    }

    /// Handles an acknowledgement on an idle channel: it acknowledges nothing new. `None`: that sequence was never
    /// sent.
    pub(super) fn acknowledge(self, wire: u16) -> Option<Acked> {
        widen_acked(wire, u64::from(self.next)).map(|_| Acked::default())
    }
}

impl Session {
    pub(super) fn reliable(&mut self, channel: ReliableChannel) -> &mut Reliable {
        let IdleChannel { next, expected } = self.idle_channels[channel.index()];
        self.channels[channel.index()].get_or_insert_with(|| {
            let sender = Sender::starting_at(channel, u64::from(next));
            let receiver = Receiver::starting_at(channel, u64::from(expected));
            Box::new(Reliable { sender, receiver, waiting_since: None, answered: None, is_unread: false })
        })
    }

    /// Frees the state of idle channels and the memory that traffic has left behind.
    pub(super) fn shrink(&mut self, now: Timestamp) {
        for (reliable, idle_channel) in self.channels.iter_mut().zip(&mut self.idle_channels) {
            if let Some(idle) = reliable.take_if(|reliable| reliable.is_idle()) {
                *idle_channel = IdleChannel::of(&idle);
            }
        }
        self.shrink_cold(now);
        self.timers.shrink();
        self.inbox.shrink();
        self.outbox.shrink();
    }
}
