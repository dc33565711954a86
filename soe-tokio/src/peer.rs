//! One peer: the core session under its lock, and what the driver does with it.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
    task::Waker,
    time::Instant,
};

use bytes::BytesMut;
use soe_core::{DisconnectReason, Session, Verdict};
use tokio::sync::Notify;
use tracing::{Span, debug, debug_span};

use crate::{
    endpoint::{ENDED_HERE, Shared},
    locking::Contention,
    socket::{Path, SendBatch},
    state::{News, State},
    timer::Timers,
};

/// One session as all tasks see it.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session_id: u32,
    /// Which of the socket's sessions it is, in the order of their opening.
    pub(crate) number: u64,
    /// How many tasks wait for the datagrams to leave: spares the driver a lock where none does.
    pub(crate) await_flush: AtomicU32,
    /// How many hold it for the application: a session is one, its halves are two.
    pub(crate) handles: AtomicU8,
    /// Set once the session is closed, for those who may not lock it.
    closed_hint: AtomicBool,
    /// `None` if nobody listens to it.
    span: Option<Box<Span>>,
    /// Made when first needed: thousands of sessions do without.
    waiters: OnceLock<Box<Waiters>>,
    pub(crate) contention: Contention,
    pub(crate) state: Mutex<State>,
}

/// Tasks that wait for something other than messages and room.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// For the session to connect, to end, or to report an event.
    pub(crate) news: Notify,
    /// For the datagrams to leave.
    pub(crate) flush: Notify,
}

/// What became of the datagrams that a session was fed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// They have been handled.
    Quiet,
    /// They have been handled, and the peer must be put in the driver's list.
    Marked,
    /// Somebody holds the session's lock who may take long: none was taken. The driver is woken once the lock is free.
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

impl Peer {
    pub(crate) fn new(shared: Arc<Shared>, path: Path, session: Session) -> Arc<Self> {
        let address = path.remote;
        let session_id = session.session_id();
        let span = debug_span!(parent: None, "session", peer = %address, id = format_args!("{session_id:08x}"));
        let span = (!span.is_disabled()).then(|| Box::new(span));
        let state = State::new(session, path);
        let (await_flush, closed_hint, handles) = Default::default();
        let (waiters, contention) = Default::default();
        let number = shared.opened.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            shared,
            session_id,
            number,
            await_flush,
            handles,
            closed_hint,
            span,
            waiters,
            contention,
            state: Mutex::new(state),
        })
    }

    /// Does something to the session for the application. `work` says through [`State::mark`] whether the driver is needed.
    pub(crate) fn act<T>(self: &Arc<Self>, work: impl FnOnce(&mut State) -> T) -> T {
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
            self.shared.push_dirty(Arc::clone(self));
        }
        match done {
            Ok((done, _)) => done,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Feeds the datagrams that came by one path. What the session could not accept is left in `returned`, for the admission.
    pub(crate) fn feed(
        self: &Arc<Self>,
        now: Instant,
        path: Path,
        datagrams: &mut impl Iterator<Item = BytesMut>,
        returned: &mut Vec<BytesMut>,
        wakers: &mut Vec<Waker>,
    ) -> Fed {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (marked, left, is_over_share, news) = {
            let Some(mut guard) = self.try_lock() else { return Fed::Busy };
            let state = &mut *guard;
            let mut left = None;
            for datagram in datagrams {
                match state.session.handle_datagram(now, datagram) {
                    Verdict::Authentic if path != state.path() => left = state.move_to(now, path).or(left),
                    Verdict::Rejected(datagram) | Verdict::Stranger(datagram) => returned.push(datagram),
                    _ => {}
                }
            }
            let is_over_share = self.account(state, now);
            let news = state.take_events(wakers);
            state.collect_wakers(wakers);
            // Most datagrams call for nothing but the application, whose answer then asks for service.
            let needs_service = state.needs_service(now);
            (needs_service && !std::mem::replace(&mut state.dirty, true), left, is_over_share, news)
        };
        self.announce(&news);
        if is_over_share {
            debug!("all sessions together hold too much, and this one more than its share");
        }
        if let Some(left) = left {
            debug!(from = %left, to = %path.remote, "the peer has moved");
            self.shared.directory.unroute(left, self);
        }
        if marked { Fed::Marked } else { Fed::Quiet }
    }

    /// Takes what the session wants to send, passes its events on, and sees to its timer.
    pub(crate) fn serve(
        self: &Arc<Self>,
        now: Instant,
        number: u64,
        max_segments: usize,
        batch: &mut SendBatch,
        timers: &mut Timers,
        wakers: &mut Vec<Waker>,
    ) -> Served {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (served, news) = {
            let Some(mut state) = self.try_lock() else { return Served::Busy };
            self.serve_locked(&mut state, now, number, max_segments, batch, timers, wakers)
        };
        self.announce(&news);
        served
    }

    #[expect(clippy::too_many_arguments, reason = "the driver's parts are lent for one call")]
    fn serve_locked(
        self: &Arc<Self>,
        state: &mut State,
        now: Instant,
        number: u64,
        max_segments: usize,
        batch: &mut SendBatch,
        timers: &mut Timers,
        wakers: &mut Vec<Waker>,
    ) -> (Served, News) {
        state.dirty = false;
        if state.is_stopped {
            return (Served::All, News::default());
        }
        self.account(state, now);
        let mut taken = 0;
        while taken < BYTES_PER_ROUND
            && let Some(transmit) = state.session.poll_transmit(now, batch.buffer())
        {
            taken += transmit.size;
            state.batch = number;
            batch.note(state.path(), &transmit, max_segments, Some(self));
        }
        let mut news = state.take_events(wakers);
        state.collect_wakers(wakers);
        news.flushed = state.is_flush_awaited(self);
        if state.session.is_drained() {
            timers.set(now, self, state.armed.take(), None);
            return (Served::Over, news);
        }
        if state.is_late() {
            let next = state.session.poll_timeout();
            timers.set(now, self, std::mem::replace(&mut state.armed, next), next);
        }
        if taken >= BYTES_PER_ROUND {
            state.dirty = true;
            return (Served::Part, news);
        }
        (Served::All, news)
    }

    /// Corrects what all sessions hold together by what this one holds now. Ends it, and says so, if that is too much.
    pub(crate) fn account(&self, state: &mut State, now: Instant) -> bool {
        let held = state.session.held();
        let directory = &self.shared.directory;
        let is_over_share = directory.budget.account(&mut state.held, held, directory.session_count());
        if is_over_share {
            state.session.abandon(now, DisconnectReason::ReliableOverflow, true);
        }
        is_over_share
    }

    /// The session's entry among the timers has expired.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant, timers: &mut Timers, wakers: &mut Vec<Waker>) -> Fed {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let Some(mut guard) = self.try_lock() else { return Fed::Busy };
        let state = &mut *guard;
        state.armed = None;
        if state.is_stopped {
            return Fed::Quiet;
        }
        let mut news = News::default();
        let is_due = state.session.poll_timeout().is_some_and(|deadline| deadline <= now);
        if is_due {
            state.session.handle_timeout(now);
            news = state.take_events(wakers);
            state.collect_wakers(wakers);
        }
        // Now, and not only after the flush: time passes while the socket is full, too.
        if let Some(deadline) = state.session.poll_timeout().filter(|deadline| *deadline > now) {
            timers.set(now, self, None, Some(deadline));
            state.armed = Some(deadline);
        }
        let is_marked = is_due && !std::mem::replace(&mut state.dirty, true);
        drop(guard);
        self.announce(&news);
        if is_marked { Fed::Marked } else { Fed::Quiet }
    }

    /// Tells the log and the waiting tasks what the session has reported. Their code may use the session: no lock is held.
    fn announce(&self, news: &News) {
        if let Some(closed) = news.closed {
            self.closed_hint.store(true, Ordering::Relaxed);
            debug!(%closed, "the session is closed");
        }
        let Some(waiters) = self.waiters.get() else { return };
        if news.any {
            waiters.news.notify_waiters();
        }
        if news.flushed {
            waiters.flush.notify_waiters();
        }
    }

    /// Where tasks wait for this session.
    pub(crate) fn waiters(&self) -> &Waiters {
        self.waiters.get_or_init(Box::default)
    }

    /// The driver has handed over a batch with datagrams of this peer. False: the session is busy, ask again.
    pub(crate) fn batch_sent(self: &Arc<Self>) -> bool {
        if self.await_flush.load(Ordering::SeqCst) == 0 {
            return true;
        }
        let Some(state) = self.try_lock() else { return false };
        let news = News { flushed: state.is_flush_awaited(self), ..News::default() };
        drop(state);
        self.announce(&news);
        true
    }

    /// The network says that nobody is at this peer's address. For an open session that is a hint; an attempt to connect is
    /// over, so that the next address can be tried. A busy session is spared the hint: it is heard from at this moment.
    pub(crate) fn unreachable(self: &Arc<Self>) {
        let now = now();
        let is_marked = {
            let Some(mut state) = self.try_lock() else { return };
            if state.session.is_connecting() {
                state.session.abandon(now, DisconnectReason::IcmpError, false);
            } else {
                state.session.handle_unreachable(now);
            }
            !std::mem::replace(&mut state.dirty, true)
        };
        if is_marked {
            self.shared.push_dirty(Arc::clone(self));
        }
    }

    /// Lets a moved client be heard from `address` too. Gives back the candidate that it replaces.
    pub(crate) fn set_candidate(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.try_lock()?.rare().candidate.replace(address).filter(|old| *old != address)
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
    pub(crate) fn kill(self: &Arc<Self>, now: Instant) {
        self.closed_hint.store(true, Ordering::Relaxed);
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
        self.announce(&News { any: true, closed: None, flushed: true });
    }

    /// [`Peer::kill`] and [`Peer::forget`].
    pub(crate) fn bury(self: &Arc<Self>, now: Instant) {
        self.kill(now);
        self.forget();
    }

    /// Removes the session from the socket's tables, once.
    pub(crate) fn forget(self: &Arc<Self>) {
        let (addresses, crc_seed) = {
            let mut state = self.lock();
            if std::mem::replace(&mut state.is_forgotten, true) {
                return;
            }
            self.shared.directory.budget.account(&mut state.held, 0, 0);
            ([Some(state.address), state.candidate()], state.session.crc_seed())
        };
        self.shared.directory.forget(self, addresses, crc_seed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        let is_closed = self.lock().end().is_some();
        if is_closed {
            // The application may see the end before the driver does, and connect to the same address again.
            self.closed_hint.store(true, Ordering::Relaxed);
        }
        is_closed
    }

    /// Like [`Peer::is_closed`] without the lock, and possibly late.
    pub(crate) fn is_closed_hint(&self) -> bool {
        self.closed_hint.load(Ordering::Relaxed)
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

    /// Like [`Peer::abort`], for the driver, without telling the peer. False: the session is busy.
    pub(crate) fn try_abort(self: &Arc<Self>, reason: DisconnectReason) -> bool {
        let is_marked = {
            let Some(mut state) = self.try_lock() else { return false };
            state.session.abort(now(), reason, false);
            !std::mem::replace(&mut state.dirty, true)
        };
        if is_marked {
            self.shared.push_dirty(Arc::clone(self));
        }
        true
    }

    /// Wakes everybody who waits for a session that a call of the application has just ended.
    fn wake_ended(&self) {
        let wakers = {
            let mut state = self.lock();
            if state.end().is_none() {
                return;
            }
            self.closed_hint.store(true, Ordering::Relaxed);
            state.all_wakers()
        };
        wakers.into_iter().for_each(Waker::wake);
        self.announce(&News { any: true, ..News::default() });
    }
}

/// The runtime's idea of now: virtual when its clock is paused.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl fmt::Debug for Peer {
    /// Without the state, whose lock somebody may hold, and without what all peers share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("session_id", &format_args!("{:08x}", self.session_id)).finish_non_exhaustive()
    }
}

/// What one session may take out of one service round, in bytes: no peer waits for the bulk transfer of another.
const BYTES_PER_ROUND: usize = 64 << 10;
