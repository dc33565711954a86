//! What has arrived and waits for the application.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::Channel;

/// What one waiting message costs beside its bytes: its place in the queue and its share of the buffer that it was cut from.
const MESSAGE_OVERHEAD: usize = 64;
/// Up to this many waiting messages stay slices of the buffer they arrived in. A longer queue means that the application
/// is behind, and a copy then keeps a small message from pinning a large receive buffer.
const SLICES_HELD: usize = 8;

/// A message as it came off the wire: reliable ones still escaped and encrypted.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) channel: Channel,
    pub(crate) raw: Bytes,
}

/// The queue between the channels and the application, all channels in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: VecDeque<Arrival>,
    /// The bytes of `queue`, overhead included.
    bytes: usize,
}

impl Inbox {
    /// Whether another message may come in; one message, or the elements of one packet, may overshoot the limit.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        self.bytes < limit
    }

    pub(crate) fn push(&mut self, channel: Channel, raw: Bytes) {
        let raw = if self.queue.len() < SLICES_HELD { raw } else { Bytes::copy_from_slice(&raw) };
        self.bytes += raw.len() + MESSAGE_OVERHEAD;
        self.queue.push_back(Arrival { channel, raw });
    }

    pub(crate) fn pop(&mut self) -> Option<Arrival> {
        let arrival = self.queue.pop_front()?;
        self.bytes -= arrival.raw.len() + MESSAGE_OVERHEAD;
        if self.queue.is_empty() && self.queue.capacity() > SLICES_HELD {
            self.queue = VecDeque::new();
        }
        Some(arrival)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes held, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_leave_in_the_order_of_arrival_and_free_their_bytes() {
        let mut inbox = Inbox::default();
        for n in 0..20u8 {
            inbox.push(Channel::default(), Bytes::copy_from_slice(&[n; 10]));
        }
        assert_eq!(inbox.bytes(), 20 * (10 + MESSAGE_OVERHEAD));
        for n in 0..20u8 {
            assert_eq!(inbox.pop().map(|arrival| arrival.raw[0]), Some(n));
        }
        assert_eq!(inbox.bytes(), 0);
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_long_queue_does_not_pin_the_receive_buffer() {
        let buffer = Bytes::from(vec![7; 4096]);
        let mut inbox = Inbox::default();
        for start in 0..=SLICES_HELD {
            inbox.push(Channel::Unreliable, buffer.slice(start..start + 1));
        }
        let within = |raw: &Bytes| buffer.as_ptr_range().contains(&raw.as_ptr());
        for n in 0..=SLICES_HELD {
            let arrival = inbox.pop().map(|arrival| within(&arrival.raw));
            assert_eq!(arrival, Some(n < SLICES_HELD), "message {n}");
        }
    }

    #[test]
    fn overhead_counts_against_the_limit() {
        let mut inbox = Inbox::default();
        inbox.push(Channel::Unreliable, Bytes::from_static(b"x"));
        assert!(!inbox.has_room(MESSAGE_OVERHEAD));
        assert!(inbox.has_room(MESSAGE_OVERHEAD + 2));
    }
}
