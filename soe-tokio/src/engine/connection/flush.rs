//! Waiting until what has been queued is handed to the kernel.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::{
    Connection,
    state::{ConnectionState, QueueCounts},
};
use crate::{
    engine::{clock::now, sync::until},
    error::SessionError,
};

/// How far the messages have come that a task waits for.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// Some wait in their channels' queues, behind so many messages that were counted before.
    Queued(QueueCounts),
    /// All have been written to datagrams. The last of them may be held back for the next service round; the
    /// session's last batch so far is this one.
    Written(u64),
    /// All are in batches up to this one.
    Taken(u64),
}

impl Connection {
    /// Waits until everything queued so far has been handed to the kernel.
    pub(crate) async fn flushed(self: &Arc<Self>) -> Result<(), SessionError> {
        let waiting = Waiting::new(&self.flush_waiters);
        let mut progress = None;
        let flushed = until(&self.waiters().flush, || {
            // Woken once a hook is done that holds the session.
            let flushed = self.try_act(|state| {
                if state.is_stopped {
                    return Some(Err(SessionError::Stopped));
                }
                let is_new = progress.is_none();
                let progress = progress.get_or_insert_with(|| Progress::Queued(state.count_queued()));
                if !progress.advance(state, self.shared.sent_batches.load(Ordering::SeqCst)) {
                    if is_new {
                        state.mark();
                    }
                    return None;
                }
                Some(match state.end() {
                    Some(end) if state.session.undelivered().messages > 0 => Err(end.into()),
                    _ => Ok(()),
                })
            });
            flushed.flatten()
        });
        let flushed = flushed.await;
        drop(waiting);
        flushed
    }

    /// Whether tasks wait in [`Connection::flushed`]. Each finds out by itself whether what it waits for has been sent.
    pub(super) fn is_flush_awaited(&self) -> bool {
        self.flush_waiters.load(Ordering::SeqCst) > 0
    }
}

impl Progress {
    /// Whether the messages have been handed to the kernel, which has taken all batches up to this one.
    fn advance(&mut self, state: &mut ConnectionState, sent_batch: u64) -> bool {
        if let Self::Queued(counts) = self
            && state.have_left(counts)
        {
            *self = Self::Written(state.batch);
            if state.session.has_transmit(now()) {
                // Asks for the round that takes what is held back.
                state.mark();
            }
        }
        if let Self::Written(batch) = *self
            && (state.batch != batch || !state.session.has_transmit(now()))
        {
            *self = Self::Taken(state.batch);
        }
        matches!(*self, Self::Taken(batch) if batch <= sent_batch)
    }
}

/// Counts a task as waiting, until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        // The order closes a race: this task raises its count before it reads the number of sent batches, and the driver
        // stores that number before it reads the count. One of the two sees the other.
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
