//! The packets of a flight that count as lost, in the order in which they are sent again.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Stale entries that `order` may hold in addition to two for each packet.
const SLACK: usize = 32;

/// Which packets are to be sent again, the lowest sequence first, found without a search over the flight.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// How many packets are lost.
    count: usize,
    /// Their sequences. A packet that was acknowledged after all leaves its entry behind, which is skipped later.
    order: BinaryHeap<Reverse<u64>>,
}

impl Losses {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The packet with this sequence is lost. `span` is the length of the flight, and `is_lost` tells what is lost now.
    pub(super) fn add(&mut self, sequence: u64, span: usize, is_lost: impl Fn(u64) -> bool) {
        // What is found late after every loss would leave stale entries without bound, if nothing was sent meanwhile.
        if self.order.len() >= 2 * span + SLACK {
            self.order.retain(|&Reverse(sequence)| is_lost(sequence));
        }
        self.count += 1;
        self.order.push(Reverse(sequence));
    }

    /// A lost packet has been acknowledged after all.
    pub(super) fn acknowledged(&mut self) {
        self.count -= 1;
    }

    /// The lost packet that is to be sent again first.
    pub(super) fn first(&mut self, is_lost: impl Fn(u64) -> bool) -> Option<u64> {
        if self.is_empty() {
            self.order.clear();
            return None;
        }
        while let Some(&Reverse(sequence)) = self.order.peek() {
            if is_lost(sequence) {
                return Some(sequence);
            }
            self.order.pop();
        }
        None
    }

    /// The packet that [`first`](Self::first) has found is sent again.
    pub(super) fn sent_again(&mut self) {
        self.count -= 1;
        self.order.pop();
    }

    pub(super) fn memory(&self) -> usize {
        self.order.capacity() * size_of::<u64>()
    }

    /// The most memory that this takes, for a flight of this length.
    pub(super) const fn memory_ceiling(window: usize) -> usize {
        // A list that has just grown is half empty.
        2 * (2 * window + SLACK) * size_of::<u64>()
    }
}
