//! Waiting for a change that another task makes. The registration belongs to the waiting future and is dropped with it.

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use tokio::{
    sync::{Notify, futures::Notified},
    task::consume_budget,
};

/// Waits until `ready` returns something. The task that changes what `ready` reads notifies `notify` afterwards.
///
/// Takes part in Tokio's cooperative budget.
pub(crate) async fn until<T>(notify: &Notify, mut ready: impl FnMut() -> Option<T>) -> T {
    consume_budget().await;
    if let Some(done) = ready() {
        return done;
    }
    loop {
        let mut notified = pin!(notify.notified());
        // Registered before `ready` is called: otherwise a change between the two would be missed.
        Notified::enable(notified.as_mut());
        if let Some(done) = ready() {
            return done;
        }
        notified.await;
    }
}

/// Remembers the task that polled last. Returns the waker that it replaces, to be dropped once no lock is held.
#[must_use = "dropping a waker runs code of its task: not under a lock"]
pub(crate) fn set_waker(slot: &mut Option<Waker>, waker: &Waker) -> Option<Waker> {
    match slot {
        Some(known) if known.will_wake(waker) => None,
        slot => slot.replace(waker.clone()),
    }
}

/// Locks a mutex, ignoring poisoning: the data under these locks is consistent after each statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        task::Context,
    };

    use super::*;

    #[test]
    fn a_dropped_future_leaves_no_registration() {
        let (notify, is_done) = (Notify::new(), AtomicBool::new(false));
        let wait = || until(&notify, || is_done.load(Ordering::SeqCst).then_some(()));
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1000 {
            assert!(pin!(wait()).poll(&mut cx).is_pending());
        }
        let mut last = pin!(wait());
        assert!(last.as_mut().poll(&mut cx).is_pending());
        is_done.store(true, Ordering::SeqCst);
        notify.notify_waiters();
        assert!(last.poll(&mut cx).is_ready());
    }
}
