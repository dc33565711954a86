//! How a channel goes on behind a packet that somebody may have guessed (section 10 of `docs/protocol.md`).
//!
//! Whoever sends guesses hits a CRC of two bytes sooner or later, and what he has put into a channel makes the peer's
//! own packets look impossible. Of a channel that may hold a guess nothing counts as a fault of the peer's, and
//! whatever the guess has displaced is given room.

use std::time::Duration;

use bytes::Bytes;

use super::{Corrupt, Fault, Held, Inbox, Kind, Receiver, RecvLimits, Slot};
use crate::timestamp::Timestamp;

/// The least time between two impossible packets that are dropped for good.
const BETWEEN_DROPS: Duration = Duration::from_millis(100);
/// After this time the place of a dropped packet is given up. The peer repeats within seconds what has not been
/// acknowledged.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// What a channel may have taken of a stranger.
#[derive(Debug, Default)]
pub(super) struct Healing {
    is_tainted: bool,
    /// When the expected packet was dropped after it had been acknowledged.
    reopened: Option<Timestamp>,
    /// When an impossible packet was last dropped for good.
    dropped: Option<Timestamp>,
}

impl Healing {
    /// Whether somebody may have guessed a packet that was taken. Then nothing ends the session, since the peer's own
    /// packets may seem impossible behind it.
    pub(super) fn is_tainted(&self) -> bool {
        self.is_tainted
    }

    /// A packet has been taken. `is_proven` tells that nobody can have guessed it.
    pub(super) fn taken(&mut self, is_proven: bool) {
        self.is_tainted |= !is_proven;
    }

    /// Nothing that may be a guess is left in the channel.
    pub(super) fn healed(&mut self) {
        self.is_tainted = false;
    }

    /// Whether an impossible packet is dropped for good. Others are refused meanwhile: the peer's own come again, and a
    /// guess that hit does not empty the stream.
    pub(super) fn may_drop(&mut self, now: Timestamp) -> bool {
        let may = self.dropped.is_none_or(|dropped| now >= dropped + BETWEEN_DROPS);
        if may {
            self.dropped = Some(now);
        }
        may
    }

    /// The expected packet was dropped after it had been acknowledged, and its place is open again.
    pub(super) fn reopened(&mut self, now: Timestamp) {
        self.reopened = Some(now);
    }

    /// The expected packet has been delivered or given up.
    pub(super) fn passed(&mut self) {
        self.reopened = None;
    }

    fn is_overdue(&self, now: Timestamp) -> bool {
        self.reopened.is_some_and(|reopened| now >= reopened + GIVEN_UP)
    }
}

impl Receiver {
    /// A packet that was dropped after it had been acknowledged does not come again, unless it was a guess. What waits
    /// behind it must not wait for ever.
    pub(super) fn give_up_a_dropped_one(
        &mut self,
        now: Timestamp,
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<(), Fault> {
        if !self.healing.is_overdue(now) || !matches!(self.ring.front(), Some(Slot::Missing)) {
            return Ok(());
        }
        self.ring.pop_front();
        // It lacks a part.
        self.series = None;
        self.passed();
        self.acks.passed();
        self.drain(now, limits, inbox)
    }

    /// A packet has come for a place that is held: of those that differ, one may be a guess. Unless nothing is missing:
    /// a peer of which everything has been acknowledged may repeat a sequence with other content, to have it
    /// acknowledged again.
    pub(super) fn contest(&mut self, index: usize, kind: Kind, body: &[u8], limits: &RecvLimits) {
        let more = body.len() + Slot::CONTESTED;
        let has_room = self.held + more <= limits.held;
        let is_gap = matches!(self.ring.front(), Some(Slot::Missing));
        let Slot::Held(first) = &mut self.ring[index] else { return };
        if !self.healing.is_tainted || !is_gap || !has_room || (first.kind, &first.body[..]) == (kind, body) {
            return;
        }
        let first = Held { kind: first.kind, body: std::mem::take(&mut first.body) };
        let second = Held { kind, body: Bytes::copy_from_slice(body) };
        self.held += more;
        self.ring[index] = Slot::Contested(Box::new([first, second]));
    }

    /// Delivers what is possible of two packets that claim one place: both, where each is a message of its own.
    pub(super) fn deliver_contested(
        &mut self,
        both: [Held; 2],
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<(), Corrupt> {
        let [first, second] = both;
        let are_messages = (first.kind, second.kind) == (Kind::Data, Kind::Data);
        let delivered = self.deliver(first.kind, first.body, limits, inbox);
        if delivered.is_ok() && !are_messages {
            return Ok(());
        }
        self.deliver(second.kind, second.body, limits, inbox).or(delivered)
    }
}
