//! Who may hold a session's lock, and for how long.
//!
//! A session's keys and hooks transform messages in the tasks of the application, under the session's lock. That may take
//! long: the driver, which every other session waits for, never waits for such a lock. It puts the session off, and whoever
//! holds the lock calls it back.

use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use crate::engine::{
    clock::now,
    connection::{Connection, ENDED_HERE, state::ConnectionState},
};

/// The flags around a session's lock.
#[derive(Debug, Default)]
pub(crate) struct Contention {
    /// Whether the application has set a key or a hook, ever: its calls may hold the lock for long.
    transforms: AtomicBool,
    /// Whether the driver wants to be called once the lock is free.
    is_wanted: AtomicBool,
}

/// The locked state of a session.
pub(crate) struct Locked<'a> {
    // In this order: the driver is called after the lock is free.
    state: MutexGuard<'a, ConnectionState>,
    _release: Release<'a>,
}

struct Release<'a>(&'a Connection);

impl Connection {
    /// Locks the state, however long that takes. If somebody panicked under the lock (a message hook, in its own task), the
    /// session ends here.
    pub(crate) fn lock(&self) -> Locked<'_> {
        let state = self.state.lock().unwrap_or_else(|poisoned| self.end_after_panic(poisoned));
        Locked { state, _release: Release(self) }
    }

    /// Locks the state for the driver. `None`: somebody holds the lock who may take long; the driver is woken once it is free.
    pub(crate) fn try_lock(&self) -> Option<Locked<'_>> {
        if !self.contention.transforms.load(Ordering::Relaxed) {
            return Some(self.lock());
        }
        self.try_once().or_else(|| {
            self.contention.is_wanted.store(true, Ordering::SeqCst);
            // The holder looks at the flag after it has unlocked; it may have done both in between.
            fence(Ordering::SeqCst);
            self.try_once()
        })
    }

    fn try_once(&self) -> Option<Locked<'_>> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => self.end_after_panic(poisoned),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Locked { state, _release: Release(self) })
    }

    fn end_after_panic<'a>(
        &self,
        poisoned: PoisonError<MutexGuard<'a, ConnectionState>>,
    ) -> MutexGuard<'a, ConnectionState> {
        self.state.clear_poison();
        let mut state = poisoned.into_inner();
        let now = now();
        let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, true)));
        state.is_broken |= aborted.is_err();
        state
    }

    /// From here on the driver does not wait for this session's lock.
    pub(crate) fn expect_transforms(&self) {
        self.contention.transforms.store(true, Ordering::SeqCst);
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let Contention { transforms, is_wanted } = &self.0.contention;
        if transforms.load(Ordering::Relaxed) {
            fence(Ordering::SeqCst);
            if is_wanted.load(Ordering::Relaxed) && is_wanted.swap(false, Ordering::SeqCst) {
                self.0.shared.call_back();
            }
        }
    }
}

impl Deref for Locked<'_> {
    type Target = ConnectionState;

    fn deref(&self) -> &ConnectionState {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut ConnectionState {
        &mut self.state
    }
}
