//! Detection of paths that drop large datagrams (an MTU black hole).

use std::time::Instant;

use crate::wire::NetStatusRequest;

/// Consecutive losses above the largest delivered size that prove a size limit. With random loss of 50 % this happens
/// once in a million times.
const CERTAIN: u8 = 20;
/// Consecutive losses below the limit that lower it.
const SEVERAL: u8 = 4;
/// How many losses the answer to a small probe counts for, while nothing else arrives.
const ANSWER: u8 = 10;

/// Losses and deliveries by size. A delivery as large as the largest loss clears it.
#[derive(Debug, Default)]
pub(in crate::session) struct Sizes {
    /// Losses of packets larger than the largest delivered one, each detected by a later acknowledgement.
    losses: u8,
    /// Consecutive losses between the largest delivered size and the limit. A few of them are chance.
    below: u8,
    /// The smallest and the largest packet lost, in bytes.
    smallest_lost: usize,
    largest_lost: usize,
    /// The largest packet delivered, in bytes.
    largest_passed: usize,
    /// When to try a large datagram again, while there is a limit.
    pub(in crate::session) probe_at: Option<Instant>,
    /// One large datagram may be sent now.
    pub(in crate::session) probe_due: bool,
}

impl Sizes {
    /// The size from which on packets are lost, in bytes; `None` if size does not matter.
    pub(in crate::session) fn limit(&self) -> Option<usize> {
        (self.losses >= CERTAIN && self.largest_passed > 0).then_some(self.smallest_lost)
    }

    /// Whether something is lost and nothing as large has been delivered since.
    pub(in crate::session) fn is_open(&self) -> bool {
        self.largest_lost > 0
    }

    pub(in crate::session) fn passed(&self) -> usize {
        self.largest_passed
    }

    /// A packet is lost: a later one has been acknowledged.
    pub(in crate::session) fn lost(&mut self, bytes: usize) {
        self.count(bytes, 1);
    }

    /// A packet was not acknowledged in time. That alone proves no size limit.
    pub(in crate::session) fn timed_out(&mut self, bytes: usize) {
        self.largest_lost = self.largest_lost.max(bytes);
    }

    /// A NetStatusRequest was answered while packets of at least this size stayed unacknowledged.
    pub(in crate::session) fn answered(&mut self, smallest: usize) {
        self.arrived(NetStatusRequest::ENCODED_LEN);
        self.largest_passed = self.largest_passed.max(NetStatusRequest::ENCODED_LEN);
        self.count(smallest, ANSWER);
    }

    fn count(&mut self, bytes: usize, weight: u8) {
        if bytes > self.largest_passed {
            let (first, certain) = (self.losses == 0, self.losses >= CERTAIN);
            self.below += u8::from(certain && bytes < self.smallest_lost);
            if first {
                self.smallest_lost = bytes;
            } else if !certain || self.below >= SEVERAL {
                self.smallest_lost = self.smallest_lost.min(bytes);
                self.below = 0;
            }
            self.largest_lost = self.largest_lost.max(bytes);
            self.losses = self.losses.saturating_add(weight);
        }
    }

    /// A packet was acknowledged.
    pub(in crate::session) fn arrived(&mut self, bytes: usize) {
        if bytes >= self.largest_lost {
            *self = Self::default();
            return;
        }
        if bytes > self.largest_passed {
            (self.largest_passed, self.below) = (bytes, 0);
        }
        if self.smallest_lost <= self.largest_passed {
            // That size passes, so the loss had another reason. Later losses show the real limit.
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
        sizes.lost(5);
        (0..100).for_each(|_| sizes.answered(30));
        assert_eq!(sizes.limit(), None, "30 bytes are smaller than the request");
        sizes.answered(500);
        assert_eq!(sizes.limit(), None, "one answer may have been lucky");
        sizes.answered(500);
        assert_eq!(sizes.limit(), Some(500));
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
