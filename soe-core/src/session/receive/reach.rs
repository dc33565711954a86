//! How many sequences one datagram may try (section 10 of `docs/protocol.md`).

use crate::message::ReliableChannel;

/// The first sequence on each channel that a datagram names, and how far from it the others may be.
///
/// A peer's sequences lie within what it has under way. Without this rule a stranger would try them all at once: a datagram
/// has room for a packet in every window of 256.
#[derive(Debug, Default)]
pub(super) struct Reach {
    arrived: [Option<(u16, usize)>; ReliableChannel::COUNT],
    acknowledged: [Option<(u16, usize)>; ReliableChannel::COUNT],
}

impl Reach {
    /// Whether a reliable packet may be meant. `most` is asked once for each datagram.
    pub(super) fn has_arrived(
        &mut self,
        channel: ReliableChannel,
        sequence: u16,
        most: impl FnOnce() -> usize,
    ) -> bool {
        is_within(&mut self.arrived[channel.index()], sequence, most)
    }

    /// Whether an acknowledgement may be meant.
    pub(super) fn is_acknowledged(
        &mut self,
        channel: ReliableChannel,
        sequence: u16,
        most: impl FnOnce() -> usize,
    ) -> bool {
        is_within(&mut self.acknowledged[channel.index()], sequence, most)
    }
}

fn is_within(first: &mut Option<(u16, usize)>, sequence: u16, most: impl FnOnce() -> usize) -> bool {
    let &mut (first, most) = first.get_or_insert_with(|| (sequence, most()));
    // Wrapping: the sequence has 16 bits.
    usize::from((sequence.wrapping_sub(first) as i16).unsigned_abs()) <= most
}
