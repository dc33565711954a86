//! Messages that wait for the application.

use std::collections::VecDeque;

use bytes::Bytes;

use super::push_back;
use crate::{
    message::{Channel, ReliableChannel},
    wire::{Group, Payload},
};

/// The bytes that a waiting payload counts in addition to its content: its place in the queue and its share of the
/// receive buffer.
const MESSAGE_OVERHEAD: usize = 64;
/// Up to this many waiting payloads stay slices of their receive buffer. A longer queue means that the application is
/// slow; a copy then prevents a small message from keeping a large buffer alive.
const SLICES_HELD: usize = 8;

/// A message as received; a reliable one is still escaped and encrypted.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) channel: Channel,
    pub(crate) raw: Bytes,
}

/// A payload as received: one message, or a Group. A Group is split only when the application reads, so it takes no
/// more memory than its own bytes, however small its elements are.
#[derive(Debug)]
struct Waiting {
    channel: Channel,
    raw: Bytes,
    /// Messages in `raw` that have not been read, 1 or more. Zero marks a plain message.
    grouped: u32,
}

/// The position of the next message in the Group at the front: the unread parts of the nested Groups.
#[derive(Debug, Default)]
struct Cursor {
    /// The unread part of the outermost Group, from and to.
    outer: Option<(u32, u32)>,
    /// Groups within it, outermost first; rarely any.
    inner: Vec<(u32, u32)>,
}

/// The queue between the channels and the application, in order of arrival over all channels.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    queue: VecDeque<Waiting>,
    /// The bytes of `queue`, overhead included.
    bytes: usize,
    /// Allocated for the first Group and freed when the session is idle.
    cursor: Option<Box<Cursor>>,
}

impl Inbox {
    /// Whether another payload may be added. One may exceed the limit.
    pub(crate) fn has_room(&self, limit: usize) -> bool {
        self.bytes < limit
    }

    pub(crate) fn push(&mut self, channel: Channel, raw: Bytes) {
        self.push_group(channel, raw, 0);
    }

    /// Adds a Group that has been checked and holds this many messages.
    pub(crate) fn push_group(&mut self, channel: Channel, raw: Bytes, messages: u32) {
        let raw = if self.queue.len() < SLICES_HELD { raw } else { Bytes::copy_from_slice(&raw) };
        self.bytes += raw.len() + MESSAGE_OVERHEAD;
        push_back(&mut self.queue, Waiting { channel, raw, grouped: messages });
    }

    pub(crate) fn pop(&mut self) -> Option<Arrival> {
        let front = self.queue.front_mut()?;
        let channel = front.channel;
        if front.grouped > 1 {
            front.grouped -= 1;
            return self.cursor.get_or_insert_default().next(&front.raw).map(|raw| Arrival { channel, raw });
        }
        let Waiting { raw, grouped, .. } = self.queue.pop_front()?;
        self.bytes -= raw.len() + MESSAGE_OVERHEAD;
        if self.queue.is_empty() && self.queue.capacity() > SLICES_HELD {
            self.queue = VecDeque::new();
        }
        if grouped == 0 {
            return Some(Arrival { channel, raw });
        }
        let cursor = self.cursor.get_or_insert_default();
        let raw = cursor.next(&raw);
        cursor.restart();
        raw.map(|raw| Arrival { channel, raw })
    }

    /// Drops everything and frees its memory. Returns the number of messages.
    pub(crate) fn clear(&mut self) -> u64 {
        let dropped = self.queue.iter().map(|waiting| u64::from(waiting.grouped.max(1))).sum();
        *self = Self::default();
        dropped
    }

    /// Drops everything that waits on this channel. Call it directly after reading a message of it.
    pub(crate) fn discard(&mut self, channel: ReliableChannel) {
        self.queue.retain(|waiting| waiting.channel != Channel::Reliable(channel));
        self.bytes = self.queue.iter().map(|waiting| waiting.raw.len() + MESSAGE_OVERHEAD).sum();
        // Only the payload at the front can be partly read, and it was one of this channel.
        if let Some(cursor) = &mut self.cursor {
            cursor.restart();
        }
    }

    /// Frees memory that traffic has left behind.
    pub(crate) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
        if self.queue.is_empty() {
            self.cursor = None;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes held, overhead included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Memory held at this moment.
    pub(crate) fn memory(&self) -> usize {
        let cursor = self.cursor.as_ref().map_or(0, |_| size_of::<Cursor>());
        self.bytes - self.queue.len() * MESSAGE_OVERHEAD + self.queue.capacity() * size_of::<Waiting>() + cursor
    }

    /// The most memory that this takes under a limit, payloads of this size or smaller.
    pub(crate) const fn memory_ceiling(limit: usize, payload: usize) -> usize {
        // A queue that has just grown is half empty.
        let places = 2 * (limit / (MESSAGE_OVERHEAD + 1) + 2) * size_of::<Waiting>();
        limit + payload + places + size_of::<Cursor>()
    }
}

impl Cursor {
    /// Another Group comes next.
    fn restart(&mut self) {
        self.outer = None;
        self.inner.clear();
    }

    fn next(&mut self, raw: &Bytes) -> Option<Bytes> {
        if self.outer.is_none()
            && let Payload::Group(group) = Payload::classify(raw)
        {
            self.outer = Some(((raw.len() - group.body().len()) as u32, raw.len() as u32));
        }
        while let Some(open) = self.inner.last_mut().or(self.outer.as_mut()) {
            let (start, end) = *open;
            let mut elements = Group::new(raw.get(start as usize..end as usize)?).elements();
            let element = elements.next();
            let walked = end - elements.rest().len() as u32;
            open.0 = walked;
            match element.map(|element| element.map(Payload::classify)) {
                Some(Ok(Payload::Message(message))) => return Some(raw.slice_ref(message)),
                // How deep Groups may be in each other was checked when they arrived.
                Some(Ok(Payload::Group(group))) => self.inner.push((walked - group.body().len() as u32, walked)),
                Some(Err(_)) | None if self.inner.pop().is_none() => return None,
                Some(Err(_)) | None => {}
            }
        }
        None
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
    fn a_group_is_taken_apart_in_order_and_costs_no_more_than_its_bytes() {
        let mut group = vec![0, 0x19];
        for n in 1..=200u8 {
            group.extend([1, n]);
        }
        group.extend([8, 0, 0x19, 1, 201, 0, 2, 202, 202]);
        group.extend([1, 203]);
        let mut inbox = Inbox::default();
        inbox.push_group(Channel::default(), Bytes::from(group.clone()), 203);
        inbox.push(Channel::default(), Bytes::from_static(&[0, 0x19, 1]));
        assert_eq!(inbox.bytes(), group.len() + 3 + 2 * MESSAGE_OVERHEAD);
        for n in 1..=203u8 {
            assert_eq!(inbox.pop().map(|arrival| arrival.raw[0]), Some(n));
        }
        assert_eq!(inbox.pop().map(|arrival| arrival.raw), Some(Bytes::from_static(&[0, 0x19, 1])));
        assert!(inbox.pop().is_none());
        assert_eq!(inbox.bytes(), 0);
    }

    #[test]
    fn overhead_counts_against_the_limit() {
        let mut inbox = Inbox::default();
        inbox.push(Channel::Unreliable, Bytes::from_static(b"x"));
        assert!(!inbox.has_room(MESSAGE_OVERHEAD));
        assert!(inbox.has_room(MESSAGE_OVERHEAD + 2));
    }
}
