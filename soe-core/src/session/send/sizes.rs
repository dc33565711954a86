//! Detection of paths that drop large datagrams (an MTU black hole).

use crate::{timestamp::Timestamp, wire::NetStatusRequest};

/// Rounds that prove a size limit. In each, a packet above the largest delivered size was lost and afterwards a smaller one
/// arrived. Where `p` of all datagrams are lost at random, whatever their size, a round has the probability `p(1 - p)`: ten in
/// a row happen once in a million times at 50 % loss, and more rarely at any other.
///
/// Losses alone prove nothing, however many: an outage loses everything that is sent in it, and the first small packet after
/// it arrives before the large ones are sent again.
const CERTAIN: usize = 10;
/// Consecutive losses below the limit that lower it.
const SEVERAL: u8 = 4;

/// Losses and deliveries by size. A delivery as large as the largest loss clears it.
#[derive(Debug, Default)]
pub(in crate::session) struct Sizes {
    /// The largest loss of each round, in bytes, all above the largest delivered packet; the first `rounds` count.
    losses: [u16; CERTAIN],
    rounds: usize,
    /// The largest loss of the present round.
    lost: usize,
    /// Consecutive losses between the largest delivered size and the limit. A few of them are chance.
    below: u8,
    /// The smallest and the largest packet lost, in bytes.
    smallest_lost: usize,
    largest_lost: usize,
    /// The largest packet delivered, in bytes.
    largest_passed: usize,
    /// The latest datagram known to have arrived, on whatever channel, since there are losses.
    newest: u64,
    /// When to try a large datagram again, while there is a limit.
    pub(in crate::session) probe_at: Option<Timestamp>,
    /// One large datagram may be sent now.
    pub(in crate::session) probe_due: bool,
}

impl Sizes {
    /// The size from which on packets are lost, in bytes; `None` if size does not matter.
    pub(in crate::session) fn limit(&self) -> Option<usize> {
        (self.rounds >= CERTAIN).then_some(self.smallest_lost)
    }

    /// Whether something is lost and nothing as large has been delivered since.
    pub(in crate::session) fn is_open(&self) -> bool {
        self.largest_lost > 0
    }

    pub(in crate::session) fn passed(&self) -> usize {
        self.largest_passed
    }

    /// A packet is lost: a later datagram has arrived.
    pub(in crate::session) fn lost(&mut self, bytes: usize) {
        if bytes <= self.largest_passed {
            return;
        }
        self.largest_lost = self.largest_lost.max(bytes);
        if self.rounds < CERTAIN {
            self.lost = self.lost.max(bytes);
        } else if bytes < self.smallest_lost {
            self.below += 1;
            if self.below >= SEVERAL {
                (self.smallest_lost, self.below) = (bytes, 0);
            }
        }
    }

    /// A packet was not acknowledged in time. That alone proves no size limit: perhaps nothing passes.
    pub(in crate::session) fn timed_out(&mut self, bytes: usize) {
        self.largest_lost = self.largest_lost.max(bytes);
    }

    /// A NetStatusRequest was answered while a packet of this size stayed unacknowledged.
    pub(in crate::session) fn answered(&mut self, bytes: usize) {
        self.lost(bytes);
        self.arrived(NetStatusRequest::ENCODED_LEN);
    }

    /// A packet was acknowledged.
    pub(in crate::session) fn arrived(&mut self, bytes: usize) {
        if bytes >= self.largest_lost {
            *self = Self { newest: self.newest, ..Self::default() };
            return;
        }
        if bytes > self.largest_passed {
            (self.largest_passed, self.below) = (bytes, 0);
            self.forget_passed();
        }
        if self.rounds < CERTAIN && self.lost > 0 {
            self.losses[self.rounds] = u16::try_from(self.lost).unwrap_or(u16::MAX);
            (self.rounds, self.lost) = (self.rounds + 1, 0);
            self.smallest_lost = self.losses[..self.rounds].iter().copied().min().unwrap_or_default().into();
        }
    }

    /// Datagrams up to this one, or some of them, have arrived.
    pub(in crate::session) fn note_newest(&mut self, datagram: u64) {
        self.newest = self.newest.max(datagram);
    }

    /// Whether a later datagram is known to have arrived. A channel on which nothing at all arrives has none of its own
    /// that overtakes another; one of another channel says as much about the path.
    pub(in crate::session) fn is_overtaken(&self, datagram: u64) -> bool {
        datagram < self.newest
    }

    /// Sizes up to the largest delivered one pass, so their losses had another reason.
    fn forget_passed(&mut self) {
        if self.lost <= self.largest_passed {
            self.lost = 0;
        }
        if self.rounds < CERTAIN {
            let mut kept = 0;
            for round in 0..self.rounds {
                if usize::from(self.losses[round]) > self.largest_passed {
                    self.losses[kept] = self.losses[round];
                    kept += 1;
                }
            }
            self.rounds = kept;
        } else if self.smallest_lost <= self.largest_passed {
            // Later losses show the real limit.
            self.smallest_lost = self.largest_lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_losses_above_what_arrives_make_a_limit() {
        let mut sizes = Sizes::default();
        for _ in 0..100 {
            sizes.lost(500);
            sizes.lost(60);
            sizes.arrived(60);
        }
        assert_eq!(sizes.limit(), Some(500));
        sizes.arrived(500);
        assert_eq!(sizes.limit(), None);
    }

    #[test]
    fn a_path_that_takes_nothing_at_all_is_not_narrow() {
        let mut sizes = Sizes::default();
        (0..100).for_each(|_| sizes.lost(500));
        assert_eq!(sizes.limit(), None);
    }

    #[test]
    fn answers_to_small_requests_count_while_nothing_else_arrives() {
        let mut sizes = Sizes::default();
        (0..100).for_each(|_| sizes.answered(30));
        assert_eq!(sizes.limit(), None, "30 bytes are smaller than the request");
        for round in 0..CERTAIN {
            assert_eq!(sizes.limit(), None, "after {round} answers");
            sizes.answered(500);
        }
        assert_eq!(sizes.limit(), Some(500));
    }

    #[test]
    fn an_outage_makes_no_limit_however_much_is_lost_in_it() {
        let mut sizes = Sizes::default();
        sizes.arrived(60);
        for _ in 0..CERTAIN - 1 {
            (0..1_000).for_each(|_| sizes.lost(500));
            // The first that gets through when it is over; the large ones follow.
            (0..1_000).for_each(|_| sizes.arrived(60));
            assert_eq!(sizes.limit(), None);
        }
        sizes.arrived(500);
        assert!(!sizes.is_open());
    }

    #[test]
    fn what_was_lost_below_a_size_that_arrives_says_nothing_about_larger_ones() {
        let mut sizes = Sizes::default();
        sizes.lost(1_000);
        for bytes in 100..200 {
            sizes.lost(bytes);
            sizes.arrived(60);
            sizes.arrived(bytes);
            assert_eq!(sizes.limit(), None, "{bytes} bytes have arrived");
        }
    }

    #[test]
    fn losses_of_all_sizes_at_random_make_no_limit() {
        let mut sizes = Sizes::default();
        for n in 0..10_000usize {
            let chance = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
            let bytes = 50 + chance % 450;
            match chance / 450 % 2 {
                0 => sizes.lost(bytes),
                _ => sizes.arrived(bytes),
            }
            assert_eq!(sizes.limit(), None);
        }
    }
}
