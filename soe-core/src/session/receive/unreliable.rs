//! Messages that are not acknowledged: alone, in a Group, or ordered.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    channel::{fragment::Corrupt, walk::walk_group},
    message::Channel,
    session::Session,
    timestamp::Timestamp,
    wire::{Group, OrderedData, OrderedStream, unescape},
};

/// An ordered message is newer than the last one if its stamp is ahead by 1 to this.
const MAX_STAMP_AHEAD: u16 = 30_000;
/// The next message of a stream is ahead by no more. The messages of some seconds may be lost on the way.
const STEP: u16 = 256;
/// Who guesses CRCs can set a stream far ahead. After this time with nothing newer, two messages from behind, one after the other,
/// set it back: late messages of the peer's own do not come so late.
const PATIENCE: Duration = Duration::from_secs(1);

/// Messages of an ordered stream that are behind the newest one, with none ahead since the first of them.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) struct Behind {
    since: Timestamp,
    last: u16,
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
        if (1..=MAX_STAMP_AHEAD).contains(&stamp.wrapping_sub(self.ordered[index].1)) {
            if let Some(cold) = &mut self.cold {
                cold.behind[index] = None;
            }
            return true;
        }
        // Where no CRC was ever wrong, nobody has guessed.
        let may_be_guessed = self.framing.crc_length() < 4 && self.stats.crc_rejects() > 0;
        may_be_guessed && self.sets_back(now, index, stamp)
    }

    fn sets_back(&mut self, now: Timestamp, index: usize, stamp: u16) -> bool {
        let behind = &mut self.cold().behind[index];
        let before = behind.unwrap_or(Behind { since: now, last: stamp });
        let is_set_back = follows(before.last, stamp) && now >= before.since + PATIENCE;
        *behind = (!is_set_back).then_some(Behind { last: stamp, ..before });
        is_set_back
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
