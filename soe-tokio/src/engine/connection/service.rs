//! What the driver does with a connection: it feeds datagrams, fires the timer, serves what is to be sent.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use bytes::BytesMut;
use soe_core::{DatagramOutcome, DisconnectReason, Path, host::Fed};
use tracing::{debug, warn};

use super::{
    Connection, ENDED_HERE,
    state::{Changes, ConnectionState},
};
use crate::{
    engine::{deferred::Work, reports::notices::Notices, timers::Timers},
    socket::SendBatch,
};

/// What became of the driver's attempt to work on a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It is done.
    Done,
    /// It is done, and the connection must be put in the driver's list.
    NeedsService,
    /// The session's lock is held, possibly for a long time: nothing was done. The driver is woken once the lock is
    /// free.
    Busy,
}

/// The outcome of a service round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Everything that may be sent now has been taken.
    All,
    /// The round's share has been taken and there may be more: the connection stays in the list.
    Part,
    /// The session has ended and can be removed.
    Over,
    /// The session's lock is held, possibly for a long time. The driver is woken once the lock is free.
    Busy,
}

/// The parameters of a service round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) now: Instant,
    /// The number of the batch that the datagrams go into.
    pub(crate) number: u64,
    /// The connection's number within that batch.
    pub(crate) owner: u32,
    /// How many equal datagrams the socket takes in one entry of the batch.
    pub(crate) max_segments: usize,
}

impl Connection {
    /// Feeds the datagrams that came by one path, and records the outcome in `fed`.
    pub(crate) fn feed(
        self: &Arc<Self>,
        now: Instant,
        path: Path,
        datagrams: &mut impl Iterator<Item = BytesMut>,
        fed: &mut Fed,
        notices: &mut Notices,
    ) -> Attempt {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (marked, is_over_share, changes) = {
            let Some(mut guard) = self.try_lock() else { return Attempt::Busy };
            let state = &mut *guard;
            for datagram in datagrams {
                match state.session.handle_datagram(now, datagram) {
                    DatagramOutcome::Authentic => fed.is_authentic = true,
                    DatagramOutcome::Rejected(datagram) | DatagramOutcome::ForEndpoint(datagram) => {
                        fed.returned.push(datagram)
                    }
                    _ => {}
                }
            }
            if !fed.returned.is_empty() {
                fed.heard = state.session.last_heard();
            }
            if fed.is_authentic && path.remote == state.address {
                state.follow(path);
            }
            let is_over_share = state.account(now);
            let changes = state.take_events(&mut notices.wakers);
            state.collect_wakers(&mut notices.wakers);
            // Most datagrams only wake the application, whose reply then asks for service.
            let needs_service = state.needs_service(now);
            (needs_service && !std::mem::replace(&mut state.dirty, true), is_over_share, changes)
        };
        self.announce(&changes, notices);
        if is_over_share {
            debug!("closed by the memory limit of the listener");
        }
        if marked { Attempt::NeedsService } else { Attempt::Done }
    }

    /// Takes what the session has to send, forwards its events and sets its timer.
    pub(crate) fn serve(
        self: &Arc<Self>,
        round: Round,
        batch: &mut SendBatch,
        timers: &mut Timers<Self>,
        notices: &mut Notices,
    ) -> Served {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (served, changes, recording) = {
            let Some(mut state) = self.try_lock() else { return Served::Busy };
            let (served, changes) = self.serve_locked(&mut state, round, batch, timers, &mut notices.wakers);
            let recording = if served == Served::Over { state.take_recording() } else { None };
            (served, changes, recording)
        };
        self.announce(&changes, notices);
        self.hand_over(recording);
        served
    }

    fn serve_locked(
        self: &Arc<Self>,
        state: &mut ConnectionState,
        round: Round,
        batch: &mut SendBatch,
        timers: &mut Timers<Self>,
        wakers: &mut Vec<Waker>,
    ) -> (Served, Changes) {
        let Round { now, number, owner, max_segments } = round;
        state.dirty = false;
        if state.is_stopped {
            return (Served::All, Changes::default());
        }
        state.account(now);
        let mut taken = 0;
        while taken < BYTES_PER_ROUND
            && let Some(transmit) = state.session.poll_transmit(now, batch.buffer())
        {
            taken += transmit.size;
            state.batch = number;
            batch.push(state.path(), &transmit, max_segments, Some(owner));
        }
        let mut changes = state.take_events(wakers);
        state.collect_wakers(wakers);
        changes.flushed = self.is_flush_awaited();
        // This Disconnect may be the last one, which `disconnect_sent` waits for. A drained session sends no more.
        changes.any |= state.is_over && (taken > 0 || state.session.is_drained());
        changes.room = taken > 0;
        if state.session.is_drained() {
            timers.set(now, self.key, self, state.armed.take(), None);
            return (Served::Over, changes);
        }
        if state.is_late() {
            let next = state.session.poll_timeout();
            timers.set(now, self.key, self, std::mem::replace(&mut state.armed, next), next);
        }
        if taken >= BYTES_PER_ROUND {
            state.dirty = true;
            return (Served::Part, changes);
        }
        (Served::All, changes)
    }

    /// The session's entry among the timers has expired.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant, timers: &mut Timers<Self>, notices: &mut Notices) -> Attempt {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let Some(mut guard) = self.try_lock() else { return Attempt::Busy };
        let state = &mut *guard;
        state.armed = None;
        if state.is_stopped {
            return Attempt::Done;
        }
        let mut changes = Changes::default();
        let is_due = state.session.poll_timeout().is_some_and(|deadline| deadline <= now);
        if is_due {
            state.session.handle_timeout(now);
            changes = state.take_events(&mut notices.wakers);
            state.collect_wakers(&mut notices.wakers);
        }
        // Set here and not only in the flush: there is no flush while the socket is not writable, but the timers must
        // go on.
        if let Some(deadline) = state.session.poll_timeout().filter(|deadline| *deadline > now) {
            timers.set(now, self.key, self, None, Some(deadline));
            state.armed = Some(deadline);
        }
        let is_marked = is_due && !std::mem::replace(&mut state.dirty, true);
        drop(guard);
        self.announce(&changes, notices);
        if is_marked { Attempt::NeedsService } else { Attempt::Done }
    }

    /// Does what the endpoint has decided about the session.
    pub(crate) fn perform(self: &Arc<Self>, now: Instant, work: &Work, notices: &mut Notices) -> Attempt {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (is_marked, changes) = {
            let Some(mut guard) = self.try_lock() else {
                // Not deferred: the application is processing what the peer has sent, so the peer was alive just now.
                return if matches!(work, Work::AskForLife | Work::Unreachable) {
                    Attempt::Done
                } else {
                    Attempt::Busy
                };
            };
            let state = &mut *guard;
            match *work {
                Work::Move(from, to) => {
                    state.move_to(now, from, to);
                    state.note_path(self.shared.local_addr);
                }
                Work::AskForLife => state.session.ask_for_life(),
                // ICMP can be forged by whoever knows both addresses. For an open session it is only a hint, and while
                // connecting the session ignores it. From a port that nobody knows a connection attempt fails, so that
                // the next address is tried.
                Work::Unreachable if state.session.is_connecting() && self.shared.has_private_port => {
                    state.session.abandon(now, DisconnectReason::IcmpError, false);
                }
                Work::Unreachable => state.session.handle_unreachable(now),
                Work::End(reason, tell_peer) => state.session.abort(now, reason, tell_peer),
                Work::Datagrams(..) | Work::Timer => {}
            }
            let changes = state.take_events(&mut notices.wakers);
            state.collect_wakers(&mut notices.wakers);
            (!std::mem::replace(&mut state.dirty, true), changes)
        };
        let has_moved = matches!(work, Work::Move(..));
        self.announce(&Changes { any: changes.any || has_moved, ..changes }, notices);
        if is_marked { Attempt::NeedsService } else { Attempt::Done }
    }

    /// The kernel has taken a batch with datagrams of this connection.
    pub(crate) fn batch_sent(&self) {
        self.notify(&Changes { flushed: self.is_flush_awaited(), ..Changes::default() });
    }

    /// Ends a session whose driver is about to end, and tells the peer. True: the session must be served once more.
    pub(crate) fn cut_off(&self, now: Instant) -> bool {
        let Some(mut state) = self.try_lock() else { return false };
        if state.session.closed().is_none() {
            state.was_cut = true;
            let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, true)));
            state.is_broken |= aborted.is_err();
        }
        !std::mem::replace(&mut state.dirty, true)
    }

    /// Ends a session that panicked in the driver, in the application's codec or by a bug of this crate. The other
    /// sessions continue.
    pub(crate) fn fail_after_panic(self: &Arc<Self>, now: Instant, notices: &mut Notices) {
        self.stop(now);
        warn!(session = self.session_id(), "a session panicked; it is ended");
        // Both at once: there is nothing more to send for a session that panicked. Readable, so that messages already
        // acknowledged reach the application.
        notices.ended.push((self.key, true));
        notices.drained.push(self.key);
    }
}

/// The bytes that one session may send in one service round, so that a bulk transfer does not delay other sessions.
const BYTES_PER_ROUND: usize = 64 << 10;
