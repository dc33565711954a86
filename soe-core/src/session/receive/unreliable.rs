//! Messages that are not acknowledged: alone, in a Group, or ordered.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    channel::{fragment::Corrupt, recv::walk_group},
    message::Channel,
    session::Session,
    timestamp::Timestamp,
    wire::{Group, OrderedData, OrderedStream, unescape},
};

/// An ordered message is newer than the last one if its stamp is ahead by 1 to this.
const MAX_STAMP_AHEAD: u16 = 30_000;
/// An ordered stream jumps if a stamp is ahead by more. The messages of some seconds may be lost on the way.
const STEP: u16 = 256;
/// After this time, a message that goes on from a jump shows that the peer has jumped: whoever guesses a CRC may send two
/// messages with one guess, one after the other.
const SETTLES: Duration = Duration::from_secs(5);

/// A jump of an ordered stream that somebody may have guessed. It is undone by two messages of the peer, one after the other,
/// that go on from before it.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Jump {
    /// The last stamp before it.
    before: u16,
    at: Timestamp,
    /// The last stamp that went on from before it.
    again: Option<u16>,
}

impl Jump {
    /// Whether the jump is undone by this stamp.
    fn is_undone_by(&mut self, stamp: u16) -> bool {
        if !follows(self.before, stamp) {
            return false;
        }
        let last = self.again.replace(stamp);
        last.is_some_and(|last| follows(last, stamp))
    }
}

/// Whether a stamp goes on from another one, without a jump.
fn follows(before: u16, stamp: u16) -> bool {
    // Wrapping: the stamp has 16 bits.
    (1..=STEP).contains(&stamp.wrapping_sub(before))
}

impl Session {
    /// Handles a Group outside of a reliable packet: its elements are unreliable messages.
    pub(super) fn handle_group(&mut self, datagram: &Bytes, body: &[u8]) -> Result<(), Corrupt> {
        let mut messages = Vec::new();
        let group = &datagram.slice_ref(body);
        let result = Group::new(group).elements().try_for_each(|element| {
            let Ok(element) = element else { return Err(Corrupt("malformed group")) };
            walk_group(element, |message| messages.push(group.slice_ref(unescape(message))))
        });
        for message in messages {
            self.deliver_unreliable(Channel::Unreliable, message);
        }
        result
    }

    pub(super) fn handle_ordered(&mut self, now: Timestamp, datagram: &Bytes, ordered: &OrderedData<'_>) {
        let (index, channel) = match ordered.stream {
            OrderedStream::One => (0, Channel::Ordered),
            OrderedStream::Two => (1, Channel::Ordered2),
        };
        if self.is_newest(now, index, ordered.stamp) {
            self.ordered[index].1 = ordered.stamp;
            self.deliver_unreliable(channel, datagram.slice_ref(ordered.payload));
        } else {
            self.stats.cold().overtaken += 1;
        }
    }

    fn is_newest(&mut self, now: Timestamp, index: usize, stamp: u16) -> bool {
        let last = self.ordered[index].1;
        let is_in_doubt = self.is_in_doubt(now);
        if follows(last, stamp) {
            if let Some(cold) = &mut self.cold {
                cold.jumps[index].take_if(|jump| now >= jump.at + SETTLES);
                if let Some(jump) = &mut cold.jumps[index] {
                    jump.again = None;
                }
            }
            return true;
        }
        if (1..=MAX_STAMP_AHEAD).contains(&stamp.wrapping_sub(last)) {
            if is_in_doubt {
                self.cold().jumps[index].get_or_insert(Jump { before: last, at: now, again: None });
            }
            return true;
        }
        let Some(jump) = self.cold.as_mut().and_then(|cold| cold.jumps[index].as_mut()) else { return false };
        let is_undone = jump.is_undone_by(stamp);
        if is_undone {
            self.cold().jumps[index] = None;
        }
        is_undone
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
