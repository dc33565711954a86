//! What all sessions of a listener hold together, and who goes when that is too much.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A session that holds less than this is never the one to go.
const MODEST: usize = 256 << 10;

/// The memory of all sessions of one listener: messages that wait, packets under way or ahead of a gap, half messages.
///
/// Kept as a sum that each session corrects whenever the driver serves it.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    overflows: AtomicU64,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: AtomicUsize::new(limit), held: AtomicUsize::new(0), overflows: AtomicU64::new(0) }
    }

    /// A session that held `before` holds `now`. Returns whether it has to go: all together hold too much, and this one more
    /// than an equal share.
    pub(crate) fn account(&self, before: &mut usize, now: usize, sessions: usize) -> bool {
        let last = std::mem::replace(before, now);
        if now == last {
            return false;
        }
        let total = if now > last {
            self.held.fetch_add(now - last, Ordering::Relaxed) + (now - last)
        } else {
            self.held.fetch_sub(last - now, Ordering::Relaxed) - (last - now)
        };
        let limit = self.limit.load(Ordering::Relaxed);
        let goes = now > last && total > limit && now > MODEST.max(limit / sessions.max(1));
        self.overflows.fetch_add(u64::from(goes), Ordering::Relaxed);
        goes
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_holds_more_than_its_share_has_to_go() {
        let budget = Budget::new(10 << 20);
        let (mut modest, mut greedy) = (0, 0);
        assert!(!budget.account(&mut greedy, 9 << 20, 20));
        assert!(!budget.account(&mut modest, 200 << 10, 20));
        assert!(!budget.account(&mut modest, 250 << 10, 20));
        assert!(budget.account(&mut greedy, 10 << 20, 20));
        assert_eq!(budget.held(), (10 << 20) + (250 << 10));
        assert!(!budget.account(&mut modest, 255 << 10, 20), "it holds little");
        budget.account(&mut greedy, 0, 20);
        budget.account(&mut modest, 0, 20);
        assert_eq!((budget.held(), budget.overflows()), (0, 1));
    }
}
