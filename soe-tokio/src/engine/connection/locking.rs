//! The lock of a session, which the driver never waits for while the application may hold it for a long time.
//!
//! A session's keys and hooks transform messages in the tasks of the application, under the session's lock. That may take
//! long, and all other sessions would wait with the driver. So the driver only tries such a lock, defers the work, and is
//! woken by the holder when the lock is free.

use std::{
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering, fence},
    },
};

use soe_core::recording::Mark;

use crate::engine::{
    clock::now,
    connection::{
        Connection, ENDED_HERE,
        state::{Changes, ConnectionState},
    },
};

/// The flags around a session's lock.
#[derive(Debug, Default)]
pub(crate) struct Contention {
    /// Whether the application has ever set a key or a hook: its calls may hold the lock for a long time.
    transforms: AtomicBool,
    /// Whether somebody must be woken once the lock is free.
    is_wanted: AtomicBool,
}

/// The locked state of a session.
pub(crate) struct Locked<'a> {
    // Fields are dropped in this order: the driver is woken after the lock is free.
    state: MutexGuard<'a, ConnectionState>,
    _release: Release<'a>,
}

struct Release<'a>(&'a Connection);

impl Connection {
    /// Locks the state, blocking. If a task panicked under the lock (in a message hook), the session is ended.
    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_> {
        let state = self.state.lock().unwrap_or_else(|poisoned| self.end_after_panic(poisoned));
        Locked { state, _release: Release(self) }
    }

    /// Locks the state unless that may take long. `None`: the lock is held by a task that may be in a hook. The driver, and
    /// whoever waits for changes, is woken once it is free.
    pub(crate) fn try_lock(&self) -> Option<Locked<'_>> {
        if !self.contention.transforms.load(Ordering::Relaxed) {
            return Some(self.lock());
        }
        self.try_once().or_else(|| {
            self.contention.is_wanted.store(true, Ordering::SeqCst);
            // The holder reads the flag after unlocking, and may have done both since the first attempt, before the
            // flag was set: try again now that it is visible.
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
        state.mark_recording(Mark::Panicked);
        let now = now();
        let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, true)));
        state.is_broken |= aborted.is_err();
        state
    }

    /// The lock is free: wakes those who tried it in vain.
    fn call_back_whoever_tried(&self) {
        fence(Ordering::SeqCst);
        let is_wanted = &self.contention.is_wanted;
        if is_wanted.load(Ordering::Relaxed) && is_wanted.swap(false, Ordering::SeqCst) {
            self.shared.call_back();
            self.notify(&Changes { any: true, flushed: true, ..Changes::default() });
        }
    }

    /// From now on the driver does not block on this session's lock.
    pub(crate) fn expect_transforms(&self) {
        self.contention.transforms.store(true, Ordering::SeqCst);
    }
}

impl Drop for Release<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.contention.transforms.load(Ordering::Relaxed) {
            self.0.call_back_whoever_tried();
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
