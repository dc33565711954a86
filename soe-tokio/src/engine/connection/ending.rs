//! Ending a session from this side, and waking whoever waits for it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use soe_core::{DisconnectReason, recording::Mark};

use super::{
    Connection, ENDED_HERE,
    state::{Changes, ConnectionState},
};
use crate::engine::clock::now;

impl Connection {
    pub(crate) fn close(self: &Arc<Self>, reason: DisconnectReason) {
        let wakers = self.act(|state| state.close(reason));
        self.wake_all(wakers);
    }

    /// Like [`Connection::close`], unless a hook of the application holds the session: then false.
    pub(crate) fn try_close(self: &Arc<Self>, reason: DisconnectReason) -> bool {
        let Some(wakers) = self.try_act(|state| state.close(reason)) else { return false };
        self.wake_all(wakers);
        true
    }

    pub(crate) fn abort(self: &Arc<Self>, reason: DisconnectReason, tell_peer: bool) {
        let wakers = self.act(|state| state.abort(reason, tell_peer));
        self.wake_all(wakers);
    }

    /// Like [`Connection::abort`], unless a hook of the application holds the session.
    pub(crate) fn try_abort(self: &Arc<Self>, reason: DisconnectReason) {
        let wakers = self.try_act(|state| state.abort(reason, true));
        self.wake_all(wakers.flatten());
    }

    /// Wakes the tasks that wait for a session that has just ended.
    fn wake_all(&self, wakers: Option<Vec<Waker>>) {
        let Some(wakers) = wakers else { return };
        wakers.into_iter().for_each(Waker::wake);
        self.notify(&Changes { any: true, ..Changes::default() });
    }

    /// Ends the session without notifying the peer: the driver has ended, or the session panicked in it.
    pub(crate) fn stop(self: &Arc<Self>, now: Instant) {
        let (wakers, recording) = {
            let mut state = self.lock();
            state.is_stopped = true;
            if state.session.closed().is_none() {
                state.was_cut = true;
                state.mark_recording(Mark::Stopped);
                let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, false)));
                state.is_broken |= aborted.is_err();
            }
            (state.all_wakers(), state.take_recording())
        };
        wakers.into_iter().for_each(Waker::wake);
        self.notify(&Changes { any: true, flushed: true, ..Changes::default() });
        self.hand_over(recording);
    }

    /// [`Connection::stop`], and removes the session from the endpoint: there is no driver any more.
    pub(crate) fn stop_and_remove(self: &Arc<Self>, now: Instant) {
        self.stop(now);
        self.shared.endpoint.remove_undriven(now, self.key);
    }
}

impl ConnectionState {
    /// Closes the session. Returns whom to wake once no lock is held, if it has ended by that.
    pub(crate) fn close(&mut self, reason: DisconnectReason) -> Option<Vec<Waker>> {
        self.session.close(now(), reason);
        self.mark();
        self.end().is_some().then(|| self.all_wakers())
    }

    /// The same for an end at once.
    pub(crate) fn abort(&mut self, reason: DisconnectReason, tell_peer: bool) -> Option<Vec<Waker>> {
        self.session.abort(now(), reason, tell_peer);
        self.mark();
        self.end().is_some().then(|| self.all_wakers())
    }

    pub(crate) fn all_wakers(&mut self) -> Vec<Waker> {
        let mut wakers: Vec<_> = self.reader.take().into_iter().collect();
        let is_stopped = self.is_stopped;
        let Some(cold) = self.cold_if_any() else { return wakers };
        wakers.extend(cold.writer.1.take());
        wakers.extend(cold.closer.take());
        if is_stopped {
            wakers.extend(cold.receipts.values_mut().filter_map(Option::take));
        }
        wakers
    }
}
