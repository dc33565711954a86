//! How a channel goes on behind a packet that somebody may have guessed (section 10 of `docs/protocol.md`).
//!
//! Whoever sends guesses hits a CRC of two bytes sooner or later, and what he has put into a channel makes the peer's
//! own packets look impossible. Of a channel that may hold a guess nothing counts as a fault of the peer's, and
//! whatever the guess has displaced is given room.

use std::time::Duration;

use bytes::Bytes;

use super::{Corrupt, Fault, FragmentSeries, Held, Inbox, Kind, Receiver, RecvLimits, Slot, walk_group};
use crate::timestamp::Timestamp;

/// A refused packet that comes again after this time is the peer's. Not at once: who sends a guess twice hits twice.
const AGAIN: Duration = Duration::from_millis(100);
/// The place of a dropped packet is given up when something has waited behind it for this long. The peer repeats within
/// seconds what has not been acknowledged.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// What a channel may have taken of a stranger.
#[derive(Debug, Default)]
pub(super) struct Healing {
    is_tainted: bool,
    /// The beginning of what comes now is lost. What is impossible is dropped, up to the next packet that is possible.
    skips: bool,
    /// The expected packet was dropped after it had been acknowledged.
    is_reopened: bool,
    /// Since when something that can be delivered waits behind it.
    waits_since: Option<Timestamp>,
    /// The expected packet was impossible, and refused.
    refused: Option<(u64, Timestamp)>,
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

    /// A message has been delivered.
    pub(super) fn delivered(&mut self) {
        self.skips = false;
    }

    /// Whether impossible packets that were acknowledged are dropped without a wait for others in their places.
    pub(super) fn skips(&self) -> bool {
        self.skips
    }

    /// Whether an impossible packet in order is the peer's own, and is dropped for good. It is refused when it comes first: if it
    /// was a guess, the peer's own still has its place.
    pub(super) fn is_of_the_peer(&mut self, now: Timestamp, sequence: u64, kind: Kind) -> bool {
        match self.refused {
            _ if self.skips && kind == Kind::Fragment => true,
            Some((refused, at)) if refused == sequence => now >= at + AGAIN,
            _ => {
                self.refused = Some((sequence, now));
                false
            }
        }
    }

    /// The expected packet has been delivered or given up.
    pub(super) fn passed(&mut self) {
        (self.is_reopened, self.waits_since) = (false, None);
    }
}

impl Receiver {
    /// Whether the series of fragments may be a fake's, so that it gives way to what cannot belong to it.
    pub(super) fn series_gives_way(&self) -> bool {
        let is_continued = self.series.as_ref().is_some_and(FragmentSeries::is_continued);
        self.healing.is_tainted && (self.healing.skips || !is_continued)
    }

    /// Delivers a packet of the peer's own that cannot belong to what has come before: that was not the peer's. If it is a
    /// fragment, it may lack its beginning, and so may those behind it.
    pub(super) fn deliver_anew(
        &mut self,
        kind: Kind,
        body: Bytes,
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<(), Corrupt> {
        self.series = None;
        let delivered = self.deliver(kind, body, limits, inbox);
        self.healing.skips |= delivered.is_err() && kind == Kind::Fragment;
        delivered
    }

    /// The expected packet has been dropped. If it was a guess, the peer's own can still come.
    pub(super) fn reopen(&mut self, now: Timestamp, limits: &RecvLimits) {
        self.healing.is_reopened = true;
        if self.ring.is_empty() {
            return;
        }
        self.ring.push_front(Slot::Missing);
        let waits = self.ring.iter().any(|slot| match slot {
            Slot::Held(held) => is_possible(held.kind, &held.body, limits),
            Slot::Contested(both) => both.iter().any(|held| is_possible(held.kind, &held.body, limits)),
            Slot::Delivered | Slot::Missing => false,
        });
        self.healing.waits_since = waits.then_some(now);
    }

    /// A packet has come for a place ahead of a gap.
    pub(super) fn note_behind(&mut self, now: Timestamp, kind: Kind, body: &[u8], limits: &RecvLimits) {
        let Healing { is_reopened, waits_since, .. } = &mut self.healing;
        if *is_reopened && waits_since.is_none() && is_possible(kind, body, limits) {
            *waits_since = Some(now);
        }
    }

    /// When the expected packet is given up, if something waits behind it that was dropped.
    pub(crate) fn given_up_at(&self) -> Option<Timestamp> {
        let is_missing = matches!(self.ring.front(), Some(Slot::Missing));
        self.healing.waits_since.filter(|_| is_missing).map(|since| since + GIVEN_UP)
    }

    /// A packet that was dropped after it had been acknowledged does not come again, unless it was a guess. What waits
    /// behind it must not wait for ever.
    pub(crate) fn give_up(&mut self, now: Timestamp, limits: &RecvLimits, inbox: &mut Inbox) -> Result<(), Fault> {
        let mut result = Ok(());
        while self.given_up_at().is_some_and(|deadline| now >= deadline) {
            let since = self.healing.waits_since;
            self.ring.pop_front();
            // It lacks a part, and what follows may be the rest of it.
            self.series = None;
            self.healing.skips = true;
            self.passed();
            self.acks.passed();
            result = self.drain(now, limits, inbox).and(result);
            // The next place that is dropped has no time of its own: what waits has waited for it as well.
            if self.healing.waits_since.is_some() {
                self.healing.waits_since = since;
            }
        }
        result
    }

    /// A packet has come for a place that is held: of those that differ, one may be a guess. Unless nothing is missing:
    /// a peer of which everything has been acknowledged may repeat a sequence with other content, to have it acknowledged
    /// again.
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

    /// Delivers what is possible of two packets that claim one place: what continues a series of fragments alone, else both
    /// where each is messages of its own. Messages that stand in both come once: a peer may bundle anew when it sends again.
    pub(super) fn deliver_contested(
        &mut self,
        both: [Held; 2],
        limits: &RecvLimits,
        inbox: &mut Inbox,
    ) -> Result<(), Corrupt> {
        let [mut first, mut second] = both;
        let is_in_series = self.series.is_some();
        let are_messages = (first.kind, second.kind) == (Kind::Data, Kind::Data);
        let (texts, others) = (messages_in(&first), messages_in(&second));
        let is_more = are_messages && others.len() > texts.len() && others.starts_with(&texts);
        if is_more || is_in_series && (first.kind, second.kind) == (Kind::Data, Kind::Fragment) {
            (first, second) = (second, first);
        }
        let is_twice = are_messages && (is_more || texts.starts_with(&others));
        let delivered = self.deliver(first.kind, first.body, limits, inbox);
        if delivered.is_ok() && (!are_messages || is_twice) {
            return Ok(());
        }
        self.deliver(second.kind, second.body, limits, inbox).or(delivered)
    }
}

/// Whether a packet could be delivered if it began something.
fn is_possible(kind: Kind, body: &[u8], limits: &RecvLimits) -> bool {
    match kind {
        Kind::Fragment => FragmentSeries::open(body, limits.message).is_ok(),
        Kind::Data => {
            let mut longest = 0;
            walk_group(body, |message| longest = longest.max(message.len())).is_ok() && longest <= limits.message
        }
    }
}

/// The messages of a packet, each behind its length. What is malformed has none.
fn messages_in(held: &Held) -> Vec<u8> {
    let mut texts = Vec::new();
    let walked = walk_group(&held.body, |message| {
        texts.extend(message.len().to_be_bytes());
        texts.extend(message);
    });
    walked.map_or_else(|_| Vec::new(), |()| texts)
}
