//! What one datagram may do: how many sequences it may try (section 10 of `docs/protocol.md`).

use crate::message::ReliableChannel;

/// The first sequence on each channel that a datagram names. The others lie near it.
///
/// A peer's sequences lie within what it has under way. Without this rule a stranger would try them all at once: a datagram
/// has room for a packet in every window of 256.
#[derive(Debug)]
pub(super) struct Reach {
    is_proven: bool,
    has_ended: bool,
    has_answered: bool,
    arrived: [Option<u16>; ReliableChannel::COUNT],
    acknowledged: [Option<u16>; ReliableChannel::COUNT],
}

impl Reach {
    /// For a datagram. `is_proven` tells that nobody can have guessed its CRC.
    pub(super) fn new(is_proven: bool) -> Self {
        Self {
            is_proven,
            has_ended: false,
            has_answered: false,
            arrived: [None; ReliableChannel::COUNT],
            acknowledged: [None; ReliableChannel::COUNT],
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Whether this is the first Disconnect of the datagram.
    pub(super) fn is_first_end(&mut self) -> bool {
        !std::mem::replace(&mut self.has_ended, true)
    }

    /// Whether this is the first NetStatusResponse of the datagram.
    pub(super) fn is_first_answer(&mut self) -> bool {
        !std::mem::replace(&mut self.has_answered, true)
    }

    /// Whether a reliable packet may be meant: the first of the datagram, or one at most this far from it.
    #[inline]
    pub(super) fn has_arrived(
        &mut self,
        channel: ReliableChannel,
        sequence: u16,
        most: impl FnOnce() -> usize,
    ) -> bool {
        is_near(&mut self.arrived[channel.index()], sequence, most)
    }

    /// Whether an acknowledgement may be meant.
    #[inline]
    pub(super) fn is_acknowledged(
        &mut self,
        channel: ReliableChannel,
        sequence: u16,
        most: impl FnOnce() -> usize,
    ) -> bool {
        is_near(&mut self.acknowledged[channel.index()], sequence, most)
    }
}

/// Most datagrams have one packet, which is not asked for more.
#[inline]
fn is_near(first: &mut Option<u16>, sequence: u16, most: impl FnOnce() -> usize) -> bool {
    let Some(first) = *first else {
        *first = Some(sequence);
        return true;
    };
    // Wrapping: the sequence has 16 bits.
    usize::from((sequence.wrapping_sub(first) as i16).unsigned_abs()) <= most()
}
