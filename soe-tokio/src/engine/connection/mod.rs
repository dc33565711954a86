//! One peer: the core session under its lock, and what the driver does with it.

mod calls;
mod locking;
pub(crate) mod state;

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::Waker,
    time::Instant,
};

use bytes::BytesMut;
use soe_core::{DatagramOutcome, DisconnectReason, Path, Session, SessionKey, host::Fed};
use tokio::sync::Notify;
use tracing::{Span, debug, debug_span, warn};

use crate::{
    engine::{
        clock::now,
        connection::{
            locking::Contention,
            state::{Changes, ConnectionState},
        },
        deferred::Work,
        notices::Notices,
        shared_endpoint::Member,
        shared_socket::SharedSocket,
        timers::Timers,
    },
    socket::SendBatch,
};

/// One session as all tasks see it.
pub(crate) struct Connection {
    pub(crate) shared: Arc<SharedSocket<Self>>,
    pub(crate) session_id: u32,
    /// Its name at the endpoint.
    pub(crate) key: SessionKey,
    /// How many tasks wait for the datagrams to leave: spares the driver a lock where none does.
    pub(crate) flush_waiters: AtomicU32,
    /// How many hold it for the application: a session is one, its halves are two.
    pub(crate) handles: AtomicU8,
    /// `None` if nobody listens to it.
    span: Option<Box<Span>>,
    /// Made when first needed: thousands of sessions do without.
    waiters: OnceLock<Box<Waiters>>,
    pub(crate) contention: Contention,
    pub(crate) state: Mutex<ConnectionState>,
}

/// Tasks that wait for something other than messages and room.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// For the session to connect, to end, or to report an event.
    pub(crate) changes: Notify,
    /// For the datagrams to leave.
    pub(crate) flush: Notify,
}

/// What became of a visit of the driver's to a session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// It is done.
    Quiet,
    /// It is done, and the peer must be put in the driver's list.
    Marked,
    /// Somebody holds the session's lock who may take long: nothing was done. The driver is woken once the lock is free.
    Busy,
}

/// What became of a service round.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Everything that may leave now has been taken.
    All,
    /// The round's share has been taken and there may be more: the peer stays in the list.
    Part,
    /// The session is over and can be forgotten.
    Over,
    /// Somebody holds the session's lock who may take long. The driver is woken once the lock is free.
    Busy,
}

/// A service round, as a connection needs to know it.
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
    pub(crate) fn new(shared: Arc<SharedSocket<Self>>, key: SessionKey, path: Path, session: Session) -> Arc<Self> {
        let address = path.remote;
        let session_id = session.session_id();
        let span = debug_span!(parent: None, "session", peer = %address, id = format_args!("{session_id:08x}"));
        let span = (!span.is_disabled()).then(|| Box::new(span));
        let state = ConnectionState::new(session, path, shared.endpoint.budget.open());
        let (flush_waiters, handles) = Default::default();
        let (waiters, contention) = Default::default();
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            shared,
            session_id,
            key,
            flush_waiters,
            handles,
            span,
            waiters,
            contention,
            state: Mutex::new(state),
        })
    }

    /// Opens a session from this side. `None`: a session that lives has the address.
    pub(crate) fn connect(
        shared: &Arc<SharedSocket<Self>>,
        address: SocketAddr,
        session: Session,
    ) -> Option<Arc<Self>> {
        // The application may have seen the end of a session before its driver has reported it.
        let ended = shared.endpoint.hint(address).filter(|there| there.is_closed()).map(|there| there.key);
        let session_id = session.session_id();
        let open = |key| Self::new(Arc::clone(shared), key, address.into(), session);
        let connection = shared.endpoint.register(address, session_id, ended, open)?;
        connection.act(ConnectionState::mark);
        Some(connection)
    }

    /// Does something to the session for the application. `work` says through [`ConnectionState::mark`] whether the driver is needed.
    pub(crate) fn act<T>(self: &Arc<Self>, work: impl FnOnce(&mut ConnectionState) -> T) -> T {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let done = catch_unwind(AssertUnwindSafe(|| {
            let mut state = self.lock();
            let was_dirty = state.dirty;
            let done = work(&mut state);
            (done, state.dirty && !was_dirty)
        }));
        let marked = match &done {
            Ok((_, marked)) => *marked,
            Err(_) => {
                // A hook has panicked, in a task of the application. The lock ends the session; the driver is to see to it,
                // though it may be told twice.
                self.lock().dirty = true;
                true
            }
        };
        if marked {
            self.request_service();
        }
        match done {
            Ok((done, _)) => done,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Feeds the datagrams that came by one path, and notes in `fed` what became of them.
    pub(crate) fn feed(
        self: &Arc<Self>,
        now: Instant,
        path: Path,
        datagrams: &mut impl Iterator<Item = BytesMut>,
        fed: &mut Fed,
        notices: &mut Notices,
    ) -> Visit {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (marked, is_over_share, changes) = {
            let Some(mut guard) = self.try_lock() else { return Visit::Busy };
            let state = &mut *guard;
            fed.heard = state.session.last_heard();
            for datagram in datagrams {
                match state.session.handle_datagram(now, datagram) {
                    DatagramOutcome::Authentic => fed.is_authentic = true,
                    DatagramOutcome::Rejected(datagram) | DatagramOutcome::ForEndpoint(datagram) => {
                        fed.returned.push(datagram)
                    }
                    _ => {}
                }
            }
            if fed.is_authentic && path.remote == state.address {
                state.local_ip = path.local;
            }
            let is_over_share = state.account(now);
            let changes = state.take_events(&mut notices.wakers);
            state.collect_wakers(&mut notices.wakers);
            // Most datagrams call for nothing but the application, whose answer then asks for service.
            let needs_service = state.needs_service(now);
            (needs_service && !std::mem::replace(&mut state.dirty, true), is_over_share, changes)
        };
        self.announce(&changes, notices);
        if is_over_share {
            debug!("all sessions together hold too much, and this one more than its share");
        }
        if marked { Visit::Marked } else { Visit::Quiet }
    }

    /// Takes what the session wants to send, passes its events on, and sees to its timer.
    pub(crate) fn serve(
        self: &Arc<Self>,
        round: Round,
        batch: &mut SendBatch,
        timers: &mut Timers<Self>,
        notices: &mut Notices,
    ) -> Served {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (served, changes) = {
            let Some(mut state) = self.try_lock() else { return Served::Busy };
            self.serve_locked(&mut state, round, batch, timers, &mut notices.wakers)
        };
        self.announce(&changes, notices);
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
        changes.flushed = state.is_flush_awaited(self);
        // Each farewell may be the last one that somebody waits for.
        changes.any |= state.is_over && taken > 0;
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
    pub(crate) fn expire(self: &Arc<Self>, now: Instant, timers: &mut Timers<Self>, notices: &mut Notices) -> Visit {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let Some(mut guard) = self.try_lock() else { return Visit::Busy };
        let state = &mut *guard;
        state.armed = None;
        if state.is_stopped {
            return Visit::Quiet;
        }
        let mut changes = Changes::default();
        let is_due = state.session.poll_timeout().is_some_and(|deadline| deadline <= now);
        if is_due {
            state.session.handle_timeout(now);
            changes = state.take_events(&mut notices.wakers);
            state.collect_wakers(&mut notices.wakers);
        }
        // Now, and not only after the flush: time passes while the socket is full, too.
        if let Some(deadline) = state.session.poll_timeout().filter(|deadline| *deadline > now) {
            timers.set(now, self.key, self, None, Some(deadline));
            state.armed = Some(deadline);
        }
        let is_marked = is_due && !std::mem::replace(&mut state.dirty, true);
        drop(guard);
        self.announce(&changes, notices);
        if is_marked { Visit::Marked } else { Visit::Quiet }
    }

    /// Does what the endpoint wants done to the session.
    pub(crate) fn visit(self: &Arc<Self>, now: Instant, work: &Work, notices: &mut Notices) -> Visit {
        let (is_marked, changes) = {
            let Some(mut guard) = self.try_lock() else {
                // A busy session is spared the doubts about its peer: its application is at work on what the peer has sent.
                return if matches!(work, Work::Probe | Work::Unreachable) { Visit::Quiet } else { Visit::Busy };
            };
            let state = &mut *guard;
            match *work {
                Work::Move(from, to) => state.move_to(now, from, to),
                Work::Probe => state.session.ask_for_life(),
                // For an open session that is a hint; an attempt to connect is over, so that the next address can be tried.
                Work::Unreachable if state.session.is_connecting() => {
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
        if is_marked { Visit::Marked } else { Visit::Quiet }
    }

    /// Puts the connection in its driver's list, its `dirty` flag having just been set. Without a driver the session ends here.
    pub(crate) fn request_service(self: &Arc<Self>) {
        if self.shared.push_dirty(self).is_err() {
            self.stop_and_remove(now());
        }
    }

    /// Asks for the driver's service. True says that the caller has to put the peer in the driver's list.
    pub(crate) fn mark_dirty(&self) -> bool {
        !std::mem::replace(&mut self.lock().dirty, true)
    }

    /// Tells the log, the driver and the waiting tasks what the session has reported. Code of the application's may run in
    /// it, which may use the session: no lock is held.
    fn announce(&self, changes: &Changes, notices: &mut Notices) {
        if let Some(problem) = &changes.problem {
            debug!(%problem, "the peer has sent something wrong");
        }
        if let Some(closed) = changes.closed {
            debug!(%closed, "the session is closed");
            notices.ended.push((self.key, changes.is_readable));
        }
        self.notify(changes);
    }

    fn notify(&self, changes: &Changes) {
        let Some(waiters) = self.waiters.get() else { return };
        if changes.any {
            waiters.changes.notify_waiters();
        }
        if changes.flushed {
            waiters.flush.notify_waiters();
        }
    }

    /// Where tasks wait for this session.
    pub(crate) fn waiters(&self) -> &Waiters {
        self.waiters.get_or_init(Box::default)
    }

    /// The driver has handed over a batch with datagrams of this peer. False: the session is busy, ask again.
    pub(crate) fn batch_sent(self: &Arc<Self>) -> bool {
        if self.flush_waiters.load(Ordering::SeqCst) == 0 {
            return true;
        }
        let Some(state) = self.try_lock() else { return false };
        let changes = Changes { flushed: state.is_flush_awaited(self), ..Changes::default() };
        drop(state);
        self.notify(&changes);
        true
    }

    /// Ends a session whose driver is about to go, and has the peer told. True says that it must be served once more.
    pub(crate) fn cut_off(&self, now: Instant) -> bool {
        let Some(mut state) = self.try_lock() else { return false };
        if state.session.closed().is_none() {
            state.was_cut = true;
            let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, true)));
            state.is_broken |= aborted.is_err();
        }
        !std::mem::replace(&mut state.dirty, true)
    }

    /// Ends the session without a word to the peer: the driver is gone, or the session panicked within it.
    pub(crate) fn stop(self: &Arc<Self>, now: Instant) {
        let wakers = {
            let mut state = self.lock();
            state.is_stopped = true;
            if state.session.closed().is_none() {
                state.was_cut = true;
                let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, false)));
                state.is_broken |= aborted.is_err();
            }
            state.all_wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
        self.notify(&Changes { any: true, flushed: true, ..Changes::default() });
    }

    /// Ends a session that panicked in the driver's hands, in an application's codec or by a bug of ours. The other sessions
    /// go on.
    pub(crate) fn fail_after_panic(self: &Arc<Self>, now: Instant, notices: &mut Notices) {
        warn!(session = self.session_id, "a session panicked; it is ended");
        self.stop(now);
        notices.ended.push((self.key, true));
        notices.drained.push(self.key);
    }

    /// [`Connection::stop`], and the endpoint forgets the session: nobody drives it any more.
    pub(crate) fn stop_and_remove(self: &Arc<Self>, now: Instant) {
        self.stop(now);
        self.shared.endpoint.remove_undriven(now, self.key);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().end().is_some()
    }

    pub(crate) fn close(self: &Arc<Self>, reason: DisconnectReason) {
        self.act(|state| {
            state.session.close(now(), reason);
            state.mark();
        });
        self.wake_ended();
    }

    pub(crate) fn abort(self: &Arc<Self>, reason: DisconnectReason, tell_peer: bool) {
        self.act(|state| {
            state.session.abort(now(), reason, tell_peer);
            state.mark();
        });
        self.wake_ended();
    }

    /// Wakes everybody who waits for a session that a call of the application has just ended.
    fn wake_ended(&self) {
        let wakers = {
            let mut state = self.lock();
            if state.end().is_none() {
                return;
            }
            state.all_wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
        self.notify(&Changes { any: true, ..Changes::default() });
    }
}

impl Member for Connection {
    fn key(&self) -> SessionKey {
        self.key
    }

    fn stop(self: &Arc<Self>, now: Instant) {
        Self::stop(self, now);
    }

    fn removed(&self) {
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Connection {
    /// Without the state, whose lock somebody may hold, and without what all peers share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("session_id", &format_args!("{:08x}", self.session_id)).finish_non_exhaustive()
    }
}

/// The reason given to sessions that are ended by us without the application having said why.
pub(crate) const ENDED_HERE: DisconnectReason = DisconnectReason::Application;
/// What one session may take out of one service round, in bytes: no peer waits for the bulk transfer of another.
const BYTES_PER_ROUND: usize = 64 << 10;
