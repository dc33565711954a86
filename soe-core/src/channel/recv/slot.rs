//! The places of a reliable channel ahead of a gap.

use bytes::Bytes;

use super::Kind;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kind: Kind,
    pub(super) body: Bytes,
}

#[derive(Debug)]
pub(super) enum Slot {
    Missing,
    Held(Held),
    /// Two packets claim the place, and either may be a guess. The one that came first is in front.
    Contested(Box<[Held; 2]>),
    /// Delivered ahead of the gap, on an unordered channel.
    Delivered,
}

impl Slot {
    /// What a contested place takes besides the packets.
    pub(super) const CONTESTED: usize = size_of::<[Held; 2]>();

    /// Bytes held outside of the ring.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Held(held) => held.body.len(),
            Self::Contested(both) => both.iter().map(|held| held.body.len()).sum::<usize>() + Self::CONTESTED,
            Self::Missing | Self::Delivered => 0,
        }
    }
}
