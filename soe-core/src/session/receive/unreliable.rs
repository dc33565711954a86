//! Messages that are not acknowledged: alone, in a Group, or ordered.

use bytes::Bytes;

use super::doubt::{STEP, Subject};
use crate::{
    channel::{fragment::Corrupt, recv::walk_group},
    message::Channel,
    session::Session,
    wire::{Group, OrderedData, OrderedStream, unescape},
};

/// An ordered message is newer than the last one if its stamp is ahead by 1 to this.
const MAX_STAMP_AHEAD: u16 = 30_000;

impl Session {
    /// Handles a Group outside of a reliable packet: its elements are unreliable messages.
    pub(super) fn handle_group(&mut self, datagram: &Bytes, body: &[u8]) {
        let mut messages = Vec::new();
        let group = &datagram.slice_ref(body);
        let result = Group::new(group).elements().try_for_each(|element| {
            let Ok(element) = element else { return Err(Corrupt("malformed group")) };
            walk_group(element, |message| messages.push(group.slice_ref(unescape(message))))
        });
        for message in messages {
            self.deliver_unreliable(Channel::Unreliable, message);
        }
        if let Err(corrupt) = result {
            self.corrupt(corrupt.0);
        }
    }

    pub(super) fn handle_ordered(&mut self, datagram: &Bytes, ordered: &OrderedData<'_>) {
        let (index, channel) = match ordered.stream {
            OrderedStream::One => (0, Channel::Ordered),
            OrderedStream::Two => (1, Channel::Ordered2),
        };
        // Wrapping: the stamp has 16 bits.
        let (stamp, ahead) = (ordered.stamp, ordered.stamp.wrapping_sub(self.ordered[index].1));
        let follows = |said: u64| (1..=STEP).contains(&stamp.wrapping_sub(said as u16));
        if !(1..=MAX_STAMP_AHEAD).contains(&ahead) {
            self.stats.cold().overtaken += 1;
        } else if ahead > STEP && !self.weigh(Subject::Stream(index), u64::from(stamp), follows) {
            self.stats.cold().doubted += 1;
        } else {
            self.ordered[index].1 = stamp;
            self.deliver_unreliable(channel, datagram.slice_ref(ordered.payload));
        }
    }

    pub(super) fn deliver_unreliable(&mut self, channel: Channel, message: Bytes) {
        if message.is_empty() {
            self.stats.cold().ignored += 1;
        } else if message.len() > self.config.max_message_size {
            self.stats.cold().oversized_dropped += 1;
        } else if self.inbox.has_room(self.config.recv_buffer) {
            self.inbox.push(channel, message);
        } else {
            self.stats.cold().unread_dropped += 1;
        }
    }
}
