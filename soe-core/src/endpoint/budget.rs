//! The memory of all sessions of an endpoint together, and which session ends above the limit.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// A session that holds less than this is never ended for the budget.
const MODEST: usize = 256 << 10;

/// A memory limit over all sessions: waiting messages, packets under way or ahead of a gap, incomplete messages. Each
/// session updates it through a [`MemoryAccount`].
#[derive(Debug)]
pub struct MemoryBudget {
    limit: AtomicUsize,
    held: AtomicUsize,
    accounts: AtomicUsize,
    overflows: AtomicU64,
}

impl MemoryBudget {
    /// Creates a budget of this many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        let (held, accounts, overflows) = Default::default();
        Arc::new(Self { limit: AtomicUsize::new(limit), held, accounts, overflows })
    }

    /// Opens an account for one session.
    pub fn open(self: &Arc<Self>) -> MemoryAccount {
        self.accounts.fetch_add(1, Ordering::Relaxed);
        MemoryAccount { budget: Arc::clone(self), held: 0 }
    }

    /// Changes the limit, in bytes.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// The bytes held by all accounts. Zero once all are dropped.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How often [`MemoryAccount::update`] asked a session to end.
    pub fn overflows(&self) -> u64 {
        self.overflows.load(Ordering::Relaxed)
    }
}

/// One session's share of a [`MemoryBudget`]. Dropping it returns the share.
#[derive(Debug)]
#[must_use]
pub struct MemoryAccount {
    budget: Arc<MemoryBudget>,
    held: usize,
}

impl MemoryAccount {
    /// Sets the bytes that the session holds ([`Session::held`](crate::Session::held)). Returns whether the session
    /// must end. That is the case if all sessions together exceed the limit, and this one has grown, and it holds more
    /// than 256 KiB and more than an equal share of the limit.
    #[must_use]
    pub fn update(&mut self, held: usize) -> bool {
        let before = std::mem::replace(&mut self.held, held);
        // A session that does not grow is never ended: it may be shrinking because the limit was reached.
        if held <= before {
            self.budget.held.fetch_sub(before - held, Ordering::Relaxed);
            return false;
        }
        // Relaxed: the sum need not be exact at any instant, only free of lost updates.
        let total = self.budget.held.fetch_add(held - before, Ordering::Relaxed) + (held - before);
        let limit = self.budget.limit.load(Ordering::Relaxed);
        let share = limit / self.budget.accounts.load(Ordering::Relaxed).max(1);
        let goes = total > limit && held > MODEST.max(share);
        self.budget.overflows.fetch_add(u64::from(goes), Ordering::Relaxed);
        goes
    }
}

impl Drop for MemoryAccount {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.held, Ordering::Relaxed);
        self.budget.accounts.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_session_that_holds_more_than_its_share_is_ended() {
        let budget = MemoryBudget::new(10 << 20);
        let mut others: Vec<_> = (0..18).map(|_| budget.open()).collect();
        let (mut modest, mut greedy) = (budget.open(), budget.open());
        assert!(!greedy.update(9 << 20));
        assert!(!modest.update(200 << 10));
        assert!(!modest.update(250 << 10));
        assert!(!greedy.update(9 << 20), "within the limit");
        assert!(greedy.update(10 << 20));
        assert!(!greedy.update(10 << 20), "it has not grown");
        assert!(!modest.update(255 << 10), "it holds little");
        assert!(!others[0].update(MODEST + 1 - 1));
        others.truncate(0);
        drop(modest);
        drop(greedy);
        assert_eq!((budget.held(), budget.overflows()), (0, 1));
    }

    #[test]
    fn a_session_within_its_share_stays_even_above_the_limit() {
        let budget = MemoryBudget::new(1 << 20);
        let (mut one, mut two) = (budget.open(), budget.open());
        assert!(!one.update(512 << 10));
        assert!(!two.update(511 << 10));
        assert!(one.update(600 << 10), "more than half");
        assert!(!two.update(512 << 10), "an equal share");
    }

    #[test]
    fn a_dropped_account_gives_back_what_it_held() {
        let budget = MemoryBudget::new(1 << 20);
        for _ in 0..100 {
            let mut account = budget.open();
            let _ = account.update(500 << 10);
        }
        assert_eq!((budget.held(), budget.overflows()), (0, 0));
    }
}
