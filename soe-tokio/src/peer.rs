//! One peer: the core session under its lock, and what the driver does with it.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Waker,
    time::Instant,
};

use bytes::BytesMut;
use soe_core::{DisconnectReason, Session, Verdict};
use tracing::{Span, debug, debug_span};

use crate::{
    endpoint::{ENDED_HERE, Shared},
    socket::{Path, SendBatch},
    state::State,
    timer::Timers,
};

/// One session as all tasks see it.
pub(crate) struct Peer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session_id: u32,
    /// Which of the socket's sessions it is, in the order of their opening.
    pub(crate) number: u64,
    /// Whether a task waits for the datagrams to leave: spares the driver a lock for those where none does.
    pub(crate) awaits_flush: AtomicBool,
    /// How many hold it for the application: a session is one, its halves are two.
    pub(crate) handles: AtomicU8,
    /// Set once the session is closed, for those who may not lock it.
    closed_hint: AtomicBool,
    /// `None` if nobody listens to it.
    span: Option<Box<Span>>,
    state: Mutex<State>,
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
}

impl Peer {
    pub(crate) fn new(shared: Arc<Shared>, path: Path, session: Session) -> Arc<Self> {
        let address = path.remote;
        let session_id = session.session_id();
        let span = debug_span!(parent: None, "session", peer = %address, id = format_args!("{session_id:08x}"));
        let span = (!span.is_disabled()).then(|| Box::new(span));
        let state = State::new(session, path);
        let (awaits_flush, closed_hint, handles) = Default::default();
        let number = shared.opened.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            shared,
            session_id,
            number,
            awaits_flush,
            handles,
            closed_hint,
            span,
            state: Mutex::new(state),
        })
    }

    /// Locks the state. If somebody panicked under the lock (a message hook, in its own task), the session ends here.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| {
            self.state.clear_poison();
            let mut state = poisoned.into_inner();
            debug!(session = self.session_id, "a panic was caught in this session; it is closed");
            let now = now();
            let aborted = catch_unwind(AssertUnwindSafe(|| state.session.abort(now, ENDED_HERE, true)));
            state.is_broken |= aborted.is_err();
            state
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

    /// Feeds the datagrams that came from one address. What the session could not accept is left in `returned`, for the
    /// admission; true says that the peer must be put in the driver's list.
    pub(crate) fn feed(
        self: &Arc<Self>,
        now: Instant,
        path: Path,
        datagrams: impl Iterator<Item = BytesMut>,
        returned: &mut Vec<BytesMut>,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (marked, left) = {
            let mut state = self.lock();
            let mut left = None;
            for datagram in datagrams {
                match state.session.handle_datagram(now, datagram) {
                    Verdict::Authentic if path != state.path() => left = state.move_to(now, path).or(left),
                    Verdict::Rejected(datagram) | Verdict::Stranger(datagram) => returned.push(datagram),
                    _ => {}
                }
            }
            self.account(&mut state, now);
            self.pass_on(&mut state, wakers);
            // Most datagrams call for nothing but the application, whose answer then asks for service.
            let needs_service = state.needs_service(now);
            (needs_service && !std::mem::replace(&mut state.dirty, true), left)
        };
        if let Some(left) = left {
            debug!(from = %left, to = %path.remote, "the peer has moved");
            self.shared.directory.unroute(left, self);
        }
        marked
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
        let mut guard = self.lock();
        let state = &mut *guard;
        state.dirty = false;
        if state.is_stopped {
            return Served::All;
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
        self.pass_on(state, wakers);
        state.collect_flushers(self, wakers);
        if state.session.is_drained() {
            timers.set(now, self, state.armed.take(), None);
            return Served::Over;
        }
        if state.is_late() {
            let next = state.session.poll_timeout();
            timers.set(now, self, std::mem::replace(&mut state.armed, next), next);
        }
        if taken >= BYTES_PER_ROUND {
            state.dirty = true;
            return Served::Part;
        }
        Served::All
    }

    /// Corrects what all sessions hold together by what this one holds now. Ends it if that is too much.
    pub(crate) fn account(&self, state: &mut State, now: Instant) {
        let held = state.session.held();
        let directory = &self.shared.directory;
        if directory.budget.account(&mut state.held, held, directory.session_count()) {
            debug!(held, "all sessions together hold too much, and this one more than its share");
            state.session.abort(now, DisconnectReason::ReliableOverflow, true);
        }
    }

    /// The session's entry among the timers has expired. True says that the peer must be put in the driver's list.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant, timers: &mut Timers, wakers: &mut Vec<Waker>) -> bool {
        let _entered = self.span.as_ref().map(|span| span.enter());
        let mut guard = self.lock();
        let state = &mut *guard;
        state.armed = None;
        if state.is_stopped {
            return false;
        }
        let is_due = state.session.poll_timeout().is_some_and(|deadline| deadline <= now);
        if is_due {
            state.session.handle_timeout(now);
            self.pass_on(state, wakers);
        }
        // Now, and not only after the flush: time passes while the socket is full, too.
        if let Some(deadline) = state.session.poll_timeout().filter(|deadline| *deadline > now) {
            timers.set(now, self, None, Some(deadline));
            state.armed = Some(deadline);
        }
        is_due && !std::mem::replace(&mut state.dirty, true)
    }

    /// Tells those who wait what has happened to the session.
    fn pass_on(&self, state: &mut State, wakers: &mut Vec<Waker>) {
        if state.take_events(wakers) {
            self.closed_hint.store(true, Ordering::Relaxed);
        }
        state.collect_wakers(wakers);
    }

    /// The driver has handed over a batch with datagrams of this peer.
    pub(crate) fn batch_sent(self: &Arc<Self>, wakers: &mut Vec<Waker>) {
        if self.awaits_flush.load(Ordering::SeqCst) {
            self.lock().collect_flushers(self, wakers);
        }
    }

    /// The network says that nobody is at this peer's address.
    pub(crate) fn unreachable(self: &Arc<Self>) {
        self.act(|state| {
            state.session.handle_unreachable(now());
            state.mark();
        });
    }

    /// Lets a moved client be heard from `address` too. Gives back the candidate that it replaces.
    pub(crate) fn set_candidate(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.lock().rare().candidate.replace(address).filter(|old| *old != address)
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
        let state = self.lock();
        state.end().is_some()
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
